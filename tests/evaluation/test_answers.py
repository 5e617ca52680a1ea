"""A model's answers on held-out events, against a slow reference that looks at one user at a time."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from described import LATE, described, reading_model
from small_runs import PROTOCOL
from tiny import (
    EVERY_LAYOUT,
    NO_SCORERS,
    NUM_ITEMS,
    RETRIEVERS,
    SCORERS,
    assert_caught,
    assert_not_vacuous,
    before_the_next,
    model_of,
    part_of,
    prepared,
    random_log,
    trunk_of,
)
from tolerance import SAME_SUM

from plait.data import Dataset, Temporal
from plait.data.simulator import World, simulate
from plait.engine import plain, steps
from plait.engine.ranking import Scores
from plait.engine.state import encode
from plait.evaluation import answers
from plait.evaluation.answers import (
    Answers,
    answers_of,
    check_negatives,
    measure,
    metric_values,
    negatives_of,
    targets_of,
)
from plait.evaluation.run_files import ANSWERS, load_answers, save_answers
from plait.evaluation.settings import Protocol
from plait.files import HASHES
from plait.layouts import Layout, audit, resolve
from plait.metrics.retrieval import NEVER
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import query_inputs
from plait.models.questions import Exposure
from plait.nn.action_kinds import UNIFORM_VARIANCE

WINDOW = PROTOCOL.max_events


def held_out(dataset: Dataset, part: str, user: int) -> tuple:
    """A user's history before the held-out event, and the event: leave-one-out, read from the whole history."""
    whole = dataset.history(user)
    place = len(whole.item_E) - {"test": 1, "validation": 2}[part]
    return part_of(whole, 0, 0, place), int(whole.item_E[place]), whole.action_EA[place]


def known_before(dataset: Dataset, part: str, user: int) -> np.ndarray:
    """The conditions that the held-out event came with, as one row."""
    condition_EG = dataset.history(user).condition_EG
    return condition_EG[len(condition_EG) - {"test": 1, "validation": 2}[part]][None]


def model_for(layout: Layout, dataset: Dataset) -> GenerativeRecommender:
    """Conditions are the dataset's, where the layout shows any."""
    conditions = {"conditions": dataset.conditions} if "c" in layout.fields else {}
    return model_of(layout, max_events=WINDOW, **conditions)


@torch.no_grad()
def check_answers(dataset: Dataset, layout: Layout, part: str = "test", filter_seen: bool = True) -> None:
    model = model_for(layout, dataset)
    answers = answers_of(model, dataset, part, replace(PROTOCOL, filter_seen=filter_seen))
    assert answers.user_Q.tolist() == list(range(dataset.num_users))
    met = {"ranks above 1": 0, "answers": 0, "answers seen before": 0}
    for user in range(dataset.num_users):
        history, item, action_A = held_out(dataset, part, user)
        state = encode(history, WINDOW, layout.lag)
        assert answers.item_Q[user] == item
        np.testing.assert_array_equal(answers.label_QA[user], action_A)
        if answers.rank_Q is not None:
            to_come = before_the_next(state.events)
            condition_EG = np.concatenate([to_come.condition_EG[:-1], known_before(dataset, part, user)])
            to_come = replace(to_come, condition_EG=condition_EG)
            (state_1D,) = model(query_inputs(model.plan, to_come, ("i",)))
            score_V = model.item_scores(state_1D)[0].numpy()
            seen = set(history.item_E.tolist()) if filter_seen else set()
            rivals = [i for i in range(1, dataset.num_items + 1) if i != item and i not in seen]
            last = NEVER
            expected = last if item in seen else 1 + sum(score_V[i] >= score_V[item] for i in rivals)
            assert answers.rank_Q[user] == expected
            met["ranks above 1"] += int(1 < answers.rank_Q[user] < last)
            met["answers seen before"] += int(item in seen)
        if audit(layout).can_score != "no":
            score = plain.score(model, state, np.array([[item]]))
            for name, predicted_Q in answers.predicted.items():
                np.testing.assert_allclose(predicted_Q[user], score[name][0, 0], rtol=1e-5)
        met["answers"] += 1
    assert (answers.rank_Q is not None) == audit(layout).can_retrieve
    if answers.rank_Q is None:
        met.pop("ranks above 1")
    seen_before = met.pop("answers seen before")
    assert (seen_before > 0) == (filter_seen and answers.rank_Q is not None)
    assert_not_vacuous(met, above=6)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_answers_are_those_of_one_user_at_a_time(dataset, layout):
    check_answers(dataset, layout)


