"""A real TCP proxy on the loopback interface that can cut, refuse, go deaf or be slow.

One thread accepts, two per connection carry bytes. Nothing here blocks its caller for longer than
a thread needs to end.
"""

import contextlib
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from tests.support.ports import free_port

_BLOCK = 65_536
_TICK = 0.2
_RESET = struct.pack("ii", 1, 0)


class _Link:
    """One connection through the proxy. Its sockets are closed by the thread that ends last."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = (client, server)
        self.cut = threading.Event()
        self._open_directions = 2
        self._lock = threading.Lock()
        for end in self.ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(_TICK)

    def finish(self, receiver: socket.socket) -> bool:
        """Pass on that one direction has ended; True if it was the last and all is closed."""
        if not self.cut.is_set():
            with contextlib.suppress(OSError):
                receiver.shutdown(socket.SHUT_WR)
        with self._lock:
            self._open_directions -= 1
            if self._open_directions:
                return False
        for end in self.ends:
            end.close()
        return True

    def reset(self) -> None:
        """Drop the connection on both sides with RST, as a firewall or a dead host does."""
        self.cut.set()
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                # Wakes the thread that reads, and sends nothing (SHUT_WR would send FIN).
                end.shutdown(socket.SHUT_RD)

    def read(self, sender: socket.socket) -> bytes:
        """Wait for bytes; none at the end of the direction or after a cut."""
        while not self.cut.is_set():
            with contextlib.suppress(TimeoutError):
                return sender.recv(_BLOCK)
        return b""

    def write(self, receiver: socket.socket, block: bytes) -> None:
        """Send all of `block`, unless the connection is cut meanwhile."""
        rest = memoryview(block)
        while rest and not self.cut.is_set():
            with contextlib.suppress(TimeoutError):
                rest = rest[receiver.send(rest) :]


class TcpProxy:
    """Passes TCP connections on to a port of 127.0.0.1.

    Args:
        target_port: where connections are passed on to; need not be open yet.
        port: port to listen on; None takes a free one.
    """

    def __init__(self, target_port: int, port: int | None = None) -> None:
        self.target_port = target_port
        self.port = port or free_port()
        self._hearing = threading.Event()
        self._hearing.set()
        self._seconds = 0.0
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.accept()

    def accept(self) -> None:
        """Take new connections (again)."""
        if self._listener is not None:
            return
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def cut(self) -> None:
        """Drop every open connection; new ones are still taken."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            link.reset()

    def deafen(self) -> None:
        """Let connections stay open, and new ones open, while no byte passes either way."""
        self._hearing.clear()

    def hear(self) -> None:
        """Let bytes pass again, those that came meanwhile first."""
        self._hearing.set()

    def delay(self, seconds: float) -> None:
        """Hold every block of bytes back for `seconds`, each way; 0 ends it."""
        self._seconds = seconds

    @property
    def connections(self) -> int:
        """Number of connections that are open now."""
        with self._lock:
            return len(self._links)

    def close(self) -> None:
        """Refuse, cut, and let all threads end."""
        self.refuse()
        self.cut()
        self._hearing.set()

    def __enter__(self) -> Self:
        """Give the running proxy."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target_port), timeout=10)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.close()
            return
        link = _Link(client, server)
        with self._lock:
            self._links.add(link)
        for sender, receiver in (link.ends, link.ends[::-1]):
            pump = threading.Thread(target=self._pump, args=(link, sender, receiver), daemon=True)
            pump.start()

    def _pump(self, link: _Link, sender: socket.socket, receiver: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := link.read(sender):
                self._hold(link)
                link.write(receiver, block)
        self._hold(link)
        if link.finish(receiver):
            with self._lock:
                self._links.discard(link)

    def _hold(self, link: _Link) -> None:
        """Wait out deafness and delay, unless the connection is cut meanwhile."""
        if self._seconds:
            link.cut.wait(self._seconds)
        while not (link.cut.is_set() or self._hearing.wait(0.05)):
            pass
