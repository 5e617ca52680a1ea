"""The face of Plait: a trained model with its items, in the log's own ids and units.

model = plait.fit(data, layout="lac")
state = model.encode(history)
model.score(state, items); model.retrieve(state, k=10)
"""

import difflib
import reprlib
import time as clock
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Float, Int64

from plait.data.columns import rules
from plait.data.columns.features import code_context, new_items
from plait.data.columns.ids import id_series
from plait.data.columns.times import MICROSECONDS_PER_S
from plait.data.forks import check_can_work
from plait.data.history import (
    ITEMS,
    Columns,
    History,
    load_vocabulary,
    read_history,
    save_vocabulary,
)
from plait.data.vocabulary import Vocabulary
from plait.engine import plain
from plait.engine.state import State
from plait.engine.state import append as append_event
from plait.engine.state import encode as encode_history
from plait.files import draft_folder
from plait.models.generative import GenerativeRecommender
from plait.models.saving import CONFIG, load_model, put_in_place, save_model
from plait.nn.device import resolve_device
from plait.schema import UNKNOWN_ITEM, UNSEEN_VALUE, Action, Category, EventBatch, shortened
from plait.wording import setting

CENTURY_S = 3_200_000_000  # a request may lie ahead, but not in the milliseconds of a log of seconds

NOBODY = (None,)  # the user of a history that names none: no real one, whatever its id

Frame = Any  # whatever polars reads: a dataframe of polars, pandas or Arrow, or a mapping of columns


