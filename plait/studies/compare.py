"""Layouts against each other under one protocol: the same trunk, data order, budget and users.

OUT/runs/LAYOUT-seedN/   one run each (see `plait.training.run`); a finished one is only read again
OUT/rows.jsonl           one row per layout and seed
OUT/comparison.json      everything that the page shows
OUT/summary.json         what was found and under which protocol, small enough to keep beside code
OUT/report.html          the page
"""

import dataclasses
import datetime
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from plait.data import Dataset, LeaveOneOut
from plait.layouts import Layout, audit, draw, name_of, resolve
from plait.metrics.intervals import bootstrap
from plait.metrics.statistic import Statistic
from plait.models.generative import ModelSettings, check_supported
from plait.schema import Action, Amount, Binary, Categorical, Regression
from plait.studies.report import html_page, page_template
from plait.studies.rows import (
    Ability,
    Comparison,
    Cost,
    DatasetFacts,
    LayoutCard,
    Point,
    Row,
    summarise,
)
from plait.training.checkpoint import write_whole
from plait.training.evaluate import measure
from plait.training.loop import Diverged, Watch, resolve_precision
from plait.training.run import Result, RunSettings, load_answers, run, write_json
from plait.training.selection import Selection
from plait.training.settings import Optim, Protocol

DRAWS = 1000
SUMMARY = (
    "command",
    "commit",
    "machine",
    "date",
    "version",
    "dataset",
    "protocol",
    "cap",
    "reference",
    "summaries",
)
RETRIEVAL_METRICS = ("hr@10", "ndcg@10", "hr@50", "ndcg@50", "mrr")


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
    watch: Watch | None = None,
) -> Comparison:
    """Trains every layout with every seed, as far as that is not done yet, and writes the results.

    Seeds count from the protocol's. A run that diverges is a row that says so; the others go on.

    Raises:
        ValueError: a layout is unknown or given twice, or the folder holds runs of other settings or data.
        ModuleNotFoundError: the extra `report` is not installed.
    """
    page_template()  # what the page lacks should be known before hours of training, not after
    if num_seeds < 1:
        raise ValueError(f"seeds = {num_seeds}: expected at least 1")
    named = _named(layouts, model.allow_leaks)
    for layout in named.values():
        check_supported(layout, dataset.actions)  # before hours are spent on the layouts before it
    rows: list[Row] = []
    statistics: dict[tuple[str, int], Mapping[str, Statistic]] = {}
    for seed in range(
        protocol.seed, protocol.seed + num_seeds
    ):  # seeds outside: a stopped comparison holds every layout once first
        for name, layout in named.items():
            settings = RunSettings(
                layout=str(layout),
                model=model,
                optim=optim,
                protocol=dataclasses.replace(protocol, seed=seed),
            )
            folder = out / "runs" / f"{_folder_name(name)}-seed{seed}"
            report(f"{name}, seed {seed}")
            try:
                result = run(dataset, settings, folder, lambda line: report(f"  {line}"), watch=watch)
            except Diverged as error:
                rows.append(
                    Row(layout=name, seed=seed, metrics={}, cost=None, status="failed", note=str(error))
                )
                continue
            statistics[name, seed] = measure(load_answers(folder, dataset.actions))
            rows.append(_row(name, layout, seed, result, statistics[name, seed]))
    comparison = _comparison(dataset, named, rows, statistics, model, optim, protocol, command)
    _write(comparison, out)
    return comparison


def protocol_line(dataset: Dataset, model: ModelSettings, optim: Optim, protocol: Protocol) -> str:
    """Everything two results must share to be compared, in one line."""
    manifest = dataset.manifest
    split = "leave-one-out (last event = test, one before = validation)"
    if not isinstance(manifest.split, LeaveOneOut):
        split = f"temporal (validation from {manifest.split.cut_validation_s}, test from {manifest.split.cut_test_s})"
    settings = manifest.settings
    ranked = f"{protocol.negatives} sampled unseen items" if protocol.negatives else "full catalogue"
    seen = "filtered (an answer seen before is a miss)" if protocol.filter_seen else "kept"
    trunk, retrieval = model.trunk, model.retrieval.resolved(dataset.num_items)
    select = "NDCG@10 (loss of the actions where a layout cannot retrieve)"
    if protocol.select != Selection.AUTO:
        select = protocol.select
    parts = [
        f"split {split}",
        f"users and items with at least {settings.min_user_events} and {settings.min_item_events} events",
        f"order (user, time, {settings.order or 'original order'})",
        f"ranked against the {ranked}, seen items {seen}, ties count against the model",
        "same_request = causal, target time unknown",
        f"T = {protocol.max_events} events, {protocol.window} window",
        f"trunk gpt d = {trunk.dim}, {trunk.num_layers} layers, {trunk.num_heads} heads, {trunk.positions} positions, "
        f"dropout {trunk.dropout:g}",
        f"retrieval loss {retrieval.kind} softmax, {'cosine' if retrieval.l2_norm else 'inner product'} / "
        f"{retrieval.temperature:g}",
        f"AdamW {optim.learning_rate:g}, {optim.users_per_step} users a step, "
        f"{resolve_precision(optim.precision, 'cpu')}",
        f"selected by validation {select}, patience {protocol.patience}, cap {protocol.cap}",
    ]
    if manifest.note:
        parts.insert(0, manifest.note)
    return "; ".join(parts)


