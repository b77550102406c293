"""Numbers as messages write them. Pure."""


def of_rows(number: int) -> str:
    """Write a number of rows: `1 row`, `2,000 rows`."""
    return f"{number:,} {'row' if number == 1 else 'rows'}"
