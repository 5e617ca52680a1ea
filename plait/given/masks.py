"""Which items may be answered.

Shape letters: V items of the catalogue, N items that are named.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from plait.answer_tables import ids_of
from plait.data.vocabulary import Vocabulary
from plait.schema import UNKNOWN_ITEM


def mask_of_items(
    vocabulary: Vocabulary, allow: Sequence[Any] | None, deny: Sequence[Any] | None
) -> Bool[np.ndarray, " V"]:
    """For each item whether it is allowed (by default all are) and not denied. A warning names unknown ids.

    Raises:
        ValueError: the items are no list of ids.
    """
    kept_V = np.full(len(vocabulary), allow is None)
    if allow is not None:
        kept_V[_places_of(vocabulary, allow, "allow")] = True
    if deny is not None:
        kept_V[_places_of(vocabulary, deny, "deny")] = False
    return kept_V


def checked_mask(vocabulary: Vocabulary, mask: Any) -> Bool[np.ndarray, " V"]:
    """A mask as it was given; all items where there is none.

    Raises:
        ValueError: it has not a truth value for each item.
    """
    if mask is None:
        return np.ones(len(vocabulary), dtype=bool)
    found = np.asarray(mask)
    if found.dtype != bool or found.shape != (len(vocabulary),):
        raise ValueError(
            f"mask: expected a truth value for each of the model's {len(vocabulary)} items, in the order of "
            f"`items`; found {found.dtype} of shape {found.shape}"
        )
    return found


def _places_of(vocabulary: Vocabulary, items: Any, what: str) -> Int64[np.ndarray, " N"]:
    """The places in the vocabulary of those that it knows."""
    ids = ids_of(items)
    item_N = vocabulary.index_of(ids)
    unknown = ids.filter(item_N == UNKNOWN_ITEM)
    if len(unknown):
        warnings.warn(
            f"{what}: {len(unknown)} of {len(ids)} items are not among the model's {len(vocabulary)}, such as "
            f"{unknown[0]!r}; they are never recommended",
            stacklevel=5,
        )
    return item_N[item_N != UNKNOWN_ITEM] - vocabulary.first
