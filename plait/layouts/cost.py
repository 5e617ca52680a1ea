"""What a layout costs, in trunk FLOPs: the formulas of the LAC paper, section 5.4.

A matrix multiplication of (m, k) by (k, n) counts 2 m k n. A pre-norm block of width d spends 24 d^2 per
token on its projections and MLP, and 4 d per pair of tokens that attend (the scores and the values).

Mixed values cost nothing more (AttnMVP paper, section 4), a dual helix a second block in each layer (section 5). Late
fusion costs one more attention, with 8 d^2 per token for its projections but no MLP (section 3). All three attend
strictly, n (n - 1) / 2 pairs for n (n + 1) / 2: either way the papers' n^2 / 2.
"""

from collections.abc import Set

from plait.layouts.arrange import candidate_tokens
from plait.layouts.facts import Ride
from plait.layouts.notation import Layout

BACKWARD = 2  # a training step costs the forward, and twice it for the two gradients


def trunk_flops(
    num_tokens: int, num_edges: float, dim: int, num_layers: int, rides: Set[Ride] = frozenset()
) -> float:
    """Forward FLOPs of `num_layers` layers over `num_tokens` tokens that attend along `num_edges` pairs."""
    blocks = num_layers * (2 if "helix" in rides else 1)
    pooling = int("pool" in rides)
    of_tokens = (24 * blocks + 8 * pooling) * dim**2 * num_tokens
    return of_tokens + (blocks + pooling) * 4 * dim * num_edges


def train_flops(layout: Layout, num_events: int, dim: int, num_layers: int) -> float:
    """Forward FLOPs of the trunk over one user of `num_events` events (n causal tokens: n^2 / 2 edges)."""
    tokens = layout.tokens_per_event * num_events
    return trunk_flops(tokens, tokens**2 / 2, dim, num_layers, layout.rides)


def scoring_flops(layout: Layout, num_events: int, num_candidates: int, dim: int, num_layers: int) -> float:
    """Forward FLOPs of the trunk to score packed candidates against one history, without a cache.

    `L_h + C` tokens and `L_h^2 / 2 + C L_h` edges (equations 2 and 3; the paper's `L_h + 2C` in its text
    contradicts them). A layout that scores at the head adds no candidate tokens.
    """
    history = layout.tokens_per_event * num_events
    candidates = len(candidate_tokens(layout)) * num_candidates
    edges = history**2 / 2 + candidates * history
    return trunk_flops(history + candidates, edges, dim, num_layers, layout.rides)


def relative_to_items(layout: Layout, num_events: int, dim: int, num_layers: int) -> float:
    """Training FLOPs of the trunk against those of one token per event (equation 1: 2 to 4 for two). The number of
    layers matters where actions are pooled after the last.

    >>> from plait.layouts.catalogue import resolve
    >>> round(relative_to_items(resolve("interleaved"), num_events=1024, dim=256, num_layers=12), 2)
    2.5
    >>> round(relative_to_items(resolve("attn_mvp"), num_events=1024, dim=256, num_layers=12), 2)
    1.04
    """
    one = trunk_flops(num_events, num_events**2 / 2, dim, num_layers)
    return train_flops(layout, num_events, dim, num_layers) / one


def scoring_relative_to_items(
    layout: Layout, num_events: int, num_candidates: int, dim: int, num_layers: int
) -> float:
    """Scoring FLOPs of the trunk against those of one token per event and per candidate (equations 4 and 5).

    >>> from plait.layouts.catalogue import resolve
    >>> scoring_relative_to_items(resolve("lac"), num_events=100, num_candidates=1000, dim=256, num_layers=12)
    1.0
    """
    edges = num_events**2 / 2 + num_candidates * num_events
    one = trunk_flops(num_events + num_candidates, edges, dim, num_layers)
    return scoring_flops(layout, num_events, num_candidates, dim, num_layers) / one
