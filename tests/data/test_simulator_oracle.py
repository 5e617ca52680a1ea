"""The oracle against an enumeration of everything that may have happened, and against whoever might beat it.

Shape letters: Q targets, V items.
"""

import itertools
import math
import shutil
import sys
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import pytest

from plait.data import Dataset, Temporal
from plait.data.columns.actions import NUMBER_TRIALS
from plait.data.simulator import Knows, Response, World, filtering, oracle, simulate
from plait.data.simulator import ahead as ahead_module
from plait.data.simulator.responses import SHAPE
from plait.data.simulator.truth import truth_of
from plait.files import seal
from plait.schema import Action, Amount, Binary, Regression

oracle_module = sys.modules["plait.data.simulator.oracle"]  # the package gives the function this name
TINY = World(
    seed=2,
    num_users=199,
    num_events=6,
    num_items=3,
    num_categories=2,
    num_types=2,
    num_moods=2,
    num_scenarios=2,
    responses=(
        Response(action=Action("like", Binary()), rate=0.4),
        Response(action=Action("watch_s", Amount()), size=2.0),
        Response(action=Action("paid", Amount(zero_inflated=True)), rate=0.3, size=2.5),
        Response(action=Action("rating", Regression(1, 5)), rate=0.6),
    ),
    persistence=0.6,
    scenario=1.0,
    scenario_choice=1.0,
)
TOLD = (Knows(), Knows(time=True), Knows("with_item"), Knows("before_item", time=True))
LONGEST = 5  # events of a history and twice those between it and the target: more take long to enumerate
EACH = 2  # targets enumerated for every number of events between


@dataclass
class Tally:
    """Sums over all that may have happened, each with its chance."""

    item_V: np.ndarray = field(default_factory=lambda: np.zeros(TINY.num_items))
    shown: float = 0.0  # the item that came
    moments: np.ndarray = field(default_factory=lambda: np.zeros((len(TINY.responses), 4)))


@dataclass(frozen=True)
class Question:
    """One target with its history, as lists of Python numbers."""

    events: list  # (item, actions, opens a request, scenario or None)
    between: int  # events that nobody saw
    chance_new: list  # that each event after the history opens a request
    item: int
    scenario_for_item: int | None
    scenario_for_action: int | None


def plain_chances(truth, action, state, item):
    kind, mood, scenario = state
    response, category = TINY.responses[action], truth.category_V[item]
    effect = truth.effect_AKMSB[action, kind, mood, scenario, category] + truth.quality_AV[action, item]
    hit = 1 / (1 + math.exp(-truth.bias_A[action] - effect))
    return hit, response.size * (1 + 0.5 * math.tanh(effect / 3))


def density(truth, action, state, item, value):
    hit, size = plain_chances(truth, action, state, item)
    scale, y = size / SHAPE, math.log1p(value)
    amount = math.exp(
        (SHAPE - 1) * math.log(y or 1) - y / scale - SHAPE * math.log(scale) - math.lgamma(SHAPE)
    )
    match TINY.responses[action].action.name:
        case "like":
            return hit if value else 1 - hit
        case "watch_s":
            return amount
        case "paid":
            return hit * amount if value else 1 - hit
        case "rating":
            hits = round(value - 1)
            return math.comb(NUMBER_TRIALS, hits) * hit**hits * (1 - hit) ** (NUMBER_TRIALS - hits)


def moments(truth, action, state, item):
    """Chance of a hit, and the means of hit * size, size, and (with a hit, where there are hits) the amount."""
    hit, size = plain_chances(truth, action, state, item)
    amount = (1 - size / SHAPE) ** -SHAPE - 1
    return np.array([hit, hit * size, size, amount * hit if action == 2 else amount])


