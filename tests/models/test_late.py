"""Late features: counted from the events before the question alone, the same in training and in serving.

Shape letters as in `plait.models.late`; R rows of late features.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tiny import (
    NUM_ITEMS,
    SCORERS,
    assert_caught,
    assert_not_vacuous,
    batch_of,
    model_of,
    part_of,
    plan_of,
    started,
    trunk_of,
)

from plait.layouts import Layout, resolve
from plait.models import inputs as inputs_module
from plait.models import late as late_module
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, query_inputs, training_inputs
from plait.models.late import LateSettings, LateStatistics
from plait.models.questions import Exposure
from plait.schema import (
    FIRST_VALUE,
    MISSING_VALUE,
    PADDING,
    UNSEEN_VALUE,
    Action,
    Amount,
    Binary,
    Categorical,
    Categories,
    Category,
    EventBatch,
    Feature,
    Regression,
    Vector,
    code_columns,
)

ACTIONS = (
    Action("rating", Regression(1, 5)),
    Action("device", Categorical(("phone", "tablet", "watch"))),
    Action("spent", Amount(log1p_scale=2.0)),
    Action("liked", Binary()),
)
COLUMNS = (0, 1, 1, 1, 2, 3)  # the action of every mean
SETTINGS = LateSettings(windows=(1, 3, 50), similar="genre")
LENGTHS, LEADS = (9, 2, 13, 1), (2, 0, 3, 0)
BLIND = Exposure(same_request="blind")
close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)  # sums of other lengths round otherwise


def genres() -> np.ndarray:
    """Up to two genres of four for every item; some missing, many unseen."""
    rng = np.random.default_rng(2)
    code_VK = np.full((NUM_ITEMS + 1, 3), PADDING, dtype=np.int32)
    code_VK[:, 0] = MISSING_VALUE
    for item in range(1, NUM_ITEMS + 1):
        codes = [UNSEEN_VALUE] * (item % 3 == 0) + [*rng.permutation(4)[: rng.integers(0, 3)] + FIRST_VALUE]
        code_VK[item, : len(codes)] = codes
    return code_VK


STATISTICS = LateStatistics(SETTINGS, ACTIONS, genres())


def events(lengths=LENGTHS, leads=LEADS) -> EventBatch:
    """Four actions, a fifth of the values missing; requests of three events, some begun before the window."""
    batch = batch_of(lengths, leads)
    rng = np.random.default_rng(4)
    size = len(batch.item_E)
    drawn = (
        rng.integers(2, 11, size) / 2,
        rng.integers(0, 3, size),
        rng.exponential(3, size),
        rng.integers(0, 2, size),
    )
    action_EA = np.stack(drawn, axis=1).astype(np.float32)
    action_EA[rng.random(action_EA.shape) < 0.2] = np.nan
    return replace(batch, action_EA=action_EA, request_E=(batch.request_E + 1) // 3)


def plain_row(batch: EventBatch, first: int, now: int, label: int) -> list[float]:
    """The definition, one event after the other."""

    def values(action: Action, raw: float) -> list[float]:
        match action.kind:
            case Binary():
                return [raw]
            case Regression(low=low, high=high):
                return [(raw - low) / (high - low)]
            case Amount(log1p_scale=scale):
                return [np.log1p(raw) / scale]
            case Categorical(values=names):
                return [float(index == raw) for index in range(len(names))]

    def genres_of(event: int) -> set[int]:
        return {code for code in STATISTICS.code_VK[batch.item_E[event]].tolist() if code >= FIRST_VALUE}

    looked_at = [range(max(first, now - window), now) for window in SETTINGS.windows]
    looked_at.append([event for event in range(first, now) if genres_of(event) & genres_of(label)])
    row = []
    for group in looked_at:
        means, counts = [], []
        for column, action in enumerate(ACTIONS):
            known = [
                values(action, raw)
                for raw in batch.action_EA[list(group), column].tolist()
                if not np.isnan(raw)
            ]
            width = len(values(action, 0.0))
            means += [sum(each) / len(known) for each in zip(*known, strict=True)] or [np.nan] * width
            counts.append(len(known))
        row += means + counts
    return row


def of_actions(inputs: Inputs) -> tuple[np.ndarray, list[int]]:
    (asked,) = (asked for asked in inputs.questions if asked.target.fact.field == "a")
    assert asked.late_MF is not None and all(
        other.late_MF is None for other in inputs.questions if other is not asked
    )
    return asked.late_MF.numpy(), asked.label_M.tolist()


def before(batch: EventBatch, label: int, blind: bool) -> tuple[int, int]:
    """By definition: from the window's first event to the label, or to the first event of its request."""
    user = int(np.searchsorted(batch.start_U1, label, side="right")) - 1
    first = int(batch.start_U1[user] + batch.lead_U[user])
    now = label
    while blind and now > first and batch.request_E[now - 1] == batch.request_E[label]:
        now -= 1
    return first, now


