"""Folders of exported programs: written whole, equal to the engine, told in a README that runs, refused where they are
of another version."""

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
import torch
from drawn_counts import counting, item_counts
from test_graphs import model_for
from tiny import NUM_ITEMS, assert_caught, model_of, trunk_of

import plait
from plait import files
from plait.counts.beside import Counts
from plait.data.history import Columns
from plait.data.vocabulary import Vocabulary
from plait.engine.state_file import hash_of
from plait.exporting import programs, supported, writing
from plait.exporting.comparing import Difference, differences_on_drawn
from plait.exporting.exported import ABOUT, FORMAT_VERSION, About, Exported
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.late import LateSettings
from plait.models.questions import Exposure
from plait.recommender import Recommender
from plait.schema import Category, Feature

OTHER_SIZES = ((4, 9), (1, 3))


def recommender_of(model: GenerativeRecommender) -> Recommender:
    columns = Columns(user="user", item="item", time="time", time_unit="s")
    ids = pl.Series("item_id", [f"i{n:02d}" for n in range(NUM_ITEMS)])
    return Recommender(model, Vocabulary.of_items(ids), columns)


@pytest.fixture(scope="module")
def of_torch(tmp_path_factory) -> tuple[GenerativeRecommender, Path]:
    model, folder = (
        model_for("lac_patched", positions="rope", step=2, num_layers=1),
        tmp_path_factory.mktemp("torch") / "out",
    )
    plait.export(recommender_of(model), folder, "torch")
    return model, folder


@pytest.fixture(scope="module")
def of_onnx(tmp_path_factory) -> tuple[GenerativeRecommender, Path]:
    """Requests, times, a window that steps, values of actions and counts in one model."""
    pytest.importorskip("onnxruntime", reason="the extra [export] is part of [test]")
    model, folder = (
        counting(model_for("lac_patched", positions="genrank", step=2, num_layers=1)),
        tmp_path_factory.mktemp("onnx") / "out",
    )
    plait.export(recommender_of(model), folder, "onnx")
    return model, folder


def check_other_sizes(model: GenerativeRecommender, folder: Path) -> None:
    found = differences_on_drawn(model, plait.Exported.open(folder), OTHER_SIZES)
    assert len(found) == 6 and all(each.difference <= each.allowed for each in found), found


@pytest.mark.parametrize("made", ["of_torch", "of_onnx"])
def test_programs_say_what_the_engine_says_at_sizes_that_were_not_traced(made, request):
    model, folder = request.getfixturevalue(made)
    check_other_sizes(model, folder)
    with torch.no_grad():
        model.trunk.blocks[0].mlp_out.bias[0] += 0.1
    try:
        assert_caught(check_other_sizes, model, folder)
    finally:
        with torch.no_grad():
            model.trunk.blocks[0].mlp_out.bias[0] -= 0.1


@pytest.mark.parametrize("made", ["of_torch", "of_onnx"])
def test_the_readme_runs_and_names_all_that_goes_in_and_out(made, request, tmp_path):
    model, folder = request.getfixturevalue(made)
    readme = (folder / "README.md").read_text()
    about = msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
    ports = [port for ports in about.programs.values() for port in (*ports.inputs, *ports.outputs)]
    assert len(ports) > 15 and all(f"| `{port.name}` | {port.dtype} |" in readme for port in ports)
    assert about.model == hash_of(model) and about.model[:16] in readme
    lines = readme.partition("```python\n")[2].partition("```")[0]
    assert sum(bool(line) for line in lines.splitlines()) <= 16
    shown = (
        'print(np.asarray(actions["rating"]).shape, best.shape, float(np.asarray(actions["rating"])[0, 0]))'
    )
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"{lines}\n{shown}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith("(1, 2) (1, 10) "), found.stderr
    history = {
        "item": np.array([[1, 1]]),
        "actions": np.full((1, 2, 2), np.nan, np.float32),
        "time_s": np.array([[1_700_000_000, 1_700_000_060]]),
        "request": np.array([[0, 1]]),
        "length": np.array([2]),
        "before": np.array([0]),
    }
    exported = Exported.open(folder)
    at_s = np.array([1_700_000_120])
    rating = exported.score(exported.encode(history), np.array([[1, 1]]), at_s)["rating"]
    assert float(rating[0, 0]) == pytest.approx(float(found.stdout.split()[-1]), abs=1e-6)


def test_what_is_missing_or_not_there_is_said(of_torch):
    exported = Exported.open(of_torch[1])
    with pytest.raises(ValueError, match="program 'encode' takes 'item', which is not given"):
        exported.encode({"length": np.array([1])})
    alone = Exported(exported.about, {"encode": exported.programs["encode"]})
    with pytest.raises(ValueError, match="has no program 'rank'; it has encode"):
        alone.rank({})


def with_about(folder: Path, to: Path, **changes: object) -> Path:
    shutil.copytree(folder, to)
    about = json.loads((to / ABOUT).read_text()) | changes
    (to / ABOUT).write_text(json.dumps(about))
    files.seal(to)
    return to


