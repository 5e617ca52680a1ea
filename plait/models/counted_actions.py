"""Actions with counts beside a model's head.

Shape letters: M questions, C outputs of one action, K scores of a part of an action, X scores of all parts.
"""

from collections.abc import Iterable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from plait.counts.actions import ActionCounts, CountedAction
from plait.nn.action_kinds import ModelledKind


def with_counts(
    kinds: Sequence[ModelledKind],
    out: Sequence[Float[Tensor, "M _"]],
    counts: ActionCounts,
    added_MX: Float[Tensor, "M X"],
) -> tuple[Float[Tensor, "M _"], ...]:
    """A head's raw outputs, action by action, with what counts add to them.

    Args:
        added_MX: what `counts` adds, of the same questions.
    """
    split = iter(added_MX.split([part.counted.num_columns for part in counts.paying], dim=1))
    return tuple(
        _combined(kind, out_MC, action, split) if action.pay else out_MC
        for kind, out_MC, action in zip(kinds, out, counts.actions, strict=True)
    )


def _combined(
    kind: ModelledKind, out_MC: Tensor, action: CountedAction, added: Iterator[Tensor]
) -> Float[Tensor, "M C"]:
    scores: Iterable[Tensor] = kind.scores_of(out_MC)
    return kind.outputs_of(
        [
            float(part.weights.weight_T[0]) * score_MK + added_MK
            for part, score_MK, added_MK in zip(action.parts, scores, added, strict=False)
        ]
    )
