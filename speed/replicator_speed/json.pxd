# cython: language_level=3
"""Characters in a text of JSON.

Format: https://www.rfc-editor.org/rfc/rfc8259#section-7
"""


cdef inline bint is_escaped(unsigned char c) noexcept:
    """Whether a byte of UTF-8 cannot stand in a text as it is."""
    return c < 0x20 or c == 0x22 or c == 0x5C


cdef inline char *put_escape(char *to, unsigned char c) noexcept:
    """Write a byte that cannot, as at most six bytes; give where they end."""
    cdef const char *digits = "0123456789abcdef"
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
        to[2] = digits[c >> 4]
        to[3] = digits[c & 15]
        to += 4
    return to
