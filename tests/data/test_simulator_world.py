"""A simulated log follows the truth that it says it was drawn from.

Shape letters: E events, U users, N numbers of a step.
"""

import json

import msgspec
import numpy as np
import pytest

from plait import files
from plait.data import Dataset, Temporal
from plait.data.simulator import Response, World, simulate, simulating
from plait.data.simulator.drawing import draw_log
from plait.data.simulator.responses import SHAPE, draw, expected, features, weights
from plait.data.simulator.truth import chances_of, item_chances, mood_chain, query_chances, trace_of, truth_of
from plait.schema import Action, Amount, Binary, Categorical, Regression

RATING = Response(action=Action("rating", Regression(1, 5)), rate=0.6)
EVERY_KIND = (*World().responses, RATING)
SMALL = World(
    seed=5,
    num_users=401,
    num_events=12,
    num_items=23,
    num_categories=3,
    num_types=2,
    num_moods=3,
    num_scenarios=2,
    responses=EVERY_KIND,
)


def replaced(world, **changes):
    return msgspec.structs.replace(world, **changes)


@pytest.fixture(scope="module")
def log():
    return draw_log(SMALL)


def frequency_gaps(log, truth):
    """How far categories lie from their chances, in standard errors, for every state that is often met."""
    gaps = []
    category_E = truth.category_V[log.item_E]
    state_E = np.ravel_multi_index((log.type_E, log.scenario_E, log.trace_E), truth.category_KSLB.shape[:3])
    for state in np.unique(state_E):
        met_E = state_E == state
        if met_E.sum() < 50:
            continue
        chance_B = truth.category_KSLB.reshape(-1, truth.category_KSLB.shape[3])[state]
        share_B = np.bincount(category_E[met_E], minlength=len(chance_B)) / met_E.sum()
        gaps += list((share_B - chance_B) / np.sqrt(chance_B * (1 - chance_B) / met_E.sum()))
    return np.abs(gaps)


def test_categories_come_as_often_as_the_truth_says(log):
    gaps = frequency_gaps(log, truth_of(SMALL))
    assert len(gaps) > 40 and gaps.max() < 4.5
    assert frequency_gaps(log, truth_of(replaced(SMALL, follow=0.0))).max() > 6, "the test can fail"


def test_responses_come_as_the_truth_says(log):
    truth = truth_of(SMALL)
    for column, response in enumerate(EVERY_KIND):
        chances = item_chances(SMALL, truth, column)
        at = (log.item_E, log.type_E, log.mood_E, log.scenario_E)
        value_E = log.action_EA[:, column]
        if response.trials:
            hits_E = features(response, value_E)[0] / response.trials
            assert abs(hits_E.mean() - chances.hit[at].mean()) < 0.02
            for k in range(SMALL.num_types):
                of_type_E = log.type_E == k
                gap = hits_E[of_type_E].mean() - chances.hit[at][of_type_E].mean()
                assert abs(gap) < 0.03, (response, k)
        if response.has_size:
            with_E = value_E > 0
            ratio_E = np.log1p(value_E[with_E]) / chances.size[at][with_E]
            assert abs(ratio_E.mean() - 1) < 0.02 and abs(ratio_E.std() - SHAPE**-0.5) < 0.02


@pytest.mark.parametrize("name", ["taste", "quality", "mood", "scenario"])
def test_the_strongest_of_causes_leaves_chances_that_have_logarithms(name):
    world = replaced(SMALL, **{name: 99.0})
    truth = truth_of(world)
    for column, response in enumerate(EVERY_KIND):
        with np.errstate(all="raise"):
            found = weights(response, item_chances(world, truth, column))
        assert np.isfinite(found).all()


def test_responses_keep_their_rates_whatever_the_strengths(log):
    tasted = draw_log(replaced(SMALL, taste=4.0, choice=3.0, follow=0.0))
    for world_log in (log, tasted):
        for column in (0, 2):  # click, like
            assert abs(world_log.action_EA[:, column].mean() - EVERY_KIND[column].rate) < 0.06


def test_a_request_shares_time_mood_and_scenario_and_others_do_not(log):
    same_user_E = log.user_E[1:] == log.user_E[:-1]
    same_request_E = log.request_E[1:] == log.request_E[:-1]
    mates_E, others_E = same_user_E & same_request_E, same_user_E & ~same_request_E
    assert mates_E.sum() > 1000 < others_E.sum()
    for name in ("time_s_E", "mood_E", "scenario_E", "trace_E"):
        column_E = getattr(log, name)
        assert (column_E[1:] == column_E[:-1])[mates_E].all(), name
    assert (np.diff(log.time_s_E)[others_E] > 0).all()
    assert abs(others_E.sum() / same_user_E.sum() - 1 / SMALL.request_events) < 0.03


