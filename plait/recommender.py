"""The face of Plait: a trained model with its items, in the log's own ids and units.

model = plait.fit(data, layout="lac")
state = model.encode(history)
model.score(state, items); model.retrieve(state, k=10)
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import polars as pl
from jaxtyping import Int64

from plait.data import Dataset
from plait.data.coding import item_index
from plait.data.history import Columns, load_vocabulary, read_history, save_vocabulary
from plait.engine import plain
from plait.engine.state import State
from plait.engine.state import append as append_event
from plait.engine.state import encode as encode_history
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.saving import load_model, save_model
from plait.schema import UNKNOWN_ITEM, Action, Categorical, EventBatch
from plait.training.loop import Watch
from plait.training.run import MODEL, RunSettings, run
from plait.training.settings import Optim, Protocol

Frame = Any  # whatever polars reads: a dataframe of polars, pandas or Arrow, or a mapping of columns


@final
class Recommender:
    """A model that takes histories and items as the log spells them, and answers likewise."""

    def __init__(self, model: GenerativeRecommender, items: pl.Series, columns: Columns) -> None:
        """
        Args:
            items: the log's item ids; dense item i is at index i - 1.
        """
        self.model = model
        self.items = items
        self.columns = columns

    @property
    def actions(self) -> tuple[Action, ...]:
        return self.model.config.actions

    def encode(self, history: Frame | EventBatch) -> State:
        """Histories of one user or, where the user column is there, of many: ordered by user and time.

        Args:
            history: columns as in the log: item, time, the actions (null where missing), maybe the user.
                Items the model does not know are kept as unknown.

        Raises:
            ValueError: a column is missing or of the wrong type, or there is no event.
        """
        events, ids = (history, None) if isinstance(history, EventBatch) else self._events(history)
        return encode_history(events, self.model.config.max_events, self.model.layout.lag, ids)

    def append(self, state: State, event: Frame) -> State:
        """The state after one more event of every user (for one user, a mapping of single values will do)."""
        events, ids = self._events(event)
        return append_event(state, events, self.model.config.max_events, self.model.layout.lag, ids)

    def score(self, state: State, items: Sequence[Any]) -> pl.DataFrame:
        """Expected actions on given items: a row per user and item, a column per action in the log's units.

        A category gives one column per value, its probability.

        Raises:
            ValueError: an item is unknown, or the layout cannot score.
        """
        item_C = self._known(items)
        item_UC = np.tile(item_C, (state.events.num_users, 1))
        predicted = plain.score(self.model, state, item_UC)
        columns = []
        for action in self.actions:
            value_M = predicted[action.name].reshape(item_UC.size, -1)
            names = [action.name]
            if isinstance(action.kind, Categorical):
                names = [f"{action.name}={value}" for value in action.kind.values]
            columns += [pl.Series(name, value_M[:, column]) for column, name in enumerate(names)]
        return self._rows(state, item_UC).with_columns(columns)

    def retrieve(self, state: State, k: int = 10, *, filter_seen: bool = True) -> pl.DataFrame:
        """The `k` items most likely to come next: user, rank, item and score (a logit), best first.

        Raises:
            ValueError: the layout cannot retrieve, or fewer than `k` items are left.
        """
        item_UK, score_UK = plain.retrieve(self.model, state, k, filter_seen)
        rank_K = pl.Series("rank", np.tile(np.arange(1, k + 1), len(item_UK)))
        return self._rows(state, item_UK).with_columns(rank_K, pl.Series("score", score_UK.reshape(-1)))

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes weights, configuration and the item table; no pickle."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_vocabulary(folder, self.items, self.columns)
        save_model(self.model, folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> "Recommender":
        """Raises ValueError where the folder is not one of `save_pretrained`, or not whole."""
        folder = Path(folder)
        items, columns = load_vocabulary(folder)
        return cls(load_model(folder), items, columns)

    def _rows(self, state: State, item_UC: Int64[np.ndarray, "U C"]) -> pl.DataFrame:
        user_M = np.repeat(np.arange(len(item_UC)), item_UC.shape[1])
        users = pl.Series("user", state.id_U).gather(user_M)
        return pl.DataFrame({"user": users, "item": self.items.gather(item_UC.reshape(-1) - 1)})

    def _known(self, items: Sequence[Any]) -> Int64[np.ndarray, "C"]:
        item_C = item_index(pl.Series("item_id", list(items), strict=False), self.items)
        unknown = [item for item, index in zip(items, item_C, strict=True) if index == UNKNOWN_ITEM]
        if unknown:
            raise ValueError(
                f"{len(unknown)} of {len(item_C)} items are not among the model's {len(self.items)}, "
                f"such as {unknown[0]!r}"
            )
        return item_C

    def _events(self, history: Frame) -> tuple[EventBatch, list[Any] | None]:
        events, ids = read_history(history, self.columns, self.actions, self.items)
        return events, None if ids is None else ids.to_list()


def fit(
    data: Dataset,
    layout: str = "lac",
    *,
    model: ModelSettings = ModelSettings(),
    optim: Optim = Optim(),
    protocol: Protocol = Protocol(),
    out: Path | str | None = None,
    report: Callable[[str], None] = print,
    watch: Watch | None = None,
) -> Recommender:
    """Trains a recommender and tests it.

    Args:
        layout: a name of the catalogue, or a layout in notation.
        report: takes a line per validation.
        watch: is called after every step with the share of the cap that is spent, and tokens per second.
        out: the run's folder, from which a killed training goes on; without it nothing is kept.

    Raises:
        ValueError: the layout, the settings and the data do not fit each other.
    """
    resolved = resolve(layout, allow_leaks=model.allow_leaks)
    settings = RunSettings(layout=str(resolved), model=model, optim=optim, protocol=protocol)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(out) if out is not None else Path(scratch)
        run(data, settings, folder, report, watch=watch)
        return Recommender.from_pretrained(folder / MODEL)
