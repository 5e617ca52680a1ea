"""An id is its spelling: one id in the log, in feature tables, in histories and where it is asked for."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset, prepare
from plait.data.columns import ids
from plait.data.history import Columns, read_history
from plait.data.preparation import coding, ingestion
from plait.data.vocabulary import Vocabulary
from plait.schema import UNKNOWN_ITEM, Feature

COLUMNS = {"user": "user", "item": "item", "time": "time"}
ALL = COLUMNS | {"actions": {}, "min_user_events": 1, "min_item_events": 1}
KIND = (Feature.parse("kind:category"),)
SPELLINGS = (
    "7",
    "007",
    "+7",
    "-0",
    "0",
    "1E2",
    "100",
    "7.0",
    " 7",
    "1_0",
    "x",
    "9223372036854775808",
    "18446744073709551616",
)
BIG = 2**63 + 5


def log_of(items, users=("a", "b")) -> pl.DataFrame:
    """Every user meets every item twice."""
    rows = [(user, item) for user in users for item in [*items, *items]]
    frame = pl.DataFrame({"user": [u for u, _ in rows], "item": pl.Series([i for _, i in rows])})
    return frame.with_columns(time=10**9 + pl.int_range(pl.len(), dtype=pl.Int64))


def plainly_numbers(texts) -> bool:
    """The rule as one would say it."""
    return all(
        text.isascii() and text.isdigit() and str(int(text)) == text and int(text) < 2**64 for text in texts
    )


def check_text_files(folder, seeds=range(40)) -> None:
    """Of random spellings, in one file or two and a feature table: as many ids as spellings, spelt as they are, which
    are numbers only where all are; each is found as it is spelt, and nothing else is."""
    met = {"numbers": 0, "text": 0, "text by the table": 0, "text by the second file": 0}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        some = [str(n) for n in rng.integers(0, 300, 6)]
        odd = rng.choice(SPELLINGS, 2).tolist()
        first, second = (
            [*some, *(odd[:1] if seed % 4 == 1 else [])],
            [*some[:2], *(odd if seed % 4 == 2 else [])],
        )
        table = sorted({*some, *(odd if seed % 4 == 3 else [])})
        out = folder / str(seed)
        (out / "log").mkdir(parents=True)
        log_of(first).write_csv(out / "log" / "a.csv")
        log_of(second).write_csv(out / "log" / "b.csv")
        pl.DataFrame({"item": table, "kind": [f"of {text}" for text in table]}).write_csv(out / "items.csv")
        data = prepare(out / "log", items=out / "items.csv", item_features=KIND, out=out / "data", **ALL)
        expected = {*first, *second}
        are_numbers = plainly_numbers([*expected, *table])
        assert data.item_ids().dtype.is_integer() == are_numbers
        assert {str(id) for id in data.item_ids()} == expected and data.num_items == len(expected)
        asked = [*SPELLINGS, *expected]
        found = data.item_index(asked)
        assert [id if at else None for id, at in zip(asked, found, strict=True)] == [
            id if id in expected else None for id in asked
        ]
        described = data.item_features.code_NK[1:, 0] > 0
        assert described.tolist() == [str(id) in table for id in data.item_ids()]
        met["numbers"] += are_numbers
        met["text"] += not plainly_numbers(first)
        met["text by the second file"] += plainly_numbers(first) and not plainly_numbers(second)
        met["text by the table"] += plainly_numbers(expected) and not plainly_numbers(table)
    assert_not_vacuous(met, above=2)


def test_ids_of_text_files_are_their_spelling(tmp_path):
    check_text_files(tmp_path)


@pytest.mark.parametrize("mutant", ["leading zeros", "the table is not asked"])
def test_ids_that_are_not_their_spelling_are_caught(tmp_path, monkeypatch, mutant):
    if mutant == "leading zeros":
        monkeypatch.setattr(ids, "spelt_number", lambda text, dtype: text.cast(dtype, strict=False))
    else:
        first = ingestion._read_all
        monkeypatch.setattr(
            ingestion, "_read_all", lambda tables, settings, held: first(tables, settings, {})
        )
    assert_caught(check_text_files, tmp_path)


def test_a_late_spelling_makes_all_ids_text(tmp_path):
    frame = log_of([str(n) for n in range(1, 900)])
    late = pl.concat(
        [frame, frame.tail(2).with_columns(item=pl.lit("007"), time=pl.lit(2 * 10**9, pl.Int64))]
    )
    frame.write_csv(tmp_path / "numbers.csv")
    late.with_columns(time=10**9 + pl.int_range(pl.len(), dtype=pl.Int64)).write_csv(tmp_path / "late.csv")
    assert len(frame) > ingestion.FIRST_ROWS
    numbers, text = (prepare(tmp_path / f"{n}.csv", out=tmp_path / n, **ALL) for n in ("numbers", "late"))
    assert numbers.item_ids().dtype == pl.Int64 and text.item_ids().dtype == pl.String
    assert text.num_items == 900
    assert text.item_ids().gather(text.item_index(["007", "7", 7]) - 1).to_list() == ["007", "7", "7"]


TYPED = {
    "Int64": pl.Series([3, 7, 100]),
    "UInt8": pl.Series([3, 7, 100], dtype=pl.UInt8),
    "floats": pl.Series([3.0, 7.0, 100.0]),
    "UInt64": pl.Series([3, 7, BIG], dtype=pl.UInt64),
    "String": pl.Series(["3", "7", "100"]),
    "Categorical": pl.Series(["3", "7", "100"], dtype=pl.Categorical),
    "Enum": pl.Series(["3", "7", "100"], dtype=pl.Enum(["3", "7", "100"])),
}
COUNTERPARTS = ("Int64", "UInt8", "floats", "UInt64", "String", "Categorical", "pandas", "csv")


def written(values: pl.Series, as_: str, name: str, folder):
    """A feature table with these ids, in another form; None where that form cannot hold them."""
    frame = pl.DataFrame(
        {"item": values.cast(pl.Int128 if values.dtype.is_numeric() else pl.String).cast(pl.String)}
    )
    frame = frame.with_columns(kind=pl.lit(name))
    if as_ == "csv":
        frame.write_csv(folder / "items.csv")
        return folder / "items.csv"
    if as_ in ("String", "Categorical"):
        return frame.with_columns(pl.col("item").cast(getattr(pl, as_)))
    whole = frame.with_columns(pl.col("item").cast(pl.UInt64))
    if as_ == "pandas":
        return whole.to_pandas()
    dtype = {"floats": pl.Float64}.get(as_) or getattr(pl, as_)
    try:
        typed = whole.with_columns(pl.col("item").cast(dtype))
    except pl.exceptions.InvalidOperationError:
        return None
    return None if as_ == "floats" and BIG in whole["item"] else typed


@pytest.mark.parametrize("of_log", TYPED)
@pytest.mark.parametrize("of_table", COUNTERPARTS)
def test_log_table_history_and_question_mean_one_id(tmp_path, of_log, of_table):
    values = TYPED[of_log]
    table = written(values, of_table, "some", tmp_path)
    if table is None:
        return  # this type cannot hold these ids
    users = pl.Series(values.to_list(), dtype=values.dtype)
    frame = pl.DataFrame({"user": users.gather([0] * 6 + [1] * 6 + [2] * 6), "item": pl.concat([values] * 6)})
    frame = frame.with_columns(time=10**9 + pl.int_range(18))
    data = prepare(frame, items=table, item_features=KIND, out=tmp_path / "out", **ALL)
    assert data.manifest.counts.items_without_features == 0 and data.num_items == 3
    is_text = pl.String in (data.item_ids().dtype,)
    assert is_text == (
        "String" in (of_log, of_table) or "Categorical" in (of_log, of_table) or of_log == "Enum"
    )
    spelt = values.cast(pl.Int128 if values.dtype.is_numeric() else pl.String).cast(pl.String).to_list()
    expected = [data.item_ids().cast(pl.String).to_list().index(text) + 1 for text in spelt]
    for asked in (values, spelt, [int(text) for text in spelt]):
        assert data.item_index(asked).tolist() == expected
    assert data.item_index(["007", "+7", "7.0", 7.5, True, None]).tolist() == [UNKNOWN_ITEM] * 6
    columns = Columns(
        **COLUMNS, time_unit="s", user_ids="numbers" if data.user_ids().dtype.is_integer() else "text"
    )
    for given in (
        frame,
        frame.with_columns(pl.col("user", "item").cast(pl.String)) if "float" not in of_log else frame,
    ):
        read = read_history(given, columns, (), data.items)
        np.testing.assert_array_equal(read.events.item_E[:6], np.tile(expected, 2))
        assert read.user_ids == tuple(data.user_ids())
    assert [data.user_index(text) for text in data.user_ids().cast(pl.String)] == [0, 1, 2]


@pytest.mark.parametrize(
    "known", [pl.Series([3, 7]), pl.Series([3, 7], dtype=pl.UInt64), pl.Series(["3", "7"])]
)
def test_numbers_and_texts_find_the_id_that_is_spelt_so(known):
    for asked, found in (
        (pl.Series([7, 8]), [2, 0]),
        (pl.Series(["7", "07", "7.0", " 7", "+7", "7e0", "NA"]), [2, 0, 0, 0, 0, 0, 0]),
        (pl.Series([7.0, 7.5, float("nan"), float("inf"), 2.0**53]), [2, 0, 0, 0, 0]),
        (pl.Series([7, 3], dtype=pl.Float32), [2, 1]),
        (pl.Series([-7, -3]), [0, 0]),
        (pl.Series([True, False]), [0, 0]),
        (pl.Series([None, None]), [0, 0]),
        (pl.Series([[7]]), [0]),
    ):
        assert Vocabulary.of_items(known).index_of(asked).tolist() == found


@pytest.mark.parametrize("role", ["user", "item"])
@pytest.mark.parametrize("word", ["NA", "null", "NULL", "None", "NaN", r"\N", "\\n", ""])
@pytest.mark.parametrize("form", ["csv", "frame"])
def test_words_for_nobody_are_missing(tmp_path, role, word, form):
    for numbers in (True, False):
        frame = log_of(["3", "4", "5"] if numbers else ["c", "d", "e"], ["1", "2"] if numbers else ["a", "b"])
        bad = frame.with_columns(
            pl.when(pl.int_range(12) == 4).then(pl.lit(word)).otherwise(role).alias(role)
        )
        bad.write_csv(tmp_path / "log.csv", quote_style="always" if word == "" else "necessary")
        source = tmp_path / "log.csv" if form == "csv" else bad
        with pytest.raises(
            ValueError, match=f"(?s){role} is missing: 1 rows, e.g. row 5 of .*go on with the other 11"
        ):
            prepare(source, out=tmp_path / f"stopped {numbers}", **ALL)
        data = prepare(source, out=tmp_path / f"out {numbers}", on_bad_row="reject", **ALL)
        assert data.manifest.counts.rejected == {f"{role} is missing": 1}
        assert data.item_ids().dtype == (pl.Int64 if numbers and form == "csv" else pl.String)
        columns = Columns(**COLUMNS, time_unit="s")
        with pytest.raises(ValueError, match=f"{role} is missing, in the event"):
            read_history(bad, columns, (), data.items)


def test_a_word_for_nobody_in_a_feature_table_is_named(tmp_path):
    items = pl.DataFrame({"item": ["1", "null", "2", "NULL"], "kind": list("abcd")})
    with pytest.raises(ValueError, match=r"item is missing in row 2 \('null'\), and in 2 of 4 rows"):
        prepare(log_of(["1", "2"]), items=items, item_features=KIND, out=tmp_path / "out", **ALL)


def test_rejecting_is_not_advised_where_it_would_drop_most_of_the_log(tmp_path):
    frame = log_of(["a", "b"], [1])
    for nobody, advised in ((2, True), (3, False), (4, False)):
        users = pl.Series("user", ["NA"] * nobody + ["x"] * (4 - nobody))
        with pytest.raises(ValueError, match=f"user is missing: {nobody} rows") as caught:
            prepare(frame.with_columns(users), out=tmp_path / "out", **ALL)
        assert ("on_bad_row" in str(caught.value)) == advised
        left = "none is left" if nobody == 4 else "only 1 of 4 are left"
        assert (left in str(caught.value)) != advised


NEGATIVE = {
    "-1 alone": ([-1, 2, 3], False),
    "nine of ten": ([*range(-9, 0), 5], False),
    "ten, and a tenth": ([*range(-10, 0), *range(1, 90)], True),
    "ten, and less than a tenth": ([*range(-10, 0), *range(1, 92)], False),
    "one below -2^31": ([-(2**31) - 1, 77], True),
    "one from -2^31": ([-(2**31), 77], False),
}


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("case", NEGATIVE)
def test_negative_ids_are_kept_where_they_look_like_hashes(tmp_path, case, as_text):
    values, kept = NEGATIVE[case]
    frame = log_of([*map(str, values), "x"] if as_text else values)
    frame.write_csv(tmp_path / "log.csv")
    for source in (frame, tmp_path / "log.csv"):
        if kept:
            data = prepare(source, out=tmp_path / "out", overwrite=True, **ALL)
            assert {str(id) for id in data.item_ids()} == {*map(str, values), *(["x"] if as_text else [])}
            assert data.item_index(values[:1]).tolist() != [UNKNOWN_ITEM]
        else:
            with pytest.raises(
                ValueError, match=r"item is negative; let negative ids be kept \(negative_ids\)"
            ):
                prepare(source, out=tmp_path / "refused", **ALL)
        data = prepare(source, out=tmp_path / "out", negative_ids="keep", overwrite=True, **ALL)
        assert data.num_items == len(values) + as_text
        with pytest.raises(ValueError, match=r"item is negative"):
            prepare(source, out=tmp_path / "refused", negative_ids="refuse", **ALL)


def test_hashes_of_64_bits_are_ids_like_others(tmp_path):
    """Signed users and unsigned items; of both in one column, text."""
    rows = [(-4611686018427387904, BIG), (-4611686018427387904, 12), (77, BIG), (77, 12)] * 2
    frame = pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.UInt64}, orient="row")
    frame = frame.with_columns(time=10**9 + pl.int_range(8))
    frame.write_csv(tmp_path / "log.csv")
    hashes = set()
    for number, source in enumerate((frame, tmp_path / "log.csv", frame.to_arrow())):
        data = prepare(source, out=tmp_path / str(number), **ALL)
        assert data.user_ids().to_list() == [-4611686018427387904, 77] and data.item_ids().to_list() == [
            12,
            BIG,
        ]
        assert data.item_index([BIG, str(BIG), 12]).tolist() == [2, 2, 1]
        hashes.add(data.manifest.content_hash)
    assert len(hashes) == 1
    log_of(["-5000000000", str(BIG), "7"]).write_csv(tmp_path / "both.csv")
    data = prepare(tmp_path / "both.csv", out=tmp_path / "both", **ALL)
    assert data.item_ids().to_list() == ["-5000000000", "7", str(BIG)]
    assert Dataset.open(data.folder).item_index([-5000000000, BIG, 7]).tolist() == [1, 3, 2]


@pytest.mark.parametrize("values", [[2**64, 5], [-(2**63) - 1, 5]])
def test_whole_numbers_beyond_64_bits_are_text(tmp_path, values):
    frame = log_of([5, 6]).with_columns(item=pl.Series(values * 4, dtype=pl.Int128))
    items = pl.DataFrame({"item": pl.Series(values, dtype=pl.Int128), "kind": ["a", "b"]})
    for source, described in ((frame, items), (log_of(["5", "5"]), items)):
        data = prepare(
            source, items=described, item_features=KIND, out=tmp_path / "out", overwrite=True, **ALL
        )
        assert data.item_ids().dtype == pl.String and data.manifest.counts.items_without_features == 0


@pytest.mark.parametrize("given", [[True, False], [[1], [2]], [1.5, 2.5]])
def test_ids_that_none_can_be_are_refused_in_feature_tables(tmp_path, given):
    items = pl.DataFrame({"item": given, "kind": ["a", "b"]})
    with pytest.raises(
        ValueError, match=r"holds .*expected whole numbers or text|item is not a whole number in row 1"
    ):
        prepare(log_of([1, 2]), items=items, item_features=KIND, out=tmp_path / "out", **ALL)


def test_numbers_that_lie_close_above_2_63_keep_apart():
    values = pl.Series([BIG + 3, BIG, BIG + 3, BIG + 1], dtype=pl.UInt64)
    code, value = coding.dense_codes(pl.concat([values[:1], values[1:]]))
    assert code.tolist() == [2, 0, 2, 1] and value.to_list() == [BIG, BIG + 1, BIG + 3]


@pytest.mark.parametrize(("dtype", "bits"), [("float64", 53), ("float32", 24)])
def test_floats_that_merge_ids_are_refused(tmp_path, dtype, bits):
    frame = log_of([5, 6]).to_pandas()
    largest = 2**bits - 1
    exact = frame.assign(item=np.where(frame["item"] == 5, largest, 6).astype(dtype))
    data = prepare(exact, out=tmp_path / "out", **ALL)
    assert data.item_ids().to_list() == [6, largest] and data.item_ids().dtype == pl.Int64
    merged = frame.assign(item=np.where(frame["item"] == 5, largest + 1, 6).astype(dtype))
    with pytest.raises(
        ValueError, match=rf"item is a float from 2\^{bits} on, where floats merge whole numbers"
    ):
        prepare(merged, out=tmp_path / "merged", **ALL)
    with pytest.raises(ValueError, match=rf"item is a float from 2\^{bits} on.*in row 1"):
        items = pd.DataFrame({"item": np.array([largest + 1, 6], dtype), "kind": ["a", "b"]})
        prepare(frame, items=items, item_features=KIND, out=tmp_path / "merged", **ALL)
    columns = Columns(**COLUMNS, time_unit="s", user_ids="text")
    read = read_history(pl.from_pandas(exact), columns, (), data.items)
    assert (read.events.item_E != UNKNOWN_ITEM).all()
    with pytest.raises(ValueError, match=rf"item is a float from 2\^{bits} on"):
        read_history(pl.from_pandas(merged), columns, (), data.items)


def test_users_are_called_as_in_the_log(tmp_path):
    event = {"item": ["1", "1"], "time": [1, 2]}
    known = Vocabulary.of_items(pl.Series([1]))
    for kind, given, called in (
        ("numbers", ["7", "8"], (7, 8)),
        ("numbers", [7.0, 8.0], (7, 8)),
        ("numbers", ["007", "7"], ("007", "7")),
        ("text", [7, 8], ("7", "8")),
        ("text", ["007", "7"], ("007", "7")),
        ("as given", ["7", "8"], ("7", "8")),
    ):
        columns = Columns(**COLUMNS, time_unit="s", user_ids=kind)
        assert read_history(event | {"user": given}, columns, (), known).user_ids == called


def test_columns_of_mixed_types_are_named(tmp_path):
    frame = pd.DataFrame({"user": [1, 2], "item": [1, "a"], "time": [1, 2]})
    message = r"column 'item' holds values of different types \(int, str\); make them one"
    with pytest.raises(ValueError, match=f"the data frame: {message}"):
        prepare(frame, out=tmp_path / "out", **ALL)
    for history in (frame, frame.to_dict("list")):
        with pytest.raises(ValueError, match=f"the history: {message}"):
            read_history(history, Columns(**COLUMNS, time_unit="s"), (), Vocabulary.of_items(pl.Series([1])))
