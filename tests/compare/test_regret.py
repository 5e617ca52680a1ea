"""The oracle as a row of a comparison: nobody passes it, and one that sees too little is noticed.

Shape letters: Q queries.
"""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous, trunk_of

from plait.compare import regret
from plait.compare.regret import knows_of, limits, metrics_of, regrets
from plait.data.simulator import Knows, World, oracle, simulate
from plait.evaluation.answers import measure
from plait.evaluation.run_files import RunSettings, load_answers
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.metrics.intervals import bootstrap
from plait.metrics.retrieval import NEVER
from plait.metrics.table import metric_of
from plait.models.generative import ModelSettings
from plait.models.questions import Exposure
from plait.nn.config import TrunkConfig
from plait.training.run import run_training

OFF = dict.fromkeys(
    ("taste", "choice", "follow", "mood", "persistence", "scenario", "scenario_choice", "quality"), 0.0
)
SMALL = {"num_users": 301, "num_events": 8, "num_items": 23, "num_categories": 3}
WORLDS = {
    "toy": World.toy(num_users=301),
    "calm": World(**SMALL, **OFF, request_events=1.0),
    "moody": World(**SMALL, **OFF | {"mood": 6.0, "persistence": 0.95}, num_moods=3),
}
LAYOUTS = ("lac", "attn_mvp")
PROTOCOL = Protocol(max_events=7, max_epochs=6, filter_seen=False)


def settings_of(layout="lac", **changes):
    return RunSettings(
        layout=str(resolve(layout)),
        model=ModelSettings(trunk=trunk_of()),
        optim=Optim(learning_rate=2e-2, warmup_steps=2, users_per_step=50, precision="fp32"),
        protocol=replace(PROTOCOL, **changes),
    )


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    return {name: simulate(world, folder / name) for name, world in WORLDS.items()}


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    return simulate(World(**SMALL, num_types=2, num_moods=3), tmp_path_factory.mktemp("lively") / "world")


