"""Layouts against counting, on invented metrics of which it is known who is better.

Shape letter: U users.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote

import msgspec
import numpy as np
import pytest
from rich.console import Console
from small_runs import settings_of
from test_page import LAYOUTS, compared
from tiny import assert_caught

from plait.compare import floor, presentation
from plait.compare.charted import charts as charts_of
from plait.compare.comparing import compare_variants
from plait.compare.floor import floor_of
from plait.compare.page import html_page, terminal_table
from plait.compare.results import Comparison, Floor
from plait.compare.side_tables import counts_tables
from plait.compare.significance import Side
from plait.compare.variants import Variant
from plait.compare.verdict import verdict_of
from plait.data import Dataset
from plait.evaluation.counting import Asked, Baselines, ChosenBaseline
from plait.evaluation.counts_effect import CountsEffect
from plait.metrics.intervals import Difference
from plait.metrics.statistic import Statistic, mean_over_users
from plait.models.questions import Exposure

U = 401
COUNTED = {"popularity": 0.3, "rules": 0.5, "like rules": 0.5}


def hits(chance: float, name: str, seed: int = 0) -> Statistic:
    rng = np.random.default_rng([seed, *name.encode()])
    return mean_over_users(np.arange(U), (rng.random(U) < chance).astype(float))


def floor_under(layouts: Mapping[str, float], seeds: int = 3) -> Floor:
    """The floor under layouts of these hit rates."""
    statistics = {
        (name, seed): {"ndcg@10": hits(chance, name, seed)}
        for name, chance in layouts.items()
        for seed in range(seeds)
    }
    found = Baselines(
        Asked("", "causal", True, None, None, ""),
        tuple(ChosenBaseline(name, f"settings of {name}") for name in COUNTED),
        {"EASE": "9,000 items"},
        "a note",
        1.5,
    )
    counted = {name: {"ndcg@10": hits(chance, name)} for name, chance in COUNTED.items()}
    return floor_of(found, counted, statistics, min_draws=400)


def check_told() -> None:
    """Stars among baselines need no seeds; of layouts they do."""
    several, one = floor_under({"good": 0.7, "bad": 0.35, "like": 0.5}), floor_under({"good": 0.7}, seeds=1)
    for its in (several, one):
        best = its.best("ndcg@10")
        assert best is not None and best.name in ("rules", "like rules")
        told = {row.name: row.vs_best["ndcg@10"] for row in its.rows if row is not best}
        assert told.pop("popularity").is_significant
        assert not any(contrast.is_significant for contrast in told.values()) and told
    of = several.layouts["ndcg@10"]
    assert {name for name, contrast in of.items() if contrast.is_significant} == {"good", "bad"}
    assert of["good"].difference.value > 0 > of["bad"].difference.value
    assert not one.layouts["ndcg@10"]["good"].covers_seeds
    assert not one.layouts["ndcg@10"]["good"].is_significant


def test_baselines_are_told_apart_without_seeds_and_layouts_with_them():
    check_told()


def test_baselines_that_count_as_runs_of_one_seed_are_caught(monkeypatch):
    monkeypatch.setattr(floor, "Side", lambda runs, has_seeds=True: Side(runs))
    assert_caught(check_told)


def test_a_layout_of_a_baseline_s_name_is_refused():
    with pytest.raises(ValueError, match="contenders: 'rules' given more than once"):
        floor_under({"rules": 0.5})


def with_floor(layouts: Mapping[str, float], seeds: int = 3) -> Comparison:
    return msgspec.structs.replace(compared(), floor=floor_under(layouts, seeds))


def counts_of(comparison: Comparison) -> list[str]:
    return [of.sentence for of in verdict_of(comparison).counted]


def said_on(comparison: Comparison) -> str:
    out = io.StringIO()
    Console(width=200, file=out).print(terminal_table(comparison, 200))
    return out.getvalue()


def test_table_and_page_show_the_floor_apart_from_layouts():
    comparison = with_floor({"lac": 0.7, "pc": 0.5, "item": 0.3})
    (sentence,) = counts_of(comparison)
    assert sentence.startswith("NDCG@10: the best count is ")
    assert "better: lac" in sentence.lower() and "not told apart from it: pc" in sentence.lower()
    assert "worse: item" in sentence.lower()
    page, text = html_page(comparison), said_on(comparison)
    for shown in (page, text):
        assert all(f"count: {name}" in shown for name in COUNTED)
        assert "EASE left out: 9,000 items" in shown and "baselines: a note" in shown
    lines = re.findall(r'<tr class="([^"]*)"><th scope="row">count: ', page)
    assert len(lines) == len(COUNTED), "they have no metric of the action, so its table has no line for them"
    assert len(presentation.groups(comparison)) == 2
    assert all("fixed" in line.split() for line in lines), "they stay below, however a table is sorted"
    assert 'row.matches(".fixed")' in page
    assert "count: " not in said_on(compared()) and "count: popularity" not in html_page(compared())


def test_one_seed_tells_nothing_of_a_layout():
    (sentence,) = counts_of(with_floor({"lac": 0.7}, seeds=1))
    assert "ahead of it with one seed, which tells no difference: lac" in sentence.lower()


def test_comparisons_of_before_are_read_without_a_floor():
    encoded = msgspec.json.decode(msgspec.json.encode(compared()))
    encoded.pop("floor")
    read = msgspec.json.decode(msgspec.json.encode(encoded), type=Comparison)
    assert read.floor is None and presentation.baseline_cells(read, read.retrieval) == {}
    assert len(read.layouts) == len(LAYOUTS)


def test_variants_that_are_asked_other_questions_stand_on_no_floor(dataset: Dataset, tmp_path: Path):
    settings = settings_of("item", max_epochs=1)
    blind = replace(settings, model=replace(settings.model, exposure=Exposure(same_request="blind")))
    lines: list[str] = []
    for variants in ({"a": settings}, {"a": settings, "b": blind}):
        found = compare_variants(
            dataset,
            [Variant(name, its) for name, its in variants.items()],
            1,
            tmp_path / "-".join(variants),
            command="",
            report=lines.append,
            baselines=True,
        )
        assert (found.comparison.floor is not None) == (len(variants) == 1)
    assert any("not asked the same questions" in line for line in lines)


def used(layouts: Mapping[str, float], **changes: object) -> presentation.Use | None:
    comparison = msgspec.structs.replace(with_floor(layouts), **changes)
    return presentation.use(comparison, verdict_of(comparison), Path("runs/mine"))


def test_what_is_recommended_is_what_the_command_asks():
    counting, model = used({"lac": 0.5, "item": 0.3}), used({"lac": 0.7, "item": 0.3})
    assert counting is not None and model is not None
    best = verdict_of(with_floor({"lac": 0.5})).counted[0].name
    assert (
        f"--baseline {quote(best)} " in counting.command and "recommend runs/mine/runs/" in counting.command
    )
    assert counting.python == f"counts = plait.CountingRecommender.fit(data, {best!r})"
    assert "--baseline" not in model.command and "Recommender.from_pretrained" in model.python
    page = html_page(with_floor({"lac": 0.5, "item": 0.3}), Path("runs/mine"))
    assert "from_pretrained" not in page and "CountingRecommender" in page
    assert used({"lac": 0.5}, rows=(), summaries=()) is None, "nobody says which data"


def test_the_best_count_is_drawn_across_the_costs_of_its_metric_alone():
    comparison = with_floor({"lac": 0.5, "item": 0.3})
    of = {
        (metric, chart.kind): chart
        for metric in comparison.charted
        for chart in charts_of(comparison, metric)
    }
    drawn = {key for key, chart in of.items() if chart.level is not None}
    assert drawn == {("ndcg@10", "costs")} and len(of) > 3
    assert f"best count, {verdict_of(comparison).counted[0].name}" in of["ndcg@10", "costs"].caption


def with_counts() -> Comparison:
    effects = {
        "item": (effect("ndcg@10", 0.16, 0.15),),
        "lac": (effect("ndcg@10", 0.17, 0.16), effect("rmse:rating", 0.9, 0.95)),
    }
    return msgspec.structs.replace(compared(), counts=effects)


def effect(metric: str, with_counts: float, without: float) -> CountsEffect:
    difference = with_counts - without
    return CountsEffect(metric, with_counts, without, Difference(difference, difference, difference, 0.002))


def test_what_counts_add_is_a_table_and_curves_say_that_they_lack_them():
    tables = {table.title: table for table in counts_tables(with_counts())}
    assert list(tables) == ["NDCG@10", "RMSE rating"] and not counts_tables(compared())
    assert [name for name, _ in tables["NDCG@10"].rows] == ["item", "lac"]
    ((name, cells),) = tables["RMSE rating"].rows
    assert name == "lac" and [cell.value for cell in cells] == ["0.9500", "0.9000", "−0.0500"]
    assert "p = 0.002" in cells[2].around
    page, without = html_page(with_counts()), html_page(compared())
    assert "With counts and without" in page and "With counts and without" not in without
    assert "NDCG@10 0.1600 with counts" not in page, "the page has tables for it"
    assert "NDCG@10 0.1600 with counts" in " ".join(said_on(with_counts()).split())
    assert "on validation, models without counts" in page and "models without counts" not in without
