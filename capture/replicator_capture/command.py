"""The command `replicator capture`."""

from django.conf import settings as django_settings

from replicator import compiler
from replicator.cli.arguments import Arguments
from replicator.daemon import run_daemon
from replicator.datasets import compile_dataset
from replicator.declare import declared_datasets
from replicator.errors import ConfigurationError
from replicator.models import Beat
from replicator.settings import load_settings
from replicator_capture.daemon import Capture
from replicator_capture.task import task_of


def run(arguments: Arguments) -> int:
    """Capture one stream in the foreground until a signal stops it; 0 then.

    Raises:
        ConfigurationError: there is no such stream, or a reason for no new epoch.
        ReplicatorError: what ended it.
    """
    settings = load_settings()
    if arguments.reason is not None and not arguments.new_epoch:
        raise ConfigurationError(
            "--reason is given without --new-epoch.",
            remedy="Give both to begin a new epoch, or neither.",
        )
    if arguments.stream not in settings.streams:
        raise ConfigurationError(
            f"There is no stream {arguments.stream!r}.",
            remedy=f"Name one of STREAMS: {', '.join(settings.streams)}.",
        )
    datasets = [compile_dataset(each) for each in declared_datasets().values()]
    task = task_of(
        settings,
        arguments.stream,
        django_settings.DATABASES,
        (compiler.releases(arguments.stream), datasets),
        compiler.table_of(Beat),
    )
    reason = arguments.reason or "by command"
    capture = Capture(task, new_epoch=arguments.new_epoch, reason=reason)
    return run_daemon("capture", capture.run, settings)
