"""A model's answers on held-out events, and the metrics of them.

One forward pass answers both questions: the next item is read at the history, the action at the candidate
token of the event that came. Shape letters: Q queries (held-out events), L ranked lists, A actions, V catalogue items,
N sampled items (or queries that open a list), K items kept of a list, S items laid end to end, P parts of them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar, assert_never

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from plait.data import Dataset, Targets
from plait.data.dataset import HeldOutPart
from plait.engine import steps
from plait.engine.ranking import (
    AddedScores,
    Catalogue,
    Scores,
    Seen,
    beside_of,
    catalogue_of,
    joined_best,
    scores_at,
    without,
)
from plait.engine.state import before, some_users
from plait.evaluation.ahead import ahead
from plait.evaluation.settings import Protocol
from plait.layouts import audit
from plait.metrics import retrieval
from plait.metrics.scoring import Labelled, labelled
from plait.metrics.statistic import Statistic
from plait.metrics.table import (
    CHIEF_LIST,
    ERROR,
    ERROR_OF_ACTIONS,
    LISTS,
    LOSS,
    LOSS_OF_ACTIONS,
    Lists,
    Scale,
    measured_on_ranks,
    of_kind,
)
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Inputs, query_inputs
from plait.models.questions import QuestionPlan
from plait.nn.actions import scaled
from plait.randomness import Stream, numpy_generator
from plait.schema import UNKNOWN_ITEM, Action, EventBatch
from plait.wording import setting

SAMPLED_AT_A_TIME = 128  # targets that draw their negatives together: of another number, draws are others

Value = TypeVar("Value")


@dataclass(frozen=True)
class Answers:
    """What a model said about every held-out event, and what came. Arrays of the queries, in their order."""

    user_Q: Int64[np.ndarray, " Q"]
    list_Q: Int64[np.ndarray, " Q"]  # which ranked list the item that came is an answer to
    item_Q: Int64[np.ndarray, " Q"]
    # Of the item that came, among items that its user did not take in the part; None: the layout cannot retrieve.
    rank_Q: Int64[np.ndarray, " Q"] | None
    predicted: dict[str, Float32[np.ndarray, "Q ..."]]  # by action, in the log's units; empty: none predicted
    label_QA: Float32[np.ndarray, "Q A"]  # in the log's units, NaN where missing
    loss: dict[str, float]  # by action, as far as there are labels
    actions: tuple[Action, ...]
    lists: Lists = LISTS  # the lengths that are measured
    # The first items of every list, in the order of their numbers, UNKNOWN_ITEM where no more are left to show; None:
    # the layout cannot retrieve, or nobody kept them.
    top_LK: Int32[np.ndarray, "L K"] | None = None


@torch.no_grad()
def answers_of(
    model: GenerativeRecommender, dataset: Dataset, part: HeldOutPart, protocol: Protocol, device: str = "cpu"
) -> Answers:
    """Runs the model over every held-out event of a part. Leaves the model in evaluation mode.

    What counts as seen does not depend on how a model is asked: all that its user had when it is, as in serving.
    """
    model.eval()
    plan, late = protocol.plan(model.layout, model.config.settings), model.late_statistics()
    targets = targets_of(dataset, part, plan, protocol)
    asked = in_context(dataset, targets, plan)

    def prepare(rows: slice) -> tuple[Targets, Inputs, _Histories]:
        batch, count_B = batch_of_targets(dataset, asked[rows], plan)
        inputs = query_inputs(
            plan,
            batch,
            ("i", "a"),
            device=device,
            num_candidates_U=count_B,
            late=late,
            counting=model.counting,
        )
        return asked[rows], inputs, _Histories.of(batch, count_B)

    catalogue = None
    if audit(model.layout).can_retrieve:
        with torch.autocast(torch.device(device).type, enabled=False):
            catalogue = catalogue_of(model)
    negatives = negatives_of(dataset, targets, protocol)
    keep = kept_of_lists(part)
    parts = [
        _answer(model, catalogue, dataset, chunk, inputs, histories, protocol, negatives, keep)
        for chunk, inputs, histories in ahead(prepare, forward_steps(model, dataset, asked, plan))
    ]
    return _joined(parts, targets, dataset, protocol.lists)


def kept_of_lists(part: HeldOutPart) -> int:
    """How many items of each list are kept: of the test, which is asked once."""
    return CHIEF_LIST if part == "test" else 0


def batch_of_targets(
    dataset: Dataset, asked: Targets, plan: QuestionPlan
) -> tuple[EventBatch, Int64[np.ndarray, " U"]]:
    """Targets behind their histories, and how many stand behind each: all of one history where they may share it."""
    if plan.candidates_share_history:
        return dataset.candidate_batch(asked, plan.window, plan.lead)
    return dataset.target_batch(asked, plan.window, plan.lead), np.ones(len(asked), dtype=np.int64)


def forward_steps(
    model: GenerativeRecommender, dataset: Dataset, asked: Targets, plan: QuestionPlan
) -> Iterator[slice]:
    """Targets whose sequences are computed at a time."""
    first_Q = steps.tokens_of(model, dataset.target_lengths(asked))
    cost_Q = first_Q
    if plan.candidates_share_history:  # they stand in one sequence with it
        cost_Q = np.where(asked.shares_history_Q, steps.tokens_of(model, np.zeros_like(first_Q)), first_Q)
    return steps.within(cost_Q, steps.tokens_per_step(model), first_Q)


def targets_of(dataset: Dataset, part: HeldOutPart, plan: QuestionPlan, protocol: Protocol) -> Targets:
    """The held-out events that models are asked about.

    Raises:
        ValueError: there are none.
    """
    targets = dataset.targets(part, plan.exposure.same_request, rolling=protocol.rolling_history)
    if len(targets):
        return targets
    why = "no user with an event in it has one before it; prepare it with other cuts, or with the last events held out"
    if len(dataset.targets(part)):
        why = "under same_request = blind, no user has an event before the request that is asked about"
    raise ValueError(f"{dataset.folder} has no {part} events to evaluate: {why}")


def in_context(dataset: Dataset, targets: Targets, plan: QuestionPlan) -> Targets:
    """The targets, each from the context that the plan gives it."""
    match plan.context_ends_before:
        case "event":
            return targets
        case "request":
            return dataset.before_requests(targets)
        case _:
            assert_never(plan.context_ends_before)


@dataclass(frozen=True)
class _Histories:
    """What queries are asked from, as far as the model reads."""

    events: EventBatch
    history_Q: Int64[np.ndarray, " Q"]  # which of the sequences

    @classmethod
    def of(cls, batch: EventBatch, count_B: Int64[np.ndarray, " B"]) -> "_Histories":
        return cls(before(batch, count_B), np.repeat(np.arange(len(count_B)), count_B))

    def beside(self, model: GenerativeRecommender, rows: slice) -> AddedScores | None:
        history_q = self.history_Q[rows]
        first, last = int(history_q[0]), int(history_q[-1])
        found = beside_of(model, some_users(self.events, slice(first, last + 1)))
        if found is None:
            return None
        return replace(found, added_UI=found.added_UI[torch.from_numpy(history_q - first)])


@dataclass(frozen=True)
class _ChunkAnswers:
    """Answers of one chunk of queries."""

    item_Q: Int64[np.ndarray, " Q"]
    ranked: "Ranked | None"
    predicted: dict[str, Float32[np.ndarray, "Q ..."]]
    loss_sum: dict[str, float]
    label_QA: Float32[np.ndarray, "Q A"]


@dataclass(frozen=True)
class Ranked:
    """Where answers stand, and what stands first in their lists."""

    rank_Q: Int64[np.ndarray, " Q"]
    opens_Q: Bool[np.ndarray, " Q"]  # the first of its list among the queries that were ranked together
    top_NK: Int32[np.ndarray, "N K"]  # of those; UNKNOWN_ITEM where no more are left to show

    @classmethod
    def joined(cls, parts: Sequence["Ranked"]) -> "Ranked":
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))

    def top_of_lists(self, list_Q: Int64[np.ndarray, " Q"]) -> Int32[np.ndarray, "L K"] | None:
        """A row for each list, of its first query; None where nothing was kept."""
        if not self.top_NK.shape[1]:
            return None
        is_first_Q = np.diff(list_Q, prepend=-1) != 0
        return self.top_NK[is_first_Q[self.opens_Q]]


def _answer(
    model: GenerativeRecommender,
    catalogue: Catalogue | None,
    dataset: Dataset,
    chunk: Targets,
    inputs: Inputs,
    histories: "_Histories",
    protocol: Protocol,
    negatives: Iterator[Int64[np.ndarray, " N"]] | None,
    keep: int,
) -> _ChunkAnswers:
    ranked, predicted, loss_sum = None, {}, {}
    label_M = inputs.questions[0].label_M
    item_Q, label_QA = inputs.item_E[label_M].cpu().numpy(), inputs.action_EA[label_M]
    for questions, state_MD in zip(inputs.questions, model(inputs), strict=True):
        state_MD = state_MD.float()
        match questions.target.fact.field:
            case "i":
                assert catalogue is not None, "the layout predicts an item"
                beside = partial(histories.beside, model)
                rank = partial(_ranked, catalogue, dataset, chunk, beside, protocol, negatives, keep)
                ranked = without_autocast(rank, state_MD)
            case "a":
                assert model.heads is not None, "a layout that predicts actions has heads"
                out = without_autocast(partial(model.action_outputs, questions), state_MD)
                predicted = {name: value.cpu().numpy() for name, value in model.heads.expected(out).items()}
                losses = model.heads.losses_of(out, label_QA)
                count_A = (~label_QA.isnan()).sum(0).tolist()
                loss_sum = {
                    n: float(loss) * count for (n, loss), count in zip(losses.items(), count_A, strict=True)
                }
            case "c":
                raise AssertionError("a layout that predicts conditions is refused")
            case field:
                assert_never(field)
    return _ChunkAnswers(item_Q, ranked, predicted, loss_sum, label_QA.cpu().numpy())


def without_autocast(function: Callable[[Tensor], Value], state_MD: Tensor) -> Value:
    """Scores that decide a rank are computed in fp32: bf16 holds 8 bits, and items would tie."""
    with torch.autocast(state_MD.device.type, enabled=False):
        return function(state_MD)


def _ranked(
    catalogue: Catalogue,
    dataset: Dataset,
    chunk: Targets,
    beside: Callable[[slice], AddedScores | None],
    protocol: Protocol,
    negatives: Iterator[Int64[np.ndarray, " N"]] | None,
    keep: int,
    state_QD: Tensor,
) -> Ranked:
    found = []
    for rows in steps.even(len(chunk), catalogue.users_per_step):
        scored = catalogue.scored(state_QD[rows], beside(rows))
        found.append(ranked_in_catalogue(scored, dataset, chunk[rows], protocol, negatives, keep))
    return Ranked.joined(found)


def ranks_in_catalogue(
    scored: Callable[[], Iterable[Scores]],
    dataset: Dataset,
    asked: Targets,
    protocol: Protocol,
    negatives: Iterator[Int64[np.ndarray, " N"]] | None,
) -> Int64[np.ndarray, " Q"]:
    """As `ranked_in_catalogue`, of the answers alone."""
    return ranked_in_catalogue(scored, dataset, asked, protocol, negatives, keep=0).rank_Q


def ranked_in_catalogue(
    scored: Callable[[], Iterable[Scores]],
    dataset: Dataset,
    asked: Targets,
    protocol: Protocol,
    negatives: Iterator[Int64[np.ndarray, " N"]] | None,
    keep: int,
) -> Ranked:
    """Ranks in the full catalogue, or among sampled items; 1 is the top. Other answers of the same user never compete:
    they are right, too (`plait.metrics.retrieval.places_of` makes room for them).

    Where seen items are filtered, an answer that was seen before could never be recommended: it has no rank that
    counts. (To let it compete would tell the label by its being the one seen item left.)

    Args:
        scored: gives the scores of the whole catalogue; what it gives is changed.
        negatives: of `negatives_of`; the next ones are these targets'.
        keep: how many items of each list are kept, of the full catalogue in any case.
    """
    item_Q, seen = dataset.target_items(asked), Seen(*dataset.seen_items(asked))
    opens_Q = np.diff(dataset.lists(asked), prepend=-1) != 0
    filtered, first = seen if protocol.filter_seen else None, _First(opens_Q, keep)
    if negatives is None:
        rank_Q = _ranks_in_full(scored, item_Q, Seen(*dataset.answers(asked)), filtered, first)
    else:
        item_QN = np.stack(list(islice(negatives, len(asked))))
        score_QC = scores_at(scored(), np.concatenate([item_Q[:, None], item_QN], axis=1))
        rank_Q = retrieval.ranks_of(np.zeros_like(item_Q), score_QC.cpu().numpy())
        for part in scored() if keep else ():
            first.see(without(part, filtered))
    if protocol.filter_seen:
        query_S = np.repeat(np.arange(len(item_Q)), np.diff(seen.start_U1))
        rank_Q[query_S[seen.item_S == item_Q[query_S]]] = retrieval.NEVER
    return Ranked(rank_Q, opens_Q, first.top_NK)


def _ranks_in_full(
    scored: Callable[[], Iterable[Scores]],
    item_Q: Int64[np.ndarray, " Q"],
    answers: Seen,
    seen: Seen | None,
    first: "_First",
) -> Int64[np.ndarray, " Q"]:
    """Ranks in which the answer always competes: 1, and one more for each rival that scores as high."""
    answer_Q1 = scores_at(scored(), item_Q[:, None])
    rank_Q = np.ones_like(item_Q)
    for part in scored():
        left = without(part, seen)
        first.see(left)
        rivals = without(left, answers)
        score_QC = torch.cat([answer_Q1, rivals.score_UC], dim=1).cpu().numpy()
        rank_Q += retrieval.ranks_of(np.zeros_like(item_Q), score_QC) - 1
    return rank_Q


class _First:
    """The first items of some rows' lists, of the parts of a catalogue as they are met."""

    def __init__(self, opens_Q: Bool[np.ndarray, " Q"], keep: int) -> None:
        self.opens_Q, self.keep = torch.from_numpy(opens_Q), keep
        self._best: tuple[Tensor, Tensor] | None = None

    def see(self, part: Scores) -> None:
        """One part more, of all rows; what nobody may be shown scores -inf."""
        if not self.keep:
            return
        opens_Q = self.opens_Q.to(part.score_UC.device)
        score_NC = part.score_UC if bool(opens_Q.all()) else part.score_UC[opens_Q]
        self._best = joined_best(self._best, Scores(part.item_C, score_NC), self.keep)

    @property
    def top_NK(self) -> Int32[np.ndarray, "N K"]:
        found_NK = np.full((int(self.opens_Q.sum()), self.keep), UNKNOWN_ITEM, dtype=np.int32)
        if self._best is not None:
            score_NC, item_NC = (of.cpu().numpy() for of in self._best)
            found_NK[:, : item_NC.shape[1]] = np.where(np.isneginf(score_NC), UNKNOWN_ITEM, item_NC)
        return found_NK


