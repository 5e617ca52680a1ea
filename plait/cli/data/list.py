"""The verb that lists the datasets with names."""

from plait.cli.output import show_table
from plait.data import sources


def list_data() -> None:
    """The datasets that Plait knows by name.

    Example: plait data list
    """
    rows = [(r.name, r.what, ", ".join(a.name for a in r.actions), r.origin) for r in sources.catalogue()]
    show_table(("name", "what", "actions", "from"), rows)
