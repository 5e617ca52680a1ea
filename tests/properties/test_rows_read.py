"""Whatever is combined: rows that nobody reads change no state, no loss and no gradient when they are left out."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conformance import Case, a_log, cases
from tiny import assert_caught, assert_not_vacuous
from torch import Tensor

from plait.models.combining import combinations
from plait.models.inputs import Inputs
from plait.models.questions import Exposure
from plait.nn import read as read_module

ALLOWED = [combination for combination in combinations() if not combination.problems]
# Every layout over every trunk and every positions, and other exposures in turn.
CHOSEN = [each for number, each in enumerate(ALLOWED) if each.exposure == Exposure() or number % 29 == 0]
BY_TRUNK = sorted({(each.trunk, each.positions) for each in CHOSEN})


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    largest = expected.abs().max().clamp(min=1.0)
    assert (found - expected).abs().max() <= tolerance * largest


def losses_and_slopes(case: Case, inputs: Inputs) -> tuple[Tensor, list[Tensor | None]]:
    weights = list(case.model.parameters())
    losses = torch.stack(list(case.model.losses(inputs).values()))
    return losses.detach(), list(torch.autograd.grad(losses.sum(), weights, allow_unused=True))


def check_parity(case: Case, changed: Callable[[Inputs], Inputs] = lambda inputs: inputs) -> dict[str, int]:
    met = {"training": 0, "query": 0, "unread": 0}
    for way, inputs in {"training": case.training(a_log()), "query": case.query(a_log())}.items():
        if inputs.read is None:
            continue
        met[way] += 1
        met["unread"] += inputs.num_tokens - len(inputs.read.cell_M)
        some, every = changed(inputs), replace(inputs, read=None)
        with torch.no_grad():
            for found, expected in zip(case.model(some), case.model(every), strict=True):
                assert_close(found, expected, 1e-6)
        if way == "query":
            continue
        (losses, slopes), (right, right_slopes) = (losses_and_slopes(case, each) for each in (some, every))
        assert_close(losses, right, 1e-6)
        for slope, expected in zip(slopes, right_slopes, strict=True):
            assert (slope is None) == (expected is None)
            if slope is not None and expected is not None:
                assert_close(slope, expected, 1e-5)
    return met


@pytest.mark.usefixtures("shapes_are_not_checked")
@pytest.mark.parametrize(("trunk", "positions"), BY_TRUNK)
def test_rows_that_nobody_reads_change_nothing(trunk, positions, monkeypatch):
    monkeypatch.setattr(read_module, "LARGEST_SHARE", 0.95)
    met = {"training": 0, "query": 0, "unread": 0}
    for combination in CHOSEN:
        if (combination.trunk, combination.positions) == (trunk, positions):
            for case in cases(combination):
                met = {name: count + met[name] for name, count in check_parity(case).items()}
    assert_not_vacuous(met, above=2)  # few go together with DLRM-v3's positions


def without_the_first(inputs: Inputs) -> Inputs:
    """One row too few: what is asked there is answered by the next."""
    assert inputs.read is not None
    read = inputs.read
    return replace(inputs, read=replace(read, number_RQ=read.number_RQ.clamp(min=1)))


@pytest.mark.parametrize("layout", ["item", "lac", "pc", "interleaved", "genrank", "attn_mvp", "lum"])
@pytest.mark.parametrize("trunk", ["gpt", "hstu"])
def test_a_row_too_few_is_caught(layout, trunk):
    combination = next(each for each in CHOSEN if (each.name, each.trunk) == (layout, trunk))
    assert_caught(check_parity, cases(combination)[-1], without_the_first)
