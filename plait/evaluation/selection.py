"""Which validation metric chooses the best epoch."""

import re
from dataclasses import dataclass
from typing import ClassVar

from plait.layouts import Layout, audit

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
LOWER_IS_BETTER = ("loss", "rmse", "rmse_scaled", "mae", "mae_scaled", "ne", "log_loss", "ece")


@dataclass(frozen=True)
class Selection:
    """A weighted sum of validation metrics, each counted so that more is better.

    >>> Selection.parse("ndcg@10=1,rmse:rating=0.5").value({"ndcg@10": 0.25, "rmse:rating": 0.5})
    0.0
    """

    AUTO: ClassVar[str] = "auto"  # ndcg@10 where retrieval is trained, else the loss of the actions

    weights: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """Raises ValueError where a part is not METRIC or METRIC=WEIGHT."""
        parts = []
        for part in text.split(","):
            found = re.fullmatch(rf"\s*([a-z_]+(?:@\d+)?(?::[^=,]+)?)\s*(?:=\s*({NUMBER}))?\s*", part)
            if not found:
                raise ValueError(
                    f"protocol.select = {text!r}: {part!r} is not METRIC or METRIC=WEIGHT, such as 'ndcg@10' "
                    "or 'ndcg@10=1,auc:liked=0.5'"
                )
            parts.append((found[1], float(found[2] or 1)))
        return cls(tuple(parts))

    def resolve(self, layout: Layout, retrieval_weight: float) -> "Selection":
        """AUTO made definite by whether the next item is predicted, and trained to be.

        >>> auto = Selection.parse("auto")
        >>> [str(auto.resolve(Layout.parse("i[t] -> i[t+1]"), weight)) for weight in (1.0, 0.0)]
        ['ndcg@10', 'loss:actions']
        """
        if self.weights != ((self.AUTO, 1.0),):
            return self
        retrieves = audit(layout).can_retrieve and retrieval_weight > 0
        return Selection((("ndcg@10" if retrieves else "loss:actions", 1.0),))

    def value(self, metrics: dict[str, float]) -> float:
        """Raises ValueError where a metric was not measured, with those that were."""
        missing = [name for name, _ in self.weights if name not in metrics]
        if missing:
            raise ValueError(
                f"protocol.select names {missing[0]!r}, which this layout and data do not give; "
                f"there are {', '.join(sorted(metrics))}"
            )
        return sum(weight * _sign(name) * metrics[name] for name, weight in self.weights)

    def __str__(self) -> str:
        if len(self.weights) == 1 and self.weights[0][1] == 1:
            return self.weights[0][0]
        return ",".join(f"{name}={weight:g}" for name, weight in self.weights)


def _sign(name: str) -> int:
    return -1 if name.partition(":")[0] in LOWER_IS_BETTER else 1
