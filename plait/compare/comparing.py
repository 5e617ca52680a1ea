"""Variants against each other on the same data and users: layouts under one protocol, or whatever else a study varies.

OUT/runs/VARIANT-seedN/  one run each (see `plait.training.run`); a finished one is only read again
OUT/baselines/           what counting answers (see `plait.evaluation.counting`), where it is compared too
OUT/arithmetic.json      what all runs multiply in, where the settings leave it open
OUT/rows.jsonl           one row per variant and seed
OUT/comparison.json      everything that the page shows
OUT/summary.json         what was found and under which protocol, small enough to keep beside code
OUT/report.html          the page
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import get_args

import msgspec

from plait.compare.examples import examples
from plait.compare.floor import floor_of
from plait.compare.notes import origins
from plait.compare.outlook import Runs
from plait.compare.page import html_page, page_template
from plait.compare.regret import limits, regrets
from plait.compare.results import (
    Ability,
    Beyond,
    Chosen,
    Comparison,
    Cost,
    DatasetFacts,
    LayoutCard,
    Point,
    Row,
    summarise,
)
from plait.compare.serving import serving
from plait.compare.variants import Variant, check_variants
from plait.compare.verdict import chief_metrics, verdict_of
from plait.compare.words import run_folder
from plait.data import Dataset
from plait.evaluation.answers import measure, targets_of
from plait.evaluation.beyond_accuracy import TrainingFacts, beyond_accuracy
from plait.evaluation.counting import BASELINES, Baselines, baselines_of
from plait.evaluation.counts_effect import CountsInTime, effects
from plait.evaluation.counts_in_time import counts_in_time
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.provenance import Provenance, provenance
from plait.evaluation.reachable import Reach
from plait.evaluation.run_files import (
    Result,
    RunSettings,
    answers_of_run,
    answers_without_counts,
    measured_answers,
)
from plait.evaluation.settings import Optim, Protocol
from plait.files import write_whole
from plait.layouts import Layout, audit, draw, name_of
from plait.layouts.audit import Audit
from plait.layouts.facts import FIELD_NAMES
from plait.limits import Between, check_setting
from plait.metrics.intervals import Estimate, average, bootstrap
from plait.metrics.statistic import Statistic
from plait.metrics.table import (
    Task,
    shown_of_kind,
    shown_of_retrieval,
    task_of,
)
from plait.models.generative import ModelSettings
from plait.nn.arithmetic import Arithmetic
from plait.notices import Diverged, Watch
from plait.schema import Action
from plait.training.arithmetic import made_definite, shared_arithmetic
from plait.training.batches import targets_per_epoch
from plait.training.run import check_takes_runs, run_training, write_json

DRAWS = 1000
SUMMARY = (
    "command", "commit", "machine", "date", "version", "dataset", "protocol", "cap", "reference", "oracle", "floor",
    "counts", "without_counts", "summaries",
)  # fmt: skip
SEEDS = Between(1, 10_000, "every layout is trained with each")


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a comparison found, and what it rests on: by (variant, seed), the metrics of that run on the test users."""

    comparison: Comparison
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]]


def compare(
    dataset: Dataset,
    layouts: Sequence[Layout],
    num_seeds: int,
    out: Path,
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    command: str,
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
    baselines: bool = True,
    rankers: Sequence[Variant] = (),
) -> Comparison:
    """Trains every layout with every seed, as far as that is not done yet, and writes the results.

    Args:
        baselines: holds the layouts against counting, too.
        rankers: rows beside the layouts (see `plait.rankers.rows`).

    Raises:
        ValueError: a layout is given twice, or as `compare_variants`.
        ModuleNotFoundError: the extra `report` is not installed.
    """
    if len({str(layout) for layout in layouts}) < len(layouts):
        raise ValueError(f"layouts {', '.join(map(name_of, layouts))}: one is given twice")
    variants = [
        Variant(name_of(layout), RunSettings(layout=str(layout), model=model, optim=optim, protocol=protocol))
        for layout in layouts
    ]
    return compare_variants(
        dataset,
        [*variants, *rankers],
        num_seeds,
        out,
        command=command,
        report=report,
        device=device,
        watch=watch,
        baselines=baselines,
    ).comparison


