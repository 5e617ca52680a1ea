"""Plait: generative recommendation where the item/action layout is one line of data.

A name is loaded when it is first asked for: a few of them load torch, and a table of layouts needs none of those.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and checkers of types; a test holds it against HOMES
    from plait.baseline_recommender import ActionBaseline, RetrievalBaseline
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

HOMES = {
    "Action": "plait.schema",
    "ActionBaseline": "plait.baseline_recommender",
    "Amount": "plait.schema",
    "Binary": "plait.schema",
    "Categorical": "plait.schema",
    "Categories": "plait.schema",
    "Category": "plait.schema",
    "Dataset": "plait.data",
    "Explode": "plait.data",
    "Feature": "plait.schema",
    "LateSettings": "plait.models.late",
    "Layout": "plait.layouts",
    "LeaveOneOut": "plait.data",
    "ModelSettings": "plait.models.generative",
    "Number": "plait.schema",
    "Optim": "plait.evaluation.settings",
    "Ordinal": "plait.schema",
    "Protocol": "plait.evaluation.settings",
    "Recommender": "plait.recommender",
    "Regression": "plait.schema",
    "RetrievalBaseline": "plait.baseline_recommender",
    "SplitColumn": "plait.data",
    "Temporal": "plait.data",
    "TextFormat": "plait.data",
    "Vector": "plait.schema",
    "fit": "plait.fitting",
    "prepare": "plait.data",
}

__all__ = [
    "Action",
    "ActionBaseline",
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
    "RetrievalBaseline",
    "SplitColumn",
    "Temporal",
    "TextFormat",
    "Vector",
    "fit",
    "prepare",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(HOMES[name]), name)  # asked for once
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
