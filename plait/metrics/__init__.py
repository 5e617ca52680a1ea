"""Scores and ranks in, per-user numbers and intervals out; knows no model.

`retrieval` and `scoring` turn ranks or predictions into a `Statistic`: a metric that can be recomputed with
every user counted any number of times. `intervals` resamples users under it, and compares two of them.
"""
