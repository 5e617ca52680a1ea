"""Graphs of tensors alone say what the engine says, for every layout, trunk and position scheme that they take."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import MAX_EVENTS, assert_caught, assert_not_vacuous, model_of, trunk_of

from plait.engine.state_file import hash_of
from plait.exporting import dense, graphs
from plait.exporting.comparing import CASES, arrays_of, differences_on_drawn, drawn_histories
from plait.exporting.exported import FORMAT_VERSION, About, Exported
from plait.exporting.programs import Drafted, drafted, events_read
from plait.exporting.supported import problems_of_exporting
from plait.layouts import CATALOGUE, Layout, resolve
from plait.models.combining import combinations, named_trunk
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.questions import Exposure
from plait.nn.config import TRUNKS
from plait.nn.losses import RetrievalLoss
from plait.schema import Action, Amount, Binary, Categorical, Ordinal, Regression

WINDOW = 6
ONE_CASE = ((4, 3),)
SHAPE = {"dim": 12, "num_layers": 2, "num_heads": 2, "dropout": 0.0}
OF_ALL_KINDS = (
    Action("rating", Regression(1, 5)),
    Action("liked", Binary()),
    Action("device", Categorical(("phone", "tablet", "tv"))),
    Action("grade", Ordinal(("1", "2", "3", "4"))),
    Action("watch_s", Amount(log1p_scale=3.0)),
    Action("paid", Amount(zero_inflated=True, log1p_scale=2.0)),
)


def model_for(
    name: str, trunk: str = "gpt", positions: str = "learned", step: int = 1, **shape: int
) -> GenerativeRecommender:
    settings = ModelSettings(trunk=named_trunk(trunk, positions, **{**SHAPE, **shape}))
    return model_of(resolve(name), max_events=WINDOW, window_step=step, settings=settings)


def run_by_torch(model: GenerativeRecommender) -> Exported:
    """The programs before they are exported, run as they stand."""

    def program(draft: Drafted):
        def run(arrays):
            with torch.no_grad():
                found = draft.module({name: torch.from_numpy(x) for name, x in arrays.items()})
            return {name: x.numpy() for name, x in found.items()}

        return run

    drafts = drafted(model)
    about = About(
        format_version=FORMAT_VERSION,
        format="torch",
        model=hash_of(model),
        made_by=(),
        layout=str(model.layout),
        actions=model.config.actions,
        num_items=model.config.num_items,
        events_read=events_read(model),
        left_out=(),
        programs={name: each.ports for name, each in drafts.items()},
    )
    return Exported(about, {name: program(each) for name, each in drafts.items()})


def check_says_the_same(model: GenerativeRecommender, cases: tuple[tuple[int, int], ...] = CASES) -> int:
    found = differences_on_drawn(model, run_by_torch(model), cases)
    assert all(each.difference <= each.allowed for each in found), [str(model.layout), found]
    return len(found)


def some_of_all() -> list[tuple[str, str, str]]:
    """Every layout on every trunk, there with the position schemes in turn."""
    allowed: dict[tuple[str, str], list[str]] = {}
    for each in combinations():
        if each.exposure == Exposure() and not each.problems:
            allowed.setdefault((each.name, each.trunk), []).append(each.positions)
    return [
        (*key, positions[(nth + nth // len(TRUNKS)) % len(positions)])
        for nth, (key, positions) in enumerate(sorted(allowed.items()))
    ]


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_every_layout_and_family_says_what_the_engine_says():
    compared: Counter[str] = Counter()
    for nth, (name, trunk, positions) in enumerate(some_of_all()):
        model = model_for(name, trunk, positions, step=1 + nth % 3)
        if list(problems_of_exporting(model)):
            continue
        num_compared = check_says_the_same(model, ONE_CASE)
        for each in (name, trunk, positions):
            compared[each] += num_compared
    assert len(compared) >= len(CATALOGUE) - 4 + len(TRUNKS) + 5  # some neither score nor retrieve
    assert_not_vacuous(compared, above=2)


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(
    "layout",
    [
        "i[t] -> (); a[t-2] -> (i[t+1], a[t])",
        "a[t-1] -> i[t]; i[t] -> a[t]",
        "(i[t], a[t-1]) -> (a[t], i[t+1] | a[t])",
        "(i[t], a[t]) -> a[t+2] | i[t+2] | a[t-1]",
    ],
)
def test_layouts_of_users_say_what_the_engine_says(layout):
    settings = ModelSettings(
        trunk=trunk_of("alibi"),
        interest_dim=8,
        retrieval=RetrievalLoss(l2_norm=True, temperature=0.2, item_bias="popularity"),
    )
    model = model_of(Layout.parse(layout), max_events=WINDOW, settings=settings, actions=OF_ALL_KINDS)
    assert check_says_the_same(model) >= 3


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_longer_rows_and_earlier_events_change_nothing():
    model = model_for("lac", positions="genrank", step=2)
    exported, events = run_by_torch(model), drawn_histories(model, 4, seed=9)
    names = tuple(port.name for port in exported.about.programs["encode"].inputs)
    short, whole = (arrays_of(events, names, most) for most in (exported.about.events_read, MAX_EVENTS * 9))
    assert short["item"].shape[1] < whole["item"].shape[1] and (short["before"] > whole["before"]).any()
    item_UC, at_s_U = np.full((4, 3), 5), np.full(4, int(events.time_s_E.max()) + 60)
    one, other = (exported.score(exported.encode(each), item_UC, at_s_U)["rating"] for each in (short, whole))
    assert np.allclose(one, other, rtol=0, atol=1e-5) and np.ptp(one) > 0.01


def window_off_by_one(monkeypatch):
    right = graphs._first_in_window
    monkeypatch.setattr(graphs, "_first_in_window", lambda *its: right(*its) + 1)


def candidates_at_another_position(monkeypatch):
    right = graphs.Answer._segments

    def moved(self, state, item_UC):
        segments = right(self, state, item_UC)
        return replace(segments, position_RL=segments.position_RL - 1)

    monkeypatch.setattr(graphs.Answer, "_segments", moved)


def padding_that_is_seen(monkeypatch):
    right = graphs.Places.tokens_position
    monkeypatch.setattr(graphs.Places, "tokens_position", lambda *its: right(*its).clamp(min=0))


def a_stale_action(monkeypatch):
    right = graphs.Facts.back
    monkeypatch.setattr(
        graphs.Facts, "back", lambda self, history, field, back: right(self, history, field, back + 1)
    )


def own_event_left_out(monkeypatch):
    right = dense.OverHistory.softmax
    strict = lambda self, qkv, bias, *, strict: right(self, qkv, bias, strict=True)  # noqa: E731
    monkeypatch.setattr(dense.OverHistory, "softmax", strict)


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(
    "broken",
    [
        window_off_by_one,
        candidates_at_another_position,
        padding_that_is_seen,
        a_stale_action,
        own_event_left_out,
    ],
)
def test_a_broken_graph_is_caught(broken, monkeypatch):
    model = model_for("lac")
    check_says_the_same(model)
    broken(monkeypatch)
    assert_caught(check_says_the_same, model)
