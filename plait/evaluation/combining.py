"""Counts beside a trained model: tables of the training rows, and weights by the validation's answers.

Shape letters: Q answers, V items of the catalogue, T terms, the model's first.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float32

from plait.baselines.asking import SameRequest, training_log
from plait.baselines.retrieval import EASE_ITEMS, LAST, PAIRED_EVENTS, RECENT_DECAYS, RIDGES, WINDOWS
from plait.counts import histories, items
from plait.counts.beside import Counts, ItemCounts, Tables, pruned
from plait.counts.combining import MODEL, Choices, FittedWeights, combination
from plait.data import Dataset, Targets
from plait.engine.ranking import FIRST_ITEM, catalogue_of
from plait.engine.state import before
from plait.evaluation.action_counts import action_counts_of, actions_again
from plait.evaluation.answers import batch_of_targets, forward_steps, in_context, targets_of, without_autocast
from plait.evaluation.counting import QUESTIONS, spread
from plait.evaluation.settings import Protocol
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import query_inputs

SCORES = 1 << 23  # of the validation that are held, of each term
FEWEST = 100  # answers: from about so many on, the fit is stable


def tables_of(dataset: Dataset, protocol: Protocol, same_request: SameRequest) -> tuple[Tables, str]:
    """What is counted on the training rows, and in words what pruning lost. By the usual settings of the baselines:
    the weights make up for most of what others would gain."""
    log = training_log(dataset, same_request)
    window = WINDOWS[0] if len(log.item_E) <= PAIRED_EVENTS else 1
    followers = items.followers(log.item_E, log.start_U1, log.history_end_E, log.num_items, window)
    rules, lost = pruned(items.shares(followers).astype(np.float32))
    ease, said = None, f"rules pruned by {100 * lost:.2g} %"
    if log.num_items <= EASE_ITEMS:
        met = histories.items_met(log.item_E, log.start_U1, log.num_items)
        ease, lost = pruned(items.ease(items.together(met), RIDGES[0]).astype(np.float32))
        said += f", EASE by {100 * lost:.2g} %"
    popularity = items.popularity(log.item_E, log.num_items)
    tables = Tables(popularity, rules, LAST, RECENT_DECAYS[0], ease, reads_own=not protocol.filter_seen)
    return tables, said


def counts_of(model: GenerativeRecommender, dataset: Dataset, protocol: Protocol, device: str) -> Counts:
    """The counts that belong beside a trained model. Leaves it in evaluation mode, and without counts.

    Raises:
        ValueError: there is no validation event to fit the weights by.
    """
    model.eval()
    model.counts = None
    return Counts(
        item_counts_of(model, dataset, protocol, device) if model.retrieves else None,
        action_counts_of(model, dataset, protocol, device) if model.predicts_actions else None,
        model.config.settings.exposure.same_request,
    )


@torch.no_grad()
def item_counts_of(
    model: GenerativeRecommender, dataset: Dataset, protocol: Protocol, device: str
) -> ItemCounts:
    """Those of a model that ranks items, which is in evaluation mode and has none yet.

    Raises:
        ValueError: there is no validation event to fit the weights by.
    """
    same_request = model.config.settings.exposure.same_request
    tables, lost = tables_of(dataset, protocol, same_request)
    num_answers = min(QUESTIONS, SCORES // dataset.num_items)
    if num_answers < FEWEST:
        none = np.eye(1 + len(tables.names))[MODEL]
        why = f"the scores of {dataset.num_items:,} items are too many to hold for {FEWEST} answers"
        return ItemCounts(tables, none, f"counts: none, since {why}")
    targets = targets_of(dataset, "validation", model.plan, protocol)
    targets = targets[spread(len(targets), num_answers)]
    tables, choices = _scaled(tables, _choices(model, dataset, targets, tables, protocol, device))
    found = combination(choices)
    said = f"{_told(found, tables.names, len(choices), len(targets))}; {lost}"
    return ItemCounts(tables, found.weight_T, said)


def counted_again(
    counts: Counts, dataset: Dataset, whole: Dataset, protocol: Protocol, same_request: SameRequest
) -> Counts:
    """The same counts of all rows. Weights stay those that the validation gave, for tables in the same units.

    Args:
        dataset: whose training rows they were counted on.
        whole: whose training rows are all rows.
    """
    of_items, of_actions = counts.items, counts.actions
    if of_items is not None:
        of_items = _items_again(of_items, dataset, whole, protocol, same_request)
    if of_actions is not None:
        of_actions = actions_again(of_actions, whole, same_request)
    return Counts(of_items, of_actions, same_request)


def _items_again(
    counts: ItemCounts, dataset: Dataset, whole: Dataset, protocol: Protocol, same_request: SameRequest
) -> ItemCounts:
    tables, lost = tables_of(whole, protocol, same_request)
    if tables.ease is not None and counts.tables.ease is not None:
        before, _ = tables_of(dataset, protocol, same_request)
        assert before.ease is not None, "it is counted by the number of items, which is the same"
        unit = abs(before.ease).max() / (abs(counts.tables.ease).max() or 1.0) or 1.0
        tables = replace(tables, ease=(tables.ease / unit).astype(np.float32))
    return ItemCounts(tables, counts.weight_T, f"{counts.said}; counted again on all rows ({lost})")


def _scaled(tables: Tables, choices: Choices) -> tuple[Tables, Choices]:
    """EASE in units of its spread over candidates, so that its weight can be compared."""
    if tables.ease is None or not len(choices):
        return tables, choices
    place = 1 + tables.names.index("EASE")
    spread = choices.less_TQC[place].std(axis=1).mean().item() or 1.0
    choices.less_TQC[place] /= spread
    return replace(tables, ease=(tables.ease / spread).astype(np.float32)), choices


def _choices(
    model: GenerativeRecommender,
    dataset: Dataset,
    targets: Targets,
    tables: Tables,
    protocol: Protocol,
    device: str,
) -> Choices:
    term_TQV = np.concatenate(list(_terms(model, dataset, targets, tables, device)), axis=1)
    return Choices.of(
        term_TQV,
        _is_left(dataset, targets, protocol),
        dataset.target_items(targets) - FIRST_ITEM,
        dataset.lists(targets),
        targets.user_Q,
    )


def _terms(
    model: GenerativeRecommender, dataset: Dataset, targets: Targets, tables: Tables, device: str
) -> Iterator[Float32[np.ndarray, "T q V"]]:
    """The model's logits and what is counted, of every item, from what the model is asked from."""
    plan, num_items = model.plan, dataset.num_items
    asked = in_context(dataset, targets, plan)
    with torch.autocast(torch.device(device).type, enabled=False):
        catalogue = catalogue_of(model)
    for rows in forward_steps(model, dataset, asked, plan):
        batch, count_B = batch_of_targets(dataset, asked[rows], plan)
        inputs = query_inputs(plan, batch, ("i",), device=device, num_candidates_U=count_B, late=None)
        (state_qD,) = model(inputs)
        term_TqI = np.empty((1 + len(tables.names), len(asked[rows]), num_items + 1), dtype=np.float32)
        for part in without_autocast(lambda state_qD: list(catalogue.parts(state_qD)), state_qD.float()):
            term_TqI[MODEL][:, part.item_C.cpu().numpy()] = part.score_UC.cpu().numpy()
        past, history_q = before(batch, count_B), np.repeat(np.arange(len(count_B)), count_B)
        for place, term_BI in enumerate(tables.terms(past.item_E, past.start_U1, num_items), start=1):
            term_TqI[place] = term_BI[history_q]
        yield term_TqI[:, :, FIRST_ITEM:]


