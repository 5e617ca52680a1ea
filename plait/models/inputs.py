"""From an event batch to the tensors a model takes: the one place where a layout meets values.

Shape letters: U users, E events, A action columns, N tokens, M tokens of one target, R rows, L slots of a row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from plait.layouts import Layout
from plait.layouts.arrange import Supervised, arrange, read, supervise
from plait.layouts.facts import Field, Target
from plait.layouts.packing import Rows, pack
from plait.nn.attention import Segments
from plait.schema import EventBatch

Packer = Callable[[np.ndarray], Rows]


@dataclass(frozen=True)
class Asked:
    """One target's questions: where in the rows its answers are read, the true events, what heads are given."""

    target: Target
    cell_M: Int64[Tensor, "M"]
    label_M: Int64[Tensor, "M"]
    given_M: tuple[tuple[Field, Int64[Tensor, "M"]], ...]


@dataclass(frozen=True)
class Inputs:
    """A batch of users as tokens in rows."""

    item_E: Int64[Tensor, "E"]
    action_EA: Float[Tensor, "E A"]
    shown: tuple[tuple[Field, Int64[Tensor, "N"]], ...]
    cell_N: Int64[Tensor, "N"]
    segments: Segments
    asked: tuple[Asked, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.cell_N)


def training_inputs(
    layout: Layout, batch: EventBatch, packer: Packer = pack, device: torch.device | str = "cpu"
) -> Inputs:
    """The tokens of a batch of windows, with every target whose event lies inside."""
    asked = supervise(layout, batch.start_U1, batch.lead_U)
    return _inputs(layout, batch, asked, False, packer, device)


def query_inputs(
    layout: Layout,
    batch: EventBatch,
    fields: tuple[Field, ...],
    *,
    hypothetical: bool,
    packer: Packer = pack,
    device: torch.device | str = "cpu",
) -> Inputs:
    """The tokens of histories, asked about the next event: one question per user and field.

    Args:
        hypothetical: the last event of every user is the candidate, not history.
        fields: what to ask for; a field that the layout does not predict is left out.
    """
    reads = (read(layout, field, batch.start_U1, batch.lead_U, hypothetical=hypothetical) for field in fields)
    return _inputs(layout, batch, tuple(r for r in reads if r is not None), hypothetical, packer, device)


def _inputs(
    layout: Layout,
    batch: EventBatch,
    asked: tuple[Supervised, ...],
    hypothetical: bool,
    packer: Packer,
    device: torch.device | str,
) -> Inputs:
    tokens = arrange(layout, batch.start_U1, batch.lead_U, hypothetical=hypothetical)
    rows = packer(tokens.length_U)
    position_RL = np.zeros_like(rows.segment_RL)
    position_RL.reshape(-1)[rows.cell_N] = tokens.position_N

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return Inputs(
        item_E=tensor(batch.item_E),
        action_EA=tensor(batch.action_EA),
        shown=tuple((shown.field, tensor(shown.source_N)) for shown in tokens.shown),
        cell_N=tensor(rows.cell_N),
        segments=Segments(tensor(rows.segment_RL), tensor(position_RL)),
        asked=tuple(
            Asked(
                each.target,
                tensor(rows.cell_N[each.row_M]),
                tensor(each.label_M),
                tuple((field, tensor(source_M)) for field, source_M in each.given_M),
            )
            for each in asked
        ),
    )
