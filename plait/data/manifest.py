"""What a prepared folder says about itself: how it was made, what was counted, which files it holds."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from plait.data.columns.times import TimeForm, TimeUnit
from plait.data.logs.text import AS_FOUND, TextFormat
from plait.limits import WHOLE
from plait.schema import Action, Feature
from plait.wording import setting

FORMAT_VERSION = 1  # of the folder's files; raise it whenever an older reader would misread a newer folder


class LeaveOneOut(msgspec.Struct, frozen=True, tag="leave_one_out"):
    """A user's last event is the test target, the one before it the validation target."""

    def __str__(self) -> str:
        return "leave-one-out"


class Temporal(msgspec.Struct, frozen=True, tag="temporal"):
    """Global cuts in time: events from `cut_validation_s` on are for validation, `cut_test_s` on for test.

    Give both cuts (unix seconds), or both shares of all events (`validation`, `test`); preparation turns
    shares into cuts, so that a manifest always holds cuts.

    >>> Temporal(validation=0.1, test=0.1).cut_test_s is None
    True
    """

    cut_validation_s: int | None = None
    cut_test_s: int | None = None
    validation: float | None = None
    test: float | None = None

    def __post_init__(self) -> None:
        for name in ("cut_validation_s", "cut_test_s"):  # of a dataframe's column, they are numpy's numbers
            if isinstance(cut := getattr(self, name), np.integer):
                msgspec.structs.force_setattr(self, name, int(cut))
        match (self.cut_validation_s, self.cut_test_s, self.validation, self.test):
            case (int(), int(), None, None) if self.cut_validation_s < self.cut_test_s:
                return
            case (None, None, float(validation), float(test)) if (
                validation > 0 and test > 0 and validation + test < 1
            ):
                return
        raise ValueError(
            f"{self}: give validation and test, both shares above 0 that together leave something "
            "to train on, or cut_validation_s before cut_test_s, both in unix seconds"
        )

    def __str__(self) -> str:
        """
        >>> print(Temporal(validation=0.1, test=0.2))
        temporal split with validation = 0.1, test = 0.2
        """
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return f"temporal split with {', '.join(f'{name} = {value}' for name, value in given.items()) or 'no cuts'}"


SPELLINGS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


class SplitColumn(msgspec.Struct, frozen=True, tag="column"):
    """A column of the log says of every event whether it is for training, validation or test.

    Of every user, training comes before validation and validation before test. Capitals do not matter.

    >>> SplitColumn("fold", train=("0", "1"), validation=("2",), test=("3",)).test
    ('3',)
    """

    column: str
    train: tuple[str, ...] = SPELLINGS["train"]
    validation: tuple[str, ...] = SPELLINGS["validation"]
    test: tuple[str, ...] = SPELLINGS["test"]

    def __post_init__(self) -> None:
        for name in SPELLINGS:
            given = getattr(self, name)
            if not isinstance(given, tuple | list) or not all(isinstance(value, str) for value in given):
                raise ValueError(
                    f"SplitColumn: {name} = {given!r}: expected a tuple of texts, as the column spells them"
                )
            msgspec.structs.force_setattr(self, name, tuple(given))
        values = [value.lower() for value in (*self.train, *self.validation, *self.test)]
        if not (self.train and self.validation and self.test) or len(set(values)) < len(values):
            raise ValueError(
                f"{self}: expected at least one value each for train, validation and test, and none of them twice"
            )

    @classmethod
    def parse(cls, text: str) -> "SplitColumn":
        """COLUMN, or COLUMN:TRAIN:VALIDATION:TEST with the values that the column has, several between commas.

        >>> SplitColumn.parse("fold:0,1:2:3") == SplitColumn("fold", ("0", "1"), ("2",), ("3",))
        True
        """
        column, *values = text.split(":")
        if len(values) not in (0, 3):
            raise ValueError(f"split column {text!r}: expected COLUMN, or COLUMN:TRAIN:VALIDATION:TEST")
        return cls(column, *(tuple(value.split(",")) for value in values))

    @property
    def values(self) -> tuple[tuple[str, ...], ...]:
        """Those of training, of validation and of test."""
        return self.train, self.validation, self.test

    def __str__(self) -> str:
        return f"split by column {self.column!r}, {' / '.join(' or '.join(values) for values in self.values)}"


Split = LeaveOneOut | Temporal | SplitColumn


