"""The command `replicator capture`."""

from functools import lru_cache

from django.conf import settings as django_settings

from replicator import compiler
from replicator.cli.arguments import Arguments
from replicator.daemon import run_daemon
from replicator.datasets import find_dataset
from replicator.declare import Dataset, declared_datasets
from replicator.errors import ConfigurationError
from replicator.models import Beat
from replicator.settings import load_settings
from replicator_capture.answer_plan import FindDataset
from replicator_capture.daemon import Capture
from replicator_capture.task import task_of

COMPILED = 256
"""Datasets that are kept compiled; with other arguments it is another one."""


def run(arguments: Arguments) -> int:
    """Capture one stream in the foreground until a signal stops it; 0 then.

    Raises:
        ConfigurationError: there is no such stream, or a reason for no new epoch; or this
            environment is no source.
        ReplicatorError: what ended it.
    """
    settings = load_settings()
    if arguments.reason is not None and not arguments.new_epoch:
        raise ConfigurationError(
            "--reason is given without --new-epoch.",
            remedy="Give both to begin a new epoch, or neither.",
        )
    if not settings.publishes:
        raise ConfigurationError(
            f"This environment, {settings.environment!r}, publishes to nobody: TARGETS is empty. "
            "Capture would make a slot, which holds WAL as long as it is there.",
            remedy="If it is a source, say in TARGETS who may ask for what; if it is a target "
            "only, run `replicator apply`.",
        )
    if arguments.stream not in settings.streams:
        raise ConfigurationError(
            f"There is no stream {arguments.stream!r}.",
            remedy=f"Name one of STREAMS: {', '.join(settings.streams)}.",
        )
    task = task_of(
        settings,
        arguments.stream,
        django_settings.DATABASES,
        (compiler.releases(arguments.stream), finder()),
        compiler.table_of(Beat),
    )
    reason = arguments.reason or "by command"
    capture = Capture(task, new_epoch=arguments.new_epoch, reason=reason)
    return run_daemon("capture", capture.run, settings)


def finder() -> FindDataset:
    """Give what looks up a dataset for a request; what needs no arguments is compiled already.

    Raises:
        WrongDeclaration: one of the datasets cannot be compiled.
    """
    find = lru_cache(COMPILED)(find_dataset)
    for name, dataset in declared_datasets().items():
        if isinstance(dataset, Dataset):
            find(name, "")
    return find
