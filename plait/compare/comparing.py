"""Variants against each other on the same data and users: layouts under one protocol, or whatever else a study varies.

OUT/runs/VARIANT-seedN/  one run each (see `plait.training.run`); a finished one is only read again
OUT/rows.jsonl           one row per variant and seed
OUT/comparison.json      everything that the page shows
OUT/summary.json         what was found and under which protocol, small enough to keep beside code
OUT/report.html          the page
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from plait.compare.examples import examples
from plait.compare.page import html_page, page_template
from plait.compare.presentation import origins
from plait.compare.regret import limits, regrets
from plait.compare.results import (
    Ability,
    Comparison,
    Cost,
    DatasetFacts,
    LayoutCard,
    Point,
    Row,
    summarise,
)
from plait.compare.verdict import chief_metrics, verdict_of
from plait.compare.words import folder_name, run_folder
from plait.data import Dataset
from plait.evaluation.answers import measure, targets_of
from plait.evaluation.protocol_line import protocol_line
from plait.evaluation.provenance import Provenance, provenance
from plait.evaluation.reachable import Reach, check_can_choose
from plait.evaluation.run_files import Result, RunSettings, load_answers
from plait.evaluation.selection import Selection
from plait.evaluation.settings import Optim, Protocol
from plait.files import write_whole
from plait.layouts import Layout, audit, draw, name_of, resolve
from plait.layouts.audit import reader
from plait.limits import Between, check_number
from plait.metrics.intervals import Estimate, average, bootstrap
from plait.metrics.statistic import Statistic
from plait.metrics.table import LOSS_OF_ACTIONS, shown_of_kind, shown_of_retrieval
from plait.models.combining import check_supported
from plait.models.generative import ModelSettings
from plait.nn.device import resolve_device
from plait.notices import Diverged, Watch
from plait.schema import Action, check_unique
from plait.training.batches import check_labels
from plait.training.run import check_takes_runs, config_of, run_training, write_json
from plait.training.unread import check_read

DRAWS = 1000
SUMMARY = (
    "command", "commit", "machine", "date", "version", "dataset", "protocol", "cap", "reference", "oracle", "summaries",
)  # fmt: skip
SEEDS = Between(1, 10_000, "every layout is trained with each")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a comparison: a name, and everything that decides its runs."""

    name: str
    settings: RunSettings

    @property
    def layout(self) -> Layout:
        return Layout.parse(self.settings.layout, allow_leaks=self.settings.model.allow_leaks)

    def seeded(self, seed: int) -> RunSettings:
        protocol = dataclasses.replace(self.settings.protocol, seed=seed)
        return dataclasses.replace(self.settings, protocol=protocol)


@dataclasses.dataclass(frozen=True)
class Compared:
    """What a comparison found, and what it rests on: by (variant, seed), the metrics of that run on the test users."""

    comparison: Comparison
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]]


def compare(
    dataset: Dataset,
    layouts: Sequence[str],
    num_seeds: int,
    out: Path,
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    command: str,
    report: Callable[[str], None] = print,
    device: str = "auto",
    watch: Watch | None = None,
) -> Comparison:
    """Trains every layout with every seed, as far as that is not done yet, and writes the results.

    Raises:
        ValueError: a layout is unknown or given twice, or as `compare_variants`.
        ModuleNotFoundError: the extra `report` is not installed.
    """
    resolved = [resolve(layout, allow_leaks=model.allow_leaks) for layout in layouts]
    if len({str(layout) for layout in resolved}) < len(layouts):
        raise ValueError(f"layouts {', '.join(layouts)}: one is given twice")
    variants = [
        Variant(name_of(layout), RunSettings(layout=str(layout), model=model, optim=optim, protocol=protocol))
        for layout in resolved
    ]
    return compare_variants(
        dataset, variants, num_seeds, out, command=command, report=report, device=device, watch=watch
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
    device: str = "auto",
    watch: Watch | None = None,
) -> Compared:
    """Trains every variant with every seed, as far as that is not done yet, and writes the results.

    Seeds count from that of the first variant's protocol. A run that diverges is a row that says so; the others go
    on.

    Raises:
        ValueError: two variants have one name, one cannot be trained on this data, or the folder holds runs of other
            settings or data, or is none for runs.
        ModuleNotFoundError: the extra `report` is not installed.
    """
    page_template()  # what the page lacks should be known before hours of training, not after
    check_takes_runs(out)
    check_number("seeds", num_seeds, SEEDS)
    device = resolve_device(device)
    _check_variants(variants, dataset)
    study = _Study(dataset, tuple(variants), num_seeds, title, command, device, provenance(device))
    best = limits(dataset, [variant.settings for variant in variants], study.seeds)

    def indented(line: str) -> None:
        report(f"  {line}")

    rows: list[Row] = []
    statistics: dict[tuple[str, int], Mapping[str, Statistic]] = {}
    for seed in study.seeds:  # seeds outside: a stopped comparison holds every variant once first
        for variant in variants:
            folder = out / run_folder(variant.name, seed)
            report(f"{variant.name}, seed {seed}")
            try:
                result = run_training(dataset, variant.seeded(seed), folder, indented, device, watch)
            except Diverged as error:
                rows.append(_failed(study, variant, seed, error))
                continue
            measured = measure(load_answers(folder, dataset.actions))
            statistics[variant.name, seed] = measured
            rows.append(_row(variant, seed, result, measured, best.get(seed, {})))
    comparison = _comparison(study, rows, statistics, best)
    of_users = examples(dataset, comparison, verdict_of(comparison), out, study.filters_seen)
    comparison = msgspec.structs.replace(comparison, examples=of_users)
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
    device: str
    origin: Provenance

    @property
    def seeds(self) -> range:
        first = self.variants[0].settings.protocol.seed
        return range(first, first + self.num_seeds)

    def line_of(self, variant: Variant, seeds: Sequence[int]) -> str:
        of = variant.settings
        return protocol_line(
            self.dataset, of.model, of.optim, of.protocol, seeds, self.device, variant.layout
        )

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


