# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows that a fetch read → records of its answer: the compiled twins of
`replicator_capture.encode.ReadEncoder` and of what `replicator_capture.assemble` does to them.

Format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.stdlib cimport free
from libc.string cimport memchr

from replicator_speed.buffer cimport Buffer, grow, put, put_number
from replicator_speed.json cimport is_escaped, put_escape
from replicator_speed.record cimport LARGE, LONGEST, NUMBER, TEXT, put_key

cdef enum:
    TAB = 0x09
    BACKSLASH = 0x5C

cdef bytes READ = b'{"op":"r","before":null,"after":{'


cdef inline unsigned char meant(unsigned char c) noexcept:
    """Say which character one behind a backslash stands for."""
    if c == b"b":
        return 0x08
    if c == b"f":
        return 0x0C
    if c == b"n":
        return 0x0A
    if c == b"r":
        return 0x0D
    if c == b"t":
        return 0x09
    if c == b"v":
        return 0x0B
    return c


cdef const char *put_unescaped(Buffer *out, const char *at, const char *end) noexcept:
    """Write a field as JSON, at most six times as long, and quotes; give where it ends."""
    cdef unsigned char c
    cdef char *to = out.data + out.size
    to[0] = b'"'
    to += 1
    while at < end:
        c = <unsigned char> at[0]
        if c == TAB:
            break
        at += 1
        if c == BACKSLASH and at < end and at[0] != TAB:
            c = meant(<unsigned char> at[0])
            at += 1
        if is_escaped(c):
            to = put_escape(to, c)
        else:
            to[0] = <char> c
            to += 1
    to[0] = b'"'
    out.size = to + 1 - out.data
    return at


cdef class LineEncoder:
    """Encodes rows of one table; `replicator.speed.line_encoder` tells the arguments."""

    cdef bytes _kinds, _key_start
    cdef list _names, _key
    cdef int _columns
    cdef Py_ssize_t _fixed
    cdef Buffer _value, _record_key

    def __init__(self, bytes kinds, list key, bytes key_start, list names):
        if not 0 < len(kinds) <= LONGEST:
            raise ValueError("too many columns, or none")
        self._kinds, self._key, self._key_start = kinds, key, key_start
        self._names, self._columns = names, len(kinds)
        self._fixed = sum(map(len, names)) + 8 * len(names) + 50

    def __dealloc__(self):
        free(self._value.data)
        free(self._record_key.data)

    def rows(self, bytes block not None):
        """Encode lines of COPY's text format, UTF-8; None: some do not fit, or are very long."""
        cdef const char *at = PyBytes_AS_STRING(block)
        cdef const char *last = at + PyBytes_GET_SIZE(block)
        cdef const char *end
        cdef list rows = []
        while at < last:
            end = <const char *> memchr(at, b"\n", last - at)
            if end == NULL or not self._encode(at, end):
                return None
            rows.append((
                PyBytes_FromStringAndSize(self._record_key.data, self._record_key.size),
                PyBytes_FromStringAndSize(self._value.data, self._value.size),
            ))
            at = end + 1
        return rows

    cdef int _encode(self, const char *at, const char *end) except -1:
        """Write key and head of a line, without its newline; 0: it does not fit."""
        cdef Buffer *out = &self._value
        cdef const char *kinds = PyBytes_AS_STRING(self._kinds)
        cdef const char *start
        cdef Py_ssize_t starts[LONGEST]
        cdef Py_ssize_t ends[LONGEST]
        cdef int column, last = self._columns - 1
        cdef bytes name
        if end - at > LARGE:
            return 0
        out.size = 0
        grow(out, 6 * (end - at) + self._fixed)
        put(out, PyBytes_AS_STRING(READ), PyBytes_GET_SIZE(READ))
        for column in range(self._columns):
            if column:
                put(out, b",", 1)
            name = <bytes> self._names[column]
            put(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            starts[column], start = out.size, at
            if (
                end - at >= 2 and at[0] == BACKSLASH and at[1] == b"N"
                and (at + 2 == end or at[2] == TAB)
            ):
                put(out, b"null", 4)
                at += 2
            elif kinds[column] == TEXT:
                at = put_unescaped(out, at, end)
            else:
                while at < end and at[0] != TAB:
                    at += 1
                if kinds[column] == NUMBER:
                    put(out, start, at - start)
                elif at == start + 1 and start[0] == b"t":
                    put(out, b"true", 4)
                elif at == start + 1 and start[0] == b"f":
                    put(out, b"false", 5)
                else:
                    return 0
            ends[column] = out.size
            if column < last:
                if at == end:
                    return 0
                at += 1
        if at != end:
            return 0
        put(out, b"},", 2)
        put_key(&self._record_key, self._key_start, self._key, out, starts, ends)
        return 1


def place_records(
    list rows not None, bytes tail not None, long long ordinal, bytes end not None,
    list records not None,
):
    """Append the records of rows, each with its place in the stream.

    Args:
        rows: key and head of each.
        tail: what follows the heads, up to the ordinal.
        ordinal: the first one's.
        end: what follows that, from its brace on.
        records: key and value of each are appended.

    Returns:
        The bytes of the values.
    """
    cdef Py_ssize_t index, size = 0
    cdef bytes key, head
    cdef Buffer out
    out.data, out.size, out.room = NULL, 0, 0
    try:
        for index in range(PyList_GET_SIZE(rows)):
            key, head = <tuple> rows[index]
            out.size = 0
            grow(
                &out,
                PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(tail) + 20 + PyBytes_GET_SIZE(end),
            )
            put(&out, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
            put(&out, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
            put_number(&out, ordinal + index)
            put(&out, PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end))
            records.append((key, PyBytes_FromStringAndSize(out.data, out.size)))
            size += out.size
        return size
    finally:
        free(out.data)
