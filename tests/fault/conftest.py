"""Two environments that outlive a test: one more fault each, after which all must be equal."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import SampleFactory
from tests.support.postgres import PostgresServer
from tests.support.sample.databases import SampleTemplates
from tests.support.traffic import Watch, begin
from tests.support.two_environments import SOURCE, TwoEnvironments

Make = Callable[..., TwoEnvironments]


@pytest.fixture
def two_environments(sample_database: SampleFactory, tmp_path: Path) -> Iterator[Make]:
    """Make two environments of this test alone, with a few rows on the source; not started."""
    with ExitStack() as stack:

        def make(**options: object) -> TwoEnvironments:
            source = str(options.pop("source", None) or sample_database("source"))
            target = str(options.pop("target", None) or sample_database("target"))
            begin(source)
            made = TwoEnvironments(tmp_path, source, target, **options)  # type: ignore[arg-type]
            stack.callback(made.close)
            return made

        yield make


class Shared:
    """Two environments that are used by one test after the other, until one of them fails."""

    def __init__(
        self, server: PostgresServer, templates: SampleTemplates, folders: pytest.TempPathFactory
    ) -> None:
        self._server, self._templates, self._folders = server, templates, folders
        self._made: dict[tuple[str, ...], tuple[TwoEnvironments, Watch, list[str]]] = {}

    def get(self, datasets: Sequence[str], log: str | None) -> tuple[TwoEnvironments, Watch]:
        """Give them, running, with a reader that watches the target."""
        key = (*datasets, log or "")
        if key not in self._made:
            names = [self._templates.clone(self._server, name) for name in ("source", "target")]
            source, target = map(self._server.conninfo, names)
            begin(source)
            folder = self._folders.mktemp("environments")
            # A name of its own, because topics of a shared broker outlive it.
            name = f"prod-{uuid.uuid4().hex[:8]}" if log else SOURCE
            pair = TwoEnvironments(folder, source, target, log=log, datasets=datasets, name=name)
            try:
                pair.start()
            except BaseException:
                pair.close()
                raise
            self._made[key] = (pair, Watch(target), names)
        return self._made[key][:2]

    def discard(self) -> None:
        """End all of them: the next test gets fresh ones."""
        for pair, watch, names in self._made.values():
            pair.close()
            watch.end()
            for name in names:
                self._server.drop_database(name)
        self._made.clear()


@pytest.fixture(scope="module")
def shared(
    postgres_server: PostgresServer,
    _templates: SampleTemplates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shared]:
    """Environments shared by the tests of a module."""
    made = Shared(postgres_server, _templates, tmp_path_factory)
    yield made
    made.discard()
