"""Record batches: the fast builder and parser against their plain twins and kafka-python's own."""

import gzip
import logging
from types import SimpleNamespace

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import encode_varint

from replicator.errors import BadRecord, ConfigurationError
from replicator.log import kafka_batches, record_batch
from replicator.log.kafka import KafkaLog
from replicator.log.record_batch import (
    HEADER_BYTES,
    decode_record,
    decode_records,
    encode_record,
    encode_records,
    frames,
    parse,
    read_varint,
    seal,
    varint,
)
from replicator.log.slices import PART, cut

BODY = st.one_of(
    st.binary(max_size=300),
    # around the lengths at which a varint grows by a byte
    st.sampled_from([0, 62, 63, 64, 65, 8_189, 8_190, 8_191, 8_192, 16_383, 16_384, 70_000]).map(
        lambda length: b"x" * length
    ),
)
RECORDS = st.lists(st.tuples(BODY, BODY), min_size=1, max_size=80)
HEADERS = st.dictionaries(st.text(max_size=8), st.binary(max_size=20), max_size=3)
NO_LIMIT = 1 << 30

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


def plain_body(records):
    return b"".join(encode_record(i, record, {}) for i, record in enumerate(records))


def theirs(records, codec=0, headers=()):
    """Let kafka-python's own builder write the batch."""
    builder = MemoryRecordsBuilder(2, codec, NO_LIMIT)
    for key, value in records:
        builder.append(1_700_000_000_000, key, value, list(headers))
    builder.close()
    return bytes(builder.buffer())


def only(data):
    (frame,) = frames(data)
    return parse(frame)


@given(st.integers(min_value=-(1 << 62), max_value=1 << 62))
def test_varints_are_kafka_pythons(number):
    written = bytearray()
    encode_varint(number, written.append)
    assert varint(number) == bytes(written)
    assert read_varint(varint(number) + b"\x01", 0) == (number, len(written))


def test_varint_without_end_is_refused():
    with pytest.raises(BadRecord):
        read_varint(b"\xff" * 11, 0)


@given(RECORDS)
def test_fast_builder_writes_what_the_plain_one_writes(records):
    assert encode_records(records, 0, NO_LIMIT) == (plain_body(records), len(records))


@given(RECORDS)
def test_fast_parser_reads_what_the_plain_one_reads(records):
    body, at, plain = plain_body(records), 0, []
    while at < len(body):
        decoded = decode_record(body, at)
        at = decoded.end
        plain.append(decoded.record)
    assert decode_records(body, len(records)) == plain == records


def test_fast_builder_beyond_the_ready_numbers():
    records = [(b"k", b"v")] * 20_000
    body, count = encode_records(records, 0, NO_LIMIT)
    assert count == 16_384
    assert body == plain_body(records[:count])
    assert encode_records(records, count, NO_LIMIT) == (plain_body(records[count:]), 20_000 - count)


@given(RECORDS, st.integers(min_value=70, max_value=30_000))
def test_batches_stay_below_the_limit_and_lose_nothing(records, limit):
    start, got = 0, []
    while start < len(records):
        body, count = encode_records(records, start, limit)
        assert len(body) <= limit
        if count == 0:
            assert len(encode_record(0, records[start], {})) > limit
            count, body = 1, encode_record(0, records[start], {})
        got += decode_records(body, count) or []
        start += count
    assert got == records


@given(RECORDS, st.integers(0, 1 << 40), st.integers(0, 1 << 15 - 1), st.integers(0, 1 << 30))
def test_kafka_python_reads_our_batches(records, producer_id, epoch, sequence):
    body, count = encode_records(records, 0, NO_LIMIT)
    ours = seal(body, count, 1_700_000_000_000).with_header(producer_id, epoch, sequence)
    batch = MemoryRecords(bytes(ours)).next_batch()
    assert batch.validate_crc()
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (
        (producer_id, epoch, sequence)
    )
    assert batch.next_offset == len(records)
    read = [(record.offset, record.key, record.value, record.timestamp) for record in batch]
    assert read == [(i, k, v, 1_700_000_000_000) for i, (k, v) in enumerate(records)]


@given(RECORDS, st.sampled_from([0, 1, 3]), HEADERS)
def test_we_read_kafka_pythons_batches(records, codec, headers):
    batch = only(theirs(records, codec, headers.items()))
    assert batch.records == records
    assert list(batch.offsets) == list(range(len(records)))
    assert batch.timestamp_ms == 1_700_000_000_000
    assert batch.headers == (dict.fromkeys(range(len(records)), headers) if headers else {})


def test_compressible_batches_are_compressed_and_others_are_not():
    small, large = seal(b"ab" * 5_000, 1, 0), seal(gzip.compress(b"x"), 1, 0)
    assert (small.attributes, large.attributes) == (3, 0)
    assert len(small.body) < 1_000


def test_null_key_and_value_are_empty():
    assert only(theirs([(None, b"v"), (b"k", None)])).records == [(b"", b"v"), (b"k", b"")]
    with_header = only(theirs([(None, b"v"), (b"k", None)], headers=[("h", b"x")]))
    assert with_header.records == [(b"", b"v"), (b"k", b"")]


@pytest.mark.parametrize(("codec", "library"), [(2, "snappy"), (4, "zstd")])
def test_codec_whose_library_is_not_installed_is_a_bad_record(monkeypatch, codec, library):
    monkeypatch.setattr(f"kafka.codec.{library}", None)
    with pytest.raises(BadRecord):
        only(rewritten(theirs([(b"k", b"v")]), codec))