def _check_variants(variants: Sequence[Variant], dataset: Dataset) -> None:
    """Before hours are spent on the first of them."""
    check_unique([folder_name(variant.name) for variant in variants], "variants")
    for variant in variants:
        model = variant.settings.model
        check_supported(variant.layout, dataset.actions, model.trunk, model.exposure)
        check_read(config_of(dataset, variant.settings), variant.settings.protocol)
        check_labels(dataset, variant.layout)
        _check_selection(variant, dataset)


def _check_selection(variant: Variant, dataset: Dataset) -> None:
    """Raises ValueError where the best epoch is to be chosen by what the layout or the data do not give."""
    layout, actions, its = variant.layout, [action.name for action in dataset.actions], variant.settings
    selection = Selection.parse(its.protocol.select).resolve(layout, its.model.retrieval_weight)
    for metric, _ in selection.weights:
        _, of_action, action = metric.partition(":")
        if reader(layout, "a" if of_action else "i") is None:
            raise ValueError(
                f"protocol.select names {metric!r}, and {variant.name} predicts no "
                f"{'action' if of_action else 'next item'}; leave that layout out, or choose by what all of them give "
                "(auto chooses for each)"
            )
        if of_action and action not in actions and metric != LOSS_OF_ACTIONS:
            raise ValueError(
                f"protocol.select names {metric!r}, and the data has no action {action!r}, only "
                f"{', '.join(actions) or 'none'}"
            )
    validation = targets_of(dataset, "validation", its.protocol.plan(layout, its.model.exposure))
    check_can_choose(Reach(dataset, layout, its.protocol, validation), selection)


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
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            peak_memory_mb=result.peak_memory_mb,
            tokens_per_event=variant.layout.tokens_per_event,
            num_parameters=result.num_parameters,
        ),
        curve=tuple(_point(point) for point in result.curve),
        status="capped" if result.why_stopped.startswith("cap of") else "finished",
        note=result.why_stopped,
        protocol=result.protocol,
        provenance=result.provenance,
    )


def _point(validation: dict[str, float]) -> Point:
    spent = ("epoch", "loss", "steps", "tokens", "flops", "train_wall_s")
    metrics = {name: value for name, value in validation.items() if name not in spent}
    return Point(validation["epoch"], validation["train_wall_s"], validation["flops"], metrics)


def _comparison(
    study: _Study,
    rows: Sequence[Row],
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    best: Mapping[int, Mapping[str, Statistic]],
) -> Comparison:
    dataset, manifest, origin = study.dataset, study.dataset.manifest, study.origin
    names = [variant.name for variant in study.variants]
    reference = "item" if "item" in names else names[0]
    measured = {metric for found in statistics.values() for metric in found}
    scoring = tuple(m for action in dataset.actions for m in _metrics_of(action) if m in measured)
    retrieval = tuple(m for m in shown_of_retrieval() if m in measured)
    return Comparison(
        title=study.title,
        dataset=DatasetFacts(
            name=manifest.name,
            num_users=dataset.num_users,
            num_items=dataset.num_items,
            num_events=manifest.counts.events,
            tie_share=manifest.tied_share,
            note=manifest.note,
        ),
        retrieval=retrieval,
        scoring=scoring,
        charted=chief_metrics(retrieval, scoring),
        reference=reference,
        layouts=tuple(_card(variant) for variant in study.variants),
        rows=tuple(rows),
        summaries=summarise(rows, statistics, reference, DRAWS, limits=best),
        oracle=_estimates(best),
        protocol=study.protocol,
        cap=study.cap,
        command=study.command,
        machine=origin.machine,
        commit=origin.commit,
        date=origin.date,
        version=origin.version,
    )


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


def _card(variant: Variant) -> LayoutCard:
    layout = variant.layout
    verdict = audit(layout)
    mask_NN = draw.mask_of(layout)
    return LayoutCard(
        name=variant.name,
        notation=str(layout),
        retrieves=Ability("yes") if verdict.can_retrieve else Ability("no", "it predicts no item"),
        scores=Ability(verdict.can_score, verdict.why_not_score),
        audit={
            "P1 information": verdict.information,
            "P2 action given item": verdict.conditioning,
            "P3 no leak": "; ".join(verdict.leaks) or "no target can be read from what its token sees",
        },
        tokens=tuple(draw.tokens_of(layout)),
        predicts=tuple(draw.predicted_of(layout)),
        mask=tuple("".join("1" if sees else "0" for sees in row) for row in mask_NN.tolist()),
        drawing=draw.explain(layout),
        leaks=verdict.leaks,
    )


def _write(comparison: Comparison, out: Path) -> None:
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in comparison.rows)
    write_whole(out / "rows.jsonl", lambda aside: aside.write_bytes(lines))
    write_json(out / "comparison.json", comparison)
    summary = {name: getattr(comparison, name) for name in SUMMARY}
    said = {"verdict": verdict_of(comparison).lines, "origins": origins(comparison.rows)}
    write_json(out / "summary.json", summary | said)
    page = html_page(comparison, out)
    write_whole(out / "report.html", lambda aside: aside.write_text(page, encoding="utf-8"))
