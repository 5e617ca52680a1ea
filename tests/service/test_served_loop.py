"""The loop of a served model, as the example does it, at its smallest."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "served_loop.py"


def test_the_loop_closes(capsys: pytest.CaptureFixture[str]) -> None:
    example: dict[str, Any] = runpy.run_path(str(EXAMPLE))
    size = example["Size"](users=40, events=8, items=60, rounds=2, epochs=1, further_epochs=1, dim=8)
    first, second = example["main"](size)
    assert first.version != second.version and "/" not in first.version + second.version
    for worth in (first, second):
        assert 0 < worth.by_chance < worth.best < 1 and 0 < worth.expected <= worth.best
        assert abs(worth.clicked - worth.expected) < 0.2, "200 clicks"
    said = capsys.readouterr().out
    assert re.search(r"^round 2: version \w{12}: 0\.\d+ clicked", said, re.MULTILINE)
    assert said.count("$ plait data shown") == 1 and said.count("--from") == 1
