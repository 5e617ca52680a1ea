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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int64

from plait.answer_tables import (
    action_columns,
    as_answered,
    ids_of,
    known_items,
    num_shown,
    ranked_rows,
    rows_of_lists,
    with_answers,
)
from plait.conditions import (
    condition_codes,
    condition_of_all,
    conditions_frame,
    interest_rows,
    vectors_column,
)
from plait.data.columns import rules
from plait.data.columns.features import code_context, new_items, numbers_of
from plait.data.columns.keyed import (
    KeyedVectors,
    read_vectors,
    told_vectors,
    warn_of_unnamed_encoder,
    with_more_keys,
)
from plait.data.columns.times import MICROSECONDS_PER_S
from plait.data.columns.values import feature_values
from plait.data.forks import check_can_work
from plait.data.history import (
    ITEMS,
    Columns,
    History,
    load_vocabulary,
    read_history,
    save_vocabulary,
)
from plait.data.logs.tables import open_tables
from plait.data.vocabulary import Vocabulary
from plait.engine import one_pass
from plait.engine.attention import Attention, attention
from plait.engine.by_index import retrieve_by_index
from plait.engine.item_index import ItemIndex, load_index
from plait.engine.ranking import keys_of_items
from plait.engine.similar import similar as similar_items
from plait.engine.state import State, called
from plait.engine.state import append as append_event
from plait.engine.state import encode as encode_history
from plait.engine.state_file import load_state, save_state
from plait.engine.state_parts import joined_states, state_of_users
from plait.engine.value import Formula, Value
from plait.files import draft_folder
from plait.limits import MOST_CODES, Between
from plait.models.generative import GenerativeRecommender
from plait.models.saving import CONFIG, load_model, put_in_place, save_model
from plait.models.two_tower import UNTOLD_ADVICE, TwoTower
from plait.nn.device import resolve_device
from plait.schema import (
    UNKNOWN_ITEM,
    UNSEEN_VALUE,
    Action,
    Category,
    EventBatch,
    Keyed,
    Number,
    code_columns,
    shortened,
)
from plait.wording import setting

CENTURY_S = 3_200_000_000  # a request may lie ahead, but not in the milliseconds of a log of seconds

