"""A training goes on from a model's weights: what that model knows it answers alike, whatever the new log is like."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from described import (
    CONTEXT,
    ITEM_FEATURES,
    USER_FEATURES,
    described,
    described_log,
    items_table,
    reading_model,
    users_table,
)
from small_runs import settings_of, silent
from tiny import ACTIONS, assert_not_vacuous, prepared, random_log, started

import plait
from plait.cli import main
from plait.data import Dataset, prepare
from plait.evaluation.answers import answers_of
from plait.evaluation.run_files import MODEL, RunSettings, load_result
from plait.evaluation.settings import Optim, Protocol
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.models.saving import load_model
from plait.nn.item_bias import ItemBias
from plait.schema import UNKNOWN_ITEM, Action, Amount, Category, Feature, Number
from plait.training import start as start_module
from plait.training.run import config_of, run_training
from plait.training.start import Start, codes_before, settings_from

PROTOCOL = Protocol(max_events=6)
NEW = "a-new"  # an item and a user that come before all others, so that every dense number is another


def asked_of(layout: str) -> RunSettings:
    settings = settings_of(layout)
    model = replace(settings.model, retrieval=replace(settings.model.retrieval, item_bias="learned"))
    return RunSettings(layout=settings.layout, model=model, protocol=PROTOCOL)


def trained(dataset: Dataset, settings: RunSettings) -> Start:
    """A model with large weights, as if it had been trained."""
    model = reading_model(dataset, settings.layout, settings.model, settings.protocol.max_events)
    counted(model, dataset)
    return Start(model, dataset.items, settings, Path("trained"), "0")


def counted(model: GenerativeRecommender, dataset: Dataset) -> None:
    if isinstance(model.item_bias, ItemBias):
        model.item_bias.count(torch.from_numpy(dataset.train_item_counts()))


def gone_on(start: Start, dataset: Dataset, settings: RunSettings) -> GenerativeRecommender:
    """Before the first step."""
    model = started(GenerativeRecommender(start.config_for(config_of(dataset, settings))), seed=11)
    assert model.items is not None
    model.items.describe(dataset.item_features, dataset.train_item_counts())
    counted(model, dataset)
    start.into(model, dataset)
    return model.eval()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return described(tmp_path_factory.mktemp("start") / "known")


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The same log and more: a user, an item, a genre and a device that come before those that were known."""
    log, item, user = described_log(), items_table(), users_table()
    more = log.filter(pl.col("user") == "u03").with_columns(user=pl.lit(NEW), device=pl.lit("a-watch"))
    more = more.with_columns(
        item=pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit(NEW)).otherwise("item")
    )
    of_new = item.head(1).with_columns(item=pl.lit(NEW), genre=pl.lit("a-genre|b"), year=None)
    return prepare(
        pl.concat([more.select(log.columns), log]),
        user="user",
        item="item",
        time="time",
        actions=ACTIONS,
        out=tmp_path_factory.mktemp("start") / "grown",
        min_item_events=1,
        items=pl.concat([of_new.select(item.columns).cast(item.schema), item]),
        item_features=ITEM_FEATURES,
        users=pl.concat([pl.DataFrame({"user": [NEW], "plan": ["a-plan"]}), user]),
        user_features=USER_FEATURES,
        context=CONTEXT,
        keep_unseen_items=True,
    )


@pytest.mark.parametrize("layout", ["item", "lac", "interleaved", "pc"])
def test_with_the_same_data_and_no_step_the_answers_are_the_same(known, layout):
    settings = asked_of(layout)
    start = trained(known, settings)
    found, expected = (
        answers_of(model, known, "test", PROTOCOL, "cpu")
        for model in (gone_on(start, known, settings), start.model)
    )
    assert (found.rank_Q == expected.rank_Q).all()
    assert found.predicted.keys() == expected.predicted.keys()
    for name, predicted in found.predicted.items():
        assert np.array_equal(predicted, expected.predicted[name])


def test_a_trunk_whose_normaliser_nobody_chose_goes_on_with_its_own(known):
    settings = asked_of("lac")
    settings = replace(
        settings, model=replace(settings.model, trunk=replace(settings.model.trunk, kind="hstu"))
    )
    start = trained(known, settings)
    norm_len = start.model.config.settings.trunk.hstu.norm_len
    assert norm_len and settings.model.trunk.hstu.norm_len is None
    assert gone_on(start, known, settings).config.settings.trunk.hstu.norm_len == norm_len


