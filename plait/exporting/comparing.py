"""Whether exported programs say what the engine says.

Shape letters: U users, T events, A action columns, C candidates, E events of all users, Z outputs of an action.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.engine import one_pass
from plait.engine.agreement_cases import NEXT_ITEM, TO_COME, Logits, fields_asked
from plait.engine.agreement_ways import EXACT
from plait.engine.multiplying import multiplied_in
from plait.engine.state import encode
from plait.exporting.exported import Exported
from plait.models.generative import GenerativeRecommender
from plait.nn.action_kinds import modelled
from plait.schema import ActionKind, EventBatch

LATER_S = 3_600  # after the last event of all: when candidates come
CASES = ((1, 2), (2, 11), (5, 1))  # users and candidates: none is of the sizes that are traced
SEED = 0


@dataclass(frozen=True)
class Difference:
    """How far logits of one thing lie apart."""

    logits: str
    difference: float
    allowed: float


def arrays_of(events: EventBatch, names: tuple[str, ...], num_events: int) -> dict[str, np.ndarray]:
    """Histories as programs take them: padded on the right, and of those before the last `num_events` their number."""
    length_U = np.minimum(events.num_events_U, num_events)
    shape = len(length_U), int(length_U.max())
    end_U, cut_U = events.start_U1[1:], events.num_events_U - length_U
    inside_UT = np.arange(shape[1]) < length_U[:, None]
    event_UT = np.where(inside_UT, (end_U - length_U)[:, None] + np.arange(shape[1]), 0)
    first_U = events.start_U1[:-1]
    whole = {
        "item": np.where(inside_UT, events.item_E[event_UT], 0),
        "actions": np.where(inside_UT[..., None], events.action_EA[event_UT], np.float32(np.nan)),
        "time_s": np.where(inside_UT, events.time_s_E[event_UT], 0),
        "request": np.where(inside_UT, events.request_E[event_UT], 0),
        "length": length_U,
        "before": events.number_E[first_U] + cut_U,
    }
    return {name: whole[name] for name in names}


@torch.no_grad()
def native_logits(
    model: GenerativeRecommender, events: EventBatch, item_UC: Int64[np.ndarray, "U C"], at_s: int
) -> Logits:
    """What the engine says."""
    last_U = events.request_E[events.start_U1[1:] - 1].tolist()
    plain = encode(events, model.plan.window, model.plan.lead, request_name_U=last_U)
    state, found = one_pass.encode(model, plain), Logits()
    if "a" in fields_asked(model):
        count_U = np.full(len(item_UC), item_UC.shape[1])
        parts = [*one_pass.outputs_of_lists(
            model, state, item_UC.reshape(-1), count_U, at_s=at_s, request_name=TO_COME
        )]  # fmt: skip
        for action, *out in zip(model.config.actions, *parts, strict=True):
            found[action.name] = torch.cat(out).cpu().numpy().reshape(*item_UC.shape, -1)
    if "i" in fields_asked(model):
        item_UV, score_UV = one_pass.retrieve(
            model, state, model.config.num_items, False, at_s=at_s, request_name=TO_COME
        )
        found[NEXT_ITEM] = np.take_along_axis(score_UV, np.argsort(item_UV, axis=1), axis=1)[:, None]
    return found


def exported_logits(
    exported: Exported, history: Mapping[str, np.ndarray], item_UC: Int64[np.ndarray, "U C"], at_s: int
) -> Logits:
    """What the programs say of the same."""
    state, found = exported.encode(history), Logits()
    at_s_U = np.full(len(item_UC), at_s)
    if "score" in exported.programs:
        answer = exported.score(state, item_UC, at_s_U)
        for action in exported.about.actions:
            found[action.name] = answer[f"logits of {action.name}"]
    if "rank" in exported.programs:
        found[NEXT_ITEM] = exported.rank(state, at_s_U)["logits"][:, None, 1:]
    return found


def differences_on_drawn(
    model: GenerativeRecommender, exported: Exported, cases: tuple[tuple[int, int], ...] = CASES
) -> list[Difference]:
    """On histories that are drawn, of several sizes: the largest difference of each thing, beside what is allowed."""
    found: list[Difference] = []
    for seed, (num_users, num_candidates) in enumerate(cases):
        events = drawn_histories(model, num_users, SEED + seed)
        item_UC = np.random.default_rng(seed).integers(
            1, model.config.num_items + 1, (num_users, num_candidates)
        )
        found += exported_differences(model, exported, events, item_UC)
    return found


def exported_differences(
    model: GenerativeRecommender,
    exported: Exported,
    events: EventBatch,
    item_UC: Int64[np.ndarray, "U C"],
) -> list[Difference]:
    at_s = int(events.time_s_E.max()) + LATER_S
    names = tuple(port.name for port in exported.about.programs["encode"].inputs)
    history = arrays_of(events, names, exported.about.events_read)
    with multiplied_in("fp32"):
        native = native_logits(model, events, item_UC, at_s)
    told = exported_logits(exported, history, item_UC, at_s)
    assert native.keys() == told.keys(), "both are asked the same"
    return [
        Difference(name, float(np.abs(native[name] - told[name]).max()), EXACT.of(native[name]))
        for name in native
    ]


def drawn_histories(model: GenerativeRecommender, num_users: int, seed: int) -> EventBatch:
    """Users of one event, of a window and more, and of any number between; several events of a time at times."""
    rng, window = np.random.default_rng(seed), model.plan.window
    needed = max(1, *(target.offset for target in model.layout.targets))
    length_U = rng.integers(needed, 2 * window.longest + 3, num_users)
    length_U[0] = window.longest + 2
    length_U[-1] = needed if num_users > 1 else length_U[-1]
    start_U1 = np.concatenate([[0], np.cumsum(length_U)])
    num_events, kinds = int(start_U1[-1]), [action.kind for action in model.config.actions]
    drawn = [_drawn(kind, num_events, rng) for kind in kinds]
    time_s_E = 1_600_000_000 + np.cumsum(rng.integers(0, 3, num_events) * rng.integers(1, 90_000, num_events))
    return EventBatch(
        user_U=np.arange(num_users),
        start_U1=start_U1,
        lead_U=np.zeros(num_users, dtype=np.int64),
        item_E=rng.integers(0, model.config.num_items + 1, num_events),
        action_EA=np.stack(drawn, axis=1) if drawn else np.zeros((num_events, 0), dtype=np.float32),
        time_s_E=time_s_E,
        request_E=np.unique(time_s_E, return_inverse=True)[1].astype(np.int64),
    )


def _drawn(kind: ActionKind, num_events: int, rng: np.random.Generator) -> Float32[np.ndarray, " E"]:
    """Values of an action, a fifth of them missing."""
    if kind.outcomes:
        value_E = rng.integers(0, len(kind.outcomes), num_events).astype(np.float32)
    else:
        value_E = modelled(kind).from_unit(torch.from_numpy(rng.random(num_events, dtype=np.float32))).numpy()
    value_E[rng.random(num_events) < 0.2] = np.nan
    return value_E
