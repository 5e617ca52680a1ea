"""What a study says of itself is what it runs: the actions it measures, sizes, epochs, rates and seeds in its words."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import msgspec
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.compare.variants import Variant
from plait.data.simulator import World
from plait.evaluation.run_files import RunSettings
from plait.layouts import CATALOGUE
from plait.papers import STUDIES, genrank, speed
from plait.papers.ablation import Ablation, Arm
from plait.papers.derived_logs import Declared, DescribedLog
from plait.papers.logs import Simulated, StudyLog
from plait.papers.speed import Race
from plait.papers.study import Either, Study, StudyPart, Trial


def parts_of(study: Study) -> Iterator[StudyPart]:
    for part in study.parts:
        yield from (part.first, part.otherwise) if isinstance(part, Either) else (part,)


def world_of(log: StudyLog) -> World | None:
    match log:
        case Simulated(world=world):
            return world
        case Declared(of=its) | DescribedLog(of=its):
            return its.world
        case _:
            return None


def measured(part: StudyPart) -> set[str]:
    """The actions that a part's metrics are of; none of a race, which takes the time."""
    match part:
        case Trial(metrics=metrics):
            names = list(metrics)
        case Ablation(columns=columns):
            names = [name for column in columns.values() for name in column.metrics]
        case _:
            names = []
    return {name.partition(":")[2] for name in names} - {"", "actions"}


def check_actions(studies: Sequence[Study]) -> None:
    """A simulated log's actions are those that a part of the study measures, and what moves its next item."""
    met: Counter[str] = Counter({"measured": 0, "raced": 0})
    for study in studies:
        logs = [(part, log) for part in parts_of(study) for log in part.logs]
        named = [measured(part) for part, _ in logs if measured(part)]
        for part, log in logs:
            world = world_of(log)
            if world is None or not named:
                continue
            actions = {response.action.name for response in world.responses}
            choices = [measured(part)] if measured(part) else named
            assert any(its <= actions <= its | {world.steer} for its in choices), (
                study.name,
                part.name,
                actions,
            )
            met["measured" if measured(part) else "raced"] += 1
    assert_not_vacuous(met, above=1)


def with_default_actions(study: Study, name: str) -> Study:
    """The study with one log's world left to its defaults."""

    def changed(part: StudyPart | Either) -> StudyPart | Either:
        if not isinstance(part, Race | Trial) or not isinstance(part.log, Simulated) or part.log.name != name:
            return part
        world = msgspec.structs.replace(part.log.world, responses=World().responses)
        return replace(part, log=replace(part.log, world=world))

    return replace(study, parts=tuple(map(changed, study.parts)))


def test_every_log_has_the_actions_that_its_study_names() -> None:
    check_actions(STUDIES)
    assert_caught(check_actions, [*STUDIES, with_default_actions(genrank.table_1, "long-feed")])


def runs_of(part: StudyPart) -> list[RunSettings]:
    match part:
        case Trial(variants=variants):
            return [variant.settings for variant in variants]
        case Ablation(arms=arms):
            return [variant.settings for arm in arms for variant in arm.variants]
        case Race(racers=racers):
            return [variant.settings for racer in racers for variant in (racer.cheap, racer.dear)]
        case _:
            return []


def said(study: Study, *about: str) -> str:
    """Our side of the settings that are called so; of all, where nothing is named."""
    return "; ".join(each.ours for each in study.setting if not about or each.what in about)


