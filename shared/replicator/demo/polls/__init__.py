"""A small app with questions under topics."""