def _named(layouts: Sequence[str], allow_leaks: bool) -> dict[str, Layout]:
    resolved = [resolve(layout, allow_leaks=allow_leaks) for layout in layouts]
    named = {name_of(layout): layout for layout in resolved}
    if len(named) < len(layouts):
        raise ValueError(f"layouts {', '.join(layouts)}: one is given twice")
    return named


def _folder_name(name: str) -> str:
    """A layout's name, or its notation with only the characters that every file system takes."""
    return re.sub(r"[^\w+-]+", "_", name).strip("_")


def _row(name: str, layout: Layout, seed: int, result: Result, statistics: Mapping[str, Statistic]) -> Row:
    return Row(
        layout=name,
        seed=seed,
        metrics={metric: bootstrap(statistic, DRAWS).estimate for metric, statistic in statistics.items()},
        cost=Cost(
            train_flops=result.train_flops,
            train_tokens=result.train_tokens,
            wall_s=result.wall_s,
            train_wall_s=result.train_wall_s,
            epochs=result.epochs,
            best_epoch=result.best_epoch,
            peak_memory_mb=result.peak_memory_mb,
            tokens_per_event=layout.tokens_per_event,
            num_parameters=result.num_parameters,
        ),
        curve=tuple(_point(point) for point in result.curve),
        status="capped" if "cap" in result.why_stopped else "finished",
        note=result.why_stopped,
    )


def _point(validation: dict[str, float]) -> Point:
    spent = ("epoch", "loss", "steps", "tokens", "flops", "train_wall_s")
    metrics = {name: value for name, value in validation.items() if name not in spent}
    return Point(validation["epoch"], validation["train_wall_s"], validation["flops"], metrics)


def _comparison(
    dataset: Dataset,
    named: Mapping[str, Layout],
    rows: Sequence[Row],
    statistics: Mapping[tuple[str, int], Mapping[str, Statistic]],
    model: ModelSettings,
    optim: Optim,
    protocol: Protocol,
    command: str,
) -> Comparison:
    manifest = dataset.manifest
    reference = "item" if "item" in named else next(iter(named))
    measured = {metric for found in statistics.values() for metric in found}
    scoring = tuple(m for action in dataset.actions for m in _metrics_of(action) if m in measured)
    retrieval = tuple(m for m in RETRIEVAL_METRICS if m in measured)
    return Comparison(
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
        charted=tuple(m for m in ("ndcg@10", *scoring[:1]) if m in measured),
        reference=reference,
        layouts=tuple(_card(name, layout) for name, layout in named.items()),
        rows=tuple(rows),
        summaries=summarise(rows, statistics, reference, DRAWS),
        protocol=protocol_line(dataset, model, optim, protocol),
        cap=protocol.cap,
        command=command,
        machine=f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        commit=_commit(),
        date=datetime.date.today().isoformat(),
        version=importlib.metadata.version("plait"),
    )


def _metrics_of(action: Action) -> list[str]:
    """The metrics of an action that a table shows."""
    match action.kind:
        case Binary():
            names = ["auc", "gauc", "ne"]
        case Regression():
            names = ["rmse", "mae"]
        case Amount():
            names = ["rmse_scaled", "mae"]
        case Categorical():
            names = ["accuracy", "log_loss"]
    return [f"{name}:{action.name}" for name in names]


def _card(name: str, layout: Layout) -> LayoutCard:
    verdict = audit(layout)
    mask_NN = draw.mask_of(layout)
    return LayoutCard(
        name=name,
        notation=str(layout),
        retrieves=Ability("yes") if verdict.can_retrieve else Ability("no", "it predicts no item"),
        scores=Ability(verdict.can_score, verdict.why_not_score),
        audit={
            "P1 information": verdict.information,
            "P2 action given item": verdict.conditioning,
            "P3 no leak": "; ".join(verdict.leaks) or "no target can be read from what its token sees",
        },
        tokens=tuple(draw.tokens_of(layout)),
        mask=tuple("".join("1" if sees else "0" for sees in row) for row in mask_NN.tolist()),
        drawing=draw.explain(layout),
        leaks=verdict.leaks,
    )


def _processor() -> str:
    """Its name where the kernel tells it (Linux), else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _commit() -> str:
    """The commit of the checkout that runs, with a mark where files have changed since; "" outside one."""
    here = Path(__file__).parent
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=here, capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else ""


def _write(comparison: Comparison, out: Path) -> None:
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in comparison.rows)
    write_whole(out / "rows.jsonl", lambda aside: aside.write_bytes(lines))
    write_json(out / "comparison.json", comparison)
    write_json(out / "summary.json", {name: getattr(comparison, name) for name in SUMMARY})
    page = html_page(comparison)
    write_whole(out / "report.html", lambda aside: aside.write_text(page, encoding="utf-8"))