def check_known_items_keep_their_vectors(known: Dataset, grown: Dataset) -> None:
    settings = asked_of("lac")
    start = trained(known, settings)
    model = gone_on(start, grown, settings)
    place = known.item_index(grown.item_ids())
    assert (place[place != UNKNOWN_ITEM] != 1 + np.flatnonzero(place != UNKNOWN_ITEM)).all(), "other numbers"
    is_known = torch.from_numpy(place != UNKNOWN_ITEM)
    for found, expected in (
        (model.items.table(), start.model.items.table()),
        (model.item_bias.learned_V[:, None], start.model.item_bias.learned_V[:, None]),
    ):
        of_known = expected[torch.from_numpy(place)[is_known]]
        same = (found[1:][is_known] - of_known).abs().amax(1) < 1e-6
        had_events = ~start.model.items.is_new_V[torch.from_numpy(place)[is_known]]
        assert same[had_events].all()
        assert_not_vacuous({"items": int(had_events.sum())}, above=9)


def test_items_and_values_are_found_by_their_spelling(known, grown):
    check_known_items_keep_their_vectors(known, grown)


@pytest.mark.parametrize("broken", ["_rows", "rows_before"])
def test_weights_taken_by_number_are_caught(known, grown, monkeypatch, broken):
    right = getattr(start_module, broken)

    def by_number(*arguments):
        found = right(*arguments)
        return found.roll(1, 0) if broken == "_rows" else np.minimum(np.arange(len(found)), found.max())

    monkeypatch.setattr(start_module, broken, by_number)
    with pytest.raises(AssertionError):
        check_known_items_keep_their_vectors(known, grown)


def test_a_new_item_starts_as_what_the_model_takes_for_a_new_one(known, grown):
    settings = asked_of("lac")
    start = trained(known, settings)
    model = gone_on(start, grown, settings)
    [new] = grown.item_index([NEW])
    assert not model.items.is_new_V[new], "it has training events"
    assert torch.equal(model.items.embedding.weight[new], start.model.items.new_item_D)
    mean_of_rare = start.model.item_bias.learned_V[start.model.item_bias.is_rare_V].mean()
    assert torch.isclose(model.item_bias.learned_V[new], mean_of_rare)


def test_a_new_item_without_features_starts_as_the_mean_of_all(dataset, tmp_path):
    log = random_log()
    more = log.filter(pl.col("user") == "u03").with_columns(user=pl.lit(NEW), item=pl.lit(NEW))
    wider, settings = prepared(pl.concat([more, log]), tmp_path / "wider"), asked_of("lac")
    model = started(GenerativeRecommender(config_of(dataset, settings)), seed=5)
    start = Start(model, dataset.items, settings, tmp_path, "0")
    found = started(GenerativeRecommender(start.config_for(config_of(wider, settings))), seed=6)
    start.into(found, wider)
    [new] = wider.item_index([NEW])
    table = model.items.table().detach()
    assert torch.allclose(found.items.table()[new], table[1:].mean(0), atol=1e-7)
    place = dataset.item_index(wider.item_ids())
    assert torch.equal(found.items.table()[1:][place > 0], table[place[place > 0]])
    assert not found.items.table()[UNKNOWN_ITEM].any()


def test_buckets_of_numbers_are_found_by_what_falls_into_them():
    before, after = (Feature("year", Number(4, edges)) for edges in ((1.0, 2.0, 3.0), (1.0, 2.5, 9.0)))
    assert codes_before(before, before).tolist() == list(range(6))
    assert codes_before(before, after).tolist() == [0, 1, 2, 3, 5, 5]
    assert codes_before(before, Feature("year", Number(4))).tolist() == [0, 1, 2]
    first, second = (Feature("kind", Category(values)) for values in (("a", "c"), ("b", "c")))
    assert codes_before(first, second).tolist() == [0, 1, 1, 3]


def test_amounts_stay_in_the_units_that_the_model_knows(dataset, tmp_path):
    amounts = [Action("rating", Amount()), ACTIONS[1]]
    low, high = (
        prepared(random_log().with_columns(pl.col("rating") * by), tmp_path / f"by{by}", amounts)
        for by in (1, 50)
    )
    settings = asked_of("lac")
    model = started(GenerativeRecommender(config_of(low, settings)))
    config = Start(model, low.items, settings, tmp_path, "0").config_for(config_of(high, settings))
    assert config.actions == low.actions != high.actions


