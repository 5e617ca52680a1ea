"""Which validation metric chooses the best epoch."""

import re
from dataclasses import dataclass
from typing import ClassVar, assert_never

from plait.layouts import Layout, audit
from plait.metrics.table import CHIEF_RETRIEVAL, LISTS, LOSS_OF_ACTIONS, Lists, check_full_name, metric_of
from plait.wording import setting

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Selection:
    """A weighted sum of validation metrics, each counted so that more is better.

    >>> Selection.parse("ndcg@10=1,rmse:rating=0.5").value({"ndcg@10": 0.25, "rmse:rating": 0.5})
    0.0
    """

    EACH: ClassVar[str] = "each"  # a checkpoint for each task: see `plait.evaluation.checkpoints`
    AUTO: ClassVar[str] = "auto"  # RETRIEVAL where that is trained, else the loss of the actions
    RETRIEVAL: ClassVar[str] = CHIEF_RETRIEVAL

    weights: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, text: str, lists: Lists = LISTS) -> "Selection":
        """Raises ValueError where a part is not METRIC or METRIC=WEIGHT, or there is no such metric.

        Args:
            lists: the lengths of lists that are measured.
        """
        parts = []
        for part in text.split(","):
            found = re.fullmatch(rf"\s*([a-z_]+(?:@\d+)?(?::[^=,]+)?)\s*(?:=\s*({NUMBER}))?\s*", part)
            if not found:
                raise ValueError(
                    f"{setting('protocol.select', text)}: {part!r} is not METRIC or METRIC=WEIGHT, such as 'ndcg@10' "
                    "or 'ndcg@10=1,auc:liked=0.5'"
                )
            parts.append((found[1], float(found[2] or 1)))
        if parts not in ([(cls.EACH, 1.0)], [(cls.AUTO, 1.0)]):
            _check_names([name for name, _ in parts], text, lists)
        return cls(tuple(parts))

    @property
    def is_each(self) -> bool:
        return self.weights == ((self.EACH, 1.0),)

    def resolve(self, layout: Layout, retrieval_weight: float) -> "Selection":
        """AUTO made definite by whether the next item is predicted, and trained to be.

        >>> auto = Selection.parse("auto")
        >>> [str(auto.resolve(Layout.parse("i[t] -> i[t+1]"), weight)) for weight in (1.0, 0.0)]
        ['ndcg@10', 'loss:actions']
        """
        if self.weights != ((self.AUTO, 1.0),):
            return self
        retrieves = audit(layout).can_retrieve and retrieval_weight > 0
        return Selection(((self.RETRIEVAL if retrieves else LOSS_OF_ACTIONS, 1.0),))

    def value(self, metrics: dict[str, float]) -> float:
        """Raises ValueError where a metric was not measured, with those that were."""
        missing = [name for name, _ in self.weights if name not in metrics]
        if missing:
            raise ValueError(
                f"{setting('protocol.select')} names {missing[0]!r}, which this layout and data do not give; "
                f"there are {', '.join(sorted(metrics))}"
            )
        return sum(weight * _sign(name) * metrics[name] for name, weight in self.weights)

    def __str__(self) -> str:
        if len(self.weights) == 1 and self.weights[0][1] == 1:
            return self.weights[0][0]
        return ",".join(f"{name}={weight:g}" for name, weight in self.weights)


def _check_names(names: list[str], text: str, lists: Lists) -> None:
    for name in names:
        try:
            check_full_name(name, lists)
        except ValueError as error:
            raise ValueError(f"{setting('protocol.select', text)}: {error}") from None


def _sign(name: str) -> int:
    match metric_of(name).better:
        case "higher":
            return 1
        case "lower":
            return -1
        case never:
            assert_never(never)