def test_the_trace_is_what_the_last_request_left(log):
    truth = truth_of(SMALL)
    liked_E = log.action_EA[:, 2]
    left_E = trace_of(truth.category_V[log.item_E], liked_E, SMALL.num_categories)
    opens_E = (np.diff(log.request_E) != 0) & (np.diff(log.user_E) == 0)
    assert opens_E.sum() > 1000 and (log.trace_E[1:] == left_E[:-1])[opens_E].all()
    assert (log.trace_E[log.request_E == 0] == 0).all()


@pytest.mark.parametrize("persistence", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("num_moods", [1, 2, 5])
def test_moods_are_an_ar1_chain(num_moods, persistence):
    value_M, first_M, step_MM = mood_chain(num_moods, persistence)
    np.testing.assert_allclose(step_MM.sum(1), 1)
    np.testing.assert_allclose(first_M @ step_MM, first_M)
    np.testing.assert_allclose(step_MM @ value_M, persistence * value_M, atol=1e-12)
    assert num_moods == 1 or abs(first_M @ value_M**2 - 1) < 1e-12


def test_drawn_moods_persist(log):
    opens_E = (np.diff(log.request_E) != 0) & (np.diff(log.user_E) == 0)
    value_E = mood_chain(SMALL.num_moods, 0.0)[0][log.mood_E]
    found = np.corrcoef(value_E[:-1][opens_E], value_E[1:][opens_E])[0, 1]
    assert abs(found - SMALL.persistence) < 0.05


def test_strengths_change_nothing_but_themselves(log):
    calm = draw_log(replaced(SMALL, mood=0.0))
    for name in ("type_E", "mood_E", "scenario_E", "request_E", "time_s_E"):
        assert (getattr(calm, name) == getattr(log, name)).all(), name
    assert (calm.action_EA != log.action_EA).any()


def test_a_seed_says_everything(log):
    again, other = draw_log(SMALL), draw_log(replaced(SMALL, seed=6))
    assert (again.action_EA == log.action_EA).all() and (again.item_E == log.item_E).all()
    assert len(other.item_E) != len(log.item_E) or (other.item_E != log.item_E).any()


@pytest.mark.parametrize("response", EVERY_KIND, ids=lambda response: response.action.name)
def test_expectations_are_those_of_what_is_drawn(response):
    """Two states of chances 1/4 and 3/4; 400,000 draws."""
    chances = chances_of(response, 0.3, np.array([-1.0, 1.0]))
    rng = np.random.default_rng(7)
    state_E = (rng.random(400_000) < 0.75).astype(int)
    of_E = type(chances)(chances.hit[state_E], chances.size[state_E])
    value_E = draw(response, of_E, rng.random(len(state_E)), rng)
    best = expected(response, chances, np.array([[0.25, 0.75]]))

    def close(found, sample_E):
        return abs(found - sample_E.mean()) < 4.5 * sample_E.std() / np.sqrt(len(sample_E))

    assert close(best.mean, value_E)
    if isinstance(response.action.kind, Amount):
        assert close(np.log1p(best.log_mean), np.log1p(value_E))
        positive_E = value_E > 0
        head = positive_E.mean() * np.expm1(np.log1p(value_E[positive_E]).mean())
        assert abs(best.predicted / head - 1) < 0.01 and best.predicted < 0.99 * best.mean
    else:
        assert best.mean == best.log_mean == best.predicted


@pytest.mark.parametrize("response", EVERY_KIND, ids=lambda response: response.action.name)
def test_likelihoods_are_those_of_what_is_drawn(response):
    """The mean log-likelihood of draws is highest under the chances that they were drawn from."""
    rng = np.random.default_rng(3)
    effect_N = np.array([-1.0, -0.3, 0.0, 0.3, 1.0])
    true = chances_of(response, -0.5, np.zeros(20_000))
    value_E = draw(response, true, rng.random(20_000), rng)
    weight_FN = weights(response, chances_of(response, -0.5, effect_N))
    likelihood_N = (features(response, value_E)[:, :, None] * weight_FN[:, None]).sum(0).mean(0)
    assert likelihood_N.argmax() == 2


def test_a_world_comes_back_from_its_folder(tmp_path):
    data = simulate(SMALL, tmp_path / "world")
    assert World.open(data.folder) == SMALL
    truth, again = truth_of(SMALL), truth_of(World.open(data.folder))
    assert all((getattr(again, name) == getattr(truth, name)).all() for name in vars(truth))
    assert json.loads((data.folder / "world.json").read_text())["seed"] == 5


@pytest.mark.parametrize("split", [Temporal(validation=0.1, test=0.1)])
def test_a_simulated_folder_is_a_prepared_one(tmp_path, log, split):
    data = simulate(SMALL, tmp_path / "world", split=split)
    counts = data.manifest.counts
    assert isinstance(Dataset.open(data.folder), Dataset) and data.manifest.name == "world"
    assert counts.events == counts.rows_read == len(log.item_E) and counts.users == SMALL.num_users
    assert counts.split_requests == 0
    end = 0
    for user in range(3):
        batch = data.history(user)
        begin, end = end, end + len(batch.item_E)
        assert (data.item_ids().to_numpy()[batch.item_E - 1] == log.item_E[begin:end] + 1).all()
        assert (batch.action_EA == log.action_EA[begin:end].astype(np.float32)).all()
        assert (batch.request_E == log.request_E[begin:end]).all()


def test_a_taken_folder_is_left_alone(tmp_path):
    simulate(World.toy(num_users=20), tmp_path / "world")
    with pytest.raises(ValueError, match="holds a prepared dataset already"):
        simulate(SMALL, tmp_path / "world")
    assert World.open(tmp_path / "world").num_users == 20
    simulate(World.toy(num_users=21), tmp_path / "world", overwrite=True)
    assert World.open(tmp_path / "world").num_users == 21


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(path, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(simulating, "write_table", fail)
    with pytest.raises(
        OSError, match=r"No space left on device: writing .*world failed and nothing of it was kept"
    ):
        simulate(World.toy(num_users=20), tmp_path / "world")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_events": 3}, "num_events = 3: expected a number from 6"),
        ({"num_items": 7}, "num_items = 7: expected at least 8"),
        ({"num_moods": 0}, "num_moods = 0: expected a number from 1"),
        ({"persistence": 1.0}, "persistence = 1.0: expected a number from 0 to below 1"),
        ({"request_events": 0.5}, "request_events = 0.5: expected a number from 1"),
        ({"overlap": 1.5}, "overlap = 1.5: expected a number from 0 to 1"),
        ({"taste": -1.0}, "taste = -1.0: expected a number from 0"),
        ({"mood": float("nan")}, "mood = nan: expected a number"),
        ({"steer": "watch_s"}, "steer = 'watch_s' is no binary response; expected one of click, like"),
        ({"tastes": ((1.0,),)}, r"rows of \[1\] numbers; expected 6 rows \(types\) of 8"),
        ({"responses": (RATING, RATING)}, "'rating' given more than once"),
    ],
)
def test_impossible_worlds_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        World(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"action": Action("device", Categorical(("a", "b")))},
            "'device' is categorical; expected values with",
        ),
        (
            {"action": Action("like", Binary()), "rate": 1.0},
            "rate = 1.0: expected a number above 0 to below 1",
        ),
        ({"action": Action("watch", Amount()), "size": 30.0}, "size = 30.0: expected a number above 0 to 10"),
    ],
)
def test_impossible_responses_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        Response(**settings)


