"""The face of Plait: a trained model with its items, in the log's own ids and units.

model = plait.fit(data, layout="lac")
state = model.encode(history)
model.score(state, items); model.retrieve(state, k=10)
"""

import reprlib
import warnings
from collections.abc import Mapping, Sequence
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
    known_items,
    num_shown,
    ranked_rows,
    rows_of_lists,
    with_answers,
)
from plait.conditions import (
    condition_codes,
    condition_of_all,
    interest_rows,
    vectors_column,
)
from plait.data.columns.features import new_items
from plait.data.columns.keyed import (
    KeyedVectors,
    read_vectors,
    warn_of_unnamed_encoder,
)
from plait.data.forks import check_can_work
from plait.data.history import (
    ITEMS,
    Columns,
    History,
    load_vocabulary,
    save_vocabulary,
)
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
from plait.engine.value import Value
from plait.files import draft_folder
from plait.given.formulas import ranking_value
from plait.given.histories import (
    Frame,
    check_takes_users,
    history_of_batch,
    history_of_table,
    with_earlier_events,
)
from plait.given.masks import checked_mask, mask_of_items
from plait.given.moments import codes_of_moment, moment_of, numbers_of_moment
from plait.given.vectors import grown_by_vectors, told_conditions
from plait.models.generative import GenerativeRecommender
from plait.models.saving import CONFIG, load_model, put_in_place, save_model
from plait.models.two_tower import UNTOLD_ADVICE, TwoTower
from plait.nn.device import resolve_device
from plait.schema import (
    Action,
    EventBatch,
)
from plait.wording import setting

VALUE = "value"  # the column of a formula's values
NOBODY = (None,)  # the user of a history that names none: no real one, whatever its id


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
            check_takes_users(self.columns, history)
        is_batch = isinstance(history, EventBatch)
        read = history_of_batch(self.model, self.columns, history) if is_batch else self._read(history, users)
        user_ids = read.user_ids if is_batch else read.user_ids or NOBODY
        state = encode_history(
            with_earlier_events(read.events, before, user_ids),
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
        model, columns = grown_by_vectors(self.model, self.columns, tables)
        return Recommender(model, self.vocabulary, columns)

    def _told(self, conditions: Any) -> tuple["Recommender", pl.DataFrame]:
        """Who knows the vectors that were given in place of some keys, and conditions as a table of keys."""
        frame, told = told_conditions(self.model, conditions)
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
        at_s, request_name = moment_of(at, self.columns)
        context_UF = np.tile(codes_of_moment(context, self.columns), (len(count_U), 1))
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
        moment = numbers_of_moment(context, self.columns)
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
        return ranking_value(formula, item_numbers, self.model.config, self.columns, self.vocabulary)

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
        at_s, request_name = moment_of(at, self.columns)
        kept_I = None
        if not (allow is None and deny is None and mask is None):
            kept_I = np.concatenate([[False], self.mask(allow, deny) & checked_mask(self.vocabulary, mask)])
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
        at_s, request_name = moment_of(at, self.columns)
        dense = None if item is None else int(known_items(self.vocabulary, [item])[0])
        return attention(
            self.model,
            state,
            dense,
            at_s=at_s,
            request_name=request_name,
            context_F=codes_of_moment(context or {}, self.columns),
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
        at_s, request_name = moment_of(at, self.columns)
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
        return mask_of_items(self.vocabulary, allow, deny)

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

    def _read(self, history: Frame, users: Frame | None = None) -> History:
        return history_of_table(self.model, self.columns, self.vocabulary, history, users)


def _candidate(
    vocabulary: Vocabulary,
    state: State,
    item_M: Int64[np.ndarray, " M"],
    count_U: Int64[np.ndarray, " U"],
    place: int,
) -> str:
    user, item = rows_of_lists(vocabulary, state, item_M, count_U).row(place)
    return f"{called(user)}, item {item!r}"