@pytest.mark.parametrize(
    ("part", "filter_seen"), [("test", False), ("validation", True), ("validation", False)]
)
def test_answers_of_validation_and_without_filter(dataset, part, filter_seen):
    check_answers(dataset, resolve("lac_patched"), part, filter_seen)


def test_a_filter_that_is_left_out_is_caught(dataset, monkeypatch):
    monkeypatch.setattr(
        Dataset,
        "seen_items",
        lambda self, targets: (np.zeros(len(targets) + 1, np.int64), np.zeros(0, np.int64)),
    )
    assert_caught(check_answers, dataset, resolve("lac"))


def test_a_rank_that_favours_the_answer_in_ties_is_caught(dataset, monkeypatch):
    monkeypatch.setattr(
        answers.retrieval,
        "ranks_of",
        lambda answer_Q, score_QC: np.ones(len(answer_Q), np.int64),
    )
    assert_caught(check_answers, dataset, resolve("item"))


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The same log with features of items, users and moments, split by time: several targets share a history."""
    return described(tmp_path_factory.mktemp("described") / "data", split=Temporal(validation=0.2, test=0.2))


@torch.no_grad()
def check_answers_with_features(dataset: Dataset, layout: str, settings: ModelSettings) -> None:
    """The engine, asked about one held-out event at a time, with the moment's context and time."""
    model = reading_model(dataset, str(resolve(layout)), settings, WINDOW)
    answers = answers_of(model, dataset, "test", PROTOCOL)
    targets = dataset.targets("test")
    asked = {"contexts": set(), "users": set()}
    for query in range(len(targets)):
        user = int(targets.user_Q[query])
        whole, begin = dataset.history(user), int(dataset._start_U1[user])
        place, end = int(targets.event_Q[query]) - begin, int(targets.history_end_Q[query]) - begin
        state = encode(part_of(whole, 0, 0, end), WINDOW, model.layout.lag)
        item_11 = np.array([[answers.item_Q[query]]])
        score = plain.score(
            model, state, item_11, at_s=int(whole.time_s_E[place]), context_F=whole.context_EF[place]
        )
        for name, predicted_Q in answers.predicted.items():
            np.testing.assert_allclose(predicted_Q[query], score[name][0, 0], rtol=2e-5)
        asked["contexts"].add(tuple(whole.context_EF[place].tolist()))
        asked["users"].add(user)
    assert len(asked["contexts"]) > 5 and 2 < len(asked["users"]) < len(targets)
    assert all(len(np.unique(predicted_Q)) > 5 for predicted_Q in answers.predicted.values())


@pytest.mark.parametrize("layout", ["lac", "pc", "interleaved", "attn_mvp", "genrank"])
def test_features_and_late_features_are_served_as_evaluated(known, layout):
    check_answers_with_features(known, layout, ModelSettings(trunk=trunk_of(), late=LATE))


def test_a_known_time_is_served_as_evaluated(known):
    exposure = Exposure(time_anchor="next", same_request="blind")
    settings = ModelSettings(trunk=trunk_of("rab"), late=LATE, exposure=exposure)
    check_answers_with_features(known, "interleaved", settings)


@pytest.mark.parametrize("forgotten", ["late features", "context"])
def test_answers_that_leave_out_what_is_known_are_caught(known, forgotten, monkeypatch):
    right = answers.query_inputs

    def without(*arguments, **more):
        inputs = right(*arguments, **more)
        if forgotten == "context":
            return replace(inputs, context_EF=torch.zeros_like(inputs.context_EF))
        late = [
            a if a.late_MF is None else replace(a, late_MF=torch.zeros_like(a.late_MF))
            for a in inputs.questions
        ]
        return replace(inputs, questions=tuple(late))

    monkeypatch.setattr(answers, "query_inputs", without)
    settings = ModelSettings(trunk=trunk_of(), late=LATE)
    assert_caught(check_answers_with_features, known, "lac", settings)


@pytest.mark.parametrize("negatives", [None, 3])
@pytest.mark.parametrize(("queries", "items"), [(5, NUM_ITEMS), (1, 4)])
def test_steps_change_no_answer(dataset, negatives, queries, items, monkeypatch):
    """So many of the longest queries at a time, and so many items of the catalogue for each of them."""
    model, protocol = model_of(resolve("lac"), max_events=WINDOW), replace(PROTOCOL, negatives=negatives)
    whole = answers_of(model, dataset, "test", protocol)
    longest = int(steps.tokens_of(model, np.array([WINDOW]))[0])
    monkeypatch.setattr(steps, "STEP_BYTES", queries * longest * steps.bytes_per_token(model))
    monkeypatch.setattr(steps, "STEP_LOGITS", queries * items)
    in_steps = answers_of(model, dataset, "test", protocol)
    np.testing.assert_allclose(whole.predicted["rating"], in_steps.predicted["rating"], rtol=SAME_SUM)
    assert whole.loss == pytest.approx(in_steps.loss, rel=SAME_SUM)
    assert whole.rank_Q.tolist() == in_steps.rank_Q.tolist()


