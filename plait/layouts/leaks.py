"""What a token sees, and P3 of the LAC paper (section 4.1): a target must not be readable from it."""

from plait.layouts.facts import FIELD_NAMES, Fact, Field, Target, Token

Tokens = tuple[Token, ...]
Newest = dict[Field, int]  # per field the offset of the newest fact seen; absent where none is

BECOME_KNOWN: tuple[Field, ...] = ("c", "i", "a")  # the order within one event: asked, shown, acted upon


def find_leaks(tokens: Tokens, candidate: Tokens) -> tuple[str, ...]:
    """Every fact within reach of a target that it must not see, in words."""
    return tuple(
        leak
        for own, in_candidate in ((tokens, False), (candidate, True))
        for index, token in enumerate(own)
        for target in token.predicted
        for leak in leaks_into(target, trunk_of(tokens, candidate, index, in_candidate), head_of(target))
    )


def trunk_of(tokens: Tokens, candidate: Tokens, index: int, in_candidate: bool) -> Newest:
    """The newest fact of every field that token `index` of the history, or of the candidate, sees."""
    seen = {field: newest_seen(tokens, candidate, field, index, in_candidate) for field in FIELD_NAMES}
    return {field: newest for field, newest in seen.items() if newest is not None}


def head_of(target: Target) -> Newest:
    """The newest fact of every field that is given to the target's head."""
    head: Newest = {}
    for fact in target.given:
        assert fact.offset is not None
        head[fact.field] = max(fact.offset, head.get(fact.field, fact.offset))
    return head


def newest_seen(
    tokens: Tokens, candidate: Tokens, field: Field, index: int, in_candidate: bool
) -> int | None:
    """Offset of the newest fact of `field` that token `index` sees, itself included.

    A token of an earlier event shows `f[t+o]` as `f[t+o-1]` or older; a token of the same event counts
    where it stands no later. An action in the values, of event s, is seen strictly after s.
    """
    own = candidate if in_candidate else tokens
    seen = [offset - 1 for offset in _shown_offsets(tokens, field)] + _shown_offsets(own[: index + 1], field)
    if field == "a" and any(token.rides for token in tokens):
        seen.append(-1)
    return max(seen, default=None)


def leaks_into(target: Target, trunk: Newest, head: Newest) -> tuple[str, ...]:
    """Facts that `target` must not see: later ones, and those of its own event not known before it."""
    found = []
    for place, seen in (("is already visible", trunk), ("is given to the head", head)):
        for field, newest in seen.items():
            known_before = BECOME_KNOWN.index(field) < BECOME_KNOWN.index(target.fact.field)
            limit = target.offset if known_before else target.offset - 1
            if newest > limit:
                found.append(f"{target.fact} is predicted, but {_leak_reason(field, newest, target, place)}")
    return tuple(found)


def _leak_reason(field: Field, newest: int, target: Target, place: str) -> str:
    assert newest == target.offset, "Layout refuses later facts, shown or given, whatever is allowed"
    if field == target.fact.field:
        return f"{target.fact} itself {place} (self-label leakage)"
    own, other = FIELD_NAMES[target.fact.field], FIELD_NAMES[field]
    return f"{Fact(field, newest)} {place}: the {other} of an event becomes known after its {own}"


def _shown_offsets(tokens: Tokens, field: Field) -> list[int]:
    facts = [fact for token in tokens for fact in token.shown if fact.field == field]
    return [fact.offset for fact in facts if fact.offset is not None]
