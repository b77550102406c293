"""A Wagtail site whose editors work, and one of its sections in another environment.

The daemons are processes; the editors are one, too (`tests.support.site.editor`).
"""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import psycopg
import pytest

from tests.support.postgres import PostgresServer
from tests.support.processes import Process, wait_until
from tests.support.sample.databases import other_keys
from tests.support.sample.environments import environment
from tests.support.site import editor
from tests.support.site.moments import Watcher, things

P, R = ParamSpec("P"), TypeVar("R")
Tables = dict[str, dict[object, tuple[object, ...]]]

SECTIONS = ("/home/news/", "/home/sport/")
NEWS, SPORT, PRIVATE = "/home/news/", "/home/sport/", "/home/private/"
RUNS = "SELECT state FROM replicator_backfillrun"


def people(variables: dict[str, str], target: str) -> ProcessPoolExecutor:
    """Begin a process that has the site's settings."""
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), editor.begin, (variables, target)
    )


class Site:
    """The site in two environments."""

    def __init__(self, folder: Path, source: str, target: str) -> None:
        self._folder = folder
        log = f"sqlite:///{folder}/log.sqlite3"
        subscriptions = [
            {"source": "prod", "dataset": f"section:{path}", "on_clash": "adopt"}
            for path in SECTIONS
        ]
        sides = {
            "prod": (source, {"TARGETS": {"stage": ["section"]}}),
            "stage": (target, {"SUBSCRIPTIONS": subscriptions}),
        }
        self._variables = {
            name: {
                **environment(conninfo, {"ENVIRONMENT": name, "LOG": log, **settings}),
                "DJANGO_SETTINGS_MODULE": "tests.support.site.settings",
                "SITE_MEDIA": str(folder / "media"),
            }
            for name, (conninfo, settings) in sides.items()
        }
        self.source = psycopg.connect(source, autocommit=True)
        self.target = psycopg.connect(target, autocommit=True)
        self._editors = people(self._variables["prod"], target)
        self._daemons: list[Process] = []
        self._was: dict[tuple[str, int], set[str]] = {}
        self.watcher = Watcher(target)

    def start(self) -> None:
        """Start both daemons, and wait for the first backfills."""
        self._daemons = [self.command("prod", "capture"), self.command("stage", "apply")]
        wait_until(
            lambda: self._rows(RUNS) == [("finished",)] * len(SECTIONS), 60, self._story("backfill")
        )

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.kill9()
        self._editors.shutdown()
        self.source.close()
        self.target.close()
        self.watcher.end()

    def command(self, side: str, *command: str) -> Process:
        """Start a command of Replicator in one of the environments."""
        path = os.pathsep.join(filter(None, sys.path))
        main = "import sys; from replicator.cli import main; sys.exit(main())"
        return Process(
            [sys.executable, "-c", main, *command],
            self._folder / f"{side}-{command[0]}.log",
            env={**os.environ, "PYTHONPATH": path, **self._variables[side]},
        )

    def run(self, side: str, *command: str) -> str:
        """Run a command to its end, which must be a good one; give what it printed."""
        process = self.command(side, *command)
        assert process.wait(60) == 0, process.failure("did not end well")
        return process.output()

    def ask(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the editors' process do something."""
        return self._editors.submit(editor.perform, function, *args, **kwargs).result(60)

    def do(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have editors do something, and note what the site is then."""
        found = self.ask(function, *args, **kwargs)
        for key, state in things(self.source).items():
            self._was.setdefault(key, set()).add(state)
        return found

    def arrives(self) -> Tables:
        """Wait until the target has what the source's ORM says the sections are; give it."""
        wanted = self.ask(editor.belonging, SECTIONS)

        def differences() -> list[str]:
            held = self.ask(editor.held, tuple(wanted))
            return [
                f"{label} {key}: {held[label].get(key)} in place of {rows.get(key)}"
                for label, rows in wanted.items()
                for key in held[label].keys() | rows.keys()
                if held[label].get(key) != rows.get(key)
            ]

        wait_until(
            lambda: not self._rows("SELECT FROM replicator_wantedrow") and not differences(),
            30,
            self._story("what the sections are", differences),
        )
        return wanted

    def look_back(self) -> None:
        """Compare all that the watcher saw with what there was in the source."""
        for key, states in self.watcher.seen.copy().items():
            was = self._was.get(key, set())
            assert not states - was, f"{key}: {states - was} never was; there were {was}"
        assert not self.watcher.stray

    def slugs(self) -> list[str]:
        """Give the slugs of the target's pages in the order of the tree."""
        found = self._rows("SELECT slug FROM wagtailcore_page WHERE depth > 2 ORDER BY path")
        return [slug for (slug,) in found]

    def _rows(self, statement: str) -> list[tuple[str, ...]]:
        try:
            return self.target.execute(statement.encode()).fetchall()
        except psycopg.errors.UndefinedTable:
            return []

    def _story(self, what: str, more: Callable[[], object] = lambda: "") -> "Story":
        return Story(lambda: f"{what}\n{more()}\n{self._state()}")

    def _state(self) -> str:
        told = self._rows("SELECT stopped_reason, stopped_remedy FROM replicator_streamposition")
        wanted = self._rows("SELECT * FROM replicator_wantedrow LIMIT 5")
        outputs = [daemon.output()[-3_000:] for daemon in self._daemons]
        return f"stopped: {told}\nwanted: {wanted}\n" + "\n---\n".join(outputs)


class Story:
    """A text that is made only when it is shown."""

    def __init__(self, tell: Callable[[], str]) -> None:
        self._tell = tell

    def __str__(self) -> str:
        return self._tell()


@pytest.fixture(scope="module")
def site(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The site with a section in both environments, and the daemons; tests add their own pages."""
    folder = tmp_path_factory.mktemp("site")
    template = postgres_server.create_database("site_template")
    variables = {
        **environment(postgres_server.conninfo(template), {}),
        "DJANGO_SETTINGS_MODULE": "tests.support.site.settings",
    }
    with people(variables, "dbname=none") as migrating:
        migrating.submit(editor.perform, editor.migrate).result()
    names = [postgres_server.create_database(name, template=template) for name in ("prod", "stage")]
    source, target = map(postgres_server.conninfo, names)
    other_keys(target, 1_000)
    made = Site(folder, source, target)
    try:
        for name in ("Reporters", "Readers"):
            made.do(editor.set_group, name, (), ())
        made.do(editor.create, "/home/", "private")
        made.do(editor.create, "/home/", "news", tags=("old",))
        made.do(editor.create, NEWS, "before", by="bob", live=False)
        made.do(editor.restrict, f"{NEWS}before/", ("Readers",))
        made.start()
        yield made
    finally:
        made.close()
        for name in (*names, template):
            postgres_server.drop_database(name)


def test_the_declaration_is_complete(site: Site) -> None:
    assert site.ask(editor.findings) == []
    assert site.slugs() == ["news", "before"]
    site.arrives()


def test_pages_are_published_edited_and_unpublished(site: Site) -> None:
    site.do(editor.create, NEWS, "published", tags=("old", "new"))
    site.do(editor.create, NEWS, "draft", live=False)
    site.do(editor.edit, f"{NEWS}published/", "not yet", publish=False)
    found = site.arrives()
    assert {"published", "draft"} <= {*site.slugs()}
    before = len(found["wagtailcore.Revision"])
    site.do(editor.edit, f"{NEWS}published/", "now", publish=True, tags=("new", "newer"))
    site.do(editor.edit, f"{NEWS}draft/", "out", publish=True)
    site.do(editor.unpublish, f"{NEWS}published/")
    found = site.arrives()
    assert len(found["wagtailcore.Revision"]) > before
    live = site.target.execute(
        "SELECT live FROM wagtailcore_page WHERE slug IN ('published', 'draft') ORDER BY slug"
    ).fetchall()
    assert live == [(True,), (False,)]
    site.do(editor.restrict, f"{NEWS}draft/", ("Readers",))
    assert site.arrives()["wagtailcore.PageViewRestriction_groups"]
    site.do(editor.restrict, f"{NEWS}draft/", ())
    site.arrives()
    site.look_back()


def test_a_subtree_moves_into_the_section_within_it_and_out(site: Site) -> None:
    for parent, slug in ((PRIVATE, "tree"), ("tree/", "one"), ("tree/", "two"), ("tree/two/", "x")):
        site.do(editor.create, PRIVATE + parent.removeprefix(PRIVATE), slug, tags=(slug,))
    site.do(editor.upload, "tree-image", ("wood",))
    site.do(editor.illustrate, f"{PRIVATE}tree/two/", "tree-image")
    site.do(editor.add_clip, f"{PRIVATE}tree/one/", "tree-clip", ("wood", "leaf"))
    site.arrives()
    assert "tree" not in site.slugs()
    site.do(editor.move, f"{PRIVATE}tree/", NEWS)
    found = site.arrives()
    assert [slug for slug in site.slugs() if slug in {"tree", "one", "two", "x"}] == [
        *("tree", "one", "two", "x")
    ]
    assert {"wood", "leaf"} <= {row[0] for row in found["taggit.Tag"].values()}
    site.do(editor.move, f"{NEWS}tree/two/", f"{NEWS}tree/one/", "left")
    site.arrives()
    assert site.slugs().index("two") < site.slugs().index("one")
    site.do(editor.move, f"{NEWS}tree/", f"{NEWS}before/", "left")
    site.do(editor.rename, f"{NEWS}tree/", "wood")
    site.arrives()
    site.do(editor.move, f"{NEWS}wood/two/", PRIVATE)
    found = site.arrives()
    assert not {"two", "x"} & {*site.slugs()}
    site.do(editor.move, f"{NEWS}wood/", PRIVATE)
    found = site.arrives()
    assert not found["stories.Clip"]
    assert not {"wood", "leaf"} & {row[0] for row in found["taggit.Tag"].values()}
    site.look_back()


def test_a_section_is_made_renamed_deleted_and_restored(site: Site) -> None:
    site.do(editor.create, "/home/", "sport", tags=("ball",))
    site.do(editor.create, SPORT, "football", tags=("ball", "foot"))
    site.do(editor.create, f"{SPORT}football/", "final")
    site.do(editor.add_clip, f"{SPORT}football/", "goal", ("ball",))
    site.arrives()
    assert {"sport", "football", "final"} <= {*site.slugs()}
    # Its address is another then, and so the dataset names another one.
    site.do(editor.rename, SPORT, "games")
    site.arrives()
    assert not {"sport", "games", "football"} & {*site.slugs()}
    site.do(editor.rename, "/home/games/", "sport")
    site.arrives()
    site.do(editor.copy, f"{SPORT}football/", NEWS, "football-news")
    site.do(editor.alias, f"{SPORT}football/", NEWS, "football-alias")
    # Else tags that both sections share may leave with the one before the other has its own answer,
    # and what points at them with them, for one fetch.
    site.arrives()
    kept = site.do(editor.delete, SPORT)
    site.arrives()
    assert not {"sport", "goal"} & {*site.slugs()}
    assert "football-news" in site.slugs()
    site.do(editor.restore, "/home/", kept)
    found = site.arrives()
    assert [slug for slug in site.slugs() if slug in {"sport", "football"}] == ["sport", "football"]
    assert "foot" in {row[0] for row in found["taggit.Tag"].values()}
    site.do(editor.move, f"{SPORT}football/", NEWS)
    site.arrives()
    site.look_back()


def test_tags_images_and_clips_follow(site: Site) -> None:
    for slug in ("first", "second"):
        site.do(editor.create, NEWS, slug)
    site.do(editor.upload, "sun", ("sky",))
    site.do(editor.upload, "moon", ("sky", "night"))
    site.do(editor.render, "sun", "fill-10x10")
    assert not site.arrives()["wagtailimages.Image"]
    site.do(editor.illustrate, f"{NEWS}first/", "sun")
    found = site.arrives()
    assert len(found["wagtailimages.Image"]) == len(found["wagtailimages.Rendition"]) == 1
    site.do(editor.render, "sun", "fill-20x20")
    site.do(editor.illustrate, f"{NEWS}second/", "sun")
    site.do(editor.tag_image, "sun", ("sky", "day"))
    assert len(site.arrives()["wagtailimages.Rendition"]) == 2
    site.do(editor.illustrate, f"{NEWS}first/", "moon")
    site.do(editor.illustrate, f"{NEWS}second/", None)
    found = site.arrives()
    assert [len(found[f"wagtailimages.{name}"]) for name in ("Image", "Rendition")] == [1, 0]
    site.do(editor.add_clip, f"{NEWS}first/", "dusk", ("night", "red"))
    site.do(editor.add_clip, f"{NEWS}second/", "dawn", ("red",))
    site.do(editor.tag_clip, "dusk", ("red", "blue"))
    assert clips(site.arrives()) >= {"dusk", "dawn"}
    site.do(editor.give_clip, "dawn", PRIVATE)
    assert "dawn" not in clips(site.arrives())
    site.do(editor.give_clip, "dawn", f"{NEWS}first/")
    site.do(editor.delete_tag, "red")
    found = site.arrives()
    assert clips(found) >= {"dusk", "dawn"}
    assert "red" not in {row[0] for row in found["taggit.Tag"].values()}
    site.look_back()


def clips(found: Tables) -> set[object]:
    return {title for _, title in found["stories.Clip"].values()}


def test_groups_and_what_they_may_do_follow(site: Site) -> None:
    view, change = "stories.view_clip", "wagtailimages.change_image"
    site.do(editor.set_group, "Editors of news", (view, change), ("anna", "bob", "dora"))
    found = site.arrives()
    assert "Editors of news" in {row[0] for row in found["auth.Group"].values()}
    site.do(editor.create, NEWS, "by-dora", by="dora")
    before = len(site.arrives()["auth.User_groups"])
    site.do(editor.allow, "Editors of news", NEWS, "publish_page")
    site.do(editor.set_group, "Editors of news", (change,), ("anna",))
    found = site.arrives()
    assert len(found["auth.User_groups"]) == before - 2
    granted = site.target.execute(
        "SELECT p.codename FROM auth_group_permissions l JOIN auth_group g ON g.id = l.group_id "
        "JOIN auth_permission p ON p.id = l.permission_id WHERE g.name = 'Editors of news'"
    ).fetchall()
    assert granted == [("change_image",)]
    site.do(editor.set_group, "Editors of news", (change,), ())
    assert "Editors of news" in {row[0] for row in site.arrives()["auth.Group"].values()}
    site.do(editor.delete_group, "Editors of news")
    found = site.arrives()
    assert "Editors of news" not in {row[0] for row in found["auth.Group"].values()}
    site.look_back()


def test_an_alias_of_a_page_elsewhere_and_whatever_editors_do(site: Site) -> None:
    # From here on rows may wait for what they point at, or have NULL for it: no look back.
    site.watcher.end()
    assert site.watcher.looks > 100
    site.do(editor.alias, PRIVATE, NEWS, "alias")
    site.arrives()
    assert site.target.execute(
        "SELECT alias_of_id, live_revision_id FROM wagtailcore_page WHERE slug = 'alias'"
    ).fetchall() == [(None, None)]
    print(*site.ask(editor.at_random, 1, 40), sep="\n")
    site.arrives()


def test_in_the_end_nothing_differs(site: Site) -> None:
    checks = [site.command(side, "check") for side in ("prod", "stage")]
    for path in SECTIONS:
        told = site.run("stage", "verify", "--dataset", f"section:{path}")
        assert "0 missing, 0 extra, 0 different" in told
    for check in checks:
        assert check.wait() == 0, check.failure("finds something")
