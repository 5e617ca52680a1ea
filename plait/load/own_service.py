"""A service of our own: `plait serve` in a process beside this one, over a store that is gone afterwards."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

SERVE = "import sys; from plait.cli import main; sys.exit(main(sys.argv[1:]))"
SERVING = " at http://"  # in the line that says where, which is told when the model is ready
STOP_S = 30.0


@dataclass(frozen=True)
class OwnService:
    """Args:
    store: the folder of its histories, on whose disk it syncs.
    filling_s: the first start, which takes the run's histories into the store.
    ready_s: a start on a store that has them, until the service is ready: the process, its libraries, the model, its
        practice.
    """

    url: str
    pid: int
    store: Path
    filling_s: float
    ready_s: float


@contextmanager
def own_service(
    run: Path, place: Path, words: Sequence[str] = (), begin: Sequence[str] = ()
) -> Iterator[OwnService]:
    """Serves a run, from a store in a temporary folder in `place`. Starts twice: the first start fills the store.

    Args:
        words: further ones of `plait serve`.
        begin: of the command, in place of `plait`: of who puts something beside the service into its process.

    Raises:
        ValueError: it does not start; says what it said.
    """
    with TemporaryDirectory(prefix=".plait-load-", dir=place) as folder:
        store = Path(folder) / "store"
        plait = tuple(begin) or (sys.executable, "-c", SERVE)
        command = [*plait, "serve", str(run), "--port", "0", "--store", str(store), *words]
        with _started(command) as (_, _, filling_s):
            pass
        with _started(command) as (child, url, ready_s):
            yield OwnService(url, child.pid, store, round(filling_s, 2), round(ready_s, 2))


@contextmanager
def _started(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str, float]]:
    begin_s = time.perf_counter()
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child, _address_of(child), time.perf_counter() - begin_s
    finally:
        stop(child)


def _address_of(child: "subprocess.Popen[str]") -> str:
    """As the service tells it. What it says later is read and left: a full pipe would stop it.

    Raises:
        ValueError: it ended before.
    """
    assert child.stderr is not None
    said = list[str]()
    for line in child.stderr:
        said.append(line.strip())
        if SERVING in line:
            threading.Thread(target=_read_to_end, args=(child.stderr,), daemon=True).start()
            return f"http://{line.strip().rpartition(SERVING)[2]}"
    child.stderr.close()
    raise ValueError(f"the service did not start: {' / '.join(said[-3:]) or 'without a word'}")


def _read_to_end(stream: IO[str]) -> None:
    with stream:
        for _ in stream:
            pass


def stop(child: "subprocess.Popen[Any]", within_s: float = STOP_S) -> None:
    """As one stops a service, and if it does not stop within that time, at once."""
    child.terminate()
    try:
        child.wait(within_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
