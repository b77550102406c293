"""What the documentation says against what the code has."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from replicator import settings
from replicator.cli.commands import COMMANDS
from replicator.errors import ReplicatorError
from replicator.metrics import Metric

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
METRIC_MODULES = ("replicator.metrics", "replicator_capture.metrics", "replicator_apply.metrics")
SECTIONS = {
    "Configuration": settings.ReplicatorSettings,
    "`SUBSCRIPTIONS`, each": settings.Subscription,
    "`METRICS`": settings.Metrics,
    "`HEALTH`": settings.Health,
    "`LOGGING`": settings.Logging,
}


def rows(text: str) -> Iterator[list[str]]:
    """Give the cells of every table's rows, without the head."""
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def section(name: str) -> str:
    text = (DOCS / "configuration.md").read_text()
    match = re.search(rf"^#+ {re.escape(name)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"docs/configuration.md has no section {name}"
    return match[1]


@pytest.mark.parametrize("name", SECTIONS)
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    model: type[BaseModel] = SECTIONS[name]
    documented = {key.strip("`"): default for key, default, _ in rows(section(name))}
    declared = {field.alias or key: field for key, field in model.model_fields.items()}
    assert list(documented) == list(declared)
    for key, field in declared.items():
        default = documented[key]
        assert (default == "required") == field.is_required(), key
        if default.startswith("`") and not isinstance(field.get_default(), BaseModel):
            value = field.get_default(call_default_factory=True)
            given = eval(default.strip("`"), {})
            if key == "STREAMS":
                value = {name: {} for name in value}
            assert (tuple(given) if isinstance(value, tuple) else given) == value, key


def metrics() -> list[Metric]:
    found: list[Metric] = []
    for name in METRIC_MODULES:
        found += import_module(name).METRICS
    return found


def line_of(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |"


def test_every_metric_is_documented() -> None:
    documented = [
        line for line in (DOCS / "metrics.md").read_text().splitlines() if line.startswith("| `")
    ]
    wanted = [line_of(metric) for metric in metrics()]
    missing = "\n".join(line for line in wanted if line not in documented)
    surplus = "\n".join(line for line in documented if line not in wanted)
    assert not missing, f"add to docs/metrics.md:\n{missing}"
    assert not surplus, f"remove from docs/metrics.md:\n{surplus}"


def test_metrics_follow_the_naming_rules() -> None:
    names = [metric.name for metric in metrics()]
    assert len(names) == len(set(names))
    for metric in metrics():
        assert metric.name.startswith("replicator_")
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert metric.help.endswith("."), metric.name


def test_every_constant_is_in_its_modules_tuple() -> None:
    for name in METRIC_MODULES:
        module = import_module(name)
        constants = {value.name for value in vars(module).values() if isinstance(value, Metric)}
        assert constants == {metric.name for metric in module.METRICS}


def all_errors(root: type[ReplicatorError] = ReplicatorError) -> Iterator[type[ReplicatorError]]:
    for error in root.__subclasses__():
        if error.__module__ == "replicator.errors":
            yield error
            yield from all_errors(error)


def test_every_error_has_an_entry_for_operators() -> None:
    text = (DOCS / "operations.md").read_text()
    for error in all_errors():
        assert f"`{error.__name__}`" in text


def test_every_command_is_in_the_operations_page_or_the_readme() -> None:
    text = (DOCS / "operations.md").read_text() + (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"replicator {command.name}" in text


def test_the_readme_subscribes_to_what_its_example_declares() -> None:
    text = (ROOT / "README.md").read_text()
    declared = set(re.findall(r'[Dd]ataset\("([\w-]+)"', text))
    (allowed,) = re.findall(r'"TARGETS": \{"stage": \[(.*?)\]', text)
    assert set(re.findall(r'"([\w-]+)"', allowed)) == declared
    named = re.findall(r"replicator (?:subscribe|explain|verify|backfill) ([\w-]+)", text)
    assert {"questions", "published-questions"} <= set(named)
    assert set(named) <= declared


def test_no_link_of_the_documentation_is_dead() -> None:
    for page in [*DOCS.glob("*.md"), *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_section_of_a_wagtail_site_is_the_one_that_is_tested() -> None:
    text = (DOCS / "declarations.md").read_text()
    part = text.partition("## A section of a Wagtail site\n")[2].partition("\n## ")[0]
    [shown] = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
    tested = (ROOT / "tests/support/site/stories/replication.py").read_text()
    assert shown.startswith("@dataset")
    assert tested.endswith(shown)


def test_every_file_that_the_documentation_names_exists() -> None:
    for page in [*DOCS.glob("*.md"), *ROOT.glob("*.md")]:
        for path in re.findall(
            r"`((?:capture|apply|shared|tests|deploy|docs)/[^`*… ]+)`", page.read_text()
        ):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
