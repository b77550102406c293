# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames of the replication stream → messages: the compiled twin of `replicator_capture.frames`.

Format: https://www.postgresql.org/docs/current/protocol-replication.html
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_SIZE

from replicator_speed.buffer cimport read_long

cdef enum:
    HEADER = 25


def take_frames(take, list messages not None, Py_ssize_t most, Py_ssize_t most_bytes):
    """Take the frames that have arrived; see `replicator_capture.frames.take_frames_plainly`."""
    cdef Py_ssize_t length, size = 0
    cdef unsigned long long end = 0
    cdef Py_buffer view
    cdef const unsigned char *data
    cdef tuple taken
    while PyList_GET_SIZE(messages) < most and size < most_bytes:
        taken = take(1)
        length = taken[0]
        if length <= 0:
            return length, b"", size, end
        PyObject_GetBuffer(taken[1], &view, PyBUF_SIMPLE)
        try:
            data = <const unsigned char *> view.buf
            if view.len < HEADER or data[0] != b"w":
                return length, PyBytes_FromStringAndSize(<const char *> data, view.len), size, end
            messages.append(
                PyBytes_FromStringAndSize(<const char *> data + HEADER, view.len - HEADER)
            )
            size += length
            end = max(read_long(data + 1), read_long(data + 9))
        finally:
            PyBuffer_Release(&view)
    return 1, b"", size, end
