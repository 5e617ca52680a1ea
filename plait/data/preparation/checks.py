"""Whether the settings of a preparation go together, before anything is read."""

from typing import Any

from plait.data.columns.features import check_context
from plait.data.columns.times import check_format
from plait.data.manifest import Settings, Temporal, declared
from plait.schema import Action
from plait.wording import setting


def check_settings(settings: Settings) -> None:
    """Raises ValueError where settings do not go together."""
    check_context(settings.context)
    _check_columns_differ(settings)
    _check_times(settings)


def _check_columns_differ(settings: Settings) -> None:
    """Raises ValueError where one column is given for two things."""
    whats = ("user", "item", "time", "time_offset", "request", "order")
    columns = [(what, getattr(settings, what)) for what in whats]
    columns += [("split_column", settings.split_column)]
    columns += [("action", action.name) for action in settings.actions]
    columns += [("context", feature.name) for feature in settings.context]
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
