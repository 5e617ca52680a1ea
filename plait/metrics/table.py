"""Every metric with what is known of it: what it is called, what it is measured on, and which way is better.

Evaluation, selection, comparison, regret and reports read the table. A new metric is one more entry.

In full, a metric's name has the length of its list or its action: "ndcg@10", "mrr", "rmse:rating", "loss:rating".

Shape letters: Q queries (held-out events), L ranked lists, V1 items by dense index with the unknown one, C codes of an
item's values.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, assert_never, final

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from plait.metrics import recommended, retrieval, scoring
from plait.metrics.recommended import Recommended
from plait.metrics.retrieval import Places, places_of
from plait.metrics.scoring import Labelled
from plait.metrics.statistic import Better, Statistic, mean_over_users
from plait.schema import ActionKind, Judgement

Counts = Int64[np.ndarray, " L"]
Values = Float64[np.ndarray, " L"]
Codes = Int[np.ndarray, "V1 C"]
Judgements = tuple[Judgement, ...]
Distance = Literal["points", "share"]
Scale = Literal["log", "model", "chances"]
Task = Literal["retrieval", "actions"]  # what is measured: the next item, or the actions on it

Lists = tuple[int, ...]
LISTS: Lists = (1, 5, 10, 50)  # lengths k of HR@k, NDCG@k and recall@k, where nothing else was asked for
CHIEF_LIST = 10  # a comparison shows this length and longer ones
CHIEF_RETRIEVAL = f"ndcg@{CHIEF_LIST}"  # in full: where one metric has to stand for all of retrieval
LOSS_OF_ACTIONS = "loss:actions"  # in full: the sum of the losses of all trained actions
ERROR_OF_ACTIONS = "normalised_error:actions"  # in full: the sum of those of all trained actions


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """What is known of a metric, whatever it is measured on."""

    name: str  # small letters and "_": without the length of a list, and without an action
    label: str  # as tables and charts call it
    better: Better
    distance: Distance  # how two values are held apart: in points of the metric, or as a share of the one
    has_limit: bool = (
        False  # the true expectation is best in it: not so in MAE (medians) and ECE (any constant)
    )

    @abstractmethod
    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        """The names under which its values go.

        Args:
            action: the one that is measured, where it is a metric of actions.
            lists: the lengths that are measured, where it is a metric of lists.
        """


@final
@dataclass(frozen=True, kw_only=True)
class RankMetric(Metric):
    """A mean over users of the mean over each user's lists, computed from where the first answer stands."""

    function: Callable[[Places], Values]
    is_shown: bool  # in a comparison

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return (self.name,)


@final
@dataclass(frozen=True, kw_only=True)
class ListMetric(Metric):
    """A mean over users of the mean over each user's lists, computed from the first k items.

    Args:
        can_change: given k, whether the value of a list rests on the order of so many items of which none is an answer,
            and so many answers.
    """

    function: Callable[[int, Places], Values]
    can_change: Callable[[int, Counts, Counts], Bool[np.ndarray, " L"]]
    is_shown: bool  # in a comparison, from CHIEF_LIST on
    of_several: bool = False  # not measured where each list has one answer

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return tuple(f"{self.name}@{k}" for k in lists)


RetrievalMetric = RankMetric | ListMetric


@final
@dataclass(frozen=True, kw_only=True)
class ActionMetric(Metric):
    """Predictions of one action held against its labels, pooled over events."""

    function: Callable[[Labelled], Statistic]
    judges: Judgements  # it is measured for actions that are judged so
    scale: Scale = "log"  # numbers in the log's units, or as the model sees them, or chances of each outcome
    leads: Judgements = ()  # of actions that are chiefly judged so, a comparison shows it first, and draws it
    shown: Judgements = ()  # of actions that are judged so, a comparison shows it after that

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return (f"{self.name}:{action}",)

    def statistic(self, pairs: Labelled) -> Statistic:
        """Its value for users counted any number of times.

        Args:
            pairs: at its scale.
        """
        found = self.function(pairs)
        assert found.better == self.better, (
            f"{self.name}: {self.better} by its entry, {found.better} by its function"
        )
        return found


