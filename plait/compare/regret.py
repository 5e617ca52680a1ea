"""How far models are from the best that anyone could predict, on data whose truth is known.

The oracle answers as a model does and is measured as one: on the same events, by ranks under the same protocol.
Of an amount it gives each metric the prediction that is best there.

Shape letters: Q test events, V items with the unknown one, A actions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, assert_never

import msgspec
import numpy as np
import torch
from jaxtyping import Float, Int64

from plait.data import Dataset, Targets
from plait.data.simulator import Knows, Oracle, oracle
from plait.data.simulator.world import WORLD
from plait.engine import steps
from plait.engine.ranking import FIRST_ITEM, Scores
from plait.evaluation.answers import Answers, measure, negatives_of, ranks_in_catalogue
from plait.evaluation.run_files import RunSettings
from plait.evaluation.settings import Protocol
from plait.metrics.intervals import Bootstrap, check_same_draws, percentiles
from plait.metrics.statistic import Statistic
from plait.metrics.table import ActionMetric, Distance, RetrievalMetric, metric_of


class Regret(msgspec.Struct, frozen=True):
    """What a model's metric lacks to the oracle's on the same users, with its 95 % interval; 0 is the limit.

    It can fall below 0 by chance: the oracle is best in expectation, not on every sample.
    """

    value: float
    low: float
    high: float
    unit: Distance  # points of the metric itself, or a share of the oracle's error


def limits(
    dataset: Dataset, runs: Sequence[RunSettings], seeds: Sequence[int]
) -> dict[int, dict[str, Statistic]]:
    """By seed, the test metrics of an oracle that knows no less than the model of any of the runs.

    Empty where nobody knows the truth of the dataset, and where the runs are not judged on the same questions.
    """
    judged = {(of.model.exposure.same_request, *of.protocol.judged_by) for of in runs}
    if not (dataset.folder / WORLD).is_file() or len(judged) > 1:
        return {}
    about_items, about_actions = knows_of(runs)
    same_request = runs[0].model.exposure.same_request
    rolling = runs[0].protocol.rolling_history
    of_items = of_actions = oracle(dataset, "test", about_items, same_request, rolling=rolling)
    if about_actions != about_items:
        of_actions = oracle(dataset, "test", about_actions, same_request, rolling=rolling)
    found = {}
    for seed in seeds:  # which decides the items that are sampled
        asked = dataset, replace(runs[0].protocol, seed=seed), same_request
        found[seed] = metrics_of(of_actions, *asked)
        if of_items is not of_actions:
            others = metrics_of(of_items, *asked)
            found[seed] |= {
                name: of for name, of in others.items() if isinstance(metric_of(name), RetrievalMetric)
            }
    return found


def knows_of(runs: Sequence[RunSettings]) -> tuple[Knows, Knows]:
    """What the oracle is told when items, and when actions are predicted: whether the event that came shares its
    request with the one before.

    Where positions read times, the candidate whose actions are predicted has one of its own.
    """
    always = any(map(_knows_request, runs))
    return Knows(time=always), Knows(time=always or any(of.model.reads_time for of in runs))


def _knows_request(of: RunSettings) -> bool:
    """Who knows the time of the event that came knows whether it opened a request. A history that ends with a request,
    because it is blind to the event's own or asks about it as a candidate, tells it as well."""
    exposure, layout = of.model.exposure, of.parsed_layout
    return of.protocol.plan(layout, of.model).reads_requests or exposure.time_anchor != "current"


def metrics_of(
    best: Oracle, dataset: Dataset, protocol: Protocol, same_request: Literal["causal", "blind"] = "causal"
) -> dict[str, Statistic]:
    """An oracle's metrics, those it is best in, by the names that `measure` gives a model's.

    Args:
        best: its answers about the test.
        same_request: under which it was asked.
    """
    asked = dataset.targets("test", same_request, rolling=protocol.rolling_history)
    answers = Answers(
        user_Q=best.user_Q,
        list_Q=dataset.lists(asked),
        item_Q=best.item_Q,
        rank_Q=_rank(best, dataset, asked, protocol),
        predicted=_as_answered(best.mean),
        label_QA=best.label_QA,
        loss={},
        actions=best.actions,
        lists=protocol.lists,
    )
    in_units = measure(answers)
    at_scale = measure(replace(answers, rank_Q=None, predicted=_as_answered(best.log_mean)))
    found = in_units | {name: of for name, of in at_scale.items() if _is_at_model_scale(name)}
    return {name: of for name, of in found.items() if metric_of(name).has_limit}


def regrets(found: Mapping[str, Bootstrap], best: Mapping[str, Bootstrap]) -> dict[str, Regret]:
    """How far a model's metrics are from the oracle's, those that both have."""
    return {
        name: regret(model, best[name], name)
        for name, model in found.items()
        if name in best and model.value is not None and best[name].value is not None
    }


def regret(model: Bootstrap, best: Bootstrap, metric: str) -> Regret:
    """How far one metric of a model is from the oracle's, user by user.

    Raises:
        ValueError: the two differ in users or draws, or one is not defined.

    >>> from plait.metrics.intervals import bootstrap
    >>> from plait.metrics.statistic import mean_over_users
    >>> model, best = (bootstrap(mean_over_users(np.arange(2), np.full(2, hits))) for hits in (0.25, 0.75))
    >>> regret(model, best, "hr@10")
    Regret(value=0.5, low=0.5, high=0.5, unit='points')
    """
    check_same_draws("regret", model, best)
    if model.value is None or best.value is None:
        raise ValueError(f"regret: {metric} is not defined for the model or for the oracle")
    sign = 1 if model.better == "lower" else -1
    gap, gap_D = sign * (model.value - best.value), sign * (model.value_D - best.value_D)
    distance = metric_of(metric).distance
    match distance:
        case "points":
            return Regret(gap, *percentiles(gap_D), distance)
        case "share":  # of the oracle's own error, which has the size of what is predicted
            return Regret(gap / best.value, *percentiles(model.value_D / best.value_D - 1), distance)
        case _:
            assert_never(distance)


def _is_at_model_scale(metric: str) -> bool:
    found = metric_of(metric)
    return isinstance(found, ActionMetric) and found.scale == "model"


def _rank(best: Oracle, dataset: Dataset, asked: Targets, protocol: Protocol) -> Int64[np.ndarray, " Q"]:
    """The item that came, ranked as a model's are, with the same sampled items."""
    negatives, ranks = negatives_of(dataset, asked, protocol), []
    for rows in steps.even(len(asked), steps.rows_per_step(dataset.num_items)):
        # The order alone, which fp32 holds exactly: it would round the scores of nearly equal items to ties.
        score_QV = best.item_scores(rows)[:, FIRST_ITEM:]
        order_QV = score_QV.argsort(axis=1).argsort(axis=1).astype(np.float32)
        whole = (Scores(torch.arange(FIRST_ITEM, dataset.num_items + 1), torch.from_numpy(order_QV)),)
        ranks.append(ranks_in_catalogue(partial(iter, whole), dataset, asked[rows], protocol, negatives))
    return np.concatenate(ranks)


def _as_answered(
    prediction: dict[str, Float[np.ndarray, "Q ..."]],
) -> dict[str, Float[np.ndarray, "Q ..."]]:
    return {name: value_Q.astype(np.float32) for name, value_Q in prediction.items()}
