"""A checkpoint of WarpRec's SASRec with weights as drawn, run by the Python of WarpRec's environment.

python warprec_checkpoint.py FOLDER SHAPE   SHAPE as JSON; writes sasrec.pth as WarpRec's training pipeline does
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from warprec.recommenders.sequential_recommender.sasrec import SASRec


def drawn(shape: dict[str, int]) -> SASRec:
    """Of Plait's widths: an MLP of four times the hidden state."""
    params = {
        "embedding_size": shape["dim"],
        "n_layers": shape["layers"],
        "n_heads": shape["heads"],
        "inner_size": 4 * shape["dim"],
        "dropout_prob": 0.2,
        "attn_dropout_prob": 0.0,
        "reg_weight": 0.0,
        "weight_decay": 0.0,
        "batch_size": 128,
        "epochs": 1,
        "learning_rate": 1e-3,
        "neg_samples": 1,
        "max_seq_len": shape["window"],
    }
    numbered = {f"{whom}_mapping": {n: n for n in range(shape[f"{whom}s"])} for whom in ("user", "item")}
    return SASRec(params, {"n_users": shape["users"], "n_items": shape["items"], **numbered}, seed=0)


def histories(shape: dict[str, int]) -> dict[str, Any]:
    """What a server answers a user's id from: the last items of each, so many as the model reads."""
    users, window = shape["users"], shape["window"]
    item_UT = np.random.default_rng(0).integers(0, shape["items"], (users, window), dtype=np.int32)
    place = (np.repeat(np.arange(users), window), item_UT.ravel())
    seen = csr_matrix((np.ones(item_UT.size, dtype=np.int8), place), shape=(users, shape["items"]))
    seen.data[:] = 1
    offsets = np.arange(users + 1, dtype=np.int64) * window
    return {"seen": seen, "histories": {"items": item_UT.ravel(), "offsets": offsets}}


def main() -> None:
    folder, shape = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.save({**drawn(shape).get_state(), "serving": histories(shape)}, folder / "sasrec.pth")


if __name__ == "__main__":
    main()
