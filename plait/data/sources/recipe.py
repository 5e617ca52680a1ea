"""What a recipe is: where a public log comes from, how it is read, how one knows that it is whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.data.logs.text import TextFormat
from plait.schema import Action, Feature, Regression

if TYPE_CHECKING:  # to list recipes, nobody needs it
    import polars

USER, ITEM, TIME, REQUEST = (
    "user_id",
    "item_id",
    "timestamp",
    "request_id",
)  # columns that every reader returns
TITLE = "title"  # of an item
FIVE_STARS = (Action("rating", Regression(1, 5)),)


@dataclass(frozen=True, kw_only=True)
class Published:
    """An owner's own counts, as published: '100000', or rounded as in '94.8K'. Empty: not stated."""

    rows: str
    users: str = ""
    items: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    what: str
    origin: str  # the owner's page
    terms: str  # of use, in short; the owner's page has the binding words
    actions: tuple[Action, ...]
    read: Callable[
        [Path], "polars.LazyFrame"
    ]  # the owner's file or folder -> USER, ITEM, TIME, the actions, REQUEST, the conditions, the context
    fetch: tuple[
        Callable[[Path], Path], ...
    ]  # tried in turn: downloads into a folder, returns what `read` takes
    published: Published | None  # None where the owner states no exact counts that we could check
    milliseconds: bool = False  # unit of TIME
    has_request: bool = False
    conditions: tuple[Feature, ...] = ()  # known before the item, and asked under
    context: tuple[Feature, ...] = ()  # stands with the item, never before it
    # the same -> ITEM and TITLE, or None where the files are not there
    read_titles: Callable[[Path], "polars.LazyFrame | None"] | None = None

    @property
    def columns(self) -> list[str]:
        return [
            USER,
            ITEM,
            TIME,
            *(action.name for action in self.actions),
            *([REQUEST] if self.has_request else []),
            *(condition.name for condition in self.conditions),
            *(feature.name for feature in self.context),
        ]


def find(path: Path, *names: str) -> Path:
    """The file at `path`, or the first under the folder `path` that matches one of the names.

    Raises:
        ValueError: there is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(f"{path} does not exist; give the owner's file, or the folder that it is in")
    for name in names:
        found = sorted(path.rglob(name))
        if found:
            return found[0]
    raise ValueError(
        f"{path} holds no {' or '.join(names)}; give the owner's file, or the folder that it is in"
    )


def beside(path: Path, name: str) -> Path | None:
    """The file of that name under the folder `path`, or beside the file `path`; None where there is none."""
    found = sorted(path.rglob(name)) if path.is_dir() else [path.parent / name]
    return found[0] if found and found[0].is_file() else None


def scan_text(
    file: Path, text: TextFormat = TextFormat(), columns: Sequence[str] = (), as_text: Sequence[str] = ()
) -> "polars.LazyFrame":
    """A text file of the owner's; `columns` names those of a file without a header.

    Raises:
        ValueError: it cannot be read.
    """
    from plait.data.logs.tables import open_tables

    (table,) = open_tables(file, text, columns)
    return table.lazy(as_text)


def renamed(lazy: "polars.LazyFrame", file: Path, columns: Mapping[str, str]) -> "polars.LazyFrame":
    """The owner's columns under the names that every reader returns.

    Raises:
        ValueError: one is missing, or the file cannot be read.
    """
    import polars as pl

    from plait.data.logs.tables import check_columns, reading

    with reading(str(file)):
        schema = lazy.collect_schema()
    check_columns(schema, columns, str(file), f" (expected the owner's {', '.join(columns)})")
    return lazy.select(pl.col(theirs).alias(ours) for theirs, ours in columns.items())


def agrees(published: str, count: int) -> bool:
    """Whether a count rounds to a published number.

    >>> agrees("94.8K", 94_762), agrees("94.8K", 94_862), agrees("1682", 1682), agrees("", 7)
    (True, False, True, True)
    """
    if not published:
        return True
    unit = {"K": 1e3, "M": 1e6}.get(published[-1], 1.0)
    digits = published.rstrip("KM")
    decimals = len(digits.partition(".")[2])
    tolerance = 0.0 if unit == 1.0 else unit * 10**-decimals * 0.501  # rounded either way at a half
    return abs(float(digits) * unit - count) <= tolerance
