"""What a thousand candidates of one user cost by Plait's model, by WarpRec's SASRec and by a bare encoder of torch.

    python benchmarks/score_beside_warprec.py FOLDER --out benchmarks/results/score_beside_warprec.json

One user, T = 200, d = 128, 2 layers, 1,000 candidates; nothing is kept of the history. WarpRec (in an environment of
its own, made in FOLDER where it is not there yet) and the bare encoder multiply each candidate with the last state.
Plait passes each through the trunk and tells the action to expect. The work differs by that much: `flops_ratio`.

Processes take turns within every round; times are processor time of one thread, the median of the rounds with the range
beside it. WarpRec's torch is the one that it installs, named in the result; the bare encoder runs under both.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cyclopts
import numpy as np
import torch
from one_pass import model_of, summed, timed
from provenance import write_result
from serve_beside_warprec import SHAPE, VERSION, environment
from train_step import NUM_ITEMS, batch_of
from warprec_scoring import Bare

from plait.engine import one_pass
from plait.engine.multiplying import multiplied_in
from plait.engine.state import encode
from plait.layouts.arrange import candidate_tokens
from plait.layouts.cost import scoring_flops
from plait.nn.precision import Multiplied
from plait.nn.runtime import tune_process

CANDIDATES = 1000
WARM_UP = 3  # rounds
PRECISIONS: tuple[Multiplied, ...] = ("fp32", "fp32_onednn", "bf16")


class Peer:
    """WarpRec in its own process: a line asks for a round, and a line answers in milliseconds by name."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self._asked, self._answers = process.stdin, process.stdout

    def told(self) -> dict[str, float | str]:
        self._asked.write("round\n")
        self._asked.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError("WarpRec's process ended before it answered; its error stands above")
        return json.loads(line)


@contextmanager
def peer(python: Path, shape: dict[str, int]) -> Iterator[Peer]:
    command = [python, Path(__file__).parent / "warprec_scoring.py", json.dumps(shape), str(CANDIDATES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Peer(process)
        finally:
            process.kill()


class Ours:
    """A layout that scores, with a history that is encoded anew every time."""

    def __init__(self, layout: str, shape: dict[str, int]) -> None:
        window = shape["window"]
        self.model = model_of(layout, "gpt", shape["dim"], shape["layers"], window)
        self.state = encode(batch_of(np.array([window])), self.model.plan.window, self.model.plan.lead)
        self.item_UC = np.random.default_rng(0).integers(1, NUM_ITEMS + 1, (1, CANDIDATES))
        own = len(candidate_tokens(self.model.layout))
        assert own, f"{layout}: candidates have no token of their own"
        sizes = shape["dim"], shape["layers"]
        whole = scoring_flops(self.model.layout, window, CANDIDATES, *sizes)
        self.flops_ratio = whole / scoring_flops(self.model.layout, window, 0, *sizes)

    def milliseconds(self, way: Multiplied) -> float:
        with multiplied_in(way):
            return timed(lambda: one_pass.score(self.model, self.state, self.item_UC))


def main(
    folder: Path, *, out: Path, python: str = "python3.12", layout: str = "lac", rounds: int = 15
) -> None:
    """Measures all in turns, and writes one JSON file."""
    switches = tune_process()
    torch.set_num_threads(1)
    shape = SHAPE | {"heads": 2, "users": 10, "items": NUM_ITEMS}
    ours, bare = Ours(layout, shape), Bare(shape, CANDIDATES)
    taken: dict[str, list[float]] = {}
    with peer(environment(folder.absolute(), python) / "python", shape) as theirs:
        for _ in range(WARM_UP + rounds):
            told = theirs.told()
            its_torch = str(told.pop("torch"))
            times = {f"{name} (its torch)": float(ms) for name, ms in told.items()}
            times["bare encoder"] = timed(bare.score)
            times |= {f"plait {way}": ours.milliseconds(way) for way in PRECISIONS}
            for name, ms in times.items():
                taken.setdefault(name, []).append(ms)
    found = {name: summed(each[WARM_UP:]) for name, each in taken.items()}
    median = {name: its["median_ms"] for name, its in found.items()}
    peers = ("warprec (its torch)", "bare encoder (its torch)", "bare encoder")
    write_result(
        out,
        {
            "switches": switches,
            "torch": torch.__version__,
            "warprec": {"version": VERSION, "torch": its_torch},
            "layout": layout,
            "shape": {name: shape[name] for name in ("window", "dim", "layers", "heads", "items")},
            "candidates": CANDIDATES,
            "rounds": rounds,
            "flops_ratio": ours.flops_ratio,
            "times": found,
            "over": {
                f"plait {way}": {name: median[f"plait {way}"] / median[name] for name in peers}
                for way in PRECISIONS
            },
        },
    )


if __name__ == "__main__":
    cyclopts.run(main)
