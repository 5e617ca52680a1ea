"""What a run multiplies in is chosen once, kept, shared by what is compared, and told."""

from dataclasses import replace
from itertools import cycle
from pathlib import Path

import msgspec
import numpy as np
import pytest
from small_runs import STEPS_PER_EPOCH, Killed, kill_before_step, settings_of, silent

from plait.compare.comparing import compare_variants
from plait.compare.variants import Variant
from plait.evaluation.run_files import (
    MODEL,
    RESULT,
    RunSettings,
    answers_of_run,
    load_result,
)
from plait.files import write_listed
from plait.models.saving import CONFIG, load_model
from plait.nn import arithmetic
from plait.nn.arithmetic import EXACT, WIDEST, Arithmetic, Measured, measure_multiplying
from plait.nn.ranker_settings import RankerSettings
from plait.training import loop
from plait.training.arithmetic import OF_BEFORE, arithmetic_of_run, shared_arithmetic
from plait.training.run import run_training

FASTEST = {
    name: {other: Measured(1.0 if other == name else 9.0, 3e-7) for other in ("fp32", "fp32_onednn", "bf16")}
    for name in ("fp32", "fp32_onednn", "bf16")
}


def left_open(layout: str = "lac", **protocol: object) -> RunSettings:
    settings = settings_of(layout, **protocol)
    return replace(settings, optim=replace(settings.optim, precision="auto"))


def measures(patch: pytest.MonkeyPatch, *fastest: str) -> list[int]:
    """The machine finds each of these the fastest in turn. Returns the widths that it was asked for."""
    turns, asked = cycle(fastest), []

    def measure(dim: int, device: str) -> dict[str, Measured]:
        asked.append(dim)
        return FASTEST[next(turns)]

    patch.setattr(arithmetic, "measure_multiplying", measure)
    return asked


def told(run: Path) -> set[str]:
    """What a finished run says that it multiplied in, wherever it says so."""
    result = load_result(run)
    [in_line] = [part for part in result.protocol.split(", ") if part.split(";")[0] in FASTEST]
    return {
        str(load_model(run / MODEL).config.arithmetic),
        str(result.provenance.arithmetic),
        in_line.split(";")[0],
    }


def test_what_was_chosen_and_why_stands_in_run_and_model(dataset, tmp_path, monkeypatch):
    """And fp32 by oneDNN gives what fp32 gives, where a probe of this machine calls it exact."""
    is_exact = measure_multiplying(WIDEST["cpu"], "cpu")["fp32_onednn"].error <= EXACT
    answers = {}
    for fastest in FASTEST:
        measures(monkeypatch, fastest)
        result = run_training(dataset, left_open(max_epochs=1), tmp_path / fastest, silent)
        assert told(tmp_path / fastest) == {fastest}
        assert f"products in {fastest} (a probe took " in str(result.provenance)
        assert f"1000.00 ms in {fastest} (error 3e-07)" in str(result.provenance)
        assert load_result(tmp_path / fastest).settings.optim.precision == "auto", "as it was asked"
        answers[fastest] = answers_of_run(tmp_path / fastest, result).predicted["rating"]
    apart = {name: np.abs(its - answers["fp32"]).max() for name, its in answers.items()}
    assert (apart["fp32_onednn"] < 1e-5) == is_exact
    assert apart["bf16"] > 1e-4


def test_a_resumed_run_keeps_its_arithmetic(dataset, tmp_path, monkeypatch):
    measures(monkeypatch, "bf16")
    whole = run_training(dataset, left_open(), tmp_path / "whole", silent)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", -1.0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before_step(patch, STEPS_PER_EPOCH + 2)
        run_training(dataset, left_open(), tmp_path / "killed", silent)
    asked = measures(monkeypatch, "fp32")
    resumed = run_training(dataset, left_open(), tmp_path / "killed", silent)
    assert not asked and told(tmp_path / "killed") == {"bf16"}
    assert resumed.provenance.arithmetic_because == whole.provenance.arithmetic_because != ""
    assert resumed.curve[-1]["loss"] == whole.curve[-1]["loss"]


def test_a_comparison_multiplies_alike(dataset, tmp_path, monkeypatch):
    variants = [Variant(name, left_open(name, max_epochs=1)) for name in ("item", "lac")]
    asked = measures(monkeypatch, "bf16", "fp32")
    compared = compare_variants(dataset, variants, 1, tmp_path, command="", report=silent)
    assert len(asked) == 1, "one probe for all"
    assert [told(run) for run in sorted((tmp_path / "runs").iterdir())] == [{"bf16"}] * 2
    assert "bf16" in compared.comparison.protocol


def test_a_comparison_with_a_ranker_is_measured_by_pairs(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "measure_pairs", lambda dim, device: FASTEST["bf16"])
    ranked = left_open()
    ranked = replace(ranked, model=replace(ranked.model, ranker=RankerSettings(kind="din")))
    assert shared_arithmetic(tmp_path / "layouts", [left_open()], "cpu").precision == "fp32"
    assert shared_arithmetic(tmp_path / "both", [left_open(), ranked], "cpu").precision == "bf16"
    assert arithmetic_of_run(ranked, tmp_path / "run", "cpu").precision == "bf16"


def test_the_arithmetic_of_a_comparison_is_kept(dataset, tmp_path, monkeypatch):
    asked = measures(monkeypatch, "bf16", "fp32")
    wide = left_open("item")
    wide = replace(wide, model=replace(wide.model, trunk=replace(wide.model.trunk, dim=64)))
    first = shared_arithmetic(tmp_path, [left_open(), wide, settings_of()], "cpu")
    assert first.precision == "bf16" and asked == [64], "measured for the widest that leaves it open"
    assert shared_arithmetic(tmp_path, [left_open()], "cpu") == first and len(asked) == 1
    others = shared_arithmetic(tmp_path / "other", [settings_of()], "cpu")
    assert others.precision == "fp32" and not (tmp_path / "other").exists(), "nothing was left open"


def written(path: Path, value: object) -> None:
    write_listed(path, lambda aside: aside.write_bytes(msgspec.json.encode(value)))


def test_runs_and_models_of_before_open_and_decide_for_those_beside_them(dataset, tmp_path, monkeypatch):
    """An earlier version said in the protocol line alone what it multiplied in."""
    measures(monkeypatch, "bf16")
    run = tmp_path / "runs" / "lac-seed0"
    run_training(dataset, left_open(max_epochs=1), run, silent)
    result, config = (
        msgspec.json.decode((run / name).read_bytes()) for name in (RESULT, f"{MODEL}/{CONFIG}")
    )
    for name in ("arithmetic", "arithmetic_because"):
        del result["provenance"][name]
    written(run / RESULT, result)
    assert config["model"].pop("arithmetic") == "bf16"
    written(run / MODEL / CONFIG, config)

    measures(monkeypatch, "fp32")
    assert load_result(run).provenance.arithmetic is None
    assert load_model(run / MODEL).config.arithmetic is None
    assert run_training(dataset, left_open(max_epochs=1), run, silent) == load_result(run), "it is only read"
    assert shared_arithmetic(tmp_path, [left_open()], "cpu") == Arithmetic("bf16", OF_BEFORE)


def test_what_is_asked_for_is_taken(tmp_path, monkeypatch):
    asked = measures(monkeypatch, "bf16")
    assert arithmetic_of_run(settings_of(), tmp_path, "cpu") == Arithmetic("fp32", "asked for") and not asked
