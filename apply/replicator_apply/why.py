"""Why a row of a target is here, or is not: the answer as a value, and in words. Pure.

`replicator_apply.why_look` finds it out.
"""

from collections.abc import Iterator

import msgspec

SHOWN = 5
"""Keys of referrers that are named."""

_MARKS = {True: "✔", False: "✘", None: "?"}


class Holder(msgspec.Struct, frozen=True):
    """A row that a rule looks at: by which foreign key, and its key; "" if it is not held."""

    by: str
    model: str
    key: str


class Judged(msgspec.Struct, frozen=True):
    """A rule on the row's model.

    Attributes:
        rule: as people read it.
        passes: whether the row passes its filter; None: its values are not known here.
        holders: parents, or rows that point at it, which the subscription holds.
        holds: whether the rule holds the row; None: that cannot be told here.
        selects: whether the source chooses rows by it; whether this one passes hangs on that.
    """

    rule: str
    passes: bool | None
    holders: tuple[Holder, ...]
    holds: bool | None
    selects: bool = False


class Claim(msgspec.Struct, frozen=True):
    """What a subscription has to do with the row.

    Attributes:
        dataset: with its arguments.
        generation: of its receipt; None: it has none.
        newest: generation of its newest backfill; receipts below it are suspect.
        rules: the rules on the row's model; none if the dataset is not declared any more.
        backfill: number and state of an unfinished backfill.
        paused: its rows stand as they are.
    """

    source: str
    dataset: str
    declared: bool
    generation: int | None
    newest: int
    rules: tuple[Judged, ...] = ()
    backfill: tuple[int, str] | None = None
    paused: bool = False


class Waiting(msgspec.Struct, frozen=True):
    """A fetch that is to bring the row: why, since when, and when the source was last asked."""

    source: str
    reason: str
    age: float
    asked: float | None


class Nulled(msgspec.Struct, frozen=True):
    """A foreign key of the row in whose place NULL stands: its column, and what the source has."""

    column: str
    value: str


class Why(msgspec.Struct, frozen=True):
    """All that is known of a row.

    Attributes:
        key: as a JSON array of texts.
        present: whether the table has it.
        kept: it left, and is kept because rows of these tables point at it: name and number.
        lacking: where NULL stands in place of this row: table and column, and number of rows.
        stays: it left, and stays by this policy, `keep` or `soft` with the column; "" if not.
    """

    model: str
    key: str
    present: bool
    claims: tuple[Claim, ...] = ()
    kept: dict[str, int] | None = None
    wanted: tuple[Waiting, ...] = ()
    nulled: tuple[Nulled, ...] = ()
    lacking: dict[str, int] = {}
    stays: str = ""

    @property
    def replicated(self) -> bool:
        """Whether it is here because of a subscription."""
        return self.present and any(claim.generation is not None for claim in self.claims)


def text_of(why: Why) -> str:
    """Write it for people."""
    lines = [f"{why.model} {_key(why.key)} {_summary(why)}"]
    for claim in why.claims:
        lines += ["", *_claim(claim, present=why.present)]
    more = [*_waiting(why), *_nulled(why)]
    if any(judged.holds is None for claim in why.claims for judged in claim.rules):
        more.append("?: what that hangs on is not known here.")
    return "\n".join([*lines, *([""] if more else []), *more]) + "\n"


def _key(text: str) -> str:
    return ",".join(map(str, msgspec.json.decode(text)))


def _summary(why: Why) -> str:
    if why.replicated:
        return "is here: replication put it there."
    if why.present and why.stays:
        return f"is here, and has left every dataset: it stays by their policy ({why.stays})."
    if why.kept is not None:
        return "is here, and has left every dataset: it is kept because of rows that point at it."
    if why.present:
        return "is here, and is a local row: replication did not put it there."
    if why.wanted:
        return "is not here yet: it is wanted."
    return "is not here."


def _claim(claim: Claim, *, present: bool) -> Iterator[str]:
    yield f"{claim.dataset} from {claim.source}: {_held(claim)}"
    if not claim.declared:
        yield "  Nothing subscribes to it any more: its rows stay as they are."
    elif claim.paused:
        yield "  It is paused: its rows stand as they are."
    for judged in claim.rules:
        yield from _judged(judged, present=present)
    if claim.backfill is not None:
        number, state = claim.backfill
        yield f"  Its backfill {number} is {state}: what is not here may still come."


def _held(claim: Claim) -> str:
    if claim.generation is None:
        return "does not hold it"
    suspect = (
        ""
        if claim.generation >= claim.newest
        else (f", of which the newest is {claim.newest}: the backfill has not seen it yet")
    )
    return f"holds it, by a receipt of generation {claim.generation}{suspect}"


def _judged(judged: Judged, *, present: bool) -> Iterator[str]:
    yield f"  {_MARKS[judged.holds]} {judged.rule}"
    if judged.passes is False and judged.selects:
        yield "      it was not among them when they were last chosen, or does not pass the filter"
    elif judged.passes is False and " where " in judged.rule:
        yield "      it does not pass the filter"
    for holder in judged.holders[:SHOWN]:
        what = f"{holder.model} {_key(holder.key)}" if holder.key else f"no {holder.model} held"
        yield f"      {holder.by}: {what}"
    if len(judged.holders) > SHOWN:
        yield "      … and more"
    if judged.rule.startswith("Referenced") and not judged.holders:
        yield "      no row that is held points at it"
    if not present and judged.rule.startswith("Children"):
        yield "      its parents are not known here"


def _waiting(why: Why) -> Iterator[str]:
    for each in why.wanted:
        asked = "not asked for yet" if each.asked is None else f"asked for {each.asked:,.0f} s ago"
        yield f"Wanted from {each.source} for {each.age:,.0f} s ({each.reason}), {asked}."
    if not why.wanted and not why.present and any(claim.paused for claim in why.claims):
        yield "It is not wanted: what a paused subscription lacks comes when it is resumed."
    elif not why.wanted and not why.present:
        yield "It is not wanted: as far as is known here, it belongs to no dataset."
    for name, number in (why.kept or {}).items():
        yield f"Rows that point at it by {name}: {number:,}."


def _nulled(why: Why) -> Iterator[str]:
    for nulled in why.nulled:
        yield f"{nulled.column} is NULL until the row that it points at is here: {nulled.value}."
    for name, number in why.lacking.items():
        yield f"Rows whose {name} is NULL until it is here: {number:,}."
