# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Rows → COPY text: the compiled twin of `replicator_apply.copytext.chunk`.

Format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject_GetAttr
from libc.stdlib cimport free

from replicator_speed.buffer cimport Buffer, grow, put, put_number

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1


cdef int put_escaped(Buffer *out, const char *text, Py_ssize_t size, char delimiter) noexcept:
    """Write a text, at most twice as long."""
    cdef Py_ssize_t n
    cdef char c
    cdef char *to = out.data + out.size
    for n in range(size):
        c = text[n]
        if c == b"\\" or c == delimiter:
            to[0] = b"\\"
            to += 1
        elif c == b"\n":
            to[0] = b"\\"
            to += 1
            c = b"n"
        elif c == b"\r":
            to[0] = b"\\"
            to += 1
            c = b"r"
        to[0] = c
        to += 1
    out.size = to - out.data
    return 0


def copy_lines(rows, tuple fields not None, bytes start not None, bytes null not None,
               bytes delimiter not None):
    """Write rows as COPY text.

    Args:
        rows: the rows: their values are None, bool, int or str.
        fields: names of the fields, in the order of the columns.
        start: cells that stand before each row's own, each followed by the delimiter.
        null: how NULL is written.
        delimiter: between cells, one byte.
    """
    cdef Buffer out
    cdef Py_ssize_t size = 0
    cdef const char *text
    cdef char between = delimiter[0]
    cdef int overflow = 0
    cdef long long number
    cdef bint first
    cdef object cell, name
    out.data, out.size, out.room = NULL, 0, 0
    try:
        for row in rows:
            grow(&out, PyBytes_GET_SIZE(start) + 1)
            put(&out, PyBytes_AS_STRING(start), PyBytes_GET_SIZE(start))
            first = True
            for name in fields:
                cell = PyObject_GetAttr(row, name)
                if not first:
                    grow(&out, 1)
                    put(&out, &between, 1)
                first = False
                if type(cell) is str:
                    text = PyUnicode_AsUTF8AndSize(cell, &size)
                    grow(&out, 2 * size)
                    put_escaped(&out, text, size, between)
                elif cell is None:
                    grow(&out, PyBytes_GET_SIZE(null))
                    put(&out, PyBytes_AS_STRING(null), PyBytes_GET_SIZE(null))
                elif type(cell) is int:
                    number = PyLong_AsLongLongAndOverflow(cell, &overflow)
                    if overflow:
                        cell = str(cell)
                        text = PyUnicode_AsUTF8AndSize(cell, &size)
                        grow(&out, size)
                        put(&out, text, size)
                    else:
                        grow(&out, 20)
                        put_number(&out, number)
                else:
                    cell = str(cell)
                    text = PyUnicode_AsUTF8AndSize(cell, &size)
                    grow(&out, 2 * size)
                    put_escaped(&out, text, size, between)
            grow(&out, 1)
            put(&out, b"\n", 1)
        return PyBytes_FromStringAndSize(out.data, out.size)
    finally:
        free(out.data)
