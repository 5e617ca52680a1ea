"""A prepared folder, memory-mapped.

Shape letters: U users of the dataset or of a batch, E events, A actions, Q queries, V items,
S history items, I ids asked for. A row is an event's place in the folder's arrays.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, assert_never, final

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Int64

from plait import files
from plait.data.columns.ids import id_series
from plait.data.forks import check_can_work
from plait.data.manifest import CONDITION_VECTORS, FORMAT_VERSION, Manifest, Temporal, why_left_out
from plait.data.preparation.coding import similar_texts
from plait.data.queries import met_before, queries, training_rows
from plait.data.storage.whole_folders import (
    LEFT_OUT,
    MANIFEST,
    REJECTS,
    array_digest,
    content_hash,
    table_digest,
)
from plait.data.vocabulary import Vocabulary
from plait.data.windows import (
    Stretches,
    Windows,
    concatenated_ranges,
    opened_with_request,
    opens_request,
    windows,
)
from plait.schema import UNKNOWN_ITEM, Action, EventBatch, Feature, FeatureTable, Keyed
from plait.window_rule import WindowRule

AGAIN = "prepare the log again, or simulate it again"

EventPart = Literal["train", "validation", "test"]
HeldOutPart = Literal["validation", "test"]
TrainingRows = Literal["as prepared", "until test", "all"]
Rows = Int64[np.ndarray, "R"] | Bool[np.ndarray, "Q"]


@dataclass(frozen=True)
class Targets:
    """Events to be predicted, each from the events of its user before `history_end_Q`.

    Where a question is asked from before the event's own request, its history ends there; what of the request came
    before the segment is known all the same, and its items are seen ones, as in serving.
    """

    user_Q: Int64[np.ndarray, " Q"]
    event_Q: Int64[np.ndarray, " Q"]  # row of the event
    history_end_Q: Int64[np.ndarray, " Q"]  # row after the last event that the answer is computed from
    seen_end_Q: Int64[np.ndarray, " Q"]  # row after the last event that the user had when it is asked about
    segment_end_Q: Int64[np.ndarray, " Q"]  # row after the last event of those that are asked about beside it

    def __len__(self) -> int:
        return len(self.user_Q)

    def __getitem__(self, rows: Rows | slice) -> "Targets":
        return Targets(*(of_Q[rows] for of_Q in vars(self).values()))

    @property
    def shares_history_Q(self) -> Bool[np.ndarray, " Q"]:
        """Whether a target is asked about from the same history as the one before it."""
        shares_Q = np.zeros(len(self), dtype=bool)
        shares_Q[1:] = (np.diff(self.user_Q) == 0) & (np.diff(self.history_end_Q) == 0)
        return shares_Q


@final
class Dataset:
    """Events of users in time order, with a training, a validation and a test segment per user.

    Dense users run from 0 to `num_users - 1`, dense items from 1 to `num_items`. Nothing is loaded whole:
    batches gather the rows that they need.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Maps the files of a folder that `open` has checked."""
        self.folder = folder
        self.manifest = manifest
        self._training: TrainingRows = "as prepared"
        self._start_U1 = self._map("start")
        self._validation_U = self._map("validation")  # rows at which a user's validation segment begins
        self._test_U = self._map("test")
        self._item_E = self._map("item")
        self._time_s_E = self._map("time_s")
        self._request_E = self._map("request")
        self._action_EA = self._map("action")
        self._context_EF = self._table("context", manifest.counts.events, np.int32)
        self._condition_EG = self._table("condition", manifest.counts.events, np.int32)

    @classmethod
    def open(cls, folder: Path | str) -> "Dataset":
        """Opens a prepared folder after checking its version, and its files against their hashes.

        Raises:
            ValueError: the folder is not prepared, was prepared by another format, or is not whole.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise ValueError(
                f"{folder} is not a prepared dataset: it has no {MANIFEST}; "
                "make one with plait.prepare (plait data prepare)"
            )
        version = _format_version(path)
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{folder} has format version {version}, this plait reads {FORMAT_VERSION}; prepare again"
            )
        files.check_hashes(folder, AGAIN, MANIFEST)
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from error
        for name, size in manifest.files.items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise ValueError(f"{folder / name} {what}; the folder is not whole: {AGAIN}")
        files.check_hashes(folder, AGAIN)
        try:
            return cls(folder, manifest)
        except (ValueError, EOFError) as error:  # of a folder without hashes
            raise ValueError(f"{folder} is damaged ({error}); {AGAIN}") from error

    def check_content(self) -> None:
        """Reads everything once more that has changed since the folder was opened.

        Raises:
            ValueError: these are not the events that were prepared: a file was damaged, or replaced by another.
        """
        check_can_work()
        if files.has_hashes(self.folder):
            files.check_hashes(self.folder, AGAIN)
            return
        digests = {}
        try:
            for path in (
                self.folder / name for name in self.manifest.files if name not in (REJECTS, LEFT_OUT)
            ):
                if path.suffix == ".npy":
                    digests[path.stem] = array_digest(path.name, self._map(path.stem))
                else:
                    digests[path.stem] = table_digest(path.name, pl.read_parquet(path, glob=False))
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"{self.folder} is damaged ({error}); {AGAIN}") from error
        if content_hash(digests) != self.manifest.content_hash:
            raise ValueError(
                f"{self.folder} is damaged: its arrays are not those that {MANIFEST} was written for; {AGAIN}"
            )

    def whole(self) -> "Dataset":
        """The same events, all of them for training and none held out. What preparation fitted stays as it is."""
        return self._with_training("all", self._start_U1[1:])

    def until_test(self) -> "Dataset":
        """The same events, those of the validation for training, too, and none for validation."""
        return self._with_training("until test", self._test_U)

    def _with_training(self, training: TrainingRows, end_U: Int64[np.ndarray, " U"]) -> "Dataset":
        """The same events, those of each user before a row for training, and from it on for the test."""
        other = Dataset(self.folder, self.manifest)
        other._training = training
        other._validation_U = other._test_U = end_U
        row_E = np.arange(len(self._item_E))
        is_train_E = row_E < np.repeat(end_U, np.diff(self._start_U1))
        count_V1 = np.bincount(self._item_E[is_train_E], minlength=self.num_items + 1)
        other._item_table = self._item_table.with_columns(
            train_events=pl.Series(count_V1[UNKNOWN_ITEM + 1 :])
        )
        return other

    @property
    def training_ends_s(self) -> int | None:
        """The moment, in unix seconds, that all training events lie before and all others not; None where the data is
        not cut in time."""
        split = self.manifest.split
        return split.cut_validation_s if isinstance(split, Temporal) else None

    def __reduce__(self) -> tuple[Callable[[Path, TrainingRows], "Dataset"], tuple[Path, TrainingRows]]:
        return _opened, (self.folder, self._training)  # a copy in another process maps the same files

    def __repr__(self) -> str:
        of = self.manifest.counts
        return f"Dataset({self.manifest.name!r}: {of.events} events, {of.users} users, {of.items} items)"

    @property
    def num_users(self) -> int:
        return self.manifest.counts.users

    @property
    def num_items(self) -> int:
        return self.manifest.counts.items

    @property
    def actions(self) -> tuple[Action, ...]:
        return self.manifest.actions

    @property
    def context(self) -> tuple[Feature, ...]:
        """What is known of an event before its actions; `EventBatch.context_EF` has a column for each."""
        return self.manifest.context

    @property
    def conditions(self) -> tuple[Feature, ...]:
        """What may be asked under, those of the moment before those of the item; `EventBatch.condition_EG` has their
        columns."""
        by_name = {feature.name: feature for feature in self.manifest.item_features}
        return (*self.manifest.conditions, *(by_name[name] for name in self.item_conditions))

    def condition_vectors(self) -> dict[str, Float32[np.ndarray, "K W"]]:
        """By condition, the frozen vectors of length 1 of its values, in the order of those."""
        return {
            feature.name: self._map(f"{CONDITION_VECTORS}{place}")
            for place, feature in enumerate(self.manifest.conditions)
            if isinstance(feature.kind, Keyed)
        }

    @property
    def item_conditions(self) -> tuple[str, ...]:
        """Those conditions that are features of the item: asked, never given."""
        return self.manifest.settings.item_conditions

    @cached_property
    def item_features(self) -> FeatureTable:
        """A row for every dense item; row `UNKNOWN_ITEM` has no values."""
        return self._features("item", self.manifest.item_features, self.num_items + 1)

    @cached_property
    def user_features(self) -> FeatureTable:
        """A row for every dense user."""
        return self._features("user", self.manifest.user_features, self.num_users)

    @cached_property
    def items(self) -> Vocabulary:
        """The log's item ids and their dense numbers."""
        return Vocabulary.of_items(self._item_table["item_id"])

    @cached_property
    def users(self) -> Vocabulary:
        """The log's user ids and their dense numbers."""
        return Vocabulary.of_users(self._read("users")["user_id"])

    def item_ids(self) -> pl.Series:
        """The log's item ids; dense item i is at index i - 1."""
        return self.items.ids

    def item_titles(self) -> pl.Series | None:
        """What people call each item, null where nobody wrote it down; dense item i is at index i - 1. None where
        preparation was given no titles."""
        if "title" not in self._item_table.columns:
            return None
        titles = self._item_table["title"]
        return titles.set(titles == "", None)  # files hold no nulls

    def user_ids(self) -> pl.Series:
        """The log's user ids; dense user u is at index u."""
        return self.users.ids

    def item_index(self, ids: Iterable[Any]) -> Int64[np.ndarray, " I"]:
        """Dense indices of the log's item ids, `UNKNOWN_ITEM` for ids that the item table lacks."""
        check_can_work()
        return self.items.index_of(id_series(ids))

    def user_index(self, id: int | str) -> int:
        """Dense index of one of the log's user ids. Of a log of whole numbers, text may spell one as numbers are spelt.

        Raises:
            ValueError: the dataset has no such user: the filters left it out, or it is unknown; names similar ids.
        """
        check_can_work()
        index = int(self.users.index_of(id_series([id])).item())
        if index != self.users.unknown:
            return index
        self._check_not_left_out(id)
        known = self.user_ids()
        is_text = known.dtype == pl.String
        kind = "text" if is_text else "whole numbers"
        near = similar_texts(id, known) if is_text and isinstance(id, str) else []
        raise ValueError(
            f"no user {id!r} in {self.manifest.name}"
            + (f"; did you mean {' or '.join(map(repr, near))}?" if near else "")
            + ("" if near else f"; its {len(known):,} user ids are {kind} from {known[0]!r} to {known[-1]!r}")
        )

    def _check_not_left_out(self, id: int | str) -> None:
        if LEFT_OUT not in self.manifest.files:
            return
        gone = pl.read_parquet(self.folder / LEFT_OUT, glob=False)
        if isinstance(id, str) != (gone["user_id"].dtype == pl.String):
            return
        rows = gone.filter(pl.col("user_id") == id)["rows"]
        if len(rows):
            raise ValueError(
                f"user {id!r} is in the log of {self.manifest.name}, and preparation left it out: "
                f"{why_left_out(self.manifest.settings, rows.item())}"
            )

    def train_users(self) -> Int64[np.ndarray, " U"]:
        """Users with at least two training events: one to see, one to predict."""
        return np.flatnonzero(self._validation_U - self._start_U1[:-1] >= 2)

    def train_lengths(self, max_events: int) -> Int64[np.ndarray, " U"]:
        """Number of events in each training window of `train_users()`, the lead not counted."""
        user_U = self.train_users()
        return np.minimum(self._validation_U[user_U] - self._start_U1[user_U], max_events)

    def train_batch(
        self,
        user_U: Int64[np.ndarray, " U"],
        max_events: int | Int64[np.ndarray, " U"],
        lead: int,
        rng: np.random.Generator | None = None,
        opens_within: int = 1,
    ) -> EventBatch:
        """The last `max_events` training events of each user, and up to `lead` true events before them.

        Args:
            rng: takes a window at a random place of the training events instead.
            opens_within: a window begins with the first of so many events that opens a request, where one does.
        """
        return self.stretch_batch(self.whole_training(user_U), max_events, lead, rng, opens_within)

    def stretch_batch(
        self,
        of: Stretches,
        max_events: int | Int64[np.ndarray, " B"],
        lead: int,
        rng: np.random.Generator | None = None,
        opens_within: int = 1,
    ) -> EventBatch:
        """As `train_batch`, of stretches; a user may come several times."""
        start_B = self._start_U1[of.user_B]
        window = windows(start_B, of.end_B, max_events, lead, rng)
        window = opened_with_request(window, start_B, self._request_E, lead, opens_within)
        row_E, start_B1 = concatenated_ranges(window.begin_B, window.end_B)
        return self._batch(of.user_B, row_E, start_B1, window.lead_B)

    def whole_training(self, user_U: Int64[np.ndarray, " U"]) -> Stretches:
        """All training events of each user."""
        return Stretches(user_U, self._validation_U[user_U])

    def training_parts(self, num_requests: int, requests_per_part: int) -> Stretches:
        """The last `num_requests` training requests of each training user in whole parts of so many, counted from the
        last one: each stretch ends with its part. In the order of the events."""
        user_U = self.train_users()
        row_E, start_U1 = concatenated_ranges(self._start_U1[user_U], self._validation_U[user_U])
        closes_E = np.append(opens_request(self._request_E[row_E], start_U1)[1:], True)
        user_R = np.repeat(user_U, np.diff(start_U1))[closes_E]  # R: requests
        end_R = row_E[closes_E] + 1
        num_U = np.bincount(user_R, minlength=self.num_users)
        from_last_R = np.cumsum(num_U)[user_R] - 1 - np.arange(len(user_R))
        ends_part_R = (from_last_R % requests_per_part == 0) & (from_last_R < num_requests)
        return Stretches(user_R[ends_part_R], end_R[ends_part_R])

    def targets(
        self,
        part: HeldOutPart,
        same_request: Literal["causal", "blind"] = "causal",
        *,
        rolling: bool = False,
    ) -> Targets:
        """The events of a segment whose user has any history before the segment, users in order.

        An event's history ends where the segment begins, so the events of one segment never see each other.

        Args:
            same_request: with "blind" it ends where the event's own request begins, if that is earlier.
            rolling: histories roll on through the segment instead: an event sees those of the segment before it and,
                with "blind", those before its own request.
        """
        match part:
            case "validation":
                begin_U, end_U = self._validation_U, self._test_U
            case "test":
                begin_U, end_U = self._test_U, self._start_U1[1:]
            case _:
                raise ValueError(f"part={part!r}; expected 'validation' or 'test'")
        user_Q, event_Q, end_Q = queries(self._start_U1, begin_U, end_U)
        targets = Targets(user_Q, event_Q, end_Q, end_Q, end_U[user_Q])
        if rolling:
            targets = self._rolled_on(targets, same_request)
        return targets if same_request == "causal" else self._before_own_request(targets)

    def _rolled_on(self, targets: Targets, same_request: Literal["causal", "blind"]) -> Targets:
        """All targets of a segment, each asked about when it comes or, blind, when what the segment has of its request
        does."""
        event_Q = targets.event_Q
        match same_request:
            case "causal":
                return Targets(targets.user_Q, event_Q, event_Q, event_Q, event_Q + 1)
            case "blind":
                first_Q = np.flatnonzero(np.diff(targets.user_Q, prepend=-1, append=-2))
                opens_Q = opens_request(self._request_E[event_Q], first_Q)
                begin_R = event_Q[opens_Q]  # R: requests
                end_R = event_Q[np.append(opens_Q[1:], True)[: len(event_Q)]] + 1
                request_Q = np.cumsum(opens_Q) - 1
                begin_Q = begin_R[request_Q]
                return Targets(targets.user_Q, event_Q, begin_Q, begin_Q, end_R[request_Q])
            case _:
                assert_never(same_request)

    def moments(self, part: EventPart) -> Targets:
        """Every event of a segment that has one of its user before it, each to be asked about from all that lay before
        it, its own segment's events among them; in the order of the rows."""
        begin_U, end_U = self._segment(part)
        begin_U = np.minimum(np.maximum(begin_U, self._start_U1[:-1] + 1), end_U)
        event_Q, _ = concatenated_ranges(begin_U, end_U)
        user_Q = np.repeat(np.arange(self.num_users), end_U - begin_U)
        return Targets(user_Q, event_Q, event_Q, event_Q, event_Q + 1)

    def num_events(self, part: EventPart) -> int:
        """How many events a segment has."""
        begin_U, end_U = self._segment(part)
        return int((end_U - begin_U).sum())

    def _segment(self, part: EventPart) -> tuple[Int64[np.ndarray, " U"], Int64[np.ndarray, " U"]]:
        """Rows at which each user's segment begins and ends."""
        match part:
            case "train":
                return self._start_U1[:-1], self._validation_U
            case "validation":
                return self._validation_U, self._test_U
            case "test":
                return self._test_U, self._start_U1[1:]
            case _:
                assert_never(part)

    def number_among_own(self, targets: Targets) -> Int64[np.ndarray, " Q"]:
        """Which event of its user each target is, from 0."""
        return targets.event_Q - self._start_U1[targets.user_Q]

    def conditions_of(self, row_Q: Int64[np.ndarray, " Q"]) -> Int64[np.ndarray, "Q G"]:
        """The codes of the conditions of events, given their rows."""
        return self._condition_EG[row_Q].astype(np.int64)

    def train_targets(self, num_requests: int) -> Targets:
        """The events of each training user's last `num_requests` training requests, each to be predicted from what
        lay before its own request; users in order. Without those of a user's first request."""
        user_U = self.train_users()
        end_U, start_U, found = self._validation_U[user_U], self._start_U1[user_U], []
        for _ in range(num_requests):
            last = Targets(user_U, np.maximum(end_U - 1, start_U), end_U, end_U, end_U)
            begin_U = self._ends_before_own_request(last)
            keep_U = begin_U > start_U
            event_Q, start_Q1 = concatenated_ranges(begin_U[keep_U], end_U[keep_U])
            per_U = np.diff(start_Q1)
            begin_Q, end_Q = (np.repeat(row_U[keep_U], per_U) for row_U in (begin_U, end_U))
            found.append(Targets(np.repeat(user_U[keep_U], per_U), event_Q, begin_Q, begin_Q, end_Q))
            end_U = begin_U
        whole = Targets(*(np.concatenate([getattr(t, name) for t in found]) for name in vars(found[0])))
        return whole[np.argsort(whole.event_Q, kind="stable")]

    def random_train_targets(
        self, user_U: Int64[np.ndarray, " U"], num_events: int, rng: np.random.Generator
    ) -> Targets:
        """The last event of a run of `num_events` training events of each user, or of all where there are fewer; where
        the run lies is random."""
        run = windows(self._start_U1[user_U], self._validation_U[user_U], num_events, 0, rng)
        event_U = run.end_B - 1
        return Targets(user_U, event_U, event_U, event_U, run.end_B)

    def before_requests(self, targets: Targets) -> Targets:
        """The same targets, each from what lay before its own request, as candidates are trained; from what it has,
        where that is all there is."""
        end_Q = self._ends_before_own_request(targets)
        has_Q = end_Q > self._start_U1[targets.user_Q]
        return replace(targets, history_end_Q=np.where(has_Q, end_Q, targets.history_end_Q))

    def last_request_lengths(self, of: Stretches) -> Int64[np.ndarray, " B"]:
        """How many events the last request of each stretch holds."""
        end_B = of.end_B
        return end_B - self._ends_before_own_request(Targets(of.user_B, end_B - 1, end_B, end_B, end_B))

    def last_times(self, of: Stretches) -> Int64[np.ndarray, " B"]:
        """When the last event of each stretch happened, in unix seconds."""
        return self._time_s_E[of.end_B - 1]

    def stretch_lengths(self, of: Stretches) -> Int64[np.ndarray, " B"]:
        """How many events each stretch holds."""
        return of.end_B - self._start_U1[of.user_B]

    def _before_own_request(self, targets: Targets) -> Targets:
        """Histories without the target's own request; targets that have none then are left out."""
        end_Q = self._ends_before_own_request(targets)
        return replace(targets, history_end_Q=end_Q)[end_Q > self._start_U1[targets.user_Q]]

    def _ends_before_own_request(self, targets: Targets) -> Int64[np.ndarray, " Q"]:
        """Where histories end that hold nothing of their target's request."""
        end_Q, start_Q = targets.history_end_Q.copy(), self._start_U1[targets.user_Q]
        own_Q = np.ones(len(end_Q), dtype=bool)
        while own_Q.any():  # as often as the longest request has events before its segment
            last_Q = np.maximum(end_Q - 1, start_Q)
            own_Q = (end_Q > start_Q) & (self._request_E[last_Q] == self._request_E[targets.event_Q])
            end_Q -= own_Q
        return end_Q

    def target_batch(self, targets: Targets, window_rule: WindowRule | int, lead: int) -> EventBatch:
        """For each target the window of its history and up to `lead` events before it, then the target itself, last.

        Args:
            window_rule: of a number, windows are the last so many events.
        """
        window = self._history(targets, window_rule, lead)
        row_E, start_U1 = concatenated_ranges(window.begin_B, window.end_B + 1)
        row_E[start_U1[1:] - 1] = targets.event_Q
        return self._batch(targets.user_Q, row_E, start_U1, window.lead_B)

    def candidate_batch(
        self, targets: Targets, window_rule: WindowRule | int, lead: int
    ) -> tuple[EventBatch, Int64[np.ndarray, " U"]]:
        """The targets of one history together: its window and up to `lead` events before it, then those targets.

        Args:
            window_rule: as `target_batch` takes it.

        Returns:
            The batch, and how many of each sequence's last events are targets. Targets stay in their order.
        """
        first_B = np.flatnonzero(~targets.shares_history_Q)
        count_B = np.diff([*first_B, len(targets)])
        window = self._history(targets[first_B], window_rule, lead)
        row_E, start_B1 = concatenated_ranges(window.begin_B, window.end_B + count_B)
        nth_Q = np.arange(len(targets)) - np.repeat(first_B, count_B)
        row_E[np.repeat(start_B1[1:] - count_B, count_B) + nth_Q] = targets.event_Q
        return self._batch(targets.user_Q[first_B], row_E, start_B1, window.lead_B), count_B

    def seen_items(self, targets: Targets) -> tuple[Int64[np.ndarray, " Q1"], Int64[np.ndarray, " S"]]:
        """Dense items of all that each target's user had, however it is asked about: end to end, and where each
        target's begin."""
        row_S, start_Q1 = concatenated_ranges(self._start_U1[targets.user_Q], targets.seen_end_Q)
        return start_Q1, self._item_E[row_S].astype(np.int64)

    def answers(self, targets: Targets) -> tuple[Int64[np.ndarray, " Q1"], Int64[np.ndarray, " S"]]:
        """Dense items of all events of each target's segment, its own among them: end to end, and where each target's
        begin."""
        row_S, start_Q1 = concatenated_ranges(targets.seen_end_Q, targets.segment_end_Q)
        return start_Q1, self._item_E[row_S].astype(np.int64)

    def lists(self, targets: Targets) -> Int64[np.ndarray, " Q"]:
        """Which ranked list each target is an answer to, from 0 in their order: those that a user is asked about at
        one moment, which is all of a segment where histories do not roll on through it. Events whose request began
        before the segment have a list of their own, whatever the model: some are asked about them from before that
        request."""
        end_Q = self.before_requests(targets).history_end_Q
        is_first_Q = (np.diff(end_Q, prepend=-1) != 0) | (np.diff(targets.seen_end_Q, prepend=-1) != 0)
        return np.cumsum(is_first_Q) - 1

    @cached_property
    def training_after_test(self) -> float:
        """The share of all training events that happened after a test event, in the mean over the test events; 0 where
        there are none."""
        is_train_E = training_rows(self._start_U1, self._validation_U)
        time_s_T = np.sort(self._time_s_E[is_train_E])
        time_s_Q = self._time_s_E[self.targets("test").event_Q]
        after_Q = len(time_s_T) - np.searchsorted(time_s_T, time_s_Q, side="right")
        return float(after_Q.sum() / max(1, len(time_s_Q) * len(time_s_T)))

    @cached_property
    def new_answers(self) -> tuple[int, int]:
        """How many test answers are items that no training event has, and how many there are."""
        item_Q = self.target_items(self.targets("test"))
        return int(np.count_nonzero(self.train_item_counts()[item_Q] == 0)), len(item_Q)

    def met_before(self, targets: Targets) -> Bool[np.ndarray, " Q"]:
        """Whether each target's item is in its history: where seen items are filtered, it can never be recommended."""
        return met_before(self._start_U1, self._item_E, targets.user_Q, targets.event_Q, targets.seen_end_Q)

    def target_lengths(self, targets: Targets) -> Int64[np.ndarray, " Q"]:
        """How many events of each target's history its answer is computed from, at most."""
        return targets.history_end_Q - self._start_U1[targets.user_Q]

    def target_times(self, targets: Targets) -> Int64[np.ndarray, " Q"]:
        """When each target happened, in unix seconds."""
        return self._time_s_E[targets.event_Q]

    def target_items(self, targets: Targets) -> Int64[np.ndarray, " Q"]:
        """The dense item of each target: the answer."""
        return self._item_E[targets.event_Q].astype(np.int64)

    def target_actions(self, targets: Targets) -> Float32[np.ndarray, "Q A"]:
        """The actions of each target, in the log's units."""
        return self._action_EA[targets.event_Q].astype(np.float32)

    def history(self, user_index: int) -> EventBatch:
        """All events of one user, of every segment."""
        return self.histories(np.array([user_index], dtype=np.int64))

    def histories(self, user_U: Int64[np.ndarray, " U"]) -> EventBatch:
        """All events of each of these users."""
        row_E, start_U1 = concatenated_ranges(self._start_U1[user_U], self._start_U1[user_U + 1])
        return self._batch(user_U, row_E, start_U1, np.zeros(len(user_U), dtype=np.int64))

    def in_items_of(self, vocabulary: Vocabulary, events: EventBatch) -> EventBatch:
        """The events with the dense items of another vocabulary in place of its own: another dataset numbers anew."""
        item_V = np.concatenate([[UNKNOWN_ITEM], vocabulary.index_of(self.item_ids())])
        return replace(events, item_E=item_V[events.item_E])

    def train_item_counts(self) -> Int64[np.ndarray, " V1"]:
        """Training events of each dense item; index `UNKNOWN_ITEM` counts 0."""
        return np.concatenate([[0], self._item_table["train_events"].to_numpy()]).astype(np.int64)

    def train_user_counts(self) -> Int64[np.ndarray, " U"]:
        """Training events of each dense user."""
        return (self._validation_U - self._start_U1[:-1]).astype(np.int64)

    def train_action_counts(self) -> Int64[np.ndarray, " A"]:
        """Training events that have a value of each action."""
        is_train_E = training_rows(self._start_U1, self._validation_U)
        known_A = [np.count_nonzero(is_train_E & ~np.isnan(value_E)) for value_E in self._action_EA.T]
        return np.array(known_A, dtype=np.int64)

    def _history(self, targets: Targets, window_rule: WindowRule | int, lead: int) -> Windows:
        rule, start_Q = WindowRule.of(window_rule), self._start_U1[targets.user_Q]
        length_Q = rule.length(self.target_lengths(targets))
        window = windows(start_Q, targets.history_end_Q, np.maximum(length_Q, 1), lead)
        return opened_with_request(window, start_Q, self._request_E, lead, rule.opens_within)

    def _batch(
        self,
        user_U: Int64[np.ndarray, " U"],
        row_E: Int64[np.ndarray, " E"],
        start_U1: Int64[np.ndarray, " U1"],
        lead_U: Int64[np.ndarray, " U"],
    ) -> EventBatch:
        return EventBatch(
            user_U=user_U,
            start_U1=start_U1,
            lead_U=lead_U,
            item_E=self._item_E[row_E].astype(np.int64),
            action_EA=self._action_EA[row_E],
            time_s_E=self._time_s_E[row_E],
            request_E=self._request_E[row_E].astype(np.int64),
            number_E=row_E - np.repeat(self._start_U1[user_U], np.diff(start_U1)),
            context_EF=self._context_EF[row_E].astype(np.int64),
            condition_EG=self._condition_EG[row_E].astype(np.int64),
            user_code_UK=self.user_features.code_NK[user_U].astype(np.int64),
        )

    def _map(self, name: str) -> np.ndarray:
        path = self.folder / f"{name}.npy"
        if name == "action" and not self.actions:  # a file without content cannot be mapped
            return np.load(path)
        return np.asarray(np.load(path, mmap_mode="r"))

    def _table(self, name: str, rows: int, dtype: type[np.generic]) -> np.ndarray:
        """A matrix whose file is there only if it has columns."""
        has_file = f"{name}.npy" in self.manifest.files
        return self._map(name) if has_file else np.empty((rows, 0), dtype=dtype)

    def _features(self, of: str, features: tuple[Feature, ...], rows: int) -> FeatureTable:
        code_NK = self._table(f"{of}_code", rows, np.int32)
        return FeatureTable(features, code_NK, self._table(f"{of}_vector", rows, np.float32))

    @cached_property
    def _item_table(self) -> pl.DataFrame:
        return self._read("items")

    def _read(self, name: str) -> pl.DataFrame:
        check_can_work()
        return pl.read_parquet(self.folder / f"{name}.parquet", glob=False)


def _opened(folder: Path, training: TrainingRows) -> Dataset:
    dataset = Dataset.open(folder)
    match training:
        case "as prepared":
            return dataset
        case "until test":
            return dataset.until_test()
        case "all":
            return dataset.whole()
        case _:
            assert_never(training)


class _Version(msgspec.Struct):
    format_version: int


def _format_version(path: Path) -> int:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Version).format_version
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path} is damaged ({error}); {AGAIN}") from error
