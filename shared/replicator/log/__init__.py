"""The log between capture and apply: topics of records, in order, durable once acknowledged.

`open_log` gives the log that a URL names: `kafka://host:port,…` or `sqlite:////path`. The ports
below are what capture and apply program against; every implementation passes the same contract
suite (`tests/contract`). One writer and one reader object belong to one thread.
"""

from replicator.log.port import Chunk, Log, LogReader, LogWriter, TopicState, open_log
from replicator.log.tail import Found, last_records

__all__ = [
    "Chunk",
    "Found",
    "Log",
    "LogReader",
    "LogWriter",
    "TopicState",
    "last_records",
    "open_log",
]
