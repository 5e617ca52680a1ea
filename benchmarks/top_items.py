"""How long the exact best 100 of a million items take, beside reading the items once and beside faiss.

    python benchmarks/top_items.py --out benchmarks/results/top_items.json

Random vectors of width 64, in one thread; times are processor time, variants take turns, medians with the range beside.
`floor`: the items are read once (one query) or multiplied with all queries (many). faiss is measured where it is
installed.
"""

import importlib
from pathlib import Path

import cyclopts
import numpy as np
import torch
from one_pass import Variant, milliseconds
from provenance import write_result

from plait.engine.ranking import Catalogue, best_of_parts
from plait.nn.losses import RetrievalLoss
from plait.nn.runtime import tune_process


def catalogue_of(num_items: int, dim: int) -> Catalogue:
    key_WD = torch.randn(num_items, dim, generator=torch.Generator().manual_seed(0))
    return Catalogue(RetrievalLoss(), key_WD, torch.arange(1, num_items + 1), np.arange(num_items + 1))


def faiss_flat(key_WD: torch.Tensor, query_UD: torch.Tensor, k: int) -> Variant | None:
    try:
        faiss = importlib.import_module("faiss")
    except ModuleNotFoundError:
        return None
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(key_WD.shape[1])
    index.add(key_WD.numpy())
    return lambda: index.search(query_UD.numpy(), k)


def in_steps(catalogue: Catalogue, query_UD: torch.Tensor, k: int) -> None:
    """As the engine does, so many users at a time."""
    for users in query_UD.split(catalogue.users_per_step):
        best_of_parts(catalogue.parts(users), k)


def main(*, out: Path, num_items: int = 1_000_000, dim: int = 64, k: int = 100, rounds: int = 5) -> None:
    """Measures one query and 64."""
    switches, results = tune_process(), []
    torch.set_num_threads(1)
    catalogue = catalogue_of(num_items, dim)
    for num_queries in (1, 64):
        query_UD = torch.randn(num_queries, dim, generator=torch.Generator().manual_seed(1))
        variants: dict[str, Variant] = {
            "exact": lambda query_UD=query_UD: in_steps(catalogue, query_UD, k),
            "floor": catalogue.key_WD.sum
            if num_queries == 1
            else lambda query_UD=query_UD: query_UD @ catalogue.key_WD.T,
        }
        flat = faiss_flat(catalogue.key_WD, query_UD, k)
        if flat is not None:
            variants["faiss flat"] = flat
        times = milliseconds(variants, rounds)
        of = {name: its["median_ms"] for name, its in times.items()}
        results.append(
            {
                "queries": num_queries,
                "times": times,
                "exact_over_floor": of["exact"] / of["floor"],
                "faiss_flat_over_exact": of["faiss flat"] / of["exact"] if flat is not None else None,
            }
        )
        print(results[-1], flush=True)
    write_result(out, {"switches": switches, "items": num_items, "dim": dim, "k": k, "results": results})


if __name__ == "__main__":
    cyclopts.run(main)