def test_a_folder_that_was_not_simulated_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"was not simulated: it has no world\.json"):
        World.open(tmp_path)
    (tmp_path / "world.json").write_text('{"sede": 1}')
    files.seal(tmp_path)
    with pytest.raises(ValueError, match=r"world\.json is damaged .*sede.*simulate the world again"):
        World.open(tmp_path)


def test_many_tasks_agree_in_part():
    world = World.of_tasks(12)
    truth = truth_of(world)
    assert [r.action.name for r in world.responses][-1] == "task_12"
    flat_AX = truth.effect_AKMSB.reshape(12, -1)
    agreement = np.corrcoef(flat_AX)[np.triu_indices(12, 1)]
    assert 0.2 < agreement.mean() < 0.8
    same_AX = truth_of(World.of_tasks(3, overlap=1.0)).effect_AKMSB.reshape(3, -1)
    np.testing.assert_allclose(same_AX, same_AX[:1].repeat(3, 0))


def test_queries_name_the_category_as_often_as_the_world_says_and_change_nothing_else(log):
    asking = draw_log(replaced(SMALL, queries=0.5, query_accuracy=0.7))
    for name in ("item_E", "action_EA", "scenario_E", "time_s_E"):
        np.testing.assert_array_equal(getattr(asking, name), getattr(log, name))
    assert not log.query_E.any(), "a world without queries has none"
    category_E, asks_E = truth_of(SMALL).category_V[log.item_E], asking.query_E > 0
    assert abs(asks_E.mean() - 0.5) < 0.02
    found_BQ = np.zeros((3, 3))
    np.add.at(found_BQ, (category_E[asks_E], asking.query_E[asks_E] - 1), 1)
    expected_BQ = query_chances(replaced(SMALL, queries=1.0, query_accuracy=0.7))[1:].T
    np.testing.assert_allclose(found_BQ / found_BQ.sum(1, keepdims=True), expected_BQ, atol=0.03)


def test_conditions_that_a_world_does_not_have_are_refused(tmp_path):
    for conditions, message in (
        (("mood",), "asked under scenario and query"),
        (("query",), "take world: queries"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(SMALL, tmp_path / "world", conditions=conditions)
    assert not (tmp_path / "world").exists()
