"""Addresses of the site: none is asked for, Wagtail wants some."""

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
