"""Static system checks: found by `manage.py check`, without database or log."""

from django.core.checks import CheckMessage


def static_messages(*, strict: bool = False) -> list[CheckMessage]:
    """Give every finding; `strict` makes missing coverage an error."""
    return []