def compare_variants(
    dataset: Dataset,
    variants: Sequence[Variant],
    num_seeds: int,
    out: Path,
    *,
    command: str,
    title: str = "Layouts compared",
    report: Callable[[str], None] = print,
    device: str = "cpu",
    watch: Watch | None = None,
    baselines: bool = False,
) -> Compared:
    """Trains every variant with every seed, as far as that is not done yet, and writes the results.

    Args:
        baselines: holds the variants against counting, where all of them are asked the same questions.

    Seeds count from that of the first variant's protocol. A run that diverges is a row that says so; the others go
    on.

    Raises:
        ValueError: two variants have one name or would not be judged alike, one cannot be trained on this data, or the
            folder holds runs of other settings or data, or is none for runs.
        ModuleNotFoundError: the extra `report` is not installed.
    """
    page_template()  # what the page lacks should be known before hours of training, not after
    check_takes_runs(out)
    check_setting("seeds", num_seeds, SEEDS)
    check_variants(variants, dataset)
    arithmetic = shared_arithmetic(out, [variant.settings for variant in variants], device)
    origin = provenance(device, arithmetic)
    study = _Study(dataset, tuple(variants), num_seeds, title, command, arithmetic, origin)
    best = limits(dataset, [variant.settings for variant in variants], study.seeds)

    def indented(line: str) -> None:
        report(f"  {line}")

    if baselines:
        report("baselines")
    counted = _baselines(study, out, indented) if baselines else None
    rows: list[Row] = []
    results: dict[str, dict[Path, Result]] = {}
    statistics: dict[tuple[str, int], Mapping[str, Statistic]] = {}
    deployed: dict[tuple[str, int], Mapping[str, Statistic]] = {}
    alone: dict[tuple[str, int], Mapping[str, Statistic]] = {}
    runs = Runs([variant.name for _ in study.seeds for variant in variants], report, watch)
    for seed in study.seeds:  # seeds outside: a stopped comparison holds every variant once first
        for variant in variants:
            folder = out / run_folder(variant.name, seed)
            runs.begin(f"{variant.name}, seed {seed}")
            try:
                result = run_training(
                    dataset,
                    variant.seeded(seed),
                    folder,
                    indented,
                    device,
                    watch,
                    arithmetic,
                    variant.start,
                    variant.interests,
                )
            except Diverged as error:
                rows.append(_failed(study, variant, seed, error))
                runs.end()
                continue
            runs.end(result.wall_s)
            results.setdefault(variant.name, {})[folder] = result
            measured = measure(measured_answers(folder, result))
            statistics[variant.name, seed] = measured
            deployed[variant.name, seed] = _of_deployed(folder, result)
            if (without := answers_without_counts(folder, result)) is not None:
                alone[variant.name, seed] = measure(without)
            rows.append(_row(variant, seed, result, measured, best.get(seed, {})))
    comparison = _comparison(study, rows, statistics, deployed, best)
    comparison = _with_and_without_counts(comparison, statistics, alone)
    if counted is not None and statistics:
        floor = floor_of(counted.baselines, counted.statistics, statistics, DRAWS)
        comparison = msgspec.structs.replace(comparison, floor=floor)
    beyond = (*_beyond_accuracy(study, results), *(counted.beyond if counted else ()))
    in_time = _counts_in_time(study, results, (*comparison.retrieval, *comparison.scoring))
    comparison = msgspec.structs.replace(comparison, beyond_accuracy=beyond, counts_in_time=in_time)
    of_users = examples(dataset, comparison, verdict_of(comparison), out, study.filters_seen)
    comparison = msgspec.structs.replace(comparison, examples=of_users)
    served = serving(dataset, comparison, out, device, study.filters_seen)
    comparison = msgspec.structs.replace(comparison, serving=served)
    if served is not None:
        report(f"serving costs of {len(served.costs)} layouts, measured in {served.wall_s:.1f} s")
    _write(comparison, out)
    return Compared(comparison, statistics)


