"""Where the data is cut in time: counts until the test beside those of the training rows, and what both do by the age
of the question."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_runs import settings_of, silent
from tiny import assert_caught, assert_not_vacuous, prepared, random_log

from plait.compare.comparing import compare_variants
from plait.compare.notes import notes
from plait.compare.page import html_page
from plait.compare.results import Comparison
from plait.compare.side_tables import counts_in_time_tables
from plait.compare.variants import Variant
from plait.data import Dataset, Temporal
from plait.evaluation import combining
from plait.evaluation.counts_in_time import ages
from plait.evaluation.run_files import (
    COUNTED_UNTIL_TEST,
    RunSettings,
    answers_counted_until_test,
    load_result,
    measured_answers,
)
from plait.training import run

USERS, STEP_S = 60, 3_600
CUT_VALIDATION_S, CUT_TEST_S = 1_000_000 + 12 * STEP_S, 1_000_000 + 16 * STEP_S


def settings() -> RunSettings:
    its = settings_of("item", max_epochs=1, filter_seen=False)
    return dataclasses.replace(its, model=dataclasses.replace(its.model, counts="auto"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users walk along a line of items, a step at a time, from one of 30 places: what follows the last items of the
    validation, training has not seen."""
    nth = np.tile(np.arange(20), USERS)
    user = np.repeat(np.arange(USERS), 20)
    place = user % 30 + nth
    log = pl.DataFrame(
        {
            "user": [f"u{u:02d}" for u in user],
            "item": [f"i{p:02d}" for p in place],
            "time": 1_000_000 + STEP_S * nth + user,
            "rating": 1.0 + place % 5,
            "liked": (place % 2).astype(float),
        }
    )
    folder = tmp_path_factory.mktemp("line") / "data"
    return prepared(log, folder, split=Temporal(CUT_VALIDATION_S, CUT_TEST_S))


@pytest.fixture(scope="module")
def compared(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, Path]:
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combining, "FEWEST", 8)
        variants = [Variant("item", settings())]
        found = compare_variants(dataset, variants, 2, folder, command="test", report=silent)
    return found.comparison, folder


def check_rows_until_test(dataset: Dataset) -> None:
    """Training rows are those before the test, and no later ones."""
    before = dataset.until_test()
    expected = dataset.train_user_counts() + np.bincount(
        dataset.targets("validation").user_Q, minlength=dataset.num_users
    )
    np.testing.assert_array_equal(before.train_user_counts(), expected)
    assert before.train_item_counts().sum() == expected.sum() < dataset.manifest.counts.events
    again = pickle.loads(pickle.dumps(before))
    np.testing.assert_array_equal(again.train_user_counts(), expected)


def test_rows_until_the_test_are_those_of_training_and_validation(dataset):
    check_rows_until_test(dataset)


def test_counts_that_know_the_test_are_caught(dataset, monkeypatch):
    monkeypatch.setattr(Dataset, "until_test", Dataset.whole)
    assert_caught(check_rows_until_test, dataset)


def test_counts_until_the_test_know_what_began_after_training(compared, dataset):
    comparison, _ = compared
    its = comparison.counts_in_time["item"]
    until_test = {effect.metric: effect for effect in its.until_test}["ndcg@10"]
    of_training = {effect.metric: effect for effect in comparison.counts["item"]}["ndcg@10"]
    assert until_test.without == of_training.without
    assert until_test.difference.value > of_training.difference.value + 0.02
    assert of_training.difference.low > 0


def test_what_counts_add_by_age_is_what_they_add_to_those_questions(compared, dataset):
    comparison, _ = compared
    by_age = comparison.counts_in_time["item"].by_age
    num_answers = [age.num_answers for age in by_age]
    assert len(by_age) == 3 and sum(num_answers) == len(dataset.targets("test"))
    days = [(age.least_days, age.most_days) for age in by_age]
    assert days == sorted(days) and days[0][0] * 86_400 >= CUT_TEST_S - CUT_VALIDATION_S
    assert_not_vacuous({"answers of an age": min(num_answers)}, above=20)


def test_a_run_keeps_the_answers_it_was_measured_by(compared, dataset):
    folder = next((compared[1] / "runs").iterdir())
    result = load_result(folder)
    until_test, of_training = answers_counted_until_test(folder, result), measured_answers(folder, result)
    assert until_test is not None and (until_test.rank_Q != of_training.rank_Q).any()
    np.testing.assert_array_equal(until_test.item_Q, of_training.item_Q)


def test_the_page_and_the_notes_tell_of_it(compared):
    comparison, _ = compared
    (table,) = counts_in_time_tables(comparison)[:1]
    assert table.headings[0] == "counted until the test" and len(table.headings) == 4
    assert all(cell.around for _, cells in table.rows for cell in cells)
    assert "Counts as they age" in html_page(comparison)
    assert any("item, counted until the test: " in line for line in notes(comparison))


def test_data_that_is_not_cut_in_time_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(combining, "FEWEST", 8)
    data = prepared(random_log(), tmp_path / "data")
    run.run_training(data, settings(), tmp_path / "run", silent)
    assert data.training_ends_s is None and not (tmp_path / "run" / COUNTED_UNTIL_TEST).exists()


def test_equal_ages_are_one_age():
    assert [is_in_Q.sum() for is_in_Q in ages(np.array([7, 7, 7]))] == [3]
