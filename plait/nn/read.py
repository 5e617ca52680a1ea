"""Which slots are read of what a trunk puts out.

Where tokens attend last, keys and values are made of every token; queries, and all that follows, only of those that
are read.

Shape letters: R rows, L slots of a row, C = R * L cells, Q the most slots that are read of a row, M slots that are
read, N heads, H head width, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plait.nn.positions import Angles

# Queries apart from their keys skip no later keys, and take blocks where the others take torch's kernels.
LARGEST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Read:
    """Some slots of rows, which stand in one row of their own when they leave the trunk."""

    cell_M: Int64[Tensor, " M"]  # of all rows laid end to end, ascending
    slot_RQ: Int64[Tensor, "R Q"]  # where they stand in their rows; rows that have fewer repeat one
    number_RQ: Int64[Tensor, "R Q"]  # which of the M each of these is
    place_M: Int64[Tensor, " M"]  # where each of the M first stands in R * Q

    @classmethod
    def some_of(
        cls,
        cells: Sequence[Int64[np.ndarray, " _"]],
        segment_RL: Int64[np.ndarray, "R L"],
        device: torch.device | str = "cpu",
    ) -> "Read | None":
        """The cells, each once; None, which reads all, where so many are read that it saves nothing to tell them apart.

        Args:
            segment_RL: the rows: -1 = padding.
        """
        is_read_C = np.zeros(segment_RL.size, dtype=bool)
        for each in cells:
            is_read_C[each] = True
        is_few = is_read_C.sum() <= LARGEST_SHARE * (segment_RL >= 0).sum()
        return cls.of(is_read_C.reshape(segment_RL.shape), device) if is_few else None

    @classmethod
    def of(cls, is_read_RL: np.ndarray, device: torch.device | str = "cpu") -> "Read":
        row_M, slot_M = np.nonzero(is_read_RL)
        count_R = is_read_RL.sum(1)
        first_R = np.cumsum(count_R) - count_R
        nth_RQ = np.arange(count_R.max(initial=0))[None]
        number_RQ = first_R[:, None] + np.minimum(nth_RQ, np.maximum(count_R - 1, 0)[:, None])
        number_RQ = np.minimum(number_RQ, max(len(slot_M) - 1, 0))  # of a last row of which nothing is read
        place_M = row_M * nth_RQ.shape[1] + np.arange(len(row_M)) - first_R[row_M]
        cell_M = row_M * is_read_RL.shape[1] + slot_M
        arrays = (cell_M, slot_M[number_RQ], number_RQ, place_M)
        return cls(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))

    @property
    def is_nothing(self) -> bool:
        return not len(self.cell_M)

    def of_cells(self, x_RLD: Float[Tensor, "R L D"]) -> Float[Tensor, "1 M D"]:
        return x_RLD.flatten(0, 1).index_select(0, self.cell_M)[None]

    def angles(self, angles: Angles) -> Angles:
        """Those of the slots that are read."""
        return Angles(*(self.of_cells(each.squeeze(1))[:, None] for each in angles))

    def in_rows(self, q_1NMH: Float[Tensor, "1 N M H"]) -> Float[Tensor, "R N Q H"]:
        """Beside the keys of their rows."""
        q_NXH = q_1NMH[0].index_select(1, self.number_RQ.flatten())
        return q_NXH.unflatten(1, self.number_RQ.shape).transpose(0, 1)

    def out_of_rows(self, x_RNQH: Float[Tensor, "R N Q H"]) -> Float[Tensor, "1 N M H"]:
        """The inverse of `in_rows`."""
        return x_RNQH.transpose(0, 1).flatten(1, 2).index_select(1, self.place_M)[None]

    def numbers(self, cell: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Which of the M stands in each of these cells, all of which are read."""
        return torch.searchsorted(self.cell_M, cell)


def read_of(x_RLD: Float[Tensor, "R L D"], read: Read | None) -> Float[Tensor, "r l D"]:
    """What is read of slots; by default all."""
    return x_RLD if read is None else read.of_cells(x_RLD)
