"""Training, evaluation and serving ask about an event from the same context: the same facts of the same events.

Each makes its question from the log that it has at work: training from one in which the event is the last of training,
evaluation from one in which it is held out, serving from a history that ends before it. Every event has an item of its
own, so items tell events apart. Shape letters: R rows, L slots of a row.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest
from tiny import ACTIONS, assert_caught, assert_not_vacuous, part_of, together

from plait.data import Dataset, prepare
from plait.engine import asking
from plait.engine.state import encode, joined_histories, window
from plait.evaluation import answers
from plait.evaluation.settings import Protocol
from plait.layouts import CATALOGUE
from plait.layouts.arrange import SPECIALS
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.models.combining import Combination, combinations, named_trunk
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.models.inputs import Inputs, query_inputs
from plait.models.questions import QuestionPlan, Supervise
from plait.schema import Category
from plait.training.batches import training_stream

# By user, the number of events in each request; the event that is asked about is the last one of the last request.
REQUESTS = ((1, 2, 1), (1, 1, 3), (2, 4, 2, 1), (1, 3, 2, 3))
MAX_EVENTS = 3  # which some contexts outgrow
ASKED_AT_S = 2_000_000  # in the last request of every user

Facts = frozenset[tuple[Field, int]]  # each a field of the event that has this item
# Where the question stands, what its head is given, and of every token that it sees what that shows and sees itself.
Context = tuple[int, Facts, frozenset[tuple[Facts, Facts]]]
Contexts = dict[tuple[Field, int], Context]  # by field and item of the event that is asked about


def prepared(out: Path, later_requests: int) -> Dataset:
    """The log, and for every user so many later requests of one event, whose items are numbered behind the others."""
    rows = []
    for user, requests in enumerate(REQUESTS):
        for request, events in enumerate((*requests, *[1] * later_requests)):
            time_s = ASKED_AT_S + 60 * (request - len(requests) + 1)
            first = "item" if request < len(requests) else "later item"
            rows += [(f"u{user}", f"{first} {user} {request} {n}", time_s, 3.0, 1.0) for n in range(events)]
    return prepare(
        pl.DataFrame(rows, ["user", "item", "time", "rating", "liked"], orient="row").with_columns(
            page=pl.lit("home")
        ),
        user="user",
        item="item",
        time="time",
        actions=list(ACTIONS),
        conditions={"page": Category()},
        out=out,
        min_user_events=1,
        min_item_events=1,
    )


@dataclass(frozen=True)
class Logs:
    """The same events twice: asked about in training, and held out for the test."""

    in_training: Dataset
    held_out: Dataset


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Logs:
    folder = tmp_path_factory.mktemp("logs")
    return Logs(prepared(folder / "in_training", later_requests=2), prepared(folder / "held_out", 0))


def every_way() -> Iterator[tuple[Combination, Protocol]]:
    """Every layout x exposure, on one of the trunks that carry it, x choice of supervision."""
    allowed = {(each.name, each.exposure): each for each in combinations() if not each.problems}
    for combination in allowed.values():
        for supervise in get_args(Supervise):
            yield combination, Protocol(max_events=MAX_EVENTS, supervise=supervise)


def plan_of(combination: Combination, protocol: Protocol) -> QuestionPlan:
    settings = ModelSettings(exposure=combination.exposure)
    return protocol.plan(CATALOGUE[combination.name].layout, settings)


def trained(logs: Logs, combination: Combination, protocol: Protocol) -> Contexts:
    plan = plan_of(combination, protocol)
    ((_, inputs),) = training_stream(logs.in_training, plan, len(REQUESTS), protocol, 0, 0, "cpu")
    return contexts_of(inputs, plan)


def evaluated(logs: Logs, combination: Combination, protocol: Protocol) -> Contexts:
    plan = plan_of(combination, protocol)
    targets = answers.targets_of(logs.held_out, "test", plan, protocol)
    asked = answers.in_context(logs.held_out, targets, plan)
    batch, num_candidates_U = answers.batch_of_targets(logs.held_out, asked, plan)
    return contexts_of(query_inputs(plan, batch, ("i", "a"), num_candidates_U=num_candidates_U), plan)


def served(logs: Logs, combination: Combination, protocol: Protocol) -> Contexts:
    layout = CATALOGUE[combination.name].layout
    settings = ModelSettings(
        trunk=named_trunk(combination.trunk, combination.positions, dim=4, num_heads=1, num_layers=1),
        exposure=combination.exposure,
    )
    model = GenerativeRecommender(
        ModelConfig(
            layout=str(layout),
            settings=settings,
            num_items=logs.held_out.num_items,
            actions=ACTIONS,
            conditions=logs.held_out.conditions if "c" in layout.fields else (),
            max_events=protocol.max_events,
            asked_as_candidates=protocol.supervise == "candidates",
            window_step=protocol.window_step,
        )
    )
    whole = [logs.held_out.history(user) for user in range(len(REQUESTS))]
    history = together(*(part_of(events, 0, 0, len(events.item_E) - 1) for events in whole))
    item_U1 = np.array([events.item_E[-1:] for events in whole])
    encoded, found = encode(history, model.plan.window, layout.lag), {}
    for field in ("i", "a"):
        if reader(layout, field) is not None:
            coming = asking.coming_of(model, field, encoded, ASKED_AT_S, None)
            to_come = asking.candidates_of(
                coming, item_U1, asking.no_context(coming.events), asking.no_condition(coming.events)
            )
            inputs = query_inputs(model.plan, joined_histories(coming.events, to_come), (field,))
            found |= contexts_of(inputs, model.plan)
    return found


def contexts_of(inputs: Inputs, plan: QuestionPlan) -> Contexts:
    """Of every question, what it may know."""
    shown = shown_by_cell(inputs)
    visible_RLL = inputs.segments.visible_RQK.numpy()
    before_RLL = inputs.segments.strictly_visible_RQK.numpy()
    length = visible_RLL.shape[1]
    event_of = dict(zip(inputs.cell_N.tolist(), inputs.event_N.tolist(), strict=True))
    item_E = inputs.item_E.tolist()

    def seen_by(cell: int) -> list[int]:
        row, slot = divmod(cell, length)
        return (row * length + np.flatnonzero(visible_RLL[row, slot])).tolist()

    def facts_seen_by(cell: int) -> Facts:
        row, slot = divmod(cell, length)
        facts = {fact for other in seen_by(cell) for fact in shown[other]}
        if plan.layout.rides:
            before = (row * length + np.flatnonzero(before_RLL[row, slot])).tolist()
            facts |= {("a", item_E[event_of[other]]) for other in before}
        return frozenset(facts)

    position_C, found = inputs.segments.position_RL.flatten().tolist(), {}
    for questions in inputs.questions:
        for m, (cell, label) in enumerate(
            zip(questions.cell_M.tolist(), questions.label_M.tolist(), strict=True)
        ):
            given = ((field, int(source_M[m])) for field, source_M in questions.given_M)
            told = frozenset((field, item_E[s - SPECIALS]) for field, s in given if s >= SPECIALS)
            seen = frozenset((shown[other], facts_seen_by(other)) for other in seen_by(cell))
            key = questions.target.fact.field, item_E[label]
            found[key] = position_C[cell], told, seen
    return found


def shown_by_cell(inputs: Inputs) -> dict[int, Facts]:
    item_E, shown = inputs.item_E.tolist(), {cell: set() for cell in inputs.cell_N.tolist()}
    for field, source_N in inputs.shown:
        for cell, source in zip(inputs.cell_N.tolist(), source_N.tolist(), strict=True):
            shown[cell] |= {(field, item_E[source - SPECIALS])} if source >= SPECIALS else set()
    return {cell: frozenset(facts) for cell, facts in shown.items()}


def check_same_context(logs: Logs) -> None:
    """What training does not ask, the next item inside of a blind request, the others still agree about."""
    met: Counter[tuple[str, ...]] = Counter()
    last_item_U = [int(logs.held_out.history(user).item_E[-1]) for user in range(len(REQUESTS))]
    for combination, protocol in every_way():
        way = logs, combination, protocol
        in_training, in_evaluation, in_serving = trained(*way), evaluated(*way), served(*way)
        assert in_evaluation and in_evaluation == in_serving, f"{combination}, {protocol.supervise}"
        exposure = combination.exposure
        for (field, item), context in in_evaluation.items():
            alone = "alone" if REQUESTS[last_item_U.index(item)][-1] == 1 else "in company"
            met["served", field, alone] += 1
            if (field, item) in in_training:
                assert in_training[field, item] == context, f"{combination}, {protocol.supervise}, {field}"
                met["trained", field, alone] += 1
                met["trained", exposure.same_request, protocol.supervise] += 1
                met["trained", exposure.history, exposure.time_anchor] += 1
    assert len(met) == 4 + 4 + 4 + 6, met
    assert_not_vacuous(met, above=20)


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_an_event_is_asked_about_from_one_context(logs):
    check_same_context(logs)


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("mutant", ["training", "evaluation", "serving", "the model's plan", "the history"])
def test_a_way_that_decides_for_itself_is_caught(mutant, logs, monkeypatch):
    match mutant:
        case "training":  # windows that hold one event to come, however long its request
            monkeypatch.setattr(Dataset, "last_request_lengths", lambda self, of: np.ones_like(of.end_B))
        case "evaluation":
            monkeypatch.setattr(answers, "in_context", lambda dataset, targets, plan: targets)
        case "serving":
            monkeypatch.setattr(asking, "window", lambda events, size, lag, end_U: window(events, size, lag))
        case "the model's plan":
            monkeypatch.setattr(
                ModelConfig, "asked_as_candidates", property(lambda config: False, lambda *_: None)
            )
        case "the history":  # which sees all of itself in training, and what lay before elsewhere
            monkeypatch.setattr(QuestionPlan, "query_roles", without_full_history)
    assert_caught(check_same_context, logs)


def without_full_history(plan, batch, num_candidates_U=None, right=QuestionPlan.query_roles):
    causal = replace(plan.exposure, history="causal")
    return right(replace(plan, exposure=causal, supervise="candidates"), batch, num_candidates_U)
