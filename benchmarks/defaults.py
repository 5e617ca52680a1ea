"""Which defaults are good on small logs: one setting at a time, the best together, and a log that chose nothing.

    OMP_NUM_THREADS=1 python benchmarks/defaults.py grid --kept runs/defaults --recorded runs/ml-100k \
        --out benchmarks/results/defaults.json
    OMP_NUM_THREADS=1 python benchmarks/defaults.py confirm --data DIR --kept runs/defaults --recorded runs/ml-100k \
        --out benchmarks/results/defaults.json
    python benchmarks/defaults.py table benchmarks/results/defaults.json

`grid` trains `lac` with two seeds on each log of the choice: MovieLens-100K, a simulated world, and baskets (some
households of The Complete Journey, and the products that they bought often). It is no full factorial: every level of
`LEVELS` changes one factor of the defaults. `confirm` trains the levels that are taken, or those that are named,
together. It trains them, too, on KuaiRand's sample, which had no say in the choice, and `interleaved` with them on
MovieLens-100K.

All are trained for as many epochs, so that none has more validations to be lucky in. They are judged by the
validation, without counts: by the best mean of three validations in a row, since a single one moves by more than levels
do. Each is held against the defaults with the same seed. Retrieval gains what HR@10 and NDCG@10 rise by, in the mean of
both, relatively; actions gain what their normalised errors fall by, in the mean of all. A level is **better** at a task
of a log where both seeds gain and their mean is at least 1 %, **worse** where both lose as much.

A level is taken where it is worse at no task of any log and better at one; of several levels of a factor that which is
better most often, then that of the greater mean. A level that is worse at one task of a log, and better at none, is
trained on no further one. What is taken may become the default where together it is better at a task of every log, and
worse at none of any, KuaiRand's sample included.

`DIR` holds KuaiRand's sample; the world, the baskets and the runs are kept in a folder of their own. Of a comparison
that is already there (`--recorded`) the runs of the defaults are read, up to as many epochs. A result is added to the
file as soon as its run is finished, and a killed command goes on where it stood.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, assert_never, get_args

import cyclopts
import msgspec
import numpy as np
import polars as pl
from provenance import provenance

import plait
from plait.data import Dataset
from plait.data.simulator import World, simulate
from plait.data.sources import prepared
from plait.data.storage.caches import cached_folder, made_once
from plait.evaluation.run_files import Result, RunSettings, load_result
from plait.evaluation.settings import Protocol
from plait.files import write_whole
from plait.layouts import resolve
from plait.metrics.table import CHIEF_RETRIEVAL, ERROR_OF_ACTIONS, Task, metric_of
from plait.nn.runtime import tune_process
from plait.papers.derived_logs import ITEM, REQUEST, TIME, USER, events_table
from plait.schema import Action, Amount, Binary
from plait.training.run import run_training

app = cyclopts.App()

SEEDS = (0, 1)
MARGIN = 0.01  # of a mean of two seeds, below which nothing is told
DEFAULTS = "defaults"
RETRIEVAL = ("hr@10", CHIEF_RETRIEVAL)
ERROR_OF_ACTION = f"{metric_of(ERROR_OF_ACTIONS).name}:"
TOGETHER = "together"
TASKS: tuple[Task, ...] = get_args(Task)

NUM_WORLD_USERS = 500
NUM_HOUSEHOLDS, MIN_PRODUCT_EVENTS = 400, 30
EPOCHS = 20  # curves are flat by then
VALIDATE_EVERY = 2
PROTOCOL = Protocol(max_epochs=EPOCHS, patience=EPOCHS, validate_every=VALIDATE_EVERY)
IN_A_ROW = 3  # validations whose mean is judged


@dataclass(frozen=True)
class Log:
    """What is trained on, and whether items that a user has met are left out."""

    name: str
    open: Callable[[Path], Dataset]  # of the folder in which is kept what is made
    filter_seen: bool


def open_ml_100k(kept: Path) -> Dataset:
    return prepared.get("ml-100k")


def open_world(kept: Path) -> Dataset:
    world = World(num_users=NUM_WORLD_USERS)
    folder = cached_folder(kept, "world", world)
    return made_once(folder, lambda: simulate(world, folder, name="world"))


def open_baskets(kept: Path) -> Dataset:
    """Households by chance, and the products that these bought at least so often."""
    folder = cached_folder(kept, "baskets", NUM_HOUSEHOLDS, MIN_PRODUCT_EVENTS)
    return made_once(folder, lambda: _prepare_baskets(folder))


def _prepare_baskets(folder: Path) -> Dataset:
    made_of = prepared.get("complete-journey")
    events = events_table(made_of)
    households = events[USER].unique().sort().gather(np.random.default_rng(0).permutation(made_of.num_users))
    of_some = events.filter(pl.col(USER).is_in(households[:NUM_HOUSEHOLDS].implode()))
    return plait.prepare(
        of_some,
        user=USER,
        item=ITEM,
        time=TIME,
        request=REQUEST,
        actions=made_of.manifest.settings.actions,
        min_item_events=MIN_PRODUCT_EVENTS,
        out=folder,
        name="baskets",
    )


def open_kuairand(kept: Path, data: Path) -> Dataset:
    folder = cached_folder(kept, "kuairand")
    actions = (
        Action("is_like", Binary()),
        Action("long_view", Binary()),
        Action("play_time_ms", Amount()),
    )
    return made_once(
        folder,
        lambda: plait.prepare(
            data / "kuairand27k_liked_hated.parquet",
            user="user_id",
            item="item_id",
            time="timestamp_ms",
            time_unit="ms",
            actions=actions,
            out=folder,
            name="kuairand",
        ),
    )


ML_100K = Log("ml-100k", open_ml_100k, filter_seen=True)
LOGS = (
    ML_100K,
    Log("world", open_world, filter_seen=False),
    Log("baskets", open_baskets, filter_seen=False),
)


@dataclass(frozen=True)
class Level:
    """One factor of the defaults, changed."""

    factor: str
    name: str
    change: Callable[[RunSettings], RunSettings]


def trunk(**changes: Any) -> Callable[[RunSettings], RunSettings]:
    return lambda of: replace(of, model=replace(of.model, trunk=replace(of.model.trunk, **changes)))


def retrieval(**changes: Any) -> Callable[[RunSettings], RunSettings]:
    return lambda of: replace(of, model=replace(of.model, retrieval=replace(of.model.retrieval, **changes)))


def cosine(of: RunSettings) -> RunSettings:
    return replace(of, optim=replace(of.optim, schedule="cosine"))


LEVELS = (
    Level("dropout", "dropout 0.4", trunk(dropout=0.4)),
    Level("trunk", "hstu, rab", trunk(kind="hstu", positions="rab")),
    Level("item bias", "item bias popularity", retrieval(item_bias="popularity")),
    Level("trunk", "gpt, rab", trunk(positions="rab")),
    Level("trunk", "hstu, rab of positions alone", trunk(kind="hstu", positions="rab", rab="position")),
    Level("schedule", "cosine", cosine),
    Level("item bias", "item bias learned", retrieval(item_bias="learned")),
    Level("trunk", "gpt, rope", trunk(positions="rope")),
    Level("width", "width 128", trunk(dim=128)),
)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One run, by the best mean of validations in a row, each metric for itself."""

    log: str
    layout: str
    variant: str
    seed: int
    metrics: dict[str, float]
    train_cpu_s: float | None
    changes: tuple[str, ...]  # the names of the levels
    protocol: str
    commit: str

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.log, self.layout, self.variant, self.seed


