"""Looking for the names of keys that are new."""

from collections.abc import Iterator, Mapping

import pytest

from replicator_capture.names import VAIN_FOR, WAITS, Names


class Book:
    """Gives one state of the table after the other, and counts."""

    def __init__(self, *states: Mapping[bytes, bytes]) -> None:
        self._states: Iterator[Mapping[bytes, bytes]] = iter(states)
        self.now, self.waited = 0.0, 0.0
        self.reads = 0

    def read(self) -> Mapping[bytes, bytes]:
        self.reads += 1
        return next(self._states)

    def sleep(self, seconds: float) -> None:
        self.waited += seconds

    def names(self, known: Mapping[bytes, bytes]) -> Names:
        return Names(known, self.read, lambda: self.now, self.sleep)


def test_a_known_key_reads_nothing() -> None:
    book = Book()
    assert book.names({b"1": b'"a.b"'}).of(b"1") == b'"a.b"'


def test_a_new_key_is_looked_for_until_its_commit_can_be_seen() -> None:
    book = Book({}, {}, {b"2": b'"a.c"'})
    names = book.names({})
    assert names.of(b"2") == b'"a.c"'
    assert book.waited == pytest.approx(sum(WAITS[:3]))
    assert names.of(b"2") == b'"a.c"'
    assert book.reads == 3


def test_a_key_that_has_gone_is_not_looked_for_each_time() -> None:
    book = Book(*[{}] * (len(WAITS) + 1), {b"2": b'"a.c"'})
    names = book.names({})
    assert names.of(b"2") == names.of(b"2") == b""
    assert book.reads == len(WAITS)
    book.now = VAIN_FOR + 1
    assert names.of(b"2") == b'"a.c"'
