"""Variants that are not judged alike, or that cannot be trained, are refused before any training."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from small_runs import MODEL, settings_of
from tiny import assert_caught, prepared, random_log

from plait.compare import variants as variants_module
from plait.compare.comparing import compare_variants
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.run_files import RunSettings
from plait.models.questions import Exposure


def blind(settings: RunSettings) -> RunSettings:
    return replace(settings, model=replace(MODEL, exposure=Exposure(same_request="blind")))


def in_one_request(folder: Path) -> Dataset:
    """The first users did all that they did at one time: nothing lies before it."""
    at_once = pl.col("user").is_in(["u00", "u01", "u02"])
    time = pl.when(at_once).then(pl.col("time").min().over("user")).otherwise("time")
    return prepared(random_log().with_columns(time=time), folder)


def refused(data: Dataset, out: Path, *others: RunSettings, first: RunSettings) -> str:
    variants = [Variant(f"variant {n}", settings) for n, settings in enumerate((first, *others))]
    lines: list[str] = []
    with pytest.raises(ValueError, match="would not be judged alike") as error:
        compare_variants(data, variants, 1, out, command="", report=lines.append, device="cpu")
    assert not out.exists() and not lines, "nothing was trained or written"
    return str(error.value)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"negatives": 3}, "protocol.negatives = None and 3"),
        ({"filter_seen": False}, "protocol.filter_seen = True and False"),
    ],
)
def test_answers_that_compete_with_other_items_have_no_table_in_common(dataset, tmp_path, changed, why):
    told = refused(
        dataset, tmp_path / "out", settings_of("pc"), settings_of("lac", **changed), first=settings_of("item")
    )
    assert why in told and "variant 0 and variant 2" in told and "tables of their own" in told


def test_other_test_events_have_no_table_in_common(tmp_path):
    data = in_one_request(tmp_path / "data")
    told = refused(data, tmp_path / "out", blind(settings_of("lac")), first=settings_of("item"))
    assert "23 and 20 test events, of which 3 are asked of one alone" in told


def check_last_is_refused(data: Dataset) -> None:
    """By the first look at the variants, which trains nothing."""
    variants = [Variant(name, settings_of(name)) for name in ("item", "lac")]
    variants_module.check_variants(variants[:1], data)
    try:
        variants_module.check_variants(variants, data)
        told = ""
    except ValueError as error:
        told = str(error)
    assert "uses actions, and the data has none" in told


def test_a_layout_that_the_data_cannot_train_is_refused_before_the_first_is_trained(tmp_path):
    check_last_is_refused(prepared(random_log(), tmp_path, actions=()))


def test_a_layout_that_is_refused_when_its_turn_comes_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(variants_module, "check_supported", lambda *_: None)
    assert_caught(check_last_is_refused, prepared(random_log(), tmp_path, actions=()))


def test_what_is_told_and_trained_may_differ(dataset, monkeypatch):
    """Blind and causal variants that are asked about the same events, and all that changes no question."""
    settings = [
        settings_of("item"),
        blind(settings_of("lac")),
        settings_of("lac", max_events=3, max_epochs=1, supervise="candidates", window="random"),
        settings_of("action_in", seed=7),
    ]
    variants_module._check_judged_alike([Variant(str(n), its) for n, its in enumerate(settings)], dataset)
