"""`plait serve` as a process: asked, killed, started again, and told to stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from words import Capture, complaint, plait

from plait.service.keys import holder, read_keys

SERVE = "import sys; from plait.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def served(run: Path, *words: object) -> Iterator[tuple[subprocess.Popen, str, list[str]]]:
    """The process, its address, and what it said."""
    command = [sys.executable, "-c", SERVE, "serve", str(run), "--port", "0", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        said = []
        for line in child.stderr:
            said.append(line.strip())
            if " at http://" in line:
                break
        try:
            yield child, said[-1].rpartition(" at ")[2], said
        finally:
            child.kill()


def sent(address: str, path: str, body: Any = None) -> Any:
    headers = {"content-type": "application/json", "plait-deadline-ms": "60000"}
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address + path, data, headers), timeout=60
        ) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


def test_a_service_from_start_to_stop(run: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "lac"
    shutil.copytree(run, mine)
    event = {"id": "e", "user": "u03", "event": {"item": "i02", "time": 2_000_000, "rating": 3}}
    with served(mine) as (child, address, said):
        assert "histories of 23 users" in said[0] and "loss of power" in said[1]
        before = sent(address, "/v1/retrieve", {"user": "u03", "k": 3, "filter_seen": False})
        assert before["answered_by"] == "model" and len(before["items"]) == 3
        assert sent(address, "/v1/events", {"events": [event]})["events"] == [{"id": "e", "status": "stored"}]
        port = address.rpartition(":")[2]
        assert "written by another process" in complaint(capsys, 2, "serve", mine, "--port", port)
        taken = complaint(capsys, 2, "serve", mine, "--port", port, "--store", tmp_path / "other")
        assert f"127.0.0.1:{port} cannot be had" in taken
        os.kill(child.pid, signal.SIGKILL)
    with served(mine) as (child, address, said):
        assert "histories of 0 users" in said[0]
        assert sent(address, "/v1/users/u03")["history"][-1] == {
            "id": "e",
            "event": {"item": "i02", "rating": 3, "time": 2_000_000},
        }
        after = sent(address, "/v1/retrieve", {"user": "u03", "k": 3, "filter_seen": False})
        assert after["scores"] != before["scores"] and after["version"] == before["version"]
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(30) == 0
        assert child.stderr is not None and child.stderr.read().split()[-1] == "stopped"


def test_a_new_key_is_shown_once(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "keys.json"
    assert plait("new-key", file, "--name", "shop", "--scopes", "ask,users") == 0
    key = capsys.readouterr().out.strip()
    (kept,) = read_keys(file)
    assert holder([kept], key) == kept and kept.scopes == ("ask", "users") and key not in file.read_text()
    assert "expected some of ask, append" in complaint(
        capsys, 2, "new-key", file, "--name", "b", "--scopes", "all"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--host", "0.0.0.0"), "anybody could"),
        (("--retain", 3), "the model reads up to"),
        (("--deadline-ms", 0), "--deadline-ms 0"),
        (("--store", "redis://localhost:1/0"), "the Redis server cannot be used"),
        (("--keys", "nowhere.json"), "plait new-key"),
    ],
)
def test_what_cannot_be_served(
    words: tuple[object, ...], told: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    store = () if "--store" in words else ("--store", tmp_path / "store")
    assert told in complaint(capsys, 2, "serve", run, *store, *words)


def test_several_runs_are_named_and_shared_as_told(run: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / name)
    runs, store = (tmp_path / "one", tmp_path / "two"), ("--store", tmp_path / "store")
    assert "expected NAME=SHARE, such as one=0.9" in complaint(
        capsys, 2, "serve", *runs, *store, "--split", "one"
    )
    assert "no model is called 'three'" in complaint(capsys, 2, "serve", *runs, *store, "--split", "three=1")
    assert "two models are called one" in complaint(capsys, 2, "serve", runs[0], runs[0], *store)
    assert "no model is called 'x'" in complaint(capsys, 2, "serve", *runs, *store, "--shadow", "x")
    with served(*runs, *store, "--split", "one=1", "--split", "two=3", "--shadow", "one") as (
        _,
        address,
        said,
    ):
        assert "serving one " in said[-1] and ", two " in said[-1]
        models = {each["model"]: each for each in sent(address, "/v1/models")["models"]}
        assert [models[name]["share"] for name in ("one", "two")] == [1.0, 3.0] and models["one"]["is_shadow"]
        answers = {sent(address, "/v1/retrieve", {"user": f"u{nth:02d}"})["model"] for nth in range(12)}
        assert answers == {"one", "two"}
