import inspect
import json
import math

import numpy as np
import polars as pl
import pytest
from plain_preparing import plain_prepare, random_rows

from plait.data import Dataset, LeaveOneOut, Temporal, prepare
from plait.data.columns.rules import MEANT
from plait.data.preparation import coding, sequences
from plait.schema import Action, Amount, Binary, Categorical, Regression

COLUMNS = {"user": "user", "item": "item", "time": "time"}
ALL = COLUMNS | {"min_user_events": 1, "min_item_events": 1}
RATING = {"rating": Regression(1, 5)}


def arrays_of(data):
    names = ("start", "item", "time_s", "request", "action", "validation", "test")
    return {name: np.load(data.folder / f"{name}.npy") for name in names}


def log(**columns):
    """Two users and three items, four events each, one every ten seconds; with columns replaced."""
    frame = pl.DataFrame(
        {
            "user": [7, 7, 7, 7, 9, 9, 9, 9],
            "item": [3, 1, 2, 3, 1, 1, 2, 3],
            "time": [1_000_000_000 + 10 * row for row in range(8)],
            "rating": [1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 3.0],
        }
    )
    return frame.with_columns(pl.Series(name, values, strict=False) for name, values in columns.items())


SETTINGS = [
    {},
    {"order": "place"},
    {"request": "exposure"},
    {"deduplicate": True},
    {"min_user": 5, "min_item": 4},
    {"order": "place", "request": "exposure", "deduplicate": True, "min_user": 3, "min_item": 4},
]


def differences(folder, seeds=range(6)):
    """Over random logs and all settings: where the fast preparation differs from the plain one, and what
    the logs held, so that agreement means something."""
    differing, met = [], {"duplicates": 0, "single_event_rows": 0, "core_rows": 0, "tied": 0, "prepared": 0}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        rows = random_rows(rng, num_rows=97, text_ids=seed % 2 == 1)
        rows.append(rows[0] | {"user": "u_alone" if seed % 2 else 31})
        for number, settings in enumerate(SETTINGS):
            by_user, removed = plain_prepare([dict(row) for row in rows], **settings)
            assert by_user, "a log without events proves nothing"
            renamed = {f"{k}_events" if k.startswith("min_") else k: v for k, v in settings.items()}
            out = folder / f"{seed}-{number}"
            data = prepare(pl.DataFrame(rows), actions=RATING, out=out, overwrite=True, **(ALL | renamed))
            arrays = arrays_of(data)
            events = [row for user in by_user.values() for row in user]
            ratings = [math.nan if row["rating"] is None else row["rating"] for row in events]
            counts = data.manifest.counts
            same = (
                data.user_ids().to_list() == list(by_user)
                and np.diff(arrays["start"]).tolist() == [len(user) for user in by_user.values()]
                and data.item_ids().to_list() == sorted({row["item"] for row in events})
                and [data.item_ids()[int(i) - 1] for i in arrays["item"]] == [row["item"] for row in events]
                and arrays["time_s"].tolist() == [row["time"] for row in events]
                and arrays["request"].tolist() == [row["request_number"] for row in events]
                and np.array_equal(arrays["action"][:, 0], np.float32(ratings), equal_nan=True)
                and {key: getattr(counts, key) for key in removed} == dict(removed)
            )
            if not same:
                differing.append((seed, settings))
            met["prepared"] += 1
            met["tied"] += data.manifest.tied_share > 0.2
            for key in removed:
                met[key] += removed[key]
    return differing, met


def test_equals_the_plain_preparation(tmp_path):
    differing, met = differences(tmp_path)
    assert not differing
    assert met["prepared"] == 36 and met["tied"] > 20 and met["duplicates"] > 50
    assert met["single_event_rows"] >= 36 and met["core_rows"] > 50


def test_that_comparison_notices_unstable_ties(tmp_path, monkeypatch):
    monkeypatch.setattr(coding, "stable_argsort", lambda key: np.lexsort((-np.arange(len(key)), key)))
    assert differences(tmp_path, seeds=[0])[0]


