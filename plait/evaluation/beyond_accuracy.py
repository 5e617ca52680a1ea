"""What a mean over all answers hides: what the lists hold, and how the answers fare whose item or user training met
never, seldom or often.

Shape letters: Q queries (held-out events), L ranked lists, K items kept of a list, V1 items by dense index with the
unknown one, U users of the dataset, C codes of an item's values, N numbers of events.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np
from jaxtyping import Bool, Int32, Int64

from plait.data import Dataset
from plait.evaluation.answers import Answers, measure
from plait.metrics.intervals import Estimate, estimate
from plait.metrics.recommended import Recommended, least_of_frequent
from plait.metrics.statistic import Statistic
from plait.metrics.table import measured_on_lists
from plait.schema import Categories, Category, FeatureTable

Of = Literal["item", "user"]
HowOften = Literal["new", "rare", "frequent"]


@dataclass(frozen=True)
class TrainingFacts:
    """What training knows of items and users."""

    item_events_V1: Int64[np.ndarray, " V1"]
    user_events_U: Int64[np.ndarray, " U"]
    categories: Mapping[str, Int32[np.ndarray, "V1 C"]]  # by feature of the items, codes of their values

    @classmethod
    def of(cls, dataset: Dataset) -> "TrainingFacts":
        return cls(
            dataset.train_item_counts(), dataset.train_user_counts(), categories_of(dataset.item_features)
        )


def categories_of(table: FeatureTable) -> dict[str, Int32[np.ndarray, "V1 C"]]:
    """Of the features whose values are categories, the codes."""
    begins = np.cumsum([0, *(feature.num_columns for feature in table.features)])
    return {
        feature.name: table.code_NK[:, begin : begin + feature.num_columns]
        for feature, begin in zip(table.features, begins[:-1].tolist(), strict=True)
        if isinstance(feature.kind, Category | Categories)
    }


class Slice(msgspec.Struct, frozen=True):
    """Answers whose item, or whose user, has so many training events."""

    of: Of
    how_often: HowOften
    least: int  # training events
    most: int | None  # None: any number from `least` on
    num_answers: int  # of the test

    @property
    def heading(self) -> str:
        """
        >>> Slice("item", "rare", 1, 86, 408).heading, Slice("user", "frequent", 87, None, 20).heading
        ('item rare', 'user frequent')
        """
        return f"{self.of} {self.how_often}"

    def __str__(self) -> str:
        """
        >>> print(Slice("item", "rare", 1, 86, 4080), Slice("user", "new", 0, 0, 2), sep="; ")
        item rare: 1 to 86 training events, 4,080 answers; user new: 0 training events, 2 answers
        """
        range_ = f"{self.least:,} or more" if self.most is None else f"{self.least:,} to {self.most:,}"
        range_ = f"{self.least:,}" if self.least == self.most else range_
        return f"{self.heading}: {range_} training events, {self.num_answers:,} answers"


class Sliced(msgspec.Struct, frozen=True):
    """The metrics of the answers of a slice."""

    slice: Slice
    metrics: dict[str, Estimate]  # none where it has no answer


class BeyondAccuracy(msgspec.Struct, frozen=True):
    """What one contender's answers show besides the mean over all of them; in the mean over its runs."""

    lists: dict[str, Estimate]  # what its lists hold; none where it has no lists, or they were not kept
    slices: tuple[Sliced, ...]


def beyond_accuracy(
    runs: Sequence[Answers], known: TrainingFacts, shown: Sequence[str] | None = None
) -> BeyondAccuracy:
    """Tells of a contender, from its answers to the test.

    Args:
        runs: of one contender, to the same questions.
        shown: the metrics that are told of slices; all where it is not given.
    """
    slices = [
        Sliced(its, _estimates([measure(some_answers(answers, is_in_Q)) for answers in runs], shown))
        if its.num_answers
        else Sliced(its, {})
        for its, is_in_Q in slices_of(runs[0], known)
    ]
    return BeyondAccuracy(_estimates([measured_lists(answers, known) for answers in runs]), tuple(slices))


def measured_lists(answers: Answers, known: TrainingFacts) -> dict[str, Statistic]:
    """What the lists of answers hold, by the metric's full name; empty where they were not kept."""
    if answers.top_LK is None:
        return {}
    _, first_L = np.unique(answers.list_Q, return_index=True)
    lists = Recommended(answers.user_Q[first_L], answers.top_LK, known.item_events_V1)
    return measured_on_lists(lists, known.categories)


def slices_of(answers: Answers, known: TrainingFacts) -> Iterator[tuple[Slice, Bool[np.ndarray, " Q"]]]:
    """Every slice, and which answers are in it: new ones have no training event, and frequent ones are as many as
    together have half of all (`plait.metrics.recommended.least_of_frequent`)."""
    of_items, of_users = known.item_events_V1, known.user_events_U
    sides: tuple[tuple[Of, Int64[np.ndarray, " N"], Int64[np.ndarray, " Q"]], ...] = (
        ("item", of_items, of_items[answers.item_Q]),
        ("user", of_users, of_users[answers.user_Q]),
    )
    for of, events_N, events_Q in sides:
        frequent = least_of_frequent(events_N)
        ranges: tuple[tuple[HowOften, int, int | None], ...] = (
            ("new", 0, 0),
            ("rare", 1, frequent - 1),
            ("frequent", frequent, None),
        )
        for how_often, least, most in ranges:
            if most is not None and most < least:
                continue  # one event makes it frequent
            is_in_Q = (events_Q >= least) & (True if most is None else events_Q <= most)
            yield Slice(of, how_often, least, most, int(is_in_Q.sum())), is_in_Q


def some_answers(answers: Answers, is_in_Q: Bool[np.ndarray, " Q"]) -> Answers:
    """Some of the answers: in a list, those alone are right. Items that others were right about do not compete."""
    return replace(
        answers,
        user_Q=answers.user_Q[is_in_Q],
        list_Q=answers.list_Q[is_in_Q],
        item_Q=answers.item_Q[is_in_Q],
        rank_Q=None if answers.rank_Q is None else answers.rank_Q[is_in_Q],
        predicted={name: value_Q[is_in_Q] for name, value_Q in answers.predicted.items()},
        label_QA=answers.label_QA[is_in_Q],
        loss={},
        top_LK=None,
    )


def _estimates(
    runs: Sequence[Mapping[str, Statistic]], shown: Sequence[str] | None = None
) -> dict[str, Estimate]:
    """Of the metrics that all runs have."""
    names = [name for name in runs[0] if all(name in run for run in runs)]
    return {name: estimate([run[name] for run in runs]) for name in names if shown is None or name in shown}
