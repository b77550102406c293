"""App configuration of `shop`."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """The app `shop`."""

    name = "tests.support.sample.shop"
    label = "shop"
