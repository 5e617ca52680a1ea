"""What is worked off in blocks does not depend on their size: the oracle's users, and rows of a log."""

import itertools
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous, prepared, random_log

from plait.data import Dataset, Temporal
from plait.data.preparation import coding
from plait.data.preparation.coding import coarsest_unit, counts, order_events, stable_argsort, ticks
from plait.data.simulator import Knows, Oracle, World, oracle, simulate

oracle_module = sys.modules["plait.data.simulator.oracle"]  # the package gives the function this name
WORLD = World(seed=4, num_users=23, num_events=9, num_items=11, num_categories=3, num_types=2, num_moods=2)
SIZES = (1, 2, 5, 22, 23, 24)  # of as many users


@pytest.fixture(scope="module", params=["each user's last event", "a cut in time"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    split = {"split": Temporal(validation=0.2, test=0.3)} if request.param == "a cut in time" else {}
    return simulate(WORLD, tmp_path_factory.mktemp("blocks") / "world", **split)


def numbers_of(found: Oracle) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of an oracle's answers."""
    for one in fields(found):
        value = getattr(found, one.name)
        if isinstance(value, np.ndarray):
            yield one.name, value
        elif isinstance(value, dict):
            yield from ((f"{one.name} {action}", array) for action, array in value.items())


def check_oracle(log: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    tellings = (Knows(), Knows("before_item", time=True), Knows(latents=True))
    for knows, same_request in itertools.product(tellings, ("causal", "blind")):
        monkeypatch.setattr(oracle_module, "USERS_AT_ONCE", 10**6)
        whole = dict(numbers_of(oracle(log, "test", knows, same_request)))
        assert_not_vacuous({name: len(np.unique(array)) for name, array in whole.items()}, above=1)
        for size in SIZES:
            monkeypatch.setattr(oracle_module, "USERS_AT_ONCE", size)
            for name, array in numbers_of(oracle(log, "test", knows, same_request)):
                np.testing.assert_allclose(
                    array, whole[name], rtol=1e-9, err_msg=f"{name}, {size} users at once"
                )


def test_the_oracles_answers_do_not_depend_on_the_users_at_once(
    log: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = np.bincount(log.targets("test").user_Q)
    assert len(targets) == 23 and (targets.max() > 1) == isinstance(log.manifest.split, Temporal)
    check_oracle(log, monkeypatch)


def check_rows(seed: int = 0) -> None:
    """Orders and counts against numpy's, units against plain arithmetic, of keys with many ties."""
    rng = np.random.default_rng(seed)
    for num_rows in (0, 1, 2, 6, 7, 8, 13, 14, 15, 97):
        user_N, tick_N, tiebreak_N = (rng.integers(0, 5, num_rows) for _ in range(3))
        assert stable_argsort(user_N).tolist() == np.argsort(user_N, kind="stable").tolist()
        assert counts(user_N.astype(np.int32), 4).tolist() == np.bincount(user_N, minlength=4).tolist()
        for time_N, tiebreak in itertools.product((tick_N, np.sort(tick_N)), (None, tiebreak_N)):
            keys = (user_N, time_N, *([] if tiebreak is None else [tiebreak]), np.arange(num_rows))
            assert order_events(user_N, time_N, tiebreak).tolist() == np.lexsort(keys[::-1]).tolist()
        for odd, step in itertools.product(range(num_rows), (250, 1)):
            times_N = 4_000 * tick_N
            times_N[odd] += step
            divides = [unit for unit in (1_000, 250) if all(time % unit == 0 for time in times_N.tolist())]
            assert coarsest_unit(times_N, (1_000, 250)) == [*divides, 1][0]


def use_blocks_of(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("BLOCK", "COUNTED", "LEAST_COUNTED"):
        monkeypatch.setattr(coding, constant, rows)


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 16])
def test_the_order_of_rows_does_not_depend_on_the_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use_blocks_of(block, monkeypatch)
    check_rows()


@pytest.mark.parametrize(("largest", "dtype"), [(2**31 - 1, np.int32), (2**31, np.int64)])
def test_ticks_take_32_bits_where_all_of_them_fit(largest: int, dtype: type) -> None:
    found_N = ticks(np.array([largest, 0, 7]) * 1_000, 1_000)
    assert found_N.dtype == dtype and found_N.tolist() == [largest, 0, 7]


def test_rows_that_are_taken_for_ordered_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "is_ascending", lambda key_N: True)
    assert_caught(check_rows)


@pytest.mark.parametrize("block", [1, 3, 64])
def test_a_prepared_log_does_not_depend_on_the_block(
    block: int, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_blocks_of(block, monkeypatch)
    again = prepared(random_log(), tmp_path / "again")
    assert again.manifest.content_hash == dataset.manifest.content_hash