VALUE = "value"  # the column of a formula's values
EARLIER_EVENTS = Between(0, MOST_CODES, "they are counted by 32 bits")
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
        self._has_said_untold = False
        # What it does not read need not be in a history.
        self.columns = columns if model.config.conditions else msgspec.structs.replace(columns, conditions=())

    @property
    def items(self) -> pl.Series:
        """The log's item ids; dense item i is at index i - 1."""
        return self.vocabulary.ids

    @property
    def actions(self) -> tuple[Action, ...]:
        return self.model.config.actions

    def encode(
        self, history: Frame | EventBatch, users: Frame | None = None, *, before: int | Mapping[Any, int] = 0
    ) -> State:
        """Histories of one user or, where the user column is there, of many: ordered by user and time.

        Args:
            history: columns as in the log: item, time, the actions, maybe the user and the context. An action is null
                where it is missing, and so is one without a column. Items that the model does not know count as
                unknown; `state.unknown_items` names them, and where the model knows none, a warning does.
            users: the user features that the model was trained with: a row per user, with the user's id. Nothing is
                known about users that are not in it, or about any where it is not given. An `EventBatch` brings its
                own.
            before: how many events a user had before the first of its history: one number, or by the user's id (0 for
                those that it does not name). Models whose windows begin anew every few events (`window_step`) count
                them, so that a history that was cut has the window of the whole one. Items of events that were cut do
                not count as seen.

        Raises:
            ValueError: a column is missing, of the wrong type or not one of the log's. Or an event lacks its user, item
                or time, or there is no event. Or users are given to a model that was trained without features of them.
                Or `before` is no count, or of others, or counts events that the model has to read.
        """
        check_can_work()
        if users is not None:
            self._check_takes_users(history)
        is_batch = isinstance(history, EventBatch)
        read = self._of_batch(history) if is_batch else self._read(history, users)
        user_ids = read.user_ids if is_batch else read.user_ids or NOBODY
        state = encode_history(
            _behind(read.events, before, user_ids),
            self.model.plan.window,
            self.model.plan.lead,
            user_ids,
            read.unknown_items,
            request_name_U=read.request_name_U,
            place_U=read.place_U,
        )
        return one_pass.encode(self.model, state)

    def append(self, state: State, event: Frame) -> State:
        """The state after one more event of every user, or of some (for one user, a mapping of single values will do).

        The others stay as they are. Where events are of some users, or the state was joined in another order than that
        of ids, all keys are copied.

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
        if read.user_ids is None or read.user_ids == state.id_U or not set(read.user_ids) <= set(state.id_U):
            return self._appended(state, read)
        grown = self._appended(state_of_users(state, read.user_ids), read)
        rest = [id for id in state.id_U if id not in read.user_ids]
        both = joined_states([grown, state_of_users(state, rest)]) if rest else grown
        return state_of_users(both, state.id_U)

    def _appended(self, state: State, read: History) -> State:
        """With one event of each user of the state; refuses others."""
        after = append_event(
            state,
            read.events,
            self.model.plan.window,
            self.model.plan.lead,
            read.user_ids,
            read.unknown_items,
            request_name_U=read.request_name_U,
            place_U=read.place_U,
        )
        return one_pass.append(self.model, state, after)

    def save_state(self, state: State, file: Path | str) -> None:
        """Writes a state into a file, with the keys of its histories, and over another file.

        Raises:
            ValueError: an id of a user, an item or a request, or what orders events, is neither text nor a number.
            OSError: the file cannot be written (disk full, no permission).
        """
        check_can_work()
        save_state(state, self.model, Path(file))

    def load_state(self, file: Path | str) -> State:
        """The state of a file of `save_state`, without encoding its histories again.

        Raises:
            ValueError: the file is no state, damaged, of another format version, or of another model.
        """
        check_can_work()
        return load_state(self.model, Path(file))

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

    def add_condition_vectors(self, **tables: Any) -> "Recommender":
        """A recommender that knows more values of conditions, by their frozen vectors alone: nothing is trained.

        Args:
            tables: by condition a Parquet file or a frame, with a column of keys and one of vectors as the model was
                prepared with. Keys that it knows already stay as they are.

        Raises:
            ValueError: the model has no such condition with vectors, or the table does not fit: another width, another
                encoder, a key twice, a vector that is not finite. A warning says where nothing shows whether the
                encoder is the same.
        """
        check_can_work()
        read = {name: read_vectors(table, name) for name, table in tables.items()}
        grown = self._with_vectors(read)
        for feature in self.model.config.conditions:
            if feature.name in read:
                warn_of_unnamed_encoder(feature, read[feature.name], f"condition {feature.name!r}")
        return grown

    def _with_vectors(self, tables: Mapping[str, KeyedVectors]) -> "Recommender":
        conditions = {feature.name: feature for feature in self.model.config.conditions}
        more = {}
        for name, vectors in tables.items():
            keyed = [each for each, feature in conditions.items() if isinstance(feature.kind, Keyed)]
            if name not in keyed:
                raise ValueError(
                    f"condition {name!r} has no vectors; the model has those of {', '.join(keyed) or 'none'}: prepare "
                    f"with {name}:vector:FILE.parquet as a condition, and train again"
                )
            conditions[name], more[name] = with_more_keys(conditions[name], vectors, f"condition {name!r}")
        features = tuple(conditions.values())
        of_moment = {feature.name: feature for feature in features}
        columns = msgspec.structs.replace(
            self.columns, conditions=tuple(of_moment[each.name] for each in self.columns.conditions)
        )
        return Recommender(self.model.with_condition_vectors(features, more), self.vocabulary, columns)

    def _told(self, conditions: Any) -> tuple["Recommender", pl.DataFrame]:
        """Conditions as a table of keys, and who knows the vectors that were given in place of some."""
        frame = conditions_frame(conditions)
        if not any(isinstance(feature.kind, Keyed) for feature in self.model.config.conditions):
            return self, frame
        frame, told = told_vectors(frame, self.model.config.conditions)
        return (self._with_vectors(told) if told else self), frame

    def _knowing(self, condition: Mapping[str, Any] | None) -> tuple["Recommender", Mapping[str, Any] | None]:
        """One condition likewise."""
        if not condition:
            return self, condition
        asked, frame = self._told([condition])
        return asked, condition if asked is self else frame.row(0, named=True)

    def score(
        self,
        state: State,
        items: Sequence[Any],
        *,
        at: Any = None,
        context: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        value: str | Value | None = None,
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
            condition: under which they are asked about, as in `retrieve`.
            value: a formula such as `0.7 * like + 0.3 * log1p(watch_s)`, or what `Recommender.value` made of one. Its
                values stand in a last column, `value`; rows keep the order of the items.

        Raises:
            ValueError: items are no list of ids, or one of them is unknown. Or the layout cannot score, or the model
                has no such context. Or the time is needed and not given, or lies before the last event. Or a value is
                refused as by `Recommender.value`, or not finite for some candidate.
        """
        check_can_work()
        item_C = known_items(self.vocabulary, items)
        count_U = np.full(state.events.num_users, len(item_C))
        item_M = np.tile(item_C, len(count_U))
        columns = self.score_dense(
            state, item_M, count_U, at=at, context=context, condition=condition, value=value
        )
        return with_answers(rows_of_lists(self.vocabulary, state, item_M, count_U), columns)

    def score_lists(
        self,
        state: State,
        items: Sequence[Sequence[Any]],
        *,
        at: Any = None,
        context: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        value: str | Value | None = None,
    ) -> pl.DataFrame:
        """As `score`, of users who have items of their own.

        Args:
            items: a list for each user of the state, in its order; some may be empty.
            at, context, condition, value: of all, as in `score`.

        Raises:
            ValueError: as `score`, or there is not one list for each user.
        """
        check_can_work()
        if len(items) != state.events.num_users or any(isinstance(its, str | bytes) for its in items):
            raise ValueError(
                f"items = {reprlib.repr(items)}: expected a list of item ids for each of the state's "
                f"{state.events.num_users} users"
            )
        item_M = known_items(self.vocabulary, [item for its in items for item in its])
        count_U = np.array([len(its) for its in items], dtype=np.int64)
        columns = self.score_dense(
            state, item_M, count_U, at=at, context=context, condition=condition, value=value
        )
        return with_answers(rows_of_lists(self.vocabulary, state, item_M, count_U), columns)

    def score_dense(
        self,
        state: State,
        item_M: Int64[np.ndarray, " M"],
        count_U: Int64[np.ndarray, " U"],
        *,
        at: Any = None,
        context: Mapping[str, Any] | None = None,
        condition: Mapping[str, Any] | None = None,
        value: str | Value | None = None,
    ) -> dict[str, Float[np.ndarray, " M"]]:
        """The columns of `score_lists` alone, for those who have no need of a table.

        Args:
            item_M: dense numbers of known items (`Vocabulary.index_of`), `count_U` of each user.
            at, context, condition, value: as in `score`.

        Raises:
            ValueError: as `score`.
        """
        check_can_work()
        context = context or {}
        asked, condition = self._knowing(condition)
        if asked is not self:
            return asked.score_dense(
                state, item_M, count_U, at=at, context=context, condition=condition, value=value
            )
        if isinstance(value, str):
            value = self.value(value)
        at_s, request_name = self._when(at)
        context_UF = np.tile(self._context(context), (len(count_U), 1))
        predicted = one_pass.score_lists(
            self.model,
            state,
            item_M,
            count_U,
            at_s=at_s,
            request_name=request_name,
            context_UF=context_UF,
            condition_UG=self._condition_of_all(state, condition),
        )
        columns = action_columns(self.actions, predicted, len(item_M))
        if value is None:
            return as_answered(columns)
        moment = self._numbers_of_context(context)
        candidate = partial(_candidate, self.vocabulary, state, item_M, count_U)
        value_M = value.of(dict(columns), item_M, moment, candidate)
        return {**as_answered(columns, taken=(VALUE,)), VALUE: value_M}

    def value(self, formula: str, item_numbers: Any = None) -> Value:
        """A ranking value for `score`: arithmetic over predicted actions, numbers of items and of the context.

        A formula has numbers, names, `+ - * / **`, brackets and the functions abs, sqrt, exp, log, log1p, min and max.
        Names are the columns that `score` answers with, then the numbers of the context, then columns of
        `item_numbers`. One that is no Python name stands in quotes: `2 * "device=phone"`. Where any part of the formula
        is not finite for a candidate, `score` raises and says which.

        Args:
            item_numbers: a table with a row per item, in any of the forms that `plait.prepare` takes: the log's item
                column, and the columns of numbers that the formula names.

        Raises:
            ValueError: it is no such formula, a name is unknown, or none is an action's. Or the table does not hold
                the numbers.
        """
        check_can_work()
        parsed = Formula.parse(formula)
        actions = [name for action in self.actions for name in action.kind.answer_columns(action.name)]
        numbers = [feature.name for feature in self.columns.context if isinstance(feature.kind, Number)]
        wanted = [name for name in parsed.names if name not in (*actions, *numbers)]
        text = self.columns.text
        of_items: list[str] = []
        if item_numbers is not None and wanted:
            tables = open_tables(item_numbers, text, text.item_columns, wanted)
            of_items = [name for name in tables[0].schema if name != self.columns.item]
        parsed.check_names(
            actions, (*numbers, *of_items), self._without_numbers(has_table=item_numbers is not None)
        )
        if not wanted:
            return Value(parsed)
        return Value(parsed, numbers_of(item_numbers, self.columns.item, wanted, self.items, text))

    def retrieve(
        self,
        state: State,
        k: int = 10,
        *,
        filter_seen: bool = True,
        at: Any = None,
        condition: Mapping[str, Any] | None = None,
        allow: Sequence[Any] | None = None,
        deny: Sequence[Any] | None = None,
        mask: Sequence[bool] | np.ndarray | None = None,
        index: ItemIndex | None = None,
    ) -> pl.DataFrame:
        """The `k` items most likely to come next: user, rank, item and score (a logit), best first.

        Exact: every item of the catalogue is looked at, a part at a time. Filters leave the scores of the others as
        they are. With an index some are looked at: scores are exact, items may be missed, and a warning says of how
        many users the filters left too few, who are then answered exactly.

        Args:
            at: when they are shown, as in `score`.
            condition: under which they are asked for, values by name, missing where not named. A model whose layout
                shows conditions has to be told one ({} says that nothing is known of it); others take none.
            allow: the only items that may be answered.
            deny: items that may not.
            mask: for each of `items`, in their order, whether it may; see `mask`.
            index: of this model, as `plait index` makes it: `load_index`.

        Raises:
            ValueError: the layout cannot retrieve, or the index is of another model. Or `k` is no whole number, or more
                than the filters leave to a user. Or the time is needed and not given, or lies before the last event.
                Or as `mask`.
        """
        check_can_work()
        asked, condition = self._knowing(condition)
        if asked is not self:
            if index is not None and index.is_of(self.model):
                index = index.of_grown(asked.model)
            return asked.retrieve(
                state,
                k,
                filter_seen=filter_seen,
                at=at,
                condition=condition,
                allow=allow,
                deny=deny,
                mask=mask,
                index=index,
            )
        self._say_untold()
        num_items = num_shown(k)
        at_s, request_name = self._when(at)
        kept_I = None
        if not (allow is None and deny is None and mask is None):
            kept_I = np.concatenate([[False], self.mask(allow, deny) & self._checked_mask(mask)])
        moment: dict[str, Any] = {"at_s": at_s, "request_name": request_name, "kept_I": kept_I}
        moment["condition_UG"] = self._condition_of_all(state, condition)
        if index is None:
            item_UK, score_UK = one_pass.retrieve(self.model, state, num_items, filter_seen, **moment)
        else:
            item_UK, score_UK, num_exact = retrieve_by_index(
                self.model, state, num_items, filter_seen, index, **moment
            )
            if num_exact:
                warnings.warn(
                    f"index: behind the filters it has fewer than {num_items} items for {num_exact} of "
                    f"{state.events.num_users} users; these are answered from the whole catalogue",
                    stacklevel=2,
                )
        return ranked_rows(self.vocabulary, state, item_UK, score_UK)

    def attention(
        self, state: State, item: Any = None, *, at: Any = None, context: Mapping[str, Any] | None = None
    ) -> Attention:
        """Why: what the token that answers about one user gives to each token of its history, wherever the trunk
        attends. By the plain reference, in fp32.

        Args:
            item: whose actions are asked about; without it, what comes next is.
            at: when it is shown, and `context`: as in `score`.

        Raises:
            ValueError: the item is unknown, the state is of several users, the model is a ranker, or as `score` and
                `retrieve`.
        """
        check_can_work()
        at_s, request_name = self._when(at)
        dense = None if item is None else int(known_items(self.vocabulary, [item])[0])
        return attention(
            self.model,
            state,
            dense,
            at_s=at_s,
            request_name=request_name,
            context_F=self._context(context or {}),
        )

    def query(
        self, state: State, conditions: Frame | Sequence[Mapping[str, Any]], *, at: Any = None
    ) -> pl.DataFrame:
        """What every user would want under each of some conditions: user, the conditions, and `interest`, a vector. A
        row per user and condition, all conditions of a user in one pass over its history, none knowing of another.

        Args:
            conditions: a mapping of values by name for each, or a table with a column for each name; what is not named
                is missing. `item_interests` has what interests are compared with.
            at: when they are asked, as in `score`.

        Raises:
            ValueError: the layout is not asked under conditions, there are none, or one has no such name. Or the time
                is needed and not given, or lies before the last event.

        Source: the LUM paper, section 4.2.
        """
        check_can_work()
        asked, frame = self._told(conditions)
        if asked is not self:
            return asked.query(state, frame, at=at)
        num = len(conditions) if isinstance(conditions, Sequence) else frame.height
        code_NG = condition_codes(frame, num, self.model.config.conditions)
        at_s, request_name = self._when(at)
        asked_UNG = np.tile(code_NG, (state.events.num_users, 1, 1))
        interest_UNW = one_pass.query(self.model, state, asked_UNG, at_s=at_s, request_name=request_name)
        return interest_rows(state.id_U, frame, interest_UNW)

    def item_interests(self) -> pl.DataFrame:
        """What interests are compared with: `item` and `interest`, a row for every item. The inner product with an
        interest of `query` is their similarity (LUM paper, section 4.3).

        Raises:
            ValueError: the layout predicts no items.
        """
        check_can_work()
        if not self.model.retrieves:
            raise ValueError(
                f"layout '{self.model.layout}' predicts no items, so it compares none with interests"
            )
        interest_VW = keys_of_items(self.model).float().cpu().numpy()
        return pl.DataFrame({"item": self.items, "interest": vectors_column(interest_VW)})

    def _condition_of_all(
        self, state: State, condition: Mapping[str, Any] | None
    ) -> Int64[np.ndarray, "U G"] | None:
        return condition_of_all(
            self.model.layout, self.model.config.conditions, condition, state.events.num_users
        )

    def load_index(self, folder: Path | str) -> ItemIndex:
        """The index of items that `plait index` put into this model's folder.

        Raises:
            ValueError: there is none, or it is damaged, of another format version or of another model; or faiss is not
                installed.
        """
        check_can_work()
        return load_index(self.model, Path(folder))

    def mask(
        self, allow: Sequence[Any] | None = None, deny: Sequence[Any] | None = None
    ) -> Bool[np.ndarray, " V"]:
        """For each of `items`, in their order, whether it is allowed (by default all are) and not denied.

        A warning names ids that the model does not know: no list ever holds them.

        Raises:
            ValueError: the items are no list of ids.
        """
        check_can_work()
        kept_V = np.full(len(self.items), allow is None)
        if allow is not None:
            kept_V[self._places_of(allow, "allow")] = True
        if deny is not None:
            kept_V[self._places_of(deny, "deny")] = False
        return kept_V

    def similar(self, items: Sequence[Any], k: int = 10) -> pl.DataFrame:
        """The `k` items most like each of some: item, rank, similar (another item) and cosine, best first.

        Items are alike whose vectors point the same way, as the model reads items: by their ids, their features or
        both. Exact: the whole catalogue is looked at.

        Raises:
            ValueError: items are no list of ids, or one is unknown. Or `k` is no whole number, or more than the others
                of the catalogue. Or the layout reads no items.
        """
        check_can_work()
        item_N = known_items(self.vocabulary, items)
        item_NK, cosine_NK = similar_items(self.model, item_N, num_shown(k))
        return pl.DataFrame(
            {
                "item": self.vocabulary.ids_at(np.repeat(item_N, item_NK.shape[1])),
                "rank": np.tile(np.arange(1, item_NK.shape[1] + 1), len(item_N)),
                "similar": self.vocabulary.ids_at(item_NK.reshape(-1)),
                "cosine": cosine_NK.reshape(-1),
            }
        )

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

    def _say_untold(self) -> None:
        """Warns, before the first answer alone, where two towers answer without what they were trained to read."""
        if self._has_said_untold or not (isinstance(self.model, TwoTower) and self.model.is_untold):
            return
        self._has_said_untold = True
        warnings.warn(
            "the model's two towers read interests of users, and nothing tells those here: every user is answered with "
            f"the learned none, as one of whom the user model knows nothing. To be asked like this, {UNTOLD_ADVICE}",
            stacklevel=3,
        )

    def _places_of(self, items: Any, what: str) -> Int64[np.ndarray, " N"]:
        """The places in `items` of those that the model knows."""
        ids = ids_of(items)
        item_N = self.vocabulary.index_of(ids)
        unknown = ids.filter(item_N == UNKNOWN_ITEM)
        if len(unknown):
            warnings.warn(
                f"{what}: {len(unknown)} of {len(ids)} items are not among the model's {len(self.items)}, such as "
                f"{unknown[0]!r}; they are never recommended",
                stacklevel=4,
            )
        return item_N[item_N != UNKNOWN_ITEM] - self.vocabulary.first

    def _checked_mask(self, mask: Any) -> Bool[np.ndarray, " V"]:
        if mask is None:
            return np.ones(len(self.items), dtype=bool)
        found = np.asarray(mask)
        if found.dtype != bool or found.shape != (len(self.items),):
            raise ValueError(
                f"mask: expected a truth value for each of the model's {len(self.items)} items, in the order of "
                f"`items`; found {found.dtype} of shape {found.shape}"
            )
        return found

    def _numbers_of_context(self, context: Mapping[str, Any]) -> dict[str, float]:
        """Of every number among the context, NaN where it is not given."""
        numbers = {}
        for feature in self.columns.context:
            if isinstance(feature.kind, Number):
                given = pl.DataFrame({feature.name: [context.get(feature.name)]})
                (number,) = feature_values(feature, given, "context")
                numbers[feature.name] = float("nan") if number is None else float(number)
        return numbers

    def _without_numbers(self, *, has_table: bool) -> dict[str, str]:
        """Names that a formula cannot use, and what it can."""
        unfit = {}
        for feature in self.model.config.item_features:
            if not has_table:
                unfit[feature.name] = (
                    f"{feature.name!r} describes items, and of a feature the model keeps no numbers; give a table "
                    f"that has them, {setting('item_numbers')}"
                )
        for feature in self.columns.context:
            unfit[feature.name] = f"the context {feature.name!r} is a category, which is no number"
        for action in self.actions:
            columns = action.kind.answer_columns(action.name)
            unfit[action.name] = (
                f"the action {action.name!r} is one of several values; name the chance of one, such as "
                f'"{columns[0]}", in quotes'
            )
        return unfit

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
                    stacklevel=4,
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
        return History(self._conditioned(events), None, (), unnamed, place_U=None)

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
        return replace(read, events=self._conditioned(read.events, of_table=True))

    def _conditioned(self, events: EventBatch, of_table: bool = False) -> EventBatch:
        """The events with the conditions that the model reads. A table has those of the moment; those of items follow
        from items."""
        config, items = self.model.config, self.model.items
        if not config.conditions:
            return replace(events, condition_EG=np.zeros((len(events.item_E), 0), dtype=np.int64))
        if of_table and config.item_conditions:
            assert items is not None, "a layout that is asked under what items have reads them"
            columns = code_columns(config.item_conditions, config.item_features)
            of_item_EK = items.code_VC.cpu().numpy()[events.item_E][:, columns].astype(np.int64)
            events = replace(events, condition_EG=np.concatenate([events.condition_EG, of_item_EK], axis=1))
        expected, found = sum(f.num_columns for f in config.conditions), events.condition_EG.shape[1]
        if found != expected:
            raise ValueError(
                f"the events have {found} columns of conditions, and the model reads {expected}: "
                f"{', '.join(feature.name for feature in config.conditions)}"
            )
        return events


