"""What every combination of layout, trunk, positions and exposure must keep: one check for every promise.

What a question may know is written down here from its definition, apart from the code that arranges tokens.
Shape letters: U users, E events, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from tiny import ACTIONS, MAX_EVENTS, NUM_ITEMS, assert_not_vacuous, batch_of, model_of, part_of, together
from torch import Tensor

from plait.engine.state import append, encode, joined
from plait.layouts import CATALOGUE, Layout
from plait.layouts.audit import reader
from plait.layouts.facts import Field
from plait.layouts.packing import pack, pad
from plait.models.combining import Combination, supervises_candidates_only, trunk_of
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.inputs import Inputs, Packer, query_inputs, training_inputs
from plait.schema import UNKNOWN_ITEM, EventBatch

# The first user's window begins inside a request, the second user's last request is all but one event.
REQUESTS, LEADS = ((0, 0, 1, 1, 2, 2), (0, 1, 1), (0, 1, 2)), (1, 0, 1)
LENGTHS = tuple(map(len, REQUESTS))
LATER_S = 50_000_000  # far beyond the bucket of any gap of the batch

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)
States = dict[Field, Tensor]  # by field the state of the question about every event, NaN where none was asked


@cache
def a_log() -> EventBatch:
    """Three users; requests of several events, whose times differ inside of a request, too."""
    batch = batch_of(LENGTHS, LEADS)
    nth_E = np.concatenate([np.arange(length) for length in LENGTHS])
    back_s_E = 40 * 3 ** (max(LENGTHS) - nth_E) + batch.item_E  # every gap is a bucket of its own
    return replace(batch, request_E=np.concatenate(REQUESTS), time_s_E=1_600_000_000 - back_s_E)


@dataclass(frozen=True)
class Case:
    """A combination with its model, trained in one of two ways: on every event, or on candidates alone."""

    combination: Combination
    model: GenerativeRecommender
    by_candidates: bool

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def knows_time(self) -> bool:
        return self.combination.positions in ("rab", "genrank")

    def training(self, batch: EventBatch, packer: Packer = pack) -> Inputs:
        exposure, requests = self.combination.exposure, 1 if self.by_candidates else None
        return training_inputs(self.layout, batch, packer, exposure=exposure, candidate_requests=requests)

    def query(
        self,
        batch: EventBatch,
        num_candidates: Sequence[int] | None = None,
        fields: tuple[Field, ...] = ("i", "a"),
    ) -> Inputs:
        count_U = None if num_candidates is None else np.array(num_candidates)
        exposure = self.combination.exposure
        return query_inputs(self.layout, batch, fields, exposure=exposure, num_candidates_U=count_U)

    def states(self, inputs: Inputs) -> States:
        """The states of all questions, at the events that they are about."""
        found: States = {}
        for asked, state_MD in zip(inputs.asked, self.model(inputs), strict=True):
            state_ED = state_MD.new_full((len(inputs.item_E), state_MD.shape[1]), torch.nan)
            found[asked.target.fact.field] = state_ED.index_copy(0, asked.label_M, state_MD)
        return found


def cases(combination: Combination) -> list[Case]:
    """The ways to train a combination, over one model."""
    layout, exposure = CATALOGUE[combination.name].layout, combination.exposure
    config = trunk_of(combination.trunk, combination.positions, dim=8, num_layers=2, num_heads=2, dropout=0.0)
    model = model_of(layout, settings=ModelSettings(trunk=config, exposure=exposure))
    ways = [True] if supervises_candidates_only(layout, exposure) else [False, True]
    return [Case(combination, model, way) for way in ways]


def begin_of_request(batch: EventBatch, event: int) -> int:
    begin = event
    start = batch.start_U1[batch.start_U1 <= event].max()
    while begin > start and batch.request_E[begin - 1] == batch.request_E[event]:
        begin -= 1
    return int(begin)


@dataclass(frozen=True)
class Known:
    """Which events' facts the question about an event may know."""

    item_E: np.ndarray
    action_E: np.ndarray
    time_E: np.ndarray


