"""Verbs about datasets: each stands in the file of its name."""

from cyclopts import App

from plait.cli.app import description_of

app = App(name="data")
VERBS = (("list", "list_data"), ("get", "get"), ("prepare", "prepare"), ("shown", "shown"))
for place, (verb, function) in enumerate(VERBS):
    where = f"plait.cli.data.{verb}:{function}"
    app.command(where, name=verb, help=description_of(where), sort_key=place)
