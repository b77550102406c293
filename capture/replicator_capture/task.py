"""What one stream's capture needs to know: settings and declarations. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replicator.plan import Release, TableName
from replicator.postgres import Parameters, connection_parameters
from replicator.settings import ReplicatorSettings, stream_topic
from replicator_capture.answer_plan import FindDataset


@dataclass(frozen=True, slots=True)
class Task:
    """What one stream's capture needs to know.

    Attributes:
        settings: of Replicator.
        stream: name of the stream.
        database: connection parameters of the source.
        releases: of the stream's tables.
        find: looks up a dataset, for requests.
        beat_table: where the beat is.
    """

    settings: ReplicatorSettings
    stream: str
    database: Parameters
    releases: Sequence[Release]
    find: FindDataset
    beat_table: TableName

    @property
    def topic(self) -> str:
        """The stream's topic."""
        return stream_topic(self.settings.environment, self.stream)


def task_of(
    settings: ReplicatorSettings,
    stream: str,
    databases: Mapping[str, Mapping[str, Any]],
    declared: tuple[Sequence[Release], FindDataset],
    beat_table: TableName,
) -> Task:
    """Put together what capture needs.

    Args:
        settings: of Replicator.
        stream: name of the stream.
        databases: `settings.DATABASES`.
        declared: releases of the stream, and what looks up a dataset.
        beat_table: table of the model Beat.

    Raises:
        ConfigurationError: there is no such database, or it has no name.
    """
    releases, find = declared
    parameters = connection_parameters(
        settings.entry_of(databases), settings.direct, application=f"replicator capture {stream}"
    )
    return Task(settings, stream, parameters, releases, find, beat_table)
