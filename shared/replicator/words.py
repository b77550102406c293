"""What several messages say alike. Pure."""

SCHEMA_CHANGE = 'In which order: docs/operations.md, "Releasing a schema change".'
"""Of remedies that have to do with migrations."""


def of_rows(number: int) -> str:
    """Write a number of rows: `1 row`, `2,000 rows`."""
    return f"{number:,} {'row' if number == 1 else 'rows'}"
