"""What a training step costs: the FLOPs of its matrix products.

A product of (m, k) by (k, n) counts 2 m k n. Element by element work (norms, softmax, activations) is not counted, and
neither are padding and rows that are looked up.
"""

from typing import assert_never

from jaxtyping import Int64
from torch import Tensor, nn

from plait.layouts.cost import BACKWARD
from plait.models.generative import GenerativeRecommender
from plait.models.inputs import Inputs, Questions
from plait.models.ranker import Ranker
from plait.models.two_tower import TwoTower
from plait.nn.encoders import ItemEncoder
from plait.nn.read import Read
from plait.nn.towers import Mmoe, PersonalGate, PleLevel
from plait.nn.trunk import TokensAndPairs
from plait.nn.visibility import Segments, Visibility


def step_flops(model: GenerativeRecommender, inputs: Inputs) -> float:
    """FLOPs of one training step, forward and backward."""
    flops = (1 + BACKWARD) * _flops_of_histories(model, inputs)
    flops += sum(
        len(each.cell_M) * _flops_of_question(model, each, len(each.cell_M)) for each in inputs.questions
    )
    if model.items is not None:
        flops += _num_encoded(model, inputs) * _flops_of_row(model.items)  # of features alone
        if model.item_interest is not None:
            flops += _num_encoded(model, inputs) * _flops_of_row(model.item_interest)
    return flops


def _flops_of_histories(model: GenerativeRecommender, inputs: Inputs) -> float:
    """FLOPs, forward, of all that stands between embeddings and what heads read."""
    if isinstance(model, Ranker | TwoTower):
        return model.flops(inputs)
    every = _amounts(model, inputs, None)
    return model.trunk.flops(every, None if inputs.read is None else _amounts(model, inputs, inputs.read))


def _amounts(model: GenerativeRecommender, inputs: Inputs, read: Read | None) -> TokensAndPairs:
    segments = inputs.segments
    strict_pairs = num_pairs(segments, strict=True, read=read) if model.layout.rides else 0.0
    num_tokens = inputs.num_tokens if read is None else len(read.cell_M)
    return TokensAndPairs(num_tokens, num_pairs(segments, read=read), strict_pairs)


def num_pairs(segments: Segments, strict: bool = False, read: Read | None = None) -> float:
    """How many pairs of slots attend, a slot's own included: n (n + 1) / 2 for n causal tokens.

    Args:
        strict: without the slots of the same event: n (n - 1) / 2.
        read: which slots do; by default all.
    """
    seen_C = _num_seen(segments, strict).flatten()
    return float(seen_C[(segments.segment_RL >= 0).flatten() if read is None else read.cell_M].sum())


def _num_seen(segments: Segments, strict: bool) -> Int64[Tensor, "R L"]:
    if segments.seen_RL is None and segments.event_RL is None:
        return segments.index_RL + (not strict)
    return Visibility(segments, segments).num_seen(strict)


def weight_flops(module: nn.Module) -> float:
    """Forward FLOPs, for one row, of a module that multiplies it with each of its matrices once.

    >>> weight_flops(nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 2)))
    50.0
    """
    looked_up = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = (p for p in module.parameters() if p.ndim > 1 and id(p) not in looked_up)
    return 2.0 * sum(matrix.numel() for matrix in matrices) + 2.0 * sum(map(_num_mixed, module.modules()))


def _flops_of_question(model: GenerativeRecommender, questions: Questions, num_questions: int) -> float:
    """FLOPs of everything after the trunk, for one question."""
    flops = _flops_of_row(model.couplers[str(questions.target)]) if questions.given_M else 0.0
    match questions.target.fact.field:
        case "i":
            num_scored = model.retrieval.num_scored(model.config.num_items, num_questions)
            width = model.config.settings.trunk.dim
            if model.state_interest is not None:
                width, flops = model.state_interest.out_features, flops + _flops_of_row(model.state_interest)
            return flops + (1 + BACKWARD) * 2.0 * width * num_scored
        case "a":
            assert model.heads is not None, "a layout that predicts actions has heads"
            return flops + _flops_of_row(model.heads)
        case "c":
            raise AssertionError("a layout that predicts conditions is refused")
        case field:
            assert_never(field)


def _num_encoded(model: GenerativeRecommender, inputs: Inputs) -> int:
    """Items that a step encodes: at most, where negatives are drawn, for some may be the batch's."""
    asks_items = any(each.target.fact.field == "i" for each in inputs.questions)
    num_rows = model.config.num_items + 1
    if asks_items and model.retrieval.kind == "full":
        return num_rows
    drawn = model.retrieval.num_negatives if asks_items and model.retrieval.kind == "sampled" else 0
    return min(num_rows, len(inputs.item_E.unique()) + drawn)


def _flops_of_row(module: nn.Module) -> float:
    """FLOPs for one row, forward and backward."""
    no_gradient = 2.0 * sum(map(_num_without_gradient, module.modules()))
    return (1 + BACKWARD) * weight_flops(module) - no_gradient


def _num_without_gradient(module: nn.Module) -> int:
    """Weights of the matrices, for one row, that multiply what gets no gradient."""
    match module:
        case PersonalGate():
            return module.inner.weight.numel()
        case ItemEncoder() if module.features:
            return module.dim * module.vector_VX.shape[1]
        case _:
            return 0


def _num_mixed(module: nn.Module) -> int:
    """Multiplications, for one row, of gates with the experts' outputs: the only products after the trunk in which
    no weight takes part."""
    match module:
        case Mmoe():
            return module.num_tasks * module.experts.out_features
        case PleLevel():
            own, shared = module.own_experts.out_features, module.shared_experts.out_features
            mixed = own + module.own_experts.num_groups * shared
            return mixed if module.shared_gate is None else mixed + own + shared
        case _:
            return 0