def check_definition(layout: Layout, exposure: Exposure, **kwargs: int) -> None:
    batch = events()
    late_MF, labels = of_actions(training_inputs(plan_of(layout, exposure, **kwargs), batch, late=STATISTICS))
    met = {"nothing known": 0, "means inside (0, 1)": 0, "similar": 0, "not similar": 0}
    for late_F, label in zip(late_MF, labels, strict=True):
        blind = exposure == BLIND or bool(kwargs)
        expected = plain_row(batch, *before(batch, label, blind), label)
        np.testing.assert_allclose(late_F, expected, rtol=1e-5, atol=1e-6)
        similar, whole = late_F[-len(ACTIONS) :].sum(), late_F.reshape(4, -1)[2, -len(ACTIONS) :].sum()
        met["nothing known"] += bool(np.isnan(late_F).any())
        met["means inside (0, 1)"] += int(((late_F > 0) & (late_F < 1)).any())
        met["similar"] += bool(similar)
        met["not similar"] += similar < whole
    assert_not_vacuous(met, above=1)
    assert late_MF.dtype == np.float32 and late_MF.shape[1] == SETTINGS.num_features(ACTIONS) == 4 * 10


@pytest.mark.parametrize("exposure", [Exposure(), BLIND], ids=["causal", "blind"])
@pytest.mark.parametrize("layout", SCORERS)
def test_training_counts_what_the_definition_says(layout, exposure):
    kwargs = {"candidate_requests": 4} if layout.candidate else {}
    check_definition(layout, exposure, **kwargs)


def test_candidates_count_what_lay_before_their_request():
    check_definition(resolve("lac"), Exposure(), candidate_requests=3)


def counts_its_own_event(late, batch, roles, predictions):
    own = replace(predictions, context_end_M=predictions.label_M + 1)
    return RIGHT(late, batch, roles, own)


RIGHT = inputs_module._late


@pytest.mark.parametrize("broken", ["own event", "unseen is a value", "the window has no begin"])
def test_a_wrong_count_is_caught(broken, monkeypatch):
    match broken:
        case "own event":
            monkeypatch.setattr(inputs_module, "_late", counts_its_own_event)
        case "unseen is a value":
            monkeypatch.setattr(late_module, "FIRST_VALUE", UNSEEN_VALUE)
        case _:

            def from_the_lead(late, batch, roles, predictions):
                return RIGHT(late, batch, replace(roles, first_U=batch.start_U1[:-1]), predictions)

            monkeypatch.setattr(inputs_module, "_late", from_the_lead)
    assert_caught(check_definition, resolve("lac"), Exposure())


