"""A question has one window, wherever it is asked: the one that begins anew every S events.

Where it begins is written down here from its definition, apart from the code that computes it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import polars as pl
import pytest
from small_runs import PROTOCOL
from test_same_context import REQUESTS, Logs, evaluated, served, trained
from test_same_context import logs as logs
from tiny import (
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
    prepared,
    random_log,
    together,
    trunk_of,
)

import plait
from plait.data import Dataset
from plait.engine import asking, plain, state
from plait.engine.state import State, append, encode, window
from plait.evaluation.answers import answers_of
from plait.evaluation.settings import Protocol
from plait.layouts import audit, resolve
from plait.models.combining import combinations
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.questions import Exposure
from plait.nn import packed
from plait.recommender import Recommender
from plait.schema import EventBatch
from plait.training import batches
from plait.window_rule import WindowRule

RULES = [WindowRule(t, s) for t in range(1, 7) for s in range(1, t + 1)]
LENGTH = 17  # events of a user, which outgrow every window below
AT_S = 2_000_000


def begin(rule: WindowRule, num_events: int) -> int:
    """A window grows until it holds T + S - 1 events. With the next one it begins anew, S events later."""
    found, held = 0, 0
    for _ in range(num_events):
        held += 1
        if held == rule.max_events + rule.step:
            found, held = found + rule.step, held - rule.step
    return found


def first_event(rule: WindowRule, request_E: np.ndarray, num_events: int) -> int:
    """The first event of a window: where requests matter, one that opens a request, if one of the S first does."""
    at = begin(rule, num_events)
    opens = [
        event
        for event in range(at, at + rule.step)
        if event == 0 or len({*request_E[event - 1 : event + 1]}) > 1
    ]
    return opens[0] if opens and rule.opens_with_request else at


def check_rule() -> None:
    for rule, num_events in product(RULES, range(30)):
        found, held = int(rule.begin(np.array([num_events]))[0]), int(rule.length(np.array([num_events]))[0])
        assert found == begin(rule, num_events) and held == num_events - found
        assert held == num_events or rule.max_events <= held <= rule.longest
        assert rule.step > 1 or held == min(num_events, rule.max_events), "the last T"


def test_a_window_begins_anew_every_so_many_events():
    check_rule()


@pytest.mark.parametrize(("max_events", "step"), [(0, 1), (4, 0), (4, 5)])
def test_a_window_that_cannot_be_is_refused(max_events, step):
    with pytest.raises(ValueError, match=f"max_events={max_events}, window_step={step}: expected"):
        WindowRule(max_events, step)


# Every way of a layout to look back, on both trunks, under positions of every kind.
WAYS = (
    ("lac", "gpt", "learned"),
    ("lac", "hstu", "rab"),
    ("interleaved", "gpt", "rope"),
    ("pc", "hstu", "learned"),
    ("attn_dhn", "gpt", "alibi"),
    ("attn_mvp", "hstu", "rab"),
    ("genrank", "gpt", "genrank"),
    ("lac", "hstu", "genrank"),
)


def model_with(layout: str, kind: str, positions: str, rule: WindowRule) -> GenerativeRecommender:
    settings = ModelSettings(trunk=replace(trunk_of(positions), kind=kind))
    return model_of(resolve(layout), max_events=rule.max_events, window_step=rule.step, settings=settings)


def in_requests(length: int = LENGTH) -> EventBatch:
    """A user whose requests hold one to six events, and a second one with as many in other requests."""
    batch = batch_of([length, length])
    sizes = [1, 2, 1, 3, 6, 1, 1, 2, 4], [2, 1, 1, 1, 5, 1, 1, 3, 1, 2]
    request_E = np.concatenate([np.repeat(np.arange(len(size)), size)[:length] for size in sizes])
    return replace(batch, request_E=request_E, time_s_E=1_000_000 + 60 * request_E)


def until(log: EventBatch, end: int, first: int = 0) -> EventBatch:
    return together(*(part_of(log, user, first, end) for user in range(log.num_users)))


def grown(log: EventBatch, model: GenerativeRecommender, first: int) -> Iterator[State]:
    """The state of the first events, then that with every event behind them appended."""
    plan = model.plan
    found = encode(until(log, first), plan.window, plan.lead)
    yield found
    for event in range(first, LENGTH):
        found = append(found, until(log, event + 1, event), plan.window, plan.lead)
        yield found


def answered(model: GenerativeRecommender, found: State) -> list[np.ndarray]:
    able, found_answers = audit(model.layout), []
    if able.can_score != "no":
        found_answers += plain.score(
            model, found, np.array([[1, 2]] * found.events.num_users), at_s=AT_S
        ).values()
    if able.can_retrieve:
        found_answers += plain.retrieve(model, found, 5, False, at_s=AT_S)
    return found_answers


def check_paths(ways=WAYS, rules=(WindowRule(4, 3), WindowRule(5, 2))) -> Counter[str]:
    """A state that was encoded at once, that grew, and that was encoded from a history which was cut: all have the
    window of the definition, and one answer."""
    log, met = in_requests(), Counter[str]()
    for nth, (way, rule) in enumerate(product(ways, rules)):
        model, first = model_with(*way, rule), 1 + nth % 4
        plan = model.plan
        for end, grew in enumerate(grown(log, model, first), first):
            whole = encode(until(log, end), plan.window, plan.lead)
            cut = max(0, begin(rule, end) - max(plan.lead, 1))
            paths = {
                "whole": whole,
                "grew": grew,
                "cut": encode(until(log, end, cut), plan.window, plan.lead),
            }
            expected = [first_event(plan.window, part_of(log, user).request_E, end) for user in range(2)]
            for name, found in paths.items():
                seen = window(found.events, plan.window, plan.lead)
                assert seen.number_E[seen.start_U1[:-1] + seen.lead_U].tolist() == expected, (
                    way,
                    rule,
                    end,
                    name,
                )
                assert seen.number_E[seen.start_U1[1:] - 1].tolist() == [end - 1] * 2
                assert seen.lead_U.tolist() == [min(first, plan.lead) for first in expected]
                if end % 6 == 5:  # 5, 11 and 17 of them
                    for one, other in zip(answered(model, found), answered(model, whole), strict=True):
                        np.testing.assert_array_equal(one, other, f"{way}, {rule}, {end}, {name}")
            met["began anew"] += begin(rule, end) > begin(rule, end - 1)
            met["stayed"] += begin(rule, end) == begin(rule, end - 1) > 0
            met["begins later, with a request"] += max(expected) > begin(rule, end)
            met["forgot events"] += grew.events.num_events_U.max() < end
    return met


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_a_history_has_one_window_whatever_its_path():
    assert_not_vacuous(check_paths(), above=9)


def shifted(rule, num_events_B, right=WindowRule.begin):
    return np.where(num_events_B > rule.longest, right(rule, num_events_B) + 1, 0)


def late(rule, num_events_B, right=WindowRule.begin):
    """As if one more event fitted into a window."""
    return right(rule, np.maximum(num_events_B - 1, 0))


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(
    "mutant", ["off by one", "begins anew too late", "forgets the number", "cuts requests"]
)
def test_a_window_that_begins_elsewhere_is_caught(mutant, monkeypatch):
    check = partial(check_paths, WAYS[:1])
    match mutant:
        case "off by one":
            monkeypatch.setattr(WindowRule, "begin", shifted)
            assert_caught(check_rule)
        case "begins anew too late":
            monkeypatch.setattr(WindowRule, "begin", late)
            assert_caught(check_rule)
        case (
            "forgets the number"
        ):  # so that windows of a state that grew begin anew with every event, or never
            right = state._gathered
            monkeypatch.setattr(state, "_gathered", lambda *args: replace(right(*args), number_E=None))
        case "cuts requests":
            check = partial(check_paths, WAYS[-1:])
            monkeypatch.setattr(WindowRule, "opens_within", property(lambda rule: 1))
    monkeypatch.setattr(state, "_check_reaches", lambda *_: None)
    assert_caught(check)


def score_of_one(model: GenerativeRecommender, found: State) -> list[float]:
    """Of one candidate, which is the last token of its row."""
    return [float(value[0, 0]) for value in plain.score(model, found, np.array([[7]]), at_s=AT_S).values()]


def without_encoding_again(
    model: GenerativeRecommender, rule: WindowRule, log: EventBatch, end: int, monkeypatch: pytest.MonkeyPatch
) -> list[float]:
    """The scores where the keys of the window before stay as they are, and the question reads those alone that lie in
    the one that began anew."""
    plan, right = model.plan, packed.attend
    before = begin(rule, end - 1)
    gone = (begin(rule, end) - before) * model.layout.tokens_per_event

    def last_from_there(q, k, v, segments, **others):
        out = right(q, k, v, segments, **others).clone()
        weight = (q[:, :, -1:] @ k[:, :, gone:].transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        out[:, :, -1:] = weight @ v[:, :, gone:]
        return out

    longer = encode(until(log, end, max(0, before - plan.lead)), end - before, plan.lead)
    with monkeypatch.context() as patched:
        patched.setattr(
            asking, "window", lambda events, _rule, lag, end_U: window(events, end - before, lag, end_U)
        )
        patched.setattr(packed, "attend", last_from_there)
        return score_of_one(model, longer)


def test_a_window_that_is_cut_without_encoding_again_is_caught(monkeypatch):
    """In one layer its keys would be those of the window, but for their positions: RoPE's tell no other ones."""
    rule, log = WindowRule(4, 3), part_of(in_requests(), 0)
    for num_layers, is_caught in ((1, False), (2, True)):
        trunk = replace(trunk_of("rope"), num_layers=num_layers)
        settings = ModelSettings(trunk=trunk)
        model = model_of(resolve("lac"), max_events=4, window_step=3, settings=settings)
        anew = [end for end in range(LENGTH) if begin(rule, end) > begin(rule, max(0, end - 1))]
        assert len(anew) > 2
        for end in anew:
            right = score_of_one(model, encode(until(log, end), model.plan.window, model.plan.lead))
            cut = without_encoding_again(model, rule, log, end, monkeypatch)
            same = np.allclose(cut, right, rtol=1e-5, atol=1e-5)
            assert same != is_caught, (num_layers, end)


