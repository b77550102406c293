# cython: language_level=3
"""Bytes that grow: where a record or a line is written before it becomes an object of Python. And the
numbers of Postgres' protocol."""

from libc.stdlib cimport realloc
from libc.string cimport memcpy


cdef struct Buffer:
    char *data
    Py_ssize_t size  # of what is written
    Py_ssize_t room  # of what is allocated


cdef inline int grow(Buffer *out, Py_ssize_t more) except -1:
    """Make room for `more` bytes."""
    cdef Py_ssize_t room
    cdef char *data
    if out.size + more > out.room:
        room = (out.size + more) * 2
        data = <char *> realloc(out.data, room)
        if data == NULL:
            raise MemoryError
        out.data, out.room = data, room
    return 0


cdef inline void put(Buffer *out, const char *data, Py_ssize_t size) noexcept:
    """Write bytes; there is room for them."""
    memcpy(out.data + out.size, data, size)
    out.size += size


cdef inline void put_unsigned(Buffer *out, unsigned long long number) noexcept:
    """Write a number that is not negative in decimal; there is room for 20 bytes."""
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char> (48 + number % 10)
        number //= 10
        if number == 0:
            break
    put(out, &digits[at], 20 - at)


cdef inline void put_number(Buffer *out, long long number) noexcept:
    """Write a number in decimal; there is room for 20 bytes."""
    cdef unsigned long long positive = <unsigned long long> number
    if number < 0:
        positive = 0 - positive
        out.data[out.size] = 45
        out.size += 1
    put_unsigned(out, positive)


cdef inline unsigned int read_size(const unsigned char *at) noexcept:
    """Read a number of four bytes, the highest first."""
    return (<unsigned int> at[0] << 24) | (at[1] << 16) | (at[2] << 8) | at[3]


cdef inline unsigned long long read_long(const unsigned char *at) noexcept:
    """Read one of eight."""
    return (<unsigned long long> read_size(at) << 32) | read_size(at + 4)
