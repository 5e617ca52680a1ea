"""What matrices are multiplied in is chosen by time and error, in a few milliseconds, and leaves no trace."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_caught

from plait.nn import arithmetic
from plait.nn import precision as precision_module
from plait.nn.arithmetic import (
    EXACT,
    MARGIN,
    ROUNDED,
    Arithmetic,
    Measured,
    arithmetic_of,
    check_exact,
    choice,
    measure_multiplying,  # as it is: what other tests use is patched
    measure_pairs,
)
from plait.nn.precision import Multiplied, products_by

MOST = {"fp32": float("inf"), "fp32_onednn": EXACT, "bf16": ROUNDED}
TIMES = st.sampled_from([2.0**-n for n in range(4)]) | st.floats(1e-5, 1e-1)
ERRORS = st.sampled_from([3e-7, EXACT, 3e-6, 3e-3, ROUNDED, 0.5, float("nan")])
FOUND = st.fixed_dictionaries(
    {"fp32": st.builds(Measured, TIMES, ERRORS)},
    optional={name: st.builds(Measured, TIMES, ERRORS) for name in ("fp32_onednn", "bf16")},
)
Choice = Callable[[Mapping[Multiplied, Measured]], Multiplied]


def check_choice(choose: Choice, found: Mapping[Multiplied, Measured]) -> Multiplied:
    chosen = choose(found)
    allowed = {name: its for name, its in found.items() if name == "fp32" or its.error <= MOST[name]}
    assert chosen in allowed, "its error is that of its name"
    assert chosen == "fp32" or found[chosen].time_s * MARGIN <= found["fp32"].time_s, "it pays by the margin"
    for name, its in allowed.items():
        assert name == chosen or its.time_s * MARGIN > found[chosen].time_s or name == "fp32", (
            "none pays more"
        )
    slower = {name: replace(its, time_s=8 * its.time_s) for name, its in found.items()}
    assert choose(slower) == chosen, "a slower machine chooses alike"
    return chosen


def test_the_choice_is_the_fastest_of_those_that_are_exact_enough():
    chosen = []

    @given(FOUND)
    def holds(found):
        chosen.append(check_choice(choice, found))

    holds()
    assert set(chosen) == {"fp32", "fp32_onednn", "bf16"}, "the property met every case"


def by_time_alone(found: Mapping[Multiplied, Measured]) -> Multiplied:
    return choice({name: replace(its, error=0.0) for name, its in found.items()})


def without_margin(found: Mapping[Multiplied, Measured]) -> Multiplied:
    allowed = [name for name, its in found.items() if name == "fp32" or its.error <= MOST[name]]
    return min(allowed, key=lambda name: found[name].time_s)


def bf16_where_it_is_there(found: Mapping[Multiplied, Measured]) -> Multiplied:
    return "bf16" if "bf16" in found and found["bf16"].error <= ROUNDED else "fp32"


@pytest.mark.parametrize("broken", [by_time_alone, without_margin, bf16_where_it_is_there])
def test_a_broken_choice_is_caught(broken):
    @settings(report_multiple_bugs=False)
    @given(FOUND)
    def holds(found):
        check_choice(broken, found)

    with pytest.raises(AssertionError):
        holds()


def multiplications_of(dim: int, monkeypatch, round_s: float) -> list[int]:
    """Of every pass of a probe on a machine whose rounds take so long."""
    passes, clock_s = [], itertools.count(step=round_s / 4)
    products = arithmetic._Probe.products

    def counted(self, way, dtype=torch.float32):
        passes.append(3 * self.left.shape[0] * self.right.numel())
        return products(self, way, dtype)

    monkeypatch.setattr(arithmetic._Probe, "products", counted)
    monkeypatch.setattr(arithmetic.time, "thread_time", lambda: next(clock_s))
    found = measure_multiplying(dim, "cpu")
    assert {"fp32", "bf16"} <= set(found) and all(its.time_s > 0 for its in found.values())
    assert found["fp32"].error <= EXACT < found["bf16"].error <= ROUNDED
    return passes


@pytest.mark.parametrize("dim", [16, 64, 256, 2048])
def test_a_probe_is_short(dim, monkeypatch):
    ways = len(measure_multiplying(dim, "cpu"))
    long = multiplications_of(dim, monkeypatch, round_s=2 * arithmetic.ENOUGH_S)
    monkeypatch.undo()
    short = multiplications_of(dim, monkeypatch, round_s=arithmetic.ENOUGH_S / 100)
    assert len(long) == 1 + 2 * ways, "the exact products, a warm-up and one round"
    assert len(short) == 1 + ways * (1 + arithmetic.ROUNDS), "no more rounds than this on a fast machine"
    assert max(long + short) <= 3 * arithmetic.PRODUCT["cpu"], "however wide the model is"


@pytest.mark.parametrize("dim", [16, 64, 2048])
def test_a_rankers_probe_is_of_pairs(dim):
    found = measure_pairs(dim, "cpu")
    assert set(found) == set(measure_multiplying(dim, "cpu"))
    assert found["fp32"].error <= EXACT < found["bf16"].error <= ROUNDED


@pytest.mark.parametrize("ranks", [False, True])
def test_a_ranker_is_measured_by_what_it_multiplies(ranks, monkeypatch):
    slow, fast = Measured(3.0, 3e-7), Measured(1.0, 3e-3)
    monkeypatch.setattr(arithmetic, "measure_multiplying", lambda dim, device: {"fp32": slow, "bf16": fast})
    monkeypatch.setattr(arithmetic, "measure_pairs", lambda dim, device: {"fp32": slow, "bf16": slow})
    assert arithmetic_of("auto", 16, "cpu", ranks).precision == ("fp32" if ranks else "bf16")


def test_a_probe_leaves_no_trace():
    before = torch.get_rng_state(), torch.backends.mkldnn.matmul.fp32_precision
    with torch.inference_mode():
        measure_multiplying(16, "cpu")
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.backends.mkldnn.matmul.fp32_precision == before[1]
    assert not torch.is_autocast_enabled("cpu")


def test_the_library_is_switched_for_the_time_inside():
    switch = torch.backends.mkldnn.matmul
    before, inside = switch.fp32_precision, []
    for precision in ("fp32", "bf16", "fp32_onednn"):
        with pytest.raises(KeyError), products_by(precision):
            inside.append(switch.fp32_precision)
            raise KeyError
        assert switch.fp32_precision == before
    assert inside == [before, before, "bf16"]


def test_onednn_is_taken_for_fp32_only_where_it_is_exact(monkeypatch):
    found = {"fp32": Measured(3.0, 3e-7), "fp32_onednn": Measured(1.0, 3e-3), "bf16": Measured(3.0, 3e-3)}
    monkeypatch.setattr(arithmetic, "measure_multiplying", lambda dim, device: found)
    assert arithmetic_of("auto", 16, "cpu").precision == "fp32"
    with pytest.raises(ValueError, match=r"optim.precision = 'fp32_onednn' .* are off by 0.003, as in bf16"):
        arithmetic_of("fp32_onednn", 16, "cpu")
    found.pop("fp32_onednn")
    with pytest.raises(ValueError, match="on this machine's cpu there is none: train with fp32"):
        check_exact("fp32_onednn", "cpu")
    assert arithmetic_of("bf16", 16, "cpu") == Arithmetic("bf16", "asked for")


def check_threads_leave_the_switch(before: str) -> None:
    """The first that came goes first, and the other is inside still."""
    switch, first, second = (
        torch.backends.mkldnn.matmul,
        products_by("fp32_onednn"),
        products_by("fp32_onednn"),
    )
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert switch.fp32_precision == "bf16", "somebody wants it still"
    second.__exit__(None, None, None)
    assert switch.fp32_precision == before


def test_the_switch_of_the_process_goes_off_with_the_last_who_wants_it():
    check_threads_leave_the_switch(torch.backends.mkldnn.matmul.fp32_precision)


def test_a_switch_that_each_puts_back_as_it_found_it_is_caught(monkeypatch):
    switch = torch.backends.mkldnn.matmul
    before, found = switch.fp32_precision, list[str]()

    def turn_on(self):
        found.append(switch.fp32_precision)
        switch.fp32_precision = "bf16"

    def turn_off(self):
        switch.fp32_precision = found.pop(0)

    monkeypatch.setattr(precision_module._Switch, "turn_on", turn_on)
    monkeypatch.setattr(precision_module._Switch, "turn_off", turn_off)
    try:
        assert_caught(lambda: check_threads_leave_the_switch(before))
    finally:
        switch.fp32_precision = before
