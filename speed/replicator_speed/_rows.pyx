# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Row messages of pgoutput → records: the compiled twin of `replicator_capture.encode`.

Knows new rows (inserts, and updates whose old row was not sent) of which every value was sent,
deleted rows of which the key was, and Commit and Begin between such rows of one table:
`replicator_capture.assemble` is the twin of this. At whatever else it stops, and the caller goes on.

Format: https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdlib cimport free
from libc.string cimport memcmp

from replicator_speed.buffer cimport Buffer, grow, put, put_number, put_unsigned, read_long, read_size
from replicator_speed.json cimport is_escaped, put_escape
from replicator_speed.record cimport LARGE, LONGEST, NUMBER, TEXT, put_key

cdef enum:
    SKIPPED = 0
    IDENTITY = 4  # a flag beside the kind of a column: part of the replica identity
    BEGIN_SIZE = 21
    COMMIT_SIZE = 26

cdef bytes INSERT = b'{"op":"c","before":null,"after":{'
cdef bytes UPDATE = b'{"op":"u","before":null,"after":{'
cdef bytes DELETE = b'{"op":"d","before":{'
cdef long long POSTGRES_EPOCH_US = 946_684_800_000_000  # it counts from 2000 on, Unix from 1970
cdef long long LATEST_US = 1LL << 62  # of a time that is usual, so that sums have room


cdef struct Begin:
    unsigned long long lsn
    long long ts_us
    unsigned int xid


cdef struct Commit:
    unsigned long long lsn
    unsigned long long end
    long long ts_us


cdef inline int read_time(const unsigned char *at, long long *ts_us) noexcept:
    """Read a time, as microseconds since 1970; 0: it is before 2000, or very far away."""
    cdef long long since_2000 = <long long> read_long(at)
    if not 0 <= since_2000 <= LATEST_US:
        return 0
    ts_us[0] = since_2000 + POSTGRES_EPOCH_US
    return 1


cdef inline int read_begin(bytes message, Begin *out) noexcept:
    """Read a Begin message; 0: it is none, or not a usual one."""
    cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(message)
    if PyBytes_GET_SIZE(message) != BEGIN_SIZE or data[0] != b"B":
        return 0
    out.lsn, out.xid = read_long(data + 1), read_size(data + 17)
    return read_time(data + 9, &out.ts_us)


