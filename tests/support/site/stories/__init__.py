"""App `stories` of the Wagtail site."""
