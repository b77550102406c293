"""Settings of a Wagtail site, one environment per process, told as for the sample project.

SITE_MEDIA  folder of uploaded files: they do not travel, rows do.
"""

import os
import tempfile

from tests.support.sample import settings as sample

DATABASES = sample.DATABASES
REPLICATOR = sample.REPLICATOR
DEFAULT_AUTO_FIELD = sample.DEFAULT_AUTO_FIELD
MEDIA_ROOT = os.environ.get("SITE_MEDIA") or os.path.join(tempfile.gettempdir(), "site-media")

INSTALLED_APPS = [
    "tests.support.site.stories",
    "wagtail.contrib.redirects",
    "wagtail.embeds",
    "wagtail.sites",
    "wagtail.users",
    "wagtail.snippets",
    "wagtail.images",
    "wagtail.search",
    "wagtail.admin",
    "wagtail",
    "modelcluster",
    "taggit",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "replicator",
]
MIDDLEWARE = sample.MIDDLEWARE
TEMPLATES = sample.TEMPLATES
ROOT_URLCONF = "tests.support.site.urls"
SECRET_KEY = "site"
PASSWORD_HASHERS = sample.PASSWORD_HASHERS
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
WAGTAIL_SITE_NAME = "Site"
WAGTAILADMIN_BASE_URL = "http://127.0.0.1"
