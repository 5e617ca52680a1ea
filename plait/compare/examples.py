"""What two layouts recommend to a few real users, beside what these did last.

Shape letters: E events, A action columns, U users, K items recommended.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from plait.compare.results import Comparison, Example
from plait.compare.verdict import Verdict
from plait.compare.words import run_folder
from plait.data import Dataset
from plait.engine import one_pass
from plait.engine.asking import needs_time
from plait.engine.state import encode
from plait.evaluation.run_files import MODEL
from plait.models.generative import GenerativeRecommender
from plait.models.saving import load_model

NUM_USERS, LAST_EVENTS, K = 5, 8, 5
LOOKED_AT = 100  # users, for some to whom enough items are left
UNKNOWN = "an item that no training event has"


def examples(
    dataset: Dataset, comparison: Comparison, verdict: Verdict, folder: Path, filter_seen: bool
) -> tuple[Example, ...]:
    """Of users from all over the log, whose whole history is read, that of the test included.

    Empty where fewer than two layouts of the comparison retrieve and keep their models, or where one of the two has to
    be told when the next item is shown, or in which request: nobody knows that here. Users to whom too few items are
    left are passed over.
    """
    models = {
        layout: load_model(run / MODEL) for layout, run in _two_runs(comparison, verdict, folder).items()
    }
    if len(models) < 2 or not all(map(_asks_for_nothing, models.values())):
        return ()
    users = [user for user in _spread(dataset.num_users, LOOKED_AT) if _has_items_left(dataset, user)]
    chosen = [users[place] for place in _spread(len(users), NUM_USERS)]
    return tuple(_example(dataset, models, user, filter_seen) for user in chosen)


def _spread(among: int, count: int) -> list[int]:
    """Places from the first to the last, as even as may be.

    >>> _spread(9, 3), _spread(2, 3), _spread(0, 3)
    ([0, 4, 8], [0, 1], [])
    """
    return np.linspace(0, among - 1, min(among, count)).astype(int).tolist() if among else []


def _two_runs(comparison: Comparison, verdict: Verdict, folder: Path) -> dict[str, Path]:
    """The first finished run of the recommended layout and of the reference, or of the first others that retrieve."""
    retrieving = [card.name for card in comparison.layouts if card.retrieves and not card.leaks]
    recommended = [verdict.recommended.name] if verdict.recommended else []
    first = [name for name in (*recommended, comparison.reference, *retrieving) if name in retrieving]
    runs: dict[str, Path] = {}
    for name in dict.fromkeys(first):
        seeds = [row.seed for row in comparison.rows if row.layout == name and row.status != "failed"]
        run = folder / run_folder(name, min(seeds, default=0))
        if seeds and len(runs) < 2 and (run / MODEL).is_dir():
            runs[name] = run
    return runs


def _asks_for_nothing(model: GenerativeRecommender) -> bool:
    return model.config.settings.exposure.same_request == "causal" and not needs_time(
        model.layout, model.config.settings, "i"
    )


def _has_items_left(dataset: Dataset, user: int) -> bool:
    """Whether the user has a history, and K items that are not in it."""
    seen = np.unique(dataset.history(user).item_E)
    return 0 < len(seen) <= dataset.num_items - K


def _example(
    dataset: Dataset, models: Mapping[str, GenerativeRecommender], user: int, filter_seen: bool
) -> Example:
    history, names = dataset.history(user), item_names(dataset)
    last = range(max(0, len(history.item_E) - LAST_EVENTS), len(history.item_E))
    recommended = {}
    for layout, model in models.items():
        state = encode(history, model.plan.window, model.plan.lead)
        # Who is asked under conditions is asked under those of the last event.
        condition_1G = history.condition_EG[-1:]
        item_UK, _ = one_pass.retrieve(model, state, K, filter_seen, condition_UG=condition_1G)
        recommended[layout] = tuple(names[int(item)] for item in item_UK[0])
    did = tuple(
        _event(dataset, names[int(history.item_E[event])], history.action_EA[event]) for event in last
    )
    return Example(str(dataset.user_ids()[user]), did, recommended)


def item_names(dataset: Dataset) -> list[str]:
    """What each dense item is called: its title, with its id where another item has the same; its id without one."""
    ids = [str(id) for id in dataset.item_ids()]
    titles = dataset.item_titles()
    times_met = Counter([] if titles is None else titles)
    named = [
        id if title is None else title if times_met[title] == 1 else f"{title} ({id})"
        for id, title in zip(ids, [None] * len(ids) if titles is None else titles, strict=True)
    ]
    return [UNKNOWN, *named]


def _event(dataset: Dataset, name: str, action_A: Float32[np.ndarray, " A"]) -> str:
    """An item with the actions that are known of it, as the log writes them."""
    known = [
        f"{action.name} {action.kind.outcomes[int(value)] if action.kind.outcomes else f'{value:g}'}"
        for action, value in zip(dataset.actions, action_A.tolist(), strict=True)
        if not np.isnan(value)
    ]
    return f"{name} ({', '.join(known)})" if known else name