def check_no_leak(layout: Layout, exposure: Exposure) -> None:
    """Other actions and items from an event's request on: its statistics stay; other actions before change them."""
    batch = events()
    kwargs = {"candidate_requests": 4} if layout.candidate else {}
    blind = exposure == BLIND or bool(kwargs)

    def rows(changed_E: np.ndarray, keep_item: int) -> tuple[np.ndarray, list[int]]:
        other_EA = np.where(np.isnan(batch.action_EA), 1, np.nan).astype(np.float32)
        item_E = np.where(changed_E, batch.item_E % NUM_ITEMS + 1, batch.item_E)
        item_E[keep_item] = batch.item_E[keep_item]
        other = replace(
            batch, item_E=item_E, action_EA=np.where(changed_E[:, None], other_EA, batch.action_EA)
        )
        return of_actions(training_inputs(plan_of(layout, exposure, **kwargs), other, late=STATISTICS))

    event_E = np.arange(len(batch.item_E))
    found, labels = rows(np.zeros(len(event_E), dtype=bool), 0)
    met = {"kept": 0, "changed": 0}
    for row, label in enumerate(labels):
        first, now = before(batch, label, blind)
        outside_E = (event_E < first) | (event_E >= now)
        np.testing.assert_array_equal(rows(outside_E, label)[0][row], found[row])
        met["kept"] += 1
        if now > first:
            assert not np.array_equal(rows(event_E == now - 1, label)[0][row], found[row], equal_nan=True)
            met["changed"] += 1
    assert_not_vacuous(met, above=3)


@pytest.mark.parametrize("exposure", [Exposure(), BLIND], ids=["causal", "blind"])
@pytest.mark.parametrize("name", ["lac", "pc", "genrank", "attn_mvp"])
def test_neither_the_label_nor_anything_later_is_counted(name, exposure):
    check_no_leak(resolve(name), exposure)


@pytest.mark.parametrize("exposure", [Exposure(), BLIND], ids=["causal", "blind"])
def test_counting_the_label_is_caught(exposure, monkeypatch):
    monkeypatch.setattr(inputs_module, "_late", counts_its_own_event)
    assert_caught(check_no_leak, resolve("lac"), exposure)


def test_looking_into_the_own_request_is_caught(monkeypatch):
    def up_to_the_label(late, batch, roles, predictions):
        return RIGHT(late, batch, roles, replace(predictions, context_end_M=predictions.label_M))

    monkeypatch.setattr(inputs_module, "_late", up_to_the_label)
    assert_caught(check_no_leak, resolve("lac"), BLIND)


@pytest.mark.parametrize("exposure", [Exposure(), BLIND], ids=["causal", "blind"])
@pytest.mark.parametrize("layout", SCORERS)
def test_serving_counts_as_training(layout, exposure):
    """Every event of a window asked about again, with only the history before it at hand."""
    whole = events([13], [0])
    kwargs = {"candidate_requests": 4} if layout.candidate else {}
    asked = 0
    for lead in (0, 1, 4):
        window = part_of(whole, 0, lead=lead)
        late_MF, labels = of_actions(
            training_inputs(plan_of(layout, exposure, **kwargs), window, late=STATISTICS)
        )
        for late_F, label in zip(late_MF, labels, strict=True):
            _, now = before(window, label, exposure == BLIND or bool(kwargs))
            history = part_of(whole, 0, 0, now, lead)
            served = served_alone(layout, history, window, label)
            close(served, late_F)
            asked += 1
    assert asked > 10


def served_alone(layout: Layout, history: EventBatch, window: EventBatch, label: int) -> np.ndarray:
    """As the engine asks: the event to come after its history, without an action, in a request of its own."""
    nothing = np.full((1, len(ACTIONS)), np.nan, dtype=np.float32)
    batch = EventBatch(
        user_U=history.user_U,
        start_U1=history.start_U1 + np.array([0, 1]),
        lead_U=history.lead_U,
        item_E=np.append(history.item_E, window.item_E[label]),
        action_EA=np.concatenate([history.action_EA, nothing]),
        time_s_E=np.append(history.time_s_E, window.time_s_E[label]),
        request_E=np.append(history.request_E, 10**6),
    )
    (late_F,), _ = of_actions(query_inputs(plan_of(layout), batch, ("a",), late=STATISTICS))
    return late_F


@pytest.mark.parametrize("layout", SCORERS)
def test_many_candidates_count_as_one_by_one(layout):
    batch = events([9, 7], [1, 0])
    late_MF, labels = of_actions(
        query_inputs(plan_of(layout), batch, ("a",), num_candidates_U=np.array([4, 3]), late=STATISTICS)
    )
    assert labels == [5, 6, 7, 8, 13, 14, 15]
    for late_F, label in zip(late_MF, labels, strict=True):
        user = int(label >= 9)
        history = part_of(batch, user, 0, (5, 4)[user], lead=1 - user)
        close(served_alone(layout, history, batch, label), late_F)
    assert len(np.unique(late_MF, axis=0)) > 2, "what is similar depends on the candidate"