@dataclass(frozen=True)
class Standing:
    """How a variant stands to the defaults at one task of one log: the gains of the seeds, relatively."""

    gains: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.gains)

    @property
    def told(self) -> Literal["better", "worse", "even"]:
        """
        >>> Standing((0.02, 0.01)).told, Standing((0.09, -0.01)).told, Standing((-0.02, -0.03)).told
        ('better', 'even', 'worse')
        """
        if min(self.gains) > 0 and self.mean >= MARGIN:
            return "better"
        if max(self.gains) < 0 and self.mean <= -MARGIN:
            return "worse"
        return "even"


@app.command
def grid(*, kept: Path, out: Path, recorded: Path | None = None) -> None:
    """Trains the defaults, and every level until it is worse, as far as the file does not have them yet."""
    tune_process()
    runs = _Runs(kept, out, recorded)
    for log in LOGS:
        runs.train(log, "lac", DEFAULTS, ())
    for level in LEVELS:
        for log in LOGS:
            runs.train(log, "lac", level.name, (level,))
            told = told_of(runs.found, log.name, level.name)
            if "worse" in told and "better" not in told:
                break
    print("taken:", ", ".join(level.name for level in taken_of(runs.found)) or "nothing")


@app.command
def confirm(*levels: str, data: Path, kept: Path, out: Path, recorded: Path | None = None) -> None:
    """Trains levels of the grid together, on its logs and on one that had no say; by default those that are taken."""
    tune_process()
    runs = _Runs(kept, out, recorded)
    by_name = {level.name: level for level in LEVELS}
    if unknown := sorted(set(levels) - set(by_name)):
        raise ValueError(f"{unknown[0]!r} is no level of the grid; expected some of {', '.join(by_name)}")
    taken = tuple(by_name[name] for name in levels) or taken_of(runs.found)
    if not taken:
        raise ValueError("the grid takes no level, so there is nothing to confirm; name levels of it")
    unseen = Log("kuairand", partial(open_kuairand, data=data), filter_seen=True)
    name = TOGETHER if len(taken) > 1 else taken[0].name  # which was trained on its logs
    for log in LOGS:
        runs.train(log, "lac", name, taken)
    for log, layout in ((unseen, "lac"), (ML_100K, "interleaved")):
        runs.train(log, layout, DEFAULTS, ())
        runs.train(log, layout, name, taken)
    table(out)


