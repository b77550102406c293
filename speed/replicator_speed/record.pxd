# cython: language_level=3
"""What the encoders of rows have in common, wherever the rows come from."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from replicator_speed.buffer cimport Buffer, grow, put

cdef enum:
    NUMBER = 1
    TEXT = 3
    LONGEST = 1600  # columns of a table of Postgres
    LARGE = 1 << 20  # bytes of a row for which no memory is kept


cdef inline int put_key(
    Buffer *key, bytes start, list places, const Buffer *value, const Py_ssize_t *starts,
    const Py_ssize_t *ends
) except -1:
    """Write a record's key, its values as they stand in the record's value.

    Args:
        key: where to; what it holds is dropped.
        start: the key up to the comma before its first value.
        places: of the key's columns among the released ones.
        value: the record's.
        starts, ends: where each released column's stands in it.
    """
    cdef int place
    key.size = 0
    grow(key, value.size + PyBytes_GET_SIZE(start) + 2 + len(places))
    put(key, PyBytes_AS_STRING(start), PyBytes_GET_SIZE(start))
    for found in places:
        place = found
        put(key, b",", 1)
        put(key, value.data + starts[place], ends[place] - starts[place])
    put(key, b"]", 1)
    return 0