@pytest.fixture(scope="module")
def trained(datasets, tmp_path_factory):
    """By world and layout, the test metrics of a tiny model."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for world, dataset in datasets.items():
        for layout in LAYOUTS:
            out = folder / world / layout
            run_training(dataset, settings_of(layout), out, lambda line: None, "cpu")
            found[world, layout] = measure(load_answers(out, dataset.actions))
    return found


def resampled(statistics):
    return {name: bootstrap(statistic, 200) for name, statistic in statistics.items()}


def check_not_passed(found, best, counts):
    """No metric is better than the oracle's by more than chance. A hundred intervals are looked at, some of them of a
    dozen purchases: each gets its width once more."""
    for name, of in regrets(resampled(found), resampled(best)).items():
        assert of.low <= of.value <= of.high
        assert of.high + (of.high - of.low) >= 0, f"{name} passes the oracle: {of}"
        counts[metric_of(name).name] = counts.get(metric_of(name).name, 0) + 1


@pytest.mark.parametrize("world", WORLDS)
def test_nobody_passes_the_oracle(world, datasets, trained):
    dataset, counts = datasets[world], {}
    best = limits(dataset, [settings_of()], [0])[0]
    for layout in LAYOUTS:
        check_not_passed(trained[world, layout], best, counts)
    expected = {"hr", "ndcg", "mrr", "auc", "ne", "log_loss"}
    assert set(counts) == expected | ({"rmse", "rmse_scaled"} if world != "toy" else set())


def test_items_and_actions_are_each_held_against_what_is_known_of_them(datasets, monkeypatch):
    less, more = Knows(), Knows(time=True)
    monkeypatch.setattr(regret, "oracle", lambda dataset, part, knows, same_request, rolling: knows)
    monkeypatch.setattr(regret, "metrics_of", lambda knows, *asked: {"hr@10": knows, "auc:liked": knows})
    for of_items, of_actions in ((less, more), (more, less), (less, less)):
        monkeypatch.setattr(regret, "knows_of", lambda runs, found=(of_items, of_actions): found)
        found = limits(datasets["toy"], [settings_of()], [0, 1])
        assert found == {seed: {"hr@10": of_items, "auc:liked": of_actions} for seed in (0, 1)}


@pytest.mark.parametrize("world", WORLDS)
def test_the_oracle_lacks_nothing_to_itself(world, datasets):
    best = resampled(limits(datasets[world], [settings_of()], [0])[0])
    found = regrets(best, best)
    assert len(found) >= 10
    assert all((of.value, of.low, of.high) == (0, 0, 0) for of in found.values()), found


def test_an_oracle_that_sees_too_little_is_noticed(datasets, trained, monkeypatch):
    """The mutant has no history. In the moody world the last action tells the next, and nothing else does."""
    from plait.data.simulator import filtering

    monkeypatch.setattr(filtering, "_likelihood", lambda machine, seen, row_U, *_: np.ones((len(row_U), 1)))
    best = limits(datasets["moody"], [settings_of()], [0])[0]
    assert_caught(check_not_passed, trained["moody", "lac"], best, {})


def told_apart(dataset, settings):
    """Whether a model that knows when a request begins passes the oracle that compare would set against these."""
    known = metrics_of(oracle(dataset, "test", Knows(time=True)), dataset, PROTOCOL)
    check_not_passed(known, limits(dataset, [settings], [0])[0], {})


def test_the_oracle_is_told_what_models_are(tmp_path):
    world = msgspec.structs.replace(WORLDS["moody"], num_users=2003, persistence=0.0, request_events=2.0)
    dataset = simulate(world, tmp_path / "fickle")
    trunk, settings = TrunkConfig(positions="rab"), settings_of()
    timed = ModelSettings(trunk=trunk, exposure=Exposure(time_anchor="next"))
    blind = ModelSettings(exposure=Exposure(same_request="blind"))
    knowing = [replace(settings, model=timed), settings_of("genrank"), settings_of(supervise="candidates")]
    for its in knowing:
        told_apart(dataset, its)
    for its in (*knowing, replace(settings, model=blind)):
        assert knows_of([settings, its]) == (Knows(time=True), Knows(time=True))
    assert_caught(told_apart, dataset, settings)

    def told(**model):
        return knows_of([replace(settings, model=ModelSettings(**model))])

    assert told(trunk=trunk) == (Knows(), Knows(time=True))
    assert told(trunk=replace(trunk, rab="position")) == (Knows(), Knows())


@pytest.mark.parametrize(
    "changes",
    [
        {"filter_seen": False},
        {"filter_seen": True},
        {"negatives": 7, "filter_seen": True},
        {"negatives": 7, "filter_seen": False},
    ],
    ids=str,
)
def test_it_is_ranked_as_models_are(lively, changes):
    dataset, protocol = lively, replace(PROTOCOL, **changes)
    best, asked = oracle(dataset, "test"), dataset.targets("test")
    score_QV, item_Q = best.item_probability(slice(None)), best.item_Q
    rank_Q = regret._rank(best, dataset, asked, protocol)
    start_Q1, seen_S = dataset.seen_items(asked)
    met = {"seen": 0, "new": 0}
    for query, (item, rank) in enumerate(zip(item_Q, rank_Q, strict=True)):
        seen = set(seen_S[start_Q1[query] : start_Q1[query + 1]].tolist())
        met["seen" if item in seen else "new"] += 1
        if protocol.filter_seen and item in seen:
            assert rank == NEVER
        elif protocol.negatives:
            assert 1 <= rank <= 8
        else:
            rivals = set(range(1, dataset.num_items + 1)) - (seen if protocol.filter_seen else set())
            assert rank == 1 + sum(score_QV[query, other] > score_QV[query, item] for other in rivals)
    assert_not_vacuous(met)


def test_each_error_of_an_amount_gets_its_best_prediction(tmp_path):
    dataset = simulate(World(num_users=3001, num_events=8, seed=5), tmp_path / "world")
    best = oracle(dataset, "test")
    found = metrics_of(best, dataset, PROTOCOL)
    swapped = metrics_of(replace(best, mean=best.log_mean, log_mean=best.mean), dataset, PROTOCOL)
    for name in ("rmse:watch_s", "rmse_scaled:watch_s", "rmse:purchase", "rmse_scaled:purchase"):
        assert found[name].value < swapped[name].value, name
    assert not {"mae:watch_s", "ece:like"} & set(found)


def test_where_nobody_knows_the_truth_there_is_no_limit(datasets, dataset):
    assert limits(dataset, [settings_of()], [0]) == {}
    unlike = [settings_of(), settings_of(filter_seen=True)]
    assert limits(datasets["toy"], unlike, [0]) == {}


def test_every_seed_is_ranked_among_its_own_samples(lively):
    found = limits(lively, [settings_of(negatives=3, filter_seen=True)], [0, 1])
    assert found[0]["mrr"].value != found[1]["mrr"].value
    assert found[0]["auc:like"].value == found[1]["auc:like"].value