@final
@dataclass(frozen=True, kw_only=True)
class LossMetric(Metric):
    """What training lowers, of every kind of action; the model itself tells it."""

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return f"{self.name}:{action}", LOSS_OF_ACTIONS


@final
@dataclass(frozen=True, kw_only=True)
class ErrorMetric(Metric):
    """What predictions of an action cost over what the best constant costs: below 1 they beat it. So it can be summed
    over actions of all kinds."""

    ways: tuple[
        tuple[Judgement, Scale, Callable[[Labelled], Statistic]], ...
    ]  # the first that judges it counts

    def way_of(self, kind: ActionKind) -> tuple[Scale, Callable[[Labelled], Statistic]]:
        """How actions of a kind are measured."""
        return next(
            (scale, function) for judgement, scale, function in self.ways if judgement in kind.judged_as
        )

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return f"{self.name}:{action}", ERROR_OF_ACTIONS


@final
@dataclass(frozen=True, kw_only=True)
class HoldingMetric(Metric):
    """What the first CHIEF_LIST items of the lists hold, whatever is right among them. `better` is the way that people
    usually wish for; it says nothing of quality."""

    function: Callable[[Recommended], Statistic]

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return (f"{self.name}@{CHIEF_LIST}",)


@final
@dataclass(frozen=True, kw_only=True)
class CategoryMetric(Metric):
    """The same, of one feature of the items whose values are categories."""

    function: Callable[[Recommended, Codes], Statistic | None]  # None where it is not defined

    def full_names(self, action: str, lists: Lists = LISTS) -> tuple[str, ...]:
        return (f"{self.name}@{CHIEF_LIST}:{action}",)  # "action" is the feature


LOSS = LossMetric(name="loss", label="loss", better="lower", distance="share")
ERROR = ErrorMetric(
    name="normalised_error",
    label="normalised error",
    better="lower",
    distance="share",
    ways=(
        ("outcomes", "chances", scoring.normalised_log_loss),
        ("chance", "log", scoring.normalised_entropy),
        ("scaled number", "model", scoring.normalised_square),
    ),
)
TABLE: tuple[Metric, ...] = (  # in the order in which values are written
    ListMetric(
        name="hr",
        label="HR",
        better="higher",
        distance="points",
        has_limit=True,
        function=retrieval.hr_at,
        can_change=lambda k, others_L, _: others_L >= k,
        is_shown=True,
    ),
    ListMetric(
        name="ndcg",
        label="NDCG",
        better="higher",
        distance="points",
        has_limit=True,
        function=retrieval.ndcg_at,
        can_change=lambda _, others_L, __: others_L >= 1,
        is_shown=True,
    ),
    ListMetric(
        name="recall",
        label="recall",
        better="higher",
        distance="points",
        has_limit=True,
        function=retrieval.recall_at,
        can_change=lambda k, others_L, answers_L: (others_L >= 1) & (others_L + answers_L > k),
        is_shown=True,
        of_several=True,
    ),
    RankMetric(
        name="mrr",
        label="MRR",
        better="higher",
        distance="points",
        has_limit=True,
        function=retrieval.reciprocal_rank,
        is_shown=True,
    ),
    ActionMetric(
        name="auc",
        label="AUC",
        better="higher",
        distance="points",
        has_limit=True,
        function=scoring.auc,
        judges=("chance",),
        leads=("chance",),
    ),
    ActionMetric(
        name="gauc",
        label="GAUC",
        better="higher",
        distance="points",
        has_limit=True,
        function=scoring.gauc,
        judges=("chance",),
        shown=("chance",),
    ),
    ActionMetric(
        name="ne",
        label="NE",
        better="lower",
        distance="share",
        has_limit=True,
        function=scoring.normalised_entropy,
        judges=("chance",),
        shown=("chance",),
    ),
    ActionMetric(
        name="accuracy",
        label="accuracy",
        better="higher",
        distance="points",
        function=scoring.accuracy,
        judges=("outcomes",),
        scale="chances",
        leads=("outcomes",),
        shown=("outcomes",),
    ),
    ActionMetric(
        name="log_loss",
        label="log-loss",
        better="lower",
        distance="share",
        has_limit=True,
        function=scoring.log_loss,
        judges=("chance", "outcomes"),
        scale="chances",
        shown=("outcomes",),
    ),
    ActionMetric(
        name="ece",
        label="ECE",
        better="lower",
        distance="points",
        function=scoring.calibration_error,
        judges=("chance",),
    ),
    ActionMetric(
        name="rmse",
        label="RMSE",
        better="lower",
        distance="share",
        has_limit=True,
        function=scoring.rmse,
        judges=("number",),
        leads=("number",),
    ),
    ActionMetric(
        name="mae",
        label="MAE",
        better="lower",
        distance="share",
        function=scoring.mae,
        judges=("number",),
        shown=("number",),
    ),
    ActionMetric(
        name="rmse_scaled",
        label="scaled RMSE",
        better="lower",
        distance="share",
        has_limit=True,
        function=scoring.rmse,
        judges=("scaled number",),
        scale="model",
        leads=("scaled number",),
    ),
    ActionMetric(
        name="mae_scaled",
        label="scaled MAE",
        better="lower",
        distance="share",
        function=scoring.mae,
        judges=("scaled number",),
        scale="model",
    ),
    LOSS,
    ERROR,
)


