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
from plait.rankers.going_on import going_on
from plait.rankers.interests import Interests
from plait.rankers.settings import RankerName, RankerProtocol, Shown, run_settings
from plait.recommender import Recommender
from plait.training.run import run_training
from plait.training.start import Start

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
    start_from: Path | str | None = None,
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
        start_from: a deployed ranker, a finished run or a saved model, whose weights the training goes on from. Its
            settings stand in place of defaults. This one may be told interests, or read `model.late`, that it had none
            of, and then begins with its answers.
        out, device, report, watch: as for `plait.fit`.

    Raises:
        ValueError, KeyboardInterrupt: as `plait.fit`.
    """
    on = resolve_device(device)
    dataset = data if isinstance(data, Dataset) else Dataset.open(data)
    start = None if start_from is None else Start.of(Path(start_from))
    settings = going_on(
        start,
        run_settings(ranker, model, optim, protocol, history, interests),
        run_settings(ranker, LINEAR, Optim(), RankerProtocol(), history, interests),
    )
    return in_folder(
        out,
        on,
        lambda folder: run_training(
            dataset, settings, folder, report, on, watch, start=start, interests=interests
        ),
    )
