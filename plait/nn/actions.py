"""Between the log's units and model scale, where a model reads and predicts actions.

Shape letters: E events, A action columns.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from plait.schema import Action, ActionKind, Amount, Binary, Categorical, Regression


def scaled(actions: Sequence[Action], raw_EA: Float[Tensor, "E A"]) -> Float[Tensor, "E A"]:
    """The log's values at model scale: binary 0 or 1, regression in [0, 1], amount log1p(value) / log1p_scale
    (above 1 where a value exceeds all of training), categorical its index. NaN, a missing value, stays NaN.

    Raises:
        ValueError: a value is outside its action's range, with the action, the value and the range.

    >>> scaled([Action("rating", Regression(1, 5))], torch.tensor([[1.0], [4.0], [torch.nan]])).tolist()
    [[0.0], [0.75], [nan]]
    """
    unit_EA = raw_EA.clone()
    for column, action in enumerate(actions):
        _check_range(action, raw_EA[:, column])
        unit_EA[:, column] = _scaled(action.kind, raw_EA[:, column])
    return unit_EA


def unscaled(kind: ActionKind, unit_E: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
    """The inverse of `scaled` for one action."""
    match kind:
        case Regression(low=low, high=high):
            return (low + unit_E * (high - low)).clamp(low, high)  # fp32 may round past a bound
        case Amount(log1p_scale=log1p_scale):
            value_E = torch.expm1(unit_E * log1p_scale)
            return value_E.clamp(max=torch.finfo(value_E.dtype).max)  # rounding may end at infinity
        case Binary() | Categorical():
            return unit_E


def _scaled(kind: ActionKind, raw_E: Tensor) -> Tensor:
    match kind:
        case Regression(low=low, high=high):
            return (raw_E - low) / (high - low)
        case Amount(log1p_scale=log1p_scale):
            return torch.log1p(raw_E) / log1p_scale
        case Binary() | Categorical():
            return raw_E


def _check_range(action: Action, raw_E: Tensor) -> None:
    low, high = _range(action.kind)
    outside_E = (raw_E < low) | (raw_E > high)
    if outside_E.any():
        row = int(outside_E.nonzero()[0])
        raise ValueError(
            f"action {action.name!r}: event {row} of the batch holds {raw_E[row]:g}, "
            f"expected {low:g} to {high:g}: correct the value, leave it out (NaN), or declare another range"
        )


def _range(kind: ActionKind) -> tuple[float, float]:
    match kind:
        case Binary():
            return 0.0, 1.0
        case Regression(low=low, high=high):
            return float(low), float(high)
        case Amount():
            return 0.0, torch.inf
        case Categorical(values=values):
            return 0.0, len(values) - 1.0
