"""What a comparison says of checkpoints: nothing is marked between rows of different rules, and what is deployed gives
up is told."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_runs import settings_of, silent
from test_page import LAYOUTS, SEEDS, U, by_layout, compared, measured, rendered, row
from tiny import assert_caught

from plait.compare import charted, notes, presentation
from plait.compare.comparing import compare
from plait.compare.results import Chosen, Comparison, Row, Summary, summarise
from plait.data import Dataset
from plait.evaluation.answers import measure
from plait.evaluation.run_files import load_answers, load_result, measured_answers
from plait.layouts import resolve
from plait.metrics.scoring import labelled, rmse
from plait.metrics.statistic import Statistic

BY_ITEMS, BY_ACTIONS = "ndcg@10", "normalised_error:actions"
RUNS = {(layout.name, seed): measured(layout, seed) for layout in LAYOUTS for seed in SEEDS}


def rows_chosen(by: Mapping[str, str]) -> list[Row]:
    """Of the made-up layouts, retrieval's checkpoint chosen by a rule of its own where one is named."""
    return [
        row(
            layout,
            seed,
            RUNS[layout.name, seed],
            chosen={
                "retrieval": Chosen(by.get(layout.name, BY_ITEMS), 9.0),
                "actions": Chosen(BY_ACTIONS, 4.0),
            },
        )
        for layout in LAYOUTS
        for seed in SEEDS
    ]


def told(by: Mapping[str, str]) -> Comparison:
    rows = rows_chosen(by)
    return compared(rows=rows, summaries=summarise(rows, RUNS, "item", min_draws=500))


def check_rules_apart_are_not_marked() -> None:
    alike, apart = by_layout(told({})), by_layout(told({"item": "mrr"}))
    first, second = (found["item"].metrics["ndcg@10"].vs_best for found in (alike, apart))
    assert first.is_significant and first.chosen_alike, "nothing would be shown"
    assert not second.is_significant and not second.chosen_alike
    assert (second.p_adjusted, second.low, second.high) == (first.p_adjusted, first.low, first.high)
    others = [found for name, found in apart.items() if name not in ("item", second.other)]
    assert all(
        found.metrics["ndcg@10"].vs_best.chosen_alike for found in others if "ndcg@10" in found.metrics
    )


def test_nothing_is_marked_between_rows_that_different_rules_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    check_rules_apart_are_not_marked()
    monkeypatch.setattr(Row, "rule_of", lambda self, metric: "")
    assert_caught(check_rules_apart_are_not_marked)


def test_rules_apart_are_said() -> None:
    note = "retrieval: epochs were chosen by mrr (item) and ndcg@10 (lac, interleaved); nothing is marked between"
    apart = told({"item": "mrr"})
    said = [line for line in notes.notes(apart) if line.startswith("retrieval: epochs")]
    assert len(said) == 1 and said[0].startswith(note.partition(" (lac")[0])
    assert not any("epochs were chosen" in line for line in notes.notes(told({})))
    details = {one.layout: one for one in presentation.details(apart, "ndcg@10")}
    assert "different rules" in details["item"].against_best
    assert "different rules" not in details["lac"].against_best


def of_deployed(error: float) -> dict[tuple[str, int], dict[str, Statistic]]:
    noise_U = np.random.default_rng(3).normal(0, 1, U)
    worse = rmse(labelled(np.arange(U), 3 + error * noise_U, np.full(U, 3.0)))
    return {("lac", seed): {"rmse:rating": worse} for seed in SEEDS}


def test_what_the_deployed_one_gives_up_stands_beside() -> None:
    rows = rows_chosen({})
    summaries = summarise(rows, RUNS, "item", min_draws=500, deployed=of_deployed(1.5))
    plain: tuple[Summary, ...] = summarise(rows, RUNS, "item", min_draws=500)
    for summary, without in zip(summaries, plain, strict=True):
        for name, found in summary.metrics.items():
            is_other = (summary.layout, name) == ("lac", "rmse:rating")
            assert (found.deployed is not None) == is_other
            assert msgspec.structs.replace(found, deployed=None) == without.metrics[name]
    lac = next(its for its in summaries if its.layout == "lac").metrics["rmse:rating"]
    assert lac.deployed is not None and lac.estimate.value is not None
    assert lac.deployed.difference.value == pytest.approx(lac.deployed.estimate.value - lac.estimate.value)
    assert lac.deployed.difference.low < lac.deployed.difference.value < lac.deployed.difference.high
    comparison = compared(rows=rows, summaries=summaries)
    assert "its deployed one (model/) has RMSE rating" in " ".join(notes.notes(comparison))
    assert "its deployed one" in " ".join(rendered(comparison, 200).split())
    assert "its deployed one" not in " ".join(notes.notes(compared()))


def test_a_curve_is_marked_where_its_own_checkpoint_is() -> None:
    comparison = told({})
    marks = {
        metric: {run.tested for its in rows_of(comparison) if (run := charted._run(its, metric, better))}
        for metric, better in (("ndcg@10", "higher"), ("rmse:rating", "lower"))
    }
    assert marks == {"ndcg@10": {8}, "rmse:rating": {3}}, "places of epochs 9 and 4"


def rows_of(comparison: Comparison) -> list[Row]:
    return [its for its in comparison.rows if its.layout == "lac"]


def small_comparison(dataset: Dataset, out: Path, **protocol: object) -> Comparison:
    of = settings_of(**({"max_epochs": 2} | protocol))
    return compare(
        dataset,
        [resolve("lac"), resolve("action_out")],
        1,
        out,
        of.model,
        of.optim,
        of.protocol,
        "plait compare",
        report=silent,
    )


def test_columns_of_scoring_come_from_the_checkpoint_for_actions_in_every_layout(dataset, tmp_path):
    comparison = small_comparison(dataset, tmp_path)
    for its in comparison.rows:
        folder = tmp_path / "runs" / f"{its.layout}-seed0"
        result = load_result(folder)
        found = measure(measured_answers(folder, result))
        assert {name: one.value for name, one in its.metrics.items()} == {
            n: s.value for n, s in found.items()
        }
        assert its.rule_of("auc:liked") == BY_ACTIONS
    lac = by_layout(comparison)["lac"].metrics
    assert lac["auc:liked"].deployed is not None and lac["ndcg@10"].deployed is None
    of_model = measure(load_answers(tmp_path / "runs/lac-seed0", dataset.actions))
    assert lac["auc:liked"].deployed.estimate.value == of_model["auc:liked"].value
    assert lac["auc:liked"].vs_best is None or lac["auc:liked"].vs_best.chosen_alike
    assert all(its.deployed is None for its in by_layout(comparison)["action_out"].metrics.values())


@pytest.mark.parametrize("protocol", [{"judge": "deployed"}, {"select": "auto"}])
def test_columns_of_what_is_deployed_are_not_marked_across_rules(protocol, dataset, tmp_path):
    comparison = small_comparison(dataset, tmp_path, **protocol)
    contrasts = [its.metrics["auc:liked"].vs_best for its in comparison.summaries]
    assert [one.chosen_alike for one in contrasts if one] == [False]
    assert any(line.startswith("scoring: epochs were chosen by ") for line in notes.notes(comparison))
    assert all(found.deployed is None for its in comparison.summaries for found in its.metrics.values())
