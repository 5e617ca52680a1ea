"""Questions about candidates beside the events that each sees, in dense blocks.

Candidates of one history share its keys, so they stand together: a few of one history are a list, and lists of about
as many keys are a block. Shape letters: M questions, N events, L lists, B lists of a block,
C questions of a list, H events of a list.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

QUESTIONS_PER_LIST = 32  # of one history: more would drag along events that the first ones do not see
PAIRS_PER_BLOCK = 1 << 16  # of a question and an event, padding included
LEAST_FILL = 0.7  # of a block's keys: a shorter list opens the next block


@dataclass(frozen=True, eq=False)
class CandidateBlock:
    """Lists side by side. Padded questions are question 0, and padded events event 0, which nobody sees."""

    question_BC: Int64[Tensor, "B C"]
    is_asked_BC: Bool[Tensor, "B C"]
    event_BH: Int64[Tensor, "B H"]
    sees_BCH: Bool[Tensor, "B C H"]

    def of_questions(self, x_M: Shaped[Tensor, "M ..."]) -> Shaped[Tensor, "B C ..."]:
        return _rows(x_M, self.question_BC)

    def of_events(self, x_N: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "B H ..."]:
        return _rows(x_N, self.event_BH)


@dataclass(frozen=True, eq=False)
class CandidateBlocks:
    """All questions of a batch, each in one block."""

    blocks: tuple[CandidateBlock, ...]
    place_M: Int64[Tensor, " M"]
    """Where each question stands among the questions of all blocks, padding left out."""

    @classmethod
    def of(
        cls,
        user_M: Int64[np.ndarray, " M"],
        begin_M: Int64[np.ndarray, " M"],
        end_M: Int64[np.ndarray, " M"],
        device: torch.device | str = "cpu",
    ) -> "CandidateBlocks":
        """Question m sees the events `begin_M[m] : end_M[m]`; questions of one user stand one after another.

        >>> blocks = CandidateBlocks.of(*np.array([[0, 0, 1], [0, 0, 7], [2, 3, 8]]))
        >>> [block.sees_BCH.int().tolist() for block in blocks.blocks]
        [[[[1, 1, 0], [1, 1, 1]]], [[[1]]]]
        """
        groups = list(_groups(user_M, begin_M, end_M))
        order_m = [question for lists in groups for first, last in lists for question in range(first, last)]
        place_M = torch.empty(len(user_M), dtype=torch.int64)
        place_M[torch.tensor(order_m, dtype=torch.int64)] = torch.arange(len(user_M))
        return cls(tuple(_block(lists, begin_M, end_M, device) for lists in groups), place_M.to(device))

    def joined(self, of_blocks: Sequence[Shaped[Tensor, "_ _ ..."]]) -> Shaped[Tensor, "M ..."]:
        """What was found in each block, question by question again."""
        found = [x_BC[block.is_asked_BC] for x_BC, block in zip(of_blocks, self.blocks, strict=True)]
        return torch.cat(found).index_select(0, self.place_M)

    @property
    def num_pairs(self) -> int:
        """Of a question and an event that it sees."""
        return sum(int(block.sees_BCH.sum()) for block in self.blocks)


def _rows(x_N: Tensor, row_BX: Tensor) -> Tensor:
    return x_N.index_select(0, row_BX.flatten()).unflatten(0, row_BX.shape)


def _groups(
    user_M: Int64[np.ndarray, " M"], begin_M: Int64[np.ndarray, " M"], end_M: Int64[np.ndarray, " M"]
) -> Iterator[list[tuple[int, int]]]:
    """The lists of each block, `first : last` of the questions: those of about as many events together."""
    first_L = _first_of_lists(user_M)
    last_L = np.append(first_L[1:], len(user_M))
    if not len(first_L):
        return
    keys_L = np.maximum.reduceat(end_M, first_L) - np.minimum.reduceat(begin_M, first_L)
    group: list[tuple[int, int]] = []
    longest = width = 0
    for place in np.argsort(-keys_L, kind="stable"):
        first, last, keys = int(first_L[place]), int(last_L[place]), int(keys_L[place])
        wider = max(width, last - first)
        if group and ((len(group) + 1) * wider * longest > PAIRS_PER_BLOCK or keys < LEAST_FILL * longest):
            yield group
            group, longest, wider = [], 0, last - first
        longest, width = max(longest, keys), wider
        group.append((first, last))
    yield group


def _first_of_lists(user_M: Int64[np.ndarray, " M"]) -> Int64[np.ndarray, " L"]:
    """The first question of each list: of a user, and of every so many of its questions."""
    nth_M = np.arange(len(user_M))
    opens_M = np.ones(len(user_M), dtype=bool)
    opens_M[1:] = user_M[1:] != user_M[:-1]
    first_M = np.maximum.accumulate(np.where(opens_M, nth_M, 0))
    return np.flatnonzero((nth_M - first_M) % QUESTIONS_PER_LIST == 0)


def _block(
    lists: Sequence[tuple[int, int]],
    begin_M: Int64[np.ndarray, " M"],
    end_M: Int64[np.ndarray, " M"],
    device: torch.device | str,
) -> CandidateBlock:
    first_B, last_B = np.array(lists).T
    nth_C = np.arange((last_B - first_B).max())
    question_BC = first_B[:, None] + nth_C
    is_asked_BC = question_BC < last_B[:, None]
    question_BC = np.where(is_asked_BC, question_BC, 0)
    from_B = np.array([begin_M[first:last].min() for first, last in lists])
    to_B = np.array([end_M[first:last].max() for first, last in lists])
    event_BH = from_B[:, None] + np.arange(max(1, int((to_B - from_B).max())))
    sees_BCH = event_BH[:, None] >= begin_M[question_BC][:, :, None]
    sees_BCH &= event_BH[:, None] < end_M[question_BC][:, :, None]
    sees_BCH &= is_asked_BC[:, :, None]
    event_BH = np.where(event_BH < to_B[:, None], event_BH, 0)
    tensors = [torch.from_numpy(x).to(device) for x in (question_BC, is_asked_BC, event_BH, sees_BCH)]
    return CandidateBlock(*tensors)
