"""How messages name what can be set: as Python spells it, or as an option, for whoever typed a command; and where two
settings differ.

A message writes `setting("min_user_events", 5)`; which of the two it becomes is decided here alone, by who asks.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_asked_in_shell: ContextVar[bool] = ContextVar("asked_in_shell", default=False)

MISSING = object()  # stands for a key that one side lacks

OPTIONS = {  # those that are not called like what they set
    "actions": "action", "item_features": "item-feature", "user_features": "user-feature",
}  # fmt: skip
IN_TEXT_FORMAT, IN_WORLD = "text.", "world: "  # options have no such sections


@contextmanager
def asked_in_shell() -> Iterator[None]:
    """Messages that are made within name options."""
    token = _asked_in_shell.set(True)
    try:
        yield
    finally:
        _asked_in_shell.reset(token)


def setting(name: str, value: object = ..., *, key: str = "") -> str:
    """A setting, and the value that it has or should have.

    Args:
        name: as Python has it, with its section: `protocol.max_epochs`; `text.separator` of a `plait.TextFormat`.
        value: None and False switch off; an Ellipsis stands for whatever fits.
        key: of a setting that has values by name.

    >>> setting("protocol.filter_seen", False), setting("time", None), setting("text.separator")
    ('protocol.filter_seen = False', 'time = None', 'text=plait.TextFormat(separator=...)')
    >>> with asked_in_shell():
    ...     setting("protocol.filter_seen", False), setting("time", None), setting("text.separator")
    ...     setting("on_bad_row", "reject"), setting("model.action_weights", -1.0, key="watch_s")
    ('--protocol.no-filter-seen', '--no-time', '--separator')
    ('--on-bad-row reject', '--model.action-weights.watch_s -1.0')
    """
    return _option(name, value, key) if _asked_in_shell.get() else _argument(name, value, key)


def _argument(name: str, value: object, key: str) -> str:
    if name.startswith(IN_TEXT_FORMAT):
        shown = "..." if value is ... else repr(value)
        return f"text=plait.TextFormat({name.removeprefix(IN_TEXT_FORMAT)}={shown})"
    whole = f"{name}.{key}" if key else name
    return whole if value is ... else f"{whole} = {repr(value) if isinstance(value, str) else value}"


def _option(name: str, value: object, key: str) -> str:
    if isinstance(value, Mapping):
        return " ".join(_option(name, one, str(key)) for key, one in value.items())
    section, dot, last = name.removeprefix(IN_TEXT_FORMAT).removeprefix(IN_WORLD).rpartition(".")
    off = "no-" if value is None or value is False else ""
    hyphens = "-" if len(last) == 1 else "--"
    option = f"{hyphens}{section}{dot}{off}{OPTIONS.get(last, last)}".replace("_", "-") + (
        f".{key}" if key else ""
    )
    if value is ... or value is None or isinstance(value, bool):
        return option
    return " ".join([option, *map(shlex.quote, map(str, value if isinstance(value, tuple) else [value]))])


def differences(found: object, asked: object, key: str = "") -> str:
    """Where settings, as plain values, differ: a line per key; "" where they do not.

    >>> differences({"optim": {"rate": 1, "clip": 2}}, {"optim": {"rate": 3, "clip": 2}})
    '  optim.rate: found 1, asked 3'
    """
    if isinstance(found, dict) and isinstance(asked, dict):
        names = dict.fromkeys([*asked, *found])
        prefix = f"{key}." if key else ""
        parts = (differences(found.get(n, MISSING), asked.get(n, MISSING), f"{prefix}{n}") for n in names)
        return "\n".join(part for part in parts if part)
    return "" if found == asked else f"  {key}: found {_spelled(found)}, asked {_spelled(asked)}"


def _spelled(value: object) -> str:
    return "nothing" if value is MISSING else repr(value)
