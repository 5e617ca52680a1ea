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
Informed = Literal["full", "partial", "weak"]

P2_WORDS: dict[Conditioning, str] = {
    "early": "early: the trunk attends with the item in sight",
    "late": "late: the item enters only at the head (patched conditioning)",
    "violated": "violated: the action is predicted without access to its item",
}


@dataclass(frozen=True)
class TargetAudit:
    """One target: the newest facts within reach, and the verdicts on it."""

    target: Target
    token: int  # index within the history's tokens, or within the candidate's
    in_candidate: bool
    trunk: Newest
    head: Newest
    leaks: tuple[str, ...]
    conditioning: Conditioning | None  # P2; None where no action is predicted

    @property
    def information(self) -> str:
        """P1 in words: the newest facts in the trunk, and what the head is given on top."""
        fields: tuple[Field, ...] = ("c", "i", "a") if "c" in self.trunk else ("i", "a")
        seen = ", ".join(_newest(self.trunk, field) for field in fields)
        given = "".join(f", {fact} at the head" for fact in self.target.given)
        return f"{self.target.fact} from {seen}{given}"


@dataclass(frozen=True)
class Audit:
    """All that a layout's notation says about it. `str` of it is the explanation for people."""

    targets: tuple[TargetAudit, ...]
    tokens_per_event: int
    informed: Informed  # P1, in one word
    information: str  # P1
    conditioning: str  # P2
    leaks: tuple[str, ...]  # P3; empty unless the layout was built with allow_leaks
    can_retrieve: bool
    can_score: Literal["early", "late", "no"]
    why_not_score: str  # empty where it can
    blindness: str  # what same_request = "blind" takes from it
    counted: str  # what counts beside the model may know of an action, under `model.counts = auto`

    def __str__(self) -> str:
        retrieves = "yes" if self.can_retrieve else "no: no item of an event to come is predicted"
        scores = self.can_score if self.can_score != "no" else f"no: {self.why_not_score}"
        return "\n".join(
            [
                f"P1 information        {self.information}",
                *(f"                        {target.information}" for target in self.targets),
                f"P2 action given item  {self.conditioning}",
                f"P3 no leak            {'; '.join(self.leaks) or 'kept'}",
                f"retrieves             {retrieves}",
                f"scores a candidate    {scores}",
                f"tokens per event      {self.tokens_per_event}",
                f"blind to its request  {self.blindness}",
                f"counts of actions     {self.counted}",
            ]
        )


def audit(layout: Layout) -> Audit:
    """The verdicts on every target, the layout's abilities, and what P1 says of its inputs and outputs.

    >>> audit(Layout.parse("i[t] -> a[t+1]")).can_score
    'no'
    """
    targets = _audit_targets(layout)
    informed, why = _p1(targets)
    scorer = reader(layout, "a")
    sees_item = scorer.conditioning if scorer and scorer.conditioning != "violated" else None
    return Audit(
        targets=targets,
        tokens_per_event=layout.tokens_per_event,
        informed=informed,
        information=f"{informed}: {why}",
        conditioning=_p2(targets),
        leaks=tuple(leak for target in targets for leak in target.leaks),
        can_retrieve=reader(layout, "i") is not None,
        can_score=sees_item or "no",
        why_not_score="" if sees_item else _why_not_score(targets, scorer),
        blindness=_blindness(layout),
        counted=_counted(scorer),
    )


def reader(layout: Layout, field: Field) -> TargetAudit | None:
    """The target that answers for `field` of an event yet to come; None if none does.

    It stands at the candidate's own tokens, or at an earlier event's. One that sees its item goes before one
    that does not, then the nearest.
    """
    answers = [
        audited
        for audited in _audit_targets(layout)
        if audited.target.fact.field == field and layout.answers(audited.target, audited.in_candidate)
    ]
    return min(answers, key=lambda a: (a.conditioning == "violated", a.target.offset), default=None)


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
    name = FIELD_NAMES[field]
    return f"{name}s up to {Fact(field, seen[field])}" if field in seen else f"no {name}"


def _p1(targets: tuple[TargetAudit, ...]) -> tuple[Informed, str]:
    """P1, with the paper's words for what is missing."""
    predicts = {target.target.fact.field for target in targets}
    sees_action = any("a" in target.trunk or "a" in target.head for target in targets)
    match sees_action, "a" in predicts, "i" in predicts:
        case False, False, _:
            return "weak", "legal and cheap, but the actions are discarded"
        case True, False, _:
            return "partial", "actions inform the next item but do not supervise"
        case False, True, _:
            return "partial", "actions supervise, but the model never sees engagement"
        case True, True, False:
            return "partial", "items do not supervise"
        case _:
            return "full", "items and actions both inform and supervise"


def _p2(targets: tuple[TargetAudit, ...]) -> str:
    verdicts = [f"{t.target.fact} {P2_WORDS[t.conditioning]}" for t in targets if t.conditioning]
    return "; ".join(verdicts) or "no action is predicted"


def _blindness(layout: Layout) -> str:
    """What a layout loses where no event sees what was exposed beside it; where each event is a request, nothing."""
    known = [fact for token in layout.all_tokens for fact in token.shown]
    known += [fact for target in layout.targets for fact in target.given]
    lagged = dict.fromkeys(str(fact) for fact in known if fact.offset is not None and fact.offset < 0)
    later = dict.fromkeys(str(target.fact) for target in layout.targets if target.offset > 0)
    return "; ".join(
        [
            "no other event of it",
            *([f"{', '.join(lagged)} of an earlier one"] if lagged else []),
            *([f"{', '.join(later)} only where it ends"] if later else []),
        ]
    )


def _counted(scorer: TargetAudit | None) -> str:
    """What counts may bring into the head that answers for the action of an event to come."""
    if scorer is None:
        return "none: no action of an event to come is predicted"
    if scorer.conditioning == "violated":
        return "the user's residuals before it; not the effect of its item (P2)"
    return "the effect of its item, and the user's residuals before it"


def _why_not_score(targets: tuple[TargetAudit, ...], scorer: TargetAudit | None) -> str:
    if not any(target.conditioning for target in targets):
        return "it predicts no action"
    if scorer is None:
        return "the tokens of a candidate predict no action"
    return "its action score cannot depend on the candidate (P2)"
