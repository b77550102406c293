"""Closes the sockets of failed connection attempts, which kafka-python 3.0 leaves to the collector.

A daemon that has switched the garbage collector off would lose a file descriptor a second while
the brokers are away. kafka-python opens its sockets by a class that is chosen by the scheme of
`proxy_url` and registers itself; this one is chosen by `DIRECT` and connects directly.
"""

from typing import Any

from kafka.net.inet import KafkaNetSocket

DIRECT = "direct://"
"""Value of kafka-python's `proxy_url` for connections without a proxy."""


class DirectSocket(KafkaNetSocket):  # type: ignore[misc]  # untyped
    """Connects like kafka-python's own class, and leaves nothing open where that fails."""

    SCHEMES = ("direct",)

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
