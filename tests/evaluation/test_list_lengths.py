"""The lengths of lists are a setting of the protocol, which every table, baseline and choice of an epoch follows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_runs import PROTOCOL, settings_of, silent
from tiny import assert_caught

from plait.data import Dataset
from plait.evaluation import run_files
from plait.evaluation.answers import measure
from plait.evaluation.counting import baselines_of
from plait.evaluation.run_files import ANSWERS, load_answers, load_result, measured_answers
from plait.evaluation.settings import Protocol
from plait.metrics.table import LISTS, measured_on_ranks, shown_of_retrieval
from plait.training.run import run_training

OWN = (3, 10, 12)


def lengths(names) -> set[int]:
    return {int(name.partition("@")[2]) for name in names if "@" in name}


def test_any_length_is_measured_as_a_loop_measures_it():
    rng = np.random.default_rng(4)
    user_Q, rank_Q = np.arange(40) // 2, (400 * rng.random(40) ** 3).astype(int) + 1
    found = measured_on_ranks(user_Q, np.arange(40), rng.integers(1, 500, 40), rank_Q, (7, 10, 300))
    assert lengths(found) == {7, 10, 300}
    for k in (7, 10, 300):
        hits = [[float(rank <= k) for rank in rank_Q[user_Q == user]] for user in range(20)]
        assert found[f"hr@{k}"].value == pytest.approx(np.mean([np.mean(of_user) for of_user in hits]))
    assert 0 < found["hr@10"].value < found["hr@300"].value < 1


def test_a_comparison_shows_the_lengths_from_ten_on():
    assert lengths(shown_of_retrieval()) == {10, 50}
    assert lengths(shown_of_retrieval((1, 5, 10, 20, 300))) == {10, 20, 300}
    assert shown_of_retrieval((10,))[-1] == "mrr"


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ((1, 5), "expected 10 among the lengths, since ndcg@10 stands for retrieval"),
        ((), "expected 10 among the lengths"),
        ((10, 5), "expected different lengths of lists, in ascending order"),
        ((10, 10), "expected different lengths"),
        ((0, 10), "expected"),
    ],
)
def test_lengths_that_cannot_be_are_refused(lists, message):
    with pytest.raises(ValueError, match=rf"protocol.lists = .*{message}"):
        Protocol(lists=lists)


def test_an_epoch_is_chosen_by_a_length_that_is_measured():
    assert str(Protocol(lists=(10, 300), select="hr@300").selection) == "hr@300"
    with pytest.raises(ValueError, match=r"protocol.select = 'hr@300': no metric is called 'hr@300'"):
        Protocol(select="hr@300")
    with pytest.raises(ValueError, match=r"no metric is called 'hr@50'.* There are hr@10, hr@300, ndcg@10"):
        Protocol(lists=(10, 300), select="hr@50")


def check_run(dataset: Dataset, out: Path) -> None:
    """Validation, test, checkpoints beside and baselines have the protocol's lengths, and no others."""
    settings = settings_of("lac", max_epochs=2, lists=OWN)
    run_training(dataset, settings, out, silent)
    result = load_result(out)
    assert result.settings.protocol.lists == OWN
    assert lengths(measure(measured_answers(out, result))) == {*OWN}
    assert lengths(result.curve[0]) == {*OWN}
    protocol, same_request = settings.protocol, settings.model.exposure.same_request
    for _ in range(2):  # counted, then read
        _, counted = baselines_of(dataset, protocol, same_request, out / "baselines")
        measured = [measure(its) for its in counted.values() if its.rank_Q is not None]
        assert len(measured) > 3 and all(lengths(its) == {*OWN} for its in measured)


def test_a_run_and_its_baselines_are_measured_in_the_protocols_lists(dataset, tmp_path):
    check_run(dataset, tmp_path)
    kept = baselines_of(dataset, PROTOCOL, "causal", tmp_path / "baselines")[1]
    of_items = [its for its in kept.values() if its.rank_Q is not None]
    assert all(lengths(measure(its)) == {*LISTS} for its in of_items), "what was counted serves other lengths"


def test_answers_that_are_read_in_other_lengths_are_caught(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        run_files,
        "answers_of_run",
        lambda folder, result, checkpoint="deployed", name=ANSWERS: load_answers(
            folder, result.actions, checkpoint, name=name
        ),
    )
    assert_caught(check_run, dataset, tmp_path)


def test_a_run_of_other_lengths_is_another_run(dataset, tmp_path):
    run_training(dataset, settings_of("lac", max_epochs=1), tmp_path, silent)
    with pytest.raises(ValueError, match=r"protocol\.lists"):
        run_training(dataset, settings_of("lac", max_epochs=1, lists=OWN), tmp_path, silent)
    assert replace(PROTOCOL, lists=LISTS) == PROTOCOL