def enumerate_all(truth, asked):
    """Every type, mood, scenario, boundary, item and like that may have been, in one recursion."""
    tally = Tally()

    def visit(step, state, trace, latest, weight):
        is_past = step < len(asked.events)
        ahead = step - len(asked.events)
        chance_new = float(asked.events[step][2]) if is_past else asked.chance_new[ahead]
        for opens, chance in ((True, chance_new), (False, 1 - chance_new)):
            if chance == 0:
                continue
            for now, moved in following(truth, state, opens):
                happen(step, now, latest if opens else trace, latest, weight * chance * moved)

    def happen(step, state, trace, latest, weight):
        kind, _, scenario = state
        category_B = truth.category_KSLB[kind, scenario, trace]
        chance_V = category_B[truth.category_V] * truth.within_V
        if step < len(asked.events):
            item, values, _, told = asked.events[step]
            if told in (None, scenario):
                for action, value in enumerate(values):
                    weight *= density(truth, action, state, item, value)
                visit(step + 1, state, trace, left(truth, item, values[0]), weight * chance_V[item])
        elif step < len(asked.events) + asked.between:
            for item, liked in itertools.product(range(TINY.num_items), (0, 1)):
                chance = chance_V[item] * density(truth, 0, state, item, liked)
                visit(step + 1, state, trace, left(truth, item, liked), weight * chance)
        else:
            if asked.scenario_for_item in (None, scenario):
                tally.item_V += weight * chance_V
            if asked.scenario_for_action in (None, scenario):
                tally.shown += weight * chance_V[asked.item]
                for action in range(len(TINY.responses)):
                    found = moments(truth, action, state, asked.item)
                    tally.moments[action] += weight * chance_V[asked.item] * found

    for kind, mood, scenario in itertools.product(range(2), range(2), range(2)):
        first = truth.type_K[kind] * truth.first_mood_M[mood] * truth.scenario_S[scenario]
        happen(0, (kind, mood, scenario), 0, 0, first)
    return tally.item_V / tally.item_V.sum(), tally.moments / tally.shown


def following(truth, state, opens):
    kind, mood, _ = state
    if not opens:
        return [(state, 1.0)]
    return [
        ((kind, m, s), truth.mood_MM[mood, m] * truth.scenario_S[s])
        for m, s in itertools.product(range(2), range(2))
    ]


def left(truth, item, liked):
    return 1 + truth.category_V[item] + (TINY.num_categories if liked else 0)


def questions(data, part, knows, same_request, rolling):
    """Index and question of every target that is not too long to enumerate."""
    targets = data.targets(part, same_request, rolling=rolling)
    opens_part_Q = np.diff(targets.user_Q, prepend=-1) != 0
    hidden = oracle_module.pl.read_parquet(data.folder / "truth.parquet")["scenario"].to_list()
    world_item = [id - 1 for id in data.item_ids()]
    is_temporal = isinstance(data.manifest.split, Temporal)
    for index, (user, event, end) in enumerate(
        zip(targets.user_Q, targets.event_Q, targets.history_end_Q, strict=True)
    ):
        whole = data.history(int(user))
        begin = int(data._start_U1[user])
        size, between = int(end) - begin, int(event - end)
        if size + 2 * between > LONGEST:
            continue
        opens = [True, *(np.diff(whole.request_E) != 0).tolist()]
        items = [world_item[item - 1] for item in whole.item_E]
        told = hidden[begin : begin + len(items)]
        chance_new = [1 / TINY.request_events] * (between + 1)
        if is_temporal and (opens_part_Q[index] or not rolling):
            chance_new[0] = 1.0
        if (
            knows.time or same_request == "blind"
        ):  # of one user's only target, that is where its request begins
            chance_new = [float(new) for new in opens[size : size + between + 1]]
        at = size + between
        yield (
            index,
            Question(
                events=[
                    (
                        items[t],
                        whole.action_EA[t].tolist(),
                        opens[t],
                        None if knows.scenario is None else told[t],
                    )
                    for t in range(size)
                ],
                between=between,
                chance_new=chance_new,
                item=items[at],
                scenario_for_item=told[at] if knows.scenario == "before_item" else None,
                scenario_for_action=None if knows.scenario is None else told[at],
            ),
        )


def chosen(data, part, knows, each, same_request, rolling):
    """Some of the questions, of every number of events between."""
    met = {}
    for index, asked in questions(data, part, knows, same_request, rolling):
        met.setdefault(asked.between, []).append((index, asked))
    return [pair for between in sorted(met) for pair in met[between][:each]]


def disagreement(data, part, knows, each=EACH, same_request="causal", rolling=False):
    """The largest relative difference between oracle and enumeration, and for which numbers of events between."""
    found = oracle(data, part, knows, same_request, rolling=rolling)
    truth, worst, checked = truth_of(TINY), 0.0, set()
    for index, asked in chosen(data, part, knows, each, same_request, rolling):
        item_V, moment_A4 = enumerate_all(truth, asked)
        got_V = found.item_probability(np.array([index]))[0]
        wanted = list(item_V[[id - 1 for id in data.item_ids()]])
        got = list(got_V[1:])
        like, watch, paid, rating = moment_A4
        wanted += [like[0], np.expm1(watch[2]), watch[3], 1 + 4 * rating[0]]
        got += [found.predicted["like"][index], found.predicted["watch_s"][index]]
        got += [found.mean["watch_s"][index], found.predicted["rating"][index]]
        wanted += [paid[0] * np.expm1(paid[1] / paid[0]), paid[3], np.expm1(paid[1])]
        got += [of["paid"][index] for of in (found.predicted, found.mean, found.log_mean)]
        worst = max(worst, np.max(np.abs(np.array(got) / np.array(wanted) - 1)))
        checked.add(asked.between)
    return worst, checked


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return simulate(TINY, tmp_path_factory.mktemp("tiny") / "world")


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    split = Temporal(validation=0.25, test=0.25)
    return simulate(TINY, tmp_path_factory.mktemp("cut") / "world", split=split)


