"""Why: what the token that is asked about an event to come gives to every token of the history.

By the plain reference, in fp32, of the sequence that `engine.plain` asks: nothing is estimated.

Shape letters: P places where a trunk attends, N tokens of the sequence, the history's and then the candidate's.
"""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from plait.engine import asking
from plait.engine.state import State, joined_histories
from plait.layouts import Layout, audit
from plait.layouts.arrange import candidate_tokens
from plait.layouts.facts import Field
from plait.layouts.packing import in_one_row
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Inputs, query_inputs
from plait.schema import EventBatch

OWN = -1  # the number of the event to come


@dataclass(frozen=True)
class Attention:
    """Weights of one question, summed over heads. Where a place has a softmax, they sum to the number of heads."""

    places: tuple[str, ...]  # in the trunk's order: "layer 1", ..., "pooling"
    is_softmax: tuple[bool, ...]  # of each place; others have weights of any sign and sum
    num_heads: int
    weight_PN: Float32[np.ndarray, "P N"]
    event_N: Int64[np.ndarray, " N"]  # which of the user's events, from its first; OWN of the event to come
    shown: tuple[str, ...]  # of each token, in notation
    asked: int  # the token that answers


@torch.no_grad()
def attention(
    model: GenerativeRecommender,
    state: State,
    item: int | None,
    *,
    at_s: int | None = None,
    request_name: Hashable = None,
    context_F: Int64[np.ndarray, " F"] | None = None,
) -> Attention:
    """What the token that answers gives to the tokens of one user's history, and to those of the event to come.

    Args:
        item: the candidate whose actions are asked about; without it, the next item is.
        at_s, request_name, context_F: as in `plain.score`.

    Raises:
        ValueError: the state is not of one user, the model has no trunk, or as `plain.score` and `plain.retrieve`.
    """
    _check(model, state, item)
    field: Field = "i" if item is None else "a"
    coming = asking.coming_of(model, field, state, at_s, request_name)
    to_come = asking.candidates_of(
        coming,
        asking.no_item(coming.events) if item is None else np.array([[item]]),
        asking.no_context(coming.events) if context_F is None else context_F,
        asking.no_condition(coming.events),
    )
    batch = joined_histories(coming.events, to_come)
    device = next(model.parameters()).device
    inputs = query_inputs(
        model.plan, batch, (field,), in_one_row, device, late=model.late_statistics(), counting=model.counting
    )
    return _of_question(model, batch, inputs)


def _check(model: GenerativeRecommender, state: State, item: int | None) -> None:
    if state.events.num_users != 1:
        raise ValueError(f"attention is of one user, and the state is of {state.events.num_users}")
    if not model.config.settings.has_trunk:
        raise ValueError(
            "a ranker or two towers have no trunk whose attention could be shown; ask a layout over a trunk"
        )
    if item is not None:
        asking.check_can_score(model, np.array([[item]]))
    elif not audit(model.layout).can_retrieve:
        raise ValueError(f"layout '{model.layout}' predicts no item; name one, to ask about its actions")


def _of_question(model: GenerativeRecommender, batch: EventBatch, inputs: Inputs) -> Attention:
    cell_M = inputs.questions[0].cell_M
    watched = model.watched(inputs, cell_M[None])
    weight_PC = torch.stack([weight_RNL[0].sum(0) for weight_RNL in watched.weights])
    event_N = inputs.event_N.cpu().numpy()
    number_N = np.where(event_N == len(batch.item_E) - 1, OWN, batch.number_E[event_N])
    return Attention(
        places=model.trunk.places,
        is_softmax=tuple(watched.is_softmax),
        num_heads=model.config.settings.trunk.num_heads,
        weight_PN=weight_PC[:, inputs.cell_N].cpu().numpy(),
        event_N=number_N,
        shown=_shown(model.layout, number_N),
        asked=int((inputs.cell_N == cell_M[0]).nonzero()),
    )


def _shown(layout: Layout, number_N: Int64[np.ndarray, " N"]) -> tuple[str, ...]:
    """What each token shows: a token of the layout, or of its candidate."""
    own = int((number_N == OWN).sum())
    history = [str(token) for token in layout.tokens] * ((len(number_N) - own) // layout.tokens_per_event)
    tokens = [*history, *map(str, candidate_tokens(layout)[:own])]
    assert len(tokens) == len(number_N), "every token is one of the layout's"
    return tuple(token.partition(" -> ")[0] for token in tokens)
