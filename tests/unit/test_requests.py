"""Requests and reports: what is accepted, and that garbage is refused without being shown."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRecord
from replicator.requests import (
    MAX_BYTES,
    MAX_KEYS,
    KeysRequest,
    PageRequest,
    PlanItem,
    Report,
    ReportedError,
    encode,
    parse,
)

PLAN = (PlanItem(dataset="polls", arguments="3,4", fingerprint="0" * 16),)
KEYS = KeysRequest(
    target="stage",
    id="1",
    plan=PLAN,
    keys={"public.polls_question": ((1,), (2,)), "public.tag": (("a", True),)},
)
PAGE = PageRequest(
    target="stage", id="2", plan=PLAN, dataset="polls", rule=0, after=("x",), limit=10
)
REPORT = Report(
    target="stage",
    at_ms=1,
    epoch="0000aaaa",
    next=7,
    counts={"wanted": 1},
    errors=(ReportedError(error="Clash", message="A local row …", remedy="Remove it."),),
)


@pytest.mark.parametrize("message", [KEYS, PAGE, REPORT], ids=["keys", "page", "report"])
def test_round_trip(message: KeysRequest | PageRequest | Report) -> None:
    assert parse(encode(message)) == message


def changed(message: KeysRequest | PageRequest | Report, **changes: Any) -> bytes:
    return json.dumps({**json.loads(encode(message)), **changes}).encode()


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"{}",
        changed(KEYS, kind="drop"),
        changed(KEYS, v=2),
        changed(KEYS, sql="SELECT secret"),
        changed(KEYS, keys={}),
        changed(KEYS, keys={"t": [[]]}),
        changed(KEYS, keys={"t": [[{"secret": 1}]]}),
        changed(KEYS, keys={"t": [[None]]}),
        changed(KEYS, keys={"t": [[i] for i in range(MAX_KEYS + 1)]}),
        changed(KEYS, plan=[]),
        changed(PAGE, limit=0),
        changed(PAGE, limit=1_000_000),
        changed(PAGE, rule=-1),
        changed(PAGE, id="x" * 300),
        changed(REPORT, next="7"),
        b" " * (MAX_BYTES + 1),
    ],
)
def test_garbage_is_refused_and_not_shown(value: bytes) -> None:
    with pytest.raises(BadRecord) as caught:
        parse(value)
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(value: bytes) -> None:
    with pytest.raises(BadRecord):
        parse(value)
