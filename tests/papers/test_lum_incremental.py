"""LUM's table of compatibility: rows inherit what their names say, and are told by the user model that they name."""

from dataclasses import replace
from pathlib import Path

import pytest

from plait.evaluation.run_files import RunSettings, load_result
from plait.papers import lum
from plait.papers.lum_incremental import DEPLOYED
from plait.papers.study import Place
from plait.training.start import Start

ROWS = ("DLRM (feature)", "LUM", "LUM (param+feature)", "LUM (w/o condition token)", "LUM (multi-conditions)")
WHOLE = lum.INCREMENTAL
TINY = replace(
    WHOLE,
    rows=tuple(row for row in WHOLE.rows if row.name in ROWS),
    trial=replace(WHOLE.trial, layouts=(), paper={}, claims=()),
).quick()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the part; not to be changed."""
    out = tmp_path_factory.mktemp("incremental")
    found = TINY.run("tiny", Place(out=out, quick=True, report=lambda line: None))
    assert not found.failed
    values = {figure.variant: figure.value for figure in found.figures if figure.metric == lum.METRIC}
    assert all(values[row] is not None for row in ROWS)
    return out / "tiny-quick" / TINY.name


def settings_in(ran: Path) -> dict[str, RunSettings]:
    results = [(folder, load_result(folder)) for folder in (ran / "runs").iterdir()]
    return {folder.name.removesuffix("-seed0"): its.settings for folder, its in results}


def test_rows_inherit_what_their_names_say(ran: Path) -> None:
    deployed, of_rows = Start.of(ran / DEPLOYED), settings_in(ran)
    assert deployed.settings.model.late == TINY.features and not deployed.settings.interests
    assert len(of_rows) == len(ROWS)
    for name, its in of_rows.items():
        assert its.goes_on_from == (deployed.sha256 if "param" in name else ""), name
        assert its.model.late.windows == (TINY.features.windows if "feature" in name else ()), name
        assert bool(its.interests) == name.startswith("LUM"), name
    assert len({its.protocol.asked_from_s for its in of_rows.values()}) == 1, "all ask about the same events"
    assert all(its.protocol.asked_from_s for its in of_rows.values())


def test_rows_are_told_by_the_user_model_that_they_name(ran: Path) -> None:
    of_rows = settings_in(ran)
    told = {name: its.interests for name, its in of_rows.items() if its.interests}
    assert told.pop("LUM") == told.pop("LUM_param+feature")
    assert len({*told.values(), of_rows["LUM"].interests}) == 3, "each user model says other things"
    layouts = {
        its.name: load_result(its / "lum").settings.layout for its in ran.iterdir() if (its / "lum").exists()
    }
    assert layouts == {
        lum.ONE: "c[t] -> i[t]; i[t] -> ()",
        lum.BOTH: "c[t] -> i[t]; i[t] -> ()",
        lum.NONE: "i[t] -> i[t+1]",
    }


def test_the_table_is_the_papers() -> None:
    trial = WHOLE.trial
    names = {row.name for row in WHOLE.rows} | {its.name for its in trial.layouts}
    assert names == set(lum.TABLE_5) == set(trial.paper)
    assert (
        trial.paper["DLRM (param+feature)"][0] == 0.7777
        and trial.paper["LUM (multi-conditions)"][0] == 0.7545
    )
    orders = {
        (its.first, its.second): lum.TABLE_5[its.first] - lum.TABLE_5[its.second] for its in trial.claims
    }
    assert len(orders) == 13 and min(orders.values()) > 0, (
        "the paper's figures are in the order that is claimed"
    )
    assert all(its.source == "section 5.3, table 5" for its in trial.claims)
    assert {name: its.conditions for name, its in WHOLE.user_models.items()} == {
        lum.ONE: ("scenario",),
        lum.NONE: (),
        lum.BOTH: ("scenario", "query"),
    }
