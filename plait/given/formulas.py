"""A formula of a ranking value, held against what a model predicts and what is known beside it."""

from typing import Any

from plait.data.columns.features import numbers_of
from plait.data.history import Columns
from plait.data.logs.tables import open_tables
from plait.data.vocabulary import Vocabulary
from plait.engine.value import Formula, Value
from plait.models.generative import ModelConfig
from plait.schema import Number
from plait.wording import setting


def ranking_value(
    formula: str, item_numbers: Any, config: ModelConfig, columns: Columns, vocabulary: Vocabulary
) -> Value:
    """What `Recommender.value` makes of a formula.

    Args:
        item_numbers: a table with a row per item, or None.

    Raises:
        ValueError: it is no formula, a name is unknown, or none is an action's. Or the table does not hold the numbers.
    """
    parsed = Formula.parse(formula)
    actions = [name for action in config.actions for name in action.kind.answer_columns(action.name)]
    numbers = [feature.name for feature in columns.context if isinstance(feature.kind, Number)]
    wanted = [name for name in parsed.names if name not in (*actions, *numbers)]
    text = columns.text
    of_items: list[str] = []
    if item_numbers is not None and wanted:
        tables = open_tables(item_numbers, text, text.item_columns, wanted)
        of_items = [name for name in tables[0].schema if name != columns.item]
    unfit = _without_numbers(config, columns, has_table=item_numbers is not None)
    parsed.check_names(actions, (*numbers, *of_items), unfit)
    if not wanted:
        return Value(parsed)
    return Value(parsed, numbers_of(item_numbers, columns.item, wanted, vocabulary.ids, text))


def _without_numbers(config: ModelConfig, columns: Columns, *, has_table: bool) -> dict[str, str]:
    """Names that a formula cannot use, and what it can."""
    unfit = {}
    for feature in config.item_features:
        if not has_table:
            unfit[feature.name] = (
                f"{feature.name!r} describes items, and of a feature the model keeps no numbers; give a table "
                f"that has them, {setting('item_numbers')}"
            )
    for feature in columns.context:
        unfit[feature.name] = f"the context {feature.name!r} is a category, which is no number"
    for action in config.actions:
        answers = action.kind.answer_columns(action.name)
        unfit[action.name] = (
            f"the action {action.name!r} is one of several values; name the chance of one, such as "
            f'"{answers[0]}", in quotes'
        )
    return unfit