@app.command
def table(file: Path) -> None:
    """Prints what the file's variants gain over the defaults, as tables in Markdown."""
    print("\n".join(lines_of(read(file))))


def lines_of(found: Sequence[Found]) -> list[str]:
    """A table of what the defaults reach, and one of what variants gain, where every seed was trained."""
    places = list(dict.fromkeys((its.log, its.layout) for its in found))
    variants = [name for name in dict.fromkeys(its.variant for its in found) if name != DEFAULTS]
    reached = [
        f"| {log} | `{layout}` | {' | '.join(_reached(found, log, layout))} |" for log, layout in places
    ]
    gained = [
        f"| {variant} | {log} | `{layout}` | {' | '.join(map(_words_of, standings))} |"
        for variant in variants
        for log, layout in places
        if all(standings := [standing_of(found, log, layout, variant, task) for task in TASKS])
    ]
    return [
        "| log | layout | HR@10 | NDCG@10 | normalised error of all actions |",
        "|---|---|---|---|---|",
        *reached,
        "",
        "| changed | log | layout | retrieval gains | actions gain |",
        "|---|---|---|---|---|",
        *gained,
    ]


def _reached(found: Sequence[Found], log: str, layout: str) -> list[str]:
    """By the defaults, of every seed."""
    runs = [its for its in found if (its.log, its.layout, its.variant) == (log, layout, DEFAULTS)]
    return [
        " and ".join(f"{its.metrics[name]:.4f}" for its in runs) for name in (*RETRIEVAL, ERROR_OF_ACTIONS)
    ]


def _words_of(standing: "Standing | None") -> str:
    """
    >>> _words_of(Standing((0.12, 0.04)))
    '+8.0 % (+12.0, +4.0): better'
    """
    assert standing is not None, "every seed was trained"
    by_seed = ", ".join(f"{100 * gain:+.1f}" for gain in standing.gains)
    return f"{100 * standing.mean:+.1f} % ({by_seed}): {standing.told}"


class _Runs:
    """The file of results, and what adds to it."""

    def __init__(self, kept: Path, out: Path, recorded: Path | None) -> None:
        self.kept, self.out, self.recorded = kept, out, recorded
        self.found = read(out) if out.exists() else []

    def train(self, log: Log, layout: str, variant: str, levels: Sequence[Level]) -> None:
        """Every seed that the file does not have."""
        for seed in SEEDS:
            if (log.name, layout, variant, seed) in {its.key for its in self.found}:
                continue
            settings, dataset = settings_of(log, layout, levels, seed), log.open(self.kept)
            result = None if levels else self._recorded(dataset, f"{layout}-seed{seed}", settings)
            if result is None:
                folder = self.kept / "runs" / log.name / f"{layout}, {variant}, seed {seed}"
                result = run_training(dataset, settings, folder, report=lambda line: None)
            changes = tuple(level.name for level in levels)
            self.found.append(found_in(result, log.name, layout, variant, changes))
            self._write()
            print(log.name, layout, variant, seed, self.found[-1].metrics, flush=True)

    def _recorded(self, dataset: Dataset, name: str, settings: RunSettings) -> Result | None:
        """A finished run of the comparison, cut to as many epochs; None where it has none of this data."""
        folder = self.recorded / "runs" / name if self.recorded else None
        if folder is None or not folder.exists():
            return None
        result = load_result(folder)
        if result.content_hash != dataset.manifest.content_hash:
            return None
        capped = replace(
            result.settings.protocol, max_epochs=EPOCHS, patience=EPOCHS, validate_every=VALIDATE_EVERY
        )
        if replace(result.settings, protocol=capped) != settings:
            raise ValueError(f"{folder}: a run of other settings than the defaults; leave --recorded out")
        curve = [row for row in result.curve if row["epoch"] <= EPOCHS and row["epoch"] % VALIDATE_EVERY == 0]
        assert len(curve) == EPOCHS // VALIDATE_EVERY, f"{folder}: ended before {EPOCHS} epochs"
        return replace(result, curve=curve, train_cpu_s=None)  # of the run until its own end

    def _write(self) -> None:
        whole = provenance() | {"margin": MARGIN, "found": self.found}
        encoded = msgspec.json.format(msgspec.json.encode(whole))
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.out, lambda aside: aside.write_bytes(encoded))


