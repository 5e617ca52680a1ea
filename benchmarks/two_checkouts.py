"""What a change did to training steps: two checkouts take turns, step by step, each in a process of its own.

    python benchmarks/two_checkouts.py compare BEFORE AFTER --out benchmarks/results/two_checkouts.json
    python benchmarks/two_checkouts.py compare BEFORE AFTER --out runs/bf16.json --precision bf16

Runs of one checkout after the other tell how busy the machine was; pairs of steps, in alternating order, tell the
change. A ratio is the median over pairs, after over before, with the quartiles beside it. The steps are those of
`train_step.py`, as each checkout has it.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import cyclopts
import numpy as np
from provenance import commit_of, write_result

app = cyclopts.App()
Precision = Literal["bf16", "fp32"]
PRECISIONS: tuple[Precision, ...] = ("bf16", "fp32")
STEPS_OF_USERS = 4  # packed steps that are timed together


@app.command
def compare(
    before: Path, after: Path, *, out: Path, rounds: int = 11, precision: tuple[Precision, ...] = PRECISIONS
) -> None:
    """Times all steps of both checkouts in turns, and writes one JSON file.

    Args:
        precision: the arithmetic of the steps; given again, of more of them.
    """
    checkouts = [before.resolve(), after.resolve()]
    served = [_start(checkout, precision) for checkout in checkouts]
    names, _ = [_line(process).split() for process in served]
    times_ms: dict[str, list[list[float]]] = {name: [] for name in names}
    for nth in range(rounds):
        for name in names:
            turns = served if nth % 2 else served[::-1]
            took_ms = {id(process): _ask(process, name) for process in turns}
            times_ms[name].append([took_ms[id(process)] for process in served])
    for process in served:
        process.communicate()
    commits = dict(zip(("before", "after"), map(commit_of, checkouts), strict=True))
    write_result(
        out, commits | {"rounds": rounds} | {name: _summary(pairs) for name, pairs in times_ms.items()}
    )


@app.command
def serve(*, precision: tuple[Precision, ...] = PRECISIONS) -> None:
    """Takes the name of a step from each line of the input, runs it, and prints how long it took, in ms."""
    steps = _steps(precision)
    for step in steps.values():
        step()  # warm
    print(" ".join(steps), flush=True)
    for line in sys.stdin:
        start_s = time.perf_counter()
        steps[line.strip()]()
        print((time.perf_counter() - start_s) * 1e3, flush=True)


def _start(checkout: Path, precisions: Sequence[Precision]) -> "subprocess.Popen[str]":
    """A process that serves the steps of a checkout."""
    path = os.pathsep.join([str(checkout), str(checkout / "benchmarks")])
    return subprocess.Popen(
        [sys.executable, __file__, "serve", *(word for one in precisions for word in ("--precision", one))],
        env=os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(process: "subprocess.Popen[str]", name: str) -> float:
    assert process.stdin is not None
    process.stdin.write(f"{name}\n")
    process.stdin.flush()
    return float(_line(process))


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a checkout stopped with {process.wait()}; what it said stands above")
    return line


def _steps(precisions: Sequence[Precision]) -> dict[str, Callable[[], None]]:
    """Whole training steps of the checkout that is imported."""
    import train_step

    from plait.layouts.packing import pack
    from plait.models.inputs import training_inputs
    from plait.nn.runtime import tune_process

    tune_process()

    def inputs_of(model: object, length_U: np.ndarray) -> object:
        asked = getattr(model, "plan", None) or model.layout  # checkouts before there was a plan of questions
        return training_inputs(asked, train_step.batch_of(length_U), pack)

    steps = {}
    lengths_of = {
        "ml_100k": (train_step.ml_100k_lengths(), 32),
        "power_law": (train_step.power_law_lengths(), 256),
    }
    for precision in precisions:
        for name, (length_U, users) in lengths_of.items():
            order = np.random.default_rng(train_step.SEED).permutation(length_U)[: STEPS_OF_USERS * users]
            model = train_step.model_of("lac", 128, 2, int(length_U.max()))
            inputs = [inputs_of(model, its) for its in np.split(order, STEPS_OF_USERS)]
            steps[f"{name}_{precision}"] = train_step.whole_step(model, inputs, precision)
        for max_events, users in ((200, 16), (1024, 4)):
            for layout in ("lac", "interleaved"):
                model = train_step.model_of(layout, 256, 4, max_events)
                inputs = [inputs_of(model, np.full(users, max_events))]
                name = f"T{max_events}_{layout}_{precision}"
                steps[name] = train_step.whole_step(model, inputs, precision)
    return steps


def _summary(pairs: list[list[float]]) -> dict[str, object]:
    before, after = zip(*pairs, strict=True)
    low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    return {
        "before_ms": statistics.median(before),
        "after_ms": statistics.median(after),
        "ratio": middle,
        "quartiles": [low, high],
    }


if __name__ == "__main__":
    app()
