"""Plait: generative recommendation where the item/action layout is one line of data."""

from plait.data import Dataset, Explode, LeaveOneOut, SplitColumn, Temporal, TextFormat, prepare
from plait.evaluation.settings import Optim, Protocol
from plait.fitting import fit
from plait.layouts import Layout
from plait.models.generative import ModelSettings
from plait.models.late import LateSettings
from plait.recommender import Recommender
from plait.schema import (
    Action,
    Amount,
    Binary,
    Categorical,
    Categories,
    Category,
    Feature,
    Number,
    Ordinal,
    Regression,
    Vector,
)

__all__ = [
    "Action",
    "Amount",
    "Binary",
    "Categorical",
    "Categories",
    "Category",
    "Dataset",
    "Explode",
    "Feature",
    "LateSettings",
    "Layout",
    "LeaveOneOut",
    "ModelSettings",
    "Number",
    "Optim",
    "Ordinal",
    "Protocol",
    "Recommender",
    "Regression",
    "SplitColumn",
    "Temporal",
    "TextFormat",
    "Vector",
    "fit",
    "prepare",
]
