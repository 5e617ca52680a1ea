"""Tables of frozen embeddings by key, such as those of query texts: read, checked, and held by features of events.

Shape letters: K keys, W width of a vector.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow.parquet as pq
from jaxtyping import Float32

from plait.data.columns.values import feature_values
from plait.data.logs.frames import as_frame
from plait.schema import Feature, Keyed, Vector, shortened
from plait.wording import setting

ENCODER = b"encoder"  # the key of a Parquet file's metadata that names what made the vectors


@dataclass(frozen=True)
class KeyedVectors:
    """A vector of length 1 for each key, the keys ascending."""

    keys: tuple[str, ...]
    vector_KW: Float32[np.ndarray, "K W"]
    encoder: str = ""  # what made them, where the table says so

    def of(self, feature: Feature) -> Feature:
        """The feature as fitted: what it knows are the table's keys, whether an event has them or not."""
        digest = hashlib.sha256(msgspec.json.encode(self.keys) + self.vector_KW.tobytes()).hexdigest()
        kind = Keyed(self.keys, width=self.vector_KW.shape[1], digest=digest, encoder=self.encoder)
        return msgspec.structs.replace(feature, kind=kind)


def read_vectors(source: Any, what: str) -> KeyedVectors:
    """A table with a column of keys and one of lists of numbers, all of one length: a Parquet file, or a frame.

    Raises:
        ValueError: it has other columns, a key is missing or stands twice, or a vector is missing or not finite; the
            row is named.
    """
    frame, encoder = _read(source, what)
    lists = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.List | pl.Array)]
    if frame.width != 2 or len(lists) != 1:
        raise ValueError(
            f"{what} has the columns {', '.join(map(repr, frame.columns))}; expected a column of keys and one of lists "
            "of numbers"
        )
    (key,) = (name for name in frame.columns if name not in lists)
    key_K = frame[key].cast(pl.String)
    vectors = feature_values(Feature(lists[0], Vector()), frame, what)
    for broken, problem in ((key_K.is_null(), "has no key"), (vectors.is_null(), "has no vector, or NaN")):
        if broken.any():
            row = int(broken.arg_true()[0])
            raise ValueError(
                f"{what}: row {row + 1} (key {frame[key][row]!r}) {problem}, as {int(broken.sum())} of {frame.height} "
                "rows; correct them, or leave them out"
            )
    if key_K.is_duplicated().any():
        twice = key_K.filter(key_K.is_duplicated()).unique().sort().to_list()
        raise ValueError(
            f"{what}: a key must stand once in a table of vectors; more than once: {shortened(twice)}"
        )
    order_K = key_K.arg_sort().to_numpy()
    vector_KW = vectors.to_numpy()[order_K].astype(np.float32)
    return KeyedVectors(tuple(key_K.sort().to_list()), unit(vector_KW, what), encoder)


def _read(source: Any, what: str) -> tuple[pl.DataFrame, str]:
    if not isinstance(source, str | Path):
        return as_frame(source, what), ""
    try:
        named = pq.read_schema(source).metadata or {}
        return pl.read_parquet(source, glob=False), named.get(ENCODER, b"").decode()
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"{source} cannot be read: {error}; expected Parquet with a column of keys and one of lists of numbers"
        ) from error


def unit(vector_KW: Float32[np.ndarray, "K W"], what: str) -> Float32[np.ndarray, "K W"]:
    """The vectors, scaled to length 1 each.

    Raises:
        ValueError: a number is not finite, or all of a vector's are 0.
    """
    length_K1 = np.linalg.norm(vector_KW, axis=1, keepdims=True)
    broken_K = ~np.isfinite(length_K1[:, 0]) | (length_K1[:, 0] == 0)
    if broken_K.any():
        raise ValueError(
            f"{what}: the vector of row {broken_K.argmax() + 1} is not finite, or is 0 in all of its numbers"
        )
    return vector_KW / length_K1


def fitting(known: Feature, vectors: KeyedVectors, what: str) -> None:
    """Raises ValueError where vectors cannot stand beside those that a model was trained with: they are of another
    width, or encoder."""
    kind = known.kind
    assert isinstance(kind, Keyed), "only features with a table of vectors are compared with one"
    width = vectors.vector_KW.shape[1]
    if width != kind.width or (vectors.encoder and kind.encoder and vectors.encoder != kind.encoder):
        raise ValueError(
            f"{what}: vectors of {width} numbers of encoder {vectors.encoder or 'without a name'!r}, the model reads "
            f"{kind.width} of {kind.encoder or 'one without a name'!r}: a text under another encoder means something "
            "else. Encode the texts with the model's encoder, or prepare with this table and train again"
        )


