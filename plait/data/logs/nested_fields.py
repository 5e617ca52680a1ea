"""Fields within fields: JSON as tables, structs as columns, lists as a row for each of their parts."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import polars as pl

from plait.data.logs.containers import Content
from plait.data.logs.text import Explode

Scan = Callable[[Sequence[str]], pl.LazyFrame]  # the columns named are read as text, where there are no types
Step = Callable[[pl.LazyFrame], pl.LazyFrame]
Schema = Mapping[str, Any]  # column -> polars data type
HEAD_BYTES = 1 << 16
BLANK = b" \t\r\n"


def is_json(content: Content) -> bool:
    """Whether a text is JSON: lines of objects, or an array of them."""
    head = content.data[:HEAD_BYTES].tobytes().lstrip(BLANK)
    if head[:1] == b"[":
        return head[1:].lstrip(BLANK)[:1] in (b"{", b"]")
    return head[:1] == b"{" and head[1:].lstrip(BLANK)[:1] in (b'"', b"}")


@dataclass(frozen=True)
class Json:
    """Lines of objects, or an array of them. Fields of any depth are known from all rows."""

    content: Content
    schema: Schema
    is_array: bool

    def scan(self, as_text: Sequence[str]) -> pl.LazyFrame:
        """`as_text` names columns, or fields within them: `views.aid`."""
        overrides: dict[str, Any] = {}
        for name in as_text:
            roots = [root for root in self.schema if name == root or name.startswith(f"{root}.")]
            for root in roots[-1:]:
                fields = name.removeprefix(root).split(".")[1:]
                overrides[root] = _as_text(overrides.get(root, self.schema[root]), fields)
        return _scan_json(self.content, self.is_array, overrides)

    def rows(self) -> int | None:
        """As counted apart from the reader: lines that are not blank. None for an array."""
        if self.is_array:
            return None
        with self.content.open() as file:
            return sum(1 for line in file if line.strip(BLANK))

    def __str__(self) -> str:
        return "a JSON array" if self.is_array else "JSON lines"


def read_json(content: Content) -> Json:
    """Raises ValueError where an array is not whole; lines raise polars' errors when they are read."""
    is_array = content.data[:HEAD_BYTES].tobytes().lstrip(BLANK)[:1] == b"["
    if is_array:
        _check_array(content)
    return Json(content, _scan_json(content, is_array, {}).collect_schema(), is_array)


def _check_array(content: Content) -> None:
    with content.open() as file:
        try:
            parts = json.load(file)
        except ValueError as error:
            raise ValueError(f"{content.name} cannot be read: {error}; it may be cut off") from None
    for place, part in enumerate(parts, start=1):
        if not isinstance(part, dict):
            raise ValueError(f"{content.name}: element {place} of the array is {part!r}; expected an object")


def _scan_json(content: Content, is_array: bool, overrides: Mapping[str, Any]) -> pl.LazyFrame:
    held = (
        content.held if isinstance(content.held, bytes) else content.data.tobytes()
    )  # a path would be a pattern
    if is_array:
        return pl.read_json(held, infer_schema_length=None, schema_overrides=dict(overrides)).lazy()
    return pl.scan_ndjson(held, infer_schema_length=None, schema_overrides=dict(overrides))


def _as_text(dtype: Any, path: Sequence[str]) -> Any:
    """The type with text at a path of fields, through lists."""
    if isinstance(dtype, pl.List):
        return pl.List(_as_text(dtype.inner, path))
    if isinstance(dtype, pl.Struct) and path:
        return pl.Struct(
            {
                field.name: _as_text(field.dtype, path[1:]) if field.name == path[0] else field.dtype
                for field in dtype.fields
            }
        )
    return dtype if isinstance(dtype, pl.Struct) else pl.String


@dataclass(frozen=True)
class Flat:
    """A scan whose wanted fields stand in columns of their own."""

    scan: Scan
    are_rows_as_read: bool  # no list was made rows
    said: tuple[str, ...]  # what was done, in words


def flatten(
    scan: Scan, wanted: Iterable[str], exploded: Sequence[Explode], item: str | None, where: str
) -> Flat:
    """A scan whose rows are events.

    Args:
        wanted: names of columns. `views.aid` is the field `aid` of the column `views`; `aid` is, too, where no column
            and no other field has that name.
        exploded: columns of text to part.
        item: the column whose values make events. Where it is a list, or lies in one, each part becomes a row, along
            with the parts of other wanted lists; an empty list makes none. None for a table of features.

    Raises:
        ValueError: a column to explode is not there, or no text; several fields have a wanted name; or lists that stand
            side by side are not equally long.
    """
    schema = scan(()).collect_schema()
    steps: list[Step] = []

    def take(step: Step) -> None:
        nonlocal schema
        steps.append(step)
        schema = step(pl.LazyFrame(schema=schema)).collect_schema()

    for explode in exploded:
        _check_text(schema, explode.column, where)
        take(_Parts(explode))
    path_of = _paths_of(schema, list(wanted), where)
    paths = list(path_of.values())
    item_path = None if item is None else path_of[item]
    while (step := _next_step(schema, paths, item_path)) is not None:
        if isinstance(step, _Rows):
            _check_lengths(reduce(_apply, steps, scan(())), step.columns, where)
        take(step)
    renamed = {path: name for name, path in path_of.items() if path != name and path in schema}
    if renamed:
        take(lambda frame: frame.rename(renamed))
    if not steps:
        return Flat(scan, True, ())
    lists = [", ".join(step.columns) for step in steps if isinstance(step, _Rows)]
    lists += [explode.column for explode in exploded]
    said = tuple(f"a row for each part of {names}" for names in lists)
    return Flat(
        lambda as_text: reduce(_apply, steps, scan([path_of.get(name, name) for name in as_text])),
        not lists,
        said,
    )


