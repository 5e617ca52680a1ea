"""The checks that every combination passes: one for every promise.

Shape letters: U users, E events, D width, N rows of embedded facts: events, or users.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from conformance import LATER_S, LENGTHS, Case, States, a_log, begin_of_request, close, known_to, one_by_one
from describing import CODES_OF_CONTEXT, described
from tiny import (
    ACTIONS,
    MAX_EVENTS,
    NUM_CONDITIONS,
    NUM_ITEMS,
    assert_not_vacuous,
    batch_of,
    part_of,
    together,
)
from torch import Tensor

from plait.engine.state import append, encode, joined_histories, window
from plait.layouts.facts import Field
from plait.layouts.packing import pack, pad
from plait.schema import MISSING_VALUE, UNKNOWN_ITEM, EventBatch
from plait.window_rule import WindowRule


def states_and_facts(case: Case, batch: EventBatch) -> tuple[States, dict[str, Tensor]]:
    """The states of training's questions, and what they were made of: embedded items, actions, contexts, users,
    conditions."""
    facts: dict[str, Tensor] = {}
    model = case.model
    encoders = {"i": model.items, "a": model.actions, "context": model.context, "user": model.users}
    encoders["c"] = model.conditions
    hooks = [
        encoder.register_forward_hook(lambda _module, _in, out_ND, name=name: facts.update({name: out_ND}))
        for name, encoder in encoders.items()
        if encoder is not None
    ]
    states = case.states(case.training(batch))
    for hook in hooks:
        hook.remove()
    return states, facts


def check_no_leak(case: Case) -> None:
    """P3 by gradient: states depend on nothing that their questions may not know, nor on other users. Zero means
    zero. The questions of all users about their nth events are differentiated at once."""
    batch, users = case.told(a_log()), np.arange(len(LENGTHS))
    states, facts = states_and_facts(case, batch)
    user_E = np.repeat(users, LENGTHS)
    nth_E = np.arange(len(user_E)) - batch.start_U1[user_E]
    met = {"forbidden facts": 0, "facts of others": 0} | dict.fromkeys(facts, 0)
    for field, state_ED in states.items():
        asked_E = ~state_ED.isnan().any(1).numpy()
        for nth in np.unique(nth_E[asked_E]):
            events = np.flatnonzero(asked_E & (nth_E == nth))
            known = [known_to(case, batch, field, event) for event in events]
            item_E, action_E = (np.any([getattr(k, n) for k in known], 0) for n in ("item_E", "action_E"))
            condition_E = np.any([each.condition_E for each in known], 0)
            may_N = {"i": item_E, "a": action_E, "context": item_E, "c": condition_E}
            may_N["user"] = np.isin(users, user_E[events])
            for fact, read_N in facts_read(state_ED[events], facts).items():
                wrong = np.flatnonzero(read_N & ~may_N[fact])
                assert not len(wrong), f"leak: {field} of events {events} reads {fact} of {wrong}"
                met["forbidden facts"] += int((~may_N[fact]).sum())
                met[fact] += int(read_N.sum())
        for user in np.unique(user_E[asked_E]):
            for fact, read_N in facts_read(state_ED[asked_E & (user_E == user)], facts).items():
                is_others_N = (users if fact == "user" else user_E) != user
                wrong = np.flatnonzero(read_N & is_others_N)
                assert not len(wrong), f"leak: user {user} reads {fact} of another user, rows {wrong}"
                met["facts of others"] += int(is_others_N.sum())
    assert_not_vacuous(met, above=1)


def facts_read(state_MD: Tensor, facts: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Which rows of embedded facts the states depend on, each projected on a random line."""
    line_MD = torch.randn(state_MD.shape, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad(
        (state_MD * line_MD).sum(), [*facts.values()], retain_graph=True, allow_unused=True
    )
    return {
        fact: np.zeros(len(facts[fact]), bool) if slope_ND is None else (slope_ND != 0).any(1).numpy()
        for fact, slope_ND in zip(facts, slopes, strict=True)
    }


def changed(batch: EventBatch, first: int, what: Sequence[str]) -> EventBatch:
    """Other items, actions, times, contexts or conditions from every user's event `first` on."""
    nth_E = np.arange(len(batch.item_E)) - np.repeat(batch.start_U1[:-1], batch.num_events_U)
    later_E = nth_E >= first
    other_EA = np.where(np.isnan(batch.action_EA), np.float32(1), np.float32(np.nan))
    if "context" in what:
        other_EF = (batch.context_EF + 1) % CODES_OF_CONTEXT
        batch = replace(batch, context_EF=np.where(later_E[:, None], other_EF, batch.context_EF))
    if "condition" in what:
        other_EG = (batch.condition_EG + 1) % NUM_CONDITIONS
        batch = replace(batch, condition_EG=np.where(later_E[:, None], other_EG, batch.condition_EG))
    return replace(
        batch,
        item_E=np.where(later_E & ("item" in what), batch.item_E % NUM_ITEMS + 1, batch.item_E),
        action_EA=np.where((later_E & ("action" in what))[:, None], other_EA, batch.action_EA),
        time_s_E=batch.time_s_E + LATER_S * (later_E & ("time" in what)),
    )


@torch.no_grad()
def check_causality(case: Case) -> None:
    """By value, which also finds ways that a gradient does not take (times, lengths, indices, counts): other items,
    actions, times, contexts or conditions from some event on change no state whose question may not know them, and
    change others."""
    batch = case.told(a_log())
    told = ["action", "time"] + ["context"] * case.knows_features + ["condition"] * case.knows_conditions
    kinds = (("item", *told), *((kind,) for kind in told))
    variants = [(first, what) for first in range(max(LENGTHS)) for what in kinds]
    found = case.states(case.training(together(batch, *(changed(batch, *variant) for variant in variants))))
    num_events = len(batch.item_E)
    nth_E = np.arange(num_events) - np.repeat(batch.start_U1[:-1], LENGTHS)
    singly = [("time",)] * case.knows_time + [("context",)] * case.knows_features
    singly += [("condition",)] * case.knows_conditions
    met: dict[object, int] = dict.fromkeys(("kept", "changed", *singly), 0)
    for field, state_ED in found.items():
        as_it_was_ED, *others = state_ED.split(num_events)
        for event in np.flatnonzero(~as_it_was_ED.isnan().any(1).numpy()):
            known = known_to(case, batch, field, event)
            may_E = dict.fromkeys(("item", "context"), known.item_E) | {
                "action": known.action_E,
                "condition": known.condition_E,
                "time": known.time_E,
            }
            for (first, what), other_ED in zip(variants, others, strict=True):
                differs = float((other_ED[event] - as_it_was_ED[event]).abs().max())
                if any((may_E[kind] & (nth_E >= first)).any() for kind in what):
                    met["changed"] += differs > 1e-4
                    if what in met:
                        met[what] += differs > 1e-4
                    continue
                assert differs <= 1e-5, f"leak: {field} of event {event} knows {what} from event {first} on"
                met["kept"] += 1
    assert_not_vacuous(met)


@torch.no_grad()
def check_company(case: Case) -> None:
    """Packed with others, padded, alone, in another order, beside strangers: the states of a user are the same."""
    batch, users = case.told(a_log()), range(len(LENGTHS))
    singles = one_by_one(batch)
    expected = case.states(case.training(batch, pad))
    assert expected
    packed = case.training(batch, partial(pack, row_length=len(LENGTHS) * 2 * max(LENGTHS)))
    assert not packed.segments.one_user_per_row
    strangers = case.told(batch_of((5, 2), seed=11))
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
    asked = list(zip(one_by_one(case.told(a_log())), ([1, 2, 3], [3, 9], [5, 3, 7]), strict=True))
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


def _with_candidates(history: EventBatch, items: Sequence[int], action: float = np.nan) -> EventBatch:
    """One user's history and events to come: all in the next request, at one time."""
    number = len(items)
    to_come = EventBatch(
        user_U=history.user_U,
        start_U1=np.array([0, number]),
        lead_U=np.array([0]),
        item_E=np.array(items),
        action_EA=np.full((number, len(ACTIONS)), action, dtype=np.float32),
        time_s_E=np.full(number, history.time_s_E[-1] + 86_400),
        request_E=np.full(number, history.request_E[-1] + 1),
        condition_EG=np.outer(items, (1, 2)) % NUM_CONDITIONS,
    )
    return joined_histories(history, described(to_come) if history.context_EF.shape[1] else to_come)


@torch.no_grad()
def check_serving(case: Case) -> None:
    """The state that training supervises is the state that serving asks for, with only what may be known at hand:
    a candidate's action is missing, for an item its item is unknown and its context missing, and a time that may not
    be known is wrong.

    A request has one time here: serving has no other."""
    batch = case.told(a_log())
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
    return joined_histories(
        part_of(batch, user, 0, now, min(int(batch.lead_U[user]), now)),
        replace(
            to_come,
            item_E=to_come.item_E if field == "a" else np.full(1, UNKNOWN_ITEM),
            context_EF=to_come.context_EF
            if field == "a"
            else np.full_like(to_come.context_EF, MISSING_VALUE),
            action_EA=np.full_like(to_come.action_EA, np.nan),
            time_s_E=to_come.time_s_E + (0 if knows_time else LATER_S),
        ),
    )


@torch.no_grad()
def check_append(case: Case) -> None:
    """A state with an event appended answers as the longer history's window does, cut by hand, within the window and
    beyond it; the event is of a request of its own, or of the last event's, which has its time."""
    length_U, lag = (5, 2, 4), case.layout.lag
    history = case.told(batch_of(length_U, seed=13))
    request_E = np.array([0, 0, 1, 2, 2, 0, 0, 0, 1, 1, 2])
    history = replace(history, request_E=request_E, time_s_E=1_600_000_000 + 90 * request_E)
    until = together(*(part_of(history, user, 0, length - 1) for user, length in enumerate(length_U)))
    last = together(*(part_of(history, user, length - 1) for user, length in enumerate(length_U)))
    for size in (WindowRule(2), WindowRule(2, step=2), WindowRule(MAX_EVENTS)):
        appended = append(encode(until, size, lag), last, size, lag)
        first_U = [max(0, length - size.max_events) // size.step * size.step for length in length_U]
        by_hand = [
            part_of(history, user, max(0, first - lag), lead=min(lag, first))
            for user, first in enumerate(first_U)
        ]
        found, expected = (
            case.states(case.query(together(*(_with_candidates(h, [7]) for h in histories))))
            for histories in (one_by_one(window(appended.events, size, lag)), by_hand)
        )
        assert expected
        close(found, expected, equal_nan=True)


def check_losses(case: Case) -> None:
    """Without a single label all losses are 0 and all gradients finite; with labels every weight of the trunk, and
    of whatever reads features, has a gradient: none is there that no training could change."""
    batch, model = case.told(a_log()), case.model
    empty = replace(
        batch, item_E=np.zeros_like(batch.item_E), action_EA=np.full_like(batch.action_EA, np.nan)
    )
    for log, has_labels in ((empty, False), (batch, True)):
        model.zero_grad()
        losses = model.losses(case.training(log))
        model.total(losses).backward()
        assert losses and all((loss.item() > 0) == has_labels for loss in losses.values())
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    parts = ("trunk", "conditions", "state_interest", "item_interest")
    parts += ("items", "users", "context", "heads") if case.knows_features else ()
    weights = [(name, p) for name, p in model.named_parameters() if name.split(".")[0] in parts]
    idle = [name for name, p in weights if p.grad is None or not p.grad.any()]
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
