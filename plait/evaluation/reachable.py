"""What no model can reach: held-out answers that the filter takes away, and metrics that therefore never change.

Shape letters: Q queries (held-out events), S items seen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from plait.data import Dataset, Targets
from plait.data.facts import share
from plait.evaluation.answers import HeldOutPart
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Protocol
from plait.layouts import Layout, audit
from plait.metrics.table import ListMetric, RetrievalMetric, list_length, metric_of
from plait.schema import UNKNOWN_ITEM
from plait.wording import setting

QUERIES_AT_A_TIME = 1 << 12


@dataclass(frozen=True)
class Reach:
    """Targets under a protocol, and which of them no model can hit."""

    dataset: Dataset
    layout: Layout
    protocol: Protocol
    targets: Targets

    @cached_property
    def missed_Q(self) -> Bool[np.ndarray, " Q"]:
        """Certain misses: their items were met before, and seen items are filtered."""
        if not self.protocol.filter_seen:
            return np.zeros(len(self.targets), dtype=bool)
        return self.dataset.met_before(self.targets)


def notes_on_reach(reach: Reach, part: HeldOutPart) -> Iterator[str]:
    """A line where a share of a part's answers can be no hit."""
    if not audit(reach.layout).can_retrieve:
        return
    missed, all_ = int(reach.missed_Q.sum()), len(reach.targets)
    if missed:
        yield (
            f"{share(missed, all_)} of the {part} answers ({missed:,} of {all_:,}) were met before; since "
            f"seen items are filtered, each is a certain miss: {_advice()}"
        )


def _advice() -> str:
    return f"{setting('protocol.filter_seen', False)} lets them count"


def check_can_choose(reach: Reach, selection: Selection) -> None:
    """Raises ValueError where nothing that chooses the epoch can change, whatever a model learns.

    Args:
        reach: of the validation's targets.
    """
    names = [name for name, weight in selection.weights if weight]
    if not audit(reach.layout).can_retrieve or not all(
        isinstance(metric_of(name), RetrievalMetric) for name in names
    ):
        return  # losses and errors of actions always move
    targets, open_Q = reach.targets, ~reach.missed_Q
    if any(_can_change(name, reach.dataset, reach.protocol, targets[open_Q]) for name in names):
        return
    why = f"all {len(targets):,} answers were met before, so each is a certain miss under the filter: {_advice()}"
    if open_Q.any():
        why = "so few items are ranked that all are in its list; choose a shorter one, such as hr@1"
    raise ValueError(
        f"validation {' and '.join(names)} cannot change, so no epoch can be chosen by it: {why}; or choose by another "
        f"metric ({setting('protocol.select', 'loss:actions')}, where the layout predicts actions)"
    )


def _can_change(metric: str, dataset: Dataset, protocol: Protocol, targets: Targets) -> bool:
    """Whether the rank of any of these answers can change the metric."""
    if not len(targets):
        return False
    harmless = 1  # so many ranked items give one value in any order
    match metric_of(metric):
        case ListMetric(reads_order=False):
            harmless = list_length(metric)
    if protocol.negatives is not None:
        return protocol.negatives + 1 > harmless
    if not protocol.filter_seen:
        return dataset.num_items > harmless
    return any(
        bool((_num_ranked(dataset, targets[at : at + QUERIES_AT_A_TIME]) > harmless).any())
        for at in range(0, len(targets), QUERIES_AT_A_TIME)
    )


def _num_ranked(dataset: Dataset, targets: Targets) -> Int64[np.ndarray, " Q"]:
    """How many items each answer is ranked among, itself included, where seen ones are filtered."""
    start_Q1, seen_S = dataset.seen_items(targets)
    query_S = np.repeat(np.arange(len(targets)), np.diff(start_Q1))
    pairs = np.unique((query_S * (dataset.num_items + 1) + seen_S)[seen_S != UNKNOWN_ITEM])
    return dataset.num_items - np.bincount(pairs // (dataset.num_items + 1), minlength=len(targets))
