"""Plait: generative recommendation where the item/action layout is one line of data."""

from plait.data import Dataset, LeaveOneOut, SplitColumn, Temporal, prepare
from plait.layouts import Layout
from plait.models.generative import ModelSettings
from plait.models.late import LateSettings
from plait.recommender import Recommender, fit
from plait.schema import (
    Action,
    Amount,
    Binary,
    Categorical,
    Categories,
    Category,
    Feature,
    Number,
    Regression,
    Vector,
)
from plait.training.settings import Optim, Protocol

__all__ = [
    "Action",
    "Amount",
    "Binary",
    "Categorical",
    "Categories",
    "Category",
    "Dataset",
    "Feature",
    "LateSettings",
    "Layout",
    "LeaveOneOut",
    "ModelSettings",
    "Number",
    "Optim",
    "Protocol",
    "Recommender",
    "Regression",
    "SplitColumn",
    "Temporal",
    "Vector",
    "fit",
    "prepare",
]
