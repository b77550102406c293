"""The tables of other shapes; how many shards is told by the environment."""

from django.db import migrations

from tests.benchmark.project import shapes

_NARROW = {field.name: field.clone() for field in shapes.Narrow._meta.local_fields}
_BULKY = {field.name: field.clone() for field in shapes.Bulky._meta.local_fields}
_ID = _NARROW["id"]
_TABLES = {
    "Narrow": _NARROW,
    "Bulky": _BULKY,
    "Wide": {"id": _ID, **shapes.wide_fields()},
    **{shapes.shard_name(n): {"id": _ID, **shapes.shard_fields()} for n in range(shapes.TABLES)},
}


class Migration(migrations.Migration):
    dependencies = [("parcels", "0001_initial")]

    operations = [
        migrations.CreateModel(name=name, fields=[*fields.items()])
        for name, fields in _TABLES.items()
    ]