def test_sampled_negatives_are_unseen_items(dataset):
    """With as many negatives as a user has unseen items, the sample is the whole catalogue; with fewer, ranks can
    only be better."""
    model = model_of(resolve("lac"), max_events=WINDOW)
    full = answers_of(model, dataset, "test", PROTOCOL)
    unseen_Q = np.array(
        [
            dataset.num_items - len({*history.item_E.tolist(), item})
            for history, item, _ in (held_out(dataset, "test", user) for user in range(dataset.num_users))
        ]
    )
    fewest = int(unseen_Q.min())
    sampled = answers_of(model, dataset, "test", replace(PROTOCOL, negatives=fewest))
    again = answers_of(model, dataset, "test", replace(PROTOCOL, negatives=fewest))
    other = answers_of(model, dataset, "test", replace(PROTOCOL, negatives=fewest, seed=1))
    exact_Q = unseen_Q == fewest
    assert exact_Q.any() and not exact_Q.all()
    assert sampled.rank_Q[exact_Q].tolist() == full.rank_Q[exact_Q].tolist()
    assert (sampled.rank_Q <= full.rank_Q).all() and (sampled.rank_Q < full.rank_Q).any()
    assert sampled.rank_Q.tolist() == again.rank_Q.tolist() != other.rank_Q.tolist()
    targets, more = (
        targets_of(dataset, "test", model.plan, PROTOCOL),
        replace(PROTOCOL, negatives=fewest + 1),
    )
    check_negatives(dataset, "test", targets, replace(PROTOCOL, negatives=fewest))
    check_negatives(dataset, "test", targets, replace(more, filter_seen=False))
    too_few = f"has {fewest} unseen items of 17, asked for {fewest + 1}"
    with pytest.raises(ValueError, match=too_few):
        answers_of(model, dataset, "test", more)
    with pytest.raises(ValueError, match=f"negatives = {fewest + 1} is too much for the test: .*{too_few}"):
        check_negatives(dataset, "test", targets, more)


def hits_of_who_knows_what_was_seen(dataset: Dataset, protocol: Protocol) -> float:
    """HR@1 of scores that tell seen items from others, and nothing else."""
    targets = dataset.targets("test")
    start_Q1, seen_S = dataset.seen_items(targets)
    query_S = np.repeat(np.arange(len(targets)), np.diff(start_Q1))
    score_QV = np.random.default_rng(0).random((len(targets), dataset.num_items + 1), dtype=np.float32)
    score_QV[query_S, seen_S] += 1
    item_V = torch.arange(1, dataset.num_items + 1)
    whole = (Scores(item_V, torch.from_numpy(score_QV[:, 1:])),)
    negatives = negatives_of(dataset, targets, protocol)
    rank_Q = answers.ranks_in_catalogue(lambda: whole, dataset, targets, protocol, negatives)
    return float((rank_Q == 1).mean())


def test_sampled_items_do_not_tell_an_answer_that_was_seen(tmp_path):
    """Where seen items stay in the list, an answer among unseen samples would stand out by having been seen."""
    dataset = simulate(World(num_users=307, num_events=20, num_items=30), tmp_path / "world")
    kept = replace(PROTOCOL, negatives=9, filter_seen=False)
    again = np.mean([item in seen for item, seen in answers_and_seen(dataset)])
    assert 0.3 < again < 0.7
    assert hits_of_who_knows_what_was_seen(dataset, kept) < 0.35  # 0.66 against unseen items


def test_what_was_seen_does_not_depend_on_how_a_layout_asks(tmp_path):
    """Asked as a candidate, the target's history ends before its request; what the user has seen does not."""
    world = World(num_users=101, num_events=12, num_items=NUM_ITEMS, request_events=4.0)
    dataset = simulate(world, tmp_path / "world")
    layout, protocol = resolve("lac"), replace(PROTOCOL, filter_seen=True)
    settings, actions = ModelSettings(trunk=trunk_of()), dataset.actions
    missed = []
    for supervise in ("all", "candidates"):
        model = model_of(layout, actions=actions, max_events=WINDOW, settings=settings)
        answers = answers_of(model, dataset, "test", replace(protocol, supervise=supervise))
        missed.append((answers.rank_Q == NEVER).tolist())
    assert missed[0] == missed[1] and 0 < sum(missed[0]) < len(missed[0])


