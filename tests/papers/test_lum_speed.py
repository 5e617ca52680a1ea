"""What packing and group queries save: both sides do the same work, and what is counted is what they compute."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset
from plait.engine.state import encode
from plait.lum.interests import Asked
from plait.papers import lum
from plait.papers.lum_speed import (
    SAVING,
    Technique,
    group_query,
    packing,
    power_law_lengths,
    some_conditions,
    untrained,
    verdicts_of,
)
from plait.papers.study import Place

TINY = lum.STEPS_1_AND_2.quick()
WINDOW = TINY.lum.protocol.max_events


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return TINY.log.open(tmp_path_factory.mktemp("logs"), None)


@pytest.fixture(scope="module")
def techniques(data: Dataset) -> list[Technique]:
    return list(TINY.techniques(data))


def test_a_quick_part_has_all_figures_beside_the_papers(tmp_path: Path) -> None:
    found = TINY.run("tiny", Place(out=tmp_path, quick=True, report=lambda line: None))
    rows = dict.fromkeys(figure.variant for figure in found.figures)
    assert list(rows) == ["step 1, packing", "step 2, group query of 5", "step 2, group query of 10"]
    assert len(found.figures) == 3 * len(found.metrics) and all(
        its.value is not None for its in found.figures
    )
    assert [its.paper for its in found.figures if its.metric == SAVING] == [82, 78, 78]
    assert {its.outcome for its in found.verdicts} == {"too close to tell"}, "one round settles nothing"


def check_same_answers(its: Technique) -> None:
    fast_UND, plain_UND = its.fast.run(), its.plain.run()
    assert_not_vacuous({"answers": fast_UND.size}, above=100)
    np.testing.assert_allclose(fast_UND, plain_UND, atol=1e-4)


def test_a_group_is_answered_as_one_by_one(data: Dataset, techniques: list[Technique]) -> None:
    for its in techniques[1:]:
        check_same_answers(its)
    others = group_of(data, list(reversed(some_conditions(data, 5))))
    assert_caught(check_same_answers, replace(techniques[1], plain=others.plain))


def group_of(data: Dataset, conditions: list[dict[str, str]]) -> Technique:
    model, histories = untrained(data, TINY.lum).eval(), TINY.histories(data)
    state = encode(histories, model.plan.window, model.plan.lead)
    return group_query(model, state, Asked.of(model, conditions).of_users(histories.num_users))


def check_padded_to_the_window(its: Technique, data: Dataset) -> None:
    """Two tokens an event, a row a user; packed rows hold every token, and less padding."""
    tokens = 2 * int(TINY.histories(data).num_events_U.sum())
    assert its.plain.tokens == 2 * WINDOW * data.num_users
    assert tokens <= its.fast.tokens < its.plain.tokens and its.fast.flops < its.plain.flops


def test_without_packing_every_user_is_padded_to_the_window(
    data: Dataset, techniques: list[Technique]
) -> None:
    check_padded_to_the_window(techniques[0], data)
    histories = TINY.histories(data)
    longest = 2 * int(histories.num_events_U.max())
    to_the_longest = packing(untrained(data, TINY.lum), [histories], longest)
    assert_not_vacuous({"padding beyond the longest": 2 * WINDOW - longest})
    assert_caught(check_padded_to_the_window, to_the_longest, data)


def test_a_history_counts_once_in_a_group_and_once_for_each_query_alone(
    data: Dataset, techniques: list[Technique]
) -> None:
    length_U = 2 * TINY.histories(data).num_events_U
    for its, num in zip(techniques[1:], (5, 10), strict=True):
        assert its.fast.tokens == (length_U + num).sum()
        assert its.plain.tokens == num * (length_U + 1).sum()
        assert its.fast.flops < its.plain.flops


def test_rounds_that_agree_settle_a_saving(techniques: list[Technique]) -> None:
    names = [its.name for its in techniques]
    rounds = dict(zip(names, ([80.0, 81.0, 82.0], [-9.0, -8.0, -9.5], [-30.0, 40.0, 9.0]), strict=True))
    verdicts = verdicts_of(techniques, rounds)
    assert [its.outcome for its in verdicts] == ["reproduced", "not reproduced", "too close to tell"]
    assert [its.claim for its in verdicts] == [f"{name} saves time" for name in names]


def test_lengths_have_the_mean_that_is_asked_for() -> None:
    length_U = power_law_lengths(20_000, mean=51.0, longest=256)
    assert length_U.min() == 2 and length_U.max() == 256
    assert abs(length_U.mean() - 51.0) < 2 and np.median(length_U) < 26, "most are far shorter"


def test_more_conditions_than_the_log_has_are_refused(data: Dataset) -> None:
    assert len({tuple(its.values()) for its in some_conditions(data, 10)}) == 10
    with pytest.raises(
        ValueError, match="conditions to ask under, of scenario, query, and 900 are to be asked"
    ):
        some_conditions(data, 900)