def known_to(case: Case, batch: EventBatch, field: Field, event: int) -> Known:
    """Of its own user what lay before, and for an action its item; with requests that do not see themselves,
    and for a candidate, what lay before its request. Of times, in addition, what `time_anchor` promises."""
    event_E, exposure = np.arange(len(batch.item_E)), case.combination.exposure
    start = batch.start_U1[batch.start_U1 <= event].max()
    end = batch.start_U1[batch.start_U1 > event].min()
    apart = case.by_candidates or exposure.same_request == "blind"
    now = begin_of_request(batch, event) if apart else event
    before_E, own_E = (event_E >= start) & (event_E < now), event_E == event
    time_E = before_E.copy()
    asked = reader(case.layout, field)
    assert asked is not None
    if asked.target.offset == 0:
        time_E |= own_E
    if exposure.time_anchor == "next":
        time_E |= event_E == now
    if exposure.time_anchor == "request":
        time_E[begin_of_request(batch, end - 1)] = True
    return Known(before_E | (own_E & (field == "a")), before_E, time_E & case.knows_time)


def states_and_facts(case: Case, batch: EventBatch) -> tuple[States, dict[Field, Tensor]]:
    """The states of training's questions, and the embedded items and actions that they were made of."""
    facts: dict[Field, Tensor] = {}
    hooks = [
        encoder.register_forward_hook(lambda _module, _in, out_ED, field=field: facts.update({field: out_ED}))
        for field, encoder in (("i", case.model.items), ("a", case.model.actions))
    ]
    states = case.states(case.training(batch))
    for hook in hooks:
        hook.remove()
    return states, facts


def check_no_leak(case: Case) -> None:
    """P3 by gradient: states depend on nothing that their questions may not know, nor on other users. Zero means
    zero. The questions of all users about their nth events are differentiated at once."""
    batch = a_log()
    states, facts = states_and_facts(case, batch)
    user_E = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    nth_E = np.arange(len(user_E)) - batch.start_U1[user_E]
    met = {"forbidden facts": 0, "facts that are read": 0, "facts of others": 0}
    for field, state_ED in states.items():
        asked_E = ~state_ED.isnan().any(1).numpy()
        for nth in np.unique(nth_E[asked_E]):
            events = np.flatnonzero(asked_E & (nth_E == nth))
            known = [known_to(case, batch, field, event) for event in events]
            may_E = {"i": np.any([k.item_E for k in known], 0), "a": np.any([k.action_E for k in known], 0)}
            for fact, read_E in facts_read(state_ED[events], facts).items():
                wrong = np.flatnonzero(read_E & ~may_E[fact])
                assert not len(wrong), f"leak: {field} of events {events} reads {fact} of {wrong}"
                met["forbidden facts"] += int((~may_E[fact]).sum())
                met["facts that are read"] += int(read_E.sum())
        for user in np.unique(user_E[asked_E]):
            for fact, read_E in facts_read(state_ED[asked_E & (user_E == user)], facts).items():
                wrong = np.flatnonzero(read_E & (user_E != user))
                assert not len(wrong), f"leak: user {user} reads {fact} of another user, events {wrong}"
                met["facts of others"] += int((user_E != user).sum())
    assert_not_vacuous(met, above=2)