class Settings(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True
):  # a default leaves the hash as it was
    """All that decides what a prepared folder holds, beside the log itself."""

    user: str
    item: str
    time: str | None  # None: the log has no times, and its rows are in order
    actions: tuple[Action, ...]  # as declared: amounts not fitted yet
    request: str | None
    order: str | None
    time_unit: TimeUnit
    min_user_events: int
    min_item_events: int
    deduplicate: bool
    split: Split  # as asked for
    on_bad_row: Literal["stop", "reject"]
    item_features: tuple[Feature, ...] = ()  # as declared: values and buckets not fitted yet
    user_features: tuple[Feature, ...] = ()
    context: tuple[Feature, ...] = ()
    conditions: tuple[Feature, ...] = ()  # of the moment: known before the item, from columns of the log
    item_conditions: tuple[str, ...] = ()  # of the item: those of its features that are asked under
    keep_unseen_items: bool = False
    time_format: str | None = None  # as `TimeForm` has them
    time_offset: str | None = None
    negative_ids: Literal["keep", "refuse"] | None = None  # None: kept where they look like hashes
    text: TextFormat = AS_FOUND
    item_statistics: tuple[
        str, ...
    ] = ()  # of items, counted on training rows: features beside those of the table
    item_title: str | None = None  # the column of the item table that people call an item by

    def __post_init__(self) -> None:
        if self.text == AS_FOUND:  # msgspec omits the very default, not its equals
            msgspec.structs.force_setattr(self, "text", AS_FOUND)

    @property
    def time_form(self) -> TimeForm:
        assert self.time is not None, "the log has no times"
        return TimeForm(
            column=self.time, unit=self.time_unit, format=self.time_format, offset=self.time_offset
        )

    @property
    def of_events(self) -> tuple[Feature, ...]:
        """What columns of the log say of each event beside its actions: the context, then the conditions."""
        return (*self.context, *self.conditions)

    @property
    def split_column(self) -> str | None:
        return self.split.column if isinstance(self.split, SplitColumn) else None


def declared(given: Any, of: type[Action] | type[Feature]) -> tuple[Any, ...]:
    """What a mapping of names to kinds declares, or a list; not yet checked."""
    if isinstance(given, Mapping):
        return tuple(of(name, kind) for name, kind in given.items())
    return tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)


class RowCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Where every row of the log went.

    rows_read = events + sum(rejected) + duplicates_removed + single_event_rows + core_rows
    """

    rows_read: int
    rejected: dict[str, int]  # broken rule -> rows
    duplicates: int  # rows whose (user, item, time) stood before
    duplicates_removed: int
    single_event_rows: int  # rows of users with one event: nothing to learn from, nothing to ask
    core_rows: int  # rows of users and items below the least number of events
    core_users: int
    core_items: int
    users: int
    items: int
    events: int
    train_events: int
    validation_queries: int
    validation_without_history: int  # events of the validation segment that are no query
    test_queries: int
    test_without_history: int
    split_requests: int  # runs of a request id, beyond its first, within a user: they count as new requests
    missing: dict[
        str, int
    ] = {}  # action -> events without a value; empty in folders of before it was counted
    unseen_items: int = 0  # of `items`: in the feature table, and without any event
    items_without_features: int = 0  # of `items`: not in the feature table; all their features are missing
    users_without_features: int = 0
    without_vector: dict[str, int] = {}  # condition -> events whose value its table of vectors lacks


class ActionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the events say of one action."""

    known: int  # events with a value
    low: float | None = None  # of numbers; None where there is none, like the next
    high: float | None = None
    mean: float | None = None
    events: dict[str, int] = {}  # by value, of categories; of a binary action those with "1"


