"""Migrations of the demo's app."""