def test_that_comparison_notices_a_core_of_one_pass(tmp_path, monkeypatch):
    def one_pass(user, item, min_user, min_item):
        keep = (np.bincount(user) >= min_user)[user] & (np.bincount(item) >= min_item)[item]
        rows = [np.bincount(code[keep], minlength=code.max() + 1) for code in (user, item)]
        return sequences.Core(keep, *rows, 0, 0)

    monkeypatch.setattr(sequences, "k_core", one_pass)
    assert differences(tmp_path)[0]


@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_counted_once(tmp_path, seed):
    rows = pl.DataFrame(random_rows(np.random.default_rng(seed), 97, text_ids=True))
    rows = rows.with_columns(
        pl.when(pl.int_range(97) % 9 == 4).then(77.0).otherwise("rating").alias("rating")
    )
    options = COLUMNS | {"min_user_events": 5, "min_item_events": 4, "deduplicate": True}
    counts = prepare(
        rows, actions=RATING, out=tmp_path / "out", on_bad_row="reject", **options
    ).manifest.counts
    removed = counts.duplicates_removed + counts.single_event_rows + counts.core_rows
    assert counts.rows_read == counts.events + removed + sum(counts.rejected.values()) == 97
    assert counts.events and counts.core_rows and counts.duplicates_removed and counts.rejected


@pytest.mark.parametrize("text_ids", [False, True])
def test_every_form_of_a_log_gives_the_same_dataset(tmp_path, text_ids):
    frame = pl.DataFrame(random_rows(np.random.default_rng(3), 101, text_ids))
    frame.write_csv(tmp_path / "log.csv")
    frame.write_csv(tmp_path / "log.tsv", separator="\t")
    frame.write_parquet(tmp_path / "log.parquet", row_group_size=7)
    frame.write_ipc(tmp_path / "log.arrow")
    (tmp_path / "parts").mkdir()
    frame[:40].write_csv(tmp_path / "parts" / "a.csv")
    frame[40:].write_parquet(tmp_path / "parts" / "b.parquet")
    chunked = pl.concat([frame[:13], frame[13:]], rechunk=False)
    files = [tmp_path / name for name in ("log.csv", "log.tsv", "log.parquet", "log.arrow", "parts")]
    sources = [*files, frame, chunked, frame.lazy(), frame.to_arrow(), frame.to_pandas()]
    hashes = [
        prepare(source, actions=RATING, out=tmp_path / f"out{number}", **ALL).manifest.content_hash
        for number, source in enumerate(sources)
    ]
    assert len(hashes) == 10 and len(set(hashes)) == 1
    other = prepare(frame[:-1], actions=RATING, out=tmp_path / "other", **ALL)
    assert other.manifest.content_hash != hashes[0]


@pytest.mark.parametrize("spread", [1, 5_000_000_000])  # ids through a table, and ids through a hash join
def test_codes_are_ranks(spread):
    values = np.random.default_rng(0).integers(0, 1000, 3_000) * spread
    code, value = coding.dense_codes(pl.concat([pl.Series(values[:11]), pl.Series(values[11:])]))
    expected_value, expected_code = np.unique(values, return_inverse=True)
    assert (value.to_numpy() == expected_value).all() and (code == expected_code).all()


@pytest.mark.parametrize("top", [3, 2**40, 2**62])  # keys are dense; row numbers fit beside them, and do not
@pytest.mark.parametrize("least_counted", [0, 1 << 20])
def test_stable_argsort(top, least_counted, monkeypatch):
    monkeypatch.setattr(coding, "LEAST_COUNTED", least_counted)
    key = np.random.default_rng(0).integers(0, 3, 1_001) * (top // 3)
    assert (coding.stable_argsort(key) == np.argsort(key, kind="stable")).all()


SECONDS = [1_500_000_000 + 86_400 * row for row in range(8)]
DATETIMES = pl.from_epoch(pl.Series(SECONDS))


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (SECONDS, "s"),
        ([float(second) for second in SECONDS], "s"),
        ([second * 1000 for second in SECONDS], "ms"),
        ([second * 1e3 for second in SECONDS], "ms"),
        (DATETIMES, "s"),
        (DATETIMES.cast(pl.Datetime("ns")), "s"),
        (DATETIMES.dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"), "s"),
        (DATETIMES.dt.strftime("%Y-%m-%d %H:%M:%S"), "s"),
        (DATETIMES.dt.strftime("%Y-%m-%dT%H:%M:%S.000Z"), "ms"),
        ([str(second) for second in SECONDS], "s"),
    ],
)
def test_times_of_every_kind_become_seconds(tmp_path, times, unit):
    data = prepare(log(time=times), actions=RATING, out=tmp_path / "out", time_unit=unit, **ALL)
    assert arrays_of(data)["time_s"].tolist() == SECONDS