@dataclasses.dataclass(frozen=True)
class _Study:
    """What is compared, and where."""

    dataset: Dataset
    variants: tuple[Variant, ...]
    num_seeds: int
    title: str
    command: str
    arithmetic: Arithmetic
    origin: Provenance

    @property
    def seeds(self) -> range:
        first = self.variants[0].settings.protocol.seed
        return range(first, first + self.num_seeds)

    def line_of(self, variant: Variant, seeds: Sequence[int]) -> str:
        of = variant.settings
        optim = made_definite(of.optim, self.arithmetic)
        return protocol_line(self.dataset, of.model, optim, of.protocol, seeds, variant.layout)

    @cached_property
    def known(self) -> TrainingFacts:
        return TrainingFacts.of(self.dataset)

    @property
    def shown(self) -> tuple[str, ...]:
        """The metrics that its tables may show."""
        lists = sorted({k for variant in self.variants for k in variant.settings.protocol.lists})
        of_actions = (metric for action in self.dataset.actions for metric in _metrics_of(action))
        return (*shown_of_retrieval(tuple(lists)), *of_actions)

    @property
    def filters_seen(self) -> bool:
        """Whether what a user has met is left out; of several rules that of the first."""
        return self.variants[0].settings.protocol.filter_seen

    @property
    def protocol(self) -> str:
        return shared_line({variant.name: self.line_of(variant, self.seeds) for variant in self.variants})

    @property
    def cap(self) -> str:
        return "; ".join(dict.fromkeys(variant.settings.protocol.cap for variant in self.variants))


def shared_line(lines: Mapping[str, str]) -> str:
    """What the protocol lines of several variants share, then what only some of them say.

    >>> shared_line({"a": "T = 50; d = 8; seed 0", "b": "T = 50; d = 8; seed 0", "c": "T = 50; d = 16; seed 0"})
    'T = 50; seed 0; a, b: d = 8; c: d = 16'
    """
    parts = {name: line.split("; ") for name, line in lines.items()}
    common = [part for part in next(iter(parts.values())) if all(part in its for its in parts.values())]
    apart: dict[str, list[str]] = {}
    for name, its in parts.items():
        own = ", ".join(part for part in its if part not in common)
        if own:
            apart.setdefault(own, []).append(name)
    return "; ".join([*common, *(f"{', '.join(names)}: {own}" for own, names in apart.items())])


def _with_and_without_counts(
    comparison: Comparison,
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    alone: Mapping[tuple[str, int], Mapping[str, Statistic]],
) -> Comparison:
    """With what counts do to each layout that has them, and how these layouts stand without.

    Args:
        alone: by (layout, seed), the metrics of that run without its counts.
    """
    metrics, found = (*comparison.retrieval, *comparison.scoring), {}
    for layout in dict.fromkeys(layout for layout, _ in alone):
        runs = [run for run in alone if run[0] == layout]
        both = [statistics[run] for run in runs], [alone[run] for run in runs]
        found[layout] = effects(*both, metrics, DRAWS)
    shown = {run: {metric: its[metric] for metric in metrics if metric in its} for run, its in alone.items()}
    rows = [row for row in comparison.rows if (row.layout, row.seed) in alone]
    summaries = summarise(rows, shown, comparison.reference, DRAWS)
    return msgspec.structs.replace(comparison, counts=found, without_counts=summaries)


def _of_deployed(folder: Path, result: Result) -> dict[str, Statistic]:
    """What the deployed checkpoint gives in those metrics that a table shows and that are measured on another."""
    if result.measured_beside is None:
        return {}
    shown = {
        *shown_of_retrieval(result.settings.protocol.lists),
        *(name for action in result.actions for name in _metrics_of(action)),
    }
    answered = measure(answers_of_run(folder, result))
    return {
        name: its
        for name, its in answered.items()
        if name in shown and task_of(name) == result.measured_beside
    }


def _beyond_accuracy(study: _Study, results: Mapping[str, Mapping[Path, Result]]) -> Iterator[Beyond]:
    """Of every variant that has a finished run; the answers of one are held at a time."""
    for name, of_variant in results.items():
        runs = [measured_answers(folder, result) for folder, result in of_variant.items()]
        yield Beyond(name, False, beyond_accuracy(runs, study.known, study.shown))


