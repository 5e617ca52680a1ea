"""Plait: generative recommendation where the item/action layout is one line of data.

A name is loaded when it is first asked for: a few of them load torch, and a table of layouts needs none of those.
"""

from typing import TYPE_CHECKING

from plait.lazy_names import lazy_names

if TYPE_CHECKING:  # for editors and checkers of types; a test holds it against HOMES
    from plait.counting_recommender import CountingRecommender, CountingScorer
    from plait.data import Dataset, Explode, LeaveOneOut, SplitColumn, Temporal, TextFormat, prepare
    from plait.engine.state_parts import joined_states, state_of_users
    from plait.evaluation.settings import Optim, Protocol
    from plait.exporting.exported import Exported
    from plait.exporting.writing import export
    from plait.fitting import fit, refit
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
    "Amount": "plait.schema",
    "Binary": "plait.schema",
    "Categorical": "plait.schema",
    "Categories": "plait.schema",
    "Category": "plait.schema",
    "CountingRecommender": "plait.counting_recommender",
    "CountingScorer": "plait.counting_recommender",
    "Dataset": "plait.data",
    "Explode": "plait.data",
    "Exported": "plait.exporting.exported",
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
    "SplitColumn": "plait.data",
    "Temporal": "plait.data",
    "TextFormat": "plait.data",
    "Vector": "plait.schema",
    "export": "plait.exporting.writing",
    "fit": "plait.fitting",
    "joined_states": "plait.engine.state_parts",
    "prepare": "plait.data",
    "refit": "plait.fitting",
    "state_of_users": "plait.engine.state_parts",
}

__all__ = [
    "Action",
    "Amount",
    "Binary",
    "Categorical",
    "Categories",
    "Category",
    "CountingRecommender",
    "CountingScorer",
    "Dataset",
    "Explode",
    "Exported",
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
    "export",
    "fit",
    "joined_states",
    "prepare",
    "refit",
    "state_of_users",
]

__getattr__, __dir__ = lazy_names(__name__, HOMES)
