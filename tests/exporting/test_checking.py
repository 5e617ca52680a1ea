"""`plait check` asks exported programs, too, and finds one that says something else."""

from dataclasses import replace

import pytest
from test_graphs import candidates_at_another_position, model_for, run_by_torch
from tiny import assert_caught, batch_of

from plait.engine.agreement import Check, check
from plait.exporting import checking, writing
from plait.exporting.checking import exported_way
from plait.exporting.comparing import drawn_histories
from plait.models.generative import GenerativeRecommender
from plait.models.questions import Exposure


@pytest.fixture
def programs_as_they_stand(monkeypatch):
    """Other tests export them."""
    made = []

    def write(network, about, folder):
        made.append(network)
        return about

    monkeypatch.setattr(checking, "write_programs", write)
    monkeypatch.setattr(checking.Exported, "open", lambda folder: run_by_torch(made[-1]))


def checked(model: GenerativeRecommender) -> Check:
    found = check(model, drawn_histories(model, 6, seed=1), 0, [exported_way("torch")])
    assert found.agrees, [each for each in found.compared if not each.agrees]
    return found


@pytest.mark.usefixtures("shapes_are_not_checked", "programs_as_they_stand")
@pytest.mark.parametrize("layout", ["lac_patched", "pc", "genrank"])
def test_an_exported_model_says_the_same(layout, monkeypatch):
    found = checked(model_for(layout, positions="genrank", step=2))
    exported = [each for each in found.compared if each.way == "exported to torch"]
    assert len(exported) == (2 if layout == "genrank" else 3)
    assert min(each.num_logits for each in exported) >= 6
    monkeypatch.setattr(checking, "SCORES_PER_STEP", 1)
    assert len(checked(model_for(layout, positions="genrank", step=2)).compared) == len(found.compared)


@pytest.mark.usefixtures("shapes_are_not_checked", "programs_as_they_stand")
def test_an_exported_model_that_says_another_thing_is_caught(monkeypatch):
    model = model_for("lac")
    checked(model)
    candidates_at_another_position(monkeypatch)
    assert_caught(checked, model)


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_what_is_not_exported_is_said(monkeypatch):
    model = model_for("lac")
    model.plan = replace(model.plan, exposure=Exposure(same_request="blind"))
    batch = batch_of([5, 7, 4])
    found = check(model, batch, 0, [exported_way("torch")])
    assert "exported to torch: same_request = 'blind' hides events" in found.left_out[-1]
    monkeypatch.setitem(writing.PACKAGES, "onnx", ("no-such-package",))
    found = check(model_for("lac"), batch, 0, [exported_way("onnx")])
    assert "exported to onnx: format = 'onnx' needs no-such-package" in found.left_out[-1]
    ways = {each.way for each in found.compared}
    assert len(ways) > 4 and not any(way.startswith("exported") for way in ways)
