"""A term for every item in the softmax over items: how popular it is, before anything is known of the user.

Without it, a tied softmax can express popularity only by the direction of its hidden states, and all of them turn to it
first (Menon et al., ICLR 2021, "Long-tail learning via logit adjustment", for priors as offsets of logits).

Shape letters: V rows of the item table (row 0 the unknown item), I items that training meets.
"""

import math
from typing import Literal, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from plait.nn.initialising import unset
from plait.schema import UNKNOWN_ITEM

RAREST_PERCENT = 10  # of the items that training meets: new ones are taken to be like these


@final
class ItemBias(nn.Module):
    """log(training events + 0.5) of every item; `learned` adds a trained term, which starts at zero.

    A new item, one without training events, has the mean of the rarest tenth of the others. Training does not move it
    by itself: it is never an answer, and would only sink. The unknown item has 0, and is no candidate.

    What `count` took over are buffers: a saved model holds them. Before, all items have 0.
    """

    popularity_V: Tensor
    is_new_V: Tensor
    is_rare_V: Tensor

    def __init__(self, num_items: int, kind: Literal["popularity", "learned"]) -> None:
        super().__init__()
        self.kind = kind
        is_item_V = torch.arange(num_items + 1) != UNKNOWN_ITEM
        self.register_buffer("popularity_V", torch.zeros(num_items + 1, dtype=torch.float32))
        self.register_buffer("is_new_V", torch.zeros(num_items + 1, dtype=torch.bool))
        self.register_buffer("is_rare_V", is_item_V)
        self.learned_V = unset(num_items + 1) if kind == "learned" else None

    def init_weights(self, generator: torch.Generator) -> None:
        if self.learned_V is not None:
            nn.init.zeros_(self.learned_V)

    def count(self, train_events_V: Int64[Tensor, " V"]) -> None:
        """Takes over how many training events each item has; where none has any, all stay alike."""
        assert train_events_V.shape == self.popularity_V.shape, "a count for every row of the item table"
        is_rare_V = _rarest(train_events_V)
        if not is_rare_V.any():
            return
        popularity_V = (train_events_V + 0.5).log().float()
        self.is_rare_V.copy_(is_rare_V)
        self.is_new_V.copy_(train_events_V == 0)
        self.is_new_V[UNKNOWN_ITEM] = False
        self.popularity_V.copy_(torch.where(self.is_new_V, popularity_V[is_rare_V].mean(), popularity_V))
        self.popularity_V[UNKNOWN_ITEM] = 0.0

    def forward(self) -> Float[Tensor, " V"]:
        """What is added to the logit of each item, whatever the user."""
        if self.learned_V is None:
            return self.popularity_V
        learned_V = self.learned_V.detach()
        of_rare = (learned_V * self.is_rare_V).sum() / self.is_rare_V.sum()
        return self.popularity_V + torch.where(self.is_new_V, of_rare, self.learned_V)

    def with_items(self, num_added: int) -> "ItemBias":
        """One with so many new items behind the others; it holds copies of all weights."""
        grown = ItemBias(len(self.popularity_V) - 1 + num_added, self.kind)
        state = self.state_dict()
        added = {
            "popularity_V": self.popularity_V[self.is_rare_V].mean().expand(num_added),
            "is_new_V": self.is_new_V.new_ones(num_added),
            "is_rare_V": self.is_rare_V.new_zeros(num_added),
            "learned_V": self.popularity_V.new_zeros(num_added),  # never used: they are new
        }
        grown.to(self.popularity_V.device).load_state_dict(
            {name: torch.cat([tensor, added[name]]) for name, tensor in state.items()}
        )
        return grown.train(self.training)


def _rarest(train_events_V: Int64[Tensor, " V"]) -> Bool[Tensor, " V"]:
    """The tenth of the items with training events that has the fewest, and all that have no more than these.

    >>> _rarest(torch.tensor([0, 5, 0, 2, 9, 2])).int().tolist()
    [0, 0, 0, 1, 0, 1]
    """
    known_I = train_events_V[train_events_V > 0].sort().values
    if not len(known_I):
        return torch.zeros_like(train_events_V, dtype=torch.bool)
    most = known_I[math.ceil(len(known_I) * RAREST_PERCENT / 100) - 1]
    return (train_events_V > 0) & (train_events_V <= most)