def test_dates_become_their_midnights(tmp_path):
    data = prepare(log(time=DATETIMES.cast(pl.Date)), actions=RATING, out=tmp_path / "out", **ALL)
    assert arrays_of(data)["time_s"].tolist() == [second // 86_400 * 86_400 for second in SECONDS]


def test_milliseconds_order_events_of_one_second(tmp_path):
    times = [1_500_000_000_000 + offset for offset in (3, 2, 1, 0, 1003, 1002, 1001, 1000)]
    data = prepare(log(time=times), actions=RATING, out=tmp_path / "out", time_unit="ms", **ALL)
    arrays = arrays_of(data)
    assert arrays["action"][:, 0].tolist() == [4, 3, 2, 1, 3, 2, 1, 5]
    assert arrays["request"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and data.manifest.tied_share == 0


def test_actions_of_every_kind(tmp_path):
    frame = log(
        clicked=[True, False, None, True, False, True, False, True],
        device=["tv", "phone", None, "", "tv", "phone", "phone", "tv"],
        seconds=[0.0, 1.5, None, math.nan, 2.0, 3.0, 4.0, 5.0],
    )
    actions = [
        Action("clicked", Binary()),
        Action("device", Categorical(("phone", "tv"))),
        Action("seconds", Amount()),
    ]
    nan = math.nan
    expected = [[1, 1, 0], [0, 0, 1.5], [nan] * 3, [1, nan, nan], [0, 1, 2], [1, 0, 3], [0, 0, 4], [1, 1, 5]]
    for number, source in enumerate((frame, frame.with_columns(pl.col("device").cast(pl.Categorical)))):
        data = prepare(source, actions=actions, out=tmp_path / str(number), **ALL)
        np.testing.assert_array_equal(arrays_of(data)["action"], np.float32(expected))


def test_bounds_hold_before_rounding_to_32_bits(tmp_path):
    frame = log(share=[0.3, 0.1, 0.3, 0.1, 0.2, 0.3, 0.1, 0.2])
    data = prepare(frame, actions={"share": Regression(0.1, 0.3)}, out=tmp_path / "out", **ALL)
    assert data.manifest.counts.events == 8 and float(np.float32(0.3)) > 0.3


def test_true_and_false_survive_a_bad_row_in_a_csv_file(tmp_path):
    """One late word makes polars give up on the column's type; the other rows must not suffer for it."""
    rows = [f"{row % 7},{row % 5},{10**9 + row},{'true' if row % 3 else 'False'}" for row in range(3_000)]
    text = "\n".join(["user,item,time,clicked", *rows, "1,2,1000000000,maybe"])
    (tmp_path / "log.csv").write_text(text)
    options = ALL | {"actions": {"clicked": Binary()}, "on_bad_row": "reject"}
    data = prepare(tmp_path / "log.csv", out=tmp_path / "out", **options)
    assert data.manifest.counts.rejected == {"clicked is not a number": 1}
    assert arrays_of(data)["action"].mean() == pytest.approx(2 / 3, abs=0.01)


def test_a_log_may_have_no_actions(tmp_path):
    data = prepare(log(), actions={}, out=tmp_path / "out", **ALL)
    assert data.train_batch(data.train_users(), 5, 0).action_EA.shape == (4, 0)


def test_amounts_are_fitted_on_training_rows_only(tmp_path):
    frame = log(seconds=[3.0, 7.0, 1e6, 1e6, 5.0, 6.0, 1e6, 1e6])  # the last two of each user are held out
    data = prepare(frame, actions={"seconds": Amount()}, out=tmp_path / "out", **ALL)
    assert data.actions[0].kind.log1p_scale == pytest.approx(math.log1p(7))
    assert data.manifest.settings.actions[0].kind.log1p_scale == 1


def test_an_amount_never_seen_keeps_its_scale(tmp_path):
    data = prepare(log(seconds=[None] * 8), actions={"seconds": Amount()}, out=tmp_path / "out", **ALL)
    assert data.actions[0].kind.log1p_scale == 1


def test_a_torn_request_is_counted(tmp_path):
    frame = log(exposure=[5, 5, 6, 5, 1, 2, 2, 2])
    data = prepare(frame, actions=RATING, out=tmp_path / "out", request="exposure", **ALL)
    assert arrays_of(data)["request"].tolist() == [0, 0, 1, 2, 0, 1, 1, 1]
    assert data.manifest.counts.split_requests == 1


MERGED = "a float from 2^{} on, where floats merge whole numbers: give the column as integers or text"
BAD = {
    "user is missing": ("user", [7, None, 7, 7, 9, 9, 9, 9], "None"),
    f"user is negative; {MEANT}": ("user", [7, -7, 7, 7, 9, 9, 9, 9], "-7"),
    f"item is negative; {MEANT}": ("item", ["3", "-1", "b", "3", "-", "b", "3", "1"], "'-1'"),
    f"item is {MERGED.format(53)}": ("item", [3.0, 2.0**53, 2, 3, 1, 1, 2, 3], "9007199254740992.0"),
    f"user is {MERGED.format(24)}": ("user", np.float32([7, 2**24, 7, 7, 9, 9, 9, 9]), "16777216.0"),
    "item is not a whole number": ("item", [3, 1.5, 2, 3, 1, 1, 2, 3], "1.5"),
    "item is missing": ("item", ["a", "", "b", "a", "a", "b", "b", "a"], "''"),
    "time is missing": ("time", [1e9, math.nan, *([1e9] * 6)], "nan"),
    "time is in the future, read as s": ("time", [10**9, 10**18, *([10**9] * 6)], str(10**18)),
    "time is before 1970": ("time", [10**9, -5, *([10**9] * 6)], "-5"),
    "time is not a time": ("time", ["2020-01-02", "soon", *(["2020-01-03"] * 6)], "'soon'"),
    "rating is outside 1 to 5": ("rating", [1, 9, 2, 3, 4, 5, 1, 2], "9"),
    "rating is not a number": ("rating", ["1", "good", *("123451")], "'good'"),
    "rating is not finite": ("rating", [1, math.inf, *([2.0] * 6)], "inf"),
    "clicked is neither 0 nor 1": ("clicked", [0, 2, *([1] * 6)], "2"),
    "seconds is negative": ("seconds", [0.0, -0.5, *([1.0] * 6)], "-0.5"),
    "device is none of phone, tv": ("device", ["tv", "watch", *(["phone"] * 6)], "'watch'"),
}
KINDS = {"clicked": Binary(), "seconds": Amount(), "device": Categorical(("phone", "tv"))}


@pytest.mark.parametrize("rule", BAD)
def test_a_bad_row_stops_or_is_set_aside(tmp_path, rule):
    column, values, shown = BAD[rule]
    frame, actions = log(**{column: values}), RATING | {c: k for c, k in KINDS.items() if c == column}
    with pytest.raises(ValueError, match="1 of 8 rows break a rule") as caught:
        prepare(frame, actions=actions, out=tmp_path / "out", **ALL)
    assert f"{rule}: 1 rows, e.g. row 2 of the data frame ({shown})" in str(caught.value)
    assert "on_bad_row = 'reject'" in str(caught.value) and not (tmp_path / "out").exists()
    data = prepare(frame, actions=actions, out=tmp_path / "out", on_bad_row="reject", **ALL)
    rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
    assert data.manifest.counts.rejected == {rule: 1} and data.manifest.counts.events == 7
    assert rejects.select("reject_row", "reject_file", "reject_rule").row(0) == (2, "the data frame", rule)
    np.testing.assert_equal(rejects.drop("reject_row", "reject_file", "reject_rule").row(0), frame.row(1))


def test_bad_rows_of_many_files_are_named_by_file(tmp_path):
    log(rating=[1, 1, 1, 1, 1, 1, 1, 8]).write_csv(tmp_path / "a.csv")
    log(rating=[1, 7, 1, 1, 1, 1, 1, 1]).write_csv(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=r"2 rows, e.g. row 8 of .*a\.csv \(8\), row 2 of .*b\.csv \(7\)"):
        prepare(tmp_path, actions=RATING, out=tmp_path / "out", **ALL)


def test_a_late_word_in_a_number_column_of_a_csv_file_is_a_named_row(tmp_path):
    rows = 3_000  # more than polars looks at to guess a column's type
    log_rows = ["user,item,time,rating", *(f"{row % 7},{row % 5},{10**9 + row},3" for row in range(rows))]
    log_rows[2_501] = f"{4},{2},{10**9},n/a"
    (tmp_path / "log.csv").write_text("\n".join(log_rows))
    with pytest.raises(
        ValueError, match=r"rating is not a number: 1 rows, e.g. row 2501 of .*log.csv \('n/a'\)"
    ):
        prepare(tmp_path / "log.csv", actions=RATING, out=tmp_path / "out", **ALL)
    data = prepare(tmp_path / "log.csv", actions=RATING, out=tmp_path / "out", on_bad_row="reject", **ALL)
    assert data.manifest.counts.events == rows - 1 and data.user_ids().dtype == pl.Int64
    log_rows[2_501] = f"four,{2},{10**9},3"  # a late word in an id column makes all its ids text
    (tmp_path / "log.csv").write_text("\n".join(log_rows))
    data = prepare(tmp_path / "log.csv", actions=RATING, out=tmp_path / "text", **ALL)
    assert data.manifest.counts.single_event_rows == 1 and data.user_ids().dtype == pl.String


def test_wrong_time_unit_is_suggested(tmp_path):
    with pytest.raises(ValueError, match="if these are milliseconds, pass time_unit = 'ms'"):
        prepare(log(time=[second * 1000 for second in SECONDS]), actions=RATING, out=tmp_path / "out", **ALL)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "log.csv is empty"),
        ("log.csv", b"user,item,time,rating\n", "log.csv holds no rows"),
        (
            "log.csv",
            b"user,item,time,rating\n1,2\n3,4,5,6,7,8\n",
            r"log.csv, line 2: 2 fields, expected 4 \(user, item, time, rating\)",
        ),
        (
            "log.csv",
            b"user,items,time,rating\n1,2,3,4\n",
            r"no column 'item', did you mean 'items'\? It has: user, ",
        ),
        ("log.csv", b"a,item,time,rating\n1,2,3,4\n", r"no column 'user'\. It has: a, item, time, rating$"),
        ("log.parquet", b"PAR1 half of a file", "log.parquet cannot be read: .*cut off"),
        ("log.arrow", b"ARROW1 half of a file", "log.arrow cannot be read: "),
        ("log.xml", b"<log/>", "log.xml: none of the separators .* is in its first line"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / name, actions=RATING, out=tmp_path / "out", **ALL)


def test_a_truncated_parquet_file_is_named(tmp_path):
    log().write_parquet(tmp_path / "log.parquet")
    content = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"log.parquet cannot be read: .*fetch it again"):
        prepare(tmp_path / "log.parquet", actions=RATING, out=tmp_path / "out", **ALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": [[1]] * 8}, "'user' holds List.*expected whole numbers or text"),
        ({"time": [True] * 8}, "'time' holds Boolean; expected numbers of seconds"),
        ({"rating": [[1.0]] * 8}, "'rating' holds List.*expected numbers"),
        ({"rating": [9.0] * 8}, "8 of 8 rows break"),
    ],
)
def test_columns_of_the_wrong_type_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(log(**changes), actions=RATING, out=tmp_path / "out", **ALL)


