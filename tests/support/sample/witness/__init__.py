"""Two tables that every transaction of the oracle writes the same number to."""
