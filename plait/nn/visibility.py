"""Which slots of packed rows may see which.

Shape letters: R rows, L slots of a row, Q and K the same slots as queries and as keys; B = R, or 1 where all
rows agree.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """The owner and the position of every slot of a batch of rows.

    What attention derives from them (masks, biases) is computed at its first use and kept here, so that all
    layers of all heads share it. The tensors must not change afterwards.
    """

    segment_RL: Int64[
        Tensor, "R L"
    ]  # user number within the batch, -1 = padding; a user's slots are contiguous
    position_RL: Int64[Tensor, "R L"]  # token position within its user; padding: any valid position
    _biases: dict[tuple[str, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def one_user_per_row(self) -> bool:
        """No row holds two users, and padding stands only on the right: causality alone separates users.

        >>> Segments(torch.tensor([[4, 4, -1]]), torch.tensor([[0, 1, 0]])).one_user_per_row
        True
        >>> Segments(torch.tensor([[4, 7, -1]]), torch.tensor([[0, 0, 0]])).one_user_per_row
        False
        """
        left, right = self.segment_RL[:, :-1], self.segment_RL[:, 1:]
        return bool(((right == left) | (right == -1)).all())

    @cached_property
    def visible_RQK(self) -> Bool[Tensor, "R Q K"]:
        """A slot sees itself and the earlier slots of its user. Padding sees padding, so no softmax is empty.

        >>> segments = Segments(torch.tensor([[3, 3, 5]]), torch.tensor([[0, 1, 0]]))
        >>> segments.visible_RQK.int().tolist()
        [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
        """
        return (self.segment_RL[:, :, None] == self.segment_RL[:, None, :]).tril()

    def mask_bias(self, dtype: torch.dtype) -> Float[Tensor, "B 1 Q K"]:
        """0 where the query may see the key, else -inf: what scores get added. B = 1 if causality is all."""
        if ("mask", dtype) not in self._biases:
            visible = self._causal_1QK if self.one_user_per_row else self.visible_RQK
            zero = torch.zeros((), dtype=dtype, device=visible.device)
            self._biases["mask", dtype] = torch.where(visible, zero, -torch.inf)[:, None]
        return self._biases["mask", dtype]

    def distance_bias(self, dtype: torch.dtype) -> Float[Tensor, "R 1 Q K"]:
        """Minus the distance in positions where the query may see the key, else -inf: ALiBi at slope 1."""
        if ("distance", dtype) not in self._biases:
            nearness_RQK = self.position_RL[:, None, :] - self.position_RL[:, :, None]
            bias_RQK = torch.where(self.visible_RQK, nearness_RQK.to(dtype), -torch.inf)
            self._biases["distance", dtype] = bias_RQK[:, None]
        return self._biases["distance", dtype]

    @property
    def _causal_1QK(self) -> Bool[Tensor, "1 L L"]:
        num_slots = self.segment_RL.shape[1]
        return torch.ones(1, num_slots, num_slots, dtype=torch.bool, device=self.segment_RL.device).tril()