def check_earlier_moments(data: Dataset) -> None:
    """A question about an earlier moment of a log has the window that it had when the log ended there; with the last
    request unread, that of before the request."""
    met = Counter[str]()
    for way, rule in product((WAYS[0], WAYS[-1]), (WindowRule(4, 3), WindowRule(3))):
        model = model_with(*way, rule)
        plan = model.plan
        targets = data.train_targets(99)
        batch, count_B = data.candidate_batch(targets, plan.window, plan.lead)
        alone = data.target_batch(targets, plan.window, plan.lead)
        last = np.cumsum(count_B) - 1
        histories = state.before(batch, count_B)
        for found, asked in (
            (histories, targets[last]),
            (state.before(alone, np.ones(len(targets), int)), targets),
        ):
            for row, (user, end) in enumerate(zip(asked.user_Q, data.target_lengths(asked), strict=True)):
                log = part_of(data.history(int(user)), 0, 0, int(end))
                then = window(encode(log, plan.window, plan.lead).events, plan.window, plan.lead)
                np.testing.assert_array_equal(part_of(found, row).number_E, then.number_E)
                np.testing.assert_array_equal(part_of(found, row).item_E, then.item_E)
                assert found.lead_U[row] == then.lead_U[0]
                first = int(then.number_E[then.lead_U[0]])
                assert first == first_event(plan.window, log.request_E, end)
                met[f"step {rule.step}, {'moved' if first > begin(rule, end) else 'from the first'}"] += (
                    first > 0
                )
    assert len(met) == 3 and min(met.values()) > 5, met
    log = in_requests()
    for exposure_reads, way in product((True, False), (WAYS[0], WAYS[-1])):
        model = model_with(*way, WindowRule(4, 3))
        plan = replace(model.plan, supervise="candidates" if exposure_reads else "all")
        model.plan = plan
        for end in range(6, LENGTH + 1):
            now = encode(until(log, end), plan.window, plan.lead)
            coming = asking.coming_of(model, "a", now, AT_S, None)
            np.testing.assert_array_equal(
                coming.events.number_E, window(now.events, plan.window, plan.lead).number_E
            )
            own = np.array([True, True])
            cut_U = plan.end_of_context(now.events, own)
            seen = window(now.events, plan.window, plan.lead, cut_U)
            for user in range(2):
                before = part_of(log, user, 0, end)
                length = int((before.request_E < before.request_E[-1]).sum()) if exposure_reads else end
                then = window(part_of(before, 0, 0, length), plan.window, plan.lead)
                np.testing.assert_array_equal(part_of(seen, user).number_E, then.number_E)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    log = random_log(num_users=9)
    time_s = 1_000_000 + 60 * (np.arange(len(log)) * 2 // 3)  # requests of one event and of two
    return prepared(log.with_columns(pl.Series("time", time_s)), tmp_path_factory.mktemp("windows") / "data")


def test_a_question_about_an_earlier_moment_has_the_window_of_then(data):
    check_earlier_moments(data)


def test_a_moment_that_has_the_window_of_the_last_one_is_caught(data, monkeypatch):
    def of_last(dataset, targets):
        return np.full(len(targets), 12)

    monkeypatch.setattr(Dataset, "target_lengths", of_last)
    assert_caught(check_earlier_moments, data)


def trained_batches(
    data: Dataset, layout: str, settings: ModelSettings, protocol: Protocol
) -> list[EventBatch]:
    plan = protocol.plan(resolve(layout), settings)
    num, batch_of_step = batches._batches(data, plan, 100, protocol, epoch=0)
    return [
        part_of(batch, user, lead=int(batch.lead_U[user]))
        for batch in map(batch_of_step, range(num))
        for user in range(batch.num_users)
    ]


def numbers(one: EventBatch) -> list[int]:
    return one.number_E[one.lead_U[0] :].tolist()


def num_trained(data: Dataset, user: int) -> int:
    return int(data.stretch_lengths(data.whole_training(np.array([user])))[0])


def check_trained(data: Dataset) -> None:
    """Where every event is asked about, training takes T + S events, so that each question has at most T + S - 1 before
    it. Where last requests are, each comes behind the window of its own history."""
    met = Counter[str]()
    for step, positions in product((1, 2, 3), ("learned", "genrank")):
        settings = ModelSettings(trunk=trunk_of(positions))
        protocol = replace(PROTOCOL, max_events=3, window_step=step)
        rule = settings.window(3, step)
        for one in trained_batches(data, "lac", settings, protocol):
            request_E, end = data.history(int(one.user_U[0])).request_E, num_trained(data, one.user_U[0])
            first = max(0, end - 3 - step)
            opens = [at for at in range(first, first + step) if at == 0 or request_E[at] != request_E[at - 1]]
            moved = opens[0] if opens and positions == "genrank" else first
            assert numbers(one) == list(range(moved, end))
            met[f"all, step {step}"] += first > 0
            met["all, with a request"] += moved > first
        for sample, layout in product(("user", "event"), ("lac", "genrank")):
            asked = replace(protocol, supervise="candidates", sample=sample)
            for one in trained_batches(data, layout, settings, asked):
                request_E, end = data.history(int(one.user_U[0])).request_E, num_trained(data, one.user_U[0])
                history_end = int(np.flatnonzero(request_E[:end] == request_E[end - 1])[0])
                first = first_event(rule, request_E, history_end)
                to_come = list(range(history_end, end))
                found = numbers(one)
                assert (
                    found[: len(found) - 1]
                    == list(range(first, history_end)) + to_come[: -1 if sample == "user" else 0]
                )
                assert found[-1] in to_come
                met[f"{sample}, step {step}"] += first > 0
    assert_not_vacuous(met, above=4)


def test_training_takes_windows_that_evaluation_reads(data):
    check_trained(data)


def test_training_of_other_windows_is_caught(data, monkeypatch):
    monkeypatch.setattr(batches, "_history_lengths", lambda dataset, plan, users_U: plan.window.max_events)
    assert_caught(check_trained, data)


@pytest.mark.parametrize("layout", ["lac", "genrank"])
def test_random_windows_train_every_length(data, layout):
    """Of candidates, too: each has the window of its own history."""
    protocol = replace(PROTOCOL, max_events=3, window_step=3, window="random")
    plan, rule = protocol.plan(resolve(layout), ModelSettings()), WindowRule(3, 3)
    lengths, met = Counter[int](), set()
    for epoch in range(40):
        batch = batches.training_batch(
            data, plan, data.whole_training(data.train_users()), protocol, epoch, 0
        )
        for user in range(batch.num_users):
            found = numbers(part_of(batch, user, lead=int(batch.lead_U[user])))
            assert found == list(range(found[0], found[-1] + 1)) and len(found) <= rule.longest + 1
            if plan.asks_candidates:
                assert found[0] == begin(rule, found[-1])
            lengths[len(found) - 1] += 1
            met.add((user, found[-1]))
    assert len(met) > 3 * data.num_users
    if plan.asks_candidates:
        assert all(lengths[length] > 5 for length in range(3, rule.longest + 1)), lengths
    else:
        assert max(lengths) == rule.longest


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_an_event_is_asked_about_from_one_context_where_windows_begin_anew(logs: Logs):
    """In training, too, where it asks about last requests alone. (Else its windows are the longest there are.)"""
    met = Counter[str]()
    for each in combinations():
        if each.problems or each.name not in ("lac", "interleaved", "genrank", "pc") or each.trunk != "gpt":
            continue
        protocol = Protocol(max_events=3, window_step=2, supervise="candidates")
        in_evaluation, in_training = evaluated(logs, each, protocol), trained(logs, each, protocol)
        assert in_evaluation == served(logs, each, protocol), each
        for key in in_evaluation.keys() & in_training.keys():
            assert in_training[key] == in_evaluation[key], (each, key)
            met[each.name] += 1
    assert len(met) == 4, met
    assert_not_vacuous(met, above=len(REQUESTS))


def test_a_run_is_served_as_it_was_evaluated(data, tmp_path):
    protocol = Protocol(max_epochs=1, max_events=3, window_step=2)
    plait.fit(data, layout="lac", protocol=protocol, out=tmp_path / "run").save_pretrained(tmp_path / "model")
    model = Recommender.from_pretrained(tmp_path / "model").model
    found, targets = answers_of(model, data, "test", protocol), data.targets("test")
    ends = data.target_lengths(targets)
    assert model.plan.window == WindowRule(3, 2) and {begin(model.plan.window, end) % 4 for end in ends} == {
        0,
        2,
    }
    for query, (user, end) in enumerate(zip(targets.user_Q, ends, strict=True)):
        history = part_of(data.history(int(user)), 0, 0, int(end))
        one = encode(history, model.plan.window, model.plan.lead)
        for name, value in plain.score(model, one, found.item_Q[query : query + 1, None]).items():
            np.testing.assert_allclose(value[0, 0], found.predicted[name][query], rtol=1e-5, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"protocol.window_step = 4: expected at most protocol.max_events = 3"
    ):
        replace(protocol, window_step=4)


def test_a_window_of_before_the_last_request_is_refused_where_the_history_lacks_it():
    log, settings = in_requests(), ModelSettings(exposure=Exposure(same_request="blind"), trunk=trunk_of())
    model = model_of(resolve("lac"), max_events=4, window_step=3, settings=settings)
    end, at_s = 13, int(log.time_s_E[12])  # of a request of six events
    found = encode(until(log, end, 5), model.plan.window, model.plan.lead)
    plain.score(model, found, np.array([[1], [2]]), at_s=at_s + 1)
    with pytest.raises(
        ValueError, match=r"history of user 500 begins behind 5 earlier events, .* all behind the first 2:"
    ):
        plain.score(model, found, np.array([[1], [2]]), at_s=at_s)
    whole = encode(until(log, end), model.plan.window, model.plan.lead)
    plain.score(model, whole, np.array([[1], [2]]), at_s=at_s)
