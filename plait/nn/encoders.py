"""Items and actions as vectors.

Shape letters: E events, A action columns, D width, V rows of the item table (row 0 the unknown item),
K rows of the action table.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from plait.nn.actions import scaled
from plait.schema import UNKNOWN_ITEM, Action, ActionKind, Amount, Binary, Categorical, Regression

NUM_KNOTS = 17  # of a numeric action over [0, 1]: the values of scales with 3, 5, 9 or 17 steps fall on knots
MISSING = -1.0  # stands where a missing value's knot is


class ItemEncoder(nn.Module):
    """One trained vector per item. An unknown item adds nothing: training never meets one to learn from."""

    def __init__(self, num_items: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_items + 1, dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.embedding.weight[UNKNOWN_ITEM])

    def forward(self, item_E: Int64[Tensor, "E"]) -> Float[Tensor, "E D"]:
        return self.embedding(item_E)

    def table(self) -> Float[Tensor, "V D"]:
        """The vectors of the whole catalogue, to rank it by: row i is item i, row 0 the unknown item."""
        return self.embedding.weight


class ActionEncoder(nn.Module):
    """The sum over the actions of one vector each.

    A binary or categorical value has a vector of its own. A number lies between two of 17 knots, evenly
    spaced over [0, 1] at model scale, and its vector is interpolated between theirs (above 1 it is the last
    knot's). A missing value has its own vector, one per action.
    """

    column_K: Tensor
    knot_K: Tensor
    last_knot_A: Tensor
    knots_per_unit_A: Tensor

    def __init__(self, actions: Sequence[Action], dim: int) -> None:
        super().__init__()
        self.actions = tuple(actions)
        grids = [_knots(action.kind) for action in self.actions]
        rows = [(a, knot) for a, (num_knots, _) in enumerate(grids) for knot in (MISSING, *range(num_knots))]
        buffers = {
            "column_K": torch.tensor([column for column, _ in rows], dtype=torch.int64),
            "knot_K": torch.tensor([knot for _, knot in rows]),
            "last_knot_A": torch.tensor([num_knots - 1.0 for num_knots, _ in grids]),
            "knots_per_unit_A": torch.tensor([per_unit for _, per_unit in grids]),
        }
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self.table = nn.Embedding(len(rows), dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, raw_EA: Float[Tensor, "E A"]) -> Float[Tensor, "E D"]:
        """Vectors of action values in the log's units, NaN where missing.

        Raises:
            ValueError: a value is outside its action's range.
        """
        return self.weights(raw_EA) @ self.table.weight

    def weights(self, raw_EA: Float[Tensor, "E A"]) -> Float[Tensor, "E K"]:
        """How much each row of the table adds to each event: per action, 1 in all, on one or two rows."""
        place_EA = (scaled(self.actions, raw_EA) * self.knots_per_unit_A).minimum(self.last_knot_A)
        place_EA = torch.where(raw_EA.isnan(), MISSING, place_EA)
        return (1 - (place_EA[:, self.column_K] - self.knot_K).abs()).clamp(min=0)


def _knots(kind: ActionKind) -> tuple[int, float]:
    """How many knots a kind has, and how many of them fit into one unit at model scale."""
    match kind:
        case Binary():
            return 2, 1.0
        case Categorical(values=values):
            return len(values), 1.0
        case Regression() | Amount():
            return NUM_KNOTS, NUM_KNOTS - 1.0
