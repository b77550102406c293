"""A reader of the site's target, who looks all the time: nothing is there by halves.

What hangs on a page, a clip or an image changes in the source from one request of an editor to the
next, each of which is a transaction. So whatever a reader of the target sees of one of them, it was
so in the source once. What may come a moment later is what enters for its own part: an image that
an article points at for the first time (the article keeps its values until then), a clip that is
moved to it. So each stands for itself.
"""

import threading
from collections.abc import Mapping

import psycopg
from psycopg import sql

PAUSE = 0.02

Things = Mapping[tuple[str, int], str]
"""Each page, clip and image with what hangs on it, as text, by kind and key."""

_THINGS = """
SELECT 'page', p.id, jsonb_build_array(
  p.url_path, p.path, p.title, p.live, p.live_revision_id, p.latest_revision_id, p.owner_id,
  (SELECT a.body FROM stories_articlepage a WHERE a.page_ptr_id = p.id),
  (SELECT jsonb_agg(r.id ORDER BY r.id) FROM wagtailcore_revision r
   JOIN django_content_type c ON c.id = r.content_type_id
   WHERE c.app_label = 'stories' AND c.model = 'articlepage' AND r.object_id = p.id::text),
  (SELECT jsonb_agg(t.tag_id ORDER BY t.tag_id) FROM stories_articlepagetag t
   WHERE t.content_object_id = p.id),
  (SELECT jsonb_agg(jsonb_build_array(
     v.restriction_type,
     (SELECT jsonb_agg(g.group_id ORDER BY g.group_id)
      FROM wagtailcore_pageviewrestriction_groups g WHERE g.pageviewrestriction_id = v.id)))
   FROM wagtailcore_pageviewrestriction v WHERE v.page_id = p.id)
)::text FROM wagtailcore_page p WHERE p.depth > 2
UNION ALL
SELECT 'clip', k.id, jsonb_build_array(
  k.title, k.article_id,
  (SELECT jsonb_agg(i.tag_id ORDER BY i.tag_id) FROM taggit_taggeditem i
   JOIN django_content_type c ON c.id = i.content_type_id
   WHERE c.app_label = 'stories' AND c.model = 'clip' AND i.object_id = k.id)
)::text FROM stories_clip k
UNION ALL
SELECT 'image', m.id, jsonb_build_array(
  m.title, m.uploaded_by_user_id,
  (SELECT jsonb_agg(n.filter_spec ORDER BY n.id) FROM wagtailimages_rendition n
   WHERE n.image_id = m.id),
  (SELECT jsonb_agg(i.tag_id ORDER BY i.tag_id) FROM taggit_taggeditem i
   JOIN django_content_type c ON c.id = i.content_type_id
   WHERE c.app_label = 'wagtailimages' AND c.model = 'image' AND i.object_id = m.id)
)::text FROM wagtailimages_image m
"""
_STRAY = """
SELECT 'revision', r.id FROM wagtailcore_revision r
WHERE NOT EXISTS (SELECT FROM wagtailcore_page p WHERE p.id::text = r.object_id)
UNION ALL
SELECT 'tagged clip', i.id FROM taggit_taggeditem i
JOIN django_content_type c ON c.id = i.content_type_id AND c.model = 'clip'
WHERE NOT EXISTS (SELECT FROM stories_clip k WHERE k.id = i.object_id)
UNION ALL
SELECT 'tagged image', i.id FROM taggit_taggeditem i
JOIN django_content_type c ON c.id = i.content_type_id AND c.model = 'image'
WHERE NOT EXISTS (SELECT FROM wagtailimages_image k WHERE k.id = i.object_id)
"""
_FOREIGN_KEYS = """
SELECT c.conrelid::regclass::text, a.attname, c.confrelid::regclass::text, b.attname
FROM pg_constraint c
JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
JOIN pg_attribute b ON b.attrelid = c.confrelid AND b.attnum = c.confkey[1]
WHERE c.contype = 'f' AND c.connamespace = 'public'::regnamespace
"""
_DANGLES = """
SELECT {name}, a.{column}::bigint FROM {table} a WHERE a.{column} IS NOT NULL
AND NOT EXISTS (SELECT FROM {to} b WHERE b.{key} = a.{column})
"""


def things(connection: "psycopg.Connection[tuple[object, ...]]") -> Things:
    """Read all pages below the first one, all clips and all images."""
    rows = connection.execute(_THINGS).fetchall()
    return {(str(kind), int(str(key))): str(text) for kind, key, text in rows}


class Watcher:
    """Looks at a database until it is told to stop.

    Attributes:
        seen: what has been seen of each page, clip and image.
        stray: rows that pointed at nothing.
        looks: how often it looked.
    """

    def __init__(self, conninfo: str) -> None:
        self._connection = psycopg.connect(conninfo, autocommit=True)
        self.seen: dict[tuple[str, int], set[str]] = {}
        self.stray: set[tuple[object, ...]] = set()
        self.looks = 0
        self._failure: psycopg.Error | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            dangling = self._dangling()
            while not self._stop.wait(PAUSE):
                self._look(dangling)
        except psycopg.Error as error:
            self._failure = error

    def _dangling(self) -> sql.Composed:
        found = self._connection.execute(_FOREIGN_KEYS).fetchall()
        parts = [sql.SQL(_STRAY)]
        for table, column, to, key in found:
            names = {"table": table, "column": column, "to": to, "key": key}
            quoted = {name: sql.Identifier(value) for name, value in names.items()}
            parts.append(
                sql.SQL(_DANGLES).format(name=sql.Literal(f"{table}.{column}"), **quoted)  # type: ignore[arg-type]
            )
        return sql.SQL(" UNION ALL ").join(parts)

    def _look(self, dangling: sql.Composed) -> None:
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for key, state in things(self._connection).items():
                self.seen.setdefault(key, set()).add(state)
            self.stray.update(self._connection.execute(dangling).fetchall())
        self.looks += 1

    def end(self) -> None:
        """Stop looking. Raises what kept it from looking."""
        self._stop.set()
        self._thread.join(10)
        self._connection.close()
        if self._failure is not None:
            raise self._failure