class Largest(msgspec.Struct, frozen=True, kw_only=True):
    """Who has the most events."""

    id: int | str
    events: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What to know about the events that were kept, before anything is trained on them."""

    first_s: int  # unix seconds
    last_s: int
    actions: dict[str, ActionFacts]
    met_before: dict[str, int]  # queries by part, whose item is in the history before the part
    repeats: int  # events whose user, item and time an earlier event has
    tied_in_order: int  # events that share time and order column with another of their user
    largest_user: Largest
    largest_item: Largest
    tables: dict[str, str] = {}  # "item" and "user" -> the name of their feature table
    users_left_out: int = 0  # users whose rows were read and removed by the filters


def left_out(
    settings: Settings,
    rejected: dict[str, int],
    duplicates_removed: int,
    single_event_rows: int,
    core_rows: int,
) -> str:
    """In words, how many rows were left out, and why."""
    rows_by_reason = {
        **rejected,
        "repeat a user's item and time": duplicates_removed,
        "of users with a single event": single_event_rows,
        f"of users below {settings.min_user_events} or items below {settings.min_item_events} events": core_rows,
    }
    return "; ".join(f"{rows:,} {why}" for why, rows in rows_by_reason.items() if rows) or "none"


def why_left_out(settings: Settings, rows: int) -> str:
    """In words, which filter removed a user of so many rows, and what to do."""
    if rows == 1:
        return "it has a single event, from which nothing can be learnt or asked"
    if rows < settings.min_user_events:
        return f"it has {rows} events, below {setting('min_user_events', settings.min_user_events)}"
    filters = ", ".join(
        setting(name, getattr(settings, name)) for name in ("min_user_events", "min_item_events")
    )
    repeats = f", or repeat others ({setting('deduplicate', True)})" if settings.deduplicate else ""
    return f"of its {rows} events too many are of items that are too rare{repeats} ({filters})"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`manifest.json` of a prepared folder."""

    format_version: int
    name: str
    note: str
    plait_version: str
    inputs: tuple[str, ...]  # names of the files that were read
    settings: Settings
    settings_hash: str
    split: Split  # with its cuts resolved
    actions: tuple[Action, ...]  # fitted on training rows
    counts: RowCounts
    tied_share: float  # of events whose (user, time) another event of the user repeats
    content_hash: str  # over arrays and ids: two folders with one hash hold the same events
    files: dict[str, int]  # file name -> bytes
    item_features: tuple[Feature, ...] = ()  # fitted on items with training events
    user_features: tuple[Feature, ...] = ()  # fitted on users with training events
    context: tuple[Feature, ...] = ()  # fitted on training events, like the next
    conditions: tuple[Feature, ...] = ()
    facts: Facts | None = None  # None in folders of before they were kept
    read_as: tuple[str, ...] = ()  # how text files were read, in words

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2)


CONDITION_VECTORS = "condition_vectors"  # the files with them, before the place of the condition
DECLARED = ("actions", "item_features", "user_features", "context", "conditions")
COLUMN, TEXT, FLAG = "the name of a column", "text", "True or False"
FEATURES = "kinds by name, such as {'genre': plait.Category()}, or a list of plait.Feature"
EXPECTED = {
    **dict.fromkeys(("user", "item"), COLUMN),
    "time": f"{COLUMN}, or None where the rows are in order",
    **dict.fromkeys(("request", "order", "time_offset", "item_title"), f"{COLUMN}, or None"),
    "time_format": "text as '%d.%m.%Y %H:%M', or None",
    "negative_ids": "'keep', 'refuse' or None",
    "actions": "kinds by name, such as {'rating': plait.Regression(1, 5)}, or a list of plait.Action",
    "time_unit": "'s', 'ms', 'us' or 'ns'",
    "min_user_events": f"a whole number from 1 to {WHOLE.most:,}",
    "min_item_events": f"a whole number from 1 to {WHOLE.most:,}",
    **dict.fromkeys(("deduplicate", "keep_unseen_items"), FLAG),
    "split": "plait.LeaveOneOut(), or as plait.Temporal(validation=0.1, test=0.1) or plait.SplitColumn('fold')",
    "on_bad_row": "'stop' or 'reject'",
    **dict.fromkeys(DECLARED[1:], FEATURES),
    "item_statistics": "a list of 'count' and 'rate:ACTION', such as ('count', 'rate:like')",
    "item_conditions": "names of item features, such as ('genre',)",
    "text": "plait.TextFormat(), such as plait.TextFormat(separator=';', decimal_comma=True)",
    **dict.fromkeys(("name", "note"), TEXT),
}
TYPES = {
    field.name: field.type for struct in (Manifest, Settings) for field in msgspec.structs.fields(struct)
}


def check_types(given: Mapping[str, Any]) -> None:
    """Raises ValueError where an argument of `prepare` is not of its type in a manifest, or is no such number.

    >>> check_types({"on_bad_row": "drop"})
    Traceback (most recent call last):
        ...
    ValueError: on_bad_row: found 'drop', expected 'stop' or 'reject'
    """
    for name, value in given.items():
        parts: list[Any] = [(one,) for one in value] if name in DECLARED else [value]
        for part in parts:
            try:
                msgspec.convert(msgspec.to_builtins(part), TYPES[name])
                fits = not name.startswith("min_") or part in WHOLE
            except (msgspec.ValidationError, TypeError):  # the latter: msgspec knows no such type
                fits = False
            if not fits:
                shown = textwrap.shorten(repr(part[0] if name in DECLARED else part), 100)
                raise ValueError(f"{setting(name)}: found {shown}, expected {EXPECTED[name]}")
