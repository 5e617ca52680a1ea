"""Settings as verbs take them: with defaults of their own where what trains for use differs from a paper's tables."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from plait.evaluation.settings import Protocol
from plait.limits import WIDTH, WINDOW, Between
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkKind, TrunkSize, trunk_of_size
from plait.nn.losses import RetrievalLoss


@dataclass(frozen=True, kw_only=True)
class VerbRetrievalLoss(RetrievalLoss):
    """Begins with what is popular: better on small logs (`benchmarks/README.md`, defaults on small logs)."""

    item_bias: Literal["none", "popularity", "learned"] = "popularity"


@dataclass(frozen=True, kw_only=True)
class VerbModelSettings(ModelSettings):
    """A model's settings with the defaults of verbs: what trains for use takes what counting knows."""

    retrieval: VerbRetrievalLoss = VerbRetrievalLoss()
    counts: Literal["none", "auto"] = "auto"


@dataclass(frozen=True, kw_only=True)
class LumRetrievalLoss(VerbRetrievalLoss):
    """As the LUM paper trains (section 4.1): against the batch's other items. Validation chose that directions are
    compared, at which temperature, and that each negative stands for others (`benchmarks/README.md`, interests)."""

    kind: Literal["auto", "full", "sampled", "info_nce"] = "info_nce"
    l2_norm: bool = True
    temperature: Annotated[float, Between(1e-4, 1e4, "beyond, logits overflow or are all alike")] = 0.2
    item_bias: Literal["none", "popularity", "learned"] = "none"


@dataclass(frozen=True, kw_only=True)
class LumModelSettings(VerbModelSettings):
    """A large user model's: interests of a fixed width, and nothing beside them that an inner product lacks."""

    retrieval: LumRetrievalLoss = LumRetrievalLoss()
    interest_dim: Annotated[int | None, WIDTH] = 64
    counts: Literal["none", "auto"] = "none"


@dataclass(frozen=True, kw_only=True)
class VerbProtocol(Protocol):
    """Windows that begin anew every few events: most of a user's next events are then appended, not encoded anew."""

    window_step: Annotated[int | None, WINDOW] = None


def protocol_of_verb(given: VerbProtocol) -> Protocol:
    """The protocol that a verb was given, with its steps as a number.

    >>> protocol_of_verb(VerbProtocol(max_events=200)).window_step
    25
    """
    return replace(Protocol(**_values(given, Protocol)), window_step=given.step)


def model_of_verb(
    given: VerbModelSettings, kind: TrunkKind | None = None, size: TrunkSize | None = None
) -> ModelSettings:
    """The settings that a verb was given, with another kind or size of trunk where one is named.

    Raises:
        ValueError: a size is named, and width, blocks or heads are given.
    """
    model = ModelSettings(**_values(given, ModelSettings))
    model = replace(model, retrieval=RetrievalLoss(**_values(given.retrieval, RetrievalLoss)))
    trunk = model.trunk if kind is None else replace(model.trunk, kind=kind)
    return replace(model, trunk=trunk if size is None else trunk_of_size(trunk, size))


def _values(given: object, of: type) -> dict[str, Any]:
    return {field.name: getattr(given, field.name) for field in fields(of)}
