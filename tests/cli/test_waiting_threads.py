"""Threads of the command line's process sleep early, unless its environment says otherwise."""

import os
import subprocess
import sys

import pytest
from tiny import assert_caught

from plait.waiting_threads import READ_BY_OPENMP, TURNS

# OMP_DISPLAY_ENV lets the runtime tell, on stderr, what it read as torch was loaded.
BEFORE = "from plait.cli import main; main(['--version']); import torch"
AFTER = "import torch; from plait.cli import main; main(['--version'])"


def told(code: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in READ_BY_OPENMP}
    asked = inherited | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment
    return subprocess.run([sys.executable, "-c", code], env=asked, capture_output=True, text=True).stderr


def check_turns(code: str, turns: str, **environment: str) -> None:
    said = told(code, **environment)
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch comes with another runtime of OpenMP, which tells nothing")
    assert f"GOMP_SPINCOUNT = '{turns}'" in said, said


def test_threads_of_a_command_sleep_early() -> None:
    check_turns(BEFORE, TURNS)
    assert_caught(check_turns, AFTER, TURNS)


@pytest.mark.parametrize("own", ({"GOMP_SPINCOUNT": "777"}, {"OMP_WAIT_POLICY": "passive"}))
def test_what_people_set_stays(own: dict[str, str]) -> None:
    check_turns(BEFORE, own.get("GOMP_SPINCOUNT", "0"), **own)
