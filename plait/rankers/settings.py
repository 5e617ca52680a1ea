"""What a ranker's run is by default: every training event is asked about, from all of its history."""

from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal

from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.limits import WINDOW
from plait.models.generative import ModelSettings
from plait.models.questions import Sample
from plait.models.ranker import RANKED_LAYOUT
from plait.nn.towers import TowerConfig
from plait.rankers.interests import Interests

RankerName = Literal["din", "dien", "sim", "twin", "rankmixer"]
Shown = Literal["actions", "items"]
WHOLE_HISTORY = 1_000
EVERY_REQUEST = WINDOW.most


@dataclass(frozen=True, kw_only=True)
class RankerProtocol(Protocol):
    """A protocol with the defaults of rankers: whole histories, every event of them as a candidate, and steps of many
    users, of each some requests: candidates of one user alone say much the same."""

    max_events: Annotated[int, WINDOW] = WHOLE_HISTORY
    candidate_requests: Annotated[int, WINDOW] = int(EVERY_REQUEST)
    sample: Sample = "part"

    def plain(self) -> Protocol:
        """The same as a protocol that runs are compared by."""
        return Protocol(**_values(self, Protocol))


def run_settings(
    ranker: RankerName,
    model: ModelSettings = ModelSettings(tower=TowerConfig(kind="linear")),
    optim: Optim = Optim(),
    protocol: Protocol = RankerProtocol(),
    history: Shown = "actions",
    interests: Interests | None = None,
) -> RunSettings:
    """Everything that decides a ranker's run.

    Args:
        history: what events of a history show: their items with their actions, or items alone.
        interests: what it is told beside; `model.ranker.interests` says what of it is read.
    """
    plain = protocol.plain() if isinstance(protocol, RankerProtocol) else protocol
    told = model.ranker.interests
    if interests is not None:
        told = replace(told, num_conditions=len(interests.conditions), width=interests.width)
    ranked = replace(model, ranker=replace(model.ranker, kind=ranker, interests=told))
    return RunSettings(layout=layout_of(history), model=ranked, optim=optim, protocol=plain)


def of_every_request(protocol: Protocol) -> Protocol:
    """A protocol of layouts, as rankers take it: every event is asked about, in parts, unless windows are random."""
    in_parts = protocol.sample == "user" and protocol.window == "last"
    return replace(
        protocol, candidate_requests=int(EVERY_REQUEST), sample="part" if in_parts else protocol.sample
    )


def layout_of(history: Shown) -> str:
    """The layout of a ranker's questions, in notation.

    >>> layout_of("items")
    'i[t] -> () / i[t] -> a[t]'
    """
    notation = {"actions": RANKED_LAYOUT, "items": "i[t] -> () / i[t] -> a[t]"}[history]
    return str(resolve(notation))


def _values(given: object, of: type) -> dict[str, Any]:
    return {field.name: getattr(given, field.name) for field in fields(of)}
