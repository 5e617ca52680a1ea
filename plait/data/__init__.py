"""Logs in, prepared memory-mapped datasets out, batches of events read from them. Knows no tokens.

`sources` and `simulator` bring logs. From a log to a batch, in order:

1. `logs`: files and frames as they are become lazy tables.
2. `columns`: what a column of them means: ids, times, actions, features, what is missing.
3. `preparation`: rows are checked and coded, then sorted, filtered and split into arrays.
4. `storage`: the arrays become a folder, whole or not at all; `manifest` and `facts` say what is in it.
5. `dataset` reads it in batches (`windows`, `queries`), `history` events from elsewhere; `vocabulary` has the ids.
"""

from plait.data import sources
from plait.data.dataset import Dataset, Targets
from plait.data.logs.text import Explode, TextFormat
from plait.data.manifest import LeaveOneOut, Manifest, SplitColumn, Temporal
from plait.data.preparation.pipeline import prepare

__all__ = [
    "Dataset",
    "Explode",
    "LeaveOneOut",
    "Manifest",
    "SplitColumn",
    "Targets",
    "Temporal",
    "TextFormat",
    "prepare",
    "sources",
]
