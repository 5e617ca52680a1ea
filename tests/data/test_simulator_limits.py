"""What the oracle's own numbers must show: no one beats it, and every coupling is seen in them.

Shape letters: Q targets, B categories.
"""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from plait.data import Temporal
from plait.data.simulator import Knows, Response, World, filtering, oracle, simulate
from plait.schema import Action, Binary

BINARY = tuple(
    Response(action=Action(name, Binary()), rate=rate)
    for name, rate in (("like", 0.3), ("click", 0.5), ("share", 0.1))
)
LIVELY = World(
    seed=1,
    num_users=20_000,
    num_events=6,
    num_items=50,
    num_categories=4,
    num_types=3,
    num_moods=3,
    num_scenarios=2,
    responses=BINARY,
)
CALM = World(
    seed=1,
    num_users=501,
    num_events=16,
    num_items=12,
    num_categories=3,
    num_types=3,
    num_moods=3,
    num_scenarios=2,
    responses=BINARY,
    taste=0.0,
    choice=0.0,
    follow=0.0,
    mood=0.0,
    persistence=0.0,
    request_events=1.0,
    scenario=0.0,
    scenario_choice=0.0,
    quality=0.0,
    popularity=0.0,
)


def entropy(chance_QB):
    """Mean over the queries, in nats: the loss that the oracle expects of itself."""
    return float(-(chance_QB * np.log(chance_QB)).sum(-1).mean())


def both(p_Q):
    return np.stack([p_Q, 1 - p_Q], axis=-1)


def log_loss(p_Q, label_Q):
    return -np.log(np.where(label_Q == 1, p_Q, 1 - p_Q))


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    return simulate(LIVELY, tmp_path_factory.mktemp("lively") / "world")


@pytest.fixture(scope="module")
def answers(lively):
    return [oracle(lively, part) for part in ("validation", "test")]


def pooled(answers):
    """Probability and label of every binary action of every target."""
    p = np.concatenate([of.predicted[name] for of in answers for name in of.predicted])
    label = np.concatenate([of.label_QA[:, column] for of in answers for column in range(len(of.actions))])
    return p, label


def calibration_gaps(p_Q, label_Q):
    """By decile of the prediction, how far labels lie from it, in standard errors."""
    bin_Q = np.searchsorted(np.quantile(p_Q, np.arange(1, 20) / 20), p_Q)
    size = np.bincount(bin_Q)
    variance = np.bincount(bin_Q, weights=p_Q * (1 - p_Q)) / size
    return np.abs(np.bincount(bin_Q, weights=label_Q - p_Q) / size) / np.sqrt(variance / size)


def test_the_oracle_is_calibrated(answers):
    p_Q, label_Q = pooled(answers)
    assert len(p_Q) >= 100_000 and np.ptp(p_Q) > 0.8
    assert calibration_gaps(p_Q, label_Q).max() < 4
    sharper_Q = 1 / (1 + ((1 - p_Q) / p_Q) ** 1.1)
    assert calibration_gaps(sharper_Q, label_Q).max() > 4, "the test can fail"


def test_its_loss_is_the_loss_that_it_expects(answers):
    p_Q, label_Q = pooled(answers)
    gap_Q = log_loss(p_Q, label_Q) + p_Q * np.log(p_Q) + (1 - p_Q) * np.log(1 - p_Q)
    assert abs(gap_Q.mean()) < 4 * gap_Q.std() / np.sqrt(len(gap_Q))
    chance_Q = np.concatenate(
        [of.item_probability(slice(None))[np.arange(len(of.item_Q)), of.item_Q] for of in answers]
    )
    expected = np.mean([entropy(of.item_probability(slice(None))[:, 1:]) for of in answers])
    assert abs(-np.log(chance_Q).mean() - expected) < 4 * np.log(chance_Q).std() / np.sqrt(len(chance_Q))


@pytest.mark.parametrize("change", [
    pytest.param(lambda logit_Q: logit_Q * 1.15, id="sharper"),
    pytest.param(lambda logit_Q: logit_Q * 0.87, id="flatter"),
    pytest.param(lambda logit_Q: logit_Q + 0.15, id="higher"),
    pytest.param(lambda logit_Q: logit_Q - 0.15, id="lower"),
    pytest.param(lambda logit_Q: logit_Q + np.random.default_rng(0).normal(0, 0.3, len(logit_Q)), id="noisy"),
])  # fmt: skip
def test_whoever_says_otherwise_loses(answers, change):
    p_Q, label_Q = pooled(answers)
    other_Q = 1 / (1 + np.exp(-change(np.log(p_Q / (1 - p_Q)))))
    assert log_loss(other_Q, label_Q).mean() > log_loss(p_Q, label_Q).mean()


def test_whoever_knows_less_loses_and_whoever_knows_more_wins(lively, monkeypatch):
    def loss(knows):
        return log_loss(*pooled([oracle(lively, "test", knows)])).mean()

    ladder = [loss(knows) for knows in (Knows(), Knows("with_item"), Knows(latents=True))]
    monkeypatch.setattr(
        filtering, "features", lambda response, value_E: np.zeros((2, len(value_E)))
    )  # forgets actions
    ladder = [loss(Knows()), *ladder]
    assert (np.diff(ladder) < -0.005).all(), ladder


