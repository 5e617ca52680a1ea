"""A ranker goes on from a deployed one: with its weights, and with what it reads more or no more."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import OPTIM, silent
from test_interests import read, written
from test_ranker_training import model_for
from tiny import assert_caught, assert_not_vacuous, started

from plait.data import Dataset
from plait.evaluation.answers import answers_of
from plait.evaluation.run_files import RunSettings, load_result
from plait.models.building import built
from plait.models.late import LateSettings
from plait.models.ranker import Ranker
from plait.rankers.fitting import fit_ranker
from plait.rankers.interests import Interests
from plait.rankers.settings import RankerProtocol, run_settings
from plait.training import start as start_module
from plait.training.run import config_of, run_training
from plait.training.start import Start

PROTOCOL = RankerProtocol(max_events=6, max_epochs=1)
LATE = LateSettings(windows=(2, 5))


@pytest.fixture(scope="module")
def interests(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Interests:
    return read(written(dataset, tmp_path_factory.mktemp("interests")), dataset)


def asked(kind: str, late: LateSettings = LateSettings(), interests: Interests | None = None) -> RunSettings:
    its = replace(model_for(kind), late=late)
    return run_settings(kind, its, OPTIM, PROTOCOL, interests=interests)  # type: ignore[arg-type]


def trained(dataset: Dataset, settings: RunSettings) -> Start:
    """A ranker with large weights, as if it had been trained."""
    model = started(built(config_of(dataset, settings))).eval()
    torch.manual_seed(5)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.normal_(model.heads.weight_KD, std=0.1)
    torch.nn.init.constant_(model.heads.bias_K, 0.5)
    return Start(model, dataset.items, settings, Path("deployed"), "0")


def gone_on(start: Start, dataset: Dataset, settings: RunSettings, told: Interests | None) -> Ranker:
    """Before the first step."""
    model = started(built(start.config_for(config_of(dataset, settings))), seed=11)
    assert isinstance(model, Ranker)
    start.into(model, dataset)
    model.interests = told
    return model.eval()


def check_begins_alike(kind: str, dataset: Dataset, told: Interests) -> None:
    """With late features and interests that the deployed one has none of, the answers are still its own."""
    start = trained(dataset, asked(kind))
    more = gone_on(start, dataset, asked(kind, LATE, told), told)
    width = {"new": more.layers[0].weight.shape[1], "old": start.model.layers[0].weight.shape[1]}
    late = more.heads.weight_KD.shape[1] - start.model.heads.weight_KD.shape[1]
    assert_not_vacuous({"interests": width["new"] - width["old"], "late": late})
    protocol = asked(kind).protocol
    found, expected = (answers_of(its, dataset, "test", protocol, "cpu") for its in (more, start.model))
    for name, predicted in expected.predicted.items():
        assert predicted.std() > 1e-3, "answers that are all alike prove nothing"
        assert found.predicted[name] == pytest.approx(predicted, abs=1e-5)


@pytest.mark.parametrize("kind", ["din", "dien", "sim", "twin"])
def test_a_ranker_that_reads_more_begins_with_the_answers_of_the_deployed_one(
    kind: str, dataset: Dataset, interests: Interests, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_begins_alike(kind, dataset, interests)
    right = start_module._as_wide
    monkeypatch.setattr(
        start_module, "_as_wide", lambda known, new: right(known, new) + (known.shape != new.shape)
    )
    assert_caught(check_begins_alike, kind, dataset, interests)


def test_a_ranker_that_reads_less_keeps_the_rest(dataset: Dataset, interests: Interests) -> None:
    start = trained(dataset, asked("din", LATE, interests))
    model = gone_on(start, dataset, asked("din"), None)
    before, after = start.model.state_dict(), model.state_dict()
    narrower = {name for name in after if after[name].shape != before[name].shape}
    assert narrower == {"layers.0.weight", "heads.weight_KD"}
    for name, weight in after.items():
        known = before[name][:, : weight.shape[1]] if name in narrower else before[name]
        assert torch.equal(weight, known), name


def test_the_weights_of_the_deployed_one_are_trained_on(
    dataset: Dataset, interests: Interests, tmp_path: Path
) -> None:
    run_training(dataset, asked("din"), tmp_path / "deployed", silent)
    told = fit_ranker(
        dataset,
        "din",
        interests=interests,
        start_from=tmp_path / "deployed",
        out=tmp_path / "later",
        device="cpu",
        report=silent,
    )
    result = load_result(tmp_path / "later")
    assert result.settings.goes_on_from == Start.of(tmp_path / "deployed").sha256
    assert result.settings.model.ranker.hidden == (16, 8), "the deployed one's, since nothing else was given"
    assert result.settings.interests == interests.sha256 and told.model.reads_interests  # type: ignore[attr-defined]


def test_what_is_read_otherwise_is_refused(dataset: Dataset, interests: Interests) -> None:
    start = trained(dataset, asked("din", LATE))
    others = {
        "windows": asked("din", LateSettings(windows=(3,))),
        "ranker.kind": asked("dien", LATE),
    }
    with pytest.raises(ValueError, match=r"model.late.*the same, or none in one of the two"):
        start.config_for(config_of(dataset, others["windows"]))
    with pytest.raises(ValueError, match=r"kind: found 'din', asked 'dien'"):
        start.config_for(config_of(dataset, others["ranker.kind"]))
    deep = asked("din")
    deep = replace(deep, model=replace(deep.model, tower=replace(deep.model.tower, kind="mlp")))
    with pytest.raises(ValueError, match=r"model.tower.kind.*expected a linear one"):
        start.config_for(config_of(dataset, deep))
    told = trained(dataset, asked("din", LATE, interests))
    its = asked("din", LATE, interests)
    narrow = replace(its.model.ranker, interests=replace(its.model.ranker.interests, item=False))
    with pytest.raises(ValueError, match=r"model.ranker.interests.*the same, or none"):
        told.config_for(config_of(dataset, replace(its, model=replace(its.model, ranker=narrow))))
    mixed = trained(dataset, asked("rankmixer"))
    with pytest.raises(ValueError, match=r"tokens of rankmixer are cut from all that it reads"):
        mixed.config_for(config_of(dataset, asked("rankmixer", interests=interests)))
