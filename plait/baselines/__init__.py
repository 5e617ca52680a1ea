"""Counting as a contender: fitted on the training rows of a dataset, and asked like a model."""
