"""A service's process: started twice, read to the end, stopped, and its store removed. Here, a few lines serve."""

import time
from pathlib import Path

import pytest

from plait.load import own_service as room
from plait.load.machine import disk_syncs_s, held_memory_mb, processor_s
from plait.load.own_service import own_service

SERVES = """
import pathlib, sys, time
store = pathlib.Path(sys.argv[sys.argv.index("--store") + 1])
print("histories taken" if not store.exists() else "histories were there", file=sys.stderr)
store.mkdir(exist_ok=True)
print("serving lac 1 at http://127.0.0.1:7", file=sys.stderr, flush=True)
print("a warning\\n" * 50_000, file=sys.stderr, flush=True)  # more than a pipe holds
(store / "went on").touch()
time.sleep(600)
"""


def test_a_service_is_started_on_a_filled_store_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "SERVE", SERVES)
    with own_service(Path("run"), tmp_path, ["--threads", "1"]) as own:
        assert own.url == "http://127.0.0.1:7" and own.store.parent.parent == tmp_path
        assert own.filling_s > 0 and own.ready_s > 0
        until_s = time.monotonic() + 60
        while not (own.store / "went on").exists():
            assert time.monotonic() < until_s, "nobody reads what it says"
            time.sleep(0.01)
        assert Path(f"/proc/{own.pid}").exists()
        assert (held_memory_mb(own.pid) or 0) > 1 and processor_s(own.pid) is not None
    assert not Path(f"/proc/{own.pid}").exists() and list(tmp_path.iterdir()) == []
    assert held_memory_mb(own.pid) is None and processor_s(own.pid) is None


def test_a_service_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SERVE", "import sys; sys.exit('plait: no finished run')")
    with (
        pytest.raises(ValueError, match="did not start: plait: no finished run"),
        own_service(Path("run"), tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_disk_is_synced_so_often_or_for_so_long(tmp_path: Path) -> None:
    assert len(disk_syncs_s(tmp_path, most=3)) == 3 and min(disk_syncs_s(tmp_path, most=3)) > 0
    assert disk_syncs_s(tmp_path, most_s=0.0) == [] and list(tmp_path.iterdir()) == []
