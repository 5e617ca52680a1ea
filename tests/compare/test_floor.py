"""Layouts against counting, on invented metrics of which it is known who is better.

Shape letter: U users.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console
from small_runs import settings_of
from test_page import LAYOUTS, compared
from tiny import assert_caught

from plait.compare import floor, presentation
from plait.compare.comparing import Variant, compare_variants
from plait.compare.floor import floor_of
from plait.compare.page import html_page, terminal_table
from plait.compare.results import Comparison, Floor
from plait.compare.significance import Side
from plait.compare.verdict import verdict_of
from plait.data import Dataset
from plait.evaluation.counting import Asked, Baselines, ChosenBaseline
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
    assert len(lines) == len(COUNTED) * len(presentation.groups(comparison))
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
    assert read.floor is None and presentation.baseline_cells(read) == {}
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