def _candidate(
    vocabulary: Vocabulary,
    state: State,
    item_M: Int64[np.ndarray, " M"],
    count_U: Int64[np.ndarray, " U"],
    place: int,
) -> str:
    user, item = rows_of_lists(vocabulary, state, item_M, count_U).row(place)
    return f"{called(user)}, item {item!r}"


def _behind(
    events: EventBatch, before: int | Mapping[Any, int], user_ids: Sequence[Any] | None
) -> EventBatch:
    """Histories that came behind so many events of their users; as they are, where there were none.

    Raises:
        ValueError: one is no count, or of a user without a history.
    """
    if not events.num_users or before == 0:
        return events
    ids = events.user_U.tolist() if user_ids is None else user_ids
    by_user = before if isinstance(before, Mapping) else dict.fromkeys(ids, before)
    for user, count in by_user.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count not in EARLIER_EVENTS:
            raise ValueError(
                f"before = {count!r}, of {called(user)}: expected a whole number, how many events there were before "
                "the history's first"
            )
    strange = sorted(by_user.keys() - set(ids), key=str)
    if strange:
        raise ValueError(f"before names {called(strange[0])}, of whom no history is given: leave that out")
    before_U = np.array([by_user.get(user, 0) for user in ids], dtype=np.int64)
    return replace(events, number_E=events.number_E + np.repeat(before_U, events.num_events_U))
