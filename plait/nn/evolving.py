"""DIEN's two layers: interests that a GRU extracts, and an attention that lets them evolve towards a candidate.

Shape letters: M questions, N events, D width; B, C, H as in `candidate_blocks`, here also U users beside H events.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.nn.candidate_blocks import CandidateBlock, CandidateBlocks
from plait.nn.initialising import Linear, normal


class Gru(nn.GRU):
    """torch's GRU of one layer, whose weights start as this package's do."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, batch_first=True, dtype=torch.float32)

    def reset_parameters(self) -> None:
        """What torch calls when the layer is built: it would draw from the process's generator."""
        for parameter in self.parameters():
            nn.init.constant_(parameter, torch.nan)

    def init_weights(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if name.startswith("weight"):
                nn.init.normal_(parameter, std=self.hidden_size**-0.5, generator=generator)
            else:
                nn.init.zeros_(parameter)


class AttentionalGru(nn.Module):
    """AUGRU: a GRU whose update gate an event's attention scales; what does not concern the candidate changes nothing.

    u'_t = a_t u_t, h_t = (1 - u'_t) h_(t-1) + u'_t tanh(W x_t + r_t U h_(t-1)), a_t = softmax over t of x_t W q.

    Source: DIEN (Zhou et al., AAAI 2019), equations 7 and 13 to 15.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.match = Linear(dim, dim, normal(dim**-0.5), bias=False)
        self.of_input = Linear(dim, 3 * dim, normal(dim**-0.5))
        self.of_state = Linear(dim, 3 * dim, normal(dim**-0.5))

    def forward(
        self, query_MD: Float[Tensor, "M D"], interest_ND: Float[Tensor, "N D"], blocks: CandidateBlocks
    ) -> Float[Tensor, "M D"]:
        """Where each candidate's interest ends; zero where it sees no event."""
        query_MD, input_NX = self.match(query_MD), self.of_input(interest_ND)
        ends = [
            self._evolved(
                _attention(block, block.of_questions(query_MD), block.of_events(interest_ND)),
                block.of_events(input_NX),
            )
            for block in blocks.blocks
        ]
        return blocks.joined(ends)

    def _evolved(
        self, weight_BCH: Float[Tensor, "B C H"], input_BHX: Float[Tensor, "B H X"]
    ) -> Float[Tensor, "B C D"]:
        """An event that is not seen has weight 0, and leaves the state as it is."""
        state_BCD = input_BHX.new_zeros((*weight_BCH.shape[:2], self.dim))
        for weight_BC, input_BX in zip(weight_BCH.unbind(2), input_BHX.unbind(1), strict=True):
            state_BCD = self.step(weight_BC[..., None], input_BX[:, None], state_BCD)
        return state_BCD

    def step(self, weight: Tensor, of_input: Tensor, state: Tensor) -> Tensor:
        """The state after one more event.

        Args:
            of_input: what `of_input` makes of the event.
        """
        reset_x, update_x, new_x = of_input.chunk(3, dim=-1)
        reset_h, update_h, new_h = self.of_state(state).chunk(3, dim=-1)
        update = weight * (update_x + update_h).sigmoid()
        new = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return state + update * (new - state)

    def plain(self, query_D: Float[Tensor, " D"], interest_HD: Float[Tensor, "H D"]) -> Float[Tensor, " D"]:
        """One candidate alone, event by event: the reference of `forward`."""
        state_D = torch.zeros_like(query_D)
        score_H = torch.stack(
            [interest_D @ self.match(query_D) for interest_D in interest_HD] or [query_D[:0]]
        )
        for weight, interest_D in zip(score_H.softmax(0), interest_HD, strict=False):
            reset, update, new = self.of_input(interest_D).chunk(3)
            of_state = self.of_state(state_D).chunk(3)
            gate = weight * torch.sigmoid(update + of_state[1])
            fresh = torch.tanh(new + torch.sigmoid(reset + of_state[0]) * of_state[2])
            state_D = (1 - gate) * state_D + gate * fresh
        return state_D


def _attention(block: CandidateBlock, query_BCD: Tensor, key_BHD: Tensor) -> Float[Tensor, "B C H"]:
    score_BCH = torch.matmul(query_BCD, key_BHD.transpose(1, 2)).float()
    return seen_softmax(score_BCH, block.sees_BCH).to(key_BHD.dtype)


def seen_softmax(score: Float[Tensor, "*rest H"], sees: Tensor) -> Float[Tensor, "*rest H"]:
    """Shares of what is seen; all zero where nothing is."""
    return score.masked_fill(~sees, -torch.inf).softmax(-1).masked_fill(~sees, 0.0)


def auxiliary_loss(
    state_ND: Float[Tensor, "N D"], next_ND: Float[Tensor, "N D"], other_ND: Float[Tensor, "N D"]
) -> Float[Tensor, ""]:
    """How well the state after an event tells the item of the next one from another item; 0 of no event.

    Source: DIEN (Zhou et al., AAAI 2019), equation 6, an inner product's sigmoid.
    """
    if not len(state_ND):
        return state_ND.sum()
    met_N, not_met_N = (state_ND * next_ND).sum(-1).float(), (state_ND * other_ND).sum(-1).float()
    return (F.softplus(-met_N) + F.softplus(not_met_N)).mean()


def other_items(
    item_N: Int64[Tensor, " N"], num_items: int, generator: torch.Generator
) -> Int64[Tensor, " N"]:
    """For each item another one, uniformly from the catalogue's items 1 to `num_items`; itself where there is no other.

    >>> other_items(torch.tensor([2, 1]), 2, torch.Generator()).tolist()
    [1, 2]
    """
    if num_items < 2:
        return item_N
    step_N = torch.randint(1, num_items, item_N.shape, generator=generator, device=generator.device)
    return (item_N - 1 + step_N) % num_items + 1
