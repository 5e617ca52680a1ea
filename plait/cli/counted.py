"""What the verbs that ask about a user have in common where counting answers: the data, and how it is asked."""

from dataclasses import dataclass, replace
from pathlib import Path

from plait.baselines.asking import SameRequest
from plait.cli.datasets import open_dataset
from plait.cli.runs import data_of, finished_run, run_and_model
from plait.data import Dataset
from plait.evaluation.run_files import RESULT
from plait.evaluation.settings import Protocol
from plait.schema import EventBatch


@dataclass(frozen=True)
class CountingSource:
    """Data to count on, and the protocol that a run on them has; without a run, the usual one."""

    dataset: Dataset
    protocol: Protocol
    same_request: SameRequest

    def history(self, user: str) -> EventBatch:
        """All events of a user. Raises ValueError where there is no such user."""
        return self.dataset.history(self.dataset.user_index(user))


def asked_of(path: Path, filter_seen: bool | None, **unread: object) -> CountingSource:
    """What people name by a run's folder, a prepared folder or a dataset's name.

    Args:
        filter_seen: overrides the protocol's where it is given.
        unread: options that counting does not read, by name; empty where they are not given.

    Raises:
        ValueError: it is none of these, or an option is given that counting does not read.
    """
    given = [f"--{name}" for name, value in unread.items() if value]
    if given:
        raise ValueError(f"{', '.join(given)}: no baseline reads that; leave it out, or ask a model")
    folder, _ = run_and_model(path)
    if (folder / RESULT).is_file() or any(folder.glob(f"runs/*/{RESULT}")):
        result = finished_run(folder)
        found, settings = data_of(result), result.settings
        if isinstance(found, str):
            raise ValueError(f"{folder} cannot be asked: {found}; name the dataset itself")
        dataset, protocol = found, settings.protocol
        same_request: SameRequest = settings.model.exposure.same_request
    else:
        dataset, protocol, same_request = open_dataset(str(path)), Protocol(), "causal"
    if filter_seen is not None:
        protocol = replace(protocol, filter_seen=filter_seen)
    return CountingSource(dataset, protocol, same_request)
