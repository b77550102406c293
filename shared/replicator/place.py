"""Where a declaration stands, for the errors that it raises at once. Pure."""

import inspect
from pathlib import Path

from replicator.errors import ConfigurationError

_DECLARING = (
    __name__,
    "replicator.declare",
    "replicator.rule_sets",
    "replicator.selectors",
)


def place() -> str:
    """Say which file and line declares: the nearest caller outside of the declaring modules."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") in _DECLARING:
        frame = frame.f_back
    if frame is None:
        return "unknown"
    path, here = Path(frame.f_code.co_filename), Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{frame.f_lineno}"


def wrong(problem: str, remedy: str) -> ConfigurationError:
    """Make the error for a declaration that cannot even be noted; it says where that stands."""
    return ConfigurationError(f"{place()}: {problem}.", remedy=remedy)
