"""What of the shop may leave its environment: all but drafts."""

from django.db.models import Model, Q

from replicator import Children, Dataset, Referenced, Rows, opt_in, opt_out, sample
from tests.support.sample.shop.models import (
    Draft,
    Member,
    Note,
    Order,
    OrderLine,
    Product,
    Stock,
    Supplier,
    Team,
    Watch,
)

MODELS: tuple[type[Model], ...] = (
    Supplier,
    Product,
    Stock,
    Order,
    OrderLine,
    Watch,
    Team,
    Member,
    Note,
)
for model in MODELS:
    opt_in(model)
opt_out(Draft)

Dataset("shop", Rows("auth.User"), *(Rows(model) for model in MODELS))
Dataset("catalogue", Rows(Supplier), Rows(Product, where=Q(active=True), null=["replaced_by"]))
Dataset(
    "a-few-watches",
    Rows("auth.User"),
    Rows(Supplier),
    Rows(Product, null=["replaced_by"]),
    Rows(Watch, select=sample(3)),
)
Dataset(
    "current-products",
    Rows(Supplier),
    Rows(Product, where=Q(active=True, replaced_by__isnull=True), required=["replaced_by"]),
)
Dataset(
    "supplies",
    Rows(Supplier, where=Q(name__startswith="s")),
    Children(Product, of="supplier", null=["replaced_by"]),
    Children(OrderLine, of="product"),
    Referenced(Order, null=["customer"]),
)