OF_NO_TYPE = [
    ("actions", {"rating": "regression:1:5"}, ".*kind='regression:1:5'.*such as .*plait.Regression"),
    ("actions", {"rating": Regression}, "found Action.*expected kinds by name"),
    ("actions", ["rating"], "found 'rating', expected .*plait.Action"),
    ("actions", "rating", "found 'rating'"),
    ("actions", 5, "found 5"),
    ("item_features", ["genre:category"], "found 'genre:category', expected .*plait.Category"),
    ("user_features", {"plan": "category"}, ".*kind='category'"),
    ("context", "device", "found 'device', expected .*plait.Feature"),
    ("split", "temporal", "found 'temporal', expected plait.LeaveOneOut.*plait.Temporal"),
    ("split", LeaveOneOut, "found <class"),
    ("user", 0, "found 0, expected the name of a column"),
    ("order", ["time"], "found .'time'., expected the name of a column, or None"),
    ("min_user_events", "5", "found '5', expected a whole number from 1"),
    ("min_user_events", -3, "found -3, expected a whole number from 1 to"),
    ("min_item_events", 0, "found 0, expected a whole number from 1 to"),
    ("min_item_events", 2.5, "found 2.5, expected a whole number"),
    ("time_unit", "min", "found 'min', expected 's', 'ms', 'us' or 'ns'"),
    ("negative_ids", "drop", "found 'drop', expected 'keep', 'refuse' or None"),
    ("missing", [0], r"found \[0\], expected values by column, such as {'rating': \[0\]}"),
    ("on_bad_row", "drop", "found 'drop', expected 'stop' or 'reject'"),
    ("note", None, "found None, expected text"),
]


