"""A part of LUM's studies: one simulated log cut twice, a user model from before the first cut, and rankers that are
told of its interests or not.

OUT/STUDY/PART/lum/        the user model's run
OUT/STUDY/PART/interests/  what it says of events from its cut on, and of items

Shape letter: D draws.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import polars as pl

from plait.compare.regret import limits
from plait.compare.significance import as_drawn, drawn
from plait.compare.variants import Variant
from plait.compare.words import signed
from plait.data import Dataset, Temporal
from plait.evaluation.run_files import MODEL, RunSettings
from plait.evaluation.settings import Optim, Protocol
from plait.files import sha256, write_whole
from plait.lum.interests import Asked, interests_of_events, interests_of_items, moments_of
from plait.metrics.intervals import average, bootstrap, percentiles
from plait.models.generative import ModelSettings
from plait.models.saving import WEIGHTS
from plait.papers.claims import Claim, Statistics, sides_of
from plait.papers.logs import Simulated
from plait.papers.study import Finding, Place, Trial, shrunk
from plait.rankers.interests import Interests
from plait.rankers.rows import ranker_rows
from plait.rankers.two_tower import is_two_tower_row
from plait.recommender import Recommender
from plait.training.run import run_training

TOLD = "+lum"
EVENTS_AT_A_TIME = 4_096
DRAWS = 1_000
PARTS = "train", "validation", "test"


@dataclass(frozen=True, kw_only=True)
class InterestTrial:
    """Rankers with and without interests, and layouts beside them, on what lies after the user model's training.

    Both cuts are of one world. The rankers, told or not, are trained on what lies between the cuts: the user model saw
    what lies before the first, so to them that is history alone. Layouts are trained on all before the second cut, as
    the user model and the rankers are together.
    """

    name: str
    early: Simulated
    late: Simulated
    lum: RunSettings
    rankers: tuple[str, ...]  # as `plait compare --rankers` names them
    layouts: tuple[Variant, ...]
    model: ModelSettings  # of the rankers
    optim: Optim
    protocol: Protocol
    metrics: Mapping[str, str]
    paper: Mapping[str, tuple[float | None, ...]]
    claims: tuple[Claim, ...]
    num_seeds: int = 2
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one, other = self.early, self.late
        assert one.world == other.world and one.conditions == other.conditions, f"{self.name}: two worlds"
        assert isinstance(one.split, Temporal) and isinstance(other.split, Temporal), self.name

    @property
    def logs(self) -> tuple[Simulated, ...]:
        return self.early, self.late

    def quick(self) -> "InterestTrial":
        of_rankers = shrunk(
            RunSettings(layout="genrank", model=self.model, optim=self.optim, protocol=self.protocol)
        )
        has_rankers = not all(map(is_two_tower_row, self.rankers))
        hidden = (8,) if has_rankers else self.model.ranker.hidden
        return replace(
            self,
            early=self.early.quick(),
            late=self.late.quick(),
            lum=shrunk(self.lum),
            layouts=tuple(Variant(its.name, shrunk(its.settings)) for its in self.layouts),
            model=replace(of_rankers.model, ranker=replace(self.model.ranker, hidden=hidden)),
            protocol=of_rankers.protocol,
            optim=of_rankers.optim,
            num_seeds=1,
        )

    def run(self, study: str, place: Place) -> Finding:
        folder, (early, late) = (
            place.folder_of(study, self.name),
            (log.open(place.logs, place.data) for log in self.logs),
        )
        interests, lum_s = self.interests(early, late, folder, place)
        trial = self._trial(interests, cut_of(early))
        compared = trial.compared(late, study, place)
        found = trial.finding(late, compared, study, place)
        shares = tuple(shares_of(late, trial, compared.statistics, next(iter(self.metrics))))
        notes = (*shares, *interests.missing(late), *self.notes)
        return msgspec.structs.replace(found, notes=(*found.notes, *notes), wall_s=found.wall_s + lum_s)

    def _trial(self, interests: Interests, since_s: int | None) -> Trial:
        after = replace(self.protocol, asked_from_s=since_s)
        rows = ranker_rows(self.rankers, self.model, self.optim, after, interests)
        return Trial(
            name=self.name,
            log=self.late,
            variants=(*self.layouts, *rows),
            metrics=self.metrics,
            paper=self.paper,
            claims=self.claims,
            num_seeds=self.num_seeds,
        )

    def interests(
        self, early: Dataset, late: Dataset, folder: Path, place: Place, about: Dataset | None = None
    ) -> tuple[Interests, float]:
        """What the user model says, and how long its training took, in seconds.

        Args:
            about: whose users, events and items the interests are of, by their ids; by default the later log itself.
        """
        place.report("user model")
        run = folder / "lum"
        result = run_training(
            early, self.lum, run, lambda line: place.report(f"  {line}"), place.device, place.watch
        )
        files = written_interests(run / MODEL, early, late, folder / "interests", place.device)
        of_users = [files[part] for part in PARTS]
        return Interests.read(of_users, files["items"], about or late), result.wall_s


def cut_of(early: Dataset) -> int | None:
    """Where a user model's training ends, in unix seconds."""
    split = early.manifest.split
    assert isinstance(split, Temporal), "the log of a user model is cut in time"
    return split.cut_validation_s