@final
class Recommender:
    """A model that takes histories and items as the log spells them, and answers likewise."""

    def __init__(self, model: GenerativeRecommender, vocabulary: Vocabulary, columns: Columns) -> None:
        """
        Args:
            vocabulary: the log's items.
        """
        self.model = model
        self.vocabulary = vocabulary
        self.columns = columns

    @property
    def items(self) -> pl.Series:
        """The log's item ids; dense item i is at index i - 1."""
        return self.vocabulary.ids

    @property
    def actions(self) -> tuple[Action, ...]:
        return self.model.config.actions

    def encode(self, history: Frame | EventBatch, users: Frame | None = None) -> State:
        """Histories of one user or, where the user column is there, of many: ordered by user and time.

        Args:
            history: columns as in the log: item, time, the actions, maybe the user and the context. An action is null
                where it is missing, and so is one without a column. Items that the model does not know count as
                unknown; `state.unknown_items` names them, and where the model knows none, a warning does.
            users: the user features that the model was trained with: a row per user, with the user's id. Nothing is
                known about users that are not in it, or about any where it is not given. An `EventBatch` brings its
                own.

        Raises:
            ValueError: a column is missing, of the wrong type or not one of the log's. Or an event lacks its user, item
                or time, or there is no event. Or users are given to a model that was trained without features of them.
        """
        check_can_work()
        if users is not None:
            self._check_takes_users(history)
        is_batch = isinstance(history, EventBatch)
        read = self._of_batch(history) if is_batch else self._read(history, users)
        return encode_history(
            read.events,
            self.model.plan.max_events,
            self.model.plan.lead,
            read.user_ids if is_batch else read.user_ids or NOBODY,
            read.unknown_items,
            request_name_U=read.request_name_U,
            place_U=read.place_U,
        )

    def append(self, state: State, event: Frame) -> State:
        """The state after one more event of every user (for one user, a mapping of single values will do).

        What holds for columns, missing actions and unknown items of `encode` holds here. An event that names the last
        event's request, in the log's request column, belongs to it. In a log without that column, one of the same time
        does.

        Raises:
            ValueError: as `encode`. Or the event lies before the last one, by its time or by what breaks ties of time
                in the log, or is of other users. Or the model reads the log's requests, and the state came from an
                `EventBatch`, which does not name them. (Of its times, an `EventBatch` knows whole seconds.)
        """
        check_can_work()
        read = self._read(event)
        names_requests = self.model.reads_requests and self.columns.request is not None
        if names_requests and state.request_name_U is not None and None in state.request_name_U:
            raise ValueError(
                f"append: the model was trained to tell by the log's {self.columns.request!r} what was shown together, "
                "and the state was encoded from an EventBatch, which does not name its last request; encode a table of "
                "the log's columns"
            )
        return append_event(
            state,
            read.events,
            self.model.plan.max_events,
            self.model.plan.lead,
            read.user_ids,
            read.unknown_items,
            request_name_U=read.request_name_U,
            place_U=read.place_U,
        )

    def add_items(self, items: Frame) -> "Recommender":
        """A recommender that knows the table's new items, too, by their features alone: nothing is trained.

        Args:
            items: a row per item, as `plait.prepare` took it: the item's id and its features. Items that the model
                knows already stay as they are.

        Raises:
            ValueError: the model was trained without item features, or the table does not fit them.
        """
        check_can_work()
        features = self.model.config.item_features
        if not features:
            raise ValueError(
                "the model was trained without item features, so it cannot know items that came later; prepare the "
                f"data with {setting('items')} and {setting('item_features')}, and train again"
            )
        ids, table = new_items(items, self.columns.item, features, self.vocabulary, self.columns.text)
        return Recommender(self.model.with_items(table), self.vocabulary.with_more(ids), self.columns)

    def score(
        self, state: State, items: Sequence[Any], *, at: Any = None, context: Mapping[str, Any] | None = None
    ) -> pl.DataFrame:
        """Expected actions on given items: a row per user and item, a column per action in the log's units.

        A category gives one column per value, its probability. So does an ordinal action, behind a column of the mean
        level where its levels are numbers. An action whose column has a name that is taken, such as
        `item`, is called `action:item`.

        Args:
            at: when the items are shown, written as times of the log are. Models that know the time need it. In a log
                without requests, items that are shown at the time of the last event belong to its request, and answers
                are as trained for such. All others belong to a later one.
            context: values of that moment's context features, by name; missing where not named.

        Raises:
            ValueError: items are no list of ids, or one of them is unknown. Or the layout cannot score, or the model
                has no such context. Or the time is needed and not given, or lies before the last event.
        """
        check_can_work()
        item_C = known_items(self.vocabulary, items)
        item_UC = np.tile(item_C, (state.events.num_users, 1))
        at_s, request_name = self._when(at)
        context_F = self._context(context or {})
        predicted = plain.score(
            self.model, state, item_UC, at_s=at_s, request_name=request_name, context_F=context_F
        )
        return with_actions(rows_of(self.vocabulary, state, item_UC), self.actions, predicted)

    def retrieve(
        self, state: State, k: int = 10, *, filter_seen: bool = True, at: Any = None
    ) -> pl.DataFrame:
        """The `k` items most likely to come next: user, rank, item and score (a logit), best first.

        Args:
            at: when they are shown, as in `score`.

        Raises:
            ValueError: the layout cannot retrieve. Or `k` is no whole number, or more than the items left to a user.
                Or the time is needed and not given, or lies before the last event.
        """
        check_can_work()
        num_items = whole_number(k)
        at_s, request_name = self._when(at)
        item_UK, score_UK = plain.retrieve(
            self.model, state, num_items, filter_seen, at_s=at_s, request_name=request_name
        )
        return ranked_rows(self.vocabulary, state, item_UK, score_UK)

    def save_pretrained(self, folder: Path | str) -> None:
        """Writes weights, configuration and the item table; no pickle.

        They are written aside, then take the place of a recommender that the folder holds, and of nothing else in it. A
        kill leaves the old one, the new one or, in a short moment between, what `from_pretrained` refuses. It also
        leaves a hidden folder, which nothing reads and the next call removes.

        Raises:
            OSError: the folder cannot be written (disk full, no permission); what it holds stays.
        """
        check_can_work()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with draft_folder(folder, "writing") as aside:
            save_vocabulary(aside, self.vocabulary, self.columns)
            save_model(self.model, aside)
            put_in_place(aside, folder)

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "auto") -> "Recommender":
        """A saved recommender, on `device`: cpu, cuda, or auto, which is cuda where there is one.

        Raises:
            ValueError: the folder is not one of `save_pretrained`, or not whole; or there is no such device.
        """
        check_can_work()
        folder = Path(folder)
        vocabulary, columns = load_vocabulary(folder)
        model = load_model(folder)
        if len(vocabulary) != model.config.num_items:
            raise ValueError(
                f"{folder} cannot be loaded: {ITEMS} holds {len(vocabulary)} items, and {CONFIG} is of a model of "
                f"{model.config.num_items}. Expected the files of one save_pretrained: save it there again"
            )
        return cls(model.to(resolve_device(device)), vocabulary, columns)

    def _when(self, at: Any) -> tuple[int | None, int | None]:
        """A time as the log writes it, in unix seconds, and in µs what tells it from the times of the log's requests.

        Raises:
            ValueError: it is none.
        """
        if at is None:
            return None, None
        form = self.columns.time_form
        if form is None:
            raise ValueError(f"at = {at!r}: the log that the model was trained on has no times; leave it out")
        given = pl.DataFrame({"at": [at]})
        latest_s = clock.time() + CENTURY_S
        form = msgspec.structs.replace(form, column="at", offset=None)
        column = rules.time_column(form, given.schema, latest_s)
        rule, microseconds = given.select(rules.rule_number([column]), column.value).row(0)
        if rule:
            raise ValueError(f"at = {at!r}: {rules.rule_texts([column])[rule - 1]}")
        return int(microseconds) // MICROSECONDS_PER_S, int(microseconds)

    def _context(self, context: Mapping[str, Any]) -> Int64[np.ndarray, " F"]:
        names = [feature.name for feature in self.columns.context]
        for name in context:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                raise ValueError(
                    f"context {name!r} was not there in training, so the model cannot read it; it reads "
                    f"{', '.join(names) or 'no context'}" + (f"; did you mean {near[0]!r}?" if near else "")
                )
        frame = pl.DataFrame({name: [value] for name, value in context.items()} or {"no context": [None]})
        code_F = code_context(self.columns.context, frame, "context")[0]
        for feature, code in zip(self.columns.context, code_F, strict=True):
            if code == UNSEEN_VALUE and isinstance(feature.kind, Category):
                warnings.warn(
                    f"context {feature.name!r} = {context[feature.name]!r} is unseen: no training event has it, as "
                    f"they have {shortened(feature.kind.values)}",
                    stacklevel=3,
                )
        return code_F

    def _check_takes_users(self, history: Frame | EventBatch) -> None:
        if not self.columns.user_features:
            raise ValueError(
                "users are given, and the model was trained without user features: leave them out, or prepare the "
                f"data with {setting('users')} and {setting('user_features')}, and train again"
            )
        if isinstance(history, EventBatch):
            raise ValueError(
                "users are given beside an EventBatch, which holds their codes already: leave them out"
            )

    def _of_batch(self, events: EventBatch) -> History:
        """Where the log names requests, a batch has their numbers alone: an event to come is of none of them."""
        unnamed = None if self.columns.request is None else (None,) * events.num_users
        return History(events, None, (), unnamed, place_U=None)

    def _read(self, history: Frame, users: Frame | None = None) -> History:
        read = read_history(
            history, self.columns, self.actions, self.vocabulary, users, self.model.reads_requests
        )
        if read.unknown_items and (read.events.item_E == UNKNOWN_ITEM).all():
            warnings.warn(
                f"the model knows no item of these events, such as {read.unknown_items[0]!r}: all count as unknown. "
                f"Its {len(self.items)} items are spelled like {self.items[0]!r}",
                stacklevel=3,
            )
        return read


