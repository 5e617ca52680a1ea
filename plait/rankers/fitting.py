"""Training a ranker, from a prepared dataset to one that answers."""

from collections.abc import Callable
from pathlib import Path

from plait.data import Dataset
from plait.evaluation.settings import Optim, Protocol
from plait.fitting import in_folder
from plait.models.generative import ModelSettings
from plait.nn.device import resolve_device
from plait.nn.towers import TowerConfig
from plait.notices import Watch
from plait.rankers.interests import Interests
from plait.rankers.settings import RankerName, RankerProtocol, Shown, run_settings
from plait.recommender import Recommender
from plait.training.run import run_training

LINEAR = ModelSettings(tower=TowerConfig(kind="linear"))


def fit_ranker(
    data: Dataset | Path | str,
    ranker: RankerName,
    *,
    history: Shown = "actions",
    interests: Interests | None = None,
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
        ranker: din, dien, sim, twin or rankmixer.
        history: what events of a history show: their items with their actions, or items alone.
        interests: what a user model said before, read for this dataset (`Interests.read`).
        model: `model.ranker` holds the ranker's own settings; its `kind` is `ranker`.
        protocol: by default a history is whole, up to 1,000 events, and every event of it is asked about.
        out, device, report, watch: as for `plait.fit`.

    Raises:
        ValueError, KeyboardInterrupt: as `plait.fit`.
    """
    on = resolve_device(device)
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    settings = run_settings(ranker, model, optim, protocol, history, interests)
    return in_folder(
        out,
        on,
        lambda folder: run_training(dataset, settings, folder, report, on, watch, interests=interests),
    )
