"""A variant of a comparison, and which of them may stand in one table: what is asked of them, and how it is judged.

Shape letter: Q test events.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from plait.compare.words import folder_name
from plait.data import Dataset
from plait.evaluation.answers import targets_of
from plait.evaluation.checkpoints import rules_of
from plait.evaluation.reachable import Reach, check_can_choose
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import JUDGED_BY
from plait.layouts import Layout
from plait.layouts.audit import reader
from plait.metrics.table import ERROR_OF_ACTIONS, LOSS_OF_ACTIONS
from plait.models.combining import check_supported
from plait.nn.interests import InterestSource
from plait.schema import check_unique
from plait.training.batches import check_labels
from plait.training.run import check_told_alike, config_of
from plait.training.start import Start
from plait.training.unread import check_read
from plait.wording import setting


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a comparison: a name, and everything that decides its runs."""

    name: str
    settings: RunSettings
    interests: InterestSource | None = None  # what a ranker looks up (see `plait.rankers`)
    start: Start | None = None  # whose weights its runs go on from

    @property
    def layout(self) -> Layout:
        return self.settings.parsed_layout

    @property
    def judged_as(self) -> tuple[object, ...]:
        """What decides which questions it is asked, and how its answers are ranked."""
        return self.settings.model.exposure.same_request, *self.settings.protocol.judged_by

    def seeded(self, seed: int) -> RunSettings:
        protocol = dataclasses.replace(self.settings.protocol, seed=seed)
        return dataclasses.replace(self.settings, protocol=protocol)


def check_variants(variants: Sequence[Variant], dataset: Dataset) -> None:
    """Before hours are spent on the first of them."""
    check_unique([folder_name(variant.name) for variant in variants], "variants")
    for variant in variants:
        model = variant.settings.model
        check_supported(variant.layout, dataset.actions, model.trunk, model.exposure, dataset.conditions)
        check_read(config_of(dataset, variant.settings), variant.settings.protocol)
        check_labels(dataset, variant.layout)
        check_told_alike(variant.interests, variant.settings.protocol)
        _check_selection(variant, dataset)
    _check_judged_alike(variants, dataset)


def _check_judged_alike(variants: Sequence[Variant], dataset: Dataset) -> None:
    """Raises ValueError where two variants would be asked other questions, or their answers be ranked by other rules:
    such numbers cannot stand in one table. What is trained, and what a model is told, may differ."""
    first, *others = variants
    for other in others:
        unlike = [*_ranked_unlike(first, other), *_asked_unlike(first, other, dataset)]
        if unlike:
            raise ValueError(
                f"{first.name} and {other.name} would not be judged alike: {'; '.join(unlike)}. Compare them in tables "
                f"of their own, each in its own folder ({setting('out')})"
            )


def _ranked_unlike(first: Variant, other: Variant) -> Iterator[str]:
    """The settings in which they differ that decide what an answer competes with."""
    for name in JUDGED_BY:
        values = [getattr(variant.settings.protocol, name) for variant in (first, other)]
        if values[0] != values[1]:
            yield f"protocol.{name} = {values[0]} and {values[1]}"


def _asked_unlike(first: Variant, other: Variant, dataset: Dataset) -> Iterator[str]:
    """How far their test events are not the same."""
    of_first, of_other = (_asked(variant, dataset) for variant in (first, other))
    alone = len(np.setxor1d(of_first, of_other))
    if alone:
        yield f"{len(of_first):,} and {len(of_other):,} test events, of which {alone:,} are asked of one alone"


def _asked(variant: Variant, dataset: Dataset) -> Int64[np.ndarray, " Q"]:
    """The test events that a variant is asked about."""
    protocol = variant.settings.protocol
    plan = protocol.plan(variant.layout, variant.settings.model)
    return targets_of(dataset, "test", plan, protocol).event_Q


def _check_selection(variant: Variant, dataset: Dataset) -> None:
    """Raises ValueError where the best epoch is to be chosen by what the layout or the data do not give."""
    layout, actions, its = variant.layout, [action.name for action in dataset.actions], variant.settings
    plan = its.protocol.plan(layout, its.model)
    validation = targets_of(dataset, "validation", plan, its.protocol)
    reach = Reach(dataset, layout, its.protocol, validation)
    rules = rules_of(reach, its.model).values()
    for metric, _ in (weight for rule in rules for weight in rule.weights):
        _, of_action, action = metric.partition(":")
        if reader(layout, "a" if of_action else "i") is None:
            raise ValueError(
                f"{setting('protocol.select')} names {metric!r}, and {variant.name} predicts no "
                f"{'action' if of_action else 'next item'}; leave that layout out, or choose by what all of them give "
                "(auto chooses for each)"
            )
        if of_action and action not in actions and metric not in (LOSS_OF_ACTIONS, ERROR_OF_ACTIONS):
            raise ValueError(
                f"{setting('protocol.select')} names {metric!r}, and the data has no action {action!r}, only "
                f"{', '.join(actions) or 'none'}"
            )
    for rule in rules:
        check_can_choose(reach, rule)