def negatives_of(
    dataset: Dataset, targets: Targets, protocol: Protocol
) -> Iterator[Int64[np.ndarray, " N"]] | None:
    """Items to rank each answer among, target after target; None where that is the full catalogue.

    All answers to one list are ranked among the same. They depend on the targets and the seed alone: not on how many
    are computed at a time, nor on the model.
    """
    if protocol.negatives is None:
        return None
    _, first_L, answers_L = np.unique(dataset.lists(targets), return_index=True, return_counts=True)
    lists = targets[first_L]
    rng = numpy_generator(protocol.seed, Stream.RANKED, len(lists))
    blocks = (lists[rows] for rows in steps.even(len(lists), SAMPLED_AT_A_TIME))
    row_LN = (row_N for block in blocks for row_N in _sampled(dataset, block, protocol, rng))
    return (row_N for row_N, count in zip(row_LN, answers_L, strict=True) for _ in range(count))


def _sampled(
    dataset: Dataset, lists: Targets, protocol: Protocol, rng: np.random.Generator
) -> Int64[np.ndarray, "L N"]:
    """Items to rank the answers of each list among; none is an answer of its user.

    Where seen items stay in the list, they are sampled like others: against unseen items alone, an answer that was
    seen would be told by that.

    Args:
        lists: a target of each.
    """
    assert protocol.negatives is not None
    start_L1, item_S = never_rivals(dataset, lists, protocol)
    item_L = dataset.target_items(lists)
    return retrieval.sample_negatives(dataset.num_items, item_L, start_L1, item_S, protocol.negatives, rng)


