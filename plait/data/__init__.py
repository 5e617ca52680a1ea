"""Logs in, prepared memory-mapped datasets out, batches of events read from them. Knows no tokens."""

from plait.data import sources
from plait.data.dataset import Dataset, Targets
from plait.data.manifest import LeaveOneOut, Manifest, SplitColumn, Temporal
from plait.data.preparing import prepare
from plait.data.text import Explode, TextFormat

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
