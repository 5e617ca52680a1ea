"""The loop of a served model: it recommends, users answer, and what they did trains the next version.

    python examples/served_loop.py

Users, items and what they think of each other are simulated, so it is known what the best list would be worth. In each
round every user asks once and is shown five items: of 50 candidates from `/v1/retrieve`, those with the highest chance
of a click. The app tells the service what became of all five. Between rounds the log of answers is joined with the
events (`plait data shown`), the model is trained further on everything so far (`plait train --from`), and the service
takes the new version while it runs. Users may be shown items again, as in the simulated log, so rounds compare.

It needs `pip install 'plait[serve]'`.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import polars as pl

from plait.cli import main as command
from plait.data.simulator import Response, Visitors, World
from plait.data.simulator.drawing import draw_log
from plait.data.simulator.simulating import visible
from plait.schema import Action, Binary

CANDIDATES, SHOWN, DAY_S = 50, 5, 86_400
COLUMNS = ("user_id", "item_id", "timestamp", "request_id", "click")
NAMED = "--user user_id --item item_id --time timestamp --request request_id --action click:binary"
BLIND = "--model.exposure.same-request blind"  # as served: what is shown together is asked about together
SELECT = "--protocol.select ndcg@10=1,auc:click=1"  # one checkpoint, for lists and for clicks
PLAIT = "import sys; from plait.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Size:
    """How large the world is, and how long each training."""

    users: int = 400
    events: int = 8
    items: int = 200
    rounds: int = 4
    epochs: int = 12
    further_epochs: int = 6
    dim: int = 32

    @property
    def world(self) -> World:
        click = Response(action=Action("click", Binary()), rate=0.3)
        return World(
            num_users=self.users,
            num_events=self.events,
            num_items=self.items,
            num_types=4,
            taste=2.0,
            mood=0.5,
            scenario=0.3,
            responses=(click,),
            steer="click",
        )


@dataclass(frozen=True)
class Worth:
    """Mean clicks on an item shown: what happened, and what was to be expected of other lists at the same moments."""

    version: str
    clicked: float
    expected: float
    popular: float
    by_chance: float
    best: float

    def __str__(self) -> str:
        return (
            f"version {self.version}: {self.clicked:.3f} clicked of {self.expected:.3f} to be expected; popular "
            f"items {self.popular:.3f}, any {self.by_chance:.3f}, the best {self.best:.3f}"
        )


def loop(size: Size, folder: Path) -> list[Worth]:
    """What each round was worth."""
    rng, world, run, found = np.random.default_rng(1), size.world, folder / "run", []
    drawn = draw_log(world)
    visitors, before = Visitors.after(world, drawn), first_log(visible(world, drawn))
    prepare(before, folder / "data-0")
    shape = (
        f"--model.trunk.dim {size.dim} --model.trunk.num-layers 1 --protocol.max-events 32 {BLIND} {SELECT}"
    )
    plait(f"train {folder}/data-0 --layout lac {shape} --protocol.max-epochs {size.epochs} --out {run}")
    log = before
    with served(run, folder / "answers") as address:
        for turn in range(1, size.rounds + 1):
            visitors = visitors.again(rng)
            found.append(one_round(address, visitors, log, rng))
            print(f"round {turn}: {found[-1]}", flush=True)
            if turn < size.rounds:
                log = pl.concat([before, told(address, folder, run, turn * size.users)])
                new = next_version(log, folder, run, turn, size.further_epochs)
                swap(address, new, run)
    return found


def one_round(address: str, visitors: Visitors, log: pl.DataFrame, rng: np.random.Generator) -> Worth:
    """Every user asks, is shown five items, and answers."""
    shown, versions, at = [], set(), log["timestamp"].max() + DAY_S
    for user in range(visitors.world.num_users):
        asked = {"user": user, "k": CANDIDATES, "with_actions": True, "filter_seen": False, "at": at}
        answer = sent(address, "/v1/retrieve", asked)
        best = np.argsort(-np.array(answer["actions"]["click"]), kind="stable")[:SHOWN]
        shown += [(answer["request_id"], user, answer["items"][place]) for place in best]
        versions.add(answer["version"])
    user_E, item_E = (np.array([each[part] for each in shown]) for part in (1, 2))
    click_E = visitors.respond(user_E, item_E - 1, rng)[:, 0]
    for begin in range(0, len(shown), 500):
        part = zip(shown[begin : begin + 500], click_E[begin : begin + 500], strict=True)
        sent(address, "/v1/events", {"events": [event(*each, at, click) for each, click in part]})
    chance_UV = visitors.chances("click")
    return Worth(
        version="/".join(versions),
        clicked=float(click_E.mean()),
        expected=float(chance_UV[user_E, item_E - 1].mean()),
        popular=worth_of(chance_UV, np.broadcast_to(clicks_V(log, visitors.world), chance_UV.shape)),
        by_chance=worth_of(chance_UV, rng.random(chance_UV.shape)),
        best=worth_of(chance_UV, chance_UV),
    )


def event(request: str, user: int, item: int, at: int, click: float) -> dict[str, Any]:
    """What became of an item that was shown, a click or none."""
    row = {"item_id": item, "timestamp": at, "click": int(click)}
    return {"id": f"{request}-{item}", "user": user, "request_id": request, "event": row}


def clicks_V(log: pl.DataFrame, world: World) -> np.ndarray:
    """How often each item was clicked."""
    return np.bincount(log["item_id"] - 1, log["click"], minlength=world.num_items)


def worth_of(chance_UV: np.ndarray, score_UV: np.ndarray) -> float:
    """The mean chance of a click on each user's five items of the highest score."""
    top_U5 = np.argsort(-score_UV, axis=1, kind="stable")[:, :SHOWN]
    return float(np.take_along_axis(chance_UV, top_U5, axis=1).mean())


