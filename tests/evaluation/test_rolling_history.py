"""Histories that roll on through the part that is asked about: every answer against one event asked about alone."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from small_runs import PROTOCOL
from tiny import (
    EVERY_LAYOUT,
    assert_caught,
    assert_not_vacuous,
    before_the_next,
    model_of,
    part_of,
    prepared,
    random_log,
    trunk_of,
)

from plait.data import Dataset, SplitColumn
from plait.engine import plain
from plait.engine.state import encode
from plait.evaluation.answers import answers_of
from plait.evaluation.counting import baselines_of
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.settings import Optim
from plait.layouts import Layout, audit, resolve
from plait.layouts.event_roles import SameRequest
from plait.metrics.retrieval import NEVER
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import query_inputs
from plait.models.questions import Exposure

ROLLING = replace(PROTOCOL, rolling_history=True)
WINDOW = PROTOCOL.max_events
BEGINS, TESTED = 4, 6  # events of a user before validation, and before the test


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Parts of several events. Requests of 3, 2, 3, 2, ... events: two of a user lie on both sides of a cut."""
    nth = pl.int_range(pl.len()).over("user")
    part = pl.when(nth < BEGINS).then(pl.lit("train")).when(nth < TESTED).then(pl.lit("validation"))
    log = random_log(18).with_columns(
        time=1_000_000 + 60 * nth // 150 * 150, part=part.otherwise(pl.lit("test"))
    )
    return prepared(log, tmp_path_factory.mktemp("rolling") / "data", split=SplitColumn("part"))


def model_for(layout: Layout, dataset: Dataset, same_request: SameRequest) -> GenerativeRecommender:
    conditions = {"conditions": dataset.conditions} if "c" in layout.fields else {}
    settings = ModelSettings(trunk=trunk_of(), exposure=Exposure(same_request=same_request))
    return model_of(layout, max_events=WINDOW, settings=settings, **conditions)


@torch.no_grad()
def check_rolling(dataset: Dataset, layout: Layout, same_request: SameRequest = "causal") -> None:
    model, met = model_for(layout, dataset, same_request), Counter[str]()
    found = answers_of(model, dataset, "test", ROLLING)
    queries = iter(range(len(found.user_Q)))
    for user in range(dataset.num_users):
        whole = dataset.history(user)
        requests = whole.request_E.tolist()
        for place in range(TESTED, len(requests)):
            own = requests.index(requests[place])
            if same_request == "blind" and own == 0:
                continue
            query, end = next(queries), place
            if model.plan.context_ends_before == "request" and own > 0:
                end = own
            asked_at = max(own, TESTED) if same_request == "blind" else place
            beside = [at for at in range(asked_at, len(requests)) if requests[at] == requests[place]]
            others = whole.item_E[beside if same_request == "blind" else [place]].tolist()
            item = int(whole.item_E[place])
            assert found.item_Q[query] == item
            if found.rank_Q is not None:
                begin = max(0, end - WINDOW)
                lead = min(begin, model.plan.lead)
                to_come = before_the_next(part_of(whole, 0, begin - lead, end, lead))
                to_come.condition_EG[-1] = whole.condition_EG[place]
                (state_1D,) = model(query_inputs(model.plan, to_come, ("i",)))
                score_V = model.item_scores(state_1D)[0].numpy()
                seen = set(whole.item_E[:asked_at].tolist())
                rivals = [i for i in range(1, dataset.num_items + 1) if i not in seen | {item, *others}]
                expected = NEVER if item in seen else 1 + sum(score_V[i] >= score_V[item] for i in rivals)
                assert found.rank_Q[query] == expected
                met["ranks above 1"] += 1 < expected < NEVER
            if audit(layout).can_score != "no":
                state = encode(part_of(whole, 0, 0, end), model.plan.window, model.plan.lead)
                score = plain.score(model, state, np.array([[item]]))
                for name, predicted_Q in found.predicted.items():
                    np.testing.assert_allclose(predicted_Q[query], score[name][0, 0], rtol=1e-5)
            met["sees events of the test"] += end > TESTED
            met["asked from before its request"] += end < place
    assert next(queries, None) is None
    if model.plan.context_ends_before == "event":
        met["asked from before its request"] = len(found.user_Q)
    assert_not_vacuous(met, above=6)


@pytest.mark.parametrize("layout", EVERY_LAYOUT)
def test_answers_are_those_of_one_event_at_a_time(dataset, layout):
    check_rolling(dataset, layout)


@pytest.mark.parametrize("layout", ["lac", "pc", "genrank"])
def test_blind_to_its_own_request(dataset, layout):
    check_rolling(dataset, resolve(layout), "blind")


@pytest.mark.parametrize("same_request", ["causal", "blind"])
def test_histories_that_end_before_the_part_are_caught(dataset, monkeypatch, same_request):
    monkeypatch.setattr(Dataset, "_rolled_on", lambda self, targets, same_request: targets)
    assert_caught(check_rolling, dataset, resolve("lac"), same_request)


@pytest.mark.parametrize("same_request", ["causal", "blind"])
def test_a_list_is_what_is_asked_at_one_moment(dataset, same_request):
    """One for each event or, blind, one for what the test has of each request."""
    targets, expected = dataset.targets("test", same_request, rolling=True), []
    for user, event in zip(targets.user_Q.tolist(), targets.event_Q.tolist(), strict=True):
        place = event - int(dataset._start_U1[user])
        request = dataset.history(user).request_E[place]
        expected.append((user, int(request) if same_request == "blind" else place))
    lists = dataset.lists(targets).tolist()
    assert [list(dict.fromkeys(expected)).index(key) for key in expected] == lists
    assert len(set(lists)) > dataset.num_users


def test_counting_rolls_on_as_well(dataset, tmp_path):
    """A user's recent residuals tell more of a later event, and its answers are kept apart from the others."""
    _, still = baselines_of(dataset, PROTOCOL, "causal", tmp_path)
    _, rolled = baselines_of(dataset, ROLLING, "causal", tmp_path)
    name = "item and recent residuals"
    first_Q = np.diff(still[name].user_Q, prepend=-1) != 0
    changed_Q = still[name].predicted["rating"] != rolled[name].predicted["rating"]
    assert changed_Q[~first_Q].mean() > 0.5 and still[name].user_Q.tolist() == rolled[name].user_Q.tolist()
    assert len(set(rolled["popularity"].list_Q)) == len(first_Q) > len(set(still["popularity"].list_Q))


@pytest.mark.parametrize(
    ("protocol", "said"),
    [(PROTOCOL, "one list, from what lay before the part"), (ROLLING, "histories roll on through a part")],
)
def test_the_protocol_line_says_it(dataset, protocol, said):
    settings = ModelSettings(trunk=trunk_of())
    assert said in protocol_line(dataset, settings, Optim(precision="fp32"), protocol, [0])
