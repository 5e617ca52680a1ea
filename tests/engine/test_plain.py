"""Scoring and retrieval: the answer for a user and an item depends on that user and that item alone."""

import itertools
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import (
    EVERY_LAYOUT,
    EVERY_POSITION,
    NO_SCORERS,
    NUM_ITEMS,
    RETRIEVERS,
    SCORERS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    before_the_next,
    model_of,
    part_of,
    together,
    trunk_of,
)

from plait.engine import asking, plain, steps
from plait.engine.state import State, encode, window
from plait.layouts import Layout, audit, resolve
from plait.layouts.event_roles import SameRequest
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import query_inputs
from plait.models.late import LateSettings
from plait.models.questions import Exposure
from plait.nn.config import TrunkConfig
from plait.schema import UNKNOWN_ITEM, EventBatch

WINDOW = 4  # shorter than some histories
LENGTHS = (7, 1, 4)
ITEMS = np.array([[3, 5, 16, 1, 8], [2, 9, 4, 11, 17], [6, 6, 1, 13, 2]])
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)

NOT_RETRIEVERS = [p for p in EVERY_LAYOUT if p not in RETRIEVERS]


def histories() -> EventBatch:
    """Requests of one to three events, each at one time: that of its last event in `batch_of`."""
    batch, request_E = batch_of(LENGTHS), np.array([0, 0, 1, 2, 2, 3, 3, 0, 0, 1, 1, 1])
    last_E = np.array([1, 1, 2, 4, 4, 6, 6, 7, 8, 11, 11, 11])
    return replace(batch, request_E=request_E, time_s_E=batch.time_s_E[last_E])


def state_of(layout: Layout, *users: int) -> State:
    batch = histories()
    if users:
        (user,) = users
        batch = part_of(batch, user)
    return encode(batch, WINDOW, layout.lag)


def short_model(
    layout: Layout, positions: str = "learned", same_request: SameRequest = "causal"
) -> GenerativeRecommender:
    settings = ModelSettings(trunk=trunk_of(positions), exposure=Exposure(same_request=same_request))
    return model_of(layout, max_events=WINDOW, settings=settings)


def check_scores(layout: Layout, positions: str = "learned", same_request: SameRequest = "causal") -> None:
    """Many candidates of many users at once, against one candidate of one user at a time."""
    model = short_model(layout, positions, same_request)
    at_once = plain.score(model, state_of(layout), ITEMS)
    assert set(at_once) == {"rating", "liked"}
    for name, score_UC in at_once.items():
        assert score_UC.shape == ITEMS.shape
        same = 1 + 4 * (layout.rides == {"pool"})  # twins; and AttnLFA's user with a single action to weigh
        assert len(np.unique(score_UC)) >= ITEMS.size - same, "equal scores prove nothing"
        for user, candidate in np.ndindex(*ITEMS.shape):
            alone = plain.score(
                model, state_of(layout, user), ITEMS[user : user + 1, candidate : candidate + 1]
            )
            close(score_UC[user, candidate], alone[name][0, 0])


@pytest.mark.parametrize(
    ("positions", "same_request"),
    [*((positions, "causal") for positions in EVERY_POSITION), ("learned", "blind")],
)
@pytest.mark.parametrize("layout", SCORERS)
def test_many_candidates_are_scored_as_one_at_a_time(layout, positions, same_request):
    check_scores(layout, positions, same_request)


def test_histories_given_to_other_candidates_are_caught(monkeypatch):
    """All users once, then all again, where each user's candidates stand together."""

    def in_turns(events, times):
        one_by_one = [part_of(events, user, lead=int(lead)) for user, lead in enumerate(events.lead_U)]
        return together(*(one_by_one * times))

    monkeypatch.setattr(plain, "repeated", in_turns)
    assert_caught(check_scores, resolve("lac"))


@pytest.mark.parametrize("layout", SCORERS)
def test_neither_the_order_nor_the_company_of_candidates_matters(layout, monkeypatch):
    model, state = short_model(layout), state_of(layout)
    whole = plain.score(model, state, ITEMS)
    order = np.random.default_rng(0).permutation(np.tile(np.arange(ITEMS.shape[1]), 2))
    shuffled = plain.score(model, state, ITEMS[:, order])
    for name, score_UC in whole.items():
        close(shuffled[name], score_UC[:, order])


