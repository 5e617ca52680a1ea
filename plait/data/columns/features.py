"""What is known about items, users and moments: read, fitted on training rows, and turned into codes and vectors.

Shape letters: N rows of a table, V rows of the result (dense items and the unknown item, or dense users), K code
columns, W widths of the vectors side by side, E events, C context features, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import msgspec
import numpy as np
import polars as pl
from jaxtyping import Bool, Float32, Float64, Int32, Int64, Integer

from plait.data.columns import rules
from plait.data.columns.ids import Held, held_by, ids_as, joined_ids
from plait.data.columns.values import feature_values, file_of
from plait.data.logs.tables import check_columns, collect, described_reading, open_tables, reading
from plait.data.logs.text import TextFormat, with_decimal_points
from plait.data.manifest import Settings
from plait.data.vocabulary import Vocabulary
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    PADDING,
    UNKNOWN_ITEM,
    UNSEEN_VALUE,
    Categories,
    Category,
    Feature,
    FeatureKind,
    FeatureTable,
    Keyed,
    Number,
    Statistic,
    Vector,
    check_unique,
)
from plait.wording import setting

COUNT = "count"  # the name of a statistic of items: their events
Features = Mapping[str, FeatureKind] | Sequence[Feature]


@dataclass(frozen=True)
class DescribedTable:
    """A feature table as it was read: checked, its values in a common form, not yet fitted or coded."""

    what: str  # "item" or "user"
    features: tuple[Feature, ...]  # as declared
    id_N: pl.Series
    held: Held  # what the ids are
    values: pl.DataFrame  # a column per feature, null where missing
    tables: tuple[str, ...]  # their names
    vectors: tuple[str, ...]  # names of the files of vectors
    read_as: tuple[str, ...] = ()  # how text among them was read, in words
    title: str | None = None  # the column of `values` that people call an item by; no feature

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.tables + self.vectors


def check_context(features: Sequence[Feature], what: str = "context") -> None:
    """Raises ValueError where a kind has no single code per event."""
    for feature in features:
        if not isinstance(feature.kind, Category | Number):
            kind = "a vector" if isinstance(feature.kind, Vector) else "a set of categories"
            raise ValueError(
                f"{what}: {feature.name!r} is {kind}; what columns of the log say of an event is a category or a number"
            )


def describe(
    source: Any,
    id_column: str,
    features: Sequence[Feature],
    what: str,
    text: TextFormat = TextFormat(),
    columns: Sequence[str] = (),
    declared_by: str | None = None,
    title: str | None = None,
) -> DescribedTable:
    """Reads a feature table: a row per item or user, in any of the forms that a log has.

    Args:
        declared_by: what named the columns, for messages; by default the features of `plait.prepare`.
        title: a column of texts that is read beside the features.

    Raises:
        ValueError: nothing is declared, a column is missing or of the wrong type, an id is missing or stands
            there twice, or a .npy file does not fit.
    """
    if not features and title is None:
        raise ValueError(
            f"{what}s are given, but no {what}_features: name their columns and kinds, {setting(f'{what}_features')}"
        )
    declared, features = tuple(features), [*features, *([Feature(title, Category())] if title else [])]
    check_unique([id_column, *(feature.name for feature in features)], f"{what}s, column")
    wanted = [id_column, *(f.name for f in features if not file_of(f))]
    tables = open_tables(source, text, columns, wanted)
    numbers = [f.name for f in features if isinstance(f.kind, Number)]
    for table in tables:
        check_columns(table.schema, wanted, table.name, f" (of {declared_by or setting(f'{what}_features')})")
    frames, held = [], Held()
    for table in tables:
        with reading(table.name):
            lazy = with_decimal_points(table.lazy(as_text=wanted).select(wanted), numbers, text)
            frames.append(collect(lazy))
        table.check_rows(frames[-1].height)
        check_ids(frames[-1][id_column], table.name)
        held |= held_by(frames[-1][id_column], table.has_types)
    name = tables[0].name if len(tables) == 1 else str(source)
    id_N = joined_ids([frame.drop_in_place(id_column) for frame in frames], held)
    _check_once(id_N, name)
    frame = pl.concat(frames, how="vertical_relaxed", rechunk=True)
    values = [feature_values(feature, frame, name) for feature in features]
    read_from = tuple(Path(table.name).name for table in tables)
    vectors = tuple(Path(file).name for file in filter(None, map(file_of, features)))
    read_as = described_reading(tables)
    return DescribedTable(
        what, declared, id_N, held, pl.DataFrame(values), read_from, vectors, read_as, title
    )


def describe_all(items: Any, users: Any, settings: Settings) -> dict[str, DescribedTable]:
    """The feature tables that are given, under "item" and "user".

    Raises:
        ValueError: a table is given without features or the other way round, a user has a vector; and as
            `describe`.
    """
    about = {}
    for feature in settings.user_features:
        if isinstance(feature.kind, Vector):
            raise ValueError(
                f"user_features: {feature.name!r} is a vector; users are described by categories and numbers"
            )
    text = settings.text
    for of, source, id_column, declared_features, columns in (
        ("item", items, settings.item, settings.item_features, text.item_columns),
        ("user", users, settings.user, settings.user_features, text.user_columns),
    ):
        if source is not None:
            title = settings.item_title if of == "item" else None
            about[of] = describe(source, id_column, declared_features, of, text, columns, title=title)
        elif of == "item" and settings.item_title is not None:
            raise ValueError(
                f"{setting('item_title')} {settings.item_title!r} is a column of a table of items: give that table, "
                f"{setting('items')}"
            )
        elif declared_features:
            raise ValueError(
                f"{of}_features are named, but no {of}s: give the table that holds them, {setting(f'{of}s')}"
            )
    if settings.keep_unseen_items and "item" not in about:
        raise ValueError(
            f"{setting('keep_unseen_items')} takes the items from a feature table: give {setting('items')} and "
            f"{setting('item_features')}"
        )
    return about


def unseen_ids(table: DescribedTable, items: Vocabulary) -> pl.Series:
    """The table's ids that are not among the log's items, in ascending order and of their type.

    Raises:
        ValueError: an id cannot be of that type.
    """
    ids = items.ids
    new_M = table.id_N.filter(pl.Series(items.index_of(table.id_N) == items.unknown))
    typed_M = ids_as(new_M, ids.dtype)
    foreign = new_M.filter(typed_M.is_null())
    if len(foreign):
        raise ValueError(
            f"{table.what} {foreign[0]!r} of the feature table cannot be kept: the log's ids are {ids.dtype}, "
            f"such as {ids[0]!r}; write both alike"
        )
    return typed_M.sort().alias(ids.name)


@dataclass(frozen=True)
class Known:
    """What the feature tables add to a prepared folder."""

    fitted: dict[str, tuple[Feature, ...]]  # by the manifest's field
    arrays: dict[str, np.ndarray]  # by file name without its suffix; none without content
    lacking: dict[str, int]  # users or items without a row, by the field of the counts


def fit_tables(
    about: Mapping[str, DescribedTable], tables: Mapping[str, pl.DataFrame], trained_U: Bool[np.ndarray, " U"]
) -> Known:
    """The features of all items and users of a dataset, fitted on those with training events.

    Args:
        about: as `describe_all` returned it.
        tables: the dataset's "items" (with their training events) and "users".
        trained_U: whether a user has training events.
    """
    trained = {"item": (tables["items"]["train_events"] > 0).to_numpy(), "user": trained_U}
    known = Known({}, {}, {})
    for of, described in about.items():
        if not described.features:  # a table of titles alone
            continue
        is_train_V = np.concatenate([[False], trained[of]])
        table, lacking = fit_features(described, tables[f"{of}s"][f"{of}_id"], is_train_V)
        if of == "user":
            table = table[1:]  # dense users start at 0
        known.fitted[f"{of}_features"] = table.features
        known.lacking[f"{of}s_without_features"] = lacking
        matrices = {f"{of}_code": table.code_NK, f"{of}_vector": table.vector_NW}
        known.arrays.update((name, matrix) for name, matrix in matrices.items() if matrix.size)
    return known


def titles_of(about: Mapping[str, DescribedTable], ids: pl.Series) -> pl.Series | None:
    """What people call each item: null where nobody wrote it down; None where no column has titles."""
    table = about.get("item")
    if table is None or table.title is None:
        return None
    return _aligned(table, ids)[0][table.title][1:].rename("title")


def fit_features(
    table: DescribedTable, ids: pl.Series, is_train_V: Bool[np.ndarray, " V"]
) -> tuple[FeatureTable, int]:
    """The features of dense items 0 (unknown) to `len(ids)`, fitted on some of them; and how many are not described.

    Args:
        ids: dense item i is at index i - 1.
        is_train_V: the rows to fit values, buckets and widths on; index 0, the unknown item, is not looked at.

    Raises:
        ValueError: the table describes none of the ids.
    """
    values, is_described_V = _aligned(table, ids)
    if not is_described_V.any():
        raise ValueError(
            f"the feature table describes none of the log's {len(ids)} {table.what}s: its ids are "
            f"{table.id_N.dtype} such as {table.id_N[0]!r}, the log's {ids.dtype} such as {ids[0]!r}"
        )
    train = pl.Series(is_train_V & is_described_V)
    fitted = tuple(fit_feature(f, values[f.name].filter(train), values[f.name]) for f in table.features)
    return tabulate(fitted, values), int((~is_described_V[1:]).sum())


def new_items(
    source: Any,
    id_column: str,
    features: Sequence[Feature],
    items: Vocabulary,
    text: TextFormat = TextFormat(),
) -> tuple[pl.Series, FeatureTable]:
    """The items of a feature table that a catalogue lacks, in ascending order, and their features.

    Args:
        source: a table as `plait.prepare` takes it as `items`; vectors are columns.
        features: as fitted in preparation.
        items: of the catalogue.
        text: how a table that is a text file is read.

    Raises:
        ValueError: as `describe`; an id is not of the catalogue's type; a row has more values or a wider vector
            than preparation met.
    """
    declared = [feature for feature in features if not isinstance(feature.kind, Statistic)]
    table = describe(source, id_column, declared, "item", text, text.item_columns)
    new_ids = unseen_ids(table, items)
    values, _ = _aligned(table, new_ids)
    for feature in features:
        if isinstance(feature.kind, Statistic):  # no event yet: a count of 0, and no rate
            number = 0.0 if feature.name == COUNT else None
            values = values.with_columns(pl.lit(number, dtype=pl.Float64).alias(feature.name))
    return new_ids, tabulate(features, values)[1:]


def texts_of(
    source: Any, id_column: str, column: str, ids: pl.Series, text: TextFormat = TextFormat()
) -> pl.Series:
    """A column of a table of items, as text, for each of `ids`; null where the table lacks an id.

    Raises:
        ValueError: as `describe`.
    """
    feature = Feature(column, Category())
    table = describe(source, id_column, [feature], "item", text, text.item_columns, declared_by="the titles")
    values, _ = _aligned(table, ids)
    return values[column][1:]


def numbers_of(
    source: Any, id_column: str, columns: Sequence[str], ids: pl.Series, text: TextFormat = TextFormat()
) -> dict[str, Float64[np.ndarray, " V"]]:
    """Columns of a table of items, as numbers, for the unknown item and each of `ids`; NaN where one is missing.

    Raises:
        ValueError: as `describe`.
    """
    features = [Feature(column, Number()) for column in columns]
    table = describe(source, id_column, features, "item", text, text.item_columns, declared_by="the formula")
    values, _ = _aligned(table, ids)
    return {name: values[name].fill_null(np.nan).to_numpy() for name in columns}


def user_features_of(
    source: Any,
    id_column: str,
    features: Sequence[Feature],
    ids: pl.Series,
    text: TextFormat = TextFormat(),
) -> FeatureTable:
    """A row for each of `ids`, coded as in preparation; without any value where the table lacks an id.

    Args:
        source: a table as `plait.prepare` takes it as `users`, or None for users of whom nothing is known.
        features: as fitted in preparation.
        text: how a table that is a text file is read.
    """
    if not features:
        return tabulate((), ids.to_frame())
    if source is None:
        nothing = pl.DataFrame([pl.Series(feature.name, [None] * len(ids)) for feature in features])
        return tabulate(
            features, pl.DataFrame([feature_values(feature, nothing, "no table") for feature in features])
        )
    table = describe(source, id_column, features, "user", text, text.user_columns)
    values, _ = _aligned(table, ids)
    return tabulate(features, values)[1:]


def fit_feature(feature: Feature, train: pl.Series, every: pl.Series) -> Feature:
    """The feature with its values or buckets taken from `train`, and what shapes need to know from `every` row."""
    kind: FeatureKind
    match feature.kind:
        case Keyed():
            kind = feature.kind  # its values are those of its table
        case Category():
            kind = msgspec.structs.replace(feature.kind, values=_distinct(train))
        case Categories():
            most = every.list.len().max()
            kind = msgspec.structs.replace(
                feature.kind,
                values=_distinct(train.drop_nulls().explode(empty_as_null=False)),
                most=most or 1,
            )
        case Number(buckets=buckets):
            given = train.drop_nulls().to_numpy()
            inner = np.linspace(0, 1, buckets + 1)[1:-1]
            edges = tuple(np.unique(np.quantile(given, inner)).tolist()) if len(given) else ()
            kind = msgspec.structs.replace(feature.kind, edges=edges)
        case Vector():
            kind = Vector(width=every.dtype.shape[0])  # type: ignore[attr-defined]
        case _:
            assert_never(feature.kind)
    return msgspec.structs.replace(feature, kind=kind)


def tabulate(features: Sequence[Feature], values: pl.DataFrame) -> FeatureTable:
    """Codes and vectors of fitted features, from values as in `Described`.

    Raises:
        ValueError: a row has more values, or a vector another width, than fitted.
    """
    coded = [code_values(f, values[f.name]) for f in features if not isinstance(f.kind, Vector)]
    vectors = [_unit_vectors(f, values[f.name]) for f in features if isinstance(f.kind, Vector)]
    rows = values.height
    return FeatureTable(
        tuple(features),
        np.concatenate([np.empty((rows, 0), dtype=np.int32), *coded], axis=1),
        np.concatenate([np.empty((rows, 0), dtype=np.float32), *vectors], axis=1),
    )


def code_values(feature: Feature, values: pl.Series) -> Int32[np.ndarray, "N K"]:
    """Codes of a fitted feature's values, null where missing."""
    match feature.kind:
        case Category(values=known):
            return _code_texts(known, values)[:, None]
        case Categories():
            return _code_lists(feature.name, feature.kind, values)
        case Number(edges=edges):
            code_N = np.searchsorted(edges, values.fill_null(0.0).to_numpy(), side="right") + FIRST_VALUE
            return np.where(values.is_null().to_numpy(), MISSING_VALUE, code_N).astype(np.int32)[:, None]
        case Vector():
            raise AssertionError("a vector has no codes")
        case _:
            assert_never(feature.kind)