# What lists hold is told beside the table, of the test alone: no epoch is chosen by it.
BEYOND_ACCURACY: tuple[HoldingMetric | CategoryMetric, ...] = (
    HoldingMetric(
        name="coverage", label="coverage", better="higher", distance="points", function=recommended.coverage
    ),
    HoldingMetric(
        name="novelty", label="novelty", better="higher", distance="points", function=recommended.novelty
    ),
    HoldingMetric(
        name="frequent",
        label="frequent items",
        better="lower",
        distance="points",
        function=recommended.frequent_share,
    ),
    CategoryMetric(
        name="diversity",
        label="diversity",
        better="higher",
        distance="points",
        function=recommended.diversity,
    ),
)


def metric_of(full_name: str) -> Metric:
    """The entry of a name, with or without its list's length and its action (or feature).

    Raises:
        ValueError: there is none, with the nearest name.

    >>> metric_of("ndcg@10").label, metric_of("rmse:rating").better
    ('NDCG', 'lower')
    """
    known: tuple[Metric, ...] = (*TABLE, *BEYOND_ACCURACY)
    found = next((metric for metric in known if metric.name == _name_in(full_name)), None)
    if found is None:
        raise _unknown(full_name, LISTS)
    return found


def task_of(full_name: str) -> Task:
    """What a metric measures.

    >>> task_of("ndcg@10"), task_of("rmse:rating"), task_of("diversity@10:genre")
    ('retrieval', 'actions', 'retrieval')
    """
    of_lists = RetrievalMetric | HoldingMetric | CategoryMetric
    return "retrieval" if isinstance(metric_of(full_name), of_lists) else "actions"


def check_full_name(full_name: str, lists: Lists = LISTS) -> None:
    """Raises ValueError where no value goes under a name, whatever the actions are, with the nearest name.

    Args:
        lists: the lengths that are measured.

    >>> check_full_name("ndgc@10")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: no metric is called 'ndgc@10'; did you mean 'ndcg@10'? There are hr@1, hr@5, ...
    """
    if _name_in(full_name) in [metric.name for metric in BEYOND_ACCURACY]:
        raise ValueError(f"{full_name!r} is told of the test alone, and is no measure of quality")
    if full_name not in _full_names(full_name.partition(":")[2], lists):
        raise _unknown(full_name, lists)


def list_length(full_name: str) -> int:
    """The k of a `ListMetric`'s name.

    >>> list_length("hr@10")
    10
    """
    return int(full_name.partition("@")[2])


def measured_on_ranks(
    user_Q: Int64[np.ndarray, " Q"],
    list_Q: Int64[np.ndarray, " Q"],
    item_Q: Int64[np.ndarray, " Q"],
    rank_Q: Int64[np.ndarray, " Q"],
    lists: Lists = LISTS,
) -> dict[str, Statistic]:
    """Every retrieval metric, by its full name.

    Args:
        list_Q, rank_Q: as `plait.metrics.retrieval.places_of` takes them.
        lists: the lengths to measure.

    Raises:
        ValueError: there is no query, or a rank is below 1.
    """
    places = places_of(user_Q, list_Q, item_Q, rank_Q)
    has_several = bool((places.answers_L > 1).any())
    return {
        name: mean_over_users(places.user_L, value_of(places), metric.better, "share")
        for name, metric, value_of in _on_ranks(lists)
        if has_several or not (isinstance(metric, ListMetric) and metric.of_several)
    }