@pytest.mark.parametrize(
    ("layout", "changed", "why"),
    [
        ("pc", {}, r"layout: found '.*', asked '.*'"),
        ("lac", {"max_events": 9}, r"protocol.max_events: found 6, asked 9"),
        ("lac", {"window_step": 2}, r"protocol.window_step: found 1, asked 2"),
    ],
)
def test_another_layout_or_window_is_refused(known, layout, changed, why):
    start, settings = trained(known, asked_of("lac")), asked_of(layout)
    settings = replace(settings, protocol=replace(PROTOCOL, **changed))
    with pytest.raises(
        ValueError, match=f"trained holds a model that this training cannot go on from:\n  {why}"
    ):
        start.config_for(config_of(known, settings))


def test_another_schema_is_refused_with_what_differs(known, dataset):
    start, settings = trained(known, asked_of("lac")), asked_of("lac")
    with pytest.raises(
        ValueError, match=r"item_features.genre: found .*'type': 'categories'.*, asked nothing"
    ):
        start.config_for(config_of(dataset, settings))
    wide = replace(settings, model=replace(settings.model, trunk=replace(settings.model.trunk, num_layers=3)))
    with pytest.raises(ValueError, match=r"model.trunk.num_layers: found \d, asked 3"):
        start.config_for(config_of(known, wide))
    others = prepared(random_log(), dataset.folder.with_name("other-actions"), [ACTIONS[1]])
    bare = Start(
        started(GenerativeRecommender(config_of(dataset, settings))),
        dataset.items,
        settings,
        Path("bare"),
        "0",
    )
    with pytest.raises(ValueError, match=r"actions.rating: found .*, asked nothing"):
        bare.config_for(config_of(others, settings))


def test_settings_that_are_not_given_are_those_of_the_run(known):
    start = trained(known, asked_of("lac"))
    given = settings_from(start, None, ModelSettings(), Optim(learning_rate=0.5), Protocol(max_epochs=3))
    assert given.layout == str(resolve("lac")) and given.model == start.settings.model
    assert (given.optim.learning_rate, given.protocol.max_epochs, given.protocol.max_events) == (0.5, 3, 6)
    plain = settings_from(None, None, ModelSettings(), Optim(), Protocol())
    assert plain == RunSettings(layout=str(resolve("lac")))


def test_a_command_and_a_call_go_on_from_a_run(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("plait.cli.train.evaluate", silent)  # what it says costs more than all else here
    settings = settings_of("lac", max_epochs=1)
    run_training(dataset, settings, tmp_path / "first", silent)
    log = random_log()
    more = log.filter(pl.col("user") == "u03").with_columns(user=pl.lit(NEW), item=pl.lit(NEW))
    wider = prepared(pl.concat([more, log]), tmp_path / "wider")
    words = ["train", wider.folder, "--from", tmp_path / "first", "--out", tmp_path / "second"]
    assert main([*map(str, words), "--protocol.max-epochs", "2"]) == 0
    second = load_result(tmp_path / "second")
    weights = Start.of(tmp_path / "first").sha256
    assert second.settings == replace(
        settings, protocol=replace(settings.protocol, max_epochs=2), goes_on_from=weights
    )
    assert second.protocol.endswith(f"; goes on from weights {weights[:12]}")
    asked = {"optim": settings.optim, "protocol": replace(settings.protocol, max_epochs=2)}
    found = plait.fit(
        wider, out=tmp_path / "third", start_from=tmp_path / "first" / MODEL, report=silent, **asked
    )
    first, again = (load_model(tmp_path / name / MODEL).state_dict() for name in ("second", "third"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert NEW in found.items
    capsys.readouterr()
    assert main([*map(str, words[:2]), "--out", str(tmp_path / "none")]) == 2
    assert "--layout is missing: give one, or --from RUN" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"goes_on_from: found '[0-9a-f]{64}', asked ''"):
        run_training(wider, replace(second.settings, goes_on_from=""), tmp_path / "second", silent)


def test_a_command_trains_on_all_rows(dataset, tmp_path, capsys):
    run_training(dataset, settings_of("lac", max_epochs=1), tmp_path / "run", silent)
    words = [str(word) for word in ("train", "--refit", tmp_path / "run", "--out", tmp_path / "refit")]
    assert main([*words, "--optim.learning-rate", "0.5"]) == 2
    assert "--refit trains the settings of its run" in capsys.readouterr().err
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "evaluation: of the model of" in said and f"next: plait recommend {tmp_path / 'refit'}" in said
