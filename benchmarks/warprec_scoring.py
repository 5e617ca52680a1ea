"""WarpRec's SASRec as it scores candidates in process, run by the Python of WarpRec's environment.

python warprec_scoring.py SHAPE CANDIDATES   SHAPE as JSON; answers each line that it reads with a line of times
"""

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F


class Bare:
    """An encoder of torch's own attention over one history, and a product of the last state with each candidate."""

    def __init__(self, shape: dict[str, int], candidates: int) -> None:
        torch.manual_seed(0)
        dim, self.heads = shape["dim"], shape["heads"]
        self.items = torch.randn(shape["items"], dim) * 0.02
        self.layers = [
            {
                "qkv": torch.randn(3 * dim, dim) * 0.02,
                "out": torch.randn(dim, dim) * 0.02,
                "up": torch.randn(4 * dim, dim) * 0.02,
                "down": torch.randn(dim, 4 * dim) * 0.02,
            }
            for _ in range(shape["layers"])
        ]
        self.history = torch.randint(shape["items"], (shape["window"],))
        self.candidates = torch.randint(shape["items"], (candidates,))

    @torch.no_grad()
    def score(self) -> torch.Tensor:
        x_TD = self.items[self.history]
        for layer in self.layers:
            x_TD = self._layer(x_TD, layer)
        return self.items[self.candidates] @ x_TD[-1]

    def _layer(self, x_TD: torch.Tensor, layer: dict[str, torch.Tensor]) -> torch.Tensor:
        dim = x_TD.shape[1]
        qkv = F.linear(F.layer_norm(x_TD, (dim,)), layer["qkv"])
        q, k, v = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3).unsqueeze(1)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1).flatten(1)
        x_TD = x_TD + F.linear(attended, layer["out"])
        inner = F.gelu(F.linear(F.layer_norm(x_TD, (dim,)), layer["up"]))
        return x_TD + F.linear(inner, layer["down"])


def timed(run: Callable[[], object]) -> float:
    """Milliseconds of processor time."""
    start_s = time.process_time()
    run()
    return 1e3 * (time.process_time() - start_s)


def main() -> None:
    from warprec_checkpoint import drawn

    shape, candidates = json.loads(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    model, bare = drawn(shape).eval(), Bare(shape, candidates)
    history = bare.history[None]
    length, asked = torch.tensor([shape["window"]]), bare.candidates[None]

    @torch.no_grad()
    def predict() -> object:
        return model.predict(history, length, item_indices=asked)

    for _ in sys.stdin:
        told = {"warprec": timed(predict), "bare encoder": timed(bare.score), "torch": torch.__version__}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
