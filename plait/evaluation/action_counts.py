"""Counts of actions beside a trained model: tables of the training rows, and weights by the validation's labels.

Shape letters: E training events, Q questions, M of them whose label is known, P parts of all actions, K columns of a
part, T terms, the model's first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from plait.baselines.actions import DECAYS, ITEM_DAMPING, USER_DAMPING
from plait.baselines.asking import SameRequest, TrainingLog, training_log
from plait.baselines.choosing import best_of
from plait.counts.actions import ActionCounts, ActionQuestions, CountedAction, CountedPart, WeighedPart
from plait.counts.effects import Damping, ItemTotals
from plait.counts.kinds import Part, counted
from plait.counts.weighing import FittedTermWeights, HeldOutLabels, TermWeights, weighed
from plait.data import Dataset, Targets
from plait.evaluation.answers import batch_of_targets, forward_steps, in_context, targets_of, without_autocast
from plait.evaluation.counting import spread
from plait.evaluation.settings import Protocol
from plait.layouts import audit
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import query_inputs
from plait.nn.action_kinds import ModelledKind
from plait.window_rule import WindowRule

FEWEST = 100  # labels: from about so many on, the fit is stable
# What is chosen, one after the other while the rest is as usual.
GRID = {"decay": DECAYS, "item": ITEM_DAMPING, "user": USER_DAMPING}


def action_counts_of(
    model: GenerativeRecommender, dataset: Dataset, protocol: Protocol, device: str
) -> ActionCounts:
    """The counts of actions that belong beside a trained model, which is in evaluation mode and has none yet.

    Raises:
        ValueError: there is no validation event to fit the weights by.
    """
    parts = counted_parts(model, dataset)
    targets = targets_of(dataset, "validation", model.plan, protocol)
    targets = targets[spread(len(targets))]
    term_P = _terms(model, dataset, targets, parts, device)
    label_QA = dataset.target_actions(targets).astype(np.float64)
    found: list[list[tuple[WeighedPart, str]]] = [[] for _ in dataset.actions]
    for part, term_TQK in zip(parts, term_P, strict=True):
        y_QK = part.part.columns(label_QA[:, part.action])
        is_known_Q = ~np.isnan(y_QK[:, 0])
        labels = HeldOutLabels(part.part.scale, term_TQK, y_QK, targets.user_Q).those(is_known_Q)
        found[part.action].append(_weighed(part, labels))
    return ActionCounts(
        tuple(
            CountedAction(
                action.kind,
                tuple(part for part, _ in its),
                f"counts of {action.name}: {'; then '.join(said for _, said in its)}",
            )
            for action, its in zip(dataset.actions, found, strict=True)
        )
    )


def counted_parts(model: GenerativeRecommender, dataset: Dataset) -> list[CountedPart]:
    """What is counted on the training rows of the parts of all actions. How far items and users are believed is chosen
    by the last training event of each user, so that the validation is left to the weights."""
    log = training_log(dataset, model.config.settings.exposure.same_request)
    asked, event_Q = _last_events(log, model.plan.window)
    reads_item = audit(model.layout).can_score != "no"
    return [
        _counted_part(part, column, log, asked, event_Q, reads_item)
        for column, action in enumerate(dataset.actions)
        for part in counted(action.kind).parts
    ]


def _last_events(log: TrainingLog, window: WindowRule) -> tuple[ActionQuestions, Int64[np.ndarray, " Q"]]:
    """The last training event of each user, of some where there are many, asked about as a model would be."""
    start_U, end_U = log.start_U1[:-1], log.start_U1[1:]
    user_Q = np.flatnonzero(end_U > start_U)
    user_Q = user_Q[spread(len(user_Q))]
    event_Q = end_U[user_Q] - 1
    end_Q = log.history_end_E[event_Q]
    first_Q = start_U[user_Q] + window.begin(end_Q - start_U[user_Q])
    return ActionQuestions(log.item_E, log.action_EA, first_Q, end_Q, log.item_E[event_Q]), event_Q


def _counted_part(
    part: Part,
    column: int,
    log: TrainingLog,
    asked: ActionQuestions,
    event_Q: Int64[np.ndarray, " Q"],
    reads_item: bool,
) -> CountedPart:
    y_EK = part.columns(log.action_EA[:, column].astype(np.float64))
    is_known_E = ~np.isnan(y_EK[:, 0])
    totals = _totals(part, column, log)
    usual = Damping(ITEM_DAMPING[0], USER_DAMPING[0], DECAYS[0])
    found, is_known_Q = CountedPart(part, column, totals, usual, reads_item), is_known_E[event_Q]
    if not is_known_Q.any():
        return found
    known, y_QK = asked.those(is_known_Q), y_EK[event_Q[is_known_Q]]
    is_counted_Q = np.ones(len(y_QK), dtype=bool)

    def judge(its: CountedPart) -> float:
        assert its.damping.item is not None, "items count"
        base_QK = totals.expected(known.item_M, y_QK, is_counted_Q, its.damping.item)
        score_QK = part.scale.score_of(base_QK) + its.of_user(known)
        return -float(part.scale.losses_of_scores(score_QK, y_QK)[0].mean())

    for name, values in GRID.items():
        options = [replace(found, damping=replace(found.damping, **{name: value})) for value in values]
        found = best_of(options, judge)
    return found


def _totals(part: Part, column: int, log: TrainingLog) -> ItemTotals:
    y_EK = part.columns(log.action_EA[:, column].astype(np.float64))
    is_known_E = ~np.isnan(y_EK[:, 0])
    return ItemTotals.of(part.scale, y_EK[is_known_E], log.item_E[is_known_E], log.num_items)


def actions_again(counts: ActionCounts, whole: Dataset, same_request: SameRequest) -> ActionCounts:
    """The same counts of all rows; how they are damped and what they weigh stays what held-out rows gave.

    Args:
        whole: whose training rows are all rows.
    """
    log = training_log(whole, same_request)

    def again(part: WeighedPart) -> WeighedPart:
        totals = _totals(part.counted.part, part.counted.action, log)
        return replace(part, counted=replace(part.counted, totals=totals))

    return ActionCounts(
        tuple(
            replace(its, parts=tuple(map(again, its.parts)), said=f"{its.said}; counted again on all rows")
            for its in counts.actions
        )
    )


@torch.no_grad()
def _terms(
    model: GenerativeRecommender,
    dataset: Dataset,
    targets: Targets,
    parts: Sequence[CountedPart],
    device: str,
) -> list[Float64[np.ndarray, "T Q K"]]:
    """Of each part the model's scores and what is counted, from what the model is asked from."""
    assert model.heads is not None, "a layout that predicts actions has heads"
    plan, late, own, of_counts = model.plan, model.late_statistics(), [], []
    asked = in_context(dataset, targets, plan)
    for rows in forward_steps(model, dataset, asked, plan):
        batch, count_B = batch_of_targets(dataset, asked[rows], plan)
        inputs = query_inputs(
            plan,
            batch,
            ("a",),
            device=device,
            num_candidates_U=count_B,
            late=late,
            counting=partial(_side_by_side, parts),
        )
        (questions,), (state_qD,) = inputs.questions, model(inputs)
        head = partial(model.heads, late_MF=questions.late_MF)
        own.append(_scores(model.heads.kinds, without_autocast(head, state_qD.float())))
        assert questions.counted_MX is not None, "it was asked for"
        of_counts.append(questions.counted_MX.cpu().numpy())
    own_P = [np.concatenate(of_part) for of_part in zip(*own, strict=True)]
    counted_P = _apart(parts, np.concatenate(of_counts))
    return [np.concatenate([its[None], of_part]) for its, of_part in zip(own_P, counted_P, strict=True)]


