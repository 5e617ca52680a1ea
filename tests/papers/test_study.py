"""Studies: each of them runs, goes on where it was stopped, and says what it could not do."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from tiny import assert_caught, assert_not_vacuous

from plait.compare.comparing import compare_variants, shared_line
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.data.sources import prepared
from plait.evaluation.run_files import load_result
from plait.papers import STUDIES, attnmvp, lac
from plait.papers.claims import Claim
from plait.papers.logs import Given, NotHere, Public, Simulated, StudyLog, stand_in
from plait.papers.speed import Race
from plait.papers.study import (
    Either,
    Place,
    Study,
    StudyPart,
    StudyResult,
    Trial,
    run_study,
    shrunk,
    words_of,
)
from plait.papers.tables import study_report
from plait.schema import Action, Regression
from plait.training import loop

RATING = (Action("rating", Regression(1, 5)),)


def quiet(line: str) -> None:
    """Says nothing."""


def place(out: Path, **more: Any) -> Place:
    return Place(out=out, report=quiet, device="cpu", command="plait study", **{"quick": True, **more})


def tiny_trial(name: str = "ratings", log: Simulated | Given | None = None, **more: Any) -> Trial:
    layouts = ("item", "lac")
    settings = [shrunk(lac.variant(layout, lac.FILMS).settings) for layout in layouts]
    fields: dict[str, Any] = {
        "name": name,
        "log": log or stand_in(name, RATING),
        "variants": tuple(map(Variant, layouts, settings)),
        "metrics": {"hr@10": "HR@10", "rmse_scaled:rating": "RMSE"},
        "paper": {"lac": (0.5, 0.25)},
        "claims": (Claim(first="lac", second="item", metric="hr@10"),),
        "num_seeds": 1,
    }
    return Trial(**fields | more)


def study_of(*parts: StudyPart | Either) -> Study:
    return Study(name="tiny", paper="no paper", question="Does it run?", setting=(), parts=parts)


def shown(result: StudyResult) -> str:
    screen = Console(width=180, file=io.StringIO())
    screen.print(study_report(result))
    return screen.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("study", lac.STUDIES, ids=lambda study: study.name)
def test_a_study_runs_in_seconds_and_records_nothing(study: Study, tmp_path: Path) -> None:
    result = run_study(study, place(tmp_path))
    assert not (tmp_path / f"{study.name}.json").exists() and not (tmp_path / study.name).exists()
    assert result.study == study.name and not result.not_run
    met = {"measured": 0, "verdicts": 0}
    for part, finding in zip(study.parts, result.findings, strict=True):
        assert finding.part == part.name and finding.wall_s > 0 and not finding.failed
        assert {figure.metric for figure in finding.figures} == set(finding.metrics)
        met["measured"] += sum(figure.value is not None for figure in finding.figures)
        met["verdicts"] += len(finding.verdicts)
        assert not finding.page or (tmp_path / finding.page).is_file()
        assert not [v for v in finding.verdicts if v.outcome == "not measured"]
    assert_not_vacuous(met)
    text = shown(result)
    assert all(finding.part in text and finding.protocol[:30] in text for finding in result.findings)
    assert msgspec.json.decode(msgspec.json.encode(result), type=StudyResult) == result


def test_every_study_has_a_name_and_a_question_of_its_own() -> None:
    assert len({study.name for study in STUDIES}) == len(STUDIES) >= 6
    assert len({study.question for study in STUDIES}) == len(STUDIES)


def test_the_papers_figures_are_those_of_its_best_layouts() -> None:
    """Bold in the paper: LAC's errors are the lowest of table 2, and interleaved's lists the best."""
    by_column = list(zip(*lac.TABLE_2_PAPER.values(), strict=True))
    names = list(lac.TABLE_2_PAPER)
    for column, best in ((3, min), (4, min)):
        values = [np.inf if value is None else value for value in by_column[column]]
        assert names[values.index(best(values))] == "lac"
    assert max(value for value in by_column[1] if value is not None) == lac.TABLE_2_PAPER["interleaved"][1]


def test_a_recorded_result_says_where_it_comes_from(tmp_path: Path) -> None:
    result = run_study(study_of(tiny_trial()), place(tmp_path, quick=False))
    recorded = msgspec.json.decode((tmp_path / "tiny.json").read_bytes(), type=StudyResult)
    assert recorded == result and (tmp_path / "tiny/ratings/report.html").is_file()
    assert all((recorded.command, recorded.machine, recorded.date, recorded.version)) and recorded.wall_s > 0
    figures = {(f.variant, f.metric): f for f in recorded.findings[0].figures}
    ours = figures["lac", "rmse_scaled:rating"]
    assert ours.paper == 0.25 and ours.low is not None and ours.low < ours.value < ours.high  # type: ignore[operator]
    assert figures["item", "rmse_scaled:rating"].value is None and figures["item", "hr@10"].paper is None
    counted = {variant for variant, _ in figures if variant.startswith("count: ")}
    assert 1 <= len(counted) <= 2, "the best of each metric, and no others"
    for metric in recorded.findings[0].metrics:
        best = [figures[variant, metric] for variant in counted if figures[variant, metric].value is not None]
        assert best and all(its.paper is None and its.low is not None for its in best)
    assert all(variant in shown(recorded) for variant in counted)
    [verdict] = recorded.findings[0].verdicts
    assert verdict.outcome == "too close to tell" and "p = " in verdict.why
    assert recorded.answers == {"ratings": "reproduced in 0 of 1 claims, not in 0, 1 too close to tell"}
    assert "ratings: reproduced in 0 of 1 claims" in shown(recorded)
    assert "Trained for 1 epochs; the best one in validation, which is judged, was 1." in shown(recorded)


def test_a_study_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(tiny_trial("first"), tiny_trial("second", num_seeds=2))
    validate, trained = loop._Run._validate, []

    def stop(self: Any) -> None:
        if self.progress.epoch == 1:
            trained.append(self.folder)
            if len(trained) == 4:  # in the second part
                raise KeyboardInterrupt
        validate(self)

    monkeypatch.setattr(loop._Run, "_validate", stop)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, place(tmp_path, quick=False))
    assert not (tmp_path / "tiny.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(finished) == 3
    result = run_study(study, place(tmp_path, quick=False))
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(trained) == 4 + 3 and len(list(tmp_path.rglob("result.json"))) == 6
    assert len(result.findings) == 2


def test_other_settings_do_not_pass_for_a_finished_run(tmp_path: Path) -> None:
    run_study(study_of(tiny_trial()), place(tmp_path, quick=False))
    changed = tiny_trial()
    faster = tuple(
        Variant(v.name, replace(v.settings, optim=replace(v.settings.optim, learning_rate=0.01)))
        for v in changed.variants
    )
    with pytest.raises(ValueError, match="other settings"):
        run_study(study_of(replace(changed, variants=faster)), place(tmp_path, quick=False))


GIVEN = Given(
    name="stars",
    file="stars.parquet",
    what="columns who, what, when_ms and rating",
    user="who",
    item="what",
    time="when_ms",
    milliseconds=True,
    actions=RATING,
)


def write_stars(folder: Path) -> None:
    rng = np.random.default_rng(3)
    user_E = np.repeat(np.arange(19), 8)
    columns = {"who": user_E, "what": rng.integers(0, 11, len(user_E))}
    columns |= {
        "when_ms": 1_600_000_000_000 + 1_500 * np.arange(len(user_E)),
        "rating": rng.integers(1, 6, len(user_E)),
    }
    pl.DataFrame(columns).write_parquet(folder / "stars.parquet")


def test_a_log_that_is_given_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_DATA", str(tmp_path / "cache"))
    write_stars(tmp_path)
    opened = GIVEN.open(tmp_path, tmp_path)
    assert (opened.manifest.name, opened.num_users) == ("stars", 19)
    assert opened.manifest.settings.time_unit == "ms"


@pytest.mark.parametrize("empty", [None, np.nan])
def test_a_given_log_with_an_action_missing_is_refused(
    empty: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIT_DATA", str(tmp_path / "cache"))
    write_stars(tmp_path)
    path = tmp_path / "stars.parquet"
    some = pl.col("rating").cast(pl.Float32)
    holes = pl.when(pl.int_range(pl.len()).is_in([3, 70])).then(pl.lit(empty, pl.Float32)).otherwise(some)
    pl.read_parquet(path).with_columns(holes.alias("rating")).write_parquet(path)
    with pytest.raises(
        ValueError, match=r"stars.parquet: rating is missing on 2 events; expected columns who"
    ):
        GIVEN.open(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"), [(None, "no folder was given"), (Path("/nowhere"), "does not exist")]
)
def test_a_log_that_is_missing_is_named_with_what_to_give(
    given: Path | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(NotHere, match=f"(?s){message}.*stars.parquet .columns who.*--data"):
        GIVEN.open(tmp_path, given)


def test_a_part_without_its_log_is_left_out_and_said(tmp_path: Path) -> None:
    result = run_study(study_of(tiny_trial(), tiny_trial("stars", GIVEN)), place(tmp_path, quick=False))
    assert [finding.part for finding in result.findings] == ["ratings"]
    assert "stars.parquet" in result.not_run["stars"] and "not run" in shown(result)
    with pytest.raises(ValueError, match=r"nothing could be run.*stars\.parquet"):
        run_study(study_of(tiny_trial("stars", GIVEN)), place(tmp_path / "other", quick=False))


def test_some_of_the_parts_run_alone_and_are_used_again(tmp_path: Path) -> None:
    study = study_of(tiny_trial("first"), tiny_trial("second"), tiny_trial("third"))
    alone = run_study(study, place(tmp_path, quick=False, parts=("third", "first")))
    assert [finding.part for finding in alone.findings] == ["first", "third"]
    assert not (tmp_path / "tiny.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(finished) == 4
    run_study(study, place(tmp_path, quick=False, parts=("first", "second", "third")))
    assert (tmp_path / "tiny.json").is_file() and len(list(tmp_path.rglob("result.json"))) == 6
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_an_unknown_part_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny has no part 'second'; its parts are ratings"):
        run_study(study_of(tiny_trial()), place(tmp_path, parts=("ratings", "second")))


def test_the_data_says_what_is_tested(tmp_path: Path) -> None:
    """In time, some users have several events to test and others none."""
    dataset = attnmvp.TWELVE_TASKS.quick().open(tmp_path, None)
    tested = dataset.targets("test")
    assert 0 < len(set(tested.user_Q.tolist())) < dataset.num_users and len(tested) > 0
    expected = f"test: {len(tested)} events of {len(set(tested.user_Q.tolist()))} users"
    assert words_of(dataset).endswith(expected)


def test_all_variants_of_a_part_train_for_as_many_epochs() -> None:
    """None may be better for having been stopped later."""
    met = 0
    for study in STUDIES:
        for part in study.parts:
            for one in (part.first, part.otherwise) if isinstance(part, Either) else (part,):
                runs = [v.settings for arm in getattr(one, "arms", ()) for v in arm.variants]
                runs += [v.settings for v in getattr(one, "variants", ())]
                met += bool(runs)
                assert len({its.protocol.max_epochs for its in runs}) <= 1, one.name
                assert all(its.protocol.patience >= its.protocol.max_epochs for its in runs), one.name
                assert all(its.optim.schedule == "cosine" for its in runs), one.name
    assert_not_vacuous({"parts": met}, above=11)


def test_a_log_that_cannot_be_fetched_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(name: str) -> None:
        raise ConnectionError("no way out")

    monkeypatch.setattr(prepared, "get", offline)
    result = run_study(
        study_of(tiny_trial(), tiny_trial("public", Public("ml-100k"))), place(tmp_path, quick=False)
    )
    assert result.not_run == {"public": "ml-100k: no way out"}


def test_another_trial_stands_in_for_a_missing_log(tmp_path: Path) -> None:
    said: list[str] = []
    either = Either(tiny_trial("stars", GIVEN), tiny_trial("instead"))
    where = replace(place(tmp_path, quick=False), report=said.append)
    result = run_study(study_of(either), where)
    assert [finding.part for finding in result.findings] == ["instead"]
    assert (tmp_path / "tiny/instead/report.html").is_file() and not result.not_run
    assert any("instead: instead" in line and "stars.parquet" in line for line in said)


def test_where_neither_log_is_here_the_last_one_is_named(tmp_path: Path) -> None:
    other = replace(GIVEN, name="moons", file="moons.parquet")
    study = study_of(Either(tiny_trial("stars", GIVEN), tiny_trial("moons", other)), tiny_trial())
    result = run_study(study, place(tmp_path, quick=False))
    assert list(result.not_run) == ["stars"] and "moons.parquet" in result.not_run["stars"]
    assert [finding.part for finding in result.findings] == ["ratings"]


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no action": (
        lambda path: pl.read_parquet(path).drop("rating").write_parquet(path),
        "no column 'rating'",
    ),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:99]), "stars.parquet"),
    "text": (
        lambda path: pl.read_parquet(path).with_columns(rating=pl.lit("good")).write_parquet(path),
        "rating",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_given_log_that_is_broken_is_told_before_any_part_runs(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIT_DATA", str(tmp_path / "cache"))
    write_stars(tmp_path)
    change, message = BROKEN[broken]
    change(tmp_path / "stars.parquet")
    where = place(tmp_path / "out", quick=False, data=tmp_path)
    for last in (tiny_trial("stars", GIVEN), Either(tiny_trial("stars", GIVEN), tiny_trial("instead"))):
        with pytest.raises(ValueError, match=message):
            run_study(study_of(tiny_trial(), last), where)
    assert not (tmp_path / "out/tiny").exists(), "the first part ran"
    monkeypatch.setattr(Trial, "logs", ())  # the mutant
    with pytest.raises(ValueError, match=message):
        run_study(study_of(tiny_trial(), tiny_trial("stars", GIVEN)), where)
    assert (tmp_path / "out/tiny/ratings/report.html").is_file()


def test_all_logs_of_every_part_are_known_before_it_runs() -> None:
    """Those that its runs open, so that nothing is found wrong later."""
    met = 0
    for part in (part for study in STUDIES for part in study.parts):
        for its in (part.first, part.otherwise) if isinstance(part, Either) else (part,):
            assert its.logs and all(isinstance(log, StudyLog) for log in its.logs), its.name
            met += len(its.logs) > 1
    assert_not_vacuous({"parts of several logs": met})


def test_a_diverged_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = loop._Run._step

    def diverging(self: Any, *arguments: Any) -> None:
        if self.model.layout.fields == {"i"}:
            raise loop.Diverged("the loss is gone")
        step(self, *arguments)

    monkeypatch.setattr(loop._Run, "_step", diverging)
    [finding] = run_study(study_of(tiny_trial()), place(tmp_path)).findings
    assert finding.failed == ("item with seed 0: the loss is gone",)
    assert finding.verdicts[0].outcome == "not measured"


def test_simulated_logs_are_drawn_once_and_told_apart(tmp_path: Path) -> None:
    log = stand_in("stars", RATING)
    first, again = log.open(tmp_path, None), log.open(tmp_path, None)
    other = replace(log, world=msgspec.structs.replace(log.world, seed=1)).open(tmp_path, None)
    assert first.folder == again.folder != other.folder
    assert first.manifest.content_hash != other.manifest.content_hash
    assert [action.name for action in Public("ml-100k").quick().open(tmp_path, None).actions] == [
        "rating",
        "click",
    ]


def test_variants_keep_their_own_settings(dataset: Dataset, tmp_path: Path) -> None:
    settings = shrunk(lac.variant("lac", lac.FILMS).settings)
    wide = replace(settings, model=lac.sized(24, 1))
    pair = (Variant("narrow", settings), Variant("wide: 24", wide))
    found = compare_variants(dataset, pair, 1, tmp_path, command="", title="Two widths", report=quiet)
    dims = [load_result(path).settings.model.trunk.dim for path in sorted((tmp_path / "runs").iterdir())]
    assert dims == [12, 24] and [row.layout for row in found.comparison.rows] == ["narrow", "wide: 24"]
    assert "narrow: trunk gpt d = 12" in found.comparison.protocol and found.comparison.title == "Two widths"
    assert set(found.statistics) == {("narrow", 0), ("wide: 24", 0)}
    assert "Two widths" in (tmp_path / "report.html").read_text()


def test_variants_need_names_that_files_can_tell_apart(dataset: Dataset, tmp_path: Path) -> None:
    settings = shrunk(lac.variant("lac", lac.FILMS).settings)
    twins = (Variant("a: b", settings), Variant("a b", settings))
    with pytest.raises(ValueError, match="more than once"):
        compare_variants(dataset, twins, 1, tmp_path, command="", report=quiet)


def check_shared(line: Callable[[dict[str, str]], str]) -> None:
    lines = {"a": "one; two; seed 0", "b": "one; zwei; seed 0"}
    assert line(lines) == "one; seed 0; a: two; b: zwei"


def test_a_shared_line_hides_no_difference() -> None:
    check_shared(shared_line)
    assert_caught(check_shared, lambda lines: next(iter(lines.values())))


def test_rounds_of_a_race_take_turns(tmp_path: Path) -> None:
    [race] = lac.table_5.parts
    assert isinstance(race, Race)
    said: list[str] = []
    short = replace(replace(race, racers=race.racers[:1]).quick(), num_rounds=2)
    short.run("race", replace(place(tmp_path), report=said.append))
    turns = [line.partition(",")[0].split()[0] for line in said]
    assert turns == ["interleaved", "lac", "lac", "interleaved", "interleaved", "lac"]


def test_weights_of_two_tasks_sum_to_the_same() -> None:
    for weights in lac.WEIGHTS.values():
        found = lac.weighted(*weights).action_weights
        assert sum(found.values()) == pytest.approx(2)
        assert found["watch_s"] / found["purchase"] == pytest.approx(weights[0] / weights[1])
