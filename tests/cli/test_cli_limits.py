"""Every number of every setting has a range, and what is outside is refused before anything is built."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import pytest
from tiny import assert_caught, assert_not_vacuous
from words import COLUMNS, Capture, complaint

from plait.cli.simulate import WorldChanges
from plait.data import Dataset
from plait.data.simulator import Response, World, simulate
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Protocol
from plait.limits import Between, check_numbers, memory_bytes, ranges_of
from plait.models.generative import ModelSettings
from plait.nn.config import TrunkConfig
from plait.schema import Action, Amount, Binary, Number, Regression
from plait.training.run import run_training

NOWHERE = (math.nan, math.inf, -math.inf, 1e308, -1e308)
ABSURD = (*NOWHERE, 2**63, 2**64, -(2**63), 10**400)
LIKE = Action("like", Binary())


def names_of(settings: type) -> list[str]:
    if is_dataclass(settings):
        return [one.name for one in fields(settings)]
    return [one.name for one in msgspec.structs.fields(settings)]


def kinds_in(hint: Any) -> Iterator[Any]:
    """The types that a hint is made of."""
    yield hint
    for part in get_args(hint):
        if isinstance(part, type) or get_args(part):
            yield from kinds_in(part)


def classes_of(settings: type) -> Iterator[type]:
    """The class and those of the settings inside."""
    yield settings
    for hint in get_type_hints(settings).values():
        for kind in kinds_in(hint):
            if isinstance(kind, type) and is_dataclass(kind):
                yield from classes_of(kind)


def numbers_of(settings: type) -> list[str]:
    """Fields that hold numbers."""
    hints = get_type_hints(settings)
    return [name for name in names_of(settings) if {int, float} & set(kinds_in(hints[name]))]


def check_ranges(settings: type) -> int:
    ranges = ranges_of(settings)
    for name in numbers_of(settings):
        assert name in ranges, f"{settings.__name__}.{name} is a number without a range"
        assert ranges[name].why, f"{settings.__name__}.{name}: a range without a reason"
        assert math.isfinite(ranges[name].least) and math.isfinite(ranges[name].most)
    return len(numbers_of(settings))


def check_refused(settings: type, **required: Any) -> int:
    """What is outside is refused by the field's name, whatever the field holds."""
    tried = 0
    hints = get_type_hints(settings)
    for name, between in ranges_of(settings).items():
        outside = [between.least - 1, 2 * between.most + 1]
        outside += [between.least] * between.above + [between.most] * between.below
        assert not any(value in between for value in (*NOWHERE, *outside, True, "1"))
        whole = float not in set(kinds_in(hints[name]))
        for value in (value for value in (*ABSURD, *outside) if value not in between):
            if isinstance(value, float) if whole else value == 10**400:
                continue  # the type checker of tests refuses it first, and 10^400 is no float
            held: Any = value if whole else float(value)
            for kind in list(kinds_in(hints[name]))[::-1]:
                match getattr(kind, "__origin__", None):
                    case origin if origin is tuple:
                        parts = get_args(kind)
                        held = (held,) if ... in parts else (held,) * len(parts)
                    case origin if origin is dict:
                        held = {"liked": held}
            with pytest.raises(ValueError, match=rf"{name}\S* = .*: expected {between!s:.12}"):
                settings(**required | {name: held})
            tried += 1
    return tried


SETTINGS = sorted(set(classes_of(RunSettings)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("settings", [*SETTINGS, World, Response])
def test_every_number_has_a_range_with_a_reason(settings: type) -> None:
    check_ranges(settings)


def test_the_settings_of_a_run_are_all_met() -> None:
    assert {TrunkConfig, Protocol, ModelSettings, RunSettings} < set(SETTINGS) and len(SETTINGS) >= 10
    assert_not_vacuous(
        {kind.__name__: check_ranges(kind) for kind in (TrunkConfig, Protocol, World, Response)}
    )
    assert set(numbers_of(WorldChanges)) == set(numbers_of(World)) - {"tastes"}


@pytest.mark.parametrize("settings", [kind for kind in [*SETTINGS, World, Response] if ranges_of(kind)])
def test_numbers_outside_are_refused(settings: type) -> None:
    required = {"action": LIKE} if settings is Response else {}
    assert check_refused(settings, **required) >= 5


@dataclass(frozen=True)
class New:
    """Settings whose author forgot something."""

    kept: Annotated[int, Between(1, 9, "digits")] = 1
    dropped: int | None = 1


@dataclass(frozen=True)
class Unchecked:
    """... or did not look."""

    kept: Annotated[int, Between(1, 9, "digits")] = 1


def test_a_new_number_without_a_range_and_a_range_without_a_check_are_caught() -> None:
    assert_caught(check_ranges, New)
    with pytest.raises(pytest.fail.Exception):
        check_refused(Unchecked)
    check_numbers("new.", New(dropped=None))


@pytest.mark.parametrize("value", NOWHERE)
def test_numbers_of_kinds_are_finite(value: float) -> None:
    for build in (lambda: Number(2**63), lambda: Regression(value, 1), lambda: Regression(0, value)):
        with pytest.raises(ValueError, match="expected a number from"):
            build()
    with pytest.raises(ValueError, match=r"log1p_scale = .*expected a number above 0"):
        Amount(log1p_scale=value)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_items": 2**31 - 1},
        {"num_users": 2**31 - 1, "num_events": 6},
        {"num_users": 10**6, "num_events": 2**20},
        {"num_categories": 500, "num_types": 1_000, "num_scenarios": 1_000},
    ],
)
def test_a_world_that_no_memory_holds_is_refused(sizes: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"GiB of memory, and this machine has|32 bits"):
        simulate(World(**sizes), tmp_path / "world")
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_memory_holds_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    trunk = TrunkConfig(dim=65_536, num_layers=1_024)
    settings = RunSettings(layout="(i[t], a[t]) -> (i[t+1])", model=ModelSettings(trunk=trunk))
    with pytest.raises(ValueError, match=r"model of over [\d,]+ weights needs about 262,\d{3} GiB"):
        run_training(dataset, settings, tmp_path / "run")
    assert not list(tmp_path.iterdir()) and 2**28 < memory_bytes() < math.inf


@pytest.mark.parametrize("value", ["9223372036854775808", "1e308", "-1", "nan", "inf"])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--num-items", ("simulate",)),
        ("--num-moods", ("simulate",)),
        ("--tasks", ("simulate",)),
        ("--taste", ("simulate",)),
        ("--protocol.max-tokens", ("train", "{data}", "--layout", "lac")),
        ("--protocol.seed", ("train", "{data}", "--layout", "lac")),
        ("--model.trunk.num-layers", ("train", "{data}", "--layout", "lac")),
        ("--model.tower.num-levels", ("train", "{data}", "--layout", "lac")),
        ("--optim.warmup-steps", ("train", "{data}", "--layout", "lac")),
        ("--min-user-events", ("data", "prepare", "log.csv", *COLUMNS)),
        ("--seeds", ("compare", "{data}", "--layouts", "lac")),
    ],
)
def test_a_command_refuses_absurd_numbers(
    option: str, words: tuple[str, ...], value: str, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    filled = [word.format(data=dataset.folder) for word in words]
    said = complaint(capsys, 2, *filled, "--out", tmp_path / "out", f"{option}={value}")
    assert option.rpartition(".")[2].lstrip("-").replace("-", "_") in said.replace("-", "_")
    assert not list(tmp_path.iterdir())
