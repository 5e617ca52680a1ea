"""The verb that lists the datasets with names."""

from plait.cli.arguments import Json
from plait.cli.output import show_json, show_table
from plait.data import sources


def list_data(*, json: Json = False) -> None:
    """The datasets that Plait knows by name.

    Example: plait data list
    """
    rows = [(r.name, r.what, [action.name for action in r.actions], r.origin) for r in sources.catalogue()]
    headings = ("name", "what", "actions", "from")
    if json:
        show_json([dict(zip(headings, row, strict=True)) for row in rows])
    else:
        show_table(
            headings, [(name, what, ", ".join(actions), origin) for name, what, actions, origin in rows]
        )
