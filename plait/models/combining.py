"""Which layout goes with which trunk, positions and exposure; for those that do not go together, why not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

from plait.layouts import CATALOGUE, Layout
from plait.layouts.event_roles import SameRequest
from plait.models.questions import Exposure, History
from plait.nn.config import TINY, TRUNKS, TrunkConfig
from plait.nn.positions import Positions, TimeAnchor, scheme_of
from plait.schema import Action, Feature
from plait.wording import setting


@dataclass(frozen=True)
class Combination:
    """A layout of the catalogue, built and exposed in one way; without problems it trains and serves."""

    name: str  # of the layout
    trunk: str  # of TRUNKS
    positions: Positions
    exposure: Exposure
    problems: tuple[str, ...]  # why it is refused: the model says the first

    def __str__(self) -> str:
        exposure = self.exposure
        return "-".join(
            (
                self.name,
                self.trunk,
                self.positions,
                exposure.same_request,
                exposure.time_anchor,
                exposure.history,
            )
        )


def combinations() -> Iterator[Combination]:
    """Every layout of the catalogue x trunk x positions x exposure, allowed or not.

    >>> hstu = [c for c in combinations() if c.name == "lac" and c.trunk == "hstu"]
    >>> len(hstu), sum(not c.problems for c in hstu)
    (72, 24)
    """
    exposures = [
        Exposure(same_request=same_request, history=history, time_anchor=anchor)
        for same_request, history, anchor in product(*map(get_args, (SameRequest, History, TimeAnchor)))
    ]
    for (name, entry), trunk, positions, exposure in product(
        CATALOGUE.items(), TRUNKS, get_args(Positions), exposures
    ):
        config = named_trunk(trunk, positions)
        problems = tuple(problems_of(entry.layout, config, exposure))
        yield Combination(name, trunk, positions, exposure, problems)


def named_trunk(trunk: str, positions: Positions, **shape: int | float) -> TrunkConfig:
    """One of TRUNKS with these positions, in the tiny shape where none is given."""
    return replace(TRUNKS[trunk], positions=positions, **shape)  # type: ignore[arg-type]


def check_supported(
    layout: Layout,
    actions: tuple[Action, ...],
    trunk: TrunkConfig = TINY,
    exposure: Exposure = Exposure(),
    conditions: tuple[Feature, ...] = (),
) -> None:
    """Raises ValueError where the model cannot carry the layout on data with these actions and conditions, or not in
    this way."""
    problems = list(problems_of(layout, trunk, exposure))
    if "a" in layout.fields and not actions:
        problems.append(
            "uses actions, and the data has none: name an action column when preparing, or use a layout without "
            "actions, such as 'item'"
        )
    if "c" in layout.fields and not conditions:
        problems.append(
            "shows conditions, and the data has none: name what is known before the item when preparing "
            f"({setting('conditions')}), or use a layout without conditions, such as 'item'"
        )
    if problems:
        raise ValueError(f"layout '{layout}': {problems[0]}")


def problems_of(layout: Layout, trunk: TrunkConfig, exposure: Exposure) -> Iterator[str]:
    """What does not go together, and what to use instead."""
    for token in layout.all_tokens:
        if len({fact.field for fact in token.shown}) < len(token.shown):
            yield (
                f"token '{token}' shows two facts of one field, and the sum of their embeddings could not tell them "
                "apart; show them in tokens of their own"
            )
    if len(layout.predicts) < len(layout.targets):
        yield "predicts two facts of one field; this model has one head for each"
    if "c" in layout.predicts:
        yield "predicts a condition; this model is asked under conditions, and has no head for them"
    if exposure.same_request == "blind" and any(target.offset > 1 for target in layout.targets):
        yield (
            "predicts an event after the next, and with same_request = 'blind' that one may be of the next request or "
            "of a later one, which serving could not tell; predict the next event, or use same_request = 'causal'"
        )
    yield from _problems_of_action_values(layout)
    yield from _problems_of_time(layout, trunk, exposure)
    if exposure.history == "full" and trunk.scheme.falls_with_distance:
        others = [each for each in get_args(Positions) if not scheme_of(each).falls_with_distance]
        yield (
            f"a fully visible history looks ahead, and ALiBi measures how far back; use {_either(others)} positions"
        )


def _problems_of_action_values(layout: Layout) -> Iterator[str]:
    if not layout.rides:
        return
    if layout.tokens_per_event > 1 or layout.candidate:
        yield (
            "mixed values and late fusion take one token per event, which candidates share; write the layout as one "
            "token"
        )
    if {"values", "helix"} <= layout.rides:
        yield "actions enter by mixed values (AttnMVP) or by a dual helix (AttnDHN), not both"
    if "helix" in layout.rides and "pool" not in layout.rides:
        yield (
            "nothing reads the action stream that the last helix layer updates, so those weights would never be "
            "trained; pool it at the end: {helix, pool}, as AttnDHN does"
        )


def _problems_of_time(layout: Layout, trunk: TrunkConfig, exposure: Exposure) -> Iterator[str]:
    anchor = exposure.time_anchor
    if anchor not in trunk.scheme.time_anchors:
        if trunk.scheme.time_anchors == ("request",):
            yield (
                f"positions = '{trunk.positions}' count back from the moment that is asked about; use time_anchor = "
                "'request', which trains the last request of a window as candidates"
            )
        else:
            readers = [f"'{each}'" for each in get_args(Positions) if anchor in scheme_of(each).time_anchors]
            yield (
                f"time_anchor = '{anchor}' is read by positions = {_either(readers)}, and these are "
                f"'{trunk.positions}'"
            )
    elif anchor != "current" and trunk.rab == "position":
        yield f"time_anchor = '{anchor}' is not read by rab = 'position'; use rab = 'time' or 'both'"
    if anchor != "next":
        return
    if not any(target.offset for target in layout.targets):
        yield (
            "time_anchor = 'next' is read by tokens that predict the next event, and this layout has none; use "
            "time_anchor = 'current'"
        )
    for index, token in enumerate(layout.tokens):
        sees_next = any(target.offset for seen in layout.tokens[: index + 1] for target in seen.predicted)
        if sees_next and any(target.offset == 0 for target in token.predicted):
            yield (
                f"time_anchor = 'next' would tell token '{token}' when the next event happens, and it predicts an "
                "action that comes before it; use time_anchor = 'current', or a later token for the next event, as "
                "'interleaved' has"
            )


def _either(names: Sequence[str]) -> str:
    """
    >>> _either(["learned", "rope", "rab"])
    'learned, rope or rab'
    """
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
