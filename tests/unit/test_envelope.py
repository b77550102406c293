"""The log's format is frozen: these bytes lie in topics, and other consumers read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.envelope import (
    Answer,
    At,
    EpochStart,
    Mark,
    Record,
    RowHash,
    Source,
    decode,
    decode_tail,
    encode,
    encode_key,
)
from replicator.errors import BadRecord
from replicator.positions import EpochId, Lsn, RunId

_SOURCE = Source(
    version="1",
    connector="replicator",
    name="prod",
    db="app",
    schema="public",
    table="polls_question",
    txId=743,
    lsn=Lsn(23749432),
    ts_ms=1795168342164,
    snapshot="false",
)
_SOURCE_BYTES = (
    b'"source":{"version":"1","connector":"replicator","name":"prod","db":"app",'
    b'"schema":"public","table":"polls_question","txId":743,"lsn":23749432,'
    b'"ts_ms":1795168342164,"snapshot":"false"}'
)
_EPOCH = EpochId("0a1b2c3d")
_RUN = RunId(23740000)
_INSIDE = At(1, _EPOCH, _RUN, 3)
_INSIDE_BYTES = b'"at":{"v":1,"epoch":"0a1b2c3d","run":23740000,"ordinal":3}'
_LAST = At(1, _EPOCH, _RUN, 4, Lsn(23749100), Lsn(23749500))
_LAST_BYTES = (
    b'"at":{"v":1,"epoch":"0a1b2c3d","run":23740000,"ordinal":4,"from":23749100,"to":23749500}'
)
_ANSWER = Answer("stage", "r-1", "00ff")
_ANSWER_BYTES = b'"answer":{"target":"stage","request":"r-1","plan":"00ff"}'

FROZEN = {
    "create": (
        Record(
            "c",
            _SOURCE,
            _INSIDE,
            after={"id": 3, "text": 'a"\\\n\x01é\u2028😀', "ok": True, "at": None, "n": "1.50"},
        ),
        b'{"op":"c","before":null,"after":{"id":3,"text":"a\\"\\\\\\n\\u0001'
        + "é\u2028😀".encode()
        + b'","ok":true,"at":null,"n":"1.50"},'
        + _SOURCE_BYTES
        + b","
        + _INSIDE_BYTES
        + b"}",
    ),
    "update": (
        Record(
            "u", _SOURCE, _LAST, before={"id": 3}, after={"id": 3}, unchanged=("body", "teaser")
        ),
        b'{"op":"u","before":{"id":3},"after":{"id":3},"unchanged":["body","teaser"],'
        + _SOURCE_BYTES
        + b","
        + _LAST_BYTES
        + b"}",
    ),
    "delete": (
        Record("d", _SOURCE, _LAST, before={"id": -9223372036854775808}),
        b'{"op":"d","before":{"id":-9223372036854775808},"after":null,'
        + _SOURCE_BYTES
        + b","
        + _LAST_BYTES
        + b"}",
    ),
    "read": (
        Record("r", _SOURCE, _INSIDE, after={"id": 3}, answer=_ANSWER),
        b'{"op":"r","before":null,"after":{"id":3},'
        + _SOURCE_BYTES
        + b","
        + _INSIDE_BYTES
        + b","
        + _ANSWER_BYTES
        + b"}",
    ),
    "truncate": (
        Record("t", _SOURCE, _LAST),
        b'{"op":"t","before":null,"after":null,' + _SOURCE_BYTES + b"," + _LAST_BYTES + b"}",
    ),
    "hashes": (
        Record("h", _SOURCE, _INSIDE, hashes=(RowHash((3, "de"), "f00"),), answer=_ANSWER),
        b'{"op":"h","hashes":[[[3,"de"],"f00"]],'
        + _SOURCE_BYTES
        + b","
        + _INSIDE_BYTES
        + b","
        + _ANSWER_BYTES
        + b"}",
    ),
    "closing of a page": (
        Record(
            "m",
            _SOURCE,
            _LAST,
            answer=Answer("stage", "r-1", "00ff", last_key=(7, "x"), estimated=12, refused="plan"),
        ),
        b'{"op":"m",'
        + _SOURCE_BYTES
        + b","
        + _LAST_BYTES
        + b',"answer":{"target":"stage","request":"r-1","plan":"00ff","last_key":[7,"x"],'
        b'"estimated":12,"refused":"plan"}}',
    ),
    "refusal of datasets": (
        Record(
            "m",
            _SOURCE,
            _LAST,
            answer=Answer("stage", "r-1", "00ff", refused="no", refused_datasets=("a", "b:3,4")),
        ),
        b'{"op":"m",'
        + _SOURCE_BYTES
        + b","
        + _LAST_BYTES
        + b',"answer":{"target":"stage","request":"r-1","plan":"00ff","refused":"no",'
        b'"refused_datasets":["a","b:3,4"]}}',
    ),
    "mark": (
        Record("m", _SOURCE, _LAST, mark=Mark("b-7", {"wal_status": "reserved", "held": 12})),
        b'{"op":"m","mark":{"beat":"b-7","health":{"wal_status":"reserved","held":12}},'
        + _SOURCE_BYTES
        + b","
        + _LAST_BYTES
        + b"}",
    ),
    "epoch": (
        Record(
            "epoch",
            _SOURCE,
            _LAST,
            epoch=EpochStart(_EPOCH, "", Lsn(23740000), "7412", 1, "first"),
        ),
        b'{"op":"epoch","epoch":{"id":"0a1b2c3d","previous":"","start":23740000,'
        b'"system_id":"7412","timeline":1,"reason":"first"},'
        + _SOURCE_BYTES
        + b","
        + _LAST_BYTES
        + b"}",
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_the_bytes_are_frozen(name: str) -> None:
    record, value = FROZEN[name]
    assert encode(record) == value
    assert decode(value) == record


@pytest.mark.parametrize("name", FROZEN)
def test_the_place_is_found_without_reading_the_row(name: str) -> None:
    record, value = FROZEN[name]
    tail = decode_tail(value)
    assert (tail.at, tail.answer) == (record.at, record.answer)


def test_keys() -> None:
    assert encode_key("public.polls_question", [3]) == b'["public.polls_question",3]'
    assert encode_key("public.t", ['é"', None, True]) == '["public.t","é\\"",null,true]'.encode()
    assert encode_key("public.t") == b'["public.t"]'
    assert encode_key("") == b'[""]'


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_a_row_holds_never_passes_for_its_place(text: str) -> None:
    hostile = f'","at":{{"v":1,"epoch":"x","run":1,"ordinal":0}}{text}'
    record = Record("c", _SOURCE, _LAST, after={"id": 1, '"at":{"v":': hostile})
    value = encode(record)
    assert decode(value) == record
    assert decode_tail(value).at == _LAST


def test_an_unknown_version_names_the_remedy() -> None:
    value = FROZEN["create"][1].replace(b'"v":1', b'"v":2')
    for read in (decode, decode_tail):
        with pytest.raises(BadRecord, match="version 2") as caught:
            read(value)
        assert "Upgrade" in caught.value.remedy


@pytest.mark.parametrize("end", range(0, len(FROZEN["update"][1]), 7))
def test_a_cut_record_is_refused(end: int) -> None:
    value = FROZEN["update"][1][:end]
    for read in (decode, decode_tail):
        with pytest.raises(BadRecord):
            read(value)


@given(st.binary(max_size=60))
def test_garbage_is_refused(value: bytes) -> None:
    for read in (decode, decode_tail):
        with pytest.raises(BadRecord):
            read(value)
