"""The vocabulary that every room shares: action and feature kinds, event batches, feature tables, id maps.
Plain data that checks itself and says what it is.

Shape letters: E events of all users laid end to end, U users, A action columns, F context columns, G columns of
conditions, N rows of a feature table, K code columns, W widths of its vectors side by side. Of an action's answers: M
of them, C outputs of a model, W columns, V levels.
"""

import difflib
import math
import re
import reprlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import msgspec
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from plait.limits import Between, check_number

UNKNOWN_ITEM = 0  # dense index of every item that the item table does not hold; real items start at 1

# Codes of feature values. A value's code is local to its feature.
PADDING = -1  # fills up a row of `Categories` with fewer values than the fullest
MISSING_VALUE, UNSEEN_VALUE, FIRST_VALUE = (
    0,
    1,
    2,
)  # no value; a value that no training row has; the known ones


Judgement = Literal["chance", "outcomes", "number", "scaled number"]
"""As what a prediction is held against what came: the chance that it happens, the chance of each outcome, a number in
the log's units, or one as the model sees it."""


class Kind(msgspec.Struct, frozen=True):
    """What every kind of action says of itself, as plain facts. How the log's column is read and a simulated one drawn
    stands in `plait.data.columns.actions`, how a model reads and predicts it in `plait.nn.action_kinds`.

    A new kind is a class here, named in `ActionKind`, and one in either of them. The type checker names what lacks.
    """

    @staticmethod
    @abstractmethod
    def form() -> str:
        """How the command line spells it after the action's name."""

    @classmethod
    @abstractmethod
    def parsed(cls, settings: str | None) -> "Kind | None":
        """The kind of these settings, or None where they are not of its form.

        Args:
            settings: what stands behind the kind's name and a colon; None without the colon.

        Raises:
            ValueError: a setting is wrong.
        """

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number that an event can hold."""

    @property
    @abstractmethod
    def outcomes(self) -> tuple[str, ...]:
        """The values that are told apart, of which an event holds the index; none where it holds a number."""

    @property
    @abstractmethod
    def judged_as(self) -> tuple[Judgement, ...]:
        """Which metrics judge it: those of these judgements. The first is the chief one."""

    @abstractmethod
    def unfitted(self) -> "Kind":
        """The kind as it is declared, without what preparation fits."""

    @abstractmethod
    def answer_columns(self, name: str) -> tuple[str, ...]:
        """What the columns of an answer are called, for an action of this name."""

    @abstractmethod
    def answer(self, predicted_MC: Float32[np.ndarray, "M C"]) -> Float32[np.ndarray, "M W"]:
        """Those columns, of what a model predicts."""

    @abstractmethod
    def log_numbers(
        self, predicted_M: Float32[np.ndarray, "M ..."], label_M: Float32[np.ndarray, " M"]
    ) -> tuple[Float32[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        """What a model predicts and what events hold, as numbers in the log's units, where it is judged by those."""


