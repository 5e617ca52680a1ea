"""What verbs choose where nobody did, and that every choice can be taken back."""

import msgspec
import pytest
from words import SHORT, complaint, plait

from plait.cli.verb_settings import (
    VerbModelSettings,
    VerbProtocol,
    VerbRetrievalLoss,
    model_of_verb,
    protocol_of_verb,
)
from plait.evaluation.run_files import SETTINGS, RunSettings
from plait.evaluation.settings import Protocol
from plait.models.generative import ModelSettings
from plait.nn.losses import RetrievalLoss


def test_verbs_begin_with_what_is_popular():
    chosen = model_of_verb(VerbModelSettings(), None)
    assert chosen == ModelSettings(counts="auto", retrieval=RetrievalLoss(item_bias="popularity"))
    taken_back = VerbModelSettings(
        counts="none", retrieval=VerbRetrievalLoss(item_bias="none", temperature=0.5)
    )
    assert model_of_verb(taken_back, None) == ModelSettings(retrieval=RetrievalLoss(temperature=0.5))


def test_windows_of_verbs_begin_anew_every_eighth_of_their_events():
    assert protocol_of_verb(VerbProtocol()) == Protocol(window_step=12)
    assert protocol_of_verb(VerbProtocol(max_events=7)) == Protocol(max_events=7, window_step=1)
    assert protocol_of_verb(VerbProtocol(window_step=1, patience=3)) == Protocol(patience=3)


@pytest.mark.parametrize(("given", "step"), [((11,), 1), ((16,), 2), ((16, "--protocol.window-step", 3), 3)])
def test_a_run_says_how_often_its_windows_begin_anew(dataset, tmp_path, given, step):
    words = (*SHORT[:-1], *given)
    assert plait("train", dataset.folder, "--layout", "item", "--out", tmp_path / "run", *words) == 0
    settings = msgspec.json.decode((tmp_path / "run" / SETTINGS).read_bytes(), type=RunSettings)
    assert settings.protocol.window_step == settings.protocol.step == step


@pytest.mark.parametrize(
    ("given", "bias"),
    [((), "popularity"), (("--model.retrieval.item-bias", "none"), "none"),
     (("--model.retrieval.temperature", "0.5"), "popularity")],
)  # fmt: skip
def test_a_run_says_what_was_chosen(dataset, tmp_path, given, bias):
    assert plait("train", dataset.folder, "--layout", "item", "--out", tmp_path / "run", *SHORT, *given) == 0
    settings = msgspec.json.decode((tmp_path / "run" / SETTINGS).read_bytes(), type=RunSettings)
    assert settings.model.retrieval.item_bias == bias


def test_a_loss_that_has_popularity_already_says_how_to_leave_the_bias_out(dataset, tmp_path, capsys):
    loss = ("--model.retrieval.kind", "sampled", "--model.retrieval.log-q", "none")
    words = ("train", dataset.folder, "--layout", "item", "--out", tmp_path / "run", *SHORT, *loss)
    said = complaint(capsys, 2, *words)
    assert "--model.retrieval.item-bias none" in " ".join(said.split()).replace("│ │ ", "")
    assert plait(*words, "--model.retrieval.item-bias", "none") == 0
