"""Django finds `manage.py replicator` here."""
