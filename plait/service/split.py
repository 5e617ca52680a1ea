"""Which of several models answers a user: by a stable hash, in stated shares."""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

HASH_BYTES = 8


@dataclass(frozen=True)
class Split:
    """Shares of the users by model, the first one's before the others'.

    A user stays with a model in every process and after every start. Where a share changes, users move only to or from
    the model whose share it is.

    Args:
        share: of each model by name, above 0 for at least one; they count in relation to each other.
        salt: another one draws anew who gets which.

    Source: weighted rendezvous hashing (the "logarithmic method" of Schindelhauer & Schomaker, SPAA 2005).

    Raises:
        ValueError: a share is no number from 0 on, or all are 0.
    """

    share: tuple[tuple[str, float], ...]
    salt: str = ""

    def __post_init__(self) -> None:
        wrong = [f"{name}={share:g}" for name, share in self.share if not 0 <= share < math.inf]
        if wrong:
            raise ValueError(f"split: {', '.join(wrong)}; a share is a number from 0 on")
        if not any(share for _, share in self.share):
            raise ValueError("split: every share is 0, so nobody would be answered; give one model more")

    @classmethod
    def all_to(cls, first: str, others: Sequence[str] = ()) -> "Split":
        """Every user to the first; the others answer those who name them."""
        return cls(((first, 1.0), *((name, 0.0) for name in others)))

    def model_of(self, user: str | None, among: Collection[str]) -> str | None:
        """The model of a user among those that can answer; None where none of these has a share.

        Args:
            user: None is nobody's history. Nothing is there to share by, so it is the first's, whatever the salt.

        >>> Split((("a", 1.0), ("b", 0.0))).model_of("196", {"a", "b"})
        'a'
        """
        with_share = [(name, share) for name, share in self.share if share and name in among]
        if not with_share:
            return None
        if user is None:
            return with_share[0][0]
        return max(with_share, key=lambda each: each[1] / -math.log(self._unit(each[0], user)))[0]

    def _unit(self, model: str, user: str) -> float:
        """Between 0 and 1, both left out; of every pair of a model and a user another."""
        parts = (self.salt, model, user)
        text = b"".join(len(part.encode()).to_bytes(4) + part.encode() for part in parts)
        number = int.from_bytes(hashlib.sha256(text).digest()[:HASH_BYTES])
        return (number + 0.5) / 2 ** (8 * HASH_BYTES)


@dataclass(frozen=True)
class Traffic:
    """Which model answers whom, and which one answers again in a shadow."""

    split: Split
    shadow: str | None = None

    def check_names(self, served: Sequence[str]) -> None:
        """Raises ValueError where a name is none of those served, or is there twice."""
        twice = {name for name in served if served.count(name) > 1}
        if twice:
            raise ValueError(
                f"two models are called {', '.join(sorted(twice))}, as their folders; serve one of them by a link of "
                "another name"
            )
        named = [name for name, _ in self.split.share] + ([] if self.shadow is None else [self.shadow])
        unknown = [name for name in named if name not in served]
        if unknown:
            raise ValueError(f"no model is called {unknown[0]!r}; served are {', '.join(served)}")
