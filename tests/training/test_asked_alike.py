"""A model is judged by the questions that it was trained for: its own plan and the protocol's are one."""

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from small_runs import MODEL, OPTIM, PROTOCOL, settings_of, silent
from tiny import assert_caught, assert_not_vacuous

import plait
from plait.data import Dataset
from plait.evaluation.settings import Protocol
from plait.layouts import CATALOGUE
from plait.models.combining import check_supported
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.questions import Exposure, QuestionPlan, Supervise
from plait.training.loop import train_model
from plait.training.run import config_of

PACKAGE = Path(plait.__file__).parent
ASKS = {"training/loop.py", "training/run.py"}  # both ask what `train_model` held against the protocol


@pytest.mark.parametrize(
    ("own", "asked", "complaint"),
    [
        (
            {},
            {"max_events": 7},
            "protocol.max_events = 7: the model is asked from at most 6 events; give the",
        ),
        (
            {"window_step": 3},
            {},
            "protocol.window_step = 1: the model is asked from windows that begin anew every 3 events; give the",
        ),
        (
            {"supervise": "candidates"},
            {"supervise": "all"},
            "'all': questions see what lies before their event,",
        ),
        (
            {},
            {"supervise": "candidates"},
            "'candidates': questions see what lies before their request, and the",
        ),
    ],
)
def test_a_protocol_that_asks_otherwise_is_refused(
    dataset: Dataset, tmp_path: Path, own: dict, asked: dict, complaint: str
) -> None:
    config = config_of(dataset, settings_of("lac", **own))
    with pytest.raises(ValueError, match=complaint):
        train_model(dataset, config, OPTIM, replace(PROTOCOL, **asked), tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()


def asks_alike(protocol: Protocol, plan: QuestionPlan) -> bool:
    try:
        protocol.check_asks(plan)
    except ValueError:
        return False
    return True


def check_runs_ask_alike(dataset: Dataset) -> None:
    """Of every layout, under every protocol."""
    met: Counter[str] = Counter()
    for name, entry in CATALOGUE.items():
        for exposure in (Exposure(), Exposure(same_request="blind"), Exposure(history="full")):
            for supervise in get_args(Supervise):
                try:
                    check_supported(entry.layout, dataset.actions, MODEL.trunk, exposure)
                except ValueError:
                    continue
                settings = settings_of(name, supervise=supervise, max_events=9)
                settings = replace(settings, model=replace(MODEL, exposure=exposure))
                plan = GenerativeRecommender(config_of(dataset, settings)).plan
                assert asks_alike(settings.protocol, plan), (name, exposure, supervise)
                met[plan.context_ends_before] += 1
    assert_not_vacuous(met, above=9)


def test_a_run_asks_alike(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    check_runs_ask_alike(dataset)
    right = Protocol.plan

    def of_all(protocol: Protocol, layout: object, model: ModelSettings) -> QuestionPlan:
        return right(replace(protocol, supervise="all"), layout, model)

    monkeypatch.setattr(Protocol, "plan", of_all)
    assert_caught(check_runs_ask_alike, dataset)


def callers(sources: dict[str, str]) -> Iterator[str]:
    for name, source in sources.items():
        calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
        if any(ast.unparse(call.func).rpartition(".")[2] == "answers_of" for call in calls):
            yield name


def test_nobody_else_asks_a_model_under_a_protocol() -> None:
    sources = {str(path.relative_to(PACKAGE)): path.read_text() for path in PACKAGE.rglob("*.py")}
    assert set(callers(sources)) == ASKS
    assert list(callers({"other.py": "answers.answers_of(load_model(folder), data, 'test', protocol)"}))