def test_an_export_of_another_version_or_damaged_is_refused(of_torch, of_onnx, tmp_path):
    with pytest.raises(ValueError, match="holds no exported model"):
        Exported.open(tmp_path)
    later = with_about(of_torch[1], tmp_path / "later", format_version=FORMAT_VERSION + 1)
    with pytest.raises(
        ValueError, match="is of format version 2, this Plait reads 1; export the model again"
    ):
        Exported.open(later)
    other = with_about(of_onnx[1], tmp_path / "other", model="0" * 64)
    with pytest.raises(
        ValueError, match=r"onnx is of another export: its plait.model is '\w{64}', not '0{64}'"
    ):
        Exported.open(other)
    bent = shutil.copytree(of_torch[1], tmp_path / "bent")
    (bent / "score.pt2").write_bytes(b"no program")
    with pytest.raises(ValueError, match=r"score.pt2 is damaged"):
        Exported.open(bent)
    strange = with_about(of_torch[1], tmp_path / "strange", events_read="many")
    with pytest.raises(ValueError, match=r"export.json is damaged"):
        Exported.open(strange)


def writes_nothing(monkeypatch: pytest.MonkeyPatch, found: list[Difference]) -> None:
    """Programs are empty files, and the comparison finds this."""
    monkeypatch.setattr(writing, "_write_program", lambda draft, path, about: path.write_bytes(b""))
    monkeypatch.setattr(writing.Exported, "open", lambda folder: None)
    monkeypatch.setattr(writing, "differences_on_drawn", lambda *_: found)


def test_an_export_replaces_another_and_nothing_else(of_torch, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something that is no exported model"):
        plait.export(recommender_of(of_torch[0]), folder, "torch")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    shutil.rmtree(folder)
    shutil.copytree(of_torch[1], folder)
    (folder / "encode.pt2").write_bytes(b"old")
    writes_nothing(monkeypatch, [Difference("rating", 1.0, 1e-5)])
    with pytest.raises(RuntimeError, match=r"was not written: .* logits of rating lie 1 from the engine's"):
        plait.export(recommender_of(of_torch[0]), folder, "torch")
    assert (folder / "encode.pt2").read_bytes() == b"old"
    writes_nothing(monkeypatch, [])
    plait.export(recommender_of(of_torch[0]), folder, "torch")
    assert (folder / "encode.pt2").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_exporters_say_nothing_of_their_insides_and_everything_else_is_heard(capsys):
    logger = logging.getLogger("torch.onnx")
    heard = logging.StreamHandler(sys.stdout)
    logger.addHandler(heard)
    try:
        with pytest.raises(RuntimeError), programs._quietly():
            logger.warning("of a pass")
            warnings.warn("of an operator", UserWarning, stacklevel=1)
            logger.error("a fault")
            raise RuntimeError
        logger.warning("after it")
    finally:
        logger.removeHandler(heard)
    assert capsys.readouterr().out == "a fault\nafter it\n"
    with pytest.warns(UserWarning, match="after it"):
        warnings.warn("after it", UserWarning, stacklevel=1)


def test_a_package_that_is_missing_is_named(of_torch, tmp_path, monkeypatch):
    monkeypatch.setitem(writing.PACKAGES, "torch", ("plait", "no-such-package"))
    with pytest.raises(ValueError, match=r"needs no-such-package, which is not installed: pip"):
        plait.export(recommender_of(of_torch[0]), tmp_path / "out", "torch")


def model_with(layout: str = "lac", positions: str = "learned", **kwargs: object) -> GenerativeRecommender:
    features = {
        name: kwargs.pop(name) for name in ("user_features", "context", "conditions") if name in kwargs
    }
    settings = ModelSettings(trunk=trunk_of(positions), **kwargs)
    return model_of(resolve(layout), settings=settings, **features)


GENDER = (Feature("gender", Category(("f", "m"))),)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: model_with(exposure=Exposure(same_request="blind")), "same_request = 'blind' hides"),
        (lambda: model_with("genrank", exposure=Exposure(history="full")), "history = 'full' sees"),
        (
            lambda: model_with(positions="dlrm_v3", exposure=Exposure(time_anchor="request")),
            "time_anchor = 'request' makes a history's keys anew",
        ),
        (lambda: model_with("next_action"), "neither scores a given item nor retrieves"),
        (lambda: model_with("a[t-1] -> a[t]"), "reads no items"),
        (lambda: model_with(late=LateSettings(windows=(3,))), "model.late counts"),
        (lambda: model_with(user_features=GENDER), "it reads user features"),
        (lambda: model_with(context=GENDER), "it reads context features"),
        (lambda: model_with("(i[t], c[t]) -> i[t+1]", conditions=GENDER), "it shows conditions"),
    ],
)
def test_what_cannot_be_exported_is_refused(model, words):
    with pytest.raises(ValueError, match=words):
        supported.check_exportable(model())


def test_counts_are_left_out_by_choice_alone(monkeypatch, tmp_path):
    model, out = counting(model_for("lac")), tmp_path / "out"
    writes_nothing(monkeypatch, [])
    plait.export(recommender_of(model), out, "torch")
    told = (out / "README.md").read_text()
    assert "**Counts are in the programs.**" in told and "of `rank` and `score`" in told
    assert "Left out" not in told and "met_weight" in told
    plait.export(recommender_of(model), out, "torch", without_counts=True)
    told = (out / "README.md").read_text()
    assert "**Left out: counts.**" in told and "met_weight" not in told and "in the programs.**" not in told
    assert model.counts is not None and model.counts.pay
    silent = replace(item_counts(), weight_T=np.array([1.0, 0.0, 0.0, 0.0]))
    model.counts = Counts(silent, None, "causal")
    plait.export(recommender_of(model), out, "torch", without_counts=True)
    told = (out / "README.md").read_text()
    assert "Left out" not in told and "Counts are" not in told