def settings_of(log: Log, layout: str, levels: Sequence[Level], seed: int) -> RunSettings:
    protocol = replace(PROTOCOL, filter_seen=log.filter_seen, seed=seed)
    settings = RunSettings(layout=str(resolve(layout)), protocol=protocol)
    for level in levels:
        settings = level.change(settings)
    return settings


def found_in(result: Result, log: str, layout: str, variant: str, changes: tuple[str, ...]) -> Found:
    judged = [name for name in result.curve[0] if name in RETRIEVAL or ":" in name]
    return Found(
        log=log,
        layout=layout,
        variant=variant,
        seed=result.settings.protocol.seed,
        metrics={name: best_in_a_row([row[name] for row in result.curve], name) for name in judged},
        train_cpu_s=result.train_cpu_s,
        changes=changes,
        protocol=result.protocol,
        commit=result.provenance.commit,
    )


def best_in_a_row(curve: Sequence[float], metric: str) -> float:
    """
    >>> best_in_a_row([0.1, 0.9, 0.2, 0.4, 0.6, 0.5], "hr@10"), best_in_a_row([3.0, 2.0, 1.0, 3.0], "rmse:rating")
    (0.5, 2.0)
    """
    means = [fmean(curve[first : first + IN_A_ROW]) for first in range(len(curve) - IN_A_ROW + 1)]
    match metric_of(metric).better:
        case "higher":
            return max(means)
        case "lower":
            return min(means)
        case never:
            assert_never(never)


def read(file: Path) -> list[Found]:
    return msgspec.convert(msgspec.json.decode(file.read_bytes())["found"], list[Found])


def taken_of(found: Sequence[Found]) -> tuple[Level, ...]:
    """The levels that the rule takes, one of a factor at most."""
    best: dict[str, tuple[tuple[int, float], Level]] = {}
    for level in LEVELS:
        standings = [standing_of(found, log.name, "lac", level.name, task) for log in LOGS for task in TASKS]
        whole = [its for its in standings if its is not None]
        told = [its.told for its in whole]
        if len(whole) < len(standings) or "worse" in told or "better" not in told:
            continue
        rank = told.count("better"), fmean(its.mean for its in whole)
        if level.factor not in best or rank > best[level.factor][0]:
            best[level.factor] = rank, level
    return tuple(level for _, level in best.values())


def told_of(found: Sequence[Found], log: str, variant: str) -> list[str]:
    """Of `lac`, by task."""
    standings = (standing_of(found, log, "lac", variant, task) for task in TASKS)
    return [standing.told for standing in standings if standing is not None]


def standing_of(found: Sequence[Found], log: str, layout: str, variant: str, task: Task) -> Standing | None:
    """None where a seed is missing."""
    by_key: Mapping[tuple[str, str, str, int], Found] = {its.key: its for its in found}
    pairs = [[by_key.get((log, layout, name, seed)) for name in (variant, DEFAULTS)] for seed in SEEDS]
    if any(its is None for pair in pairs for its in pair):
        return None
    return Standing(tuple(_gain_of(of, usual, task) for of, usual in pairs))  # type: ignore[arg-type]


def _gain_of(of: Found, usual: Found, task: Task) -> float:
    match task:
        case "retrieval":
            return fmean(of.metrics[name] / usual.metrics[name] - 1 for name in RETRIEVAL)
        case "actions":
            errors = [name for name in of.metrics if name.startswith(ERROR_OF_ACTION)]
            own = [name for name in errors if name != ERROR_OF_ACTIONS]
            return fmean(1 - of.metrics[name] / usual.metrics[name] for name in own)
        case never:
            assert_never(never)


if __name__ == "__main__":
    app()