@pytest.mark.parametrize("knows", TOLD, ids=str)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_the_oracle_is_an_enumeration_of_all_that_may_have_been(tiny, part, knows):
    worst, checked = disagreement(tiny, part, knows, each=8)
    assert checked == {0} and worst < 1e-9


@pytest.mark.parametrize("knows", TOLD, ids=str)
def test_so_it_is_where_events_lie_between_that_nobody_saw(cut, knows):
    worst, checked = disagreement(cut, "test", knows)
    assert checked == {0, 1, 2} and worst < 1e-9


@pytest.mark.parametrize("knows", [Knows(), Knows("with_item", time=True)], ids=str)
def test_so_it_is_where_a_target_is_blind_to_its_own_request(tiny, knows):
    """The enumeration goes through all that may have been of the events of the request that nobody saw."""
    worst, checked = disagreement(tiny, "test", knows, same_request="blind")
    assert checked >= {0, 1} and worst < 1e-9


@pytest.mark.parametrize(("same_request", "between"), [("causal", {0}), ("blind", {0, 1, 2})])
def test_so_it_is_where_histories_roll_on_through_the_part(cut, same_request, between):
    worst, checked = disagreement(cut, "test", Knows(), each=8, same_request=same_request, rolling=True)
    assert checked == between and worst < 1e-9
    whole, cut_off = (
        oracle(cut, "test", same_request=same_request, rolling=rolls) for rolls in (True, False)
    )
    changed_Q = whole.predicted["like"] != cut_off.predicted["like"]
    assert changed_Q.any() and not changed_Q.all()


def forgets_actions(monkeypatch):
    monkeypatch.setattr(
        filtering,
        "features",
        lambda response, value_E: np.zeros((4, len(value_E)))[
            : 2 * (response.trials > 0) + 2 * response.has_size
        ],
    )


def forgets_that_items_tell(monkeypatch):
    monkeypatch.setattr(
        ahead_module, "given_category", lambda machine, ahead_ULZ, category_U: ahead_ULZ.sum(1)
    )


def never_moves(monkeypatch):
    monkeypatch.setattr(filtering, "next_request", lambda machine, chance: chance)


def sees_its_own_action(monkeypatch):
    history = oracle_module._history

    def with_the_target(asked, query_R, knows):
        later = replace(asked.targets, history_end_Q=asked.targets.history_end_Q + 1)
        return history(replace(asked, targets=later), query_R, knows)

    monkeypatch.setattr(oracle_module, "_history", with_the_target)


@pytest.mark.parametrize(
    "mutant", [forgets_actions, forgets_that_items_tell, never_moves, sees_its_own_action]
)
def test_the_enumeration_catches(tiny, monkeypatch, mutant):
    mutant(monkeypatch)
    assert disagreement(tiny, "test", Knows(), each=8)[0] > 1e-2


def test_an_oracle_that_sees_its_own_request_is_caught(tiny, monkeypatch):
    sees_its_own_action(monkeypatch)  # or, where that is not the target, the event that opened its request
    assert disagreement(tiny, "test", Knows(), same_request="blind")[0] > 1e-2


def test_an_unseen_event_that_leaves_no_trace_is_caught(cut, monkeypatch):
    monkeypatch.setattr(ahead_module, "event_after", lambda machine, ahead_ULZ, new_U: ahead_ULZ)
    assert disagreement(cut, "test", Knows(time=True), each=1)[0] > 1e-2


def test_no_answer_depends_on_the_actions_that_it_predicts(tiny, tmp_path):
    data = tiny
    before, event_Q = oracle(data, "test"), data.targets("test").event_Q
    for rows, same in ((event_Q, True), (event_Q - 1, False)):
        copy = tmp_path / f"changed-{same}"
        shutil.copytree(data.folder, copy)
        action_EA = np.load(copy / "action.npy")
        action_EA[rows, 0] = 1 - action_EA[rows, 0]
        np.save(copy / "action.npy", action_EA)
        seal(copy)
        after = oracle(Dataset.open(copy), "test")
        assert (after.label_QA != before.label_QA).any() == same
        assert np.array_equal(after.predicted["like"], before.predicted["like"]) == same
        assert np.array_equal(after.category_QB, before.category_QB) == same