def warn_of_unnamed_encoder(known: Feature, vectors: KeyedVectors, what: str) -> None:
    """Says that vectors of the right width may yet be another encoder's, where one side alone names its own."""
    kind = known.kind
    assert isinstance(kind, Keyed), "only features with a table of vectors are compared with one"
    if kind.encoder == vectors.encoder:
        return
    found = (
        f"the table names encoder {vectors.encoder!r}" if vectors.encoder else "the table names no encoder"
    )
    warnings.warn(
        f"{what}: {found}, and the model reads vectors of {kind.encoder or 'one without a name'!r}: nothing shows that "
        "they are of the same. A text under another encoder means something else. Give a Parquet file whose metadata "
        f"{ENCODER.decode()!r} names it, as the one that was prepared with",
        stacklevel=3,
    )


def with_more_keys(
    known: Feature, vectors: KeyedVectors, what: str
) -> tuple[Feature, Float32[np.ndarray, "K W"]]:
    """A model's feature with the keys that it lacks behind its own, and their vectors.

    Raises:
        ValueError: as `fitting`.
    """
    fitting(known, vectors, what)
    kind = known.kind
    assert isinstance(kind, Keyed), "it fits"
    there = set(kind.values)
    new_K = np.array([key not in there for key in vectors.keys], dtype=bool)
    more = tuple(key for key in vectors.keys if key not in there)
    vector_KW = vectors.vector_KW[new_K]
    digest = hashlib.sha256(
        kind.digest.encode() + msgspec.json.encode(more) + vector_KW.tobytes()
    ).hexdigest()
    kind = msgspec.structs.replace(kind, values=kind.values + more, digest=digest)
    return msgspec.structs.replace(known, kind=kind), vector_KW


def _key_of(vector: Sequence[float]) -> str:
    """A key that no text is likely to have."""
    return f"vector {hashlib.sha256(str(vector).encode()).hexdigest()}"


def told_vectors(
    frame: pl.DataFrame, features: Sequence[Feature]
) -> tuple[pl.DataFrame, dict[str, KeyedVectors]]:
    """Conditions in which vectors themselves were given in place of keys: with keys for them, and the vectors of those.

    Raises:
        ValueError: a vector is not finite, or of another width than the others.
    """
    told = {}
    for feature in features:
        column = frame[feature.name] if feature.name in frame.columns else None
        if (
            column is None
            or not isinstance(column.dtype, pl.List | pl.Array)
            or not isinstance(feature.kind, Keyed)
        ):
            continue
        what = f"condition {feature.name!r}"
        given = feature_values(Feature(feature.name, Vector()), frame, what)
        keys = [None if one is None else _key_of(one) for one in given.to_list()]
        if given.null_count() > column.null_count():
            raise ValueError(
                f"{what}: a vector is not finite in all of its numbers; leave the condition out instead"
            )
        vector_of = {key: one for key, one in zip(keys, given.to_list(), strict=True) if key is not None}
        vector_KW = unit(np.array(list(vector_of.values()), dtype=np.float32), what)
        told[feature.name] = KeyedVectors(tuple(vector_of), vector_KW)
        frame = frame.with_columns(pl.Series(feature.name, keys, dtype=pl.String))
    return frame, told


def declared_keyed(features: Sequence[Feature], given: Mapping[str, Any]) -> tuple[Feature, ...]:
    """Conditions with their vectors' tables: a vector is one that is looked up by the log's value, in a file or in a
    table that is given.

    Raises:
        ValueError: a table is given for no vector.
    """
    vectors = [feature.name for feature in features if isinstance(feature.kind, Vector)]
    for name in given:
        if name not in vectors:
            raise ValueError(
                f"{setting('condition_vectors')} has a table for {name!r}, and the conditions that are vectors are "
                f"{', '.join(vectors) or 'none'}: declare it as one, {name}:vector"
            )
    return tuple(
        msgspec.structs.replace(feature, kind=Keyed(file=feature.kind.file))
        if isinstance(feature.kind, Vector) and (feature.kind.file or feature.name in given)
        else feature
        for feature in features
    )


def vector_tables(features: Sequence[Feature], given: Mapping[str, Any]) -> dict[str, KeyedVectors]:
    """The tables that are given, or that features name, by the features' names."""
    tables = {}
    for feature in features:
        if isinstance(feature.kind, Keyed):
            source = given.get(feature.name, feature.kind.file)
            what = str(source) if isinstance(source, str | Path) else f"vectors of {feature.name!r}"
            tables[feature.name] = read_vectors(source, what)
    return tables


def with_tables(features: Sequence[Feature], tables: Mapping[str, KeyedVectors]) -> tuple[Feature, ...]:
    """The features, those with a table as fitted."""
    return tuple(tables[each.name].of(each) if each.name in tables else each for each in features)
