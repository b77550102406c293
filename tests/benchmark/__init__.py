"""The benchmark: `python -m tests.benchmark`; never part of pytest, never asserts a time."""
