"""What the URL of a log may look like. Pure.

kafka://host:port[,host:port…]     the brokers to begin with
sqlite:////path/to/file            an absolute path: each daemon has a current folder of its own
"""

import re

FORMS = "kafka://host:port[,host:port…] or sqlite:////path/to/file"


def mistake_in(url: str) -> str | None:
    """Say what is wrong with a URL, without showing what may be a password; None if nothing is."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "kafka":
        # Nobody would read them, and the host's name is printed.
        if "@" in rest:
            return (
                "may not hold a user or password; set sasl_plain_username and sasl_plain_password "
                "in LOG_OPTIONS"
            )
        if all(map(_is_broker, rest.split(","))):
            return None
        return "must name each broker with its port, kafka://host:port[,host:port…]"
    if separator and scheme == "sqlite":
        if rest.startswith("//") and rest.strip("/"):
            return None
        return "must have an absolute path, with four slashes: sqlite:////path/to/file"
    return f"must be {FORMS}"


def _is_broker(text: str) -> bool:
    host, _, port = text.rpartition(":")
    # The colons of an IPv6 address belong in brackets.
    named = re.fullmatch(r"[^\s:/\[\]]+|\[[0-9A-Fa-f:.]+\]", host)
    return bool(named and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= 65535)
