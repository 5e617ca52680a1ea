"""Verbs about layouts."""

from dataclasses import asdict, astuple

from cyclopts import App

from plait.cli.arguments import Json
from plait.cli.output import say, show_json, show_table
from plait.layouts import audit, draw, name_of, resolve

CATALOGUE_COLUMNS = ("name", "notation", "tokens", "FLOPs", "retrieves", "scores", "P1", "P2", "source")

app = App(name="layouts")


@app.default
def list_layouts(*, json: Json = False) -> None:
    """The catalogue of layouts with their audit.

    Example: plait layouts
    """
    rows = draw.catalogue_rows()
    if json:
        show_json([asdict(row) for row in rows])
    else:
        show_table(CATALOGUE_COLUMNS, map(astuple, rows), caption="; ".join(draw.CATALOGUE_HEADINGS[2:4]))


@app.command(name="show")
def show_layout(layout: str, /, *, json: Json = False) -> None:
    """One layout explained: its tokens, its audit, what it costs, its mask.

    Example: plait layouts show "(i[t], a[t-1]) -> (i[t+1], a[t])"

    Parameters
    ----------
    layout
        A name of the catalogue, or a layout in notation.
    """
    resolved = resolve(layout)
    if json:
        show_json({"name": name_of(resolved), "notation": str(resolved), "audit": audit(resolved)})
    else:
        say(draw.explain(resolved))
