"""Whether the settings of a preparation go together, before anything is read."""

from typing import Any

from plait.data.columns.features import check_context
from plait.data.columns.statistics import parse_statistics
from plait.data.columns.times import check_format
from plait.data.manifest import Settings, Temporal, declared
from plait.schema import Action, Vector, check_unique
from plait.wording import setting


def check_settings(settings: Settings) -> None:
    """Raises ValueError where settings do not go together."""
    check_context(settings.context)
    _check_conditions(settings)
    names = [feature.name for feature in settings.item_features]
    parse_statistics(settings.item_statistics, settings.actions, names)
    _check_columns_differ(settings)
    _check_times(settings)


def _check_conditions(settings: Settings) -> None:
    """Raises ValueError where a condition is not known before its item, or is none that can be asked under."""
    check_context(settings.conditions, "conditions")
    actions = {action.name for action in settings.actions}
    for name in (*(feature.name for feature in settings.conditions), *settings.item_conditions):
        if name in actions:
            raise ValueError(
                f"condition {name!r} is an action, which is known only after its item: a model that is told it before "
                "would read its own answer. Name what is known before the item, such as a scenario or a query"
            )
    check_unique(
        (*(feature.name for feature in settings.conditions), *settings.item_conditions), "conditions"
    )
    features = {feature.name: feature for feature in settings.item_features}
    for name in settings.item_conditions:
        if name not in features:
            raise ValueError(
                f"condition {name!r} of the item is none of its features, "
                f"{', '.join(features) or 'of which there are none'}"
                f": name it in {setting('item_features')}, or as a column of the log ({name}:category)"
            )
        if isinstance(features[name].kind, Vector):
            raise ValueError(
                f"condition {name!r} of the item is a vector; conditions are categories and numbers"
            )


def _check_columns_differ(settings: Settings) -> None:
    """Raises ValueError where one column is given for two things."""
    whats = ("user", "item", "time", "time_offset", "request", "order")
    columns = [(what, getattr(settings, what)) for what in whats]
    columns += [("split_column", settings.split_column)]
    columns += [("action", action.name) for action in settings.actions]
    columns += [("context", feature.name) for feature in settings.context]
    columns += [("conditions", feature.name) for feature in settings.conditions]
    what_of: dict[str, str] = {}
    for what, column in columns:
        if column is not None and column in what_of:
            raise ValueError(
                f"column {column!r} is given more than once, as {setting(what_of[column])} and as {setting(what)}; "
                "each needs a column of its own: name the right one, or leave one out"
            )
        if column is not None:
            what_of[column] = what


def _check_times(settings: Settings) -> None:
    """Raises ValueError where settings about times do not go together."""
    if settings.time_format is not None:
        check_format(settings.time_format)
    given = {
        "time_format": settings.time_format is not None,
        "time_offset": settings.time_offset is not None,
        "time_unit": settings.time_unit != "s",
    }
    if settings.time is None:
        given |= {
            "order": settings.order is not None,
            "deduplicate": settings.deduplicate,
            "temporal": isinstance(settings.split, Temporal),
        }
        name = next((name for name, is_given in given.items() if is_given), None)
        if name is not None:
            raise ValueError(
                f"{setting('time', None)}, so the rows are in order, and {setting(name)} is about "
                "times; leave it out, or name the column of the time"
            )
    elif given["time_unit"] and (given["time_format"] or given["time_offset"]):
        name = "time_format" if given["time_format"] else "time_offset"
        raise ValueError(
            f"{setting('time_unit')} is of times that are numbers, and {setting(name)} of dates; leave one out"
        )


def columns_that_may_lack(*declarations: Any) -> list[str]:
    """The names of actions and features, of whatever was given as such."""
    given = [one for some in declarations for one in declared(some, Action)]
    return [str(getattr(one, "name", one)) for one in given]
