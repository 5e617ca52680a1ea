"""The engine multiplies as the model was trained, where the machine gains by it, and never less exactly."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import assert_caught, assert_not_vacuous, batch_of, model_of, trunk_of

from plait.engine import multiplying, one_pass, plain
from plait.engine.agreement import check
from plait.engine.multiplying import FEW_TOKENS, multiplied_in, served_in
from plait.engine.state import append, encode
from plait.layouts import resolve
from plait.models.generative import GenerativeRecommender, ModelSettings
from plait.nn.arithmetic import EXACT as EXACT_PRODUCT
from plait.nn.arithmetic import Measured
from plait.nn.precision import Multiplied

ITEMS = np.array([[3, 5, 16], [2, 9, 4], [6, 6, 1]])
WITH_AMX = {
    "fp32": Measured(3.0, 3e-7),
    "fp32_onednn": Measured(1.0, 3e-3),  # rounds
    "bf16": Measured(1.0, 3e-3),
}
WITHOUT = {
    "fp32": Measured(3.0, 3e-7),
    "fp32_onednn": Measured(2.0, EXACT_PRODUCT),
    "bf16": Measured(9.0, 3e-3),
}


@contextmanager
def machine(measured: dict[Multiplied, Measured], few_tokens: int = 1) -> Iterator[None]:
    """One whose probe would say so."""
    patch = pytest.MonkeyPatch()
    patch.setattr(multiplying, "_measured", lambda dim, device: measured)
    patch.setattr(multiplying, "FEW_TOKENS", few_tokens)
    multiplying._chosen.cache_clear()
    try:
        yield
    finally:
        patch.undo()
        multiplying._chosen.cache_clear()


def model_for(
    name: str, positions: str, kind: str, arithmetic: Multiplied | None = "bf16"
) -> GenerativeRecommender:
    trunk = replace(trunk_of(positions), kind=kind, dim=16)
    model = model_of(resolve(name), max_events=5, settings=ModelSettings(trunk=trunk))
    if model.heads is not None:
        torch.nn.init.normal_(model.heads.weight_KD, std=0.4)
    model.config = replace(model.config, arithmetic=arithmetic)
    return model


IN_BF16 = "in the arithmetic of its training"
CASES = [
    ("lac", "learned", "gpt"),
    ("interleaved", "alibi", "gpt"),
    ("attn_mvp", "rope", "gpt"),
    ("attn_dhn", "rab", "hstu"),
    ("genrank", "genrank", "gpt"),
    ("lac_patched", "rab", "hstu"),
    ("pc", "learned", "hstu"),
]


@pytest.mark.parametrize(
    ("recorded", "measured", "served"),
    [
        ("bf16", WITH_AMX, "bf16"),
        ("bf16", WITHOUT, "fp32_onednn"),
        ("fp32", WITH_AMX, "fp32"),
        ("fp32", WITHOUT, "fp32_onednn"),
        (None, WITH_AMX, "fp32"),
        ("fp32_onednn", WITH_AMX, "fp32"),
        ("fp32_onednn", WITHOUT, "fp32_onednn"),
    ],
)
def test_what_is_faster_and_as_exact_as_in_training_is_taken(recorded, measured, served):
    model = model_for("lac", "learned", "gpt", recorded)
    with machine(measured):
        assert served_in(model) == served
        with multiplied_in("fp32"):
            assert served_in(model) == "fp32"
            with multiplied_in(None):
                assert served_in(model) == served
        assert served_in(model) == served


def test_few_tokens_are_not_worth_rounding_the_weights():
    with machine(WITH_AMX, FEW_TOKENS):
        model = model_for("lac", "learned", "gpt")
        assert [served_in(model, n) for n in (FEW_TOKENS - 1, FEW_TOKENS)] == ["fp32", "bf16"]


def check_served(name: str, positions: str, kind: str) -> Counter[str]:
    """In fp32 to the rounding of fp32, in bf16 to that of bf16, which is large in models of so few weights."""
    model, met = model_for(name, positions, kind), Counter[str]()
    batch = batch_of((7, 2, 4, 3, 6, 9, 5, 8))
    with machine(WITH_AMX):
        found = check(model, batch, seed=1)
        for each in found.compared:
            assert each.agrees or (each.way == IN_BF16 and each.difference < 0.15), each
            met[each.way] += each.num_logits
        kept = one_pass.encode(model, encode(batch, model.plan.window, model.plan.lead)).kept
    assert kept is not None and {x.dtype for keys in kept.encoded.keys for x in keys} == {torch.bfloat16}
    assert kept.encoded.hidden_SD.dtype == torch.float32
    return met


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize("case", CASES[:5], ids=str)
def test_every_family_answers_in_bf16_as_it_was_trained(case):
    assert_not_vacuous(check_served(*case), above=4)


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_keys_of_one_arithmetic_are_read_and_grow_in_the_other():
    """Against fp32 throughout, within rounding; and rounding there is."""
    event = replace(batch_of((1, 1, 1), seed=4), time_s_E=np.full(3, 2_000_000))
    gaps = []
    for name, positions, kind in CASES:
        model = model_for(name, positions, kind)
        state = encode(batch_of((3, 2, 4)), model.plan.window, model.plan.lead)
        after = append(state, event, model.plan.window, model.plan.lead)
        with multiplied_in("fp32"):
            right = plain.score(model, after, ITEMS, at_s=2_000_001)
        for first, then in (("bf16", "fp32"), ("fp32", "bf16")):
            with multiplied_in(first):
                kept = one_pass.encode(model, state)
            with multiplied_in(then):
                grown = one_pass.append(model, kept, after)
                found = one_pass.score(model, grown, ITEMS, at_s=2_000_001)
            for action, score_UC in found.items():
                spread = float(np.ptp(right[action]))
                gaps += [float(np.abs(score_UC - right[action]).max()) / spread] if spread else []
    assert len(gaps) > 20 and max(gaps) < 0.1 and sum(gap > 1e-5 for gap in gaps) > len(gaps) / 2, gaps


def check_exact(arithmetic: Multiplied) -> None:
    with machine(WITH_AMX):
        found = check(model_for("lac", "learned", "gpt", arithmetic), batch_of((7, 2, 4)), seed=1)
    assert found.agrees, [each for each in found.compared if not each.agrees]


@pytest.mark.usefixtures("shapes_are_not_checked")
def test_a_model_of_fp32_that_is_served_in_bf16_is_caught(monkeypatch):
    check_exact("fp32")
    monkeypatch.setattr(multiplying, "as_exact_as", lambda recorded: frozenset(WITH_AMX))
    assert_caught(check_exact, "fp32")