def facts_read(state_MD: Tensor, facts: dict[Field, Tensor]) -> dict[Field, np.ndarray]:
    """Which events' embedded facts the states depend on, each projected on a random line."""
    line_MD = torch.randn(state_MD.shape, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad(
        (state_MD * line_MD).sum(), [*facts.values()], retain_graph=True, allow_unused=True
    )
    return {
        field: np.zeros(len(facts[field]), bool) if slope_ED is None else (slope_ED != 0).any(1).numpy()
        for field, slope_ED in zip(facts, slopes, strict=True)
    }


def changed(batch: EventBatch, first: int, what: Sequence[str]) -> EventBatch:
    """Other items, actions or times from every user's event `first` on."""
    nth_E = np.arange(len(batch.item_E)) - np.repeat(batch.start_U1[:-1], batch.num_events_U)
    later_E = nth_E >= first
    other_EA = np.where(np.isnan(batch.action_EA), np.float32(1), np.float32(np.nan))
    return replace(
        batch,
        item_E=np.where(later_E & ("item" in what), batch.item_E % NUM_ITEMS + 1, batch.item_E),
        action_EA=np.where((later_E & ("action" in what))[:, None], other_EA, batch.action_EA),
        time_s_E=batch.time_s_E + LATER_S * (later_E & ("time" in what)),
    )


@torch.no_grad()
def check_causality(case: Case) -> None:
    """By value, which also finds ways that a gradient does not take (times, lengths, indices): other items,
    actions or times from some event on change no state whose question may not know them, and change others."""
    batch = a_log()
    kinds = (("item", "action", "time"), ("action",), ("time",))
    variants = [(first, what) for first in range(max(LENGTHS)) for what in kinds]
    found = case.states(case.training(together(batch, *(changed(batch, *variant) for variant in variants))))
    num_events = len(batch.item_E)
    nth_E = np.arange(num_events) - np.repeat(batch.start_U1[:-1], LENGTHS)
    met = {"kept": 0, "changed": 0} | ({"changed by time": 0} if case.knows_time else {})
    for field, state_ED in found.items():
        as_it_was_ED, *others = state_ED.split(num_events)
        for event in np.flatnonzero(~as_it_was_ED.isnan().any(1).numpy()):
            known = known_to(case, batch, field, event)
            may_E = {"item": known.item_E, "action": known.action_E, "time": known.time_E}
            for (first, what), other_ED in zip(variants, others, strict=True):
                differs = float((other_ED[event] - as_it_was_ED[event]).abs().max())
                if any((may_E[kind] & (nth_E >= first)).any() for kind in what):
                    met["changed"] += differs > 1e-4
                    if what == ("time",):
                        met["changed by time"] += differs > 1e-4
                    continue
                assert differs <= 1e-5, f"leak: {field} of event {event} knows {what} from event {first} on"
                met["kept"] += 1
    assert_not_vacuous(met)


@torch.no_grad()
def check_company(case: Case) -> None:
    """Packed with others, padded, alone, in another order, beside strangers: the states of a user are the same."""
    batch, users = a_log(), range(len(LENGTHS))
    singles = one_by_one(batch)
    expected = case.states(case.training(batch, pad))
    assert expected
    packed = case.training(batch, partial(pack, row_length=len(LENGTHS) * 2 * max(LENGTHS)))
    assert not packed.segments.one_user_per_row
    strangers = batch_of((5, 2), seed=11)
    for inputs, order in (
        (packed, users),
        (case.training(singles[1]), [1]),
        (case.training(together(strangers, *reversed(singles))), users[::-1]),
    ):
        found = case.states(inputs)
        for field, state_ED in expected.items():
            by_user = state_ED.split(LENGTHS)
            state_ED = torch.cat([by_user[user] for user in order])
            close(found[field][-len(state_ED) :], state_ED, equal_nan=True)


@torch.no_grad()
def check_candidates(case: Case) -> None:
    """Several candidates in one pass: as one at a time, in any order, whatever is written as their actions."""
    asked = list(zip(one_by_one(a_log()), ([1, 2, 3], [3, 9], [5, 3, 7]), strict=True))
    one_pass = together(*(_with_candidates(history, items) for history, items in asked))
    turned = together(*(_with_candidates(history, items[::-1], action=1.0) for history, items in asked))
    alone = together(*(_with_candidates(history, [item]) for history, items in asked for item in items))
    counts = [len(items) for _, items in asked]
    expected = case.states(case.query(alone))
    met = dict.fromkeys(expected, 0)
    for batch, is_turned in ((one_pass, False), (turned, True)):
        found = case.states(case.query(batch, counts))
        for field, state_ED in expected.items():
            by_user = found[field][~found[field].isnan().any(1)].split(counts)
            in_order_CD = torch.cat([states_CD.flip(0) if is_turned else states_CD for states_CD in by_user])
            close(in_order_CD, state_ED[~state_ED.isnan().any(1)])
            met[field] += len(in_order_CD)
    assert_not_vacuous(met, above=sum(counts))


def one_by_one(batch: EventBatch) -> list[EventBatch]:
    """Every user of a batch as a batch."""
    return [part_of(batch, user, lead=int(lead)) for user, lead in enumerate(batch.lead_U)]


def _with_candidates(history: EventBatch, items: Sequence[int], action: float = np.nan) -> EventBatch:
    """One user's history and events to come: all in the next request, at one time."""
    number = len(items)
    return joined(
        history,
        EventBatch(
            user_U=history.user_U,
            start_U1=np.array([0, number]),
            lead_U=np.array([0]),
            item_E=np.array(items),
            action_EA=np.full((number, len(ACTIONS)), action, dtype=np.float32),
            time_s_E=np.full(number, history.time_s_E[-1] + 86_400),
            request_E=np.full(number, history.request_E[-1] + 1),
        ),
    )


@torch.no_grad()
def check_serving(case: Case) -> None:
    """The state that training supervises is the state that serving asks for, with only what may be known at hand:
    a candidate's action is missing, for an item its item is unknown, and a time that may not be known is wrong.

    A request has one time here: serving has no other."""
    batch = a_log()
    begins = [begin_of_request(batch, event) for event in range(len(batch.item_E))]
    batch = replace(batch, time_s_E=batch.time_s_E[begins])
    for field, state_ED in case.states(case.training(batch)).items():
        events = np.flatnonzero(~state_ED.isnan().any(1).numpy())
        asked = together(*(_as_served(case, batch, field, int(event)) for event in events))
        served_ED = case.states(case.query(asked, fields=(field,)))[field][asked.start_U1[1:] - 1]
        close(served_ED, state_ED[events])
        assert_not_vacuous({"states": len(events)}, above=1)


def _as_served(case: Case, batch: EventBatch, field: Field, event: int) -> EventBatch:
    """The history that is known when an event is asked about, and the event as far as it is known."""
    known = known_to(case, batch, field, event)
    user = int(np.searchsorted(batch.start_U1, event, side="right")) - 1
    now, nth = int(known.action_E.sum()), event - int(batch.start_U1[user])
    knows_time = known.time_E[event - nth + now : event + 1].any()
    to_come = part_of(batch, user, nth, nth + 1)
    return joined(
        part_of(batch, user, 0, now, min(int(batch.lead_U[user]), now)),
        replace(
            to_come,
            item_E=to_come.item_E if field == "a" else np.full(1, UNKNOWN_ITEM),
            action_EA=np.full_like(to_come.action_EA, np.nan),
            time_s_E=to_come.time_s_E + (0 if knows_time else LATER_S),
        ),
    )


@torch.no_grad()
def check_append(case: Case) -> None:
    """A state with an event appended answers as the longer history does, within the window and beyond it; the event is
    of a request of its own, or of the last event's, which has its time."""
    length_U = (5, 2, 4)
    history = batch_of(length_U, seed=13)
    request_E = np.array([0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 2])
    history = replace(history, request_E=request_E, time_s_E=1_600_000_000 + 90 * request_E)
    until = together(*(part_of(history, user, 0, length - 1) for user, length in enumerate(length_U)))
    last = together(*(part_of(history, user, length - 1) for user, length in enumerate(length_U)))
    for window in (2, MAX_EVENTS):
        appended = append(encode(until, window, case.layout.lag), last, window, case.layout.lag)
        again = encode(history, window, case.layout.lag)
        found, expected = (
            case.states(case.query(together(*(_with_candidates(h, [7]) for h in one_by_one(state.events)))))
            for state in (appended, again)
        )
        assert expected
        close(found, expected, equal_nan=True)


def check_losses(case: Case) -> None:
    """Without a single label all losses are 0 and all gradients finite; with labels every weight of the trunk has
    a gradient: none is there that no training could change."""
    batch, model = a_log(), case.model
    empty = replace(
        batch, item_E=np.zeros_like(batch.item_E), action_EA=np.full_like(batch.action_EA, np.nan)
    )
    for log, has_labels in ((empty, False), (batch, True)):
        model.zero_grad()
        losses = model.losses(case.training(log))
        model.total(losses).backward()
        assert losses and all((loss.item() > 0) == has_labels for loss in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    idle = [name for name, p in model.trunk.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no training changes {idle}"
    model.zero_grad()


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_no_leak,
    check_causality,
    check_company,
    check_candidates,
    check_serving,
    check_append,
    check_losses,
)
# Again where a model may be trained in a second way: the rest does not read how it was trained.
OF_TRAINING = (check_no_leak, check_causality, check_serving)


def failures(case: Case, checks: Sequence[Callable[[Case], None]] = CHECKS) -> list[str]:
    """The checks that fail, each with its reason."""
    found = []
    for check in checks:
        try:
            check(case)
        except AssertionError as error:
            found.append(f"{check.__name__}, {'candidates' if case.by_candidates else 'all'}: {error}")
    return found