def rewritten(data, attributes):
    """Give the batch other attributes and a right checksum."""
    data = bytearray(data)
    data[21:23] = attributes.to_bytes(2, "big")
    data[17:21] = crc32c(data[21:]).to_bytes(4, "big")
    return bytes(data)


def test_control_batch_has_no_records_but_its_place():
    marker = rewritten(theirs([(b"\0\0\0\1", b"")]), 0x30)
    (frame,) = frames(marker)
    assert (frame.begin, frame.end) == (0, 1)
    assert parse(frame).records == []


def test_unknown_codec_is_a_bad_record():
    with pytest.raises(BadRecord, match="codec 7"):
        only(rewritten(theirs([(b"k", b"v")]), 7))


def test_incomplete_last_batch_waits_for_the_rest():
    data = theirs([(b"k", b"v")])
    assert [f.begin for f in frames(data + data[: len(data) - 1])] == [0]
    assert list(frames(data[: HEADER_BYTES - 1])) == []


@given(st.data())
def test_a_flipped_bit_is_seen(data):
    batch = bytearray(theirs([(b"key", b"value" * 10)] * 3, codec=3))
    place = data.draw(st.integers(min_value=17, max_value=len(batch) - 1))
    batch[place] ^= 1 << data.draw(st.integers(min_value=0, max_value=7))
    with pytest.raises(BadRecord):
        only(bytes(batch))


@given(st.binary(max_size=200), st.integers(min_value=1, max_value=5))
def test_garbage_with_a_right_checksum_is_a_bad_record_or_records(garbage, count):
    sealed = record_batch.Sealed(0, garbage, count, 0).with_header(-1, -1, -1)
    (frame,) = frames(bytes(sealed))
    try:
        batch = parse(frame)
    except BadRecord:
        return
    assert len(batch.records) == count == len(batch.offsets)


def test_compressed_garbage_is_a_bad_record():
    sealed = record_batch.Sealed(3, b"garbage" * 20, 1, 0).with_header(-1, -1, -1)
    with pytest.raises(BadRecord):
        only(bytes(sealed))


def test_old_message_format_is_refused():
    data = bytearray(theirs([(b"k", b"v")]))
    data[16] = 1
    with pytest.raises(BadRecord, match="old message format"):
        only(bytes(data))


def test_impossible_length_is_a_bad_record():
    data = bytearray(theirs([(b"k", b"v")]))
    data[8:12] = (5).to_bytes(4, "big")
    with pytest.raises(BadRecord, match="impossible length"):
        list(frames(bytes(data)))


@given(
    st.lists(st.tuples(st.binary(max_size=300), BODY), min_size=1, max_size=80),
    st.integers(min_value=20_000, max_value=40_000),
)
def test_sealed_batches_hold_every_record_once_in_order(records, limit):
    whole, slices = [], []
    for sealed in kafka_batches.sealed_batches(records, limit, 0):
        assert sealed.size <= limit
        batch = only(bytes(sealed.with_header(-1, -1, -1)))
        if PART in batch.headers.get(0, {}):
            slices.append(batch.records[0])
            number, total = batch.headers[0][PART].split(b"/")
            if number == total:
                whole.append((slices[0][0], b"".join(value for _, value in slices)))
                slices = []
        else:
            whole += batch.records
    assert whole == records


def test_key_that_fills_a_batch_is_refused():
    with pytest.raises(ConfigurationError, match="key of 20000 bytes"):
        list(cut((b"k" * 20_000, b"v"), 20_100))


@pytest.mark.parametrize("missing", ["_accumulator", "_sender"])
def test_unexpected_producer_is_recognised(missing):
    producer = SimpleNamespace(_accumulator=None, _sender=None, _unregister_cleanup=None)
    delattr(producer, missing)
    assert kafka_batches.why_not_ready_batches(producer) == "KafkaProducer"


def test_other_version_is_recognised(monkeypatch):
    monkeypatch.setattr(kafka_batches.kafka, "__version__", "3.1.0")
    assert kafka_batches.why_not_ready_batches(object()) == "version 3.1.0"
    assert kafka_batches.why_not_whole_batches(object()) == "version 3.1.0"


def test_unexpected_consumer_is_recognised():
    assert kafka_batches.why_not_whole_batches(object()) == "Fetcher"


def test_fallback_is_logged(caplog):
    log = KafkaLog(["127.0.0.1:1"], {})
    with caplog.at_level(logging.WARNING):
        assert not log._may_be_fast("version 3.1.0")
    assert [record.event for record in caplog.records] == ["kafka_fallback"]
    assert log._may_be_fast(None)
    assert not KafkaLog(["127.0.0.1:1"], {}, fast=False)._may_be_fast(None)


def test_unknown_options_are_named_without_their_values():
    with pytest.raises(ConfigurationError) as caught:
        KafkaLog(["127.0.0.1:1"], {"sasl_plain_pasword": "s3cret", "bootstrap_servers": "x"})
    assert str(caught.value) == (
        "LOG_OPTIONS names unknown options: bootstrap_servers, sasl_plain_pasword."
    )


def test_missing_crc32c_is_refused(monkeypatch):
    monkeypatch.setattr("kafka.record.util.crc32c_c", None)
    with pytest.raises(ConfigurationError) as caught:
        KafkaLog(["127.0.0.1:1"], {})
    assert caught.value.remedy == "pip install crc32c"
