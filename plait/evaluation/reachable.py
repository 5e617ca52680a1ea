"""What no model can reach: held-out answers that the filter takes away, and metrics that therefore never change.

Shape letters: Q queries (held-out events), L ranked lists, A their answers, S items laid end to end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int64

from plait.data import Dataset, Targets
from plait.data.dataset import HeldOutPart
from plait.data.facts import share
from plait.engine import steps
from plait.evaluation.answers import never_rivals
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Protocol
from plait.layouts import Layout, audit
from plait.metrics.table import ListMetric, RetrievalMetric, list_length, metric_of
from plait.schema import UNKNOWN_ITEM
from plait.wording import setting

LISTS_AT_A_TIME = 1 << 12


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

    @cached_property
    def varying_actions(self) -> tuple[str, ...]:
        """Those that the layout predicts and that have two different labels: in others nothing tells models apart."""
        if "a" not in self.layout.predicts:
            return ()
        label_QA, actions = self.dataset.target_actions(self.targets), self.dataset.actions
        return tuple(
            action.name
            for action, label_Q in zip(actions, label_QA.T, strict=True)
            if len(np.unique(label_Q[~np.isnan(label_Q)])) > 1
        )


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
    """Whether the order of what is ranked can change the metric in the list of any of these answers."""
    if not len(targets):
        return False
    list_Q, item_Q = dataset.lists(targets), dataset.target_items(targets)
    first_L = np.unique(list_Q, return_index=True)[1]
    pair_A = np.unique(list_Q * (dataset.num_items + 1) + item_Q)
    answers_L, lists = np.bincount(pair_A // (dataset.num_items + 1)), targets[first_L]
    return any(
        bool(_lists_can_change(metric, _num_others(dataset, lists[rows], protocol), answers_L[rows]).any())
        for rows in steps.even(len(lists), LISTS_AT_A_TIME)
    )


def _lists_can_change(
    metric: str, others_L: Int64[np.ndarray, " L"], answers_L: Int64[np.ndarray, " L"]
) -> Bool[np.ndarray, " L"]:
    match metric_of(metric):
        case ListMetric(can_change=can_change):
            return can_change(list_length(metric), others_L, answers_L)
        case _:
            return others_L >= 1


def _num_others(dataset: Dataset, lists: Targets, protocol: Protocol) -> Int64[np.ndarray, " L"]:
    """How many items the answers of each list are ranked among."""
    if protocol.negatives is not None:
        return np.full(len(lists), protocol.negatives)
    start_L1, item_S = never_rivals(dataset, lists, protocol)
    list_S = np.repeat(np.arange(len(lists)), np.diff(start_L1))
    pairs = np.unique((list_S * (dataset.num_items + 1) + item_S)[item_S != UNKNOWN_ITEM])
    return dataset.num_items - np.bincount(pairs // (dataset.num_items + 1), minlength=len(lists))
