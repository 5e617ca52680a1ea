"""Every written form of an action or a feature that the docs, the help or a message shows is read, each part of it into
its own setting."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.cli.data.prepare import prepare
from plait.schema import Action, ActionKind, Feature, FeatureKind, Keyed, Regression, Statistic

ROOT = Path(__file__).parent.parent
DATA = (ROOT / "docs" / "guides" / "own-log.md").read_text()

# What is written for each word of a form, and which setting it becomes.
WORDS: dict[str, tuple[str, str, object]] = {
    "LOW": ("-2", "low", -2.0),
    "HIGH": ("7.5", "high", 7.5),
    "mse": ("mse", "loss", "mse"),
    "huber": ("huber", "loss", "huber"),
    "zero": ("zero", "zero_inflated", True),
    "A,B": ("yes,no", "values", ("yes", "no")),
    "BUCKETS": ("5", "buckets", 5),
    "SEPARATOR": ("|", "separator", "|"),
    "FILE.npy": ("of/all.npy", "file", "of/all.npy"),
}
UNWRITTEN = (Keyed, Statistic)  # preparation makes them, of a vector among conditions and of a statistic
KINDS = {
    kind.__struct_config__.tag: kind
    for kind in get_args(ActionKind) + get_args(FeatureKind)
    if kind not in UNWRITTEN
}


def message_of(parse: Callable[[str], object]) -> str:
    with pytest.raises(ValueError, match="expected NAME:") as refused:
        parse("x:nothing")
    return str(refused.value)


def shown() -> list[str]:
    """Forms as they are written for people, some with parts that may be left out."""
    pages = [message_of(Action.parse), message_of(Feature.parse), prepare.__doc__ or "", DATA]
    forms = [form.rstrip(",.;") for page in pages for form in re.findall(r"NAME:[^\s`]+", page)]
    ends = re.findall(r"^\| `(NAME:[^`]+)` \|.*`(:\w+)`.*\|$", DATA, re.MULTILINE)  # "`:huber` after HIGH"
    forms = [
        form for form in forms if form != "NAME:item"
    ]  # of a condition: a feature of the item, read elsewhere
    return forms + [form + end for form, end in ends]


def whole(form: str) -> Iterator[list[str]]:
    """The form's words, with and without each part in brackets, one of the words between bars."""
    parts = re.split(r"\[:(.+?)\]", form)
    chosen = [["", *part.split("|")] if n % 2 else [part] for n, part in enumerate(parts)]
    for words in itertools.product(*chosen):
        yield [word for text in words if text for word in text.strip(":").split(":")]


def check_forms(read: Callable[[str], Action | Feature]) -> None:
    kinds, settings = Counter(dict.fromkeys(KINDS, 0)), Counter(dict.fromkeys(WORDS, 0))
    every = [(form, words) for form in shown() for words in whole(form)]
    for form, (_, kind, *words) in every:
        text = ":".join(["x", kind, *(WORDS[word][0] for word in words)])
        found = read(text)
        assert (found.name, type(found.kind)) == ("x", KINDS[kind]), form
        expected = {setting: value for _, setting, value in (WORDS[word] for word in words)}
        for field in msgspec.structs.fields(found.kind):
            value = getattr(found.kind, field.name)
            assert value == expected.get(field.name, field.default), f"{form}: {text} as {found}"
        kinds[kind] += 1
        settings.update(words)
    assert_not_vacuous(kinds)
    assert_not_vacuous(settings)


def parse(text: str) -> Action | Feature:
    is_action = KINDS[text.split(":")[1]] in get_args(ActionKind)
    return Action.parse(text) if is_action else Feature.parse(text)


def swapped(text: str) -> Action | Feature:
    found = parse(text)
    if isinstance(found, Action) and isinstance(found.kind, Regression) and found.kind.loss == "huber":
        return Action(found.name, Regression(-found.kind.high, -found.kind.low, "huber"))
    return found


def test_every_form_that_is_shown_is_read_part_by_part() -> None:
    check_forms(parse)
    assert_caught(check_forms, swapped)
