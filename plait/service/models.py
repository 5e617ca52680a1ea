"""The models that are served: where each lies, the version that answers, and how another takes its place."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from plait.data.dataset import Dataset
from plait.data.history import Columns
from plait.files import Hashes
from plait.service.deployed import Deployed
from plait.service.problems import Problem, without_values
from plait.service.spare import in_spare_time

VERSION_LENGTH = 12


@dataclass(frozen=True)
class Model:
    """Where a model lies, and the data that its fallback counts."""

    name: str
    folder: Path
    dataset: Dataset | None
    device: str = "auto"

    def version(self) -> str:
        """Of its content. Raises ValueError where the folder is not whole."""
        listed = Hashes.read(self.folder)
        if listed is None:
            raise ValueError(
                f"{self.folder} has no list of its files, so nobody can tell that it is whole; save it again"
            )
        latest = {name: hashes[0] for name, hashes in sorted(listed.files.items())}
        return hashlib.sha256(msgspec.json.encode(latest)).hexdigest()[:VERSION_LENGTH]


@final
class Served:
    """A model and the version of it that answers.

    Args:
        load: makes a version ready to answer.
        give_way: called before each step of what a new version costs beside the questions that are answered; waits
            for those, and says whether to go on.

    Raises:
        ValueError: the folder is not whole, or its model cannot answer.
    """

    def __init__(
        self, model: Model, load: Callable[[Model, str], Deployed], give_way: Callable[[], bool]
    ) -> None:
        self.model, self._load, self._give_way = model, load, give_way
        self._coming: Deployed | None = None  # the version that is about to be served
        self._swapping = threading.Lock()
        self.deployed = load(model, model.version())

    def forget(self, user: str) -> None:
        """Nothing of a user is in memory from now on."""
        for deployed in (self._coming, self.deployed):  # in this order: the one becomes the other
            if deployed is not None:
                deployed.states.forget(user)

    def reload(self) -> dict[str, Any]:
        """Takes the version that lies in the folder now: loads it aside, lets it practise, warms the users asked about
        last, then turns. Requests that began with the old version are answered by it. All of that is done in spare
        time, in steps that give way to questions.

        Raises:
            Problem: the folder is not whole, or holds a model of other columns; the old version goes on.
        """
        with self._swapping:
            return in_spare_time(self._turned)

    def _turned(self) -> dict[str, Any]:
        old, new = self.deployed, self._new()
        if new is None:
            return {"model": old.name, "version": old.version, "swapped": False}
        self._coming = new
        try:
            warmed = new.warm(old.states.users(), self._give_way)
            self.deployed = new
        finally:
            self._coming = None
        return {"model": new.name, "version": new.version, "swapped": True, "warmed_users": warmed}

    def _new(self) -> Deployed | None:
        """The version that lies in the folder now; None where it is the one that answers. Raises Problem."""
        old = self.deployed
        try:
            version = self.model.version()
            if version == old.version:
                return None
            new = self._load(self.model, version)
            check_same_log(old, new)
            if self.model.version() != version:
                raise ValueError("the model's folder changed while it was read; try again")
        except (ValueError, OSError) as error:
            raise Problem(
                409,
                "no new model",
                f"{_without_paths(error, self.model.folder)}; the version {old.version} goes on",
            ) from error
        return new


def check_same_log(one: Deployed, other: Deployed) -> None:
    """Raises ValueError where two models do not read the same histories, which one store holds."""
    names = ("user", "item", "time", "time_unit", "time_format", "time_offset", "order", "request")
    columns: tuple[Columns, Columns] = one.recommender.columns, other.recommender.columns
    apart = [name for name in names if getattr(columns[0], name) != getattr(columns[1], name)]
    types = one.rows.types, other.rows.types
    apart += [name for name in types[0].keys() & types[1].keys() if types[0][name] != types[1][name]]
    if apart:
        raise ValueError(
            f"the model {other.name} reads another log than {one.name}: its {', '.join(apart)} differ; serve it with a "
            "store of its own"
        )


def not_all_new(failed: Mapping[str, Problem], done: Sequence[dict[str, Any]]) -> Problem:
    """What one is told who wanted new versions and did not get them all.

    Args:
        failed: by model.
        done: what became of the others.
    """
    if not done and len(failed) == 1:
        (problem,) = failed.values()
        return problem
    told = "; ".join(f"{name}: {problem.detail}" for name, problem in failed.items())
    return Problem(409, "no new model", told, models=done)


def _without_paths(error: Exception, folder: Path) -> str:
    """Paths of this machine are nobody's business."""
    if not isinstance(error, ValueError):
        return "the model's files cannot be read"
    return without_values(str(error), ()).replace(str(folder), "the model")
