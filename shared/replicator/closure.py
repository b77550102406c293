"""What is reachable from a model, as rules: the body of `closure_of`. Pure.

The walk goes *down* from the root: to the models that point at it, to those that point at these,
and so on. What a model on the way must point at (its foreign key is never NULL) is its owner, and
is taken *up*, as is in the end all else that it points at. From what was taken up, the walk goes
only further up: a user who wrote one of the questions does not bring all the others.

Generic foreign keys are followed down only, where the model that they lead to tells of them.

An object that has several tables (multi-table inheritance) is taken as one.
"""

from collections.abc import Iterable, Iterator, Set
from functools import cached_property
from typing import NamedTuple

from replicator.relations import reached


class Link(NamedTuple):
    """A released foreign key.

    Attributes:
        model: label of the model that points.
        field: name of the foreign key; of a generic one, the relation that leads back along it.
        to: label of the model pointed at.
        nullable: whether it may be NULL.
        guarded: whether Postgres enforces it.
        parent: whether it leads to the rest of the same object.
        generic: whether it may lead to other models as well; Postgres enforces none of these.
    """

    model: str
    field: str
    to: str
    nullable: bool = False
    guarded: bool = True
    parent: bool = False
    generic: bool = False

    @property
    def firm(self) -> bool:
        """Whether a row cannot be without the one that it points at."""
        return self.guarded and not self.nullable


class Reach:
    """The walk, and what it found.

    Args:
        root: label of the model to begin with.
        links: the links of all models that may take part.
        open_to: labels of these models.
        whole: whether all rows of the root are asked for.

    Attributes:
        down: the models taken on the way down, in order, the root's parents and the root first.
        up: those taken on the way up, in order.
    """

    def __init__(
        self, root: str, links: Iterable[Link], open_to: frozenset[str], *, whole: bool = False
    ) -> None:
        self.root, self.whole = root, whole
        self._open = open_to
        self._links = sorted(link for link in links if link.model in open_to)
        self._uncertain = self._never_sure()
        self.down: list[str] = []
        self.up: list[str] = []
        self._shut = set[str]()
        self._loose = {root}
        self._take_down(root)
        for label in self.down:  # It grows meanwhile.
            for link in self._links:
                if link.to == label and self._is_new(link.model):
                    self._take_down(link.model)
        for label in self._members():
            for link in self._of(label):
                if not link.generic:
                    self._take_up(link.to)

    def _members(self) -> Iterator[str]:
        yield from self.down
        yield from self.up  # It may grow meanwhile.

    def _of(self, label: str) -> list[Link]:
        return [link for link in self._links if link.model == label]

    def _is_new(self, label: str) -> bool:
        return label not in self.down and label not in self.up and label not in self._shut

    def _never_sure(self) -> set[str]:
        """Name the models of which a row may wait for one outside: nothing pulls them in."""
        found = set[str]()
        while (
            more := {
                link.model
                for link in self._links
                if link.firm and (link.to not in self._open or link.to in found)
            }
            - found
        ):
            found |= more
        return found

    def _take_down(self, label: str) -> None:
        links = self._of(label)
        for link in links:
            if link.parent and self._is_new(link.to) and link.to in self._open:
                self._loose.add(label)
                self._take_down(link.to)
        self.down.append(label)
        for link in links:
            if link.firm:
                self._take_up(link.to)

    def _take_up(self, label: str) -> None:
        if not self._is_new(label):
            return
        if label not in self._open or label in self._uncertain:
            self._shut.add(label)
            return
        self.up.append(label)
        for link in self._links:
            if link.model == label and link.firm:
                self._take_up(link.to)
            elif link.to == label and link.parent:
                self._take_up(link.model)

    # What becomes of links ------------------------------------------------------------------------

    def _inside(self, link: Link) -> bool:
        return link.to in self.down or link.to in self.up

    def under(self, label: str) -> list[tuple[Link, ...]]:
        """Give the links by which rows of a model hang on others: one tuple for each rule.

        A link that leads to a model which was reached later is not among them.
        """
        parents: list[tuple[Link, ...]] = [
            (k,) for k in self._of(label) if k.parent and self._inside(k)
        ]
        if label not in self.down:
            return parents
        before = self.down[: self.down.index(label) + 1]
        links = [k for k in self._of(label) if k.to in before and not k.parent]
        # A row is here only if all that it must point at is: the other links add nothing.
        if firm := tuple(link for link in links if link.firm and link.to != label):
            return [*parents, firm]
        return [*parents, *((link,) for link in links if not link.firm)]

    @cached_property
    def pulled(self) -> frozenset[Link]:
        """The links along which rows are pulled in."""
        found = {
            link
            for label in self._members()
            for link in self._of(label)
            if link.to in self.up and not link.generic and (link,) not in self.under(label)
        }
        found |= {k for label in self.up for k in self._of(label) if k.firm and k.to in self.down}
        while more := (self._needed(found) | self._rings(found)) - found:
            found |= more
        return frozenset(found)

    def _needed(self, pulled: set[Link]) -> set[Link]:
        """Give what rows must point at that are here not because of it."""
        loose = self._loose | {link.to for link in pulled}
        for label in self._members():
            ways = self.under(label)
            if len(ways) > 1 and any(way[0].parent for way in ways):
                loose.add(label)
        links = (link for label in self._members() for link in self._of(label))
        return {k for k in links if k.model in loose and k.firm and self._inside(k)}

    def _rings(self, pulled: set[Link]) -> set[Link]:
        """Give the links that must pull, for what they lead to may hang on the row that points."""
        return {k for k in self._hanging - pulled if k.firm and self._in_ring(k, pulled)}

    @cached_property
    def _hanging(self) -> frozenset[Link]:
        return frozenset(k for label in self._members() for way in self.under(label) for k in way)

    def _in_ring(self, link: Link, pulled: Set[Link]) -> bool:
        """Whether the row at the end of a link may hang on the row that points."""
        if link.to == link.model:
            return False
        steps = {(k.model, k.to) for k in self._hanging if k != link}
        steps |= {(k.to, k.model) for k in pulled}
        return link.model in reached(link.to, steps)

    def outside(self, label: str) -> tuple[list[str], list[str]]:
        """Name the foreign keys of a model with policy null, and those with policy required."""
        open_ends = [
            link
            for link in self._of(label)
            if link.guarded and link not in self.pulled and not self._leads(link)
        ]
        null = [k.field for k in open_ends if k.nullable and not self._all_there(k.to)]
        return null, [k.field for k in open_ends if not (k.nullable or self._inside(k))]

    def _leads(self, link: Link) -> bool:
        """Whether rows of the model are here only where the row at the link's end is."""
        if link.model == self.root or link.model in {each.to for each in self.pulled}:
            return False
        alone = all(link in way for way in self.under(link.model))
        return alone and not self._in_ring(link, self.pulled)

    def _all_there(self, label: str) -> bool:
        """Whether every row of a model belongs, come what may."""
        mine = (link for link in self._of(label) if link.firm)
        return label == self.root and self.whole and all(map(self._inside, mine))
