"""Plait: generative recommendation where the item/action layout is one line of data."""

from plait.data import Dataset, LeaveOneOut, Temporal, prepare
from plait.layouts import Layout
from plait.models.generative import ModelSettings
from plait.recommender import Recommender, fit
from plait.schema import Action, Amount, Binary, Categorical, Regression
from plait.training.settings import Optim, Protocol

__all__ = [
    "Action",
    "Amount",
    "Binary",
    "Categorical",
    "Dataset",
    "Layout",
    "LeaveOneOut",
    "ModelSettings",
    "Optim",
    "Protocol",
    "Recommender",
    "Regression",
    "Temporal",
    "fit",
    "prepare",
]
