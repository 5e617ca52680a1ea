"""`plait bench serve`: a run's service started, loaded and stopped; what it says, and what it leaves."""

import json
import re
from pathlib import Path

import pytest
from words import Capture, complaint, plait

ASKED = ("--seconds", 1, "--candidates", 5, "--users", 6, "--deadline-ms", 60_000)


def test_a_runs_service_is_loaded(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """The generator may be late on a busy machine: then the exit code says so, and everything is told all the same."""
    before, out = {file.name for file in run.iterdir()}, tmp_path / "report.json"
    code = plait("bench", "serve", run, *ASKED, "--rates", "30", "--threads", 1, "--out", out)
    shown = capsys.readouterr()
    report = json.loads(out.read_bytes())
    (stage,) = report["stages"]
    assert code == (0 if stage["is_valid"] else 1), shown.err
    assert {kind["kind"] for kind in stage["kinds"]} == {"append", "score", "retrieve"}
    for kind in stage["kinds"]:
        assert kind["outcomes"] == {"good": kind["requests"]}, kind
    assert stage["hit_rate"] is not None and stage["processor_ms"] > 0
    own = report["own"]
    assert own["ready_s"] > 0 and own["filling_s"] > 0 and own["syncs"] > 0 and own["memory_mb"][1] > 50
    assert re.search(r"^30/s score", shown.out, re.MULTILINE) and "the first answer after" in shown.err
    assert {file.name for file in run.iterdir()} == before, "the store is gone"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("http://127.0.0.1:9",), "does not answer"),
        (("http://127.0.0.1:9", "--threads", 2), "--threads 2 is of a service that is started here"),
        (("http://127.0.0.1:9", "--rates", "fast"), "--rates 'fast': expected numbers"),
        (("http://127.0.0.1:9", "--rates", "0"), "--rates 0"),
        (("http://127.0.0.1:9", "--hit-rate", 2), "--hit-rate 2"),
        (("http://127.0.0.1:9", "--mix", "score=2"), "no share"),
        (("nowhere",), "no finished run"),
    ],
)
def test_a_mistake_has_clear_words(words: tuple[object, ...], told: str, capsys: Capture) -> None:
    assert told in complaint(capsys, 2, "bench", "serve", *words)