def written_interests(
    model_folder: Path, early: Dataset, late: Dataset, folder: Path, device: str
) -> dict[str, Path]:
    """Tables of interests of the later cut's events, from the end of the model's training on, and of items. Tables
    that are of this model are written once."""
    version = sha256(model_folder / WEIGHTS)[:16]
    files = {name: folder / f"{name}-{version}.parquet" for name in (*PARTS, "items")}
    if all(path.exists() for path in files.values()):
        return files
    model = Recommender.from_pretrained(model_folder, device)
    folder.mkdir(parents=True, exist_ok=True)
    _write(interests_of_items(model, version), files["items"])
    for part in PARTS:
        found = list(_of_part(model, late, part, cut_of(early), version))
        _write(pl.concat(found), files[part])
    return files


def _of_part(
    model: Recommender, late: Dataset, part: str, since_s: int | None, version: str
) -> Iterator[pl.DataFrame]:
    """Under what each event came with, so many events at a time."""
    targets = moments_of(late, part, model.model, since_s)  # type: ignore[arg-type]
    asked = Asked.of(model.model, [])
    for begin in range(0, len(targets), EVENTS_AT_A_TIME):
        some = targets[begin : begin + EVENTS_AT_A_TIME]
        yield interests_of_events(model, late, some, asked, version, own=True)


def _write(table: pl.DataFrame, path: Path) -> None:
    write: Callable[[Path], None] = table.write_parquet
    write_whole(path, write)


def shares_of(dataset: Dataset, trial: Trial, statistics: Statistics, metric: str) -> Iterator[str]:
    """For each ranker that is told interests: what it gains, and of what it lacks to the oracle without them, which
    share."""
    best = limits(dataset, [its.settings for its in trial.variants], range(trial.num_seeds))
    runs = [bootstrap(its[metric], DRAWS) for its in best.values() if metric in its]
    sides = sides_of(statistics, metric, DRAWS)
    joint = drawn(sides)
    for name in sides:
        base, told = name.removesuffix(TOLD), joint[name]
        if base == name or base not in joint or not runs:
            continue
        oracle, without = as_drawn(average(runs)), joint[base]
        assert oracle.value is not None and without.value is not None and told.value is not None
        gain, lacks = told.value - without.value, oracle.value - without.value
        lacks_D = oracle.value_D - without.value_D
        if lacks <= 0 or not (lacks_D > 0).all():
            yield f"{name}: {signed(gain)} {metric}; {base} is not told to lack anything to the oracle."
            continue
        low, high = percentiles((told.value_D - without.value_D) / lacks_D)
        yield (
            f"{name}: {signed(gain)} {metric}, {100 * gain / lacks:.0f} % ({100 * low:.0f} to {100 * high:.0f} %) of "
            f"what {base} lacks to the oracle."
        )


def told_claims(rankers: tuple[str, ...], metric: str, source: str) -> tuple[Claim, ...]:
    """That each ranker gains by interests.

    >>> str(told_claims(("din",), "auc:click", "table 4")[0])
    'din+lum beats din in AUC click'
    """
    return tuple(
        Claim(first=f"{ranker}{TOLD}", second=ranker, metric=metric, source=source) for ranker in rankers
    )
