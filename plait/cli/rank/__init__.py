"""Verbs about rankers: each stands in the file of its name."""

from cyclopts import App

from plait.cli.app import description_of

app = App(name="rank")
where = "plait.cli.rank.train:train_ranker"
app.command(where, name="train", help=description_of(where))
