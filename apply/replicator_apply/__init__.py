"""The target side: the log in, dataset rules, and one target transaction per batch."""