def _counts_in_time(
    study: _Study, results: Mapping[str, Mapping[Path, Result]], metrics: Sequence[str]
) -> dict[str, CountsInTime]:
    found = {name: counts_in_time(runs, study.dataset, metrics, DRAWS) for name, runs in results.items()}
    return {name: its for name, its in found.items() if its is not None}


@dataclasses.dataclass(frozen=True)
class _Counted:
    """What counting reaches: its metrics by name, and what else its answers show."""

    baselines: Baselines
    statistics: Mapping[str, Mapping[str, Statistic]]
    beyond: tuple[Beyond, ...]


def _baselines(study: _Study, out: Path, report: Callable[[str], None]) -> _Counted | None:
    """What counting reaches on the questions of all variants; None where these differ."""
    judged = {of.judged_as for of in study.variants}
    if len(judged) > 1:
        report("none: the variants are not asked the same questions")
        return None
    its = study.variants[0].settings
    found, answers = baselines_of(
        study.dataset, its.protocol, its.model.exposure.same_request, out / BASELINES
    )
    for name, why in found.left_out.items():
        report(f"{name} left out: {why}")
    report(
        ", ".join([f"{len(answers)} ways of counting in {found.wall_s:.1f} s", *filter(None, [found.note])])
    )
    return _Counted(
        found,
        {name: measure(its) for name, its in answers.items()},
        tuple(
            Beyond(name, True, beyond_accuracy([its], study.known, study.shown))
            for name, its in answers.items()
        ),
    )


def _failed(study: _Study, variant: Variant, seed: int, error: Diverged) -> Row:
    return Row(
        layout=variant.name,
        seed=seed,
        metrics={},
        cost=None,
        status="failed",
        note=str(error),
        protocol=study.line_of(variant, [seed]),
        provenance=study.origin,
    )


def _row(
    variant: Variant,
    seed: int,
    result: Result,
    statistics: Mapping[str, Statistic],
    best: Mapping[str, Statistic],
) -> Row:
    found, possible = (
        {metric: bootstrap(statistic, DRAWS) for metric, statistic in its.items()}
        for its in (statistics, best)
    )
    return Row(
        layout=variant.name,
        seed=seed,
        metrics={metric: resampled.estimate for metric, resampled in found.items()},
        regret=regrets(found, possible),
        cost=Cost(
            train_flops=result.train_flops,
            train_tokens=result.train_tokens,
            wall_s=result.wall_s,
            train_wall_s=result.train_wall_s,
            train_cpu_s=result.train_cpu_s,
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            peak_memory_mb=result.peak_memory_mb,
            tokens_per_event=variant.layout.tokens_per_event,
            num_parameters=result.num_parameters,
        ),
        curve=tuple(_point(point) for point in result.curve),
        chosen={task: _chosen(result, task) for task in get_args(Task)},
        status="capped" if result.why_stopped.startswith("cap of") else "finished",
        note=result.why_stopped,
        protocol=result.protocol,
        provenance=result.provenance,
    )


def _chosen(result: Result, task: Task) -> Chosen:
    checkpoint = result.measured(task)
    return Chosen(checkpoint.selection, checkpoint.best_epoch)


def _point(validation: dict[str, float]) -> Point:
    spent = ("epoch", "loss", "steps", "tokens", "flops", "train_wall_s", "train_cpu_s")
    metrics = {name: value for name, value in validation.items() if name not in spent}
    return Point(validation["epoch"], validation["train_wall_s"], validation["flops"], metrics)


