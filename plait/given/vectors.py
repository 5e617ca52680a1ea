"""Frozen vectors of conditions that a trained model is given: more keys by a table, or a vector in place of a key."""

from collections.abc import Mapping
from typing import Any

import msgspec
import polars as pl

from plait.conditions import conditions_frame
from plait.data.columns.keyed import KeyedVectors, told_vectors, with_more_keys
from plait.data.history import Columns
from plait.models.generative import GenerativeRecommender
from plait.schema import Keyed


def grown_by_vectors(
    model: GenerativeRecommender, columns: Columns, tables: Mapping[str, KeyedVectors]
) -> tuple[GenerativeRecommender, Columns]:
    """A model that knows more keys of conditions, and the columns that it reads then.

    Raises:
        ValueError: the model has no such condition with vectors, or a table does not fit.
    """
    conditions = {feature.name: feature for feature in model.config.conditions}
    more = {}
    for name, vectors in tables.items():
        keyed = [each for each, feature in conditions.items() if isinstance(feature.kind, Keyed)]
        if name not in keyed:
            raise ValueError(
                f"condition {name!r} has no vectors; the model has those of {', '.join(keyed) or 'none'}: prepare "
                f"with {name}:vector:FILE.parquet as a condition, and train again"
            )
        conditions[name], more[name] = with_more_keys(conditions[name], vectors, f"condition {name!r}")
    of_moment = tuple(conditions[each.name] for each in columns.conditions)
    grown = model.with_condition_vectors(tuple(conditions.values()), more)
    return grown, msgspec.structs.replace(columns, conditions=of_moment)


def told_conditions(
    model: GenerativeRecommender, conditions: Any
) -> tuple[pl.DataFrame, dict[str, KeyedVectors]]:
    """Conditions as a table of keys, and the vectors that were given in place of some, with keys of their own.

    Raises:
        ValueError: they are no conditions, or a vector is not finite.
    """
    frame = conditions_frame(conditions)
    if not any(isinstance(feature.kind, Keyed) for feature in model.config.conditions):
        return frame, {}
    return told_vectors(frame, model.config.conditions)
