"""The people who edit the site, in a process of their own: Wagtail's API on the source's database.

Each function is one request of an editor, in one transaction, as Wagtail's views are. The process
has the site's settings, which that of the tests cannot have; so Wagtail is imported in functions.
`begin` comes first.
"""

import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import random

    from django.db.models import Model, QuerySet

P, R = ParamSpec("P"), TypeVar("R")
Row = tuple[object, ...]


def begin(variables: Mapping[str, str], target: str) -> None:
    """Make this process the source of the site, which can look at the target's database, too."""
    os.environ.update(variables)
    import django

    django.setup()
    from django.db import connections

    from tests.support.sample.environments import django_database

    configured = {"default": {}, "target": django_database(target)}
    connections.databases["target"] = connections.configure_settings(configured)["target"]


def migrate() -> None:
    """Apply all migrations."""
    from django.core.management import call_command
    from django.db import connections

    call_command("migrate", verbosity=0, interactive=False)
    connections.close_all()


class Failed(Exception):
    """A function failed; the text is the traceback, for Wagtail's classes are not the tests'."""


def perform(function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """Call one of the functions for the tests' process. Raises Failed."""
    try:
        return function(*args, **kwargs)
    except Exception:  # noqa: BLE001 (the top frame of a process)
        raise Failed(traceback.format_exc()) from None


def request(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function in a transaction of its own."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        from django.db import transaction

        with transaction.atomic():
            return function(*args, **kwargs)

    return wrapped


# Pages --------------------------------------------------------------------------------------------


def _page(url_path: str) -> Any:
    from wagtail.models import Page

    return Page.objects.get(url_path=url_path).specific


def _user(name: str) -> Any:
    from django.contrib.auth.models import User

    return User.objects.get_or_create(username=name, defaults={"is_superuser": True})[0]


@request
def create(
    parent: str, slug: str, *, by: str = "anna", tags: tuple[str, ...] = (), live: bool = True
) -> int:
    """Create an article below a page, published or as a draft; give its key."""
    from tests.support.site.stories.models import ArticlePage

    article = ArticlePage(
        title=slug.title(), slug=slug, body=f"<p>{slug}</p>", owner=_user(by), live=False
    )
    article.tags.add(*tags)
    _page(parent).add_child(instance=article)
    revision = article.save_revision(user=_user(by))
    if live:
        revision.publish(user=_user(by))
    return int(article.pk)


@request
def edit(url_path: str, body: str, *, publish: bool, tags: tuple[str, ...] | None = None) -> None:
    """Save a new revision of an article, and publish it or not."""
    article = _page(url_path).get_latest_revision_as_object()
    article.body = body
    if tags is not None:
        article.tags.set(tags)
    revision = article.save_revision(user=_user("bob"))
    if publish:
        revision.publish(user=_user("bob"))


@request
def unpublish(url_path: str) -> None:
    _page(url_path).unpublish()


@request
def rename(url_path: str, slug: str) -> None:
    """Give a page another slug; Wagtail rewrites the paths of all below it."""
    page = _page(url_path)
    page.slug = slug
    page.save_revision().publish()


@request
def move(url_path: str, to: str, position: str = "last-child") -> None:
    _page(url_path).move(_page(to), pos=position)


@request
def copy(url_path: str, to: str, slug: str) -> None:
    """Copy a page with all below it, revisions and tags included."""
    _page(url_path).copy(recursive=True, to=_page(to), update_attrs={"slug": slug})


@request
def alias(url_path: str, to: str, slug: str) -> None:
    _page(url_path).create_alias(parent=_page(to), update_slug=slug)


@request
def delete(url_path: str) -> str:
    """Delete a page with all below it; give a dump of it, as `dumpdata` makes them."""
    from django.contrib.contenttypes.models import ContentType
    from django.core import serializers
    from taggit.models import TaggedItem
    from wagtail.models import Revision

    from tests.support.site.stories.models import ArticlePage, ArticlePageTag, Clip

    page = _page(url_path)
    found = page.get_descendants(inclusive=True)
    articles = ArticlePage.objects.filter(pk__in=found)
    keys = [str(key) for key in found.values_list("pk", flat=True)]
    clips = Clip.objects.filter(article__in=articles)
    kind = ContentType.objects.get_for_model(Clip)
    querysets = (
        found,
        articles,
        Revision.page_revisions.filter(object_id__in=keys),
        ArticlePageTag.objects.filter(content_object__in=articles),
        clips,
        TaggedItem.objects.filter(content_type=kind, object_id__in=clips),
    )
    dump = serializers.serialize("json", [row for rows in querysets for row in rows])
    page.delete()
    return dump


@request
def restore(parent: str, dump: str) -> None:
    """Bring back what was deleted, under its keys, as `loaddata` does."""
    from django.core import serializers
    from django.db.models import F
    from wagtail.models import Page

    for row in serializers.deserialize("json", dump):
        row.save()
    Page.objects.filter(url_path=parent).update(numchild=F("numchild") + 1)


@request
def restrict(url_path: str, groups: tuple[str, ...]) -> None:
    """Let only groups see a page; nobody named: everybody sees it."""
    from django.contrib.auth.models import Group
    from wagtail.models import PageViewRestriction

    page = _page(url_path)
    page.view_restrictions.all().delete()
    if groups:
        made = PageViewRestriction.objects.create(page_id=page.pk, restriction_type="groups")
        made.groups.set(Group.objects.filter(name__in=groups))


# What pages point at ------------------------------------------------------------------------------


@request
def upload(title: str, tags: tuple[str, ...] = ()) -> None:
    """Upload an image."""
    from io import BytesIO

    from django.core.files.images import ImageFile
    from PIL import Image as Drawing
    from wagtail.images import get_image_model

    file = BytesIO()
    Drawing.new("RGB", (40, 30), "red").save(file, "PNG")
    file.seek(0)
    image = get_image_model()(
        title=title, file=ImageFile(file, f"{title}.png"), uploaded_by_user=_user("carol")
    )
    image.save()
    image.tags.add(*tags)


@request
def illustrate(url_path: str, title: str | None, *, publish: bool = True) -> None:
    """Give an article a hero image, or none."""
    article = _page(url_path).get_latest_revision_as_object()
    article.hero = _image(title) if title else None
    revision = article.save_revision()
    if publish:
        revision.publish()


def _image(title: str) -> Any:
    from wagtail.images import get_image_model

    return get_image_model().objects.get(title=title)


@request
def render(title: str, spec: str) -> None:
    """Show an image somewhere, which makes a rendition."""
    _image(title).get_rendition(spec)


@request
def tag_image(title: str, tags: tuple[str, ...]) -> None:
    _image(title).tags.set(tags)


@request
def add_clip(url_path: str, title: str, tags: tuple[str, ...] = ()) -> None:
    from tests.support.site.stories.models import Clip

    Clip.objects.create(article=_page(url_path), title=title).tags.add(*tags)


@request
def tag_clip(title: str, tags: tuple[str, ...]) -> None:
    from tests.support.site.stories.models import Clip

    Clip.objects.get(title=title).tags.set(tags)


@request
def give_clip(title: str, url_path: str) -> None:
    """Have a clip belong to another article."""
    from tests.support.site.stories.models import Clip

    Clip.objects.filter(title=title).update(article=_page(url_path))


@request
def delete_tag(name: str) -> None:
    from taggit.models import Tag

    Tag.objects.get(name=name).delete()


# Who may do what ----------------------------------------------------------------------------------


@request
def set_group(name: str, permissions: tuple[str, ...], members: tuple[str, ...]) -> None:
    """Have a group with just these permissions (`app_label.codename`) and members."""
    from django.contrib.auth.models import Group, Permission

    group = Group.objects.get_or_create(name=name)[0]
    found = []
    for permission in permissions:
        app_label, codename = permission.split(".")
        found.append(Permission.objects.get(content_type__app_label=app_label, codename=codename))
    group.permissions.set(found)
    group.user_set.set([_user(member) for member in members])


@request
def allow(name: str, url_path: str, codename: str) -> None:
    """Let a group do something with a page and all below it."""
    from django.contrib.auth.models import Group, Permission
    from wagtail.models import GroupPagePermission

    GroupPagePermission.objects.create(
        group=Group.objects.get(name=name),
        page_id=_page(url_path).pk,
        permission=Permission.objects.get(content_type__app_label="wagtailcore", codename=codename),
    )


@request
def delete_group(name: str) -> None:
    from django.contrib.auth.models import Group

    Group.objects.get(name=name).delete()


def at_random(seed: int, requests: int) -> list[str]:
    """Make requests of any kind, each a transaction of its own; give them as texts."""
    import random

    from django.core.exceptions import ValidationError
    from django.db import IntegrityError

    chosen = random.Random(seed)
    done: list[str] = []
    for number in range(requests):
        function, arguments = _any_request(chosen, f"r{seed}-{number}", done)
        done.append(f"{function.__name__}{arguments}")
        try:
            function(*arguments)
        except (IntegrityError, ValidationError) as error:  # As an editor's: nothing is done.
            done[-1] += f": {error}"
    return done


def _any_request(
    chosen: "random.Random", new: str, done: list[str]
) -> tuple[Callable[..., object], tuple[Any, ...]]:
    from django.contrib.auth.models import Group
    from wagtail.images import get_image_model
    from wagtail.models import Page

    from tests.support.site.stories.models import ArticlePage, Clip

    articles = list(ArticlePage.objects.filter(depth__gt=3, alias_of=None))
    page, other = (chosen.choice(articles) for _ in range(2)) if articles else (None, None)
    homes = list(Page.objects.filter(depth=3).order_by("path"))
    parent = chosen.choice([*homes, *articles]).url_path
    image = chosen.choice([*get_image_model().objects.all(), None])
    clip = chosen.choice([*Clip.objects.all(), None])
    group = chosen.choice(list(Group.objects.order_by("pk"))).name
    tags = tuple(chosen.sample(["t1", "t2", "t3", "t4"], chosen.randrange(3)))
    people = tuple(chosen.sample(["anna", "bob", "carol", "dora", "emil"], 2))
    ways: list[tuple[Callable[..., object], tuple[Any, ...]]] = [
        (upload, (new, tags)),
        (set_group, (group, ("stories.view_clip",), people)),
        (set_group, (new, (), people)),
    ]
    ways += [(_create, (parent, new, people[0], tags))] * 3
    if image is not None:
        ways += [(tag_image, (image.title, tags)), (render, (image.title, f"fill-{len(done)}x9"))]
    if page is not None:
        way, url = chosen.choice(["last-child", "first-child"]), page.url_path
        ways += [
            (_edit, (url, new, chosen.random() < 0.7, tags)),
            (unpublish, (url,)),
            (rename, (url, new)),
            (delete, (url,)),
            (add_clip, (url, new, tags)),
            (restrict, (url, (group,))),
            (restrict, (url, ())),
            (allow, (group, url, chosen.choice(["add_page", "change_page", "publish_page"]))),
            (illustrate, (url, image and image.title)),
        ]
        if not parent.startswith(url):
            ways += [(move, (url, parent, way)), (copy, (url, parent, new))] * 2
        if other != page and not other.url_path.startswith(url):
            ways += [(move, (url, other.url_path, "left")), (alias, (url, parent, new))]
        if clip is not None:
            ways += [(give_clip, (clip.title, url)), (tag_clip, (clip.title, tags))]
    return chosen.choice(ways)


def _create(parent: str, slug: str, by: str, tags: tuple[str, ...]) -> int:
    return create(parent, slug, by=by, tags=tags)


def _edit(url_path: str, body: str, publish: bool, tags: tuple[str, ...]) -> None:
    edit(url_path, body, publish=publish, tags=tags)


# Looking ------------------------------------------------------------------------------------------


def findings() -> list[str]:
    """Give what the static checks find, strictly."""
    from replicator.checks import static_messages

    return [str(message) for message in static_messages(strict=True)]


def belonging(url_paths: tuple[str, ...]) -> dict[str, dict[object, Row]]:
    """Give what sections are, by the source's ORM: rows by model and key."""
    found = {
        queryset.model._meta.label: _rows(queryset, "default") for queryset in _querysets(url_paths)
    }
    _leave_null(found)
    return found


def _leave_null(found: dict[str, dict[object, Row]]) -> None:
    """Write NULL where pages point at what is not there: an alias of a page elsewhere does."""
    from wagtail.models import Page

    ends = {
        "live_revision_id": "wagtailcore.Revision",
        "latest_revision_id": "wagtailcore.Revision",
        "locked_by_id": "auth.User",
        "alias_of_id": "wagtailcore.Page",
    }
    names = _names(Page)[1:]
    for key, row in found["wagtailcore.Page"].items():
        here = {label: set(map(str, found[label])) for label in ends.values()}
        found["wagtailcore.Page"][key] = tuple(
            "None" if name in ends and value not in here[ends[name]] else value
            for name, value in zip(names, row, strict=True)
        )


def held(labels: tuple[str, ...]) -> dict[str, dict[object, Row]]:
    """Give the rows of the target that are replicated ones."""
    from django.apps import apps

    found = {}
    for label in labels:
        model = apps.get_model(label)
        found[label] = _rows(model._base_manager.all(), "target")
        receipts = _receipts(model._meta.db_table)
        # What is here without a receipt was made by migrations, and nothing points at it.
        found[label] = {k: row for k, row in found[label].items() if k in receipts}
    return found


def _receipts(table: str) -> set[object]:
    from django.db import connections

    with connections["target"].cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s)", [f'replicator."public.{table}"'])
        if cursor.fetchone() == (None,):
            return set()
        key = "page_ptr_id" if table == "stories_articlepage" else "id"
        cursor.execute(f'SELECT {key} FROM replicator."public.{table}" WHERE subscription_id > 0')
        return {key for (key,) in cursor.fetchall()}


def _querysets(url_paths: tuple[str, ...]) -> "Iterator[QuerySet[Any]]":
    from django.contrib.auth.models import Group, User
    from django.contrib.contenttypes.models import ContentType
    from django.db.models import Q
    from taggit.models import Tag, TaggedItem
    from wagtail.images.models import Image, Rendition
    from wagtail.models import (
        Collection,
        GroupCollectionPermission,
        GroupPagePermission,
        Locale,
        Page,
        PageViewRestriction,
        Revision,
    )

    from tests.support.site.stories.models import ArticlePage, ArticlePageTag, Clip

    below = Q(pk=0)
    for section in Page.objects.filter(url_path__in=url_paths):
        ways = Q(pk__in=section.get_ancestors()) | Q(pk__in=section.get_descendants(inclusive=True))
        below |= ways
    if not Page.objects.filter(url_path__in=url_paths).exists():
        below = Q(url_path__in=["/", "/home/"])
    pages = Page.objects.filter(below)
    articles = ArticlePage.objects.filter(pk__in=pages)
    keys = [str(key) for key in pages.values_list("pk", flat=True)]
    revisions = Revision.page_revisions.filter(object_id__in=keys)
    images = Image.objects.filter(pk__in=articles.values("hero"))
    clips = Clip.objects.filter(article__in=articles)
    kinds = ContentType.objects.get_for_models(Clip, Image)
    items = TaggedItem.objects.filter(
        Q(content_type=kinds[Clip], object_id__in=clips)
        | Q(content_type=kinds[Image], object_id__in=images)
    )
    links = ArticlePageTag.objects.filter(content_object__in=articles)
    tags = Tag.objects.filter(Q(pk__in=items.values("tag")) | Q(pk__in=links.values("tag")))
    users = User.objects.filter(
        Q(pk__in=pages.values("owner"))
        | Q(pk__in=revisions.values("user"))
        | Q(pk__in=images.values("uploaded_by_user"))
    )
    members = User.groups.through.objects.filter(user__in=users)
    restrictions = PageViewRestriction.objects.filter(page__in=pages)
    through = PageViewRestriction.groups.through
    lets_in = through.objects.filter(pageviewrestriction__in=restrictions)
    on_pages = GroupPagePermission.objects.filter(page__in=pages)
    on_collections = GroupCollectionPermission.objects.all()
    groups = Group.objects.filter(
        Q(pk__in=members.values("group"))
        | Q(pk__in=lets_in.values("group"))
        | Q(pk__in=on_pages.values("group"))
        | Q(pk__in=on_collections.values("group"))
    )
    yield from (pages, articles, revisions, images, clips, items, links, tags, users, members)
    yield from (restrictions, lets_in, on_pages, on_collections, groups)
    yield Rendition.objects.filter(image__in=images)
    yield Group.permissions.through.objects.filter(group__in=groups)
    yield from (Locale.objects.all(), Collection.objects.all())


def _rows(queryset: "QuerySet[Any]", alias: str) -> dict[object, Row]:
    """Give rows by key, as released; what has another key in each environment is told by name."""
    model = queryset.model
    rows = model._base_manager.using(alias)
    if alias == "default":
        rows = rows.filter(pk__in=queryset.using(alias).values("pk"))
    key = model._meta.pk.attname
    return {row.pop(key): tuple(map(str, row.values())) for row in rows.values(*_names(model))}


def _names(model: "type[Model]") -> list[str]:
    """Name what is compared of a model's rows, the key first."""
    if model._meta.label == "auth.User":
        return ["id", "username", "first_name", "last_name", "is_active"]
    named = {
        "contenttypes.ContentType": ("app_label", "model"),
        "auth.Permission": ("content_type__app_label", "codename"),
    }
    names = []
    for field in model._meta.local_concrete_fields:
        label = field.related_model._meta.label if field.is_relation else ""
        ends = named.get(label)
        names += [f"{field.name}__{end}" for end in ends] if ends else [field.attname]
    return names
