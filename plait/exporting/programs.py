"""A model as exported programs: what each takes and gives, and how torch and ONNX are told.

Shape letters: U users, T events, A action columns, C candidates.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import msgspec
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from plait.engine.agreement_cases import fields_asked
from plait.exporting.counted import action_counts
from plait.exporting.graphs import Answering, Encode, Rank, Score, Tensors
from plait.models.generative import GenerativeRecommender

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 20
EXAMPLE = {"users": 3, "events": 7, "candidates": 5}  # the sizes that are traced

AXES: dict[str, tuple[str, ...]] = {  # of what may be of any size; other axes are the model's
    "item": ("users", "events"),
    "actions": ("users", "events"),
    "time_s": ("users", "events"),
    "request": ("users", "events"),
    "length": ("users",),
    "before": ("users",),
    "candidates": ("users", "candidates"),
    "at_s": ("users",),
    "keys": ("users", "", "", "", "tokens"),
    "position": ("users", "tokens"),
    "key_time_s": ("users", "tokens"),
    "requests": ("users",),
    "last_time_s": ("users",),
    "hidden_a": ("users",),
    "hidden_i": ("users",),
    "late_a": ("users",),
    "late_i": ("users",),
    "met_item": ("users", "events"),
    "met_weight": ("users", "events"),
    "counted": ("users",),
}


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor that a program takes or gives."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]  # a name where any size will do


class Ports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a program takes and gives, in order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, eq=False)
class Drafted:
    """A program before it is exported."""

    module: nn.Module
    example: Tensors
    ports: Ports


def history_names(model: GenerativeRecommender) -> tuple[str, ...]:
    """What `Encode` reads of histories."""
    trunk = model.config.settings.trunk
    reads = {
        "item": True,
        "actions": "a" in model.layout.embedded or action_counts(model.counts) is not None,
        "time_s": trunk.reads_time,
        "request": trunk.reads_requests or model.plan.window.opens_within > 1,
        "length": True,
        "before": True,
    }
    return tuple(name for name, is_read in reads.items() if is_read)


def events_read(model: GenerativeRecommender) -> int:
    """How many last events of a history its answers depend on: those before them may be left out."""
    plan = model.plan
    return plan.window.longest + plan.lead + (plan.window.opens_within > 1)


@torch.no_grad()
def drafted(model: GenerativeRecommender) -> dict[str, Drafted]:
    """The programs of a model in evaluation mode, by name: encode, and as far as the layout has them score and rank."""
    answers = {field: Answering.of(model, field) for field in fields_asked(model)}
    asked = [each for each in answers.values() if each is not None]
    encode = Encode(model, asked).eval()
    history = {name: _example(model)[name] for name in history_names(model)}
    state = encode(history)
    found = {"encode": _drafted(encode, history)}
    for field, each in answers.items():
        assert each is not None, "fields that are asked about are answered"
        taken = {name: state[name] for name in each.state_names(state)}
        if field == "a":
            taken["candidates"] = _example(model)["candidates"]
        if model.config.settings.trunk.reads_time and not each.reads_history:
            taken["at_s"] = _example(model)["at_s"]
        match field:
            case "a":
                found["score"] = _drafted(Score(model, each).eval(), taken, ("users", "candidates"))
            case "i":
                found["rank"] = _drafted(Rank(model, each).eval(), taken, ("users",))
            case "c":
                raise AssertionError("no condition is asked about")
            case _:
                assert_never(field)
    return found


@torch.no_grad()
def as_torch(draft: Drafted) -> ExportedProgram:
    """By `torch.export`, whose program takes the inputs as one dictionary."""
    names = sorted({axis for name in draft.example for axis in AXES[name] if axis})
    dims = {name: Dim(name) for name in names}
    shapes = {name: {at: dims[axis] for at, axis in enumerate(AXES[name]) if axis} for name in draft.example}
    with _quietly():
        return torch.export.export(draft.module, (draft.example,), dynamic_shapes=(shapes,))


@torch.no_grad()
def as_onnx(draft: Drafted) -> "ONNXProgram":
    """By torch's exporter, with the inputs and outputs by their names."""
    with _quietly():
        program = torch.onnx.export(
            as_torch(draft),
            dynamo=True,
            opset_version=OPSET,
            input_names=[port.name for port in draft.ports.inputs],
            output_names=[port.name for port in draft.ports.outputs],
            verbose=False,
        )
    assert program is not None, "the exporter writes no file of its own here"
    return program


def _drafted(module: nn.Module, example: Tensors, axes_of_answers: tuple[str, ...] = ()) -> Drafted:
    inputs = tuple(_port(name, tensor, AXES[name]) for name, tensor in example.items())
    outputs = tuple(_port(name, x, axes_of_answers or AXES[name]) for name, x in module(example).items())
    return Drafted(module, example, Ports(inputs, outputs))


def _port(name: str, tensor: Tensor, axes: tuple[str, ...]) -> Port:
    shape = tuple(axes[at] if at < len(axes) and axes[at] else int(n) for at, n in enumerate(tensor.shape))
    return Port(name, str(tensor.dtype).removeprefix("torch."), shape)


def _example(model: GenerativeRecommender) -> Tensors:
    users, events, candidates = EXAMPLE.values()
    ones_UT = torch.ones(users, events, dtype=torch.int64)
    length_U = torch.arange(events - users + 1, events + 1)
    return {
        "item": ones_UT,
        "actions": torch.full((users, events, len(model.config.actions)), torch.nan),
        "time_s": ones_UT.cumsum(1),
        "request": ones_UT.cumsum(1),
        "length": length_U,
        "before": torch.zeros_like(length_U),
        "candidates": torch.ones(users, candidates, dtype=torch.int64),
        "at_s": length_U + events,
    }


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporters say of their own insides."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