def numbers(text: str) -> set[float]:
    """
    >>> sorted(numbers("one epoch, 3,416 items at 0.001"))
    [0.001, 1.0, 3416.0]
    """
    return {float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?", text.replace("one ", "1 "))}


def check_sizes(study: Study) -> Counter[str]:
    """Windows, epochs, rates, trunks, candidates and seeds of every run stand in the study's words."""
    met: Counter[str] = Counter()
    for part in parts_of(study):
        if isinstance(part, Trial | Ablation):
            assert part.num_seeds in numbers(said(study, "seeds")), (study.name, part.name)
            met["seeds"] += 1
        notes = " ".join(getattr(part, "notes", ()))
        for its in runs_of(part):
            protocol, trunk, where = its.protocol, its.model.trunk, (study.name, part.name)
            assert protocol.max_events in numbers(said(study, "window", "training time")), where
            assert f"d = {trunk.dim}" in said(study), where
            assert re.search(
                rf"\b{trunk.num_layers} (layer|block)|d = {trunk.dim} with {trunk.num_layers}", said(study)
            ), where
            if isinstance(part, Trial | Ablation):
                assert protocol.max_epochs in numbers(said(study, "training")), where
                factor = 2 if "half the learning rate" in notes and its.layout == HALVED else 1
                assert f"rate {factor * its.optim.learning_rate:g} " in said(study, "training"), where
            if protocol.candidate_requests > 1:
                assert f"the last {protocol.candidate_requests} requests" in said(study), where
                met["candidates"] += 1
            met["runs"] += 1
        for text in re.findall(r"simulated (?:world|feed) of ([\d,]+) users", said(study)):
            worlds = [world_of(log) for every in parts_of(study) for log in every.logs]
            assert int(text.replace(",", "")) in [world.num_users for world in worlds if world], (
                study.name,
                text,
            )
            met["worlds"] += 1
    return met


HALVED = str(CATALOGUE["attn_dhn"].layout)


def changed(study: Study, change: Callable[[RunSettings], RunSettings]) -> Study:
    """With one run changed: the first of the first part that has any."""
    part = next(part for part in parts_of(study) if isinstance(part, Trial | Ablation))
    if isinstance(part, Trial):
        first, *others = part.variants
        other: StudyPart = replace(part, variants=(Variant(first.name, change(first.settings)), *others))
    else:
        assert isinstance(part, Ablation)
        arm, *arms = part.arms
        first, *others = arm.variants
        variants = (Variant(first.name, change(first.settings)), *others)
        other = replace(part, arms=(Arm(arm.log, variants), *arms))
    return replace(study, parts=(other,))


def with_protocol(**choices: int) -> Callable[[RunSettings], RunSettings]:
    return lambda its: replace(its, protocol=replace(its.protocol, **choices))


def with_trunk(**choices: int) -> Callable[[RunSettings], RunSettings]:
    return lambda its: replace(its, model=replace(its.model, trunk=replace(its.model.trunk, **choices)))


CHANGES = {
    "window": with_protocol(max_events=51),
    "epochs": with_protocol(max_epochs=17),
    "width": with_trunk(dim=80),
    "layers": with_trunk(num_layers=5),
    "rate": lambda its: replace(its, optim=replace(its.optim, learning_rate=2e-3)),
}


def test_every_run_is_of_the_size_that_its_study_says() -> None:
    met = sum(map(check_sizes, STUDIES), Counter())
    assert_not_vacuous({name: met[name] for name in ("seeds", "runs", "candidates", "worlds")}, above=5)


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_of_another_size_than_the_study_says_is_caught(change: str) -> None:
    tried = [study for study in STUDIES if any(isinstance(p, Trial | Ablation) for p in parts_of(study))]
    for study in tried:
        assert_caught(check_sizes, changed(study, CHANGES[change]))
    assert_not_vacuous({"studies": len(tried)}, above=5)


def test_every_run_keeps_the_rule_that_chose_what_is_recorded() -> None:
    """One checkpoint, judged in everything."""
    rules = Counter(
        its.protocol.select for study in STUDIES for part in parts_of(study) for its in runs_of(part)
    )
    assert set(rules) == {"auto", "loss:actions"}
    assert_not_vacuous(rules, above=3)


def printed(part: StudyPart) -> list[tuple[str, str, float]]:
    """The paper's figures: of which variant, under which of the paper's headings, and how much."""
    if not isinstance(part, Ablation):
        return []
    headings = [column.paper for column in part.columns.values()]
    rows = [(change.variant, change.paper) for change in part.changes]
    return [
        (variant, heading, figure)
        for variant, figures in rows
        for heading, figure in zip(headings, figures, strict=False)
        if heading and figure is not None
    ]


def check_headings(study: Study) -> int:
    """Under one heading of the paper a variant has one figure, whichever part repeats it."""
    figures: dict[tuple[str, str], set[float]] = {}
    for part in parts_of(study):
        for variant, heading, figure in printed(part):
            figures.setdefault((variant, heading), set()).add(figure)
    assert all(len(found) == 1 for found in figures.values()), (study.name, figures)
    return sum(len(printed(part)) for part in parts_of(study)) - len(figures)


def test_the_papers_figure_under_a_heading_is_the_same_in_every_part() -> None:
    assert_not_vacuous({"repeated": sum(map(check_headings, STUDIES))}, above=5)
    study = next(its for its in STUDIES if check_headings(its))
    part = next(its for its in parts_of(study) if printed(its))
    assert isinstance(part, Ablation)
    change = next(its for its in part.changes if its.paper)
    other = replace(change, paper=tuple(None if figure is None else figure + 1 for figure in change.paper))
    changes = tuple(other if its is change else its for its in part.changes)
    assert_caught(check_headings, replace(study, parts=(*study.parts, replace(part, changes=changes))))


def within(value: object, kind: type) -> Iterator[Any]:
    """Every value of a kind that a part holds, at whatever depth."""
    if isinstance(value, kind):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from within(getattr(value, field.name), kind)
    elif isinstance(value, tuple | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from within(one, kind)


def check_quick(parts: Sequence[StudyPart]) -> None:
    """In its quick form each side of a part trains one epoch of a tiny trunk, of a few users, and nothing gets lost."""
    met = Counter({"settings": 0, "worlds": 0})
    for part in parts:
        quick = part.quick()
        named, known = [[variant.name for variant in within(its, Variant)] for its in (quick, part)]
        assert named == known
        for settings in within(quick, RunSettings):
            trunk, protocol = settings.model.trunk, settings.protocol
            found, most = (trunk.num_layers, protocol.max_epochs, protocol.max_events), (2, 1, 11)
            assert all(its <= its_most for its, its_most in zip(found, most, strict=True)), (part.name, found)
            met["settings"] += 1
        for log in quick.logs:
            world = world_of(log)
            assert world is not None and world.num_users <= 41, (part.name, log)
            met["worlds"] += 1
    assert_not_vacuous(met, above=30)


def test_a_quick_form_is_quick_on_each_side(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [part for study in STUDIES for part in parts_of(study)]
    check_quick(parts)
    monkeypatch.setattr(speed, "shrunk", lambda settings: settings)
    assert_caught(check_quick, parts)
