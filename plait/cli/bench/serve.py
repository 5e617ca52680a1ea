"""The verb that loads a service, and tells what its users would wait."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from plait.cli.arguments import Json, Quiet
from plait.cli.output import progress_console, say, show_json, show_table
from plait.cli.parted import check_takes_file
from plait.cli.runs import data_of, finished_run, run_and_model
from plait.cli.unfinished import Unfinished
from plait.files import write_whole
from plait.load.mix import mix_of
from plait.load.settings import LoadSettings

if TYPE_CHECKING:
    from plait.load.figures import KindFigures, StageFigures
    from plait.load.measuring import Ids
    from plait.load.own_service import OwnService
    from plait.load.report import LoadReport

RATES = "5,10,20"
HEADINGS = (
    "stage", "requests", "p50 ms", "p99 ms", "p99.9 ms", "good/s", "what became of them", "queue p50", "queue p99",
    "model p50", "model p99",
)  # fmt: skip


def serve(
    target: str,
    /,
    *,
    rates: str | None = None,
    of_capacity: str | None = None,
    seconds: float = LoadSettings.seconds,
    mix: str | None = None,
    candidates: int = LoadSettings.candidates,
    users: int = LoadSettings.users,
    hit_rate: float = LoadSettings.hit_rate,
    deadline_ms: float = LoadSettings.deadline_ms,
    connections: int = LoadSettings.connections,
    seed: int = LoadSettings.seed,
    key: str = "",
    threads: int | None = None,
    out: Path | None = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Loads a service: requests that come when they are due, like those of many users, and what these would wait.

    Example: plait bench serve runs/lac --rates 5,20 --of-capacity 1,2 --seconds 60

    A running service: plait bench serve http://localhost:8000 --rates 20

    Parameters
    ----------
    target
        The address of a running service, http://HOST:PORT, or the folder of a run: that is served for so long, from a
        store within it that is removed afterwards.
    rates
        Stages of so many requests a second, separated by commas; by default 5,10,20, and none where --of-capacity is
        given.
    of_capacity
        Further stages as multiples of the service's capacity, which is measured first, such as 1,2,4,8.
    seconds
        Of each stage. A 99th percentile needs a thousand requests of a kind.
    mix
        Shares of the kinds of requests; by default append=0.5,score=0.3,retrieve=0.2, without those that the layout
        cannot. A service that runs already gets no appends by default: they would stay in its users' histories.
    candidates
        Items of a score.
    users
        Users whose states the service is made to have before.
    hit_rate
        The share of questions about those; the others ask about other users, one after the other.
    deadline_ms
        How long an answer may take to be a good one, from the moment that its request was due.
    connections
        At most so many at once.
    seed
        Of all that is drawn.
    key
        An API key of the service, with the scopes ask, users, and append where it appends. One that may admin, too, is
        told how often states were there.
    threads
        Of the arithmetic of a service that is started here.
    out
        A file for the whole report, as JSON.
    """
    if out is not None:
        check_takes_file(out, "report.json")
    _check_packages()
    from plait.load.measuring import measure_load

    screen = progress_console(quiet=quiet)
    with _served(target, threads) as (url, own, ids):
        settings = LoadSettings(
            rates=_numbers("rates", rates or ("" if of_capacity else RATES)),
            of_capacity=_numbers("of-capacity", of_capacity or ""),
            seconds=seconds, mix=mix_of(mix) if mix else {}, candidates=candidates, users=users, hit_rate=hit_rate,
            deadline_ms=deadline_ms, connections=connections, seed=seed,
        )  # fmt: skip
        loading = measure_load(url, settings, lambda line: say(line, screen), key=key, ids=ids, own=own)
        found = _done(loading)
    if out is not None:
        text = msgspec.json.format(msgspec.json.encode(found))
        write_whole(out, lambda aside: aside.write_bytes(text + b"\n"))
    show_json(found) if json else _show(found)
    if found.complaint:
        raise Unfinished(found.complaint)


def _done(loading: "Coroutine[Any, Any, LoadReport]") -> "LoadReport":
    try:
        return asyncio.run(loading)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the load ended early, and its figures are not kept") from None


def _check_packages() -> None:
    try:
        import httptools  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"a load needs packages that are not here ({error.name}): pip install 'plait[serve]'"
        ) from None


@contextmanager
def _served(target: str, threads: int | None) -> "Iterator[tuple[str, OwnService | None, Ids | None]]":
    """The address, and where the service is started here, its process, and whom and what it knows."""
    from plait.load.measuring import Ids
    from plait.load.own_service import own_service

    if "://" in target:
        if threads is not None:
            raise ValueError(
                f"--threads {threads} is of a service that is started here; {target} has its own"
            )
        yield target, None, None
        return
    folder, _ = run_and_model(Path(target))
    data = data_of(finished_run(folder))
    if isinstance(data, str):
        raise ValueError(f"nobody can be asked about: {data}")
    ids = Ids(data.user_ids().cast(str).to_list(), data.item_ids().cast(str).to_list())
    words = [] if threads is None else ["--threads", str(threads)]
    with own_service(Path(target), folder, words) as own:
        yield own.url, own, ids


def _numbers(name: str, text: str) -> tuple[float, ...]:
    """
    >>> _numbers("rates", "5,10")
    (5.0, 10.0)
    """
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"--{name} {text!r}: expected numbers between commas, such as 5,10,20") from None


def _show(found: "LoadReport") -> None:
    show_table(HEADINGS, [_row(stage, kind) for stage in found.stages for kind in stage.kinds])
    for line in _lines(found):
        say(line)


def _row(stage: "StageFigures", kind: "KindFigures") -> tuple[object, ...]:
    mark = "" if stage.is_valid else " (not valid)"
    became = ", ".join(f"{count:,} {outcome}" for outcome, count in kind.outcomes.items())
    return (
        f"{stage.name} {kind.kind}{mark}", kind.requests, kind.p50_ms, kind.p99_ms, kind.p999_ms, kind.good_per_s,
        became, kind.queue_p50_ms, kind.queue_p99_ms, kind.model_p50_ms, kind.model_p99_ms,
    )  # fmt: skip


def _lines(found: "LoadReport") -> Iterator[str]:
    """What stands below the table."""
    yield "Latencies count from the moment that a request was due. Not enough: fewer than ten samples lie beyond."
    for stage in found.stages:
        hits = "" if stage.hit_rate is None else f"; states were there for {stage.hit_rate:.1%}"
        cost = (
            ""
            if stage.processor_ms is None
            else f"; {stage.processor_ms:.1f} ms of processor time by request"
        )
        yield f"{stage.name}: sent up to {stage.behind_most_ms:.1f} ms late{hits}{cost}"
        yield from (f"  {kind.kind}: {kind.problem}" for kind in stage.kinds if kind.problem)
    if found.capacity is not None:
        steps = ", ".join(f"{step.good_per_s:.1f} by {step.askers}" for step in found.capacity.steps)
        yield f"Capacity: {found.capacity.per_s:.1f} good answers a second ({steps} askers)"
    if found.own is not None:
        own = found.own
        yield f"Ready after {own.ready_s:.1f} s; the first start, which takes the histories, {own.filling_s:.1f} s"
        yield f"Memory without LMDB's map: {own.memory_mb[0]} MB, after the load {own.memory_mb[1]} MB"
        yield f"The disk syncs 4 KB in {own.sync_p50_ms} ms (p50), {own.sync_p99_ms} ms (p99), of {own.syncs}"
    yield f"Processes that wanted a processor: {found.machine_load[0]} before, {found.machine_load[1]} after"
