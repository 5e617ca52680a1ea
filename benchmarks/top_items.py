"""How long the exact best 100 of a million items take, beside reading the items once and beside faiss.

Of faiss: its exact answer, and its graph (hnsw) and lists (ivf) with the share of the exact answer that they find.

    python benchmarks/top_items.py --out benchmarks/results/top_items.json

Random vectors of width 64, in one thread; times are processor time, variants take turns, medians with the range beside.
`floor`: the items are read once (one query) or multiplied with all queries (many). faiss is measured where it is
installed. Random vectors have no near ones: an index finds fewer of them than of a trained model's.
"""

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import torch
from provenance import write_result

from plait.engine.item_index import BUILT_WITH, LINKS, SEARCHED, SPARE, num_lists_of, recall_of, usual_probes
from plait.engine.ranking import Catalogue, best_of_parts
from plait.nn.losses import RetrievalLoss
from plait.nn.runtime import tune_process
from plait.papers.timing import Step, milliseconds


def catalogue_of(num_items: int, dim: int) -> Catalogue:
    key_WD = torch.randn(num_items, dim, generator=torch.Generator().manual_seed(0))
    return Catalogue(RetrievalLoss(), key_WD, torch.arange(1, num_items + 1), np.arange(num_items + 1))


def faiss_indices(key_WD: torch.Tensor, names: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Each with how it is searched; none where faiss is not installed."""
    try:
        faiss = importlib.import_module("faiss")
    except ModuleNotFoundError:
        return {}
    faiss.omp_set_num_threads(1)
    num_items, width = key_WD.shape
    num_lists = num_lists_of(num_items)
    flat, graph = faiss.IndexFlatIP(width), faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = BUILT_WITH
    lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, num_lists, faiss.METRIC_INNER_PRODUCT)
    if "ivf" in names:
        lists.train(key_WD.numpy())
    found = {
        "faiss flat": (flat, None),
        "hnsw": (graph, faiss.SearchParametersHNSW(efSearch=SEARCHED + SPARE)),
        "ivf": (lists, faiss.SearchParametersIVF(nprobe=usual_probes(num_lists))),
    }
    found = {name: found[name] for name in names}
    for name, (index, _) in found.items():
        begin = time.process_time()
        index.add(key_WD.numpy())
        print(f"{name}: built in {time.process_time() - begin:.0f} s of processor time", flush=True)
    return found


def recall_by(index: Any, how: Any, catalogue: Catalogue, query_UD: torch.Tensor, k: int) -> float:
    """The share of the exact answer that an index finds."""
    _, exact_UK = best_of_parts(catalogue.parts(query_UD), k)
    _, found_UK = index.search(query_UD.numpy(), k, params=how)
    return recall_of(found_UK + 1, exact_UK.numpy())


def in_steps(catalogue: Catalogue, query_UD: torch.Tensor, k: int) -> None:
    """As the engine does, so many users at a time."""
    for users in query_UD.split(catalogue.users_per_step):
        best_of_parts(catalogue.parts(users), k)


def main(
    *,
    out: Path,
    num_items: int = 1_000_000,
    dim: int = 64,
    k: int = 100,
    rounds: int = 5,
    names: Sequence[str] = ("faiss flat", "hnsw", "ivf"),
) -> None:
    """Measures one query and 64.

    Args:
        names: what is measured of faiss. A graph over a million items takes minutes to build.
    """
    switches, results = tune_process(), []
    torch.set_num_threads(1)
    catalogue = catalogue_of(num_items, dim)
    indices = faiss_indices(catalogue.key_WD, names)
    for num_queries in (1, 64):
        query_UD = torch.randn(num_queries, dim, generator=torch.Generator().manual_seed(1))
        variants: dict[str, Step] = {
            "exact": lambda query_UD=query_UD: in_steps(catalogue, query_UD, k),
            "floor": catalogue.key_WD.sum
            if num_queries == 1
            else lambda query_UD=query_UD: query_UD @ catalogue.key_WD.T,
        }
        for name, (index, how) in indices.items():
            variants[name] = lambda index=index, how=how, query_UD=query_UD: index.search(
                query_UD.numpy(), k, params=how
            )
        times = milliseconds(variants, rounds)
        of = {name: its["median_ms"] for name, its in times.items()}
        results.append(
            {
                "queries": num_queries,
                "times": times,
                "exact_over_floor": of["exact"] / of["floor"],
                "over_exact": {name: of[name] / of["exact"] for name in indices},
                "recall": {
                    name: recall_by(index, how, catalogue, query_UD, k)
                    for name, (index, how) in indices.items()
                },
            }
        )
        print(results[-1], flush=True)
    write_result(out, {"switches": switches, "items": num_items, "dim": dim, "k": k, "results": results})


if __name__ == "__main__":
    cyclopts.run(main)
