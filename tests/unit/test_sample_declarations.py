"""What the sample project declares is whole and right, and covers what there is to declare."""

from django.core.checks import ERROR

from replicator.checks import static_messages
from replicator.compiler import releases
from replicator.datasets import compile_dataset
from replicator.declare import Dataset, declared_datasets


def test_no_strict_check_finds_an_error():
    errors = [message for message in static_messages(strict=True) if message.level >= ERROR]
    assert errors == []


def test_there_are_whole_tables_filters_and_unions():
    datasets = [each for each in declared_datasets().values() if isinstance(each, Dataset)]
    plans = [compile_dataset(dataset) for dataset in datasets]
    assert any(all(rule.filter is None for rule in plan.rules) for plan in plans)
    assert any(rule.filter is not None for plan in plans for rule in plan.rules)
    assert any(len(plan.rules) > len(plan.releases) for plan in plans)
    assert len({plan.fingerprint for plan in plans}) == len(plans)


def test_every_shape_of_table_is_released():
    found = {release.label: release for release in releases("main")}
    assert len(found["shop.Watch"].key) == 2
    assert found["kinds.Specimen"].generated
    assert found["polls.Vote"].excluded
    assert "password" in found["auth.User"].excluded
    assert "pages.Page_tags" in found