@pytest.mark.parametrize(("name", "given", "message"), OF_NO_TYPE)
def test_arguments_of_the_wrong_type_are_refused_before_anything_is_written(tmp_path, name, given, message):
    """As by a caller whose types nobody checks."""
    options = ALL | {"actions": RATING} | {name: given}
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        inspect.unwrap(prepare)(log(), out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"no events left of 8 rows; left out: 8 of users below 5 or items below 5 events. Lower min_user",
    ):
        prepare(log(), actions=RATING, out=tmp_path / "out", **COLUMNS)
    with pytest.raises(ValueError, match=r"no rows left: all 8 break a rule: rating is outside 1 to 5 \(8\)"):
        prepare(log(rating=[6] * 8), actions=RATING, out=tmp_path / "out", on_bad_row="reject", **ALL)
    with pytest.raises(ValueError, match="does not exist"):
        prepare(tmp_path / "nowhere.csv", actions=RATING, out=tmp_path / "out", **ALL)
    with pytest.raises(ValueError, match="source is a int"):
        prepare(3, actions=RATING, out=tmp_path / "out", **ALL)
    with pytest.raises(
        ValueError,
        match=r"column 'item' is given more than once, as item and as order; each",
    ):
        prepare(log(), actions=RATING, out=tmp_path / "out", order="item", **ALL)


def test_out_is_only_replaced_when_told_to(tmp_path):
    out = tmp_path / "out"
    first = prepare(log(), actions=RATING, out=out, **ALL).manifest.content_hash
    with pytest.raises(ValueError, match="overwrite = True"):
        prepare(log()[:4], actions=RATING, out=out, **ALL)
    assert Dataset.open(out).manifest.content_hash == first
    assert prepare(log()[:4], actions=RATING, out=out, overwrite=True, **ALL).manifest.content_hash != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not a prepared dataset"):
        prepare(log(), actions=RATING, out=tmp_path / "mine", overwrite=True, **ALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_a_manifest_is_json_that_says_what_was_done(tmp_path):
    split = Temporal(validation=0.25, test=0.25)
    data = prepare(log(), actions=RATING, out=tmp_path / "out", note="by hand", split=split, **ALL)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["note"] == "by hand" and manifest["split"]["cut_test_s"] == 1_000_000_060
    assert manifest["counts"]["events"] == 8 and manifest["settings"]["split"]["test"] == 0.25
    assert data.manifest.settings_hash == manifest["settings_hash"]