def check_ranks_are_places(dataset: Dataset, same_request: str, chosen: bool) -> None:
    """The rank of an answer is its place in the list of who asks at its time, with all that the user had by then."""
    layout, exposure = resolve("lac"), Exposure(same_request=same_request)
    settings = ModelSettings(trunk=trunk_of(), exposure=exposure)
    asked = {"asked_as_candidates": chosen, "actions": dataset.actions, "max_events": WINDOW}
    model = model_of(layout, settings=settings, **asked)
    protocol = replace(PROTOCOL, filter_seen=True, supervise="candidates" if chosen else "all")
    answers = answers_of(model, dataset, "test", protocol)
    met = {"in a request that had begun": 0, "seen before its request": 0, "seen in its request": 0, "new": 0}
    for user, item, rank in zip(answers.user_Q.tolist(), answers.item_Q, answers.rank_Q, strict=True):
        whole = dataset.history(user)
        state = encode(part_of(whole, 0, 0, len(whole.item_E) - 1), WINDOW, layout.lag)
        in_request = np.flatnonzero(whole.request_E == whole.request_E[-1])
        before, own = np.split(whole.item_E[:-1], [in_request[0]])
        if chosen and not len(before):
            continue  # serving refuses; evaluation asks from what there is
        k = NUM_ITEMS - len(state.seen_U[0])
        at_s = int(whole.time_s_E[-1])
        listed = plain.retrieve(model, state, k, True, at_s=at_s)[0][0].tolist() if k else []
        assert rank == (1 + listed.index(item) if item in listed else NEVER)
        met["in a request that had begun"] += len(in_request) > 1 and item in listed
        met["seen before its request"] += item in before
        met["seen in its request"] += item in own and item not in before
        met["new"] += item in listed
    assert_not_vacuous(met)


@pytest.fixture(scope="module")
def in_requests(tmp_path_factory):
    world = World(num_users=101, num_events=12, num_items=NUM_ITEMS, request_events=4.0)
    return simulate(world, tmp_path_factory.mktemp("requests") / "world")


@pytest.mark.parametrize(("same_request", "chosen"), [("causal", False), ("causal", True), ("blind", False)])
def test_a_rank_is_the_place_in_the_list_that_is_served(in_requests, same_request, chosen):
    check_ranks_are_places(in_requests, same_request, chosen)


def test_seen_items_that_leave_out_the_own_request_are_caught(in_requests, monkeypatch):
    right = Dataset.seen_items
    shorter = lambda data, asked: right(data, replace(asked, seen_end_Q=asked.history_end_Q))  # noqa: E731
    monkeypatch.setattr(Dataset, "seen_items", shorter)
    assert_caught(check_ranks_are_places, in_requests, "blind", False)


def answers_and_seen(dataset: Dataset) -> list[tuple[int, set[int]]]:
    histories = [dataset.history(user).item_E for user in range(dataset.num_users)]
    return [(int(item_E[-1]), set(item_E[:-1].tolist())) for item_E in histories]


def test_action_losses_are_means_over_the_labels_that_are_there(dataset):
    found = answers_of(model_of(resolve("lac"), max_events=WINDOW), dataset, "test", PROTOCOL)
    rating_Q, liked_Q = found.label_QA.T
    assert 0 < np.isnan(rating_Q).sum() < len(rating_Q)
    error_Q = (found.predicted["rating"] - rating_Q) / 4
    p_Q = found.predicted["liked"]
    assert found.loss["rating"] == pytest.approx(np.nanmean(error_Q**2) / UNIFORM_VARIANCE, rel=1e-4)
    nll_Q = -(liked_Q * np.log(p_Q) + (1 - liked_Q) * np.log(1 - p_Q))
    assert found.loss["liked"] == pytest.approx(np.nanmean(nll_Q), rel=1e-4)