def code_context(features: Sequence[Feature], frame: pl.DataFrame, where: str) -> Int64[np.ndarray, "E C"]:
    """Codes of fitted features in a frame of events; of a column that the frame lacks, missing.

    Raises:
        ValueError: a column is of the wrong type, a text is no number, or a row has more values than preparation met.
    """
    coded = [
        code_values(feature, feature_values(feature, frame, where))
        if feature.name in frame.columns
        else np.full((frame.height, feature.num_columns), MISSING_VALUE)
        for feature in features
    ]
    return np.concatenate([np.empty((frame.height, 0), np.int64), *coded], axis=1).astype(np.int64)


def fit_context(
    feature: Feature, value_E: np.ndarray, label_L: pl.Series | None, is_train_E: Bool[np.ndarray, " E"]
) -> tuple[Feature, Int32[np.ndarray, " E"]]:
    """A context feature fitted on training events, and every event's code.

    Args:
        value_E: numbers, NaN where missing; or, where `label_L` is given, indices of labels ("" for missing).
    """
    if label_L is None:
        value = pl.Series(value_E, nan_to_null=True)
        feature = fit_feature(feature, value.filter(pl.Series(is_train_E)), value)
        return feature, code_values(feature, value)[:, 0]
    text_L = label_L.cast(pl.String).replace("", None)
    occurs_L = np.bincount(value_E[is_train_E], minlength=len(label_L)) > 0
    feature = fit_feature(feature, text_L.filter(pl.Series(occurs_L)), text_L)
    return feature, code_values(feature, text_L)[value_E, 0]


