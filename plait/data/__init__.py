"""Logs in, prepared memory-mapped datasets out, batches of events read from them. Knows no tokens.

`sources` and `simulator` bring logs. From a log to a batch, in order:

1. `logs`: files and frames as they are become lazy tables.
2. `columns`: what a column of them means: ids, times, actions, features, what is missing.
3. `preparation`: rows are checked and coded, then sorted, filtered and split into arrays.
4. `storage`: the arrays become a folder, whole or not at all; `manifest` and `facts` say what is in it.
5. `dataset` reads it in batches (`windows`, `queries`), `history` events from elsewhere; `vocabulary` has the ids.

A name is loaded when it is first asked for: to list sources, or to read events, nobody needs the preparation.
"""

from typing import TYPE_CHECKING

from plait.data import sources
from plait.lazy_names import lazy_names

if TYPE_CHECKING:  # for editors and checkers of types; a test holds it against HOMES
    from plait.data.dataset import Dataset, Targets
    from plait.data.logs.text import Explode, TextFormat
    from plait.data.manifest import LeaveOneOut, Manifest, SplitColumn, Temporal
    from plait.data.preparation.pipeline import prepare

HOMES = {
    "Dataset": "plait.data.dataset",
    "Explode": "plait.data.logs.text",
    "LeaveOneOut": "plait.data.manifest",
    "Manifest": "plait.data.manifest",
    "SplitColumn": "plait.data.manifest",
    "Targets": "plait.data.dataset",
    "Temporal": "plait.data.manifest",
    "TextFormat": "plait.data.logs.text",
    "prepare": "plait.data.preparation.pipeline",
}

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

__getattr__, __dir__ = lazy_names(__name__, HOMES)
