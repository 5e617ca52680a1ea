"""A study: one table or figure of a paper, done again at a size that a small machine can train.

OUT/NAME.json            what was found, the paper's figures beside ours
OUT/NAME/PART/           the runs of each part, its rows and page (see `plait.compare.comparing`)
OUT/logs/                simulated logs

A study that was stopped goes on where it stood. With `quick` everything shrinks to seconds, in OUT/NAME-quick/; that
says whether the code runs and nothing about the paper, so no OUT/NAME.json is written; nor is it for some of the parts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from plait.compare.comparing import Compared, compare_variants
from plait.compare.notes import COUNT, origins
from plait.compare.results import Floor, Row
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.evaluation.provenance import provenance
from plait.evaluation.run_files import RunSettings
from plait.models.generative import ModelSettings
from plait.nn.ranker_settings import settings_of_ranker
from plait.nn.token_mixer import MixerSettings
from plait.notices import Watch
from plait.papers.claims import Claim, ClaimVerdict, answer, judge
from plait.papers.logs import NotHere, StudyLog
from plait.training.run import check_takes_runs, write_json


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a study's results go, what it may read, and who is told."""

    out: Path
    data: Path | None = None  # people's own logs
    parts: tuple[str, ...] = ()  # only these; (): all
    quick: bool = False
    command: str = ""
    device: str = "cpu"
    report: Callable[[str], None] = print
    watch: Watch | None = None

    def folder_of(self, study: str, part: str) -> Path:
        return self.out / (f"{study}-quick" if self.quick else study) / part

    @property
    def logs(self) -> Path:
        return self.out / "logs"


class Setting(msgspec.Struct, frozen=True):
    """One thing that the paper's experiment and ours may differ in."""

    what: str
    paper: str
    ours: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of a table: the paper's figure, and ours with its 95 % interval."""

    variant: str
    metric: str
    paper: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    spread: float | None = None  # standard deviation over seeds, of one run


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one part of a study found."""

    part: str
    data: str  # in words
    protocol: str
    metrics: dict[str, str]  # ours -> what the paper measured there; "" where it has no figures
    figures: tuple[Figure, ...]  # by variant, then metric
    verdicts: tuple[ClaimVerdict, ...] = ()
    notes: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()  # runs that diverged
    drawing: tuple[str, ...] = ()  # lines for a terminal
    page: str = ""  # relative to OUT
    wall_s: float
    origins: dict[str, str] = {}  # code and machine -> the runs that are of it


class StudyResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a study says, small enough to keep beside code."""

    study: str
    paper: str
    question: str
    command: str
    commit: str
    machine: str
    date: str
    version: str
    wall_s: float  # of all runs, also those that an earlier call finished
    setting: tuple[Setting, ...]
    findings: tuple[Finding, ...]
    answers: dict[str, str] = {}  # part -> what became of its claims, in one line
    not_run: dict[str, str] = {}  # part -> why


@runtime_checkable
class StudyPart(Protocol):
    """Something to measure, and what the paper says of it."""

    @property
    def name(self) -> str: ...

    @property
    def logs(self) -> tuple[StudyLog, ...]: ...

    def quick(self) -> "StudyPart":
        """The same in seconds."""
        ...

    def run(self, study: str, place: Place) -> Finding:
        """Measures it, as far as that is not done yet. Raises NotHere where its log is missing."""
        ...


@dataclass(frozen=True)
class Either:
    """A part, and what is run in its place where a log of it is not here."""

    first: StudyPart
    otherwise: StudyPart

    @property
    def name(self) -> str:
        return self.first.name

    def quick(self) -> StudyPart:
        return self.first.quick()


