"""Opens the sockets of kafka-python: closes those that fail, and reads much at once.

kafka-python 3.0 leaves the sockets of failed attempts to the garbage collector: a daemon that has
switched it off would lose a file descriptor a second while the brokers are away. And it reads 4 kB
at a time, each of which lets go of Python's lock and has to wait for it. It opens its sockets by a
class that is chosen by the scheme of `proxy_url` and registers itself; this one is chosen by
`DIRECT` and connects directly. What comes through TLS or a proxy is still read 4 kB at a time.
"""

import socket
from typing import Any, Final

from kafka.net.inet import KafkaNetSocket

DIRECT = "direct://"
"""Value of kafka-python's `proxy_url` for connections without a proxy."""

_READ_BYTES: Final = 1 << 16


class _WideSocket(socket.socket):
    """Reads more than it is asked for; what TLS wraps is read by other code."""

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return super().recv(max(size, _READ_BYTES), flags)


class DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # untyped
    """Connects like kafka-python's own class, and leaves nothing open where that fails."""

    SCHEMES = ("direct",)

    def socket(self, *kind: int) -> socket.socket:
        """Make a socket of this family, type and protocol."""
        return _WideSocket(*kind)

    async def sock_connect(self, net: Any, sock: Any, *where: Any, **limits: Any) -> Any:
        """Connect a fresh socket. Raises kafka.errors.KafkaError."""
        connected = False
        try:
            await super().sock_connect(net, sock, *where, **limits)
            connected = True
        finally:
            if not connected:
                sock.close()
        return sock
