"""What the log's training rows say of items, as features of them: how often they come, and what is done on them.

Shape letters: E events, A actions, V items (row 0 the unknown item), K columns of codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int32, Integer

from plait.data.columns.features import COUNT, code_values, fit_feature
from plait.schema import Action, Binary, Feature, Statistic, check_unique
from plait.wording import setting

RATE = "rate"
DAMPING = 10.0  # events of the mean over all items that are added to an item's own, so that few say little


def parse_statistics(
    texts: Sequence[str], actions: Sequence[Action], taken: Sequence[str]
) -> tuple[Feature, ...]:
    """Features of items that are counted: `count`, the number of events, and `rate:ACTION`, the share of those with a
    known value in which a binary action happened, damped.

    Args:
        taken: the names of the items' other features.

    Raises:
        ValueError: a text is neither, the data has no such binary action, or a name stands twice.

    >>> [feature.name for feature in parse_statistics(["count", "rate:like"], [Action("like", Binary())], [])]
    ['count', 'rate:like']
    """
    rates = [f"{RATE}:{action.name}" for action in actions if isinstance(action.kind, Binary)]
    for text in texts:
        if text not in (COUNT, *rates):
            raise ValueError(
                f"{setting('item_statistics')}: found {text!r}, expected {' or '.join((COUNT, *rates))}; a rate is "
                "that of a binary action"
            )
    check_unique([*taken, *texts], "item features")
    return tuple(Feature(text, Statistic()) for text in texts)


@dataclass(frozen=True)
class Counted:
    """Events to count in: those of training alone may be given."""

    item_E: Integer[np.ndarray, " E"]
    action_EA: Float32[np.ndarray, "E A"]
    actions: tuple[Action, ...]
    num_rows: int  # V

    def of(self, feature: Feature) -> Float64[np.ndarray, " V"]:
        """The number of each item; NaN where there is nothing to take a rate of."""
        if feature.name == COUNT:
            return np.bincount(self.item_E, minlength=self.num_rows).astype(np.float64)
        names = [f"{RATE}:{action.name}" for action in self.actions]
        value_E = self.action_EA[:, names.index(feature.name)].astype(np.float64)
        known_E = ~np.isnan(value_E)
        item_M, value_M = self.item_E[known_E], value_E[known_E]
        count_V = np.bincount(item_M, minlength=self.num_rows)
        sum_V = np.bincount(item_M, weights=value_M, minlength=self.num_rows)
        mean = value_M.mean() if len(value_M) else np.nan
        return np.where(count_V > 0, (sum_V + DAMPING * mean) / (count_V + DAMPING), np.nan)


def counted_features(
    features: Sequence[Feature], events: Counted, is_train_V: Bool[np.ndarray, " V"]
) -> tuple[tuple[Feature, ...], Int32[np.ndarray, "V K"]]:
    """The features fitted on items with training events, and the codes of all items.

    Args:
        events: of training alone: what comes later would tell of the answers (LUM paper, section 4.1.2: statistical
            features of an item token).
        is_train_V: whether an item has training events; not so the unknown one.
    """
    fitted, codes = [], [np.empty((events.num_rows, 0), dtype=np.int32)]
    for feature in features:
        value_V = events.of(feature)
        value_V[0] = np.nan
        values = pl.Series(feature.name, value_V, nan_to_null=True)
        feature = fit_feature(feature, values.filter(pl.Series(is_train_V)), values)
        fitted.append(feature)
        codes.append(code_values(feature, values))
    return tuple(fitted), np.concatenate(codes, axis=1)
