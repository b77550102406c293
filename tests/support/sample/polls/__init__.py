"""App `polls` of the sample project."""
