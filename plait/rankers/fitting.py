"""Training a ranker, from a prepared dataset to one that answers."""

from collections.abc import Callable
from pathlib import Path

from plait.data import Dataset
from plait.evaluation.settings import Optim, Protocol
from plait.fitting import fit
from plait.models.generative import ModelSettings
from plait.nn.towers import TowerConfig
from plait.notices import Watch
from plait.rankers.settings import RankerName, RankerProtocol, Shown, run_settings
from plait.recommender import Recommender

LINEAR = ModelSettings(tower=TowerConfig(kind="linear"))


def fit_ranker(
    data: Dataset | Path | str,
    ranker: RankerName,
    *,
    history: Shown = "actions",
    model: ModelSettings = LINEAR,
    optim: Optim = Optim(),
    protocol: Protocol = RankerProtocol(),
    out: Path | str | None = None,
    device: str = "auto",
    report: Callable[[str], None] = print,
    watch: Watch | None = None,
) -> Recommender:
    """Trains a ranker and tests it, as `plait.fit` does a layout; its answers, files and checkpoints are alike.

    Args:
        data: a dataset, or the path of a prepared folder. It has an action to predict.
        ranker: din, dien, sim or twin.
        history: what events of a history show: their items with their actions, or items alone.
        model: `model.ranker` holds the ranker's own settings; its `kind` is `ranker`.
        protocol: by default a history is whole, up to 1,000 events, and every event of it is asked about.
        out, device, report, watch: as for `plait.fit`.

    Raises:
        ValueError, KeyboardInterrupt: as `plait.fit`.
    """
    settings = run_settings(ranker, model, optim, protocol, history)
    return fit(
        data,
        settings.layout,
        model=settings.model,
        optim=settings.optim,
        protocol=settings.protocol,
        out=out,
        device=device,
        report=report,
        watch=watch,
    )