def _is_left(dataset: Dataset, targets: Targets, protocol: Protocol) -> Bool[np.ndarray, "Q V"]:
    is_left_QI = np.ones((len(targets), dataset.num_items + 1), dtype=bool)
    if protocol.filter_seen:
        start_Q1, item_S = dataset.seen_items(targets)
        is_left_QI[np.repeat(np.arange(len(targets)), np.diff(start_Q1)), item_S] = False
    return is_left_QI[:, FIRST_ITEM:]


def _told(found: FittedWeights, names: tuple[str, ...], num_answers: int, num_asked: int) -> str:
    """
    >>> _told(FittedWeights(np.array([0.5, 0.25]), 12.0, 0.01), ("rules",), 100, 100)
    'counts: model 0.50, rules 0.25 (gain in log-likelihood 12.0 over 100 answers of the validation; of one half of \
the users judged on the other, +0.0100 an answer)'
    """
    removed = (
        f", {num_asked - num_answers} that the filter removes left out" if num_asked > num_answers else ""
    )
    gain = f"gain in log-likelihood {found.gain:.1f} over {num_answers} answers of the validation{removed}"
    halves = f"of one half of the users judged on the other, {found.gain_of_halves:+.4f} an answer"
    if not found.has_counts:
        return f"counts: none, since they do not pay ({gain}; {halves})"
    weights = ", ".join(
        f"{name} {weight:.2f}" for name, weight in zip(("model", *names), found.weight_T, strict=True)
    )
    return f"counts: {weights} ({gain}; {halves})"
