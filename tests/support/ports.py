"""TCP ports of the loopback interface that nothing else on this machine will take meanwhile."""

import random
import socket
import threading

# Below the range from which Linux takes the local ports of outgoing connections (32768 on): a
# server that is down for a moment finds its port free again, and nobody connects to themselves.
_RANGE = range(15_000, 32_000)

_given: set[int] = set()
_lock = threading.Lock()
_random = random.SystemRandom()


def free_port() -> int:
    """Give a port on 127.0.0.1 that is free now and has not been given before.

    Raises:
        OSError: no port is free.
    """
    with _lock:
        for _ in range(200):
            port = _random.choice(_RANGE)
            if port not in _given and _can_bind(port):
                _given.add(port)
                return port
    raise OSError("no free port between 15000 and 32000")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