def measured_on_lists(lists: Recommended, categories: Mapping[str, Codes]) -> dict[str, Statistic]:
    """Every metric of what lists hold, by its full name, as far as it is defined.

    Args:
        categories: by feature, codes of each item's values.
    """
    found: dict[str, Statistic] = {}
    if not lists.is_item_LK.any():
        return found
    for metric in BEYOND_ACCURACY:
        match metric:
            case HoldingMetric():
                (name,) = metric.full_names("")
                found[name] = metric.function(lists)
            case CategoryMetric():
                for feature, code_VC in categories.items():
                    (name,) = metric.full_names(feature)
                    statistic = metric.function(lists, code_VC)
                    found |= {} if statistic is None else {name: statistic}
            case _:
                assert_never(metric)
    return found


def of_kind(kind: ActionKind) -> tuple[ActionMetric, ...]:
    """The metrics of actions of a kind. Levels that are no numbers have no errors.

    >>> from plait.schema import Categorical, Ordinal
    >>> [metric.name for metric in of_kind(Categorical(("phone", "tv")))]
    ['accuracy', 'log_loss']
    >>> [metric.name for metric in of_kind(Ordinal(("poor", "good")))]
    ['accuracy', 'log_loss']
    """
    judged_as = set(kind.judged_as)
    return tuple(
        metric for metric in TABLE if isinstance(metric, ActionMetric) and judged_as & set(metric.judges)
    )


def shown_of_retrieval(lists: Lists = LISTS) -> tuple[str, ...]:
    """The full names that a comparison shows, in its order.

    >>> shown_of_retrieval((5, 10))
    ('hr@10', 'ndcg@10', 'recall@10', 'mrr')
    """
    shown = tuple(k for k in lists if k >= CHIEF_LIST)
    return tuple(name for name, metric, _ in _on_ranks(shown) if metric.is_shown)


def shown_of_kind(kind: ActionKind) -> tuple[ActionMetric, ...]:
    """What a comparison shows of actions of a kind; the first is drawn.

    >>> from plait.schema import Amount
    >>> [metric.name for metric in shown_of_kind(Amount())]
    ['rmse_scaled', 'mae']
    """
    metrics, chief = of_kind(kind), kind.judged_as[0]
    leading = tuple(metric for metric in metrics if chief in metric.leads)
    after = (metric for metric in metrics if set(metric.shown) & set(kind.judged_as))
    return (*leading, *(metric for metric in after if metric not in leading))


def _on_ranks(lists: Lists) -> Iterator[tuple[str, RetrievalMetric, Callable[[Places], Values]]]:
    """Each retrieval metric with its full name, list after list."""
    for k in lists:
        for metric in TABLE:
            if isinstance(metric, ListMetric):
                yield f"{metric.name}@{k}", metric, partial(metric.function, k)
    for metric in TABLE:
        if isinstance(metric, RankMetric):
            yield metric.name, metric, metric.function


def _name_in(full_name: str) -> str:
    return full_name.partition(":")[0].partition("@")[0]


def _full_names(action: str, lists: Lists) -> list[str]:
    return list(dict.fromkeys(name for metric in TABLE for name in metric.full_names(action, lists)))


def _unknown(full_name: str, lists: Lists) -> ValueError:
    action = full_name.partition(":")[2] or "ACTION"
    its = [metric for metric in TABLE if metric.name == _name_in(full_name)]
    own = [name for metric in its for name in metric.full_names(action, lists)]
    near = difflib.get_close_matches(
        full_name, own or _full_names(action, lists), n=1, cutoff=0 if own else 0.6
    )
    return ValueError(
        f"no metric is called {full_name!r}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + f" There are {', '.join(_full_names('ACTION', lists))}"
    )