def never_rivals(
    dataset: Dataset, lists: Targets, protocol: Protocol
) -> tuple[Int64[np.ndarray, " L1"], Int64[np.ndarray, " S"]]:
    """Items that compete with no answer of a list: end to end, and where each list's begin.

    Args:
        lists: a target of each.
    """
    parts = [dataset.answers(lists), *([dataset.seen_items(lists)] if protocol.filter_seen else [])]
    length_PL = np.stack([np.diff(start_L1) for start_L1, _ in parts])
    list_S = np.concatenate([np.repeat(np.arange(len(lists)), length_L) for length_L in length_PL])
    item_S = np.concatenate([item_s for _, item_s in parts])
    return np.cumsum([0, *length_PL.sum(0)]), item_S[np.argsort(list_S, kind="stable")]


def check_negatives(dataset: Dataset, part: HeldOutPart, targets: Targets, protocol: Protocol) -> None:
    """Raises ValueError where a held-out event has too few items that could be sampled."""
    try:
        for _ in negatives_of(dataset, targets, protocol) or ():
            pass
    except ValueError as error:
        raise ValueError(
            f"{setting('protocol.negatives', protocol.negatives)} is too much for the {part}: {error}"
        ) from error


def _joined(parts: list[_ChunkAnswers], targets: Targets, dataset: Dataset, lists: Lists) -> Answers:
    label_QA = np.concatenate([part.label_QA for part in parts])
    count_A = (~np.isnan(label_QA)).sum(0)
    first, list_Q = parts[0], dataset.lists(targets)
    of_items = [part.ranked for part in parts if part.ranked is not None]
    ranked = Ranked.joined(of_items) if of_items else None
    return Answers(
        user_Q=targets.user_Q,
        list_Q=list_Q,
        item_Q=np.concatenate([part.item_Q for part in parts]),
        rank_Q=None if ranked is None else ranked.rank_Q,
        predicted={
            name: np.concatenate([part.predicted[name] for part in parts]) for name in first.predicted
        },
        label_QA=label_QA,
        loss={
            action.name: sum(part.loss_sum[action.name] for part in parts) / int(count)
            for action, count in zip(dataset.actions, count_A, strict=True)
            if count and action.name in first.loss_sum
        },
        actions=dataset.actions,
        lists=lists,
        top_LK=None if ranked is None else ranked.top_of_lists(list_Q),
    )