def gather_context(
    features: Sequence[Feature],
    columns: dict[str, np.ndarray],
    label_of: Mapping[str, pl.Series],
    row_E: Integer[np.ndarray, " E"],
    is_train_E: Bool[np.ndarray, " E"],
) -> tuple[tuple[Feature, ...], Int32[np.ndarray, "E C"]]:
    """The context features fitted on training events, and the codes of every event.

    Args:
        columns: rows as in `fit_context`, by "context0", "context1", ...; taken out, not to be in memory twice.
        row_E: the row of each event.
    """
    code_EC = np.empty((len(row_E), len(features)), dtype=np.int32)
    fitted = []
    for index, feature in enumerate(features):
        value_E, label_L = columns.pop(f"context{index}")[row_E], label_of.get(f"context{index}")
        feature, code_EC[:, index] = fit_context(feature, value_E, label_L, is_train_E)
        fitted.append(feature)
    return tuple(fitted), code_EC


def _aligned(table: DescribedTable, ids: pl.Series) -> tuple[pl.DataFrame, Bool[np.ndarray, " V"]]:
    """The table's values in dense order, with a row of nulls for the unknown item, and who has a row at all."""
    index_N = Vocabulary.of_items(ids).index_of(table.id_N)
    row_V = np.full(len(ids) + 1, -1)
    row_V[index_N] = np.arange(len(index_N))
    row_V[UNKNOWN_ITEM] = -1
    is_described_V = row_V >= 0
    rows = pl.select(pl.when(pl.Series(is_described_V)).then(pl.Series(row_V))).to_series()
    return table.values.select(pl.all().gather(rows)), is_described_V


