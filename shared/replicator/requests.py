"""What targets send to a source: requests for rows, and reports of how they are.

Both travel as JSON on the target's own requests topic, so that a Kafka ACL proves who asks. A
request names registered datasets by name, arguments and fingerprint, and tables by labels that
are looked up in those datasets; nothing of it ever becomes SQL but the key values, as parameters.
Everything is bounded. Pure.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from replicator.errors import BadRecord

VERSION = 1
MAX_BYTES = 4_000_000
"""A longer message is not read."""
MAX_KEYS = 5_000
"""Keys of one request, over all tables."""
MAX_PLAN = 200
"""Datasets of one request: subscriptions of a target to one stream."""
MAX_PAGE = 10_000
"""Rows of one page."""
MAX_ERRORS = 50
"""Errors of one report."""

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=1_000)]
KeyValue: TypeAlias = int | bool | Annotated[str, Field(max_length=8_000)]
Key: TypeAlias = Annotated[tuple[KeyValue, ...], Field(min_length=1, max_length=32)]
"""A primary key, its values as in the envelope."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PlanItem(_Strict):
    """One dataset that the target subscribed to.

    Attributes:
        dataset: its name.
        arguments: what follows the colon in `polls:3,4`; "" if nothing does.
        fingerprint: of its compiled rules and released columns, as the target knows them.
    """

    dataset: Name
    arguments: Text = ""
    fingerprint: Name


class _Message(_Strict):
    v: Literal[1] = 1
    target: Name


class Request(_Message):
    """What all requests have.

    Attributes:
        v: version of this format.
        target: environment that asks.
        id: the target's; comes back on every record of the answer.
        plan: every dataset that the target subscribed to; `fingerprint` of it comes back too.
        hashes: answer with hashes of the rows, not with the rows (verify).
    """

    id: Name
    plan: Annotated[tuple[PlanItem, ...], Field(min_length=1, max_length=MAX_PLAN)]
    hashes: bool = False


class KeysRequest(Request):
    """Rows by key: what is not there is answered by a delete.

    Attributes:
        keys: primary keys by label of the table (`public.polls_question`).
    """

    kind: Literal["keys"] = "keys"
    keys: Annotated[dict[Name, tuple[Key, ...]], Field(min_length=1, max_length=1_000)]


class PageRequest(Request):
    """Some rows of one rule of one dataset, in key order.

    Attributes:
        dataset: name of a dataset of the plan.
        arguments: its arguments.
        rule: index of a `Rows` rule in the dataset.
        after: the key to begin behind; None: the first page.
        limit: rows at most.
    """

    kind: Literal["page"] = "page"
    dataset: Name
    arguments: Text = ""
    rule: Annotated[int, Field(ge=0, lt=10_000)]
    after: Key | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 1_000


class ReportedError(_Strict):
    """Something that needs a person at the target; never shows a row's value."""

    error: Name
    message: Text
    remedy: Text = ""


class Report(_Message):
    """How a target is; sent every few seconds, for `status` on the source.

    Attributes:
        at_ms: when it was written, milliseconds since 1970.
        epoch: the epoch that the target is in; "" if it has not begun.
        next: its position `N`.
        lag_s: age of the last applied commit; 0 while all that the log has is applied.
        oldest_wanted_s: age of the oldest fetch that is under way; None: there is none.
        counts: figures by name, such as rows held, wanted, applied.
        errors: what needs a person.
    """

    kind: Literal["report"] = "report"
    at_ms: Annotated[int, Field(ge=0)]
    epoch: Annotated[str, Field(max_length=8)] = ""
    next: Annotated[int, Field(ge=0)] = 0
    lag_s: float | None = None
    oldest_wanted_s: float | None = None
    counts: Annotated[dict[Name, int], Field(max_length=200)] = {}
    errors: Annotated[tuple[ReportedError, ...], Field(max_length=MAX_ERRORS)] = ()


Message: TypeAlias = Annotated[KeysRequest | PageRequest | Report, Field(discriminator="kind")]
_adapter: TypeAdapter[KeysRequest | PageRequest | Report] = TypeAdapter(Message)


def fingerprint(plan: Sequence[PlanItem]) -> str:
    """Hash a plan, whatever its order: 16 hexadecimal digits, `plan` of the answer."""
    items = sorted((item.dataset, item.arguments, item.fingerprint) for item in plan)
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()[:16]


def parse(value: bytes) -> KeysRequest | PageRequest | Report:
    """Read a message of a requests topic.

    Raises:
        BadRecord: it is none, or exceeds a bound; the text shows none of its content.
    """
    if len(value) > MAX_BYTES:
        raise BadRecord(f"A request of {len(value)} bytes is longer than {MAX_BYTES}.")
    try:
        message = _adapter.validate_json(value)
    except ValidationError as error:
        kinds = ", ".join(sorted({found["type"] for found in error.errors()}))
        # `from None`: pydantic's text shows the input.
        raise BadRecord(f"A message of a requests topic cannot be read: {kinds}.") from None
    if isinstance(message, KeysRequest) and sum(map(len, message.keys.values())) > MAX_KEYS:
        raise BadRecord(f"A request names more than {MAX_KEYS} keys.")
    return message


def encode(message: KeysRequest | PageRequest | Report) -> bytes:
    """Write a message as `parse` reads it."""
    return message.model_dump_json().encode()
