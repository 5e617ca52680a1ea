"""Items like others: those whose vectors point the same way.

Shape letters: N items asked about, K items returned, V items of the catalogue, C items of a part of it, D width.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from plait.engine import steps
from plait.engine.ranking import FIRST_ITEM, Scores, Seen, best_of_parts, without
from plait.models.generative import GenerativeRecommender
from plait.nn.encoders import ItemEncoder
from plait.wording import setting


@torch.no_grad()
def similar(
    model: GenerativeRecommender, item_N: Int64[np.ndarray, " N"], k: int
) -> tuple[Int64[np.ndarray, "N K"], Float32[np.ndarray, "N K"]]:
    """The `k` items most like each, best first, and the cosines of their vectors: those that the model reads items by,
    features included. An item is not like itself. Cosines that differ by rounding alone are in any order.

    Exact: the catalogue is looked at whole, a part at a time.

    Raises:
        ValueError: the catalogue has fewer than `k` other items, or the layout shows no items.
    """
    items = model.items
    if items is None:
        raise ValueError(f"layout '{model.layout}' reads no items, so it has no vectors of them to compare")
    most = model.config.num_items - 1
    if not 0 < k <= most:
        raise ValueError(f"{setting('k', k)}: expected 1 to {most}, the other items of the catalogue")
    vector_ND = _directions(items, torch.from_numpy(item_N))
    found = []
    for part in steps.even(len(item_N), steps.rows_per_step(model.config.num_items)):
        own = Seen.joined(tuple(item_N[part, None]))
        parts = (without(scores, own) for scores in _parts(items, vector_ND[part]))
        found.append(best_of_parts(parts, k))
    cosine_NK, item_NK = (torch.cat(parts).cpu().numpy() for parts in zip(*found, strict=True))
    return item_NK, cosine_NK


def _parts(items: ItemEncoder, vector_ND: Float[Tensor, "N D"]) -> Iterator[Scores]:
    """The cosines with the whole catalogue."""
    item_V = torch.arange(FIRST_ITEM, items.num_items + 1)
    width = items.project.in_features if items.features else items.dim
    for part in steps.even(len(item_V), min(steps.rows_per_step(width), steps.rows_per_step(len(vector_ND)))):
        other_CD = _directions(items, item_V[part])
        yield Scores(item_V[part].to(other_CD.device), vector_ND @ other_CD.T)


def _directions(items: ItemEncoder, item_C: Int64[Tensor, " C"]) -> Float32[Tensor, "C D"]:
    """Vectors of length 1."""
    return F.normalize(items(item_C.to(next(items.parameters()).device)).float(), dim=-1)
