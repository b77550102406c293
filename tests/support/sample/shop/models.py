"""A shop: UUID and composite keys, natural keys, protected rows, a cycle between two tables."""

import uuid

from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models


class Supplier(models.Model):
    """A supplier, whose key is a UUID."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=100, unique=True)

    def __str__(self) -> str:
        return self.name


class ProductManager(models.Manager["Product"]):
    """Finds products by their natural key."""

    def get_by_natural_key(self, sku: str, region: str) -> "Product":
        """Give the product of a SKU in a region."""
        return self.get(sku=sku, region=region)


class Product(models.Model):
    """A product, unique by two columns."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    sku = models.CharField(max_length=40)
    region = models.CharField(max_length=2)
    supplier = models.ForeignKey(Supplier, models.PROTECT, related_name="products")
    replaced_by = models.OneToOneField("self", models.SET_NULL, null=True, blank=True)
    price = models.DecimalField(max_digits=10, decimal_places=2)
    active = models.BooleanField(default=True)

    objects = ProductManager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["sku", "region"], name="shop_product_natural_key")
        ]

    def __str__(self) -> str:
        return f"{self.sku}/{self.region}"

    def natural_key(self) -> tuple[str, str]:
        """Give SKU and region."""
        return self.sku, self.region


class Stock(models.Model):
    """How much there is of a product; its key is the product's."""

    product = models.OneToOneField(Product, models.CASCADE, primary_key=True)
    amount = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"stock {self.pk}"


class Order(models.Model):
    """An order."""

    number = models.CharField(max_length=20, unique=True)
    customer = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, null=True, blank=True, related_name="orders"
    )

    def __str__(self) -> str:
        return self.number


class OrderLine(models.Model):
    """A product of an order."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, models.PROTECT, related_name="lines")
    amount = models.PositiveIntegerField(default=1)

    def __str__(self) -> str:
        return f"line {self.pk}"


class Watch(models.Model):
    """That a user watches a product: every column is of the primary key."""

    pk = models.CompositePrimaryKey("user", "product")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    product = models.ForeignKey(Product, models.CASCADE)

    def __str__(self) -> str:
        return f"watch {self.pk}"


class Team(models.Model):
    """A team, whose captain is a member of it or of another one."""

    name = models.CharField(max_length=100, unique=True)
    captain = models.ForeignKey(
        "Member", models.SET_NULL, null=True, blank=True, related_name="captain_of"
    )

    def __str__(self) -> str:
        return self.name


class Member(models.Model):
    """A member of a team."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="members")
    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Draft(models.Model):
    """Notes of one environment, which nobody replicates; it refers to rows that may be."""

    product = models.ForeignKey(Product, models.PROTECT, null=True, blank=True)
    order = models.ForeignKey(Order, models.SET_NULL, null=True, blank=True)
    text = models.TextField(blank=True, default="")

    def __str__(self) -> str:
        return f"draft {self.pk}"


class Note(models.Model):
    """A note on an object of any model, whose key is written as text; or on nothing."""

    content_type = models.ForeignKey(ContentType, models.CASCADE, null=True, blank=True)
    object_id = models.CharField(max_length=64, blank=True, default="")
    target = GenericForeignKey("content_type", "object_id", for_concrete_model=False)
    text = models.TextField(blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["content_type", "object_id"], name="shop_note_target")]

    def __str__(self) -> str:
        return f"note {self.pk}"