def check_steps(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of the longest sequences in memory at a time, of users and of candidates, give the answers of all."""
    late = LateSettings(windows=(2,))
    settings = ModelSettings(trunk=trunk_of(), exposure=Exposure(same_request="blind"), late=late)
    model, state = model_of(resolve("lac"), max_events=WINDOW, settings=settings), state_of(resolve("lac"))
    at_s = int(state.events.time_s_E[-1])  # of the last user's last request, and of no other's
    ask = partial(plain.score, model, state, ITEMS, at_s=at_s), partial(plain.retrieve, model, state, 5, True)
    scores, retrieved = (asked() for asked in ask)
    met = {"sequences": [], "tokens": [], "statistics": []}

    def inputs(plan, batch, *arguments, right=plain.query_inputs, **more):
        met["sequences"].append(batch.num_users)
        met["tokens"].append(len(batch.item_E))
        return right(plan, batch, *arguments, **more)

    def statistics(model, right=GenerativeRecommender.late_statistics):
        met["statistics"].append(model)
        return right(model)

    with monkeypatch.context() as patch:
        longest = int(steps.tokens_of(model, np.array([max(LENGTHS)]))[0])
        patch.setattr(steps, "STEP_BYTES", size * longest * steps.bytes_per_token(model))
        patch.setattr(steps, "STEP_LOGITS", size * NUM_ITEMS)
        patch.setattr(plain, "query_inputs", inputs)
        patch.setattr(GenerativeRecommender, "late_statistics", statistics)
        scores_in_steps, retrieved_in_steps = (asked() for asked in ask)
    for name, score_UC in scores.items():
        close(scores_in_steps[name], score_UC)
    for found_UK, expected_UK in zip(retrieved_in_steps, retrieved, strict=True):
        close(found_UK, expected_UK)
    assert max(met["tokens"]) <= size * longest and sum(met["sequences"]) == ITEMS.size + len(LENGTHS)
    assert len(met["statistics"]) == 1, "they are the same for all steps"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_steps_of_users_and_of_candidates_change_no_answer(size, monkeypatch):
    check_steps(size, monkeypatch)


def test_steps_that_all_ask_about_the_first_users_are_caught(monkeypatch):
    right = asking.Coming.of
    first_ones = lambda coming, users: right(coming, slice(0, len(coming.time_s_U[users])))  # noqa: E731
    monkeypatch.setattr(asking.Coming, "of", first_ones)
    assert_caught(check_steps, 1, monkeypatch)


def test_a_twin_gets_the_same_score():
    score = plain.score(short_model(resolve("lac")), state_of(resolve("lac")), ITEMS)["rating"]
    assert ITEMS[2, 0] == ITEMS[2, 1]
    close(score[2, 0], score[2, 1])


TIMES_S = np.array([[1_000_400], [9_000_000]])  # both after the last event, in other buckets of time
CLOCKS = [
    (TrunkConfig(dim=12, num_layers=1, num_heads=2, dropout=0.0, positions=positions, rab=rab), anchor)
    for positions, rab, anchor in (
        ("learned", "both", "current"),
        ("genrank", "both", "current"),
        ("rab", "time", "current"),
        ("rab", "both", "next"),
        ("rab", "position", "next"),
        ("rab", "both", "request"),
    )
]
CLOCKED = [resolve(name) for name in ("lac", "pc", "interleaved", "genrank")]
CLOCKED.append(Layout.parse("a[t-1] -> i[t]; i[t] -> a[t]"))


def clock_model(layout: Layout, trunk: TrunkConfig, anchor: str) -> GenerativeRecommender | None:
    settings = ModelSettings(trunk=trunk, exposure=Exposure(time_anchor=anchor))
    try:
        return model_of(layout, max_events=WINDOW, settings=settings)
    except ValueError:  # not for each other; `check_supported` has its own tests
        return None


@torch.no_grad()
def states_at(model: GenerativeRecommender, state: State, field: str) -> list[torch.Tensor]:
    events = window(state.events, WINDOW, model.layout.lag)
    batches = (before_the_next(events, time_s_U) for time_s_U in TIMES_S)
    return [model(query_inputs(model.plan, batch, (field,)))[0] for batch in batches]


def answer(model: GenerativeRecommender, state: State, field: str, at_s: int | None) -> np.ndarray:
    if field == "a":
        return plain.score(model, state, ITEMS[: len(state.id_U), :2], at_s=at_s)["rating"]
    return plain.retrieve(model, state, 5, False, at_s=at_s)[1]


def check_time() -> None:
    """The time of a request changes the answer of exactly the models that ask for it; others need none."""
    met = {("a", True): 0, ("a", False): 0, ("i", True): 0, ("i", False): 0}
    for (trunk, anchor), layout in itertools.product(CLOCKS, CLOCKED):
        model, state = clock_model(layout, trunk, anchor), state_of(layout, 0)
        verdict = audit(layout)
        can = {"a": verdict.can_score != "no", "i": verdict.can_retrieve}
        for field in [field for field in can if model and can[field]]:
            early, late = states_at(model, state, field)
            knows = not torch.equal(early, late)
            assert asking.needs_time(model.layout, model.config.settings, field) == knows, (
                layout,
                trunk,
                anchor,
                field,
            )
            answers = [answer(model, state, field, int(at_s)) for (at_s,) in TIMES_S]
            assert np.array_equal(*answers) != knows
            if not knows:
                assert np.array_equal(answer(model, state, field, None), answers[0])
            met[field, knows] += 1
    assert_not_vacuous(met, above=3)


def test_time_changes_the_answers_of_models_that_know_it_and_of_no_others():
    check_time()


@pytest.mark.parametrize("claim", [True, False])
def test_a_wrong_claim_about_time_is_caught(claim, monkeypatch):
    monkeypatch.setattr(asking, "needs_time", lambda layout, settings, field: claim)
    assert_caught(check_time)


@pytest.mark.parametrize("field", ["a", "i"])
def test_a_model_that_knows_the_time_says_so(field):
    layout = resolve("interleaved")
    model = clock_model(layout, TrunkConfig(dim=12, num_heads=2, positions="rab"), "next")
    assert model is not None
    with pytest.raises(
        ValueError, match=r"'rab' and time_anchor = 'next' knows when the .*: say when, with at"
    ):
        answer(model, state_of(layout), field, None)
    with pytest.raises(
        ValueError, match=r"100 lies before the last event of user 500 \(1000360, unix seconds\)"
    ):
        plain.retrieve(model, state_of(layout), 5, False, at_s=100)


def test_inputs_go_where_the_model_is(monkeypatch):
    """The meta device stands for a GPU: it has no values, so the question is as far as it goes."""

    class Asked(Exception):
        """Carries the device."""

    def asked(*arguments, device, **more):
        raise Asked(device)

    monkeypatch.setattr(plain, "query_inputs", asked)
    for device in ("cpu", "meta"):
        model = short_model(resolve("lac")).to(device)
        for field in ("a", "i"):
            with pytest.raises(Asked, match=device):
                answer(model, state_of(model.layout, 0), field, None)


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match="no candidates"):
        plain.score(short_model(resolve("lac")), state_of(resolve("lac")), ITEMS[:, :0])


@torch.no_grad()
def check_retrieval(layout: Layout, filter_seen: bool) -> None:
    """The best of each user alone, by sorting the whole catalogue; items before the window are seen, too."""
    model, batch = short_model(layout), histories()
    batch.item_E[2] = UNKNOWN_ITEM
    k = NUM_ITEMS - max(LENGTHS)
    item_UK, score_UK = plain.retrieve(model, encode(batch, WINDOW, layout.lag), k, filter_seen)
    met = {"seen and well scored": 0}
    for user in range(len(LENGTHS)):
        history = part_of(batch, user)
        alone = encode(history, WINDOW, layout.lag)
        events = window(alone.events, WINDOW, layout.lag)
        (state_1D,) = model(query_inputs(model.plan, before_the_next(events), ("i",)))
        score_V = model.item_scores(state_1D)[0].numpy()
        order = [item for item in np.argsort(-score_V, kind="stable") if item != UNKNOWN_ITEM]
        best = [item for item in order if not (filter_seen and item in history.item_E)][:k]
        assert item_UK[user].tolist() == best
        close(score_UK[user], score_V[best])
        met["seen and well scored"] += len(set(order[:k]) & set(history.item_E.tolist()))
    assert_not_vacuous(met)


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("layout", RETRIEVERS)
def test_retrieval_is_the_sorted_catalogue(layout, filter_seen):
    check_retrieval(layout, filter_seen)


def test_forgetting_what_was_seen_before_the_window_is_caught(monkeypatch):
    right = plain.retrieve

    def forgetful(model, state, k, filter_seen):
        events = window(state.events, WINDOW, 0)
        in_window = (events.item_E[a:b] for a, b in pairwise(events.start_U1))
        return right(model, replace(state, seen_U=tuple(in_window)), k, filter_seen)

    monkeypatch.setattr(plain, "retrieve", forgetful)
    assert_caught(check_retrieval, resolve("pc"), True)


@pytest.mark.parametrize("layout", NO_SCORERS)
def test_a_layout_that_cannot_score_says_why(layout):
    with pytest.raises(ValueError, match="cannot score a given item: ") as refused:
        plain.score(short_model(layout), state_of(layout), ITEMS)
    assert str(layout) in str(refused.value)
    reason = "it predicts no action" if audit(layout).conditioning == "no action is predicted" else "P2"
    assert reason in str(refused.value)


@pytest.mark.parametrize("layout", NOT_RETRIEVERS)
def test_a_layout_that_predicts_no_item_cannot_retrieve(layout):
    with pytest.raises(ValueError, match="cannot retrieve: it predicts no item"):
        plain.retrieve(short_model(layout), state_of(layout), 1, filter_seen=False)


@pytest.mark.parametrize(("k", "filter_seen", "left"), [(18, False, 17), (0, False, 17), (14, True, 13)])
def test_more_items_than_are_left_are_refused(k, filter_seen, left):
    layout = resolve("lac")
    state = state_of(layout)
    assert NUM_ITEMS - max(map(len, state.seen_U)) == 13
    whose = (
        "that user 500 has not seen, of 17; ask for fewer" if filter_seen else "the items of the catalogue$"
    )
    with pytest.raises(ValueError, match=f"k = {k}: expected 1 to {left}, .*{whose}"):
        plain.retrieve(short_model(layout), state, k, filter_seen)


def test_the_user_with_the_fewest_items_left_is_named():
    """An item that the model does not know is none of the catalogue's."""
    batch = batch_of((2, 4))
    batch.item_E[:] = [3, 5, 1, 2, UNKNOWN_ITEM, 7]
    state, model = encode(batch, WINDOW, 1, ["ann", "bob"]), short_model(resolve("lac"))
    with pytest.raises(ValueError, match=r"k = 15: expected 1 to 14, .* that user 'bob' has not seen"):
        plain.retrieve(model, state, 15, filter_seen=True)
    assert plain.retrieve(model, state, 14, filter_seen=True)[0].shape == (2, 14)


@pytest.mark.parametrize(("layout", "field", "fact"), [("lac", "i", r"i\[t\+1\]"), ("pc", "a", r"a\[t\+1\]")])
def test_a_user_of_whom_nothing_lies_before_the_request_is_named(layout, field, fact):
    """Bob's whole history is the request that is asked about; ann's is not."""
    batch = replace(batch_of((3, 2)), request_E=np.array([0, 0, 1, 0, 0]), time_s_E=np.array([5, 5, 9, 9, 9]))
    model = short_model(resolve(layout), same_request="blind")
    state = encode(batch, WINDOW, model.layout.lag, ["ann", "bob"])
    with pytest.raises(
        ValueError, match=f"user 'bob' has 0 events before .*; predicting {fact} needs 1. Recomm"
    ):
        answer(model, state, field, 9)
    assert len(answer(model, state, field, 10)) == 2


def test_an_item_read_at_its_own_event_is_retrieved():
    """The coming event is there, with no item: what stands before its item's token is all that it may show."""
    layout = Layout.parse("a[t-1] -> i[t]; i[t] -> a[t]")
    item_UK, score_UK = plain.retrieve(short_model(layout), state_of(layout), 3, filter_seen=False)
    assert item_UK.shape == (len(LENGTHS), 3) and (np.diff(score_UK) <= 0).all()
