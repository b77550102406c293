"""What is done to whole partitions, and tells no row event: TRUNCATE of one, DETACH, DROP, ATTACH.

A partitioned table's token holds a digest of its partitions: which there are, since when, and in
which files. So a target that knows another token brings the table anew. A partition that joins
empty changes nothing, because all that is ever written to it travels. Whether it was empty can be
told only when it is first seen; so the marks, where the last run left off, are all the memory that
there is. Pure.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from replicator.envelope import Value

TABLE = "table:"
"""How the keys of a mark's health begin that name a table (`table:public.poll` → its token)."""
TREE = "tree:"
"""And those that name a partitioned one (`tree:public.poll` → the digest of all its partitions)."""


class Part(NamedTuple):
    """A partition of any depth, or the partitioned table itself.

    Attributes:
        oid: in pg_class.
        file: its relfilenode; TRUNCATE changes it, and so does all that rewrites the table.
        attached: the transaction that attached it; of the table itself "".
    """

    oid: int
    file: int
    attached: str


AreEmpty = Callable[[Collection[int]], bool | None]
"""Whether the partitions with these oids have no row; None: not to be told now."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """A partitioned table: what its token tells, and of what; the parts, if this run has seen them.

    Attributes:
        told: digest of the parts when something was last missed.
        now: digest of the parts.
        parts: of now; None: as an earlier run saw them.
    """

    told: str
    now: str
    parts: frozenset[Part] | None


class Trees:
    """The partitioned tables of a stream.

    Args:
        told: what the log's last marks tell of tables.
    """

    def __init__(self, told: Mapping[str, Value]) -> None:
        self._trees = {
            label: _Tree(str(token).rpartition("-")[2], str(told[TREE + label]), None)
            for key, token in told.items()
            if (label := key.removeprefix(TABLE)) != key and TREE + label in told
        }

    def update(self, found: Mapping[str, frozenset[Part]], are_empty: AreEmpty) -> None:
        """Note the partitions of now, by the labels of their tables."""
        trees = dict(self._trees)
        for label, parts in found.items():
            tree = _after(trees.get(label), parts, are_empty)
            if tree is not None:
                trees[label] = tree
        self._trees = trees

    def token(self, label: str, membership: int) -> Value:
        """Give a table's token: its membership's, and what is told of its partitions."""
        tree = self._trees.get(label)
        return membership if tree is None else f"{membership}-{tree.told}"

    def told_of(self, tokens: Mapping[str, Value]) -> dict[str, Value]:
        """Give what a mark that tells these tokens repeats of their trees, for the next run.

        Nothing beside an older token: that run would take for told what is not.
        """
        trees = self._trees
        return {
            TREE + label: trees[label].now
            for label, token in tokens.items()
            if label in trees and str(token).endswith(f"-{trees[label].told}")
        }


def _after(tree: _Tree | None, parts: frozenset[Part], are_empty: AreEmpty) -> _Tree | None:
    """Give the next state; None: it cannot be told yet."""
    now = digest(parts)
    if tree is None:
        return _Tree(now, now, parts)
    if tree.now == now:
        return _Tree(tree.told, now, parts)
    if tree.parts is None or not tree.parts <= parts:
        return _Tree(now, now, parts)
    empty = are_empty([part.oid for part in parts - tree.parts])
    if empty is None:
        return None
    return _Tree(tree.told if empty else now, now, parts)


def digest(parts: Collection[Part]) -> str:
    """Tell sets of partitions apart in few characters."""
    text = "\n".join(f"{part.oid} {part.file} {part.attached}" for part in sorted(parts))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
