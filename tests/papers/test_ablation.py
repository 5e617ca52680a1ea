"""Ablations: differences are paired, averaged over seeds, and told as the papers tell them; the studies of the
AttnMVP and the GenRank paper run, and change one thing at a time."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from rich.console import Console
from tiny import assert_caught, assert_not_vacuous

from plait.compare.significance import Side
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.settings import Protocol
from plait.metrics.intervals import Bootstrap, bootstrap
from plait.metrics.statistic import Statistic, mean_over_users
from plait.models.late import LateSettings
from plait.papers import attnmvp, genrank
from plait.papers.ablation import (
    GAIN,
    Ablation,
    AblationColumn,
    Arm,
    Change,
    Gain,
    Unit,
    column_statistics,
    difference_figure,
    gain_of,
    mean_of,
    supervised_actions,
)
from plait.papers.claims import Claim, judge, sides_of
from plait.papers.logs import ML_1M_LIKED, NotHere, stand_in
from plait.papers.speed import Race
from plait.papers.study import Either, Figure, Finding, Place, Study, StudyResult, run_study, shrunk
from plait.papers.tables import study_report
from plait.rankers.settings import RankerName, run_settings
from plait.training.run import config_of
from plait.training.unread import check_read

STUDIES = (*attnmvp.STUDIES, *genrank.STUDIES)
USER_U = np.arange(53)
EMPTY = Figure(variant="new", metric="m", paper=-0.5)


def quiet(line: str) -> None:
    """Says nothing."""


def place(out: Path, **more: Any) -> Place:
    return Place(out=out, report=quiet, device="cpu", command="plait study", **{"quick": True, **more})


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_a_study_runs_in_seconds_and_records_nothing(study: Study, tmp_path: Path) -> None:
    parts = [
        part.name for part in study.parts if part.name != "five-epochs"
    ]  # shrunk, it is that of one epoch
    result = run_study(study, place(tmp_path, parts=tuple(parts)))
    assert not (tmp_path / f"{study.name}.json").exists() and not result.not_run
    met = {"measured": 0, "of the paper": 0, "verdicts": 0}
    for part, finding in zip(parts, result.findings, strict=True):
        assert finding.part == part and finding.wall_s > 0 and not finding.failed
        assert {figure.metric for figure in finding.figures} == set(finding.metrics)
        assert not finding.page or (tmp_path / finding.page).is_file()
        assert not [v for v in finding.verdicts if v.outcome == "not measured"]
        met["measured"] += sum(figure.value is not None for figure in finding.figures)
        met["of the paper"] += sum(figure.paper is not None for figure in finding.figures)
        met["verdicts"] += len(finding.verdicts)
    assert_not_vacuous(met)
    screen = Console(width=180, file=io.StringIO())
    screen.print(study_report(result))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert all(finding.part in text and finding.protocol[:30] in text for finding in result.findings)
    assert msgspec.json.decode(msgspec.json.encode(result), type=StudyResult) == result


def leaves(value: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {at: value}
    return {name: leaf for key, inner in value.items() for name, leaf in leaves(inner, f"{at}.{key}").items()}


def what_changes(ablation: Ablation, change: Change) -> set[str]:
    """The settings in which a variant differs from its baseline; "log" where it reads another one."""
    log_of = {v.name: arm.log.name for arm in ablation.arms for v in arm.variants}
    of = {v.name: leaves(msgspec.to_builtins(v.settings)) for arm in ablation.arms for v in arm.variants}
    new, old = of[change.variant], of[change.baseline]
    changed = {name for name in new.keys() | old.keys() if new.get(name) != old.get(name)}
    return changed | ({"log"} if log_of[change.variant] != log_of[change.baseline] else set())


EXPECTED = {
    "attn_lfa": {".layout"},
    attnmvp.FUSED: {".layout", ".model.trunk.pool_fuses_item"},
    "attn_mvp": {".layout"},
    "attn_mvp_early": {".layout"},
    "attn_dhn": {".layout", ".optim.learning_rate"},
    genrank.ORGANISED: {".layout"},
    genrank.TIMED: {".model.trunk.positions"},
    genrank.ALL: {".layout", ".model.trunk.positions"},
    genrank.HISTORY_LOSS: {".protocol.supervise"},
    genrank.FULL: {".model.exposure.history"},
    genrank.POINT_WISE: {".protocol.sample"},
    genrank.CONTENT: {"log"},
    genrank.PLE: {".model.tower.kind"},
    genrank.WINDOWS: {".model.late.windows"},
    genrank.PPNET: {".model.tower.gate"},
    genrank.SIMILAR: {".model.late.similar"},
    genrank.SEARCHING: {".model.ranker.kind", ".model.ranker.search", ".model.ranker.category"},
}
EXPECTED |= {
    genrank.in_din(genrank.MODULES[name][0]): EXPECTED[genrank.MODULES[name][0]] for name in genrank.IN_DIN
}
PARTS = [part for study in STUDIES for part in study.parts]
PARTS += [its for part in PARTS if isinstance(part, Either) for its in (part.first, part.otherwise)]
ABLATIONS = [part for part in PARTS if isinstance(part, Ablation)]


def check_one_thing_changes(ablation: Ablation) -> None:
    for change in ablation.changes:
        assert what_changes(ablation, change) == EXPECTED[change.variant], change


def test_a_change_is_one_change() -> None:
    met = dict.fromkeys(EXPECTED, 0)
    for ablation in ABLATIONS:
        check_one_thing_changes(ablation)
        for change in ablation.changes:
            met[change.variant] += 1
    assert_not_vacuous(met)
    [arm] = genrank.of_feed.arms
    longer = [replace(v.settings, protocol=Protocol(max_events=31)) for v in arm.variants]
    broken = Arm(arm.log, (arm.variants[0], *map(Variant, [v.name for v in arm.variants[1:]], longer[1:])))
    assert_caught(check_one_thing_changes, replace(genrank.of_feed, arms=(broken,)))


def test_every_change_is_claimed_and_every_claim_is_of_a_variant_that_is_shown() -> None:
    met = {"variants": 0, "gains": 0}
    for ablation in ABLATIONS:
        of_gains, of_variants = (
            {
                side
                for claim in ablation.claims
                if (claim.metric == GAIN) is so
                for side in (claim.first, claim.second)
            }
            for so in (True, False)
        )
        shown = {side for change in ablation.changes for side in (change.variant, change.baseline)}
        assert of_variants == shown and of_gains == ablation.gains.keys(), ablation.name
        assert {side for gain in ablation.gains.values() for side in (gain.variant, gain.baseline)} <= shown
        met["variants"] += len(of_variants)
        met["gains"] += len(of_gains)
    assert_not_vacuous(met)


def test_the_papers_figures_agree_with_its_text() -> None:
    """Abstract and section 4 of AttnMVP; of GenRank, a speed-up of 78.7 % is 44.0 % of the time."""
    lfa, mvp, early = (attnmvp.FIGURES[name] for name in ("attn_lfa", "attn_mvp", "attn_mvp_early"))
    assert (lfa[0], mvp[0]) == (-0.29, -0.8)
    assert all(a <= b <= c for a, b, c in zip(mvp, early, lfa, strict=True))
    [race] = [part for part in genrank.table_1.parts if isinstance(part, Race)]
    stated = next(row.ours for row in genrank.table_1.setting if row.what == "speed-up")
    assert stated.removeprefix("as time saved: ") == ", ".join(
        f"{racer.paper:.1f} %" for racer in race.racers
    )


def users(value_U: np.ndarray, seed: int = 0) -> Bootstrap:
    return bootstrap(mean_over_users(USER_U, value_U), 400, seed)


CHANGE = Change(variant="new", baseline="old")


def figure_of(
    new: Mapping[int, Bootstrap], old: Mapping[int, Bootstrap], unit: Unit = "AUC", others: int = 0
) -> Figure:
    """Beside so many other variants that have the seeds of the old one."""
    sides = {name: Side(runs) for name, runs in (("new", new), ("old", old)) if runs}
    sides |= {f"other {n}": Side(old) for n in range(others)}
    return difference_figure(sides, CHANGE, unit, EMPTY)


def check_paired(of: Callable[..., Figure]) -> None:
    """A gain that every user has is certain, however unlike the users are."""
    value_U = np.random.default_rng(1).random(len(USER_U))
    points = of({0: users(value_U + 0.1)}, {0: users(value_U)}, "AUC")
    share = of({0: users(1.1 * value_U)}, {0: users(value_U)}, "%")
    assert [points.value, points.low, points.high] == pytest.approx([0.1] * 3)
    assert [share.value, share.low, share.high] == pytest.approx([10.0] * 3)
    assert (points.variant, points.metric, points.paper) == ("new", "m", -0.5)


def test_differences_are_paired() -> None:
    check_paired(figure_of)

    def unpaired(new: Mapping[int, Bootstrap], old: Mapping[int, Bootstrap], unit: Unit) -> Figure:
        shuffled = {seed: replace(each, value_D=np.roll(each.value_D, 1)) for seed, each in new.items()}
        return figure_of(shuffled, old, unit)

    assert_caught(check_paired, unpaired)


def test_seeds_are_averaged_and_their_spread_is_that_of_the_difference() -> None:
    noise_SU = np.random.default_rng(2).random((3, len(USER_U)))
    gains = (0.1, 0.2, 0.6)
    old = {seed: users(noise_U) for seed, noise_U in enumerate(noise_SU)}
    new = {
        seed: users(noise_U + gain) for seed, (noise_U, gain) in enumerate(zip(noise_SU, gains, strict=True))
    }
    found = figure_of(new, old)
    assert (found.value, found.spread) == (pytest.approx(0.3), pytest.approx(np.std(gains, ddof=1)))
    assert figure_of({0: new[0]}, {0: old[0]}).spread is None


def test_what_seeds_scatter_by_widens_the_interval() -> None:
    """All users have the same gain in each run, so only the seeds leave it open."""
    value_U = np.random.default_rng(5).random(len(USER_U))

    def runs(gain: float, scatter: float) -> dict[int, Bootstrap]:
        return {seed: users(value_U + gain + scatter * (seed - 1)) for seed in range(3)}

    exact, blurred = (figure_of(runs(0.3, scatter), runs(0.0, scatter)) for scatter in (0.0, 0.1))
    assert [exact.low, exact.high] == pytest.approx([0.3] * 2)
    half = 2.776 * 0.1 * np.sqrt(2 / 3)  # of Student's t with four degrees of freedom
    assert blurred.value == pytest.approx(0.3)
    assert [blurred.low, blurred.high] == pytest.approx([0.3 - half, 0.3 + half], abs=0.04)
    more = figure_of(runs(0.3, 0.1), runs(0.0, 0.1), others=4)  # of the others' seeds, more is known
    assert more.high - more.low < 0.9 * (blurred.high - blurred.low)


def test_what_is_not_measured_is_left_empty() -> None:
    some = {0: users(np.ones(len(USER_U)))}
    for pair in (({}, some), (some, {})):
        assert figure_of(*pair, "%") == EMPTY
    statistic = mean_over_users(USER_U, np.ones(len(USER_U)))
    undefined = replace(statistic, under=lambda weight_DU: np.full(len(weight_DU), np.nan))
    measured = {("new", 0): {"m": statistic}, ("old", 0): {"m": undefined}}
    assert sides_of(measured, "m", 400).keys() == {"new"}


def test_other_users_are_no_baseline() -> None:
    others = bootstrap(mean_over_users(USER_U + 1, np.ones(len(USER_U))), 400)
    with pytest.raises(ValueError, match="not the same users"):
        figure_of({0: users(np.ones(len(USER_U)))}, {0: others})


def check_mean(of: Callable[..., Statistic]) -> None:
    rng = np.random.default_rng(3)
    statistics = [mean_over_users(USER_U, rng.random(len(USER_U)), "lower") for _ in range(3)]
    weight_DU = rng.integers(0, 3, (7, len(USER_U))).astype(np.float64)
    expected_D = np.mean([each.under(weight_DU) for each in statistics], axis=0)
    found = of(statistics)
    np.testing.assert_allclose(found.under(weight_DU), expected_D)
    assert found.better == "lower" and found.num_users == len(USER_U)


def test_a_column_is_the_mean_of_its_metrics() -> None:
    check_mean(mean_of)
    assert_caught(check_mean, lambda statistics: statistics[0])
    some = mean_over_users(USER_U, np.ones(len(USER_U)))
    columns = {
        "both": AblationColumn(("a", "b")),
        "one": AblationColumn(("a",)),
        "neither": AblationColumn(("a", "c")),
    }
    assert set(column_statistics({"a": some, "b": some}, columns)) == {"both", "one"}
    with pytest.raises(ValueError, match="different users"):
        mean_of([some, mean_over_users(USER_U + 1, np.ones(len(USER_U)))])


def check_gain(of: Callable[..., Statistic]) -> None:
    rng = np.random.default_rng(5)
    new, old = (mean_over_users(USER_U, rng.random(len(USER_U))) for _ in range(2))
    weight_DU = rng.integers(0, 3, (7, len(USER_U))).astype(np.float64)
    for times in (1.0, 2.0):
        found = of(new, old, times)
        np.testing.assert_allclose(
            found.under(weight_DU), times * (new.under(weight_DU) - old.under(weight_DU))
        )
        assert found.better == "higher" and found.num_users == len(USER_U)


def test_a_gain_is_that_of_the_same_users() -> None:
    check_gain(gain_of)
    assert_caught(check_gain, lambda new, old, times: gain_of(new, old))
    with pytest.raises(ValueError, match="different users"):
        gain_of(mean_over_users(USER_U, USER_U / 53), mean_over_users(USER_U + 1, USER_U / 53))


def check_claim_of_gains(gain: Callable[..., Gain]) -> None:
    """Of two modules, one brings three times as much as the other: more than it, and more than twice it."""
    rng = np.random.default_rng(6)
    base_U = rng.random(len(USER_U))
    value = {"old": base_U, "one": base_U + 0.3, "other": base_U + 0.1}
    found = {
        (name, seed): {"auc": mean_over_users(USER_U, value_U + 0.001 * rng.random(len(USER_U)))}
        for name, value_U in value.items()
        for seed in (0, 1)
    }
    gains = {
        "one": gain(variant="one", baseline="old"),
        "twice": gain(variant="other", baseline="old", times=2.0),
    }
    [arm] = tiny_ablation().arms
    names = tuple(Variant(name, arm.variants[0].settings) for name in value)
    claim = Claim(first="one", second="twice", metric=GAIN)
    change = Change(variant="one", baseline="old")
    its = tiny_ablation(arms=(Arm(arm.log, names),), changes=(change,), claims=(claim,), gains=gains)
    [verdict] = judge(its.claims, its.gains_of(found))
    assert verdict.outcome == "reproduced"
    assert verdict.why.startswith("+0.10"), verdict.why


def test_a_claim_of_gains_is_judged_by_what_modules_bring() -> None:
    check_claim_of_gains(Gain)
    assert_caught(check_claim_of_gains, lambda **its: Gain(**its | {"times": 1.0}))


def ranker(**protocol: Any) -> Variant:
    return genrank.variant("ranker", Protocol(max_events=20, **protocol), users_per_step=7)


def test_supervised_events_are_counted(dataset: Dataset) -> None:
    """Every event of this log is a request of its own, so the last request is one event."""
    num_users = len(dataset.train_users())
    per_epoch = {
        "all": supervised_actions(dataset, ranker()),
        "last": supervised_actions(dataset, ranker(supervise="candidates")),
        "last two": supervised_actions(dataset, ranker(supervise="candidates", candidate_requests=2)),
        "by event": supervised_actions(dataset, ranker(supervise="candidates", sample="event")),
    }
    assert per_epoch == {
        "all": int(dataset.train_lengths(21).sum()),
        "last": num_users,
        "last two": 2 * num_users,
        "by event": num_users,
    }


@pytest.mark.parametrize("ranker", get_args(RankerName))
def test_shrunk_rankers_have_settings_that_they_read(ranker: RankerName, dataset: Dataset) -> None:
    small = shrunk(run_settings(ranker))
    check_read(config_of(dataset, small), small.protocol)


def test_shrunk_settings_count_no_more_events_than_they_see() -> None:
    settings = genrank.variant("late", genrank.OF_FEED, genrank.model(late=LateSettings(windows=(5, 20))))
    small = shrunk(settings.settings)
    assert small.model.late.windows == (1, 2) and max(small.model.late.windows) <= small.protocol.max_events


def tiny_ablation(**more: Any) -> Ablation:
    log = stand_in("liked", ())  # a world of clicks
    fields: dict[str, Any] = {
        "name": "tiny",
        "arms": (Arm(log, tuple(Variant(v.name, shrunk(v.settings)) for v in pair(1e-3))),),
        "columns": {"auc": AblationColumn(("auc:click",), "AUC")},
        "changes": (Change(variant="lac", baseline="action_out", paper=(0.5,)),),
        "claims": (Claim(first="lac", second="action_out", metric="auc"),),
        "num_seeds": 2,
    }
    return Ablation(**fields | more)


def pair(rate: float) -> tuple[Variant, Variant]:
    names = ("lac", "action_out")
    first, second = (attnmvp.variant(name, attnmvp.FILMS, learning_rate=rate) for name in names)
    return first, second


def finding_of(ablation: Ablation | Either, out: Path, **more: Any) -> Finding:
    study = Study(name="tiny", paper="no paper", question="Does it run?", setting=(), parts=(ablation,))
    [finding] = run_study(study, place(out, quick=False, **more)).findings
    return finding


def test_what_is_found_names_baseline_and_supervision(tmp_path: Path) -> None:
    finding = finding_of(tiny_ablation(), tmp_path)
    [figure] = finding.figures
    assert (figure.variant, figure.metric, figure.paper) == (
        "lac \N{MINUS SIGN} action_out",
        "auc, AUC",
        0.5,
    )
    assert figure.low is not None and figure.value is not None and figure.high is not None
    assert figure.low <= figure.value <= figure.high and figure.spread is not None
    baseline, trained, supervised = finding.notes
    assert "test: " in finding.data and trained.startswith("Trained for 1 epochs")
    assert baseline.startswith("action_out: auc 0.") and "(lac, action_out)" in supervised
    assert finding.page == "tiny/tiny/liked/report.html" and (tmp_path / finding.page).is_file()


def test_another_ablation_stands_in_for_a_missing_log(tmp_path: Path) -> None:
    [arm] = tiny_ablation().arms
    missing = tiny_ablation(name="films", arms=(Arm(ML_1M_LIKED, arm.variants),))
    with pytest.raises(ValueError, match=r"nothing could be run.*ml-1m-liked\.parquet"):
        finding_of(missing, tmp_path)
    assert finding_of(Either(missing, tiny_ablation()), tmp_path).part == "tiny"
    with pytest.raises(NotHere):
        ML_1M_LIKED.open(tmp_path, None)
