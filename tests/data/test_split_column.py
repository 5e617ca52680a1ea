"""A column of the log that says what is for training, validation and test."""

import numpy as np
import polars as pl
import pytest

import plait
from plait.data import SplitColumn, Temporal, prepare
from plait.evaluation.protocol_line import protocol_line
from plait.schema import Regression

COLUMNS = {"user": "user", "item": "item", "time": "time", "min_user_events": 1, "min_item_events": 1}
RATING = {"rating": Regression(1, 5)}


def timed_log(num_users: int = 9) -> pl.DataFrame:
    """Twelve steps in time, each user with an event in most of them."""
    rng = np.random.default_rng(5)
    rows = [
        (user, int(rng.integers(0, 7)), 10**9 + 100 * step + user, float(rng.integers(1, 6)))
        for step in range(12)
        for user in range(num_users)
        if rng.random() < 0.9
    ]
    return pl.DataFrame(rows, schema=["user", "item", "time", "rating"], orient="row")


def with_parts(log: pl.DataFrame, train: object, validation: object, test: object) -> pl.DataFrame:
    """A column that says what a split at two times does."""
    cuts = Temporal(cut_validation_s=10**9 + 800, cut_test_s=10**9 + 1000)
    time = pl.col("time")
    part = (
        pl.when(time < cuts.cut_validation_s)
        .then(pl.lit(train))
        .when(time < cuts.cut_test_s)
        .then(pl.lit(validation))
        .otherwise(pl.lit(test))
    )
    return log.with_columns(part=part)


SPELLED = {
    "words": (("train", "validation", "test"), "part"),
    "short": (("Training", " val", "TEST"), "part"),
    "dev": (("train", "dev", "test"), "part"),
    "numbers": ((0, 1, 2), "part:0:1:2"),
    "floats": ((0.0, 1.0, 2.0), "part:0:1:2"),
}


@pytest.mark.parametrize("spelling", SPELLED)
@pytest.mark.parametrize("kind", ["frame", "csv"])
def test_a_column_splits_as_times_do(spelling, kind, tmp_path):
    values, written = SPELLED[spelling]
    log = with_parts(timed_log(), *values)
    source = log
    if kind == "csv":
        if spelling == "floats":
            pytest.skip("text is its spelling: 0.0 is not 0")
        source = tmp_path / "log.csv"
        log.write_csv(source)
    split = SplitColumn.parse(written)
    found = prepare(source, actions=RATING, out=tmp_path / "column", split=split, **COLUMNS)
    cuts = Temporal(cut_validation_s=10**9 + 800, cut_test_s=10**9 + 1000)
    expected = prepare(log, actions=RATING, out=tmp_path / "cuts", split=cuts, **COLUMNS)
    assert found.manifest.content_hash == expected.manifest.content_hash
    assert found.manifest.split == split and found.manifest.counts.validation_queries > 5


def test_the_protocol_names_the_column_and_both_questions_are_asked(tmp_path):
    log = with_parts(timed_log(), "train", "valid", "test")
    data = prepare(log, actions=RATING, out=tmp_path / "data", split=SplitColumn("part"), **COLUMNS)
    protocol = plait.Protocol(max_epochs=1, max_events=8, filter_seen=False)
    line = protocol_line(data, plait.ModelSettings(), plait.Optim(precision="fp32"), protocol, [0])
    assert "split by column part (train,training / validation,valid,val,dev / test)" in line
    model = plait.fit(data, protocol=protocol, report=lambda line: None, out=tmp_path / "run")
    result = plait.training.run.load_result(tmp_path / "run")
    assert {"ndcg@10", "rmse:rating"} <= set(result.curve[0]) and "column part" in result.protocol
    assert model.retrieve(model.encode(log), 2, filter_seen=False).height == 18


def test_events_at_one_time_take_their_order_from_the_column(tmp_path):
    """As where a folder's test.csv is read before its train.csv."""
    log = pl.DataFrame(
        {"user": [1] * 4, "item": [1, 2, 3, 4], "time": [5] * 4, "part": ["test", "valid", "train", "train"]}
    )
    data = prepare(log, actions={}, out=tmp_path / "out", split=SplitColumn("part"), **COLUMNS)
    assert data.item_ids().gather(data.history(0).item_E - 1).to_list() == [3, 4, 2, 1]


def parts_of(*parts: object) -> pl.DataFrame:
    return pl.DataFrame(
        {"user": ["u"] * len(parts), "item": range(len(parts)), "time": range(len(parts)), "part": parts}
    )


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            ("train", "test", "valid", "test"),
            r"row 3 of .*, of user 'u' at 1970-01-01 00:00:02, is for validation, .* for test",
        ),
        (
            ("valid", "train", "train", "test"),
            "row 2 of .* is for train, and one of this user before it for validation",
        ),
        (("train", None, "valid", "test"), "part is missing: 1 rows, e.g. row 2"),
        (("train", "", "valid", "test"), "part is missing: 1 rows, e.g. row 2"),
        (
            ("train", "holdout", "valid", "test"),
            "part is none of train, training, .*: 1 rows, e.g. row 2 .*'holdout'",
        ),
        (("train", "train", "train", "test"), "no event that is left is for validation"),
        (("valid", "valid", "test", "test"), "no event that is left is for train"),
    ],
)
def test_a_column_that_does_not_split_is_refused(parts, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        prepare(parts_of(*parts), actions={}, out=tmp_path / "out", split=SplitColumn("part"), **COLUMNS)
    assert not list(tmp_path.iterdir())


def test_that_column_is_otherwise_good(tmp_path):
    data = prepare(
        parts_of("train", "train", "valid", "test"),
        actions={},
        out=tmp_path / "out",
        split=SplitColumn("part"),
        **COLUMNS,
    )
    assert data.manifest.counts.train_events == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: SplitColumn.parse("part:0:1"), "expected COLUMN, or COLUMN:TRAIN:VALIDATION:TEST"),
        (lambda: SplitColumn("part", train=("a",), validation=("A",)), "none of them twice"),
        (lambda: SplitColumn("part", train=()), "at least one value each"),
        (lambda: SplitColumn("part", train=(0,)), r"train = \(0,\): expected a tuple of texts"),
        (lambda: SplitColumn("part", test="test"), "test = 'test': expected a tuple of texts"),
    ],
)
def test_a_split_by_column_that_means_nothing(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_the_column_is_one_of_the_log_and_has_no_other_part(tmp_path):
    log = parts_of("train", "train", "valid", "test")
    with pytest.raises(ValueError, match=r"no column 'prt', did you mean 'part'"):
        prepare(log, actions={}, out=tmp_path / "out", split=SplitColumn("prt"), **COLUMNS)
    with pytest.raises(ValueError, match=r"'item' is given more than once, as item and as split_column"):
        prepare(log, actions={}, out=tmp_path / "out", split=SplitColumn("item"), **COLUMNS)
