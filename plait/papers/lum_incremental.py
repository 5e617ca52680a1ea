"""A part of LUM's studies: rankers that inherit features and parameters from a deployed one, told interests or not.

The deployed ranker is trained where the user models are, before the first cut, with all features. Every row asks about
what lies between the cuts: from scratch, or from the deployed one's weights.

OUT/STUDY/PART/deployed/              the deployed ranker's run
OUT/STUDY/PART/NAME/lum, interests    each user model, and what it says

Source: the LUM paper, section 5.3, table 5.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import msgspec

from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.run_files import RunSettings
from plait.models.late import LateSettings
from plait.papers.logs import Simulated
from plait.papers.lum_trial import InterestTrial, cut_of
from plait.papers.study import Finding, Place, Trial, shrunk
from plait.rankers.interests import Interests
from plait.rankers.rows import ranker_rows
from plait.rankers.settings import RankerName
from plait.training.run import run_training
from plait.training.start import Start

DEPLOYED = "deployed"


@dataclass(frozen=True, kw_only=True)
class UserModel:
    """A user model: how it is trained, and what it is told of every event."""

    settings: RunSettings
    conditions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class IncrementalRow:
    """A ranker: what it has of the deployed one, and who tells it interests."""

    name: str
    has_features: bool = False
    has_parameters: bool = False
    user_model: str = ""  # of the part's; "": nobody


@dataclass(frozen=True, kw_only=True)
class IncrementalTrial:
    """One kind of ranker from scratch and from what is deployed, under several user models."""

    name: str
    trial: InterestTrial  # its logs, its rankers' settings, what stands beside them, metrics and claims
    ranker: RankerName
    features: LateSettings  # of the deployed ranker
    user_models: Mapping[str, UserModel]
    rows: tuple[IncrementalRow, ...]

    def __post_init__(self) -> None:
        told = {row.user_model for row in self.rows} - {""}
        assert told == set(self.user_models), f"{self.name}: {told}"

    @property
    def logs(self) -> tuple[Simulated, ...]:
        pairs = [self._logs_of(its) for its in self.user_models.values()]
        return (*self.trial.logs, *(log for pair in pairs for log in pair))

    def quick(self) -> "IncrementalTrial":
        models = {name: replace(its, settings=shrunk(its.settings)) for name, its in self.user_models.items()}
        windows = tuple(range(1, 1 + len(self.features.windows)))
        return replace(
            self,
            trial=self.trial.quick(),
            user_models=models,
            features=replace(self.features, windows=windows),
        )

    def run(self, study: str, place: Place) -> Finding:
        early, late = (log.open(place.logs, place.data) for log in self.trial.logs)
        told, start, spent_s = {}, None, 0.0
        for name, its in self.user_models.items():
            told[name], took_s = self._interests(name, its, late, study, place)
            spent_s += took_s
        if any(row.has_parameters for row in self.rows):
            start, took_s = self._deployed(early, study, place)
            spent_s += took_s
        trial = self.trial_of(told, start, cut_of(early))
        found = trial.run(study, place)
        missing = next((its.missing(late) for its in told.values()), [])
        notes = (*missing, *self.trial.notes)
        return msgspec.structs.replace(found, notes=(*found.notes, *notes), wall_s=found.wall_s + spent_s)

    def trial_of(self, told: Mapping[str, Interests], start: Start | None, since_s: int | None) -> Trial:
        """All rows, and what stands beside them, as variants of one comparison."""
        return Trial(
            name=self.name,
            log=self.trial.late,
            variants=(*self.trial.layouts, *self._variants(told, start, since_s)),
            metrics=self.trial.metrics,
            paper=self.trial.paper,
            claims=self.trial.claims,
            num_seeds=self.trial.num_seeds,
        )

    def _variants(
        self, told: Mapping[str, Interests], start: Start | None, since_s: int | None
    ) -> Iterator[Variant]:
        for row in self.rows:
            variant = self._variant(row.has_features, told.get(row.user_model), since_s)
            yield replace(variant, name=row.name, start=start if row.has_parameters else None)

    def _variant(self, has_features: bool, told: Interests | None, since_s: int | None) -> Variant:
        its = self.trial
        model = replace(its.model, late=self.features if has_features else LateSettings())
        name = self.ranker if told is None else f"{self.ranker}+lum"
        protocol = replace(its.protocol, asked_from_s=since_s)
        [variant] = ranker_rows((name,), model, its.optim, protocol, told)
        return variant

    def _interests(
        self, name: str, its: UserModel, late: Dataset, study: str, place: Place
    ) -> tuple[Interests, float]:
        """What one user model says of the events of the rows' log, by keys that all logs of the world share."""
        own_early, own_late = (log.open(place.logs, place.data) for log in self._logs_of(its))
        folder = place.folder_of(study, self.name) / name
        of_model = replace(self.trial, lum=its.settings)
        interests, took_s = of_model.interests(own_early, own_late, folder, place, about=late)
        return interests, took_s

    def _logs_of(self, its: UserModel) -> tuple[Simulated, ...]:
        return tuple(replace(log, conditions=its.conditions) for log in self.trial.logs)

    def _deployed(self, early: Dataset, study: str, place: Place) -> tuple[Start, float]:
        """The ranker that is deployed, and how long its training took, in seconds."""
        place.report("deployed ranker")
        run = place.folder_of(study, self.name) / DEPLOYED
        settings = self._variant(True, None, None).settings
        result = run_training(
            early, settings, run, lambda line: place.report(f"  {line}"), place.device, place.watch
        )
        return Start.of(run), result.wall_s
