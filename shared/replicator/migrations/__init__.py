"""Migrations of the fixed tables."""
