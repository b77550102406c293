"""App `kinds` of the sample project."""
