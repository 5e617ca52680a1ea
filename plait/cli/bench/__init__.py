"""Verbs that measure: each stands in the file of its name."""

from cyclopts import App

from plait.cli.app import description_of

app = App(name="bench")
app.command("plait.cli.bench.serve:serve", name="serve", help=description_of("plait.cli.bench.serve:serve"))