def measure(answers: Answers) -> dict[str, Statistic]:
    """Every metric that the answers allow, by name: "ndcg@10", "rmse:rating", ...

    Retrieval metrics are means over users of the mean over each user's lists; scoring metrics are pooled over events.
    """
    found: dict[str, Statistic] = {}
    if answers.rank_Q is not None:
        found = measured_on_ranks(
            answers.user_Q, answers.list_Q, answers.item_Q, answers.rank_Q, answers.lists
        )
    for column, action in enumerate(answers.actions):
        label_Q = answers.label_QA[:, column]
        if action.name in answers.predicted and not np.isnan(label_Q).all():
            scores = _measure_action(answers.user_Q, answers.predicted[action.name], label_Q, action)
            found |= {f"{name}:{action.name}": statistic for name, statistic in scores.items()}
    return found


def metric_values(answers: Answers, untrained: Collection[str] = ()) -> dict[str, float]:
    """The metrics that are defined, and what training may be judged by: losses and normalised errors, such as
    "loss:rating", and "loss:actions" for their sum.

    Args:
        untrained: actions of weight 0, which do not count in the sums.
    """
    values = {name: statistic.value for name, statistic in measure(answers).items()}
    found = {name: value for name, value in values.items() if value is not None}
    for metric, in_all, by_action in (
        (LOSS, LOSS_OF_ACTIONS, answers.loss),
        (ERROR, ERROR_OF_ACTIONS, _normalised_errors(answers)),
    ):
        found |= {f"{metric.name}:{name}": value for name, value in by_action.items()}
        trained = [value for name, value in by_action.items() if name not in untrained]
        if trained:
            found[in_all] = sum(trained)
    return found


