"""How often counts of pure noise are taken beside a model: at most in 3 of 100 logs, as the tests demand of fewer.

    OMP_NUM_THREADS=1 python benchmarks/counts_of_noise.py --out benchmarks/results/counts_of_noise.json

Every log has its own items, users, labels and a model that says nothing, and its tables are counted as those of a
trained model are.

Shape letters: E training events, M labels of the validation.
"""

from pathlib import Path

import cyclopts
import numpy as np
from provenance import write_result

from plait.counts.actions import ActionQuestions, CountedPart
from plait.counts.effects import Damping, ItemTotals
from plait.counts.kinds import counted
from plait.counts.weighing import HeldOutLabels, weighed
from plait.schema import ActionKind, Amount, Binary, Categorical, Ordinal, Regression

KINDS: tuple[ActionKind, ...] = (
    Binary(),
    Regression(1, 5),
    Amount(),
    Amount(zero_inflated=True),
    Categorical(("a", "b", "c")),
    Ordinal((1, 2, 3, 4, 5)),
)
USERS, EVENTS, ITEMS = 400, 12, 60
DAMPING = Damping(item=5.0, user=2.0, decay=0.8)

app = cyclopts.App()


@app.default
def main(*, out: Path, logs: int = 200) -> None:
    """Says, kind by kind, in how many logs something was taken."""
    kept = {
        str(kind): sum(_is_kept(kind, np.random.default_rng(seed)) for seed in range(logs)) for kind in KINDS
    }
    write_result(out, {"logs": logs, "kept": kept})


def _is_kept(kind: ActionKind, rng: np.random.Generator) -> bool:
    item_E, label_E = rng.integers(1, ITEMS + 1, USERS * EVENTS), _labels(kind, rng, USERS * EVENTS)
    first_M = np.arange(0, len(item_E), EVENTS)
    asked = ActionQuestions(
        item_E,
        label_E[:, None].astype(np.float32),
        first_M,
        first_M + EVENTS,
        rng.integers(1, ITEMS + 1, USERS),
    )
    label_M, found = _labels(kind, rng, USERS), False
    for part in counted(kind).parts:
        y_EK, y_MK = part.columns(label_E), part.columns(label_M)
        is_known_E, is_known_M = ~np.isnan(y_EK[:, 0]), ~np.isnan(y_MK[:, 0])
        totals = ItemTotals.of(part.scale, y_EK[is_known_E], item_E[is_known_E], ITEMS)
        term_TMK = CountedPart(part, 0, totals, DAMPING, reads_item=True).terms(asked)
        mean_MK = np.tile(part.scale.score_of(totals.mean_K[None]), (USERS, 1))
        of_model_MK = mean_MK + rng.normal(scale=0.1, size=(USERS, 1))
        all_TMK = np.concatenate([of_model_MK[None], term_TMK])
        labels = HeldOutLabels(part.scale, all_TMK, y_MK, np.arange(USERS)).those(is_known_M)
        found |= weighed(labels).weights.has_counts
    return found


def _labels(kind: ActionKind, rng: np.random.Generator, count: int) -> np.ndarray:
    """Drawn from one distribution, whoever rates what."""
    if kind.outcomes or isinstance(kind, Binary):
        return rng.integers(len(kind.outcomes) or 2, size=count).astype(np.float64)
    if isinstance(kind, Amount):
        return np.where(rng.random(count) < 0.3, 0.0, rng.lognormal(size=count))
    return rng.integers(1, 6, size=count).astype(np.float64)


if __name__ == "__main__":
    app()