def _unit_vectors(feature: Feature, values: pl.Series) -> Float32[np.ndarray, "N W"]:
    """Length 1 each; zeros where missing."""
    vector_NW = np.nan_to_num(values.to_numpy().astype(np.float32))
    if vector_NW.shape[1] != feature.width:
        raise ValueError(
            f"feature {feature.name!r}: vectors of {vector_NW.shape[1]} numbers, expected {feature.width}"
        )
    length_N1 = np.linalg.norm(vector_NW, axis=1, keepdims=True)
    return vector_NW / np.where(length_N1 > 0, length_N1, 1)


def _code_texts(known: tuple[str, ...], values: pl.Series) -> Int32[np.ndarray, " N"]:
    codes = range(FIRST_VALUE, FIRST_VALUE + len(known))
    code = values.replace_strict(known, list(codes), default=UNSEEN_VALUE, return_dtype=pl.Int32)
    return np.where(values.is_null().to_numpy(), MISSING_VALUE, code.to_numpy()).astype(np.int32)


def _code_lists(name: str, kind: Categories, values: pl.Series) -> Int32[np.ndarray, "N K"]:
    length_N = values.list.len().fill_null(0).to_numpy().astype(np.int64)
    if length_N.max(initial=0) > kind.most:
        row = int(length_N.argmax())
        raise ValueError(
            f"feature {name!r}: {values[row].to_list()} are {length_N[row]} values, and preparation met at most "
            f"{kind.most} in one row; leave some out, or prepare and train again"
        )
    code_NK = np.full((len(values), kind.most), PADDING, dtype=np.int32)
    code_NK[length_N == 0, 0] = MISSING_VALUE
    row_M = np.repeat(np.arange(len(values)), length_N)
    place_M = np.arange(len(row_M)) - np.repeat(np.cumsum(length_N) - length_N, length_N)
    code_NK[row_M, place_M] = _code_texts(kind.values, values.drop_nulls().explode(empty_as_null=False))
    return code_NK


def _distinct(values: pl.Series) -> tuple[str, ...]:
    return tuple(values.drop_nulls().unique().sort().to_list())


def check_ids(id_N: pl.Series, name: str) -> None:
    """Raises ValueError where an id of a table is missing, or none that a log can have."""
    column = rules.given_id_column(id_N.name, id_N.dtype)
    rule_N = id_N.to_frame().select(rules.rule_number([column])).to_series()
    broken_N = (rule_N > 0).arg_true()
    if len(broken_N):
        first = int(broken_N[0])
        raise ValueError(
            f"{name}: {rules.rule_texts([column])[rule_N[first] - 1]} in row {first + 1} ({id_N[first]!r}), and in "
            f"{len(broken_N)} of {len(id_N)} rows; correct them, or leave them out"
        )


def _check_once(id_N: pl.Series, name: str) -> None:
    if id_N.is_duplicated().any():
        twice = id_N.filter(id_N.is_duplicated()).unique().sort().head(3).to_list()
        raise ValueError(
            f"{name}: {id_N.name} must stand once in a feature table; more than once: "
            f"{', '.join(map(repr, twice))}"
        )
