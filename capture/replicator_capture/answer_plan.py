"""What a request may be answered with: its datasets, resolved and allowed. Pure.

Names from the wire are only looked up here, in what this code declares; arguments from the wire go
to the function of a declared dataset and nowhere else, once they have its parameters' types.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from replicator.errors import WrongDeclaration
from replicator.plan import DatasetPlan, Release, RowsRule, TableName, full_name
from replicator.requests import KeysRequest, PageRequest, PlanItem
from replicator_capture.closure import Link, links

FindDataset: TypeAlias = Callable[[str, str], DatasetPlan]
"""Gives the dataset of a name, compiled for arguments; raises WrongDeclaration."""


class Refusal(Exception):
    """The request is answered with this reason, and nothing else.

    Attributes:
        datasets: those of the plan that the reason is about; none: it is about the request.
    """

    def __init__(self, reason: str, datasets: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.datasets = datasets


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """The datasets that a request names.

    Attributes:
        releases: by label of the table.
        links: what closes an answer.
        page: rule and release of a page's rule; None: keys are asked for.
    """

    releases: Mapping[str, Release]
    links: tuple[Link, ...]
    page: tuple[RowsRule, Release] | None

    @property
    def tables(self) -> frozenset[TableName]:
        """Tables of which events are repeated."""
        return frozenset(release.table for release in self.releases.values())

    @property
    def tables_by_name(self) -> frozenset[TableName]:
        """Tables that are read because their rows' names travel."""
        return frozenset[TableName]().union(*(r.named_by for r in self.releases.values()))


def resolve(
    request: KeysRequest | PageRequest,
    stream: str,
    find: FindDataset,
    allows: Callable[[str, str], bool],
) -> AnswerPlan:
    """Look up what a request names.

    Args:
        request: as read.
        stream: whose capture answers.
        find: looks up a dataset.
        allows: whether a target may ask for a dataset.

    Raises:
        Refusal: it names what is not there, not allowed, or declared otherwise here.
    """
    found = _datasets(request, stream, find, allows)
    releases = {str(release.table): release for each in found for release in each.releases}
    if isinstance(request, PageRequest):
        return AnswerPlan(releases, links(found), _page(request, found))
    if unknown := [label for label in request.keys if label not in releases]:
        raise Refusal(f"{len(unknown)} tables of the keys are in no dataset of the plan.")
    for label, keys in request.keys.items():
        if any(len(key) != len(releases[label].key) for key in keys):
            raise Refusal(f"A key of {label} has another number of columns.")
    return AnswerPlan(releases, links(found), None)


def _datasets(
    request: KeysRequest | PageRequest,
    stream: str,
    find: FindDataset,
    allows: Callable[[str, str], bool],
) -> list[DatasetPlan]:
    """Look up the datasets of a plan; if some are refused, all of these are named."""
    found: list[DatasetPlan] = []
    refused: dict[str, str] = {}
    for item in request.plan:
        try:
            _must_be_allowed(request.target, item.dataset, allows)
            found.append(_dataset(item, stream, find))
        except Refusal as refusal:
            refused[full_name(item.dataset, item.arguments)] = str(refusal)
    if refused:
        raise Refusal(" ".join(dict.fromkeys(refused.values())), tuple(refused))
    return found


def _must_be_allowed(target: str, dataset: str, allows: Callable[[str, str], bool]) -> None:
    if not allows(target, dataset):
        raise Refusal(f"TARGETS does not allow {target} the dataset {dataset}.")


def _dataset(item: PlanItem, stream: str, find: FindDataset) -> DatasetPlan:
    try:
        dataset = find(item.dataset, item.arguments)
    except WrongDeclaration as error:
        raise Refusal(f"The source cannot tell the rows of {item.dataset}: {error}.") from error
    if dataset.stream != stream:
        raise Refusal(f"The source carries {item.dataset} on another stream.")
    if dataset.fingerprint != item.fingerprint:
        raise Refusal(
            f"The dataset {dataset.full_name} is declared differently on the two sides; deploy the "
            "same code."
        )
    return dataset


def _page(request: PageRequest, found: list[DatasetPlan]) -> tuple[RowsRule, Release]:
    for dataset in found:
        if (dataset.name, dataset.arguments) == (request.dataset, request.arguments):
            if request.rule >= len(dataset.rules):
                raise Refusal(f"The dataset {dataset.full_name} has no rule {request.rule}.")
            rule = dataset.rules[request.rule]
            if not isinstance(rule, RowsRule):
                raise Refusal(f"Rule {request.rule} of {dataset.full_name} has no pages.")
            release = dataset.release(rule.label)
            if request.after is not None and len(request.after) != len(release.key):
                raise Refusal("The page's key has another number of columns.")
            return rule, release
    raise Refusal("The page's dataset is not in the plan.")
