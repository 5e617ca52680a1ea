"""Derived logs: the same events as the log they are made of, and what they add is the truth."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from tiny import ACTIONS, assert_caught, assert_not_vacuous, prepared, random_log

from plait.compare.regret import metrics_of
from plait.data import Dataset, LeaveOneOut, Temporal, prepare
from plait.data.simulator import World, oracle
from plait.data.simulator.truth import truth_of
from plait.papers import derived_logs, lac
from plait.papers.derived_logs import Declared, DescribedLog, Thresholded, events_table
from plait.papers.genrank import FEED
from plait.papers.logs import StudyLog
from plait.schema import FIRST_VALUE, Amount, Category, Feature, Vector

QUICK = FEED.quick()
CODED, ONE_HOT = (
    DescribedLog(name=name, of=QUICK, feature=Feature("about", kind))
    for name, kind in (("coded", Category()), ("one-hot", Vector()))
)


@dataclass(frozen=True)
class Known:
    """A log that is open already."""

    dataset: Dataset
    name: str = "known"

    def open(self, kept: Path, given: Path | None) -> Dataset:
        return self.dataset

    def quick(self) -> "Known":
        return self


def test_a_dataset_is_read_back_as_the_log_it_was_made_of(tmp_path: Path) -> None:
    dataset = prepared(random_log().drop("scenario"), tmp_path / "data")  # no study reads conditions

    def check(read: Callable[[Dataset], pl.DataFrame]) -> None:
        log = read(dataset).rename({"user_id": "user", "item_id": "item", "timestamp": "time"})
        again = prepared(log, tmp_path / str(len(list(tmp_path.iterdir()))))
        assert again.manifest.content_hash == dataset.manifest.content_hash

    assert (
        dataset.manifest.counts.missing["rating"]
        and len(events_table(dataset)) == dataset.manifest.counts.events
    )
    check(events_table)
    assert_caught(check, lambda its: events_table(its).with_columns(pl.col("rating").shift(1)))


def thresholded(
    dataset: Dataset, least: int = 4, split: LeaveOneOut | Temporal = LeaveOneOut()
) -> Thresholded:
    return Thresholded(
        name="liked", of=Known(dataset), action="much", number="rating", least=least, split=split
    )


def test_a_number_becomes_a_binary_action_and_missing_stays_missing(dataset: Dataset, tmp_path: Path) -> None:
    def check(least: int) -> None:
        found = thresholded(dataset, least).open(tmp_path, None)
        much_E = events_table(found)["much"].to_numpy()
        rating_E = events_table(dataset)["rating"].to_numpy()
        known_E = ~np.isnan(rating_E)
        assert_not_vacuous({"missing": int((~known_E).sum()), "much": int((rating_E >= 4).sum())})
        np.testing.assert_array_equal(np.isnan(much_E), ~known_E)
        np.testing.assert_array_equal(much_E[known_E], rating_E[known_E] >= 4)

    check(4)
    assert_caught(check, 3)


def test_a_thresholded_log_says_what_it_is(dataset: Dataset, tmp_path: Path) -> None:
    split = Temporal(validation=0.1, test=0.2)
    found = thresholded(dataset, split=split).open(tmp_path, None)
    assert found.manifest.note.endswith("much: rating of at least 4") and found.manifest.name == "liked"
    assert isinstance(found.manifest.split, Temporal) and [a.name for a in found.actions] == ["much"]
    assert found.folder == thresholded(dataset, split=split).open(tmp_path, None).folder
    assert found.folder != thresholded(dataset).open(tmp_path, None).folder
    quick = thresholded(dataset, split=split).quick()
    assert quick.split == split and "much" in [r.action.name for r in quick.world.responses]


def test_requests_of_a_derived_log_are_those_of_its_log(tmp_path: Path) -> None:
    made_of, derived = QUICK.open(tmp_path, None), CODED.open(tmp_path, None)
    before, after = events_table(made_of), events_table(derived)
    assert before.equals(after)
    shared = before.select(pl.struct("user_id", "request_id").is_duplicated().sum()).item()
    assert_not_vacuous({"events that share a request": shared})
    for part in ("validation", "test"):
        asked, again = made_of.targets(part, "blind"), derived.targets(part, "blind")
        np.testing.assert_array_equal(asked.event_Q, again.event_Q)
        np.testing.assert_array_equal(asked.history_end_Q, again.history_end_Q)


def true_categories(dataset: Dataset, made_of: Dataset) -> np.ndarray:
    category_V = truth_of(World.open(made_of.folder)).category_V
    return category_V[dataset.item_ids().to_numpy() - 1]


def check_same_partition(found: np.ndarray, true: np.ndarray) -> None:
    """Two items are told alike exactly if they are."""
    np.testing.assert_array_equal(found[:, None] == found[None], true[:, None] == true[None])


@pytest.mark.parametrize("log", [CODED, ONE_HOT], ids=lambda log: log.name)
def test_items_tell_their_category(log: DescribedLog, tmp_path: Path) -> None:
    dataset = log.open(tmp_path, None)
    true = true_categories(dataset, QUICK.open(tmp_path, None))
    table = dataset.item_features[1:]
    if log is CODED:
        told = table.code_NK[:, 0]
        trained = told >= FIRST_VALUE  # a value that training never met has no code of its own
        told, true = told[trained], true[trained]
    else:
        np.testing.assert_array_equal(
            np.sort(table.vector_NW, axis=1)[:, -2:], np.tile([0.0, 1.0], (len(true), 1))
        )
        told = table.vector_NW.argmax(1)
    assert_not_vacuous({"categories": len(np.unique(true)), "items": len(true)}, above=4)
    check_same_partition(told, true)
    assert_caught(check_same_partition, np.roll(told, 1), true)


BUYERS = replace(
    lac.TWO_TASKS.of,
    name="buyers",
    world=msgspec.structs.replace(lac.TWO_TASKS.of.world, num_users=1_500, num_events=12),
)
REGRESSED = replace(lac.TWO_TASKS, name="regressed", of=BUYERS)


def test_actions_declared_otherwise_leave_events_and_truth(tmp_path: Path) -> None:
    made_of, declared = BUYERS.open(tmp_path, None), REGRESSED.open(tmp_path, None)
    assert events_table(made_of).equals(events_table(declared))
    before, after = (next(a.kind for a in its.actions if a.name == "purchase") for its in (made_of, declared))
    assert isinstance(before, Amount) and before.zero_inflated
    assert isinstance(after, Amount) and not after.zero_inflated
    best, again = oracle(made_of, "test"), oracle(declared, "test")
    np.testing.assert_array_equal(best.item_Q, again.item_Q)
    np.testing.assert_array_equal(best.log_mean["purchase"], again.log_mean["purchase"])


def test_who_knows_the_truth_of_purchases_beats_a_constant(tmp_path: Path) -> None:
    """The study's error asks for the mean of log1p(amount), which is what a head of a plain amount gives; that of a
    zero-inflated one answers P(buys) * amount, and loses to "nobody buys" although it knows everything."""
    dataset = REGRESSED.open(tmp_path, None)
    best = oracle(dataset, "test")
    column = [action.name for action in dataset.actions].index("purchase")
    kind = dataset.actions[column].kind
    assert isinstance(kind, Amount)
    log_Q = np.log1p(best.label_QA[:, column].astype(np.float64))
    assert_not_vacuous({"purchases": int((log_Q > 0).sum())}, above=50)

    def error(log_answer: np.ndarray | float) -> float:
        return float(np.sqrt(np.mean((log_answer - log_Q) ** 2)) / kind.log1p_scale)

    constant, never = error(log_Q.mean()), error(0.0)
    measured = metrics_of(best, dataset, lac.WORLD)["rmse_scaled:purchase"].value
    assert measured == pytest.approx(error(np.log1p(best.log_mean["purchase"])), rel=1e-4)

    def check(log_answer: np.ndarray) -> None:
        assert error(log_answer) < 0.97 * constant < never

    check(np.log1p(best.log_mean["purchase"]))
    assert_caught(check, np.log1p(best.predicted["purchase"]))  # of the world's own kind, zero-inflated
    assert error(np.log1p(best.predicted["purchase"])) > never


def test_a_derived_log_keeps_its_actions(tmp_path: Path) -> None:
    assert [a.name for a in CODED.open(tmp_path, None).actions] == ["click", "like", "share"]
    assert [action.name for action in ACTIONS] == ["rating", "liked"]  # of the dataset above


def of_requests(folder: Path, request: str | None) -> Dataset:
    """The random log in pairs of events, which share a time or are named to be of one request, never both."""
    nth = pl.int_range(pl.len()).over("user")
    time = 1_000_000 + 60 * (nth if request else nth // 2)
    columns = {"user": "user", "item": "item", "time": "time", "request": request}
    log = random_log().with_columns(time=time, request=nth // 2)
    return prepare(log, **columns, actions=ACTIONS, out=folder, min_item_events=1)


def check_requests(log: StudyLog, made_of: Dataset, kept: Path) -> None:
    made = log.open(kept, None)
    after, before = (events_table(its).select("user_id", "item_id", "request_id") for its in (made, made_of))
    assert after.equals(before), log
    named, were_named = (its.manifest.settings.request is not None for its in (made, made_of))
    assert named == were_named, f"{log}: every line of results tells whether the log names its requests"
    shared = before.select(pl.struct("user_id", "request_id").is_duplicated().sum()).item()
    assert_not_vacuous({"events that share a request": shared})


class Guesses(Thresholded):
    """Takes equal times for requests."""

    def _make(self, made_of: Dataset, folder: Path) -> None:
        settings = msgspec.structs.replace(made_of.manifest.settings, request=None)
        made_of.manifest = msgspec.structs.replace(made_of.manifest, settings=settings)
        super()._make(made_of, folder)


def test_every_derived_kind_of_log_keeps_the_requests_of_its_source(tmp_path: Path) -> None:
    simulated = QUICK.open(tmp_path, None)
    named, at_one_time = (of_requests(tmp_path / str(name), name) for name in ("request", None))
    logs = [
        (thresholded(named), named),
        (thresholded(at_one_time), at_one_time),
        (CODED, simulated),
        (ONE_HOT, simulated),
        (Declared(name="declared", of=QUICK, actions=simulated.actions), simulated),
    ]
    for n, (log, made_of) in enumerate(logs):
        check_requests(log, made_of, tmp_path / str(n))
    kinds = {
        kind
        for kind in vars(derived_logs).values()
        if hasattr(kind, "quick") and kind.__module__ == derived_logs.__name__
    }
    assert {type(log) for log, _ in logs} == kinds, "a kind that this test does not know"
    broken = Guesses(**{field.name: getattr(logs[0][0], field.name) for field in fields(Thresholded)})
    assert_caught(check_requests, broken, Dataset.open(named.folder), tmp_path / "broken")
