"""LUM's studies: interests are of events after the user model's training, and the shares are what they say.

Shape letter: R rows of a table.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset
from plait.evaluation.run_files import MODEL, load_result
from plait.metrics.statistic import mean_over_users
from plait.papers import lum, lum_trial
from plait.papers.lum_cost import END_TO_END, STEP_3, named, verdicts
from plait.papers.lum_trial import InterestTrial, shares_of, written_interests
from plait.papers.study import Place
from plait.rankers.interests import Interests

[WHOLE, _] = lum.table_2.parts
assert isinstance(WHOLE, InterestTrial)
TINY = replace(WHOLE, rankers=("din", "din+lum"), layouts=(), claims=WHOLE.claims[:1], paper={}).quick()


def place_in(folder: Path) -> Place:
    return Place(out=folder, quick=True, report=lambda line: None)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quick study; not to be changed."""
    out = tmp_path_factory.mktemp("lum")
    found = TINY.run("tiny", place_in(out))
    assert {figure.variant for figure in found.figures} >= {"din", "din+lum", "count: item and user"}
    [verdict] = found.verdicts
    assert verdict.claim == "din+lum beats din in AUC click" and any("oracle" in note for note in found.notes)
    return out


def logs_of(out: Path) -> tuple[Dataset, Dataset]:
    early, late = (log.open(out / "logs", None) for log in TINY.logs)
    return early, late


def told_in(out: Path) -> Interests:
    """What the study's rankers read."""
    folder = out / "tiny-quick" / TINY.name / "interests"
    *of_users, of_items = (next(folder.glob(f"{name}-*.parquet")) for name in (*lum_trial.PARTS, "items"))
    return Interests.read(of_users, of_items, logs_of(out)[1])


def check_after_training(table: Path, early: Dataset, late: Dataset) -> None:
    time_R, cut_s = pl.read_parquet(table)["time"].to_numpy(), early.manifest.split.cut_validation_s
    earlier = int((late.target_times(late.moments("train")) < cut_s).sum())
    assert_not_vacuous({"told": len(time_R), "left out": earlier}, above=20)
    assert time_R.min() >= cut_s


def test_rankers_are_told_of_events_after_the_training_alone(
    ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = ran / "tiny-quick" / TINY.name
    [table] = (part / "interests").glob("train-*.parquet")
    check_after_training(table, *logs_of(ran))
    right: Callable[..., Iterator[pl.DataFrame]] = lum_trial._of_part
    monkeypatch.setattr(
        lum_trial, "_of_part", lambda m, late, name, _, version: right(m, late, name, None, version)
    )
    files = written_interests(part / "lum" / MODEL, *logs_of(ran), tmp_path, "cpu")
    assert_caught(check_after_training, files["train"], *logs_of(ran))


def test_only_rows_that_are_told_read_interests(ran: Path) -> None:
    runs = ran / "tiny-quick" / TINY.name / "runs"
    names = "din", "din+lum"
    read = {name: load_result(runs / f"{name}-seed0").settings.interests for name in names}
    assert read == {"din": "", "din+lum": told_in(ran).sha256}


def test_rankers_told_or_not_are_asked_from_the_cut_on(ran: Path) -> None:
    early, _ = logs_of(ran)
    runs, cut_s = ran / "tiny-quick" / TINY.name / "runs", early.manifest.split.cut_validation_s
    results = [load_result(runs / f"{name}-seed0") for name in ("din", "din+lum")]
    assert cut_s and [its.settings.protocol.asked_from_s for its in results] == [cut_s, cut_s]
    assert all(f"from {cut_s} on; before, history alone" in its.protocol for its in results)


def test_the_share_is_of_what_the_ranker_lacks(ran: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of users who all score 0.5 without, 0.6 with interests, and 0.9 in the oracle, a quarter of the gap is closed."""

    def all_have(value: float) -> dict[str, object]:
        return {"auc:click": mean_over_users(np.arange(50), np.full(50, value))}

    monkeypatch.setattr(lum_trial, "limits", lambda *_: {0: all_have(0.9), 1: all_have(0.9)})
    statistics = {
        (name, seed): all_have(value) for name, value in (("din", 0.5), ("din+lum", 0.6)) for seed in (0, 1)
    }
    _, late = logs_of(ran)
    trial = TINY._trial(told_in(ran), None)
    [line] = shares_of(late, trial, statistics, "auc:click")  # type: ignore[arg-type]
    assert "+0.1000 auc:click, 25 % (25 to 25 %)" in line


def test_both_cuts_are_of_one_world() -> None:
    other = replace(WHOLE.early, conditions=())
    with pytest.raises(AssertionError, match="two worlds"):
        replace(WHOLE, early=other)
    early, late = WHOLE.early.split, WHOLE.late.split
    assert early.validation + early.test > late.validation + late.test, "rankers train on what lies between"


def outcomes(flops: dict[str, float]) -> list[str]:
    """Of two sizes, by the FLOPs of each row."""
    known = {name: SimpleNamespace(cost=SimpleNamespace(epoch_flops=of)) for name, of in flops.items()}
    return [its.outcome for its in verdicts(SimpleNamespace(summary_of=known.get), ["a", "b"])]  # type: ignore[arg-type]


def test_step_3_is_flat_only_where_no_size_costs_more() -> None:
    rows = [named(what, size) for what in (STEP_3, END_TO_END) for size in ("a", "b")]
    assert outcomes(dict(zip(rows, (2.0, 2.0, 3.0, 9.0), strict=True))) == ["reproduced"] * 2
    assert outcomes(dict(zip(rows, (2.0, 2.1, 3.0, 9.0), strict=True))) == ["not reproduced", "reproduced"]
    assert outcomes(dict(zip(rows, (2.0, 2.0, 1.0, 9.0), strict=True))) == ["reproduced", "not reproduced"]
    assert outcomes(dict(zip(rows[:3], (2.0, 2.0, 3.0), strict=True))) == ["not measured"] * 2
    [cost] = lum.figure_6.parts
    assert list(cost.sizes.values()) == sorted(cost.sizes.values(), key=lambda trunk: trunk.dim)
