"""Waiting with a limit."""

import time
from collections.abc import Callable


def until(
    condition: Callable[[], bool],
    state: Callable[[], str],
    *,
    check: Callable[[], None] = lambda: None,
    seconds: float = 30,
) -> None:
    """Wait until a condition holds.

    Args:
        condition: asked again and again.
        state: says how things stand, for the message.
        check: raises what keeps it from ever holding.
        seconds: how long.
    """
    end = time.monotonic() + seconds
    while not condition():
        check()
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {state()}")
        time.sleep(0.02)
