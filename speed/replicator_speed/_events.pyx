# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Records of one table → events of whole transactions, and those → changes: compiled twins of
`replicator_apply.assemble` and `replicator_apply.collapse`.

A record's value ends with its place in the stream, that of an answer with what it answers. These
are read from the end: what stands before may hold users' data, and is left to msgspec.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE
from libc.string cimport memcmp, memcpy


cdef enum:
    DIGITS = 18  # of a number, so that it fits into 63 bits
    ZERO = 48
    NINE = 57
    LIST_END = 93


cdef struct Place:
    long long commit
    long long ts_ms
    long long ordinal
    long long since
    long long to  # -1: the transaction goes on
    Py_ssize_t head  # bytes before the comma before `"source"`


cdef inline bint starts_with(bytes text, bytes prefix) noexcept:
    cdef Py_ssize_t size = PyBytes_GET_SIZE(prefix)
    return PyBytes_GET_SIZE(text) >= size and memcmp(
        PyBytes_AS_STRING(text), PyBytes_AS_STRING(prefix), size
    ) == 0


cdef inline bint back_text(const char *data, Py_ssize_t *end, bytes text) noexcept:
    """Step back over a text; False: another one stands there."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(text)
    if end[0] < size or memcmp(data + end[0] - size, PyBytes_AS_STRING(text), size) != 0:
        return False
    end[0] -= size
    return True


cdef inline bint back_number(const char *data, Py_ssize_t *end, long long *number) noexcept:
    """Step back over a number; False: none stands there, or a very large one."""
    cdef Py_ssize_t at = end[0]
    cdef long long value = 0, weight = 1
    while at > 0 and ZERO <= data[at - 1] <= NINE:
        if end[0] - at == DIGITS:
            return False
        at -= 1
        value += weight * (data[at] - ZERO)
        weight *= 10
    if at == end[0] or (data[at] == ZERO and end[0] - at > 1):
        return False
    end[0], number[0] = at, value
    return True


cdef bint read_place(
    const char *data, Py_ssize_t size, bytes before_xid, bytes before_ordinal, Place *place
) noexcept:
    """Read the end of a value; False: it is of another form."""
    cdef long long number = 0
    cdef Py_ssize_t end = size
    place.to = -1
    if not back_text(data, &end, b"}}") or not back_number(data, &end, &place.ordinal):
        return False
    if back_text(data, &end, b',"to":'):
        place.to = place.ordinal
        if not (
            back_number(data, &end, &place.since)
            and back_text(data, &end, b',"from":')
            and back_number(data, &end, &place.ordinal)
        ):
            return False
    if not (
        back_text(data, &end, before_ordinal)
        and back_number(data, &end, &place.ts_ms)
        and back_text(data, &end, b',"ts_ms":')
        and back_number(data, &end, &place.commit)
        and back_text(data, &end, b',"lsn":')
        and back_number(data, &end, &number)
        and back_text(data, &end, before_xid)
    ):
        return False
    place.head = end
    return end > 0


cdef bytes close_head(const char *data, Py_ssize_t size):
    """Give a value up to the comma before its place in the stream, closed."""
    cdef bytes head = PyBytes_FromStringAndSize(NULL, size + 1)  # not shared, however short
    memcpy(PyBytes_AS_STRING(head), data, size)
    PyBytes_AS_STRING(head)[size] = b"}"
    return head


def take_events(
    list records not None, Py_ssize_t index, bytes prefix not None, form, decode,
    origin, list events not None, tuple state not None, tuple room not None
):
    """Take the records from `index` on that are of one table and run, each the next one.

    Args:
        records: key and value of each.
        index: where to begin.
        prefix: how the table's keys begin.
        form: `replicator_apply.assemble._Form` of the table's values; all events get its `at`.
        decode: reads a value without its place.
        origin: makes an event's `source` of commit LSN and milliseconds.
        events: of the transaction that is open; those that are taken are appended.
        state: commit LSN of the transaction that is open (-1: none), its next ordinal, and the
            position that all before has been brought to.
        room: events of transactions that are whole, events of the one that is open, and bytes,
            from which on no more is taken; and whether a transaction may be closed here.

    Returns:
        The index of the first record that is not taken; how many transactions were closed, and how
        many of the events are theirs; of the last of them: commit LSN, `to`, milliseconds, and
        the bytes taken up to there; of the one that is open: commit LSN (-1: none), next ordinal,
        the bytes taken of it, and the index of its first record if that was taken, too.
    """
    cdef Py_ssize_t last = PyList_GET_SIZE(records), first = index, whole = 0, closed = 0
    cdef Py_ssize_t size = 0, whole_size = 0
    cdef long long commit = state[0], ordinal = state[1], position = state[2]
    cdef Py_ssize_t whole_room = room[0], open_room = room[1], bytes_room = room[2]
    cdef bint closes = room[3]
    cdef long long closed_commit = 0, closed_ms = 0
    cdef bytes key, value, before_xid = form[1], before_ordinal = form[2]
    cdef const char *data
    cdef Place place
    cdef object source = None, event, at = form[0]
    while index < last:
        if whole >= whole_room or PyList_GET_SIZE(events) - whole >= open_room:
            break
        key, value = <tuple> records[index]
        if not starts_with(key, prefix):
            break
        if size + PyBytes_GET_SIZE(value) >= bytes_room:
            break
        data = PyBytes_AS_STRING(value)
        if not read_place(data, PyBytes_GET_SIZE(value), before_xid, before_ordinal, &place):
            break
        if data[place.head - 1] == LIST_END:
            break  # some columns are unchanged: the row is not whole
        if commit < 0:
            if place.ordinal != 0 or place.commit < position:
                break
        elif place.commit != commit or place.ordinal != ordinal:
            break
        if place.to >= 0 and (not closes or place.since > position or place.to < place.commit):
            break
        try:
            event = decode(close_head(data, place.head))
        except Exception:
            break  # whatever it is, the plain twin tells
        if commit < 0:
            first, commit, ordinal, source = index, place.commit, 0, None
        if source is None:
            source = origin(commit, place.ts_ms)
        event.source = source
        event.at = at
        events.append((key, event))
        size += PyBytes_GET_SIZE(value)
        ordinal += 1
        index += 1
        if place.to >= 0:
            closed += 1
            closed_commit, closed_ms, position = commit, place.ts_ms, place.to
            whole, whole_size, commit, ordinal = PyList_GET_SIZE(events), size, -1, 0
    return (
        index, closed, whole, (closed_commit, position, closed_ms, whole_size),
        (commit, ordinal, size - whole_size, first),
    )


def go_on(
    list records not None, Py_ssize_t index, bytes prefix not None, tuple going not None,
    long long ordinal, decode, list events not None, tuple room not None
):
    """Take the records from `index` on that are of one table and transaction, each the next one.

    Args:
        records: key and value of each.
        index: where to begin.
        prefix: how the table's keys begin.
        going: what follows the heads of their values, up to the ordinal; what follows that; and
            `source`, `at` and `answer` that all their events get.
        ordinal: the first one's.
        decode: reads a value without its place.
        events: those that are taken are appended.
        room: events, and bytes, from which on no more is taken.

    Returns:
        The index of the first record that is not taken, its ordinal, and the bytes taken.
    """
    cdef Py_ssize_t last = PyList_GET_SIZE(records), size = 0, end
    cdef Py_ssize_t most = room[0], most_bytes = room[1]
    cdef bytes key, value, tail = going[0], behind = going[1]
    cdef object event, source = going[2], at = going[3], answer = going[4]
    cdef const char *data
    cdef long long found = 0
    while index < last and PyList_GET_SIZE(events) < most:
        key, value = <tuple> records[index]
        if not starts_with(key, prefix) or size + PyBytes_GET_SIZE(value) >= most_bytes:
            break
        data, end = PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
        if not (
            back_text(data, &end, behind)
            and back_number(data, &end, &found)
            and found == ordinal
            and back_text(data, &end, tail)
            and end > 0
        ):
            break
        try:
            event = decode(close_head(data, end - 1))
        except Exception:
            break  # whatever it is, the plain twin tells
        event.source = source
        event.at = at
        event.answer = answer
        events.append((key, event))
        size += PyBytes_GET_SIZE(value)
        ordinal += 1
        index += 1
    return index, ordinal, size


def collapse_events(
    list events not None, Py_ssize_t index, bytes prefix not None, row_type,
    dict born not None, dict changed not None, dict gone not None, set read not None,
):
    """Add the events from `index` on that are of one table and create, update or have read rows.

    Not what follows a change of the same key that is no update; it is left to the plain twin.

    Args:
        events: record key and event each.
        index: where to begin.
        prefix: how the table's keys begin.
        row_type: of rows that have all columns.
        born, changed, gone, read: of `replicator_apply.collapse.TableChanges`, not truncated.

    Returns:
        The index of the first event that is not added.
    """
    cdef Py_ssize_t last = PyList_GET_SIZE(events)
    cdef bytes key
    cdef object event, row
    cdef str op
    while index < last:
        key, event = <tuple> events[index]
        if not starts_with(key, prefix):
            break
        op = event.op
        if op == "c":
            if key in gone or key in changed:
                break
            born[key] = event.after
        elif op == "u":
            row = event.after
            if type(row) is not row_type or key in gone:
                break
            if key in born:
                born[key] = row
            else:
                changed[key] = row
        elif op == "r":
            if key in gone or key in born:
                break
            changed[key] = event.after
            read.add(key)
        else:
            break
        index += 1
    return index
