"""The verb that makes API keys."""

from pathlib import Path

from plait.cli.output import say


def new_key(keys: Path, /, *, name: str, scopes: str = "ask,append") -> None:
    """A new API key for `plait serve`, shown once; the file keeps its hash.

    Example: plait new-key keys.json --name shop --scopes ask,append

    Parameters
    ----------
    keys
        The file of keys; made where it is missing.
    name
        Whose key it is.
    scopes
        What it may do, separated by commas: ask (retrieve, score), append (events), users (read and forget), admin
        (new models, metrics).
    """
    from plait.service.keys import add_key

    say(add_key(keys, name, [scope.strip() for scope in scopes.split(",")]))
