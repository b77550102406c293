"""What the URL of a log may look like. Pure.

kafka://host:port[,host:port…]     the brokers to begin with
sqlite:////path/to/file            an absolute path: each daemon has a current folder of its own
"""

import re

FORMS = "kafka://host:port[,host:port…] or sqlite:////path/to/file"

_BROKER = re.compile(r"[^\s,/]+:[0-9]{1,5}")


def mistake_in(url: str) -> str | None:
    """Say what is wrong with a URL, without showing what may be a password; None if nothing is."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "kafka":
        if all(map(_BROKER.fullmatch, rest.split(","))):
            return None
        return "must name each broker with its port, kafka://host:port[,host:port…]"
    if separator and scheme == "sqlite":
        if rest.startswith("//") and rest.strip("/"):
            return None
        return "must have an absolute path, with four slashes: sqlite:////path/to/file"
    return f"must be {FORMS}"
