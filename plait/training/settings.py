"""What decides a training run, apart from the data and the model's shape."""

import math
from dataclasses import dataclass
from typing import Literal

from plait.schema import check_from_zero
from plait.training.selection import Selection

Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class Optim:
    """AdamW with warm-up; see `plait.training.optimiser`."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    """On the matrices of trunk and heads only."""
    warmup_steps: int = 100
    """At most a tenth of all steps, as many as the caps allow."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Cosine ends with the first of protocol's caps."""
    clip_norm: float = 1.0
    users_per_step: int = 16
    precision: Precision = "auto"
    """Of matrix products (weights and optimiser stay fp32); auto is bf16 where the machine multiplies it faster."""

    def __post_init__(self) -> None:
        _check_positive("optim", self, "learning_rate", "clip_norm", "users_per_step")
        check_from_zero({f"optim.{name}": getattr(self, name) for name in ("weight_decay", "warmup_steps")})
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas = {self.betas}: expected two shares from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is trained and judged: everything two results must share to be compared."""

    max_events: int = 100
    """T: the window, in events."""
    window: Literal["last", "random"] = "last"
    patience: int = 10
    """Validations without a rise before training stops, those during warm-up not counted."""
    validate_every: int = 1
    """Epochs."""
    select: str = Selection.AUTO
    """Validation metrics to rise: "ndcg@10", or "ndcg@10=1,auc:liked=0.5"."""
    max_epochs: int = 200
    """A run ends with the step in which it reaches the first of the caps, and a validation."""
    max_tokens: float | None = None
    max_flops: float | None = None
    supervise: Literal["all", "candidates"] = "all"
    """all: every event of a window where it stands. candidates: the events of its last requests, each of what lay
    before its request, as serving asks (GenRank paper, section 3.1); some layouts allow nothing else."""
    candidate_requests: int = 1
    """Of supervise = candidates: how many requests, from the last."""
    sample: Literal["user", "event"] = "user"
    """Of supervise = candidates. user: all candidates of a user are one sample. event: each is a sample of its own,
    in an order of its own (GenRank paper, section 3.1: point-wise order)."""
    filter_seen: bool = True
    negatives: int | None = None
    """Rank against this many sampled items instead of the full catalogue."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_positive(
            "protocol", self, "max_events", "patience", "validate_every", "max_epochs", "candidate_requests"
        )
        _check_positive("protocol", self, "max_tokens", "max_flops", "negatives")
        if self.seed < 0:
            raise ValueError(f"protocol.seed = {self.seed}: expected a number from 0")
        if self.sample == "event" and self.supervise != "candidates":
            raise ValueError(
                "protocol.sample = 'event': samples of one event take protocol.supervise = 'candidates'"
            )
        Selection.parse(self.select)

    @property
    def cap(self) -> str:
        """The caps in words.

        >>> Protocol(max_epochs=20, max_flops=1e15).cap
        '20 epochs, 1e+15 FLOPs'
        """
        return ", ".join(f"{amount:g} {unit}" for unit, amount in self.caps.items())

    @property
    def caps(self) -> dict[str, float]:
        """Those that are set, by unit."""
        caps = {"epochs": self.max_epochs, "tokens": self.max_tokens, "FLOPs": self.max_flops}
        return {unit: float(amount) for unit, amount in caps.items() if amount is not None}


def _check_positive(section: str, settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{section}.{name} = {value}: expected a finite number above 0")