@dataclass(frozen=True, kw_only=True)
class Study:
    name: str  # of `plait study NAME`
    paper: str  # "LAC paper, table 1"
    question: str
    setting: tuple[Setting, ...]
    parts: tuple[StudyPart | Either, ...]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Variants trained on one log, under as many seeds each."""

    name: str
    log: StudyLog
    variants: tuple[Variant, ...]
    metrics: Mapping[str, str]  # ours -> what the paper measured there, in its words
    paper: Mapping[str, tuple[float | None, ...]]  # by variant, the paper's figures in the order of `metrics`
    claims: tuple[Claim, ...]
    num_seeds: int = 2
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = {variant.name for variant in self.variants}
        assert set(self.paper) <= names, f"{self.name}: figures of {set(self.paper) - names}"
        assert {side for claim in self.claims for side in (claim.first, claim.second)} <= names, self.name
        assert {claim.metric for claim in self.claims} <= set(self.metrics), self.name
        assert all(len(row) == len(self.metrics) for row in self.paper.values()), self.name

    @property
    def logs(self) -> tuple[StudyLog, ...]:
        return (self.log,)

    def quick(self) -> "Trial":
        variants = tuple(Variant(variant.name, shrunk(variant.settings)) for variant in self.variants)
        return replace(self, log=self.log.quick(), variants=variants, num_seeds=1)

    def run(self, study: str, place: Place) -> Finding:
        dataset = self.log.open(place.logs, place.data)
        return self.finding(dataset, self.compared(dataset, study, place), study, place)

    def compared(self, dataset: Dataset, study: str, place: Place) -> Compared:
        """What the runs found, as far as they were not done yet."""
        return compare_variants(
            dataset,
            self.variants,
            self.num_seeds,
            place.folder_of(study, self.name),
            command=place.command,
            title=f"{study}, {self.name}",
            report=place.report,
            device=place.device,
            watch=place.watch,
            baselines=True,
        )

    def finding(self, dataset: Dataset, compared: Compared, study: str, place: Place) -> Finding:
        """The same beside the paper."""
        page = str((place.folder_of(study, self.name) / "report.html").relative_to(place.out))
        comparison = compared.comparison
        return Finding(
            part=self.name,
            data=words_of(dataset),
            protocol=comparison.protocol,
            metrics=dict(self.metrics),
            figures=(
                *(
                    self._figure(compared, variant.name, column, metric)
                    for variant in self.variants
                    for column, metric in enumerate(self.metrics)
                ),
                *_counted(comparison.floor, tuple(self.metrics)),
            ),
            verdicts=judge(self.claims, compared.statistics),
            notes=(words_of_epochs(comparison.rows), *self.notes),
            failed=failures(comparison.rows),
            page=page,
            wall_s=sum(row.cost.wall_s for row in comparison.rows if row.cost),
            origins=origins(comparison.rows),
        )

    def _figure(self, compared: Compared, variant: str, column: int, metric: str) -> Figure:
        figures = self.paper.get(variant)
        paper = figures[column] if figures else None
        summary = compared.comparison.summary_of(variant)
        if summary is None or metric not in summary.metrics:
            return Figure(variant=variant, metric=metric, paper=paper)
        found = summary.metrics[metric]
        estimate = found.estimate
        return Figure(
            variant=variant,
            metric=metric,
            paper=paper,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            spread=found.spread,
        )


def _counted(floor: Floor | None, metrics: Sequence[str]) -> Iterator[Figure]:
    """What counting reaches, of the baselines that are best in one of the metrics: no paper has them."""
    if floor is None:
        return
    best = [row.name for metric in metrics if (row := floor.best(metric)) is not None]
    for row in floor.rows:
        for metric in metrics if row.name in best else ():
            name, found = f"{COUNT}{row.name}", row.metrics.get(metric)
            if found is None:
                yield Figure(variant=name, metric=metric)
            else:
                yield Figure(variant=name, metric=metric, value=found.value, low=found.low, high=found.high)


def words_of(dataset: Dataset) -> str:
    """Its size, and that of the test: a split in time does not test all users."""
    tested = dataset.targets("test").user_Q
    return (
        f"{dataset.manifest.name}: {dataset.num_users:,} users, {dataset.num_items:,} items, "
        f"{dataset.manifest.counts.events:,} events; test: {len(tested):,} events of "
        f"{len(set(tested.tolist())):,} users"
    )


def words_of_epochs(rows: Sequence[Row]) -> str:
    """How long runs trained, and where they were best: close to their end, more epochs might have helped."""
    costs = [row.cost for row in rows if row.cost]
    if not costs:
        return "No run finished."
    trained, best = (_range([getattr(cost, name) for cost in costs]) for name in ("epochs", "best_epoch"))
    return f"Trained for {trained} epochs; the best one in validation, which is judged, was {best}."


def _range(numbers: Sequence[float]) -> str:
    """
    >>> _range([8.0, 8.0]), _range([7.0, 0.3125, 6.0])
    ('8', '0.3125 to 7')
    """
    return " to ".join(f"{number:.4g}" for number in sorted({min(numbers), max(numbers)}))


def failures(rows: Sequence[Row]) -> tuple[str, ...]:
    """The runs that diverged, each with its reason."""
    return tuple(f"{row.layout} with seed {row.seed}: {row.note}" for row in rows if not row.cost)


def shrunk(settings: RunSettings) -> RunSettings:
    """The same run in a second: an epoch of a tiny trunk, with statistics of as many windows that fit it."""
    late = replace(settings.model.late, windows=tuple(range(1, 1 + len(settings.model.late.windows))))
    optim = replace(settings.optim, users_per_step=16)
    negatives = None if settings.protocol.negatives is None else 3
    protocol = replace(
        settings.protocol, max_events=7, max_epochs=1, patience=1, validate_every=1, negatives=negatives
    )
    model = _small(replace(settings.model, late=late))
    return replace(settings, model=model, optim=optim, protocol=protocol)


def _small(model: ModelSettings) -> ModelSettings:
    """Narrow; of a ranker only what it reads."""
    if not model.ranker.is_on:
        return replace(model, trunk=replace(model.trunk, dim=12, num_layers=1, num_heads=2))
    num_heads = 2 if model.ranker.reads_time else model.trunk.num_heads
    trunk, ranker = replace(model.trunk, dim=12, num_heads=num_heads), model.ranker
    read = settings_of_ranker(ranker.kind)
    if "hidden" in read:
        ranker = replace(ranker, hidden=(8,))
    if "mixer" in read:
        ranker = replace(ranker, mixer=MixerSettings(num_tokens=4, token_width=16))
    return replace(model, trunk=trunk, ranker=ranker)


def chosen(study: Study, names: Sequence[str]) -> Study:
    """The study with only these of its parts, in its own order; all of them where none is named.

    Raises:
        ValueError: it has no such part.
    """
    known = [part.name for part in study.parts]
    for name in names:
        if name not in known:
            raise ValueError(f"{study.name} has no part {name!r}; its parts are {', '.join(known)}")
    return replace(study, parts=tuple(part for part in study.parts if not names or part.name in names))


def is_recorded(study: Study, place: Place) -> bool:
    """Whether OUT/NAME.json is written: of a whole study, and not of a quick one."""
    return not place.quick and len(chosen(study, place.parts).parts) == len(study.parts)


def here(part: StudyPart | Either, place: Place) -> StudyPart:
    """The part, or what stands in for it, with its logs opened: fetched, drawn or prepared, and kept for its runs.

    Raises:
        NotHere: a log is missing.
        ValueError: a log that people gave cannot be read.
    """
    if isinstance(part, Either):
        try:
            return here(part.first, place)
        except NotHere as error:
            place.report(f"{part.name}: {error}; instead: {part.otherwise.name}")
            return here(part.otherwise, place)
    for log in part.logs:
        log.open(place.logs, place.data)
    return part


def run_study(study: Study, place: Place) -> StudyResult:
    """Runs the parts that are asked for, as far as that is not done yet; what lacks its log is left out and said.

    All logs are opened before the first part runs: what is wrong with the last one should not be told after hours.

    Raises:
        ValueError: nothing could be run, a part is unknown, a log cannot be read, or a folder holds runs of other
            settings or data.
        ModuleNotFoundError: the extra `report` is not installed.
    """
    check_takes_runs(place.out)
    parts: list[StudyPart] = []
    not_run = {}
    for part in chosen(study, place.parts).parts:
        try:
            parts.append(here(part.quick() if place.quick else part, place))
        except NotHere as error:
            not_run[part.name] = str(error)
            place.report(f"{study.name}, {part.name}: not run: {error}")
    if not parts:
        raise ValueError(f"{study.name}: nothing could be run. {' '.join(not_run.values())}")
    findings = []
    for part in parts:
        place.report(f"{study.name}, {part.name}")
        findings.append(part.run(study.name, place))
    origin = provenance(place.device)
    result = StudyResult(
        study=study.name,
        paper=study.paper,
        question=study.question,
        command=place.command,
        commit=origin.commit,
        machine=origin.machine,
        date=origin.date,
        version=origin.version,
        wall_s=sum(finding.wall_s for finding in findings),
        setting=study.setting,
        findings=tuple(findings),
        answers={finding.part: answer(finding.verdicts) for finding in findings if finding.verdicts},
        not_run=not_run,
    )
    if is_recorded(study, place):
        write_json(place.out / f"{study.name}.json", result)
    return result
