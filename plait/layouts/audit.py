"""The audit: what each target can see, from the layout alone, before any tensor exists.

Principles of the LAC paper ("The Layout Is the Model", section 4.1): P1 useful information in input and
output, P2 the action is conditioned on its item, P3 no leak. Offsets count events from the token's own.
"""

from dataclasses import dataclass
from typing import Literal

from plait.layouts.facts import FIELD_NAMES, Fact, Field, Target
from plait.layouts.leaks import Newest, head_of, leaks_into, trunk_of
from plait.layouts.notation import Layout

Conditioning = Literal["early", "late", "violated"]


@dataclass(frozen=True)
class TargetAudit:
    """One target: the newest facts within reach, and the verdicts on it."""

    target: Target
    token: int  # index within the history's tokens, or within the candidate's
    in_candidate: bool
    trunk: Newest
    head: Newest
    leaks: tuple[str, ...]
    conditioning: Conditioning | None  # P2; None for an item

    @property
    def information(self) -> str:
        """P1 in words: the newest item and action in the trunk, and what the head is given on top."""
        seen = [_newest(self.trunk, field) for field in ("i", "a")]
        given = [f"{fact} at the head" for fact in self.target.given]
        return f"{self.target.fact} from {', '.join([*seen, *given])}"


@dataclass(frozen=True)
class Audit:
    """All that a layout's notation says about it. `str` of it is the explanation for people."""

    targets: tuple[TargetAudit, ...]
    tokens_per_event: int
    information: str  # P1
    conditioning: str  # P2
    leaks: tuple[str, ...]  # P3; empty unless the layout was built with allow_leaks
    can_retrieve: bool
    can_score: Literal["early", "late", "no"]
    why_not_score: str  # empty where it can


def audit(layout: Layout) -> Audit:
    """The verdicts on every target, the layout's abilities, and what P1 says of its inputs and outputs.

    >>> audit(Layout.parse("i[t] -> a[t+1]")).can_score
    'no'
    """
    targets = _audit_targets(layout)
    actions = [target for target in targets if target.conditioning]
    verdicts = {target.conditioning for target in actions}
    return Audit(
        targets=targets,
        tokens_per_event=layout.tokens_per_event,
        information=_p1(targets),
        conditioning=_p2(actions),
        leaks=tuple(leak for target in targets for leak in target.leaks),
        can_retrieve=any(t.target.fact.field == "i" for t in targets),
        can_score="early" if "early" in verdicts else "late" if "late" in verdicts else "no",
        why_not_score=_why_not_score(verdicts),
    )


def _audit_targets(layout: Layout) -> tuple[TargetAudit, ...]:
    return tuple(
        _audit_target(layout, target, index, in_candidate)
        for tokens, in_candidate in ((layout.tokens, False), (layout.candidate, True))
        for index, token in enumerate(tokens)
        for target in token.predicted
    )


def _audit_target(layout: Layout, target: Target, index: int, in_candidate: bool) -> TargetAudit:
    trunk = trunk_of(layout.tokens, layout.candidate, index, in_candidate)
    head = head_of(target)
    conditioning: Conditioning | None = None
    if target.fact.field == "a":
        in_trunk, at_head = (seen.get("i", target.offset - 1) >= target.offset for seen in (trunk, head))
        conditioning = "early" if in_trunk else "late" if at_head else "violated"
    return TargetAudit(
        target, index, in_candidate, trunk, head, leaks_into(target, trunk, head), conditioning
    )


def _newest(seen: Newest, field: Field) -> str:
    return (
        f"{FIELD_NAMES[field]}s up to {Fact(field, seen[field])}"
        if field in seen
        else f"no {FIELD_NAMES[field]}"
    )


def _p1(targets: tuple[TargetAudit, ...]) -> str:
    """P1, with the paper's words for what is missing."""
    seen = "; ".join(target.information for target in targets)
    predicts = {target.target.fact.field for target in targets}
    sees_action = any("a" in target.trunk or "a" in target.head for target in targets)
    match sees_action, "a" in predicts, "i" in predicts:
        case False, False, _:
            verdict = "weak: legal and cheap, but the actions are discarded"
        case True, False, _:
            verdict = "partial: actions inform the next item but do not supervise"
        case False, True, _:
            verdict = "partial: actions supervise, but the model never sees engagement"
        case True, True, False:
            verdict = "partial: items do not supervise"
        case _:
            verdict = "full: items and actions both inform and supervise"
    return f"{verdict} ({seen})"


def _p2(actions: list[TargetAudit]) -> str:
    if not actions:
        return "no action is predicted"
    words = {
        "early": "early: the trunk attends with the item in sight",
        "late": "late: the item enters only at the head (patched conditioning)",
        "violated": "violated: the action is predicted without access to its item",
    }
    return "; ".join(f"{target.target.fact} {words[target.conditioning or 'violated']}" for target in actions)


def _why_not_score(verdicts: set[Conditioning | None]) -> str:
    if not verdicts:
        return "predicts no action"
    return "its action score cannot depend on the candidate (P2)" if verdicts == {"violated"} else ""
