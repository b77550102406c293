"""App `pages` of the sample project."""
