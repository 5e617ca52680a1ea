"""Contenders that predict actions by counts.

Shape letters: E training events, Q questions, S events of histories laid end to end, N events whose action is known, K
columns of an action, A actions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from plait.baselines.asking import BaselineQuestions, Histories, TrainingLog
from plait.baselines.choosing import best_of
from plait.counts import histories as rows
from plait.counts.effects import Damping, ItemTotals
from plait.counts.kinds import Part, counted
from plait.schema import Action

# The grids, the usual value first. Damping counts in events that do not depart from the mean.
ITEM_DAMPING = 5.0, 2.0, 10.0, 25.0
USER_DAMPING = 2.0, 1.0, 5.0, 10.0
DECAYS = 0.8, 0.7, 0.9, 0.95, 0.98  # of a user's residuals, for each step back


@dataclass(frozen=True)
class ActionBaseline:
    """One way of counting with all damping that it may take, the usual one first."""

    name: str
    grid: tuple[Damping, ...]


ACTION_BASELINES = (
    ActionBaseline("mean", (Damping(),)),
    ActionBaseline("item mean", tuple(map(Damping, ITEM_DAMPING))),
    ActionBaseline(
        "item and user", tuple(Damping(item, user) for item in ITEM_DAMPING for user in USER_DAMPING)
    ),
    ActionBaseline(
        "item and recent residuals",
        tuple(
            Damping(item, user, decay) for decay in DECAYS for item in ITEM_DAMPING for user in USER_DAMPING
        ),
    ),
)


@dataclass(frozen=True)
class _Known:
    """The events of histories whose action is known to a part."""

    item_N: Int64[np.ndarray, " N"]
    y_NK: Float64[np.ndarray, "N K"]
    is_counted_N: Bool[np.ndarray, " N"]
    start_H1: Int64[np.ndarray, " H1"]


@dataclass(frozen=True)
class Effects:
    """A part of an action, fitted."""

    part: Part
    totals: ItemTotals = field(repr=False)
    damping: Damping

    def means(
        self, asked: BaselineQuestions, action: int, item_Q: Int64[np.ndarray, " Q"]
    ) -> Float64[np.ndarray, "Q K"]:
        """What is expected of the columns, for each question and an item."""
        if self.damping.item is None:
            return np.tile(self.totals.mean_K, (len(item_Q), 1))
        base_QK = self.totals.means(item_Q, self.damping.item)
        if self.damping.user is None:
            return base_QK
        known = _known(self.part, asked.histories, action)
        expected_NK = self.totals.expected(known.item_N, known.y_NK, known.is_counted_N, self.damping.item)
        weight_N = rows.recent(known.start_H1, self.damping.decay, last=len(known.item_N))
        sum_HC = rows.sums(self.part.scale.to_sum(known.y_NK, expected_NK), known.start_H1, weight_N)
        return self.part.scale.moved(base_QK, sum_HC[asked.history_Q], self.damping.user, self.totals.mean_K)


@dataclass(frozen=True)
class Predictor:
    """All actions by one way of counting, fitted."""

    name: str
    actions: tuple[Action, ...]
    effects: tuple[tuple[Effects, ...], ...]  # of each action's parts

    @property
    def settings(self) -> str:
        """What validation chose, in words; "" where there is nothing to choose."""
        chosen = {
            action.name: "; then ".join(filter(None, (str(effects.damping) for effects in its)))
            for action, its in zip(self.actions, self.effects, strict=True)
        }
        return "; ".join(f"{name}: {said}" for name, said in chosen.items() if said)

    def predicted(
        self, asked: BaselineQuestions, item_Q: Int64[np.ndarray, " Q"]
    ) -> dict[str, Float32[np.ndarray, "Q ..."]]:
        """By action, what a model would answer for an item at each question, in the log's units."""
        return {
            action.name: counted(action.kind).answer(
                *(effects.means(asked, column, item_Q) for effects in its)
            )
            for column, (action, its) in enumerate(zip(self.actions, self.effects, strict=True))
        }


def predictors(
    log: TrainingLog,
    actions: Sequence[Action],
    validation: BaselineQuestions | None,
    baselines: Sequence[ActionBaseline] = ACTION_BASELINES,
) -> Iterator[Predictor]:
    """Every way of counting, with the damping that has the least loss on the validation; the usual one without one."""
    totals = [
        [_totals(part, log, column) for part in counted(action.kind).parts]
        for column, action in enumerate(actions)
    ]
    for baseline in baselines:
        effects = [
            tuple(
                _chosen(baseline, part, of_part, column, validation)
                for part, of_part in zip(counted(action.kind).parts, of_action, strict=True)
            )
            for column, (action, of_action) in enumerate(zip(actions, totals, strict=True))
        ]
        yield Predictor(baseline.name, tuple(actions), tuple(effects))


def _totals(part: Part, log: TrainingLog, column: int) -> ItemTotals:
    y_EK = part.columns(log.action_EA[:, column].astype(np.float64))
    is_known_E = ~np.isnan(y_EK[:, 0])
    return ItemTotals.of(part.scale, y_EK[is_known_E], log.item_E[is_known_E], log.num_items)


def _chosen(
    baseline: ActionBaseline,
    part: Part,
    totals: ItemTotals,
    column: int,
    validation: BaselineQuestions | None,
) -> Effects:
    options = (Effects(part, totals, damping) for damping in baseline.grid)
    if validation is None:
        return best_of(options, None)
    y_QK = part.columns(validation.label_QA[:, column].astype(np.float64))
    is_known_Q = ~np.isnan(y_QK[:, 0])
    if not is_known_Q.any():
        return best_of(options, None)

    def judge(effects: Effects) -> float:
        mean_QK = effects.means(validation, column, validation.item_Q)
        return -float(part.scale.losses(mean_QK[is_known_Q], y_QK[is_known_Q]).mean())

    return best_of(options, judge)


def _known(part: Part, histories: Histories, action: int) -> _Known:
    y_SK = part.columns(histories.action_SA[:, action].astype(np.float64))
    is_known_S = ~np.isnan(y_SK[:, 0])
    before_S1 = np.concatenate([[0], np.cumsum(is_known_S)])
    return _Known(
        histories.item_S[is_known_S],
        y_SK[is_known_S],
        histories.is_counted_S[is_known_S],
        before_S1[histories.start_H1],
    )
