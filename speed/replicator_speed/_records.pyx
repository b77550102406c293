# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Bodies of Kafka's record batches: the compiled twins of `replicator.log.record_batch`.

Format: https://kafka.apache.org/documentation/#recordbatch
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free

from replicator_speed.buffer cimport Buffer, grow, put

MOST = 16_384
"""Records of one batch."""


cdef inline int sized(unsigned long long length) noexcept:
    """Say how many bytes the varint of a length takes."""
    cdef int size = 1
    length <<= 1
    while length > 0x7F:
        length >>= 7
        size += 1
    return size


cdef inline void put_varint(Buffer *out, unsigned long long length) noexcept:
    """Write a number that is not negative: zigzag, seven bits a byte, lowest first."""
    length <<= 1
    while length > 0x7F:
        out.data[out.size] = <char> (length & 0x7F | 0x80)
        out.size += 1
        length >>= 7
    out.data[out.size] = <char> length
    out.size += 1


def encode_records(records not None, Py_ssize_t start, Py_ssize_t limit):
    """Write as many records from `start` on as fit; see `encode_records_plainly`."""
    cdef list given = records if isinstance(records, list) else list(records)
    cdef Buffer out
    cdef Py_ssize_t index = start, count = 0, last = min(len(given), start + MOST)
    cdef Py_ssize_t key_size, value_size, length
    cdef bytes key, value
    out.data, out.size, out.room = NULL, 0, 0
    try:
        while index < last:
            key, value = given[index]
            key_size, value_size = PyBytes_GET_SIZE(key), PyBytes_GET_SIZE(value)
            length = 3 + sized(count) + sized(key_size) + key_size + sized(value_size) + value_size
            if out.size + sized(length) + length > limit:
                break
            grow(&out, length + 10)
            put_varint(&out, length)
            put(&out, b"\0\0", 2)
            put_varint(&out, count)
            put_varint(&out, key_size)
            put(&out, PyBytes_AS_STRING(key), key_size)
            put_varint(&out, value_size)
            put(&out, PyBytes_AS_STRING(value), value_size)
            put(&out, b"\0", 1)
            count += 1
            index += 1
        return PyBytes_FromStringAndSize(out.data, out.size), count
    finally:
        free(out.data)


cdef inline int read_varint(
    const unsigned char *data, Py_ssize_t *at, Py_ssize_t end, long long *found
) noexcept:
    """Read a number; 0: the data ends before it does, or it is longer than 64 bits."""
    cdef unsigned long long raw = 0
    cdef int shift = 0
    while at[0] < end and shift < 64:
        raw |= (<unsigned long long> (data[at[0]] & 0x7F)) << shift
        at[0] += 1
        if data[at[0] - 1] < 0x80:
            found[0] = <long long> (raw >> 1) ^ -(<long long> (raw & 1))
            return 1
        shift += 7
    return 0


def decode_records(bytes body not None, Py_ssize_t count):
    """Read a body of records without headers; None: some have any, or the framing is off."""
    cdef const unsigned char *data = <const unsigned char *> PyBytes_AS_STRING(body)
    cdef Py_ssize_t end = PyBytes_GET_SIZE(body), at = 0, record_end, key_at, value_at
    cdef long long length = 0, key_size = 0, value_size = 0, ignored = 0, headers = 0
    cdef list out = []
    for _ in range(count):
        if not read_varint(data, &at, end, &length) or length < 0 or length > end - at:
            return None
        record_end = at + length
        at += 1  # attributes
        if not read_varint(data, &at, record_end, &ignored):  # timestamp delta
            return None
        if not read_varint(data, &at, record_end, &ignored):  # offset delta
            return None
        if not read_varint(data, &at, record_end, &key_size) or key_size > record_end - at:
            return None
        key_at, key_size = at, max(key_size, 0)
        at += key_size
        if not read_varint(data, &at, record_end, &value_size) or value_size > record_end - at:
            return None
        value_at, value_size = at, max(value_size, 0)
        at += value_size
        if not read_varint(data, &at, record_end, &headers) or headers or at != record_end:
            return None
        out.append((
            PyBytes_FromStringAndSize(<const char *> data + key_at, key_size),
            PyBytes_FromStringAndSize(<const char *> data + value_at, value_size),
        ))
    return out if at == end else None