def test_the_oracle_sees_the_scenarios_that_a_model_sees(tiny, tmp_path):
    shown = simulate(TINY, tmp_path / "shown", shows_scenario=True)
    assert [feature.name for feature in shown.context] == ["scenario"] and not tiny.context
    scenario_E = shown.history(3).context_EF[:, 0]
    truth = oracle_module.pl.read_parquet(shown.folder / "truth.parquet")["scenario"].to_numpy()
    assert np.ptp(scenario_E - truth[shown._start_U1[3] : shown._start_U1[4]]) == 0 < np.ptp(scenario_E)
    for data, told in ((tiny, "never"), (shown, "with_item")):
        by_default, wanted = (
            oracle(data, "test", knows).predicted["like"] for knows in (Knows(), Knows(told))
        )
        assert np.array_equal(by_default, wanted)
    assert not np.array_equal(oracle(tiny, "test").predicted["like"], by_default)


def test_a_truth_that_does_not_fit_says_so(tmp_path):
    data = simulate(TINY, tmp_path / "world")
    path = data.folder / "truth.parquet"
    oracle_module.pl.read_parquet(path).head(-1).write_parquet(path)
    with pytest.raises(
        ValueError, match=r"truth\.parquet has \d+ rows; expected one row for each of \d+ events"
    ):
        oracle(data, "test")
    path.unlink()
    with pytest.raises(ValueError, match=r"truth\.parquet is missing; .*simulate again"):
        oracle(data, "test")


def test_chances_of_items_leave_nothing_but_the_items_that_never_came(tmp_path):
    world = msgspec.structs.replace(TINY, num_users=29, num_items=211)
    data = simulate(world, tmp_path / "world")
    found = oracle(data, "test")
    chance_QV = found.item_probability(slice(None))
    assert data.num_items < 200 and chance_QV.shape == (29, data.num_items + 1)
    assert (chance_QV[:, 0] == 0).all() and (chance_QV[:, 1:] > 0).all()
    truth = truth_of(world)
    absent_V = np.setdiff1d(np.arange(211), data.item_ids().to_numpy() - 1)
    missing_B = np.bincount(truth.category_V[absent_V], weights=truth.within_V[absent_V], minlength=2)
    np.testing.assert_allclose(1 - chance_QV.sum(1), found.category_QB @ missing_B)


def test_scores_rank_as_chances_do_and_have_no_ties(tmp_path):
    data = simulate(msgspec.structs.replace(TINY, num_items=13, popularity=0.0), tmp_path / "world")
    found = oracle(data, "test")
    chance_V, score_V = found.item_probability(np.array([0]))[0], found.item_scores(np.array([0]))[0]
    assert len(np.unique(chance_V)) <= 3 and len(np.unique(score_V)) == len(score_V)
    np.testing.assert_allclose(score_V, chance_V, rtol=1e-8)


def test_the_oracle_knows_the_conditions_that_a_model_is_asked_under(tmp_path):
    """A query that names the category of nearly every item leaves little to guess, and is weighed as Bayes says."""
    world = msgspec.structs.replace(TINY, num_users=301, queries=0.6, query_accuracy=0.7)
    asked = simulate(world, tmp_path / "asked", conditions=("scenario", "query"))
    assert [feature.name for feature in asked.conditions] == ["scenario", "query"] and not asked.context
    untold, told = oracle(asked, "test", Knows("before_item", query=False)), oracle(asked, "test")
    np.testing.assert_array_equal(told.item_Q, untold.item_Q)
    truth = oracle_module.pl.read_parquet(asked.folder / "truth.parquet")
    query_Q = truth["query"].to_numpy()[asked.targets("test").event_Q]
    B = world.num_categories
    for category_B, prior_B, query in zip(told.category_QB, untold.category_QB, query_Q, strict=True):
        likely_B = 0.7 * (np.arange(B) == query - 1) + 0.3 / B if query else np.ones(B)
        np.testing.assert_allclose(category_B, prior_B * likely_B / (prior_B * likely_B).sum())
    category_Q = told.category_V[told.item_Q - 1]
    rows = np.arange(len(category_Q))
    surprise = [-np.log(each.category_QB[rows, category_Q]).mean() for each in (told, untold)]
    assert surprise[0] < surprise[1] - 0.1 and 0.4 < (query_Q > 0).mean() < 0.8
