"""App `shop` of the sample project."""