def _comparison(
    study: _Study,
    rows: Sequence[Row],
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    deployed: Mapping[tuple[str, int], Mapping[str, Statistic]],
    best: Mapping[int, Mapping[str, Statistic]],
) -> Comparison:
    dataset, manifest, origin = study.dataset, study.dataset.manifest, study.origin
    names = [variant.name for variant in study.variants]
    reference = "item" if "item" in names else names[0]
    measured = {metric for found in statistics.values() for metric in found}
    shown = [metric for metric in study.shown if metric in measured]
    retrieval, scoring = (
        tuple(metric for metric in shown if task_of(metric) == task) for task in ("retrieval", "actions")
    )
    return Comparison(
        title=study.title,
        dataset=DatasetFacts(
            name=manifest.name,
            num_users=dataset.num_users,
            num_items=dataset.num_items,
            num_events=manifest.counts.events,
            tie_share=manifest.tied_share,
            missed_share=_missed_share(study),
            note=manifest.note,
        ),
        retrieval=retrieval,
        scoring=scoring,
        charted=chief_metrics(retrieval, scoring),
        reference=reference,
        layouts=tuple(_card(variant, dataset) for variant in study.variants),
        rows=tuple(rows),
        summaries=summarise(rows, statistics, reference, DRAWS, limits=best, deployed=deployed),
        oracle=_estimates(best),
        protocol=study.protocol,
        cap=study.cap,
        command=study.command,
        machine=origin.machine,
        commit=origin.commit,
        date=origin.date,
        version=origin.version,
    )


def _missed_share(study: _Study) -> float:
    """Of what the first variant is asked; the others are filtered alike."""
    first = study.variants[0]
    its = first.settings
    plan = its.protocol.plan(first.layout, its.model)
    targets = targets_of(study.dataset, "test", plan, its.protocol)
    missed_Q = Reach(study.dataset, first.layout, its.protocol, targets).missed_Q
    return float(missed_Q.mean()) if len(missed_Q) else 0.0


def _estimates(best: Mapping[int, Mapping[str, Statistic]]) -> dict[str, Estimate]:
    """The oracle's metrics, averaged over the seeds as a layout's are."""
    by_seed = list(best.values())
    return {
        metric: average([bootstrap(found[metric], DRAWS) for found in by_seed]).estimate
        for metric in (by_seed[0] if by_seed else ())
    }


def _metrics_of(action: Action) -> list[str]:
    """The metrics of an action that a table shows."""
    return [f"{metric.name}:{action.name}" for metric in shown_of_kind(action.kind)]


def _card(variant: Variant, dataset: Dataset) -> LayoutCard:
    its = variant.settings
    counts = targets_per_epoch(
        dataset, its.protocol.plan(variant.layout, its.model), its.optim.users_per_step, its.protocol
    )
    targets = {f"{FIELD_NAMES[field]}s": count for field, count in counts.items()}
    return msgspec.structs.replace(card_of(variant), targets_per_epoch=targets)


def card_of(variant: Variant) -> LayoutCard:
    """What is known of a variant without its data."""
    layout, its = variant.layout, variant.settings
    verdict = audit(layout)
    mask_NN = draw.mask_of(layout)
    return LayoutCard(
        name=variant.name,
        notation=str(layout),
        retrieves=Ability("yes") if verdict.can_retrieve else Ability("no", "it predicts no item"),
        scores=Ability(verdict.can_score, verdict.why_not_score),
        audit={
            "P1 information": _information(verdict, its.model),
            "P2 action given item": verdict.conditioning,
            "P3 no leak": "; ".join(verdict.leaks) or "no target can be read from what its token sees",
        },
        tokens=tuple(draw.token_labels(layout)),
        predicts=tuple(draw.predicted_of(layout)),
        mask=tuple("".join("1" if sees else "0" for sees in row) for row in mask_NN.tolist()),
        drawing=draw.explain(layout),
        leaks=verdict.leaks,
    )


def _information(verdict: Audit, model: ModelSettings) -> str:
    counts = f"; counts of actions: {verdict.counted}" if model.counts == "auto" else ""
    return f"{verdict.information}{counts}"


def _write(comparison: Comparison, out: Path) -> None:
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in comparison.rows)
    write_whole(out / "rows.jsonl", lambda aside: aside.write_bytes(lines))
    write_json(out / "comparison.json", comparison)
    summary = {name: getattr(comparison, name) for name in SUMMARY}
    said = {"verdict": verdict_of(comparison).lines, "origins": origins(comparison.rows)}
    write_json(out / "summary.json", summary | said)
    page = html_page(comparison, out)
    write_whole(out / "report.html", lambda aside: aside.write_text(page, encoding="utf-8"))
