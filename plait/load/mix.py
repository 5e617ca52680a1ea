"""Of what kinds requests are, and in which shares."""

import math
from collections.abc import Mapping
from typing import Literal, get_args

Kind = Literal["append", "score", "retrieve"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Mix = Mapping[Kind, float]  # shares above 0, which sum to 1
EXPECTED = f"KIND=SHARE between commas, of {', '.join(KINDS)}, such as append=0.5,score=0.3,retrieve=0.2"


def mix_of(text: str) -> dict[Kind, float]:
    """Shares by kind, as they are typed.

    Raises:
        ValueError: a kind is unknown or comes twice, a share is none, or they do not sum to 1.

    >>> mix_of("append=0.5,score=0.5")
    {'append': 0.5, 'score': 0.5}
    """
    found: dict[Kind, float] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        kind = next((kind for kind in KINDS if kind == name.strip()), None)
        if kind is None or kind in found:
            told = f"{kind} stands there twice" if kind else f"{name.strip()!r} is no kind of request"
            raise ValueError(f"mix {text!r}: {told}; expected {EXPECTED}")
        found[kind] = _share(share, text)
    if not math.isclose(sum(found.values()), 1, abs_tol=1e-6):
        raise ValueError(f"mix {text!r}: the shares sum to {sum(found.values()):.6g}; they must sum to 1")
    return {kind: share for kind, share in found.items() if share}


def _share(text: str, mix: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise ValueError(f"mix {mix!r}: {text.strip()!r} is no share from 0 to 1; expected {EXPECTED}")
    return found


def spelled_mix(mix: Mix) -> str:
    """
    >>> spelled_mix({"append": 0.5, "score": 0.5})
    'append=0.5,score=0.5'
    """
    return ",".join(f"{kind}={share:g}" for kind, share in mix.items())