def whole_number(k: Any) -> int:
    """Raises ValueError where it is none."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise ValueError(f"k = {k!r}: expected a whole number, how many items each user gets")
    return int(k)


def rows_of(vocabulary: Vocabulary, state: State, item_UC: Int64[np.ndarray, "U C"]) -> pl.DataFrame:
    """A row for each user and item: "user", "item"."""
    user_M = np.repeat(np.arange(len(item_UC)), item_UC.shape[1])
    users = pl.Series("user", state.id_U).gather(user_M)
    return pl.DataFrame({"user": users, "item": vocabulary.ids_at(item_UC.reshape(-1))})


def ranked_rows(
    vocabulary: Vocabulary,
    state: State,
    item_UK: Int64[np.ndarray, "U K"],
    score_UK: Float[np.ndarray, "U K"],
) -> pl.DataFrame:
    """The same of the best items of each user, with "rank" and "score"."""
    rank_M = pl.Series("rank", np.tile(np.arange(1, item_UK.shape[1] + 1), len(item_UK)))
    return rows_of(vocabulary, state, item_UK).with_columns(rank_M, pl.Series("score", score_UK.reshape(-1)))


def with_actions(
    answer: pl.DataFrame, actions: Sequence[Action], predicted: Mapping[str, Float[np.ndarray, "..."]]
) -> pl.DataFrame:
    """The rows with what is expected of each action, in the log's units."""
    for action in actions:
        value_MW = action.kind.answer(predicted[action.name].reshape(len(answer), -1))
        for name, value_M in zip(action.kind.answer_columns(action.name), value_MW.T, strict=True):
            answer = answer.with_columns(pl.Series(_free(name, answer.columns), value_M))
    return answer


def known_items(vocabulary: Vocabulary, items: Any) -> Int64[np.ndarray, " C"]:
    """The dense items of a list of ids. Raises ValueError where one is not known."""
    ids = _ids(items)
    item_C = vocabulary.index_of(ids)
    unknown = ids.filter(item_C == UNKNOWN_ITEM)
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(ids)} items are not among the model's {len(vocabulary)}, "
            f"such as {unknown[0]!r}"
        )
    return item_C


def _free(name: str, taken: Sequence[str]) -> str:
    """
    >>> _free("item", ["user", "item"])
    'action:item'
    """
    while name in taken:
        name = f"action:{name}"
    return name


def _ids(items: Any) -> pl.Series:
    """Item ids as a column.

    Raises:
        ValueError: they are no list of single values.
    """
    try:
        ids = id_series(items)
    except TypeError:
        ids = None
    if ids is None or isinstance(items, str | bytes) or ids.dtype.is_nested() or ids.dtype == pl.Object:
        raise ValueError(
            f"items = {reprlib.repr(items)}: expected a list of item ids, as the log spells them"
        )
    return ids