def first_log(log: pl.DataFrame) -> pl.DataFrame:
    """Requests of the world are numbers, those of the service texts."""
    return log.with_columns(pl.format("before {}", "request_id").alias("request_id")).select(COLUMNS)


def told(address: str, folder: Path, run: Path, num_answers: int) -> pl.DataFrame:
    """What was shown since the service began: of each list, the items that events are about (--first 0)."""
    await_files(address, {"answers": num_answers * CANDIDATES, "events": num_answers * SHOWN})
    out = folder / "shown.parquet"
    plait(f"data shown {folder}/answers --run {run} --first 0 --out {out}")
    return pl.read_parquet(out, columns=list(COLUMNS)).with_columns(pl.col("click").cast(pl.Float64))


def await_files(address: str, rows: dict[str, int]) -> None:
    """Rows stay in memory for a moment; the metrics tell when they are in files."""
    lines = [f'plait_logged_rows_total{{fate="written",table="{table}"}} {n}.0' for table, n in rows.items()]
    while not all(line in fetched(address + "/metrics") for line in lines):
        time.sleep(0.1)


def prepare(log: pl.DataFrame, out: Path) -> None:
    log.write_parquet(out.with_suffix(".parquet"))
    plait(f"data prepare {out}.parquet {NAMED} --min-user-events 2 --min-item-events 1 --out {out}")


def next_version(log: pl.DataFrame, folder: Path, run: Path, turn: int, epochs: int) -> Path:
    """The run's model, trained further on all that is known now."""
    new = folder / f"run-{turn}"
    prepare(log, folder / f"data-{turn}")
    plait(f"train {folder}/data-{turn} --from {run} --protocol.max-epochs {epochs} {SELECT} --out {new}")
    return new


def swap(address: str, new: Path, run: Path) -> None:
    """While the service runs: the new model's files in the place of the old ones, which are in memory."""
    for file in (new / "model").iterdir():
        copyfile(file, run / "model" / file.name)
    assert sent(address, "/v1/models/reload", {})["models"][0]["swapped"]


@contextlib.contextmanager
def served(run: Path, answers: Path) -> Iterator[str]:
    """The address of a service, which goes down when the block ends."""
    words = f"serve {run} --port 0 --log-answers {answers} --log-answers-s 0.5".split()
    with subprocess.Popen([sys.executable, "-c", PLAIT, *words], stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        said = next(line for line in child.stderr if " at http://" in line)
        try:
            yield said.strip().rpartition(" at ")[2]
        finally:
            child.terminate()


def sent(address: str, path: str, body: Any) -> Any:
    headers = {"content-type": "application/json", "plait-deadline-ms": "60000"}
    return json.loads(fetched(urllib.request.Request(address + path, json.dumps(body).encode(), headers)))


def fetched(what: str | urllib.request.Request) -> str:
    with urllib.request.urlopen(what, timeout=600) as answer:
        return answer.read().decode()


def plait(words: str) -> None:
    """A command as people type it; what it prints is left out."""
    print(f"$ plait {words}", flush=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        code = command(words.split())
    assert code == 0, said.getvalue()


def main(size: Size = Size()) -> list[Worth]:
    with tempfile.TemporaryDirectory() as folder:
        return loop(size, Path(folder))


if __name__ == "__main__":
    main()