class NumericKind(Kind, frozen=True):
    """Events hold a number, and a model predicts one."""

    @property
    def outcomes(self) -> tuple[str, ...]:
        return ()

    def answer_columns(self, name: str) -> tuple[str, ...]:
        return (name,)

    def answer(self, predicted_MC: Float32[np.ndarray, "M C"]) -> Float32[np.ndarray, "M W"]:
        return predicted_MC

    def log_numbers(
        self, predicted_M: Float32[np.ndarray, "M ..."], label_M: Float32[np.ndarray, " M"]
    ) -> tuple[Float32[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        return predicted_M, label_M


class KindOfOutcomes(Kind, frozen=True):
    """Events hold the index of one of several values, and a model predicts the probability of each."""

    values: tuple[str, ...]

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, len(self.values) - 1.0

    @property
    def outcomes(self) -> tuple[str, ...]:
        return self.values


@final
class Binary(NumericKind, frozen=True, tag="binary"):
    """Happened or not: 0 or 1. Trained with binary cross-entropy."""

    @staticmethod
    def form() -> str:
        return "binary"

    @classmethod
    def parsed(cls, settings: str | None) -> "Binary | None":
        return cls() if settings is None else None

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    @property
    def judged_as(self) -> tuple[Judgement, ...]:
        return ("chance",)

    def unfitted(self) -> "Binary":
        return self


@final
class Regression(NumericKind, frozen=True, tag="regression"):
    """A bounded number, scaled to [0, 1] for the model."""

    low: float
    high: float
    loss: Literal["mse", "huber"] = "mse"

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            check_number(name, getattr(self, name), Between(-1e30, 1e30, "values are float32"))
        if not self.low < self.high:
            raise ValueError(f"Regression(low={self.low}, high={self.high}): low must be below high")

    @staticmethod
    def form() -> str:
        return "regression:LOW:HIGH[:mse|huber]"

    @classmethod
    def parsed(cls, settings: str | None) -> "Regression | None":
        match (settings or "").split(":"):
            case [low, high]:
                return cls(float(low), float(high))
            case [low, high, ("mse" | "huber") as loss]:
                return cls(float(low), float(high), loss)
        return None

    @property
    def bounds(self) -> tuple[float, float]:
        return float(self.low), float(self.high)

    @property
    def judged_as(self) -> tuple[Judgement, ...]:
        return ("number", "scaled number")

    def unfitted(self) -> "Regression":
        return self


@final
class Amount(NumericKind, frozen=True, tag="amount"):
    """A non-negative number without an upper bound (seconds, money), modelled as log1p(value) / log1p_scale."""

    zero_inflated: bool = False  # a separate head for "is it zero?"
    log1p_scale: float = 1.0  # the largest log1p(value) of the training rows; preparation fits it

    def __post_init__(self) -> None:
        check_number("log1p_scale", self.log1p_scale, Between(0, 100, "log1p of a float32", above=True))

    @staticmethod
    def form() -> str:
        return "amount[:zero]"

    @classmethod
    def parsed(cls, settings: str | None) -> "Amount | None":
        return cls(zero_inflated=settings == "zero") if settings in (None, "zero") else None

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, math.inf

    @property
    def judged_as(self) -> tuple[Judgement, ...]:
        return ("scaled number", "number")

    def unfitted(self) -> "Amount":
        return msgspec.structs.replace(self, log1p_scale=1.0)


@final
class Categorical(KindOfOutcomes, frozen=True, tag="categorical"):
    """One of several named values, stored as its index in `values`: texts, and whole numbers as they are spelt.

    >>> Categorical([1, 2]).values
    ('1', '2')
    """

    def __post_init__(self) -> None:
        names = _checked_names("a categorical action", self.values, _name_of)
        msgspec.structs.force_setattr(self, "values", names)

    @staticmethod
    def form() -> str:
        return "categorical:A,B,..."

    @classmethod
    def parsed(cls, settings: str | None) -> "Categorical | None":
        return None if settings is None else cls(tuple(split_quoted(settings)))

    @property
    def judged_as(self) -> tuple[Judgement, ...]:
        return ("outcomes",)

    def unfitted(self) -> "Categorical":
        return self

    def answer_columns(self, name: str) -> tuple[str, ...]:
        """
        >>> Categorical(("phone", "tv")).answer_columns("device")
        ('device=phone', 'device=tv')
        """
        return tuple(f"{name}={value}" for value in self.values)

    def answer(self, predicted_MC: Float32[np.ndarray, "M C"]) -> Float32[np.ndarray, "M W"]:
        return predicted_MC

    def log_numbers(
        self, predicted_M: Float32[np.ndarray, "M ..."], label_M: Float32[np.ndarray, " M"]
    ) -> tuple[Float32[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        raise AssertionError("outcomes without an order are no numbers")


@final
class Ordinal(KindOfOutcomes, frozen=True, tag="ordinal"):
    """One of several levels, stored as its index in `values`, from the lowest to the highest: stars, grades. Trained
    with cumulative logits.

    Levels that are numbers all of them are read as numbers (4 and 4.0 are one), and have a mean.

    >>> Ordinal([1, 2.5, 5]).levels
    (1.0, 2.5, 5.0)
    >>> Ordinal(["poor", "fair", "good"]).levels is None
    True
    """

    def __post_init__(self) -> None:
        names = _checked_names("an ordinal action", self.values, _level_of)
        msgspec.structs.force_setattr(self, "values", names)
        if self.levels is not None and (np.diff(np.array(self.levels, np.float32)) <= 0).any():
            raise ValueError(
                f"an ordinal action takes its values from the lowest to the highest; found {shortened(names)}"
            )

    @property
    def levels(self) -> tuple[float, ...] | None:
        """Its values as numbers; None where one is none."""
        try:
            numbers = tuple(map(float, self.values))
        except ValueError:
            return None
        return numbers if all(map(math.isfinite, numbers)) else None

    def mean_of(self, chance_MV: Float32[np.ndarray, "M V"]) -> Float32[np.ndarray, " M"]:
        """The mean level, where levels are numbers.

        >>> Ordinal(("1", "2", "5")).mean_of(np.array([[0.5, 0.0, 0.5]], np.float32)).tolist()
        [3.0]
        """
        assert self.levels is not None, f"{self} has no mean"
        mean_M = chance_MV.astype(np.float64) @ np.array(self.levels)
        return mean_M.clip(self.levels[0], self.levels[-1]).astype(np.float32)

    def levels_of(self, index_M: Float32[np.ndarray, " M"]) -> Float32[np.ndarray, " M"]:
        """The levels that events hold, where those are numbers; NaN, a missing one, stays NaN."""
        assert self.levels is not None, f"{self} has no numbers"
        missing_M = np.isnan(index_M)
        level_M = np.array(self.levels, np.float32)[np.where(missing_M, 0, index_M).astype(np.int64)]
        return np.where(missing_M, np.float32(np.nan), level_M)

    @staticmethod
    def form() -> str:
        return "ordinal:A,B,..."

    @classmethod
    def parsed(cls, settings: str | None) -> "Ordinal | None":
        return None if settings is None else cls(tuple(split_quoted(settings)))

    @property
    def judged_as(self) -> tuple[Judgement, ...]:
        return ("outcomes",) if self.levels is None else ("number", "outcomes")

    def unfitted(self) -> "Ordinal":
        return self

    def answer_columns(self, name: str) -> tuple[str, ...]:
        """
        >>> Ordinal(("1", "2", "3")).answer_columns("stars")
        ('stars', 'stars=1', 'stars=2', 'stars=3')
        >>> Ordinal(("poor", "good")).answer_columns("grade")
        ('grade=poor', 'grade=good')
        """
        chances = tuple(f"{name}={value}" for value in self.values)
        return chances if self.levels is None else (name, *chances)

    def answer(self, predicted_MC: Float32[np.ndarray, "M C"]) -> Float32[np.ndarray, "M W"]:
        if self.levels is None:
            return predicted_MC
        return np.column_stack([self.mean_of(predicted_MC), predicted_MC])

    def log_numbers(
        self, predicted_M: Float32[np.ndarray, "M ..."], label_M: Float32[np.ndarray, " M"]
    ) -> tuple[Float32[np.ndarray, " M"], Float32[np.ndarray, " M"]]:
        return self.mean_of(predicted_M), self.levels_of(label_M)


ActionKind = Binary | Regression | Amount | Categorical | Ordinal
ACTION_KINDS: dict[str, type[ActionKind]] = {
    kind.__struct_config__.tag: kind for kind in get_args(ActionKind)
}  # by the name that the command line and saved settings know them by


class Action(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """One action column: its name in the log and the kind of value that it holds."""

    name: str
    kind: ActionKind
    missing: tuple[str, ...] = ()  # values that stand for none, beside null, NaN and empty

    @classmethod
    def parse(cls, text: str) -> "Action":
        """The command line's spelling of an action.

        Raises:
            ValueError: the kind is unknown or its settings do not parse.

        >>> Action.parse("rating:regression:1:5")
        Action(name='rating', kind=Regression(low=1.0, high=5.0, loss='mse'))
        >>> Action.parse('device:categorical:phone,tablet,"tv, 4k",8:1').kind.values
        ('phone', 'tablet', 'tv, 4k', '8:1')
        """
        name, _, rest = text.partition(":")
        tag, colon, settings = rest.partition(":")
        try:
            kind = ACTION_KINDS[tag].parsed(settings if colon else None) if tag in ACTION_KINDS else None
        except ValueError as error:
            raise ValueError(f"action {text!r}: {error}") from None
        if kind is not None:
            return cls(name, kind)
        *forms, last = (f"NAME:{kind.form()}" for kind in ACTION_KINDS.values())
        near = difflib.get_close_matches(tag, ACTION_KINDS, n=1)
        raise ValueError(
            f"action {text!r}: expected {', '.join(forms)} or {last}"
            + (f"; did you mean {near[0]!r}?" if near and near[0] != tag else "")
        )


class Category(msgspec.Struct, frozen=True, tag="category"):
    """One value out of a set that preparation learns: a brand, a language, a device."""

    values: tuple[str, ...] = ()  # those of training rows, ascending; preparation fits them


@final
class Keyed(Category, frozen=True, tag="keyed", omit_defaults=True, repr_omit_defaults=True):
    """A category whose values are the keys of a table of frozen embeddings: a query text and what an encoder makes of
    it. Models read the vector, so that a value without training events means what its neighbours mean."""

    file: str | None = None  # Parquet: a column of keys, and one of lists of numbers
    width: int = 0  # numbers in one vector; preparation fits it, and all below
    digest: str = ""  # SHA-256 of keys and vectors
    encoder: str = ""  # what made the vectors, where the table's metadata name it


class Categories(msgspec.Struct, frozen=True, tag="categories"):
    """Any number of values at once: genres, tags. Their vectors are averaged."""

    separator: str | None = None  # between the values of a text; None: the column holds lists
    values: tuple[str, ...] = ()  # those of training rows, ascending; preparation fits them
    most: int = 1  # values that one row may have; preparation fits it


class Number(msgspec.Struct, frozen=True, tag="number"):
    """A number, as the bucket that it falls into (GenRank paper, section 2).

    The buckets are quantiles of the training rows: about as many rows in each.
    """

    buckets: int = 16
    edges: tuple[
        float, ...
    ] = ()  # between the buckets, ascending, each in the upper one; preparation fits them

    def __post_init__(self) -> None:
        check_number("buckets", self.buckets, Between(2, 65_536, "each has a vector of its own"))


@final
class Statistic(Number, frozen=True, tag="statistic"):
    """A number that preparation counts on the log's training rows, and no table has a column of."""


class Vector(msgspec.Struct, frozen=True, tag="vector"):
    """A frozen embedding of the row's content, scaled to length 1."""

    file: str | None = None  # a .npy with a row for every row of the feature table; None: a column of lists
    width: int = 0  # numbers in one vector; preparation fits it


FeatureKind = Category | Keyed | Categories | Number | Statistic | Vector


class Feature(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """One column that describes an item, a user, or the moment at which an item is shown."""

    name: str
    kind: FeatureKind
    missing: tuple[str, ...] = ()  # values that stand for none, beside null and empty

    @classmethod
    def parse(cls, text: str) -> "Feature":
        """The command line's spelling of a feature.

        Raises:
            ValueError: the kind is unknown or its settings do not parse.

        >>> Feature.parse("genre:categories:|").kind.separator
        '|'
        >>> Feature.parse("year:number:8").kind.buckets
        8
        """
        name, _, rest = text.partition(":")
        kind, _, setting = rest.partition(":")
        try:
            match kind, setting:
                case _ if not name:
                    pass
                case "category", "":
                    return cls(name, Category())
                case "categories", _:
                    return cls(name, Categories(setting or None))
                case "number", "":
                    return cls(name, Number())
                case "number", _:
                    return cls(name, Number(int(setting)))
                case "vector", _:
                    return cls(name, Vector(setting or None))
        except ValueError as error:
            raise ValueError(f"feature {text!r}: {error}") from None
        near = difflib.get_close_matches(kind, ("category", "categories", "number", "vector"), n=1)
        raise ValueError(
            f"feature {text!r}: expected NAME:category, NAME:categories[:SEPARATOR], NAME:number[:BUCKETS] "
            "or NAME:vector[:FILE.npy]" + (f"; did you mean {near[0]!r}?" if near and near[0] != kind else "")
        )

    @property
    def num_codes(self) -> int:
        """Different codes of its values, 0 for a vector."""
        match self.kind:
            case Category(values=values) | Categories(values=values):
                return FIRST_VALUE + len(values)
            case Number(edges=edges):
                return FIRST_VALUE + len(edges) + 1
            case Vector():
                return 0

    @property
    def num_columns(self) -> int:
        """Columns of codes, 0 for a vector."""
        match self.kind:
            case Categories(most=most):
                return most
            case Category() | Number():
                return 1
            case Vector():
                return 0

    @property
    def width(self) -> int:
        """Numbers in its vector, 0 for all other kinds."""
        return self.kind.width if isinstance(self.kind, Vector) else 0


def code_columns(names: Sequence[str], features: Sequence[Feature]) -> list[int]:
    """Which code columns of a table of these features are of those with the names, in the order of the names.

    >>> code_columns(["year"], [Feature("genre", Categories("|", (), most=2)), Feature("year", Number())])
    [2]
    """
    ends = np.cumsum([feature.num_columns for feature in features]).tolist()
    place = {
        feature.name: (end - feature.num_columns, end) for feature, end in zip(features, ends, strict=True)
    }
    return [column for name in names for column in range(*place[name])]


@dataclass(frozen=True)
class FeatureTable:
    """What is known about items or users: codes and vectors of each row, in the order of `features`.

    A table of items has a row for every dense item, row UNKNOWN_ITEM without any value; of users, for every
    dense user.
    """

    features: tuple[Feature, ...]  # fitted
    code_NK: Int32[np.ndarray, "N K"]  # each feature's columns side by side
    vector_NW: Float32[np.ndarray, "N W"]  # of length 1 each, zeros where missing

    def __post_init__(self) -> None:
        for what, found, expected in (
            ("code columns", self.code_NK.shape[1], sum(f.num_columns for f in self.features)),
            ("numbers in vectors", self.vector_NW.shape[1], sum(f.width for f in self.features)),
        ):
            assert found == expected, f"{found} {what}, expected {expected}"

    def __len__(self) -> int:
        return len(self.code_NK)

    def __getitem__(self, rows: Int64[np.ndarray, " R"] | Bool[np.ndarray, " N"] | slice) -> "FeatureTable":
        return FeatureTable(self.features, self.code_NK[rows], self.vector_NW[rows])


@dataclass(frozen=True)
class EventBatch:
    """Events of several users laid end to end, each user's oldest first.

    A user's first `lead_U` events lie before the window: they emit no tokens, and only serve facts of older
    offsets (a lagged action from before the window keeps its true value).
    """

    user_U: Int64[np.ndarray, " U"]  # dense user index
    start_U1: Int64[np.ndarray, " U1"]  # user u's events are start_U1[u] : start_U1[u + 1]
    lead_U: Int64[np.ndarray, " U"]
    item_E: Int64[np.ndarray, " E"]  # dense item index, UNKNOWN_ITEM where the item table lacks it
    action_EA: Float32[np.ndarray, "E A"]  # in the log's own units (a category's index), NaN = missing
    time_s_E: Int64[np.ndarray, " E"]  # unix seconds
    request_E: Int64[np.ndarray, " E"]  # equal, within a user, for the events of one exposure
    # Codes of what was known when the item was shown, and of what is known about the user; no columns by default.
    context_EF: Int64[np.ndarray, "E F"] = None  # type: ignore[assignment]
    user_code_UK: Int64[np.ndarray, "U K"] = None  # type: ignore[assignment]
    # Codes of what was known before the item, and is asked under; apart from the context, which items are shown with.
    condition_EG: Int64[np.ndarray, "E G"] = None  # type: ignore[assignment]
    # Which event it is of all that its user ever had, from 0; by default a user's first event here is the first ever.
    number_E: Int64[np.ndarray, " E"] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.number_E is None:
            number_E = np.arange(len(self.item_E)) - np.repeat(self.start_U1[:-1], self.num_events_U)
            object.__setattr__(self, "number_E", number_E)
        for name, rows in (
            ("context_EF", self.item_E),
            ("user_code_UK", self.user_U),
            ("condition_EG", self.item_E),
        ):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros((len(rows), 0), dtype=np.int64))

    @property
    def num_users(self) -> int:
        return len(self.user_U)

    @property
    def num_events_U(self) -> Int64[np.ndarray, " U"]:
        return np.diff(self.start_U1)


def split_quoted(text: str) -> list[str]:
    """Values between commas. Blanks around them go; commas and blanks within double quotes stay, and two double quotes
    are one there.

    Raises:
        ValueError: a quoted value has no end, or goes on after it.

    >>> split_quoted('i05, "Heat, 1995"," b","5"" pipe"')
    ['i05', 'Heat, 1995', ' b', '5" pipe']
    """
    values, rest = [], text
    while True:
        found = re.match(r'\s*"((?:[^"]|"")*)"\s*(?:,|$)|\s*([^,"\s][^,]*|)(?:,|$)', rest)
        if found is None:
            raise ValueError(f"{text}: a quote has no end, or its value goes on after it")
        quoted, plain = found.groups()
        values.append(plain.strip() if quoted is None else quoted.replace('""', '"'))
        if not found[0].endswith(","):
            return values
        rest = rest[found.end() :]


def shortened(values: Iterable[object], most: int = 5) -> str:
    """Values as a message shows them: the first few, and how many there are.

    >>> shortened(range(100), most=2)
    '0, 1, ... (100 in all)'
    """
    texts = [reprlib.repr(value) for value in values]
    return ", ".join(texts[:most]) + (f", ... ({len(texts)} in all)" if len(texts) > most else "")


def _checked_names(whose: str, given: object, name_of: Callable[[object], str | None]) -> tuple[str, ...]:
    """Names of at least two different values. Raises ValueError where they are not."""
    names = [name_of(value) for value in given] if isinstance(given, list | tuple) else []
    if not names or None in names:
        raise ValueError(f"{whose} takes a list of its values, texts; found {shortened([given])}")
    twice = sorted({name for name in names if names.count(name) > 1 and name is not None})
    if len(names) < 2 or twice:
        raise ValueError(
            f"{whose} needs at least two values, all different; found {shortened(names)}"
            + (f", with {shortened(twice)} more than once" if twice else "")
        )
    return tuple(name for name in names if name is not None)


def _level_of(value: object) -> str | None:
    """A number's shortest spelling: fractions are levels, too."""
    if isinstance(value, float | np.floating) and math.isfinite(value):
        return str(int(value)) if value % 1 == 0 else str(value)
    return _name_of(value)


def _name_of(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None


def check_unique(names: Sequence[str], what: str) -> None:
    """Raises ValueError where a name stands twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"{what}: {', '.join(map(repr, twice))} given more than once")
