# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Row messages of pgoutput → records: the compiled twin of `replicator_capture.encode`.

Knows new rows (inserts, and updates whose old row was not sent) of which every value was sent. At
whatever else it stops, and the caller goes on.

Format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free
from libc.string cimport memcmp

from replicator_speed.buffer cimport Buffer, grow, put, put_number

cdef enum:
    SKIPPED = 0
    NUMBER = 1
    TEXT = 3
    LONGEST = 1600  # columns of a table of Postgres
    LARGE = 1 << 20  # bytes of a message for which no memory is kept

cdef char *HEX = b"0123456789abcdef"


cdef inline unsigned int read_size(const unsigned char *at) noexcept:
    return (<unsigned int> at[0] << 24) | (at[1] << 16) | (at[2] << 8) | at[3]


cdef int put_text(Buffer *out, const unsigned char *text, Py_ssize_t size) except -1:
    """Write a text as JSON, at most six times as long, and quotes; 0: it is not UTF-8."""
    cdef Py_ssize_t n
    cdef unsigned char c, high = 0
    cdef char *to = out.data + out.size
    to[0] = b'"'
    to += 1
    for n in range(size):
        c = text[n]
        high |= c
        if c >= 0x20 and c != 0x22 and c != 0x5C:
            to[0] = <char> c
            to += 1
            continue
        to[0] = b"\\"
        to += 2
        if c == 0x22 or c == 0x5C:
            to[-1] = <char> c
        elif c == 0x0A:
            to[-1] = b"n"
        elif c == 0x0D:
            to[-1] = b"r"
        elif c == 0x09:
            to[-1] = b"t"
        elif c == 0x08:
            to[-1] = b"b"
        elif c == 0x0C:
            to[-1] = b"f"
        else:
            to[-1] = b"u"
            to[0] = to[1] = b"0"
            to[2] = HEX[c >> 4]
            to[3] = HEX[c & 15]
            to += 4
    to[0] = b'"'
    out.size = to + 1 - out.data
    if high >= 0x80:
        try:
            PyUnicode_DecodeUTF8(<const char *> text, size, NULL)
        except UnicodeDecodeError:
            return 0
    return 1


cdef class RowEncoder:
    """Encodes the row messages of one table; `replicator.speed.row_encoder` tells the arguments."""

    cdef bytes _kinds, _key_start, _insert, _update
    cdef list _names, _key
    cdef int _columns
    cdef bint _identified
    cdef Py_ssize_t _fixed
    cdef Buffer _value, _record_key

    def __init__(self, bytes kinds, list key, bytes key_start, list names, bint identified):
        if len(kinds) > LONGEST:
            raise ValueError("too many columns")
        self._kinds, self._key, self._key_start = kinds, key, key_start
        self._names, self._columns, self._identified = names, len(kinds), identified
        self._insert = b'{"op":"c","before":null,"after":{'
        self._update = b'{"op":"u","before":null,"after":{'
        self._fixed = sum(map(len, names)) + 100

    def __dealloc__(self):
        free(self._value.data)
        free(self._record_key.data)

    def run(self, list messages, Py_ssize_t start, bytes tail, long long ordinal, list records):
        """Encode messages from `start` on, as long as they are of this table and usual.

        Args:
            messages: of the stream; that at `start` is of this table.
            start: where to begin.
            tail: of the records of this table and transaction: from `"source"` to `"ordinal":`.
            ordinal: of the next record.
            records: key and value of each are appended.

        Returns:
            The index of the message that is not encoded, and the bytes of the values.
        """
        cdef Py_ssize_t index = start, last = len(messages), size = 0
        cdef const char *relation = PyBytes_AS_STRING(<bytes> messages[start]) + 1
        cdef bytes message
        cdef const unsigned char *data
        while index < last:
            message = <bytes> messages[index]
            data = <const unsigned char *> PyBytes_AS_STRING(message)
            if not 8 <= PyBytes_GET_SIZE(message) <= LARGE or data[5] != b"N":
                break
            if memcmp(data + 1, relation, 4) != 0:
                break
            if data[0] != b"I" and not (data[0] == b"U" and self._identified):
                break
            if not self._encode(data, PyBytes_GET_SIZE(message), tail, ordinal):
                break
            records.append((
                PyBytes_FromStringAndSize(self._record_key.data, self._record_key.size),
                PyBytes_FromStringAndSize(self._value.data, self._value.size),
            ))
            size += self._value.size
            ordinal += 1
            index += 1
        return index, size

    cdef int _encode(
        self, const unsigned char *data, Py_ssize_t size, bytes tail, long long ordinal
    ) except -1:
        """Write key and value of a message; 0: it is none of the usual ones."""
        cdef Buffer *out = &self._value
        cdef Buffer *key = &self._record_key
        cdef const char *kinds = PyBytes_AS_STRING(self._kinds)
        cdef Py_ssize_t starts[LONGEST]
        cdef Py_ssize_t ends[LONGEST]
        cdef Py_ssize_t at = 8, begin
        cdef unsigned int length
        cdef int column, released = 0
        cdef unsigned char kind
        cdef bytes name
        if ((<int> data[6]) << 8 | data[7]) != self._columns:
            return 0
        out.size = 0
        grow(out, 6 * size + self._fixed + PyBytes_GET_SIZE(tail))
        name = self._insert if data[0] == b"I" else self._update
        put(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        for column in range(self._columns):
            if at >= size:
                return 0
            kind = data[at]
            at += 1
            if kind == b"t":
                if at + 4 > size:
                    return 0
                length = read_size(data + at)
                at += 4
                if length > size - at:
                    return 0
            elif kind != b"n":
                return 0
            if kinds[column] == SKIPPED:
                if kind == b"t":
                    at += length
                continue
            name = <bytes> self._names[released]
            put(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            begin = out.size
            if kind == b"n":
                put(out, b"null", 4)
            elif kinds[column] == NUMBER:
                put(out, <const char *> data + at, length)
            elif kinds[column] == TEXT:
                if not put_text(out, data + at, length):
                    return 0
            elif length == 1 and data[at] == b"t":
                put(out, b"true", 4)
            elif length == 1 and data[at] == b"f":
                put(out, b"false", 5)
            else:
                return 0
            if kind == b"t":
                at += length
            starts[released], ends[released] = begin, out.size
            released += 1
        if at != size:
            return 0
        key.size = 0
        grow(key, out.size + PyBytes_GET_SIZE(self._key_start) + 2 + len(self._key))
        put(key, PyBytes_AS_STRING(self._key_start), PyBytes_GET_SIZE(self._key_start))
        for place in self._key:
            released = place
            put(key, b",", 1)
            put(key, out.data + starts[released], ends[released] - starts[released])
        put(key, b"]", 1)
        put(out, b"},", 2)
        put(out, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
        put_number(out, ordinal)
        put(out, b"}}", 2)
        return 1
