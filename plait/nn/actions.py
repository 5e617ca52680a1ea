"""From the log's units to model scale, where a model reads and predicts actions.

Shape letters: E events, A action columns.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from plait.nn.action_kinds import modelled
from plait.schema import Action


def scaled(actions: Sequence[Action], raw_EA: Float[Tensor, "E A"]) -> Float[Tensor, "E A"]:
    """The log's values at model scale: binary 0 or 1, regression in [0, 1], amount log1p(value) / log1p_scale
    (above 1 where a value exceeds all of training), one of several values its index. NaN, a missing value, stays NaN.

    Raises:
        ValueError: a value is outside its action's range, with the action, the value and the range.

    >>> import torch
    >>> from plait.schema import Regression
    >>> scaled([Action("rating", Regression(1, 5))], torch.tensor([[1.0], [4.0], [torch.nan]])).tolist()
    [[0.0], [0.75], [nan]]
    """
    unit_EA = raw_EA.clone()
    for column, action in enumerate(actions):
        _check_range(action, raw_EA[:, column])
        unit_EA[:, column] = modelled(action.kind).to_unit(raw_EA[:, column])
    return unit_EA


def _check_range(action: Action, raw_E: Tensor) -> None:
    low, high = action.kind.bounds
    outside_E = (raw_E < low) | (raw_E > high)
    if outside_E.any():
        row = int(outside_E.nonzero()[0])
        raise ValueError(
            f"action {action.name!r}: event {row} of the batch holds {raw_E[row]:g}, "
            f"expected {low:g} to {high:g}: correct the value, leave it out (NaN), or declare another range"
        )