cdef inline int read_commit(bytes message, Commit *out) noexcept:
    """Read a Commit message; 0: it is none, or not a usual one."""
    cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(message)
    if PyBytes_GET_SIZE(message) != COMMIT_SIZE or data[0] != b"C":
        return 0
    out.lsn, out.end = read_long(data + 2), read_long(data + 10)
    return read_time(data + 18, &out.ts_us)


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
        if not is_escaped(c):
            to[0] = <char> c
            to += 1
            continue
        to = put_escape(to, c)
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

    cdef bytes _kinds, _key_start
    cdef list _names, _key
    cdef int _columns
    cdef bint _identified
    cdef Py_ssize_t _fixed
    cdef Buffer _value, _record_key, _tail

    def __init__(self, bytes kinds, list key, bytes key_start, list names, bint identified):
        if len(kinds) > LONGEST:
            raise ValueError("too many columns")
        self._kinds, self._key, self._key_start = kinds, key, key_start
        self._names, self._columns, self._identified = names, len(kinds), identified
        self._fixed = sum(map(len, names)) + len(names) + 200

    def __dealloc__(self):
        free(self._value.data)
        free(self._record_key.data)
        free(self._tail.data)

    def run(
        self,
        list messages,
        Py_ssize_t start,
        tuple standing,
        list records,
        list ended,
    ):
        """Encode messages from `start` on, as long as they are of this table and usual.

        `replicator.speed.RowEncoder.run` tells the arguments and what is returned.
        """
        cdef Py_ssize_t index = start, row, last = len(messages), size = 0
        cdef const char *relation = PyBytes_AS_STRING(<bytes> messages[start]) + 1
        cdef bint between = False  # two transactions
        cdef long long ordinal
        cdef unsigned long long told
        cdef Begin begin
        cdef Commit commit
        cdef bytes tail
        cdef tuple parts
        tail, parts, begin.xid, ordinal, told = standing
        self._tail.size = 0
        grow(&self._tail, PyBytes_GET_SIZE(tail))
        put(&self._tail, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
        while index < last:
            row = index
            if between:
                # Taken in only with a row behind it: else it is left, as if it had not been read.
                row += 1
                if row == last or not read_begin(<bytes> messages[index], &begin):
                    break
                self._write_tail(parts, &begin)
            if not self._encode(<bytes> messages[row], relation, ordinal):
                break
            index = row + 1
            ordinal += 1
            between = (
                ended is not None
                and index < last
                and read_commit(<bytes> messages[index], &commit)
            )
            if between:
                ended.append((begin.xid, commit.lsn, commit.end, commit.ts_us, ordinal))
                self._put_positions(told, commit.end)
                told = commit.end
                ordinal = 0
                index += 1
            put(&self._value, b"}}", 2)
            records.append((
                PyBytes_FromStringAndSize(self._record_key.data, self._record_key.size),
                PyBytes_FromStringAndSize(self._value.data, self._value.size),
            ))
            size += self._value.size
        begun = None if between or not ended else (begin.lsn, begin.ts_us, begin.xid)
        return index, size, ordinal, begun

    cdef int _write_tail(self, tuple parts, const Begin *begin) except -1:
        """Write what follows the heads of a transaction's rows, up to the ordinal."""
        cdef Buffer *out = &self._tail
        cdef bytes start, lsn, ts_ms, end
        start, lsn, ts_ms, end = parts
        out.size = 0
        grow(out, sum(map(len, parts)) + 60)
        put(out, PyBytes_AS_STRING(start), PyBytes_GET_SIZE(start))
        put_unsigned(out, begin.xid)
        put(out, PyBytes_AS_STRING(lsn), PyBytes_GET_SIZE(lsn))
        put_unsigned(out, begin.lsn)
        put(out, PyBytes_AS_STRING(ts_ms), PyBytes_GET_SIZE(ts_ms))
        put_number(out, begin.ts_us // 1000)
        put(out, PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end))
        return 0

    cdef void _put_positions(self, unsigned long long told, unsigned long long to) noexcept:
        """Write into the record of a transaction's last row where it begins and ends."""
        put(&self._value, b',"from":', 8)
        put_unsigned(&self._value, told)
        put(&self._value, b',"to":', 6)
        put_unsigned(&self._value, to)

    cdef int _encode(self, bytes message, const char *relation, long long ordinal) except -1:
        """Write key and value of a message, up to the ordinal; 0: it is none of the usual ones."""
        cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(message)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        cdef Buffer *out = &self._value
        cdef const char *kinds = PyBytes_AS_STRING(self._kinds)
        cdef Py_ssize_t starts[LONGEST]
        cdef Py_ssize_t ends[LONGEST]
        cdef Py_ssize_t at = 8, begin
        cdef unsigned int length
        cdef int column, released = 0, shown = 0
        cdef unsigned char kind, letter, type_
        cdef bint deletes
        cdef bytes name, head
        if not 8 <= size <= LARGE or memcmp(data + 1, relation, 4) != 0:
            return 0
        letter = data[0]
        if letter != b"I" and not self._identified:
            return 0
        if letter == b"I":
            head = INSERT
        elif letter == b"U":
            head = UPDATE
        elif letter == b"D":
            head = DELETE
        else:
            return 0
        deletes = letter == b"D"
        if not (data[5] == b"K" if deletes else data[5] == b"N"):
            return 0
        if ((<int> data[6]) << 8 | data[7]) != self._columns:
            return 0
        out.size = 0
        grow(out, 6 * size + self._fixed + self._tail.size)
        put(out, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
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
            type_ = kinds[column] & ~IDENTITY
            if type_ == SKIPPED:
                if kind == b"t":
                    at += length
                continue
            if deletes and not kinds[column] & IDENTITY:
                if kind == b"t":
                    return 0
                released += 1
                continue
            if shown:
                put(out, b",", 1)
            shown += 1
            name = <bytes> self._names[released]
            put(out, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
            begin = out.size
            if kind == b"n":
                put(out, b"null", 4)
            elif type_ == NUMBER:
                put(out, <const char *> data + at, length)
            elif type_ == TEXT:
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
        put_key(&self._record_key, self._key_start, self._key, out, starts, ends)
        if deletes:
            put(out, b'},"after":null,', 15)
        else:
            put(out, b"},", 2)
        put(out, self._tail.data, self._tail.size)
        put_number(out, ordinal)
        return 1
