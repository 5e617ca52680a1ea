"""The verb that answers over HTTP."""

from collections.abc import Sequence
from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plait.cli.arguments import Device
from plait.cli.output import progress_console, say
from plait.cli.runs import data_of, finished_run, run_and_model
from plait.evaluation.run_files import MODEL
from plait.schema import check_unique

if TYPE_CHECKING:
    from rich.console import Console

    from plait.recommender import Recommender
    from plait.service.models import Model
    from plait.service.split import Traffic
    from plait.store.history import Store


def serve(
    run: Path,
    /,
    *beside: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    store: str | None = None,
    durability: Literal["power", "process"] = "power",
    retain: int | None = None,
    histories: bool = True,
    keys: Path | None = None,
    deadline_ms: float = 500.0,
    most_waiting: int = 64,
    most_together: int = 16,
    batch_wait_ms: float = 0.0,
    state_memory_mb: float = 256.0,
    most_body_mb: float = 4.0,
    most_per_s: float = 0.0,
    drain_s: float = 10.0,
    split: tuple[str, ...] = (),
    split_salt: str = "",
    shadow: str | None = None,
    log_answers: Path | None = None,
    log_answers_s: float = 60.0,
    log_answers_days: float | None = None,
    interests: Path | None = None,
    threads: int | None = None,
    device: Device = "auto",
) -> None:
    """Answers over HTTP: recommendations, expected actions, and events that are appended to histories.

    Example: plait serve runs/lac --port 8000

    Parameters
    ----------
    run
        The folder of `plait train`, or a folder in runs/ of `plait compare`: the model that it deploys answers
        (model/). Where another lies beside it, RUN/model-actions names that.
    beside
        More of them, of the same log. Each model is called as its folder.
    host
        The address to listen at. Any but this machine's own needs --keys.
    port
        0 takes a free one.
    store
        Where histories are kept: a folder, or redis://HOST:PORT/DB; by default RUN/store.
    durability
        power: an event is acknowledged when the disk has it. process: when the system has it, which a kill survives
        and a loss of power may not.
    retain
        Keep at least so many events of a user, and drop older ones; by default all stay.
    histories
        Begin with the histories of the run's data, where the store has not had them yet.
    keys
        The file of API keys, which `plait new-key` makes.
    deadline_ms
        How long an answer may take where the request names no other time (header plait-deadline-ms). Then counts
        answer.
    most_waiting
        Questions that may wait; more are refused with 429.
    most_together
        Questions that are answered in one pass.
    batch_wait_ms
        How long the first of a pass waits for others.
    state_memory_mb
        Megabytes of encoded histories that are kept in memory.
    most_body_mb
        The largest request.
    most_per_s
        Requests that one key may send a second; 0 sets no limit.
    drain_s
        How long open requests may take after SIGTERM.
    split
        NAME=SHARE, once for each model: users are shared among models by a stable hash. By default the first answers
        all, and the others those who name them.
    split_salt
        Another one draws anew which user gets which model.
    shadow
        The name of a model that answers questions again, unseen, to be compared: see /metrics.
    log_answers
        A folder for what was asked, shown and predicted, and for the events that came: Parquet, which names users.
    log_answers_s
        Rows wait at most so long in memory, where a kill loses them.
    log_answers_days
        Files of that folder are removed when they are so old; by default all stay.
    interests
        What a large user model said of users before, as `plait lum query` writes it, for rankers that read interests.
    threads
        Of the model's arithmetic; by default as torch has them.
    device
        What the model runs on; auto is cuda where there is one.
    """
    try:
        import fastapi  # noqa: F401
        import lmdb  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"serving needs packages that are not here ({error.name}): pip install 'plait[serve]'"
        ) from None
    import torch

    from plait.recommender import Recommender
    from plait.service.rolling_files import RollingSettings
    from plait.service.running import run as run_service
    from plait.service.service import Service, seed
    from plait.service.settings import ServiceSettings
    from plait.service.told import InterestTable

    screen = progress_console()
    settings = ServiceSettings(
        host=host, port=port, keys=keys, deadline_ms=deadline_ms, most_waiting=most_waiting,
        batch_wait_ms=batch_wait_ms, most_together=most_together, state_memory_mb=state_memory_mb,
        most_body_mb=most_body_mb, most_per_s=most_per_s, drain_s=drain_s,
    )  # fmt: skip
    models = [_model_of(each, device, screen) for each in (run, *beside)]
    traffic = _traffic([model.name for model in models], split, split_salt, shadow)
    table = None if interests is None else InterestTable.read(interests)
    log = None
    if log_answers is not None:
        log = RollingSettings(folder=log_answers, file_s=log_answers_s, keep_days=log_answers_days)
    if threads is not None:
        torch.set_num_threads(threads)
    recommenders = [Recommender.from_pretrained(model.folder, device) for model in models]
    keeping = _store_of(store, run_and_model(run)[0], durability, retain, recommenders)
    try:
        data = models[0].dataset
        if histories and data is not None:
            users = seed(keeping, data, recommenders[0])
            say(f"histories of {users} users taken from {data.folder}", screen)
        service = Service(models, keeping, settings, traffic, log=log, interests=table)
    except BaseException:
        keeping.close()
        raise
    say(
        f"{torch.get_num_threads()} threads of torch; acknowledged events survive a loss of {_survived(durability)}",
        screen,
    )
    run_service(service, lambda line: say(line, screen))


def _survived(durability: str) -> str:
    return "power" if durability == "power" else "the process, and maybe not of power"


def _model_of(run: Path, device: Device, screen: "Console") -> "Model":
    from plait.service.models import Model

    folder, model_folder = run_and_model(run)
    data = data_of(finished_run(folder))
    if isinstance(data, str):
        say(f"{folder}: no histories and no fallback: {data}", screen)
    name = folder.name if model_folder.name == MODEL else f"{folder.name}/{model_folder.name}"
    return Model(name, model_folder, None if isinstance(data, str) else data, device)


def _traffic(names: list[str], split: tuple[str, ...], salt: str, shadow: str | None) -> "Traffic":
    from plait.service.split import Split, Traffic

    if not split:
        return Traffic(replace(Split.all_to(names[0], names[1:]), salt=salt), shadow)
    shares = dict.fromkeys(names, 0.0)
    for text in split:
        name, equals, share = text.rpartition("=")
        try:
            shares[name if equals else text] = float(share)
        except ValueError:
            raise ValueError(f"--split {text!r}: expected NAME=SHARE, such as {names[0]}=0.9") from None
    check_unique([text.rpartition("=")[0] for text in split], "--split")
    return Traffic(Split(tuple(shares.items()), salt), shadow)


def _store_of(
    where: str | None,
    run: Path,
    durability: Literal["power", "process"],
    retain: int | None,
    recommenders: Sequence["Recommender"],
) -> "Store":
    """
    Raises:
        ValueError: fewer events would stay than a model reads; or as the store.
    """
    from plait.store.history import Retention
    from plait.store.lmdb_store import LmdbStore
    from plait.store.redis_store import RedisStore

    plans = [recommender.model.plan for recommender in recommenders]
    least = max(plan.window.longest + max(plan.lead, 1) for plan in plans)
    if retain is not None and retain < least:
        raise ValueError(
            f"--retain {retain}: the model reads up to {least} events of a user; keep as many, or more"
        )
    retention = Retention(retain, lcm(*(plan.window.step for plan in plans)))  # whole steps of every model
    if where is not None and "://" in where:
        return RedisStore.at(where, durability, retention)
    return LmdbStore(Path(where) if where else run / "store", durability, retention)
