"""Verbs about large user models: each stands in the file of its name."""

from cyclopts import App

from plait.cli.app import description_of

app = App(name="lum")
for place, verb in enumerate(("pretrain", "query")):
    where = f"plait.cli.lum.{verb}:{verb}"
    app.command(where, name=verb, help=description_of(where), sort_key=place)
