"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Give the version of the installed distribution; "source" if it runs uninstalled."""
    try:
        return version("django-replicator")
    except PackageNotFoundError:
        return "source"
