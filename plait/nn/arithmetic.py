"""Which arithmetic a machine multiplies matrices fastest in, by measurement.

A name tells little: AVX-512's bf16 is three times as fast as fp32 on one processor and slower on another. So a probe of
a few milliseconds multiplies matrices of a model's width, forward and backward, with the casts that training makes. It
measures time, and error against float64. On a CPU it is the time of the thread that calls: others on the machine do not
disturb it. A ranker multiplies little in layers, and much in pairs of a candidate and an event: many small matrices, of
which the casts are a larger share. So its probe is of those.

Shape letters: N rows, D width, E width after the layer; B lists, C candidates of a list, H events of a list.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor

from plait.nn.precision import Multiplied, Precision, autocast, products_by

MARGIN = (
    1.2  # times as fast, before another way than torch's own is worth it: a busy machine measures no better
)
EXACT = 2e-6  # the largest error of a product that is called fp32, as a share of the product's largest number
ROUNDED = 2e-2  # the largest of one in bf16, whose numbers have 8 bits
WIDER = 4  # times as wide after an MLP's first layer as before
WIDEST = {"cpu": 256, "cuda": 1024}  # matrices of a probe
ROWS = {"cpu": 1 << 10, "cuda": 1 << 16}  # at most
PRODUCT = {"cpu": 1 << 25, "cuda": 1 << 32}  # multiplications of one product, at most
PAIRS = 16, 16, 128  # lists, candidates and events of a ranker's probe
ROUNDS = 8
ENOUGH_S = 0.01  # no further round begins after it
SEED: Final = 0


@dataclass(frozen=True)
class Measured:
    """What products cost in one way of multiplying."""

    time_s: float  # of the fastest round
    error: float  # the largest, as a share of the largest number of the product in float64


@dataclass(frozen=True)
class Arithmetic:
    """What matrices are multiplied in, and why."""

    precision: Multiplied
    because: str


def arithmetic_of(precision: Precision, dim: int, device: str, ranks: bool = False) -> Arithmetic:
    """A setting made definite for a model of this width on this machine.

    Args:
        ranks: whether it is a ranker, which multiplies pairs of candidates and events.

    Raises:
        ValueError: oneDNN is asked for, and does not multiply fp32 exactly here.
    """
    match precision:
        case "auto":
            measured = measure_pairs(dim, device) if ranks else measure_multiplying(dim, device)
            return Arithmetic(choice(measured), in_words(measured))
        case "fp32_onednn":
            check_exact(precision, device)
    return Arithmetic(precision, "asked for")


def choice(measured: Mapping[Multiplied, Measured]) -> Multiplied:
    """The fastest way whose error is that of its name, by a margin: fp32 as torch multiplies it, unless fp32 by oneDNN
    is so much faster; that one, unless bf16 is so much faster still.

    >>> choice({"fp32": Measured(3.0, 3e-7), "fp32_onednn": Measured(2.0, 6e-7), "bf16": Measured(1.8, 3e-3)})
    'fp32_onednn'
    >>> choice({"fp32": Measured(3.0, 3e-7), "fp32_onednn": Measured(2.0, 3e-3), "bf16": Measured(2.8, 3e-3)})
    'fp32'
    """
    chosen: Multiplied = "fp32"
    others: tuple[tuple[Multiplied, float], ...] = (("fp32_onednn", EXACT), ("bf16", ROUNDED))
    for other, most in others:
        if other not in measured or not measured[other].error <= most:  # NaN is none, either
            continue
        if measured[other].time_s * MARGIN <= measured[chosen].time_s:
            chosen = other
    return chosen


def in_words(measured: Mapping[Multiplied, Measured]) -> str:
    """
    >>> in_words({"fp32": Measured(0.0021, 3e-7), "bf16": Measured(0.0006, 0.003)})
    'a probe took 2.10 ms in fp32 (error 3e-07), 0.60 ms in bf16 (error 0.003)'
    """
    ways = (f"{1e3 * its.time_s:.2f} ms in {way} (error {its.error:.1g})" for way, its in measured.items())
    return f"a probe took {', '.join(ways)}"


def check_exact(precision: Precision, device: str) -> None:
    """Raises ValueError where fp32 by oneDNN is not exact here, or is not there."""
    if precision != "fp32_onednn":
        return
    dim = WIDEST["cpu"]
    found = measure_multiplying(dim, device).get(precision)
    if found is None or not found.error <= EXACT:
        why = "there is none" if found is None else f"its products are off by {found.error:.1g}, as in bf16"
        raise ValueError(
            f"optim.precision = '{precision}' multiplies by oneDNN, and on this machine's {device} {why}: train with "
            "fp32, or bf16, in a folder of its own"
        )


def measure_multiplying(dim: int, device: str) -> dict[Multiplied, Measured]:
    """What each way of multiplying costs on a device, for matrices of a model's width. They take turns."""
    return _measured(_LayerProbe, dim, device)


