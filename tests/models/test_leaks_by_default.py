"""Nothing trains a layout that reads its own answers unless it is told to."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from tiny import ACTIONS, NUM_ITEMS, assert_caught

import plait
from plait.data import Dataset
from plait.evaluation.run_files import RunSettings
from plait.layouts import Layout
from plait.models.generative import GenerativeRecommender, ModelConfig, ModelSettings
from plait.training.run import config_of

LEAKING = ("(i[t], a[t]) -> a[t]", "i[t] -> i[t]", "(i[t], a[t]) -> (i[t+1], a[t])")


def config(layout: str, settings: ModelSettings) -> ModelConfig:
    return ModelConfig(layout=layout, settings=settings, num_items=NUM_ITEMS, actions=ACTIONS, max_events=11)


def check_refused(layout: str, settings: ModelSettings, dataset: Dataset) -> None:
    ways: tuple[Callable[[], object], ...] = (
        lambda: config(layout, settings),
        lambda: config_of(dataset, RunSettings(layout=layout, model=settings)),
        lambda: plait.fit(dataset, layout, model=settings, report=lambda line: None),
    )
    for way in ways:
        try:
            way()
        except ValueError as error:
            assert "allow_leaks" in str(error), "how to study it"
        else:
            raise AssertionError(f"{layout} is taken")


@pytest.mark.parametrize("layout", LEAKING)
def test_a_layout_that_reads_its_answers_is_refused_by_default(layout: str, dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="allow_leaks"):
        Layout.parse(layout)
    check_refused(layout, ModelSettings(), dataset)
    told = replace(ModelSettings(), allow_leaks=True)
    assert GenerativeRecommender(config(layout, told)).layout == Layout.parse(layout, allow_leaks=True)
    assert_caught(check_refused, layout, told, dataset)
    settings = RunSettings(layout=layout, model=told)
    assert settings.parsed_layout == Layout.parse(layout, allow_leaks=True)
    assert config_of(dataset, settings).layout == layout
