"""The verb that lists the datasets with names."""

from plait.cli.arguments import Json
from plait.cli.output import show_rows
from plait.data import sources


def list_data(*, json: Json = False) -> None:
    """The datasets that Plait knows by name.

    Example: plait data list
    """
    rows = [(r.name, r.what, [action.name for action in r.actions], r.origin) for r in sources.catalogue()]
    show_rows(("name", "what", "actions", "from"), rows, json=json)
