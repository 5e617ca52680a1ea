"""What is counted, and what contenders are asked from.

Tables are counted on training rows. A user's own history is what a model's is: of the test, the validation's events are
in it.

Shape letters: E training events, U users, Q questions, H different histories, S their events laid end to end, A
actions.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Bool, Float32, Int64

from plait.data import Dataset, Targets
from plait.data.windows import opens_request

WHOLE = 1 << 40  # events: no history is as long

SameRequest = Literal["causal", "blind"]


@dataclass(frozen=True)
class TrainingLog:
    """The training rows of all users."""

    num_items: int
    item_E: Int64[np.ndarray, " E"]
    action_EA: Float32[np.ndarray, "E A"]
    time_s_E: Int64[np.ndarray, " E"]
    start_U1: Int64[np.ndarray, " U1"]
    history_end_E: Int64[np.ndarray, " E"]  # row after the last event that an event may be predicted from


def training_log(dataset: Dataset, same_request: SameRequest) -> TrainingLog:
    """Everything that is counted. Under "blind" nothing comes from an event's own request."""
    batch = dataset.train_batch(np.arange(dataset.num_users), WHOLE, lead=0)
    return TrainingLog(
        dataset.num_items,
        batch.item_E,
        batch.action_EA,
        batch.time_s_E,
        batch.start_U1,
        _history_ends(batch.start_U1, batch.request_E, same_request),
    )


def _history_ends(
    start_U1: Int64[np.ndarray, " U1"], request_E: Int64[np.ndarray, " E"], same_request: SameRequest
) -> Int64[np.ndarray, " E"]:
    """
    >>> _history_ends(np.array([0, 3, 4]), np.array([0, 1, 1, 1]), "blind").tolist()
    [0, 1, 1, 3]
    """
    row_E = np.arange(len(request_E))
    match same_request:
        case "causal":
            return row_E
        case "blind":
            return np.maximum.accumulate(np.where(opens_request(request_E, start_U1), row_E, 0))
        case _:
            assert_never(same_request)


@dataclass(frozen=True)
class Histories:
    """Different histories that questions are asked from."""

    item_S: Int64[np.ndarray, " S"]
    action_SA: Float32[np.ndarray, "S A"]
    is_counted_S: Bool[np.ndarray, " S"]  # among the training rows
    start_H1: Int64[np.ndarray, " H1"]

    def __len__(self) -> int:
        return len(self.start_H1) - 1


@dataclass(frozen=True)
class BaselineQuestions:
    """Events to predict, and the history that each is asked from."""

    item_Q: Int64[np.ndarray, " Q"]  # that came
    label_QA: Float32[np.ndarray, "Q A"]
    history_Q: Int64[np.ndarray, " Q"]  # which of the histories
    histories: Histories


def questions(dataset: Dataset, targets: Targets, log: TrainingLog) -> BaselineQuestions:
    """Targets as contenders are asked about them: those of one history that stand together share it."""
    batch, count_H = dataset.candidate_batch(targets, WHOLE, lead=0)
    length_H = batch.num_events_U - count_H
    nth_E = np.arange(len(batch.item_E)) - np.repeat(batch.start_U1[:-1], batch.num_events_U)
    is_target_E = nth_E >= np.repeat(length_H, batch.num_events_U)
    counted_H = np.diff(log.start_U1)[batch.user_U]
    is_counted_E = nth_E < np.repeat(counted_H, batch.num_events_U)
    return BaselineQuestions(
        item_Q=batch.item_E[is_target_E],
        label_QA=batch.action_EA[is_target_E],
        history_Q=np.repeat(np.arange(len(count_H)), count_H),
        histories=Histories(
            batch.item_E[~is_target_E],
            batch.action_EA[~is_target_E],
            is_counted_E[~is_target_E],
            np.concatenate([[0], np.cumsum(length_H)]),
        ),
    )