RANKED = {f"{name}@{k}" for name in ("hr", "ndcg") for k in (1, 5, 10, 50)} | {"mrr"}
ACTED = {
    *(f"{name}:rating" for name in ("rmse", "mae", "rmse_scaled", "mae_scaled")),
    *(f"{name}:liked" for name in ("auc", "gauc", "ne", "log_loss", "ece")),
}


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_metrics_are_those_that_the_layout_can_have(dataset, layout):
    answers = answers_of(model_for(layout, dataset), dataset, "test", PROTOCOL)
    predicts_actions = any(target.target.fact.field == "a" for target in audit(layout).targets)
    expected = (RANKED if audit(layout).can_retrieve else set()) | (ACTED if predicts_actions else set())
    assert set(measure(answers)) == expected
    kinds, actions = ("loss", "normalised_error"), ("rating", "liked", "actions")
    losses = {f"{kind}:{name}" for kind in kinds for name in actions} if predicts_actions else set()
    undefined = {"gauc:liked"}  # no user has two held-out events
    assert set(metric_values(answers)) == (expected - undefined) | losses


def test_the_values_of_answers_are_the_metrics_rooms_own(dataset):
    answers = answers_of(model_of(resolve("lac"), max_events=WINDOW), dataset, "test", PROTOCOL)
    values = metric_values(answers)
    known_Q = ~np.isnan(answers.label_QA[:, 0])
    error_Q = (answers.predicted["rating"] - answers.label_QA[:, 0])[known_Q]
    assert values["hr@5"] == pytest.approx((answers.rank_Q <= 5).mean())
    assert values["mrr"] == pytest.approx((1 / answers.rank_Q).mean())
    assert values["rmse:rating"] == pytest.approx(np.sqrt((error_Q**2).mean()), rel=1e-5)
    assert values["rmse_scaled:rating"] == pytest.approx(values["rmse:rating"] / 4, rel=1e-5)
    assert values["loss:actions"] == pytest.approx(values["loss:rating"] + values["loss:liked"])
    assert values["normalised_error:liked"] == values["ne:liked"]
    variance = np.var(answers.label_QA[known_Q, 0].astype(np.float64))
    assert values["normalised_error:rating"] == pytest.approx((error_Q**2).mean() / variance, rel=1e-4)
    of_rating = {f"{kind}:actions": values[f"{kind}:rating"] for kind in ("loss", "normalised_error")}
    assert metric_values(answers, untrained=["liked"]) == values | of_rating
    assert "loss:actions" not in metric_values(answers, untrained=["liked", "rating"])


@pytest.mark.parametrize("layout", [RETRIEVERS[0], SCORERS[0], NO_SCORERS[-1], SCORERS[-1]])
def test_answers_come_back_as_they_were_saved(dataset, layout, tmp_path):
    answers = answers_of(model_for(layout, dataset), dataset, "test", PROTOCOL)
    save_answers(tmp_path / ANSWERS, answers)
    found = load_answers(tmp_path, dataset.actions)
    assert_equal_answers(found, answers)
    assert {n: s.value for n, s in measure(found).items()} == {
        n: s.value for n, s in measure(answers).items()
    }
    assert {path.name for path in tmp_path.iterdir()} == {ANSWERS, HASHES}


def assert_equal_answers(found: Answers, expected: Answers) -> None:
    assert (found.rank_Q is None) == (expected.rank_Q is None)
    assert found.predicted.keys() == expected.predicted.keys()
    assert found.actions == expected.actions
    pairs = [
        (getattr(found, name), getattr(expected, name)) for name in ("user_Q", "list_Q", "item_Q", "label_QA")
    ]
    pairs += [(found.predicted[name], value) for name, value in expected.predicted.items()]
    pairs += [(found.rank_Q, expected.rank_Q)] if expected.rank_Q is not None else []
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_a_segment_without_events_cannot_be_evaluated(tmp_path):
    log = random_log()  # users come one after the other: the last has no history before the cut
    first_s = log.group_by("user").agg(pl.col("time").min()).sort("user")["time"]
    late = Temporal(cut_validation_s=first_s[-2], cut_test_s=first_s[-1])
    dataset = prepared(log, tmp_path / "late", split=late)
    assert len(dataset.history(dataset.num_users - 1).item_E)
    with pytest.raises(ValueError, match="has no test events to evaluate: no user with an event in it"):
        answers_of(model_of(resolve("lac")), dataset, "test", Protocol())


def test_evaluation_is_without_dropout_and_leaves_the_model_so(dataset):
    settings = ModelSettings(trunk=trunk_of(dropout=0.5))
    model = model_of(resolve("lac"), max_events=WINDOW, settings=settings).train()
    answers = answers_of(model, dataset, "test", PROTOCOL)
    assert not model.training
    assert_equal_answers(answers_of(model, dataset, "test", PROTOCOL), answers)