def _scores(kinds: Sequence[ModelledKind], out: Sequence[Tensor]) -> list[Float64[np.ndarray, "Q _"]]:
    """A head's raw outputs as scores, of the parts of all actions."""
    scores = (
        score_QK for kind, out_QC in zip(kinds, out, strict=True) for score_QK in kind.scores_of(out_QC)
    )
    return [score_QK.double().cpu().numpy() for score_QK in scores]


def _side_by_side(parts: Sequence[CountedPart], asked: ActionQuestions) -> Float64[np.ndarray, "Q X"]:
    """The terms of all parts as columns."""
    return np.concatenate([term_QK for part in parts for term_QK in part.terms(asked)], axis=1)


def _apart(
    parts: Sequence[CountedPart], term_QX: Float64[np.ndarray, "Q X"]
) -> Iterator[Float64[np.ndarray, "T Q K"]]:
    """The inverse of `_side_by_side`, part by part."""
    ends = np.cumsum([len(part.names) * part.num_columns for part in parts])[:-1]
    for part, of_part in zip(parts, np.split(term_QX, ends, axis=1), strict=True):
        yield np.stack(np.split(of_part, len(part.names), axis=1))


def _weighed(part: CountedPart, labels: HeldOutLabels) -> tuple[WeighedPart, str]:
    """A part with its weights, and what was found, in words."""
    none = WeighedPart(part, TermWeights.of_model(1 + len(part.names)))
    if len(labels) < FEWEST:
        return none, f"none, since the validation holds {len(labels)} labels, fewer than {FEWEST}"
    if labels.are_alike:
        return none, f"none, since all {len(labels)} labels of the validation are alike"
    found = weighed(labels)
    return WeighedPart(part, found.weights), _told(found, part, len(labels))


def _told(found: FittedTermWeights, part: CountedPart, num_labels: int) -> str:
    gain = (
        f"gain in log-likelihood {found.gain:.1f} over {num_labels} labels of the validation; of one half of the users "
        f"judged on the other, {found.gain_of_halves:+.4f} a label"
    )
    if not found.weights.has_counts:
        return f"none, since they do not pay ({gain})"
    weights = ", ".join(
        f"{name} {weight:.2f}"
        for name, weight in zip(("model", *part.names), found.weights.weight_T, strict=True)
    )
    return f"{weights} ({gain}; {part.damping})"
