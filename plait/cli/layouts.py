"""Verbs about layouts."""

from dataclasses import astuple

from cyclopts import App

from plait.cli.output import say, show_table
from plait.layouts import draw, resolve

CATALOGUE_COLUMNS = ("name", "notation", "tokens", "FLOPs", "retrieves", "scores", "P1", "P2", "source")

app = App(name="layouts")


@app.default
def list_layouts() -> None:
    """The catalogue of layouts with their audit.

    Example: plait layouts
    """
    rows = [astuple(row) for row in draw.catalogue_rows()]
    show_table(CATALOGUE_COLUMNS, rows, caption="; ".join(draw.CATALOGUE_HEADINGS[2:4]))


@app.command(name="show")
def show_layout(layout: str, /) -> None:
    """One layout explained: its tokens, its audit, what it costs, its mask.

    Example: plait layouts show "(i[t], a[t-1]) -> (i[t+1], a[t])"

    Parameters
    ----------
    layout
        A name of the catalogue, or a layout in notation.
    """
    say(draw.explain(resolve(layout)))
