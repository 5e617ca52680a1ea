"""Late features: what a user did lately, counted, for the action heads to see beside a hidden state.

Shape letters: E events, A action columns, W columns of values (one for an action, or one for each value that
its kind tells apart), X = W + A the sums behind a statistic, M questions, J events looked back on, V items, K code
columns of one item feature, F late features.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64

from plait.layouts import Layout, audit
from plait.limits import WINDOW, check_numbers
from plait.nn.actions import scaled
from plait.schema import FIRST_VALUE, Action, EventBatch, Feature, Vector

CELLS = 1 << 18  # of questions x events compared at a time: what they take stays in the cache


@dataclass(frozen=True, kw_only=True)
class LateSettings:
    """What is counted in a user's events for the heads of the actions. For every action, that is how many of its values
    are known, and their mean at model scale; for categories and levels, the share of each. Only events of the window
    before the one that is asked about count. Where requests are blind to themselves, or events are asked about as
    candidates, only those before its request do.

    Sources: GenRank paper, section 3.2 (window statistics, and SIM's hard search); AttnMVP paper, section 2.
    """

    windows: Annotated[tuple[int, ...], WINDOW] = ()
    """How many last events to count; one group of numbers for each."""
    similar: str | None = None
    """An item feature. The events are counted whose item shares a value of it with the item asked about."""

    def __post_init__(self) -> None:
        check_numbers("model.late.", self)
        if len(set(self.windows)) < len(self.windows):
            raise ValueError(f"model.late.windows = {self.windows}: expected numbers that are all different")

    @property
    def num_groups(self) -> int:
        return len(self.windows) + (self.similar is not None)

    def num_features(self, actions: Sequence[Action]) -> int:
        """How many numbers each question comes with.

        >>> from plait.schema import Categorical
        >>> LateSettings(windows=(5, 20)).num_features([Action("device", Categorical(("phone", "tablet")))])
        6
        """
        return self.num_groups * (len(_actions_of_columns(actions)) + len(actions))


@dataclass(frozen=True)
class LateStatistics:
    """How a model's late features are counted: the same in training, in evaluation and in serving."""

    settings: LateSettings
    actions: tuple[Action, ...]
    code_VK: Int32[np.ndarray, "V K"]  # of the feature that `settings.similar` names; else no columns

    def of(
        self,
        batch: EventBatch,
        first_M: Int64[np.ndarray, " M"],
        end_M: Int64[np.ndarray, " M"],
        label_M: Int64[np.ndarray, " M"],
    ) -> Float32[np.ndarray, "M F"]:
        """For every window, then for what is similar: the means by value column, NaN where nothing is known, then
        how many are known by action.

        Args:
            first_M, end_M: a question counts the events `first_M : end_M`.
            label_M: the event asked about, of which only the item is read.
        """
        sums = self._sums(batch, first_M, end_M, label_M)
        action_W = _actions_of_columns(self.actions)
        groups = []
        for sum_MX in sums:
            sum_MW, known_MA = np.split(sum_MX, [len(action_W)], axis=1)
            known_MW = known_MA[:, action_W]
            mean_MW = np.divide(sum_MW, known_MW, out=np.full_like(sum_MW, np.nan), where=known_MW > 0)
            groups += [mean_MW, known_MA]
        return np.concatenate(groups, axis=1, dtype=np.float32)

    def _sums(
        self,
        batch: EventBatch,
        first_M: Int64[np.ndarray, " M"],
        end_M: Int64[np.ndarray, " M"],
        label_M: Int64[np.ndarray, " M"],
    ) -> Iterator[Float64[np.ndarray, "M X"]]:
        value_EX = _summands(self.actions, batch.action_EA)
        if self.settings.windows:
            up_to_EX = np.zeros((len(value_EX) + 1, value_EX.shape[1]))
            np.cumsum(value_EX, axis=0, out=up_to_EX[1:])
            for window in self.settings.windows:
                yield up_to_EX[end_M] - up_to_EX[np.maximum(first_M, end_M - window)]
        if self.settings.similar is not None:
            code_EK = self.code_VK[batch.item_E]
            step = max(1, CELLS // max(1, int((end_M - first_M).max(initial=0))))
            steps = [slice(at, at + step) for at in range(0, len(label_M), step)]
            parts = [_similar_sums(value_EX, code_EK, first_M[m], end_M[m], label_M[m]) for m in steps]
            yield np.concatenate([np.zeros((0, value_EX.shape[1])), *parts])


def check_late(
    settings: LateSettings,
    layout: Layout,
    actions: Sequence[Action],
    item_features: Sequence[Feature],
    max_events: int,
) -> None:
    """Raises ValueError where the settings do not fit the layout, the data or the window."""
    if not settings.num_groups:
        return
    if not actions:
        raise ValueError("model.late counts actions, and the data has none: leave it out")
    if max(settings.windows, default=0) > max_events:
        raise ValueError(
            f"late.windows = {settings.windows}: a model that looks at {max_events} events can count no more of them; "
            "give shorter windows, or raise protocol.max_events"
        )
    if settings.similar is None:
        return
    coded = [feature.name for feature in item_features if not isinstance(feature.kind, Vector)]
    if settings.similar not in coded:
        raise ValueError(
            f"late.similar = {settings.similar!r}: expected an item feature with values to share, of which the data "
            f"has {', '.join(coded) or 'none'}; name one, or prepare the data with it"
        )
    found = audit(layout)
    if found.conditioning != "no action is predicted" and found.can_score == "no":
        raise ValueError(
            f"layout '{layout}' predicts an action without its item, and late.similar would show it: leave it out"
        )


def _actions_of_columns(actions: Sequence[Action]) -> Int64[np.ndarray, " W"]:
    """The action that each column of values is of."""
    widths = [len(action.kind.outcomes) or 1 for action in actions]
    return np.repeat(np.arange(len(actions)), widths)


def _summands(actions: Sequence[Action], action_EA: Float32[np.ndarray, "E A"]) -> Float64[np.ndarray, "E X"]:
    """What statistics add up: numbers at model scale, each of several values as 0 or 1, and what is known."""
    unit_EA = scaled(actions, torch.from_numpy(action_EA)).numpy()
    columns = []
    for action, unit_E in zip(actions, unit_EA.T, strict=True):
        if action.kind.outcomes:
            columns += [unit_E == index for index in range(len(action.kind.outcomes))]
        else:
            columns.append(np.nan_to_num(unit_E))
    return np.stack([*columns, *~np.isnan(unit_EA.T)], axis=1, dtype=np.float64)


def _similar_sums(
    value_EX: Float64[np.ndarray, "E X"],
    code_EK: Int32[np.ndarray, "E K"],
    first_M: Int64[np.ndarray, " M"],
    end_M: Int64[np.ndarray, " M"],
    label_M: Int64[np.ndarray, " M"],
) -> Float64[np.ndarray, "M X"]:
    """Sums over the events whose item shares a known value with the item asked about."""
    event_MJ = first_M[:, None] + np.arange((end_M - first_M).max(initial=0))
    inside_MJ = event_MJ < end_M[:, None]
    event_MJ[~inside_MJ] = 0
    alike_MJ = np.zeros_like(inside_MJ)
    for asked_M in code_EK[label_M].T:
        # Missing is no value, and two that training never met need not be one.
        asked_M1 = np.where(asked_M < FIRST_VALUE, np.iinfo(np.int32).min, asked_M)[:, None]
        for code_E in code_EK.T:
            alike_MJ |= code_E[event_MJ] == asked_M1
    return np.einsum("mj,mjx->mx", alike_MJ & inside_MJ, value_EX[event_MJ], dtype=np.float64)