def _normalised_errors(answers: Answers) -> dict[str, float]:
    """By action, as far as there are two different labels."""
    found: dict[str, float] = {}
    for column, action in enumerate(answers.actions):
        label_Q = answers.label_QA[:, column]
        if action.name in answers.predicted and not np.isnan(label_Q).all():
            scale, function = ERROR.way_of(action.kind)
            predicted_Q = answers.predicted[action.name]
            value = function(_at_scale(scale, answers.user_Q, predicted_Q, label_Q, action)).value
            found |= {} if value is None else {action.name: value}
    return found


def _measure_action(
    user_Q: Int64[np.ndarray, " Q"],
    predicted_Q: Float32[np.ndarray, "Q ..."],
    label_Q: Float32[np.ndarray, " Q"],
    action: Action,
) -> dict[str, Statistic]:
    """The metrics of the action's kind, each at its scale."""
    metrics = of_kind(action.kind)
    pairs = {
        scale: _at_scale(scale, user_Q, predicted_Q, label_Q, action)
        for scale in {metric.scale for metric in metrics}
    }
    return {metric.name: metric.statistic(pairs[metric.scale]) for metric in metrics}


def _at_scale(
    scale: Scale,
    user_Q: Int64[np.ndarray, " Q"],
    predicted_Q: Float32[np.ndarray, "Q ..."],
    label_Q: Float32[np.ndarray, " Q"],
    action: Action,
) -> Labelled:
    match scale:
        case "chances":
            return labelled(user_Q, predicted_Q, label_Q)
        case "log":
            return labelled(user_Q, *action.kind.log_numbers(predicted_Q, label_Q))
        case "model":
            both_Q2 = np.stack([predicted_Q, label_Q], axis=1)
            unit_Q2 = scaled((action, action), torch.from_numpy(both_Q2)).numpy()
            return labelled(user_Q, unit_Q2[:, 0], unit_Q2[:, 1])
        case _:
            assert_never(scale)