def _apply(frame: pl.LazyFrame, step: Step) -> pl.LazyFrame:
    return step(frame)


@dataclass(frozen=True)
class _Parts:
    """Parts a column of text into rows, and each part into columns; a part that is too short leaves the last empty."""

    explode: Explode

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        name, within, names = self.explode.column, self.explode.within, self.explode.names
        frame = frame.with_columns(pl.col(name).str.split(self.explode.separator)).explode(
            name, empty_as_null=False
        )
        frame = frame.filter(pl.col(name) != "")
        if within is None:
            return frame
        cut = pl.col(name).str.split(within)
        is_whole = cut.list.len() >= len(names)
        first = cut.list.head(cut.list.len() - min(len(names) - 1, 1_000)).list.join(within)
        columns = {names[0]: pl.when(is_whole).then(first).otherwise(name)}
        for place, other in enumerate(names[1:], start=1):
            part = cut.list.get(place - len(names), null_on_oob=True)
            columns[other] = pl.when(is_whole).then(part)
        return frame.with_columns(**columns).drop({name}.difference(names))


@dataclass(frozen=True)
class _Rows:
    """Makes rows of lists that are as long as each other."""

    columns: tuple[str, ...]

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        lists = _as_lists(frame.collect_schema(), self.columns)
        is_full = pl.any_horizontal(pl.col(name).list.len() > 0 for name in self.columns)
        return frame.with_columns(lists).filter(is_full).explode(self.columns, empty_as_null=False)


@dataclass(frozen=True)
class _Fields:
    """Makes columns of a struct's fields, called by their paths."""

    column: str
    fields: tuple[str, ...]

    def __call__(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        struct = pl.col(self.column).struct
        fields = [struct.field(field).alias(f"{self.column}.{field}") for field in self.fields]
        return frame.with_columns(fields).drop(self.column)


def _as_lists(schema: Schema, columns: Sequence[str]) -> list[pl.Expr]:
    return [pl.col(name).arr.to_list() for name in columns if isinstance(schema[name], pl.Array)]


def _next_step(schema: Schema, paths: Sequence[str], item_path: str | None) -> Step | None:
    """What brings one of the paths nearer to being a column."""
    on_path = [column for column in schema if any(_leads_to(column, path, schema) for path in paths)]
    lists = tuple(column for column in on_path if isinstance(schema[column], pl.List | pl.Array))
    if item_path is not None and any(_leads_to(column, item_path, schema) for column in lists):
        return _Rows(lists)
    for column in on_path:
        dtype = schema[column]
        if column not in paths and isinstance(dtype, pl.Struct):
            return _Fields(column, tuple(field.name for field in dtype.fields))
    return None


def _leads_to(column: str, path: str, schema: Schema) -> bool:
    return column == path or (path not in schema and path.startswith(f"{column}."))


def _paths_of(schema: Schema, wanted: Sequence[str], where: str) -> dict[str, str]:
    """Each wanted name's path; the name itself where it is a column or nothing is found."""
    paths = [path for column, dtype in schema.items() for path in _paths(column, dtype)]
    path_of = {}
    for name in wanted:
        fields = [path for path in paths if path.endswith(f".{name}")]
        if name not in schema and len(fields) > 1:
            raise ValueError(f"{where} has several fields {name!r}: {', '.join(fields)}; name one of these")
        path_of[name] = name if name in schema or not fields else fields[0]
    return path_of


def _paths(name: str, dtype: Any) -> list[str]:
    """
    >>> _paths("views", pl.List(pl.Struct({"aid": pl.Int64, "type": pl.String})))
    ['views.aid', 'views.type']
    """
    while isinstance(dtype, pl.List | pl.Array):
        dtype = dtype.inner
    if not isinstance(dtype, pl.Struct):
        return [name]
    return [path for field in dtype.fields for path in _paths(f"{name}.{field.name}", field.dtype)]


def _check_text(schema: Schema, column: str, where: str) -> None:
    if schema.get(column) != pl.String:
        found = f"holds {schema[column]}; expected text" if column in schema else "is not there"
        raise ValueError(f"{where}: explode names the column {column!r}, which {found}")


def _check_lengths(frame: pl.LazyFrame, columns: Sequence[str], where: str) -> None:
    if len(columns) == 1:
        return
    lists = _as_lists(frame.collect_schema(), columns)
    lengths = frame.with_columns(lists).select(pl.col(name).list.len().fill_null(0) for name in columns)
    uneven = lengths.with_row_index("row", offset=1).filter(
        pl.any_horizontal(pl.col(columns[0]) != pl.col(name) for name in columns[1:])
    )
    first = uneven.head(1).collect(engine="streaming")
    if first.height:
        row, *found = first.row(0)
        raise ValueError(
            f"{where}, row {row}: the lists {', '.join(columns)} hold {', '.join(map(str, found))} parts; expected "
            "equally many, since each part is an event"
        )