def measure_pairs(dim: int, device: str) -> dict[Multiplied, Measured]:
    """The same of a ranker of this width: its candidates attend to their events."""
    return _measured(_PairProbe, dim, device)


def _measured(kind: type["_Probe"], dim: int, device: str) -> dict[Multiplied, Measured]:
    with torch.inference_mode(False), torch.enable_grad():
        probe = kind.of(dim, device)
        exact = probe.products("fp32", torch.float64)
        ways = _ways(device)
        error = {way: _error(probe.products(way), exact) for way in ways}  # the first time is a warm-up, too
        time_s = dict.fromkeys(ways, float("inf"))
        start_s = time.thread_time()
        for number in range(ROUNDS):
            if number and time.thread_time() - start_s > ENOUGH_S:
                break
            time_s = {way: min(time_s[way], probe.seconds(way)) for way in ways}
    return {way: Measured(time_s[way], error[way]) for way in ways}


def _ways(device: str) -> list[Multiplied]:
    """Those that a device has."""
    if torch.device(device).type == "cuda":
        return ["fp32", "bf16"] if torch.cuda.is_bf16_supported() else ["fp32"]
    return ["fp32", "fp32_onednn", "bf16"] if torch.backends.mkldnn.is_available() else ["fp32", "bf16"]


@dataclass(frozen=True, eq=False)
class _Probe(ABC):
    """Two operands with gradients, and the gradient of what they give."""

    left: Tensor
    right: Tensor
    gradient: Tensor
    device: str

    @classmethod
    @abstractmethod
    def of(cls, dim: int, device: str) -> "_Probe":
        """For a model of this width."""

    @staticmethod
    @abstractmethod
    def multiplied(left: Tensor, right: Tensor) -> Tensor:
        """What is measured, forward."""

    def products(self, way: Multiplied, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """The output, and the gradients of both operands."""
        left, right = (each.to(dtype).requires_grad_() for each in (self.left, self.right))
        with products_by(way), autocast(way, self.device):
            out = self.multiplied(left, right)
            found = torch.autograd.grad(out, [left, right], self.gradient.to(out.dtype))
        if self.left.is_cuda:
            torch.cuda.synchronize(self.device)
        return [out.detach(), *found]

    def seconds(self, way: Multiplied) -> float:
        clock = time.perf_counter if self.left.is_cuda else time.thread_time
        start_s = clock()
        self.products(way)
        return clock() - start_s


@final
class _LayerProbe(_Probe):
    """A layer's input and its weights: three products, each of other operands transposed."""

    @classmethod
    def of(cls, dim: int, device: str) -> "_LayerProbe":
        kind = torch.device(device).type
        width, after = min(dim, WIDEST[kind]), min(WIDER * dim, WIDEST[kind])
        rows = min(ROWS[kind], PRODUCT[kind] // (width * after))
        left, right, gradient = _drawn(device, (rows, width), (after, width), (rows, after))
        return cls(left, right, gradient, device)

    @staticmethod
    def multiplied(left: Tensor, right: Tensor) -> Tensor:
        return F.linear(left, right)


@final
class _PairProbe(_Probe):
    """Candidates and the events of their lists: two products, and four backward."""

    @classmethod
    def of(cls, dim: int, device: str) -> "_PairProbe":
        width = min(dim, WIDEST[torch.device(device).type])
        lists, candidates, events = PAIRS
        shapes = (lists, candidates, width), (lists, events, width), (lists, candidates, width)
        left, right, gradient = _drawn(device, *shapes)
        return cls(left, right, gradient, device)

    @staticmethod
    def multiplied(left: Tensor, right: Tensor) -> Tensor:
        query_BCD, key_BHD = left, right
        score_BCH = (query_BCD @ key_BHD.transpose(1, 2)) * key_BHD.shape[-1] ** -0.5
        weight_BCH = (score_BCH if score_BCH.dtype == torch.float64 else score_BCH.float()).softmax(dim=-1)
        return weight_BCH @ key_BHD.to(weight_BCH.dtype)


def _drawn(device: str, *shapes: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    return (torch.randn(*shape, generator=generator, dtype=torch.float32).to(device) for shape in shapes)


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    """The largest of any product."""
    shares = [
        (its.double() - right).abs().max() / right.abs().max()
        for its, right in zip(found, exact, strict=True)
    ]
    return float(torch.stack(shares).max())
