"""Everything that Replicator raises on purpose, and what is to be done about each.

    ReplicatorError                     message, remedy
    ├── ConfigurationError              settings or declarations are wrong; exit code 2
    │   └── WrongDeclaration            an opt-in or a dataset; carries the id of its system check
    ├── Refused                         start-up found that going on would lose data; exit code 3
    ├── Stopped                         the stream cannot go on without a person; exit code 3
    │   ├── Hole                        records are missing from the log
    │   ├── Clash                       a local row stands where a replicated one must go
    │   ├── Unfit                       a table here is missing, or not what it must be
    │   └── Unwritable                  Postgres refused a row; table and reason are named
    ├── BadRecord                       a record of the log cannot be read; exit code 3
    │   └── BadMessage                  a message of Postgres' output plugin cannot be read
    ├── Unavailable                     a service is away or timed out: try again
    │   ├── DatabaseUnavailable
    │   └── LogUnavailable
    └── LostLog                         an append may be lost: end the process at once, and restart

Driver errors are translated where the driver is called, with `from`.
"""

from enum import Enum


class ReplicatorError(Exception):
    """Something that the operator can act on.

    Args:
        message: what happened, naming table or setting, never a row's value.
        remedy: what to do about it, one sentence; shown by every command and by `status`, and
            below a traceback (`manage.py migrate` shows one if declarations contradict).
    """

    remedy: str = ""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        if remedy:
            self.remedy = remedy
        if self.remedy:
            self.add_note(f"  → {self.remedy}")


class ConfigurationError(ReplicatorError):
    """Settings or declarations are wrong."""


class WrongDeclaration(ConfigurationError):
    """An opt-in or a dataset names what does not exist or cannot be.

    Args:
        message: as of every ReplicatorError.
        check_id: the system check that reports it, `replicator.E…`.
        remedy: as of every ReplicatorError.
    """

    def __init__(self, message: str, *, check_id: str, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.check_id = check_id


class Refused(ReplicatorError):
    """Start-up found that going on would lose, repeat or mix data."""


class Stopped(ReplicatorError):
    """The stream stands still until a person acts."""


class Hole(Stopped):
    """Records are missing from the log before the next transaction."""

    remedy = (
        "If no running capture repeats them, run `replicator rebase` on the target: it goes on "
        "behind the gap and backfills every subscription."
    )


class Clash(Stopped):
    """A local row of the target stands where a replicated row must go."""

    remedy = (
        "Remove or renumber the local rows, or set the subscription's on_clash to 'adopt' if the "
        "target began as a copy of the source: in SUBSCRIPTIONS, or by `replicator subscribe NAME "
        "--on-clash adopt`."
    )


class Unfit(Stopped):
    """A table of this database is missing, or not what it must be; it goes on once migrated."""


class Unwritable(Stopped):
    """Postgres refused a row of the stream."""


class BadRecord(ReplicatorError):
    """A record of the log cannot be read."""

    remedy = (
        "Check that nothing but capture writes to the topic, and that both sides run compatible "
        "versions."
    )


class BadMessage(BadRecord):
    """A message of Postgres' output plugin cannot be read."""

    remedy = (
        "Check that the source runs a Postgres version that this release knows, and report it; "
        "nothing was confirmed, so nothing is lost."
    )


class Unavailable(ReplicatorError):
    """A service is away or timed out; the caller tries again."""


class DatabaseUnavailable(Unavailable):
    """Postgres is away, shuts down, or cut the connection."""


class LogUnavailable(Unavailable):
    """The log cannot be reached."""


class LostLog(ReplicatorError):
    """An append failed and later ones may have been stored.

    Going on would make a hole, so the process ends and starts again from the confirmed position.
    """

    remedy = "The daemon's supervisor restarts it; nothing is lost."


class Disposition(Enum):
    """What becomes of the process that met an error."""

    RETRY = "retry"
    STOP = "stop"
    EXIT = "exit"


def disposition(error: BaseException) -> Disposition:
    """Say what a daemon does about an error; the only place that decides it."""
    if isinstance(error, Unavailable):
        return Disposition.RETRY
    if isinstance(error, (Stopped, BadRecord)):
        return Disposition.STOP
    return Disposition.EXIT


def exit_code(error: BaseException) -> int:
    """Exit code of a command that ends with `error`: 2 usage or configuration, else 3."""
    return 2 if isinstance(error, ConfigurationError) else 3