def test_the_size_of_a_step_does_not_matter(monkeypatch):
    expected, _ = of_actions(training_inputs(plan_of("lac"), events(), late=STATISTICS))
    monkeypatch.setattr(late_module, "CELLS", 7)
    found, _ = of_actions(training_inputs(plan_of("lac"), events(), late=STATISTICS))
    close(found, expected)


def test_no_question_is_an_answer_too():
    nothing = np.zeros(0, dtype=np.int64)
    assert STATISTICS.of(events(), nothing, nothing, nothing).shape == (0, 40)


GENRE = Feature("genre", Categories("|", ("a", "b", "c", "d"), 3))
FEATURES = (Feature("maker", Category(("x", "y"))), GENRE, Feature("text", Vector(width=2)))


def late_model(name: str = "lac", late: LateSettings = SETTINGS, features=FEATURES, actions=ACTIONS):
    torch.manual_seed(1)
    config = ModelConfig(
        layout=str(resolve(name)),
        settings=ModelSettings(trunk=trunk_of(), late=late),
        num_items=NUM_ITEMS,
        actions=actions,
        max_events=50,
        item_features=features,
    )
    return started(GenerativeRecommender(config)).eval()


def test_a_model_says_how_its_late_features_are_counted():
    model = late_model()
    model.items.code_VC[:, 1:4] = torch.from_numpy(genres())
    found = model.late_statistics()
    assert found is not None and (found.settings, found.actions) == (SETTINGS, ACTIONS)
    np.testing.assert_array_equal(found.code_VK, genres())
    assert code_columns(["maker"], FEATURES) == [0]
    assert model_of(resolve("lac")).late_statistics() is None
    windows_only = late_model(late=LateSettings(windows=(5,)), features=()).late_statistics()
    assert windows_only is not None and windows_only.code_VK.size == 0


def test_late_features_reach_the_losses_and_cannot_be_forgotten():
    model, batch = late_model(), events()
    torch.nn.init.normal_(model.heads.weight_KD)
    counted = training_inputs(model.plan, batch, late=model.late_statistics())
    of_items, of_actions = counted.questions
    assert of_items.late_MF is None and of_actions.late_MF is not None
    others = replace(counted, questions=(of_items, replace(of_actions, late_MF=of_actions.late_MF.flip(0))))
    losses, shuffled = model.losses(counted), model.losses(others)
    assert torch.equal(losses["retrieval"], shuffled["retrieval"])
    assert all(losses[action.name] != shuffled[action.name] for action in ACTIONS)
    with pytest.raises(ValueError, match="found 0 late features"):
        model.losses(training_inputs(model.plan, batch))


@pytest.mark.parametrize(
    ("late", "change", "reason"),
    [
        (LateSettings(similar="genr"), {}, "similar = 'genr': expected an item feature.* has maker, genre;"),
        (LateSettings(similar="text"), {}, "similar = 'text': expected an item feature with values to share"),
        (LateSettings(similar="genre"), {"features": ()}, "of which the data has none"),
        (LateSettings(windows=(5, 51)), {}, r"windows = \(5, 51\): a model that looks at 50 events"),
        (LateSettings(windows=(5,)), {"name": "item", "actions": ()}, "counts actions, and the data has none"),
        (LateSettings(similar="genre"), {"name": "next_both_out"}, "predicts an action without its item"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(late, change, reason):
    with pytest.raises(ValueError, match=reason):
        late_model(late=late, **change)


@pytest.mark.parametrize("windows", [(0,), (5, -1), (5, 5)])
def test_windows_that_are_none_are_refused(windows):
    with pytest.raises(ValueError, match=r"model\.late\.windows = .*expected"):
        LateSettings(windows=windows)


def test_a_layout_without_actions_does_not_mind():
    model = late_model("item")
    inputs = training_inputs(model.plan, events(), late=model.late_statistics())
    assert set(model.losses(inputs)) == {"retrieval"}
