"""Interests from files: joined by key, switched part by part, counted where they are missing."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import OPTIM, silent
from test_ranker_training import model_for
from tiny import assert_caught, assert_not_vacuous, prepared, random_log, started

from plait.cli import main
from plait.compare.variants import Variant, check_variants
from plait.data import Dataset, SplitColumn
from plait.evaluation.answers import measure
from plait.evaluation.run_files import load_result, measured_answers
from plait.models.ranker import Ranker
from plait.models.saving import load_model
from plait.nn.interests import InterestFeatures, InterestRows, InterestSettings
from plait.rankers.interests import Interests
from plait.rankers.settings import RankerProtocol, run_settings
from plait.training.loop import train_model
from plait.training.run import config_of, run_training

WIDTH, CONDITIONS = 5, ("home", "search")
PROTOCOL = RankerProtocol(max_events=6, max_epochs=2)
Change = Callable[[pl.DataFrame], pl.DataFrame]


def same(table: pl.DataFrame) -> pl.DataFrame:
    return table


def written(
    dataset: Dataset, folder: Path, users: Change = same, items: Change = same, seed: int = 0
) -> tuple[Path, Path]:
    """Made-up interests of all events and items, in no order, as the two changes leave them."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, events = np.random.default_rng(seed), dataset.histories(np.arange(dataset.num_users))
    ids = dataset.user_ids().gather(np.repeat(events.user_U, events.num_events_U))
    keys = pl.DataFrame({"user": ids, "event": events.number_E})
    table = pl.concat([keys.with_columns(condition=pl.lit(name)) for name in CONDITIONS])
    table = table.with_columns(
        interest=pl.Series(rng.normal(size=(len(table), WIDTH)).tolist()), version=pl.lit("v1")
    )
    of_items = pl.DataFrame({"item": dataset.item_ids()})
    vectors = pl.Series(rng.normal(size=(len(of_items), WIDTH)).tolist())
    of_items = of_items.with_columns(interest=vectors, version=pl.lit("v1"))
    users(table.sample(fraction=1, shuffle=True, seed=1)).write_parquet(folder / "users.parquet")
    items(of_items.sample(fraction=1, shuffle=True, seed=2)).write_parquet(folder / "items.parquet")
    return folder / "users.parquet", folder / "items.parquet"