def limits(folder: Path, knows: Knows = Knows(), **strengths: float) -> tuple[float, float]:
    """The loss that the oracle expects on likes and on next items; the world is calm but for the strengths."""
    world = msgspec.structs.replace(CALM, **strengths)
    data = simulate(world, folder / str(len(list(folder.iterdir()))))
    found = oracle(data, "test", knows)
    return entropy(both(found.predicted["like"])), entropy(found.item_probability(slice(None))[:, 1:])


def test_a_calm_world_has_nothing_to_know(tmp_path):
    like, item = limits(tmp_path)
    assert like == pytest.approx(entropy(both(np.array([0.3]))), abs=1e-9)
    assert item == pytest.approx(entropy(np.full((1, 12), 1 / 12)), abs=1e-9)


ON = 1.5


@pytest.mark.parametrize(
    ("strengths", "like_known", "item_known"),
    [
        pytest.param({"taste": ON}, True, False, id="taste"),
        pytest.param({"quality": ON}, True, False, id="quality"),
        pytest.param({"choice": ON}, False, True, id="choice"),
        pytest.param({"follow": ON}, False, True, id="follow"),
        pytest.param({"popularity": ON}, False, True, id="popularity"),
        pytest.param({"mood": ON}, False, False, id="mood that does not last"),
        pytest.param({"mood": ON, "persistence": 0.9}, True, False, id="mood that lasts"),
        pytest.param({"mood": ON, "request_events": 3.0}, True, False, id="mood of a request"),
        pytest.param({"persistence": 0.9, "request_events": 3.0}, False, False, id="mood without effect"),
    ],
)
def test_a_coupling_is_seen_where_it_acts_and_nowhere_else(tmp_path, strengths, like_known, item_known):
    calm_like, calm_item = limits(tmp_path)
    like, item = limits(tmp_path, **strengths)
    for known, on, off in ((like_known, like, calm_like), (item_known, item, calm_item)):
        if known:
            assert on < off - 0.02
        else:
            assert abs(on - off) < 0.004  # the rates of responses are set by a sample


def test_to_know_the_time_helps_where_requests_are(tmp_path):
    strengths = {"mood": ON, "request_events": 2.0}
    unknown, known = (limits(tmp_path, Knows(time=time), **strengths)[0] for time in (False, True))
    assert known < unknown - 0.002
    alone = {"mood": ON, "request_events": 1.0}
    assert limits(tmp_path, Knows(time=False), **alone) == limits(tmp_path, Knows(time=True), **alone)


def test_scenarios_are_worth_what_they_move(tmp_path):
    told = {"never": Knows("never"), "with_item": Knows("with_item"), "before_item": Knows("before_item")}
    like = {name: limits(tmp_path, knows, scenario=ON)[0] for name, knows in told.items()}
    item = {name: limits(tmp_path, knows, scenario_choice=ON)[1] for name, knows in told.items()}
    none = {name: limits(tmp_path, knows) for name, knows in told.items()}
    assert like["with_item"] < like["never"] - 0.02 and like["before_item"] == pytest.approx(
        like["with_item"]
    )
    assert item["before_item"] < item["with_item"] - 0.02 and item["with_item"] == pytest.approx(
        item["never"]
    )
    for name in told:
        assert none[name] == pytest.approx(none["never"])


def test_only_actions_tell_what_follows(tmp_path, monkeypatch):
    """With the last action unknown to the filter, the trace is still told; so hide the trace itself."""
    with_action = limits(tmp_path, follow=3.0)[1]
    trace_of = filtering.trace_of
    monkeypatch.setattr(
        filtering, "trace_of", lambda category_E, liked_E, B: trace_of(category_E, np.zeros_like(liked_E), B)
    )
    world = msgspec.structs.replace(CALM, follow=3.0)
    data = simulate(world, tmp_path / "blind")
    blind = oracle(data, "test")
    chance_Q = blind.item_probability(slice(None))[np.arange(len(blind.item_Q)), blind.item_Q]
    assert -np.log(chance_Q).mean() > with_action + 0.2


def test_the_farther_the_target_the_less_is_known(tmp_path):
    world = msgspec.structs.replace(CALM, follow=2.0, mood=2.0, persistence=0.9, num_events=30)
    data = simulate(world, tmp_path / "world", split=Temporal(validation=0.2, test=0.2))
    found, targets = oracle(data, "test"), data.targets("test")
    ahead_Q = targets.event_Q - targets.history_end_Q
    like, item = (
        [entropy(chance_QB[ahead_Q == step]) for step in (0, 2, 5)]
        for chance_QB in (both(found.predicted["like"]), found.category_QB)
    )
    assert np.bincount(ahead_Q)[5] > 50
    assert (np.diff(like) > 0).all() and (np.diff(item) > 0).all()


def test_the_toy_is_dogs_and_cats(tmp_path, monkeypatch):
    data = simulate(World.toy(), tmp_path / "toy")
    found = oracle(data, "test")
    p_Q, label_Q = found.predicted["like"], found.label_QA[:, 0]
    assert 0.4 < label_Q.mean() < 0.6
    assert (p_Q.round() == label_Q).mean() > 0.99 and (np.abs(p_Q - 0.5) > 0.49).mean() > 0.95
    monkeypatch.setattr(filtering, "features", lambda response, value_E: np.zeros((2, len(value_E))))
    np.testing.assert_allclose(oracle(data, "test").predicted["like"], 0.5, atol=0.01)  # items tell nothing