def read(files: tuple[Path, Path], dataset: Dataset) -> Interests:
    """Those of users cut in two, as parts of the events are."""
    of_users, of_items = files
    table, parts = pl.read_parquet(of_users), [of_users.with_name(f"{part}.parquet") for part in range(2)]
    for part, path in enumerate(parts):
        table[part * len(table) // 2 : (part + 1) * len(table) // 2].write_parquet(path)
    return Interests.read(parts, of_items, dataset)


def fewer(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(pl.int_range(pl.len()) % 3 > 0)


def check_joined(interests: Interests, dataset: Dataset, of_users: Path, of_items: Path) -> dict[str, int]:
    """Each question has the vectors of the rows that name it, found one by one."""
    users, items = pl.read_parquet(of_users), pl.read_parquet(of_items)
    by_key = {row[:3]: row[3] for row in users.select("user", "event", "condition", "interest").iter_rows()}
    by_item = dict(items.select("item", "interest").iter_rows())
    events = dataset.histories(np.arange(dataset.num_users))
    user_E, met = np.repeat(events.user_U, events.num_events_U), {"there": 0, "missing": 0}
    rows = interests.of(user_E, events.number_E, events.item_E)
    for event, user in enumerate(user_E):
        for place, condition in enumerate(interests.conditions):
            key = (dataset.user_ids()[int(user)], int(events.number_E[event]), condition)
            assert bool(rows.has_interest_MQ[event, place]) == (key in by_key)
            if key in by_key:
                assert rows.interest_MQW[event, place].tolist() == pytest.approx(by_key[key])
            met["there" if key in by_key else "missing"] += 1
        item = dataset.item_ids()[int(events.item_E[event]) - 1]
        assert bool(rows.has_item_M[event]) == (item in by_item)
        if item in by_item:
            assert rows.item_MW[event].tolist() == pytest.approx(by_item[item])
    return met


def test_interests_are_joined_by_key(dataset, tmp_path):
    files = written(dataset, tmp_path, fewer, fewer)
    interests = read(files, dataset)
    assert interests.conditions == CONDITIONS and interests.width == WIDTH and interests.version == "v1"
    assert_not_vacuous(check_joined(interests, dataset, *files))


def test_interests_of_the_next_event_are_caught(dataset, tmp_path):
    files = written(dataset, tmp_path)
    interests = read(files, dataset)
    keyed = tuple(replace(of, key_K=of.key_K + 1) for of in interests.keyed)
    assert_caught(check_joined, replace(interests, keyed=keyed), dataset, *files)


def knowing(dataset: Dataset, more: int) -> Change:
    """Says of each event how many lay before it or, where that is fewer, before its part, and so many more."""
    num_train_U = dict(zip(dataset.user_ids(), dataset.train_user_counts().tolist(), strict=True))

    def told(table: pl.DataFrame) -> pl.DataFrame:
        known = pl.min_horizontal("event", pl.col("user").replace_strict(num_train_U) + more)
        return table.with_columns(known=known)

    return told


def test_interests_that_know_of_their_own_part_are_refused_unless_histories_do(tmp_path):
    nth = pl.int_range(pl.len()).over("user")
    part = pl.when(nth < 4).then(pl.lit("train")).when(nth < 5).then(pl.lit("validation"))
    log = random_log().with_columns(part=part.otherwise(pl.lit("test")))
    dataset = prepared(log, tmp_path / "data", split=SplitColumn("part"))
    for more, rolling in (
        (0, False),
        (1, False),
        (2, True),
    ):  # the test begins one event after the training's end
        interests = read(written(dataset, tmp_path / f"{more}", knowing(dataset, more)), dataset)
        assert interests.rolling == rolling, more
    settings = run_settings("din", model_for("din"), OPTIM, PROTOCOL, interests=interests)
    with pytest.raises(ValueError, match=r"earlier events of the same part.*rolling_history = True"):
        run_training(dataset, settings, tmp_path / "run", silent, interests=interests)
    with pytest.raises(ValueError, match="earlier events of the same part"):
        check_variants([Variant("din", settings, interests)], dataset)
    rolls = replace(settings, protocol=replace(settings.protocol, rolling_history=True))
    assert run_training(dataset, rolls, tmp_path / "run", silent, interests=interests).epochs == 2


def rows_of(num: int = 4) -> InterestRows:
    draw = torch.Generator().manual_seed(0)
    has_MQ = torch.tensor([[True, True], [True, False], [False, False], [True, True]])
    has_M = torch.tensor([True, True, True, False])
    vectors = torch.randn(num, 2, WIDTH, generator=draw), torch.randn(num, WIDTH, generator=draw)
    return InterestRows(vectors[0], has_MQ, vectors[1], has_M)


@pytest.mark.parametrize(
    "switches",
    [{}, {"user": False}, {"match": False}, {"item": False}, {"user": False, "match": False}],
    ids=str,
)
def test_each_part_is_a_switch_and_what_is_missing_is_learned(switches):
    settings = InterestSettings(num_conditions=2, width=WIDTH, **switches)
    features, rows = started(InterestFeatures(settings)), rows_of()
    for place, parameter in enumerate(features.parameters()):
        parameter.data = 10.0 + place + torch.arange(parameter.numel()).reshape(parameter.shape)
    found_MX = features(rows, 4)
    assert found_MX.shape == (4, settings.num_out)
    for m in range(4):
        expected = []
        for q in range(2) if settings.user else ():
            there = rows.has_interest_MQ[m, q]
            expected.append(rows.interest_MQW[m, q] if there else features.no_interest_QW[q])
        for q in range(2) if settings.match else ():
            o, e = rows.interest_MQW[m, q], rows.item_MW[m]
            there = rows.has_interest_MQ[m, q] & rows.has_item_M[m]
            expected.append((o @ e / (o.norm() * e.norm()) if there else features.no_match_Q[q])[None])
        if settings.item:
            expected.append(rows.item_MW[m] if rows.has_item_M[m] else features.no_item_W)
        torch.testing.assert_close(found_MX[m], torch.cat(expected))
    nothing = InterestRows(*(torch.zeros_like(tensor) for tensor in vars(rows).values()))
    torch.testing.assert_close(features(None, 4), features(nothing, 4))


def trained(dataset: Dataset, interests: Interests, folder: Path, **choices: object) -> Path:
    settings = run_settings("din", model_for("din"), OPTIM, PROTOCOL, interests=interests)
    settings = replace(settings, **choices)
    run_training(dataset, settings, folder, silent, interests=interests)
    return folder


def tells_labels(dataset: Dataset) -> Change:
    """The interest of an event says whether it was liked: no honest one does, and a ranker that reads it shows it."""
    events = dataset.histories(np.arange(dataset.num_users))
    ids = dataset.user_ids().gather(np.repeat(events.user_U, events.num_events_U))
    liked_E = np.nan_to_num(events.action_EA[:, 1], nan=0.5)
    vectors = [[float(liked), 1.0, 0.0, 0.0, 0.0] for liked in liked_E]
    labels = pl.DataFrame({"user": ids, "event": events.number_E, "interest": vectors})
    return lambda table: table.drop("interest").join(labels, on=["user", "event"])


def test_a_ranker_reads_its_interests_in_training_and_test(tmp_path):
    """Of its own event, and no other: labels that are told are found again."""
    log = random_log(60).with_columns(pl.col("liked").fill_null(0.0).fill_nan(0.0))
    dataset = prepared(log, tmp_path / "data")
    told = read(written(dataset, tmp_path, tells_labels(dataset)), dataset)
    settings = run_settings(
        "din",
        model_for("din"),
        replace(OPTIM, learning_rate=3e-2),
        replace(PROTOCOL, max_epochs=8),
        interests=told,
    )
    result = run_training(dataset, settings, tmp_path / "run", silent, interests=told)
    value = measure(measured_answers(tmp_path / "run", result))["auc:liked"].value
    assert value is not None and value > 0.95
    assert result.settings.interests == told.sha256


def test_other_files_are_another_run_and_none_are_refused(dataset, tmp_path):
    one = read(written(dataset, tmp_path / "one"), dataset)
    other = read(written(dataset, tmp_path / "other", seed=1), dataset)
    run = trained(dataset, one, tmp_path / "run")
    assert trained(dataset, one, run) == run  # a finished run is only read
    with pytest.raises(ValueError, match="interests: found"):
        trained(dataset, other, run)
    settings = load_result(run).settings
    with pytest.raises(ValueError, match="reads interests, and none are given"):
        run_training(dataset, settings, tmp_path / "again", silent)
    plain = run_settings("din", model_for("din"), OPTIM, PROTOCOL)
    with pytest.raises(ValueError, match="the model reads none"):
        config = config_of(dataset, plain)
        train_model(dataset, config, plain.optim, plain.protocol, tmp_path / "plain", silent, interests=one)


def test_a_model_that_is_asked_without_its_interests_takes_none_of_them(dataset, tmp_path):
    from plait.recommender import Recommender

    run = trained(dataset, read(written(dataset, tmp_path), dataset), tmp_path / "run")
    model = Recommender.from_pretrained(run / "model")
    assert isinstance(model.model, Ranker) and model.model.interests is None
    state = model.encode({"item": ["i01", "i02"], "time": [1, 2], "rating": [3.0, 4.0], "liked": [1, 0]})
    assert model.score(state, ["i05"])["liked"].is_finite().all()


def first(table: pl.DataFrame) -> pl.Expr:
    return pl.int_range(pl.len()) == 0


@pytest.mark.parametrize(
    ("users", "items", "said"),
    [
        (lambda t: t.drop("condition"), same, "no column 'condition'"),
        (lambda t: pl.concat([t, t[:1]]), same, "stands twice"),
        (same, lambda t: pl.concat([t, t[:1]]), "stands twice"),
        (lambda t: t.with_columns(version=pl.when(first(t)).then(pl.lit("v2")).otherwise("version")), same, "v1, v2"),
        (same, lambda t: t.with_columns(version=pl.lit("v2")), "hold versions v1, v2"),
        (same, lambda t: t.with_columns(pl.col("interest").list.head(3)), "of width 5"),
        (lambda t: t.with_columns(pl.when(first(t)).then(pl.col("interest").list.head(2)).otherwise("interest")), same,
         "have the lengths"),
        (lambda t: t.with_columns(interest=pl.lit("x")), same, "expected lists of numbers"),
        (lambda t: t.with_columns(pl.col("interest") * float("nan")), same, "not finite"),
        (lambda t: t.with_columns(pl.col("event").cast(pl.Float64)), same, "expected whole numbers"),
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused(users, items, said, dataset, tmp_path):
    files = written(dataset, tmp_path, users, items)
    with pytest.raises(ValueError, match=said):
        read(files, dataset)


def test_the_verb_counts_what_is_missing(dataset, tmp_path, capsys):
    users, items = written(dataset, tmp_path, fewer)
    words = ["rank", "train", str(dataset.folder), "--ranker", "din", "--out", str(tmp_path / "run"), "--interests",
             str(users), "--model.trunk.dim", "12", "--protocol.max-epochs", "1"]  # fmt: skip
    assert main(words) == 2
    assert "come together" in capsys.readouterr().err
    assert main([*words, "--item-interests", str(items), "--model.ranker.interests.no-item"]) == 0
    told = capsys.readouterr().err.partition("without interests")[2].splitlines()[0]
    lacks, events, of_items = (int(number) for number in re.findall(r"(\d+)", told)[:3])
    assert f"{lacks} of {events} training events" in told and of_items == 0
    there = pl.read_parquet(users).group_by("user", "event").len()
    assert events == int(dataset.train_user_counts().sum()) and 0 < lacks < events
    both = there.filter(pl.col("len") == len(CONDITIONS)).height
    all_events = dataset.histories(np.arange(dataset.num_users)).item_E.size
    assert lacks <= all_events - both
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def weights_told(dataset: Dataset, since_s: int | None, interests: Interests, folder: Path) -> torch.Tensor:
    """All weights of a ranker that was trained to ask about events from a time on."""
    protocol = replace(PROTOCOL, asked_from_s=since_s).plain()
    settings = run_settings("din", model_for("din"), OPTIM, protocol, interests=interests)
    run_training(dataset, settings, folder, silent, interests=interests)
    model = load_model(folder / "model")
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def check_in_sample(dataset: Dataset, folder: Path, since_s: int, asked_from_s: int | None) -> None:
    """Nothing that a user model says of events before its cut, which it saw, reaches a ranker that is told of it."""
    events = dataset.histories(np.arange(dataset.num_users))
    user_E, number_E = np.repeat(events.user_U, events.num_events_U), events.number_E
    is_early_E = events.time_s_E < since_s
    is_trained_E = number_E < dataset.train_user_counts()[user_E]
    seen_E = is_early_E & is_trained_E  # not those of validation, which chooses the epoch
    early = {
        (dataset.user_ids()[int(user)], int(number))
        for user, number in zip(user_E[seen_E], number_E[seen_E], strict=True)
    }
    assert_not_vacuous(
        {"seen": int(seen_E.sum()), "later": int((~is_early_E & is_trained_E).sum())},
        above=10,
    )

    def left_out(table: pl.DataFrame) -> pl.DataFrame:
        return table.filter(~pl.Series([key in early for key in table.select("user", "event").iter_rows()]))

    whole = read(written(dataset, folder / "whole"), dataset)
    without = read(written(dataset, folder / "without", left_out), dataset)
    found = [
        weights_told(dataset, asked_from_s, of, folder / f"run-{name}")
        for name, of in (("whole", whole), ("without", without))
    ]
    assert torch.equal(*found)


def cut_of(dataset: Dataset) -> int:
    events = dataset.histories(np.arange(dataset.num_users))
    return int(np.median(events.time_s_E))


def test_a_ranker_asked_from_the_cut_on_is_told_nothing_in_sample(dataset, tmp_path):
    check_in_sample(dataset, tmp_path, cut_of(dataset), cut_of(dataset))


def test_in_sample_interests_are_caught(dataset, tmp_path):
    assert_caught(check_in_sample, dataset, tmp_path, cut_of(dataset), None)
