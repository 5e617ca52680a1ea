"""What a result says of its code, its machine, its memory and its protocol."""

import subprocess
import sys
from dataclasses import replace

import polars as pl
import pytest
import torch
from small_runs import MODEL, OPTIM, PROTOCOL
from tiny import ACTIONS, prepared, random_log

from plait.data import Temporal, prepare
from plait.models.inputs import Exposure
from plait.training import memory, provenance
from plait.training.memory import forget_peak_memory, peak_memory_mb
from plait.training.provenance import protocol_line
from plait.training.settings import Optim, Protocol


def line(dataset, model=MODEL, optim=OPTIM, protocol=PROTOCOL, seeds=(0,)):
    return protocol_line(dataset, model, optim, protocol, seeds)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"protocol": replace(PROTOCOL, negatives=99)}, "ranked against the 99 sampled unseen items"),
        ({"protocol": replace(PROTOCOL, filter_seen=False)}, "seen items kept"),
        ({"protocol": replace(PROTOCOL, max_flops=1e15)}, "cap 3 epochs, 1e+15 FLOPs"),
        ({"protocol": replace(PROTOCOL, select="mrr=2")}, "selected by validation mrr=2"),
        ({"protocol": replace(PROTOCOL, window="random")}, "T = 6 events, random window"),
        ({"optim": replace(OPTIM, precision="bf16")}, "bf16"),
        ({"optim": replace(OPTIM, warmup_steps=7)}, "7 steps of warm-up"),
        ({"model": replace(MODEL, trunk=replace(MODEL.trunk, num_layers=3))}, "3 layers"),
        (
            {"protocol": replace(PROTOCOL, supervise="candidates")},
            "supervised on the last request of a window",
        ),
        ({"protocol": replace(PROTOCOL, supervise="candidates")}, "no request column: events of one time"),
        ({"model": replace(MODEL, trunk=replace(MODEL.trunk, positions="genrank"))}, "no request column"),
        (
            {"model": replace(MODEL, trunk=replace(MODEL.trunk, positions="rab"))},
            "target time known where actions",
        ),
        ({"model": replace(MODEL, exposure=Exposure(same_request="blind"))}, "no request column"),
        ({"seeds": (4, 5)}, "seeds 4, 5"),
    ],
)
def test_what_decides_a_result_stands_in_its_line(dataset, changed, words):
    assert words in line(dataset, **changed) and words not in line(dataset)


def test_a_request_column_needs_no_note(tmp_path):
    log = random_log().with_columns(request=pl.int_range(pl.len()))
    columns = {"user": "user", "item": "item", "time": "time", "request": "request"}
    other = prepare(log, **columns, actions=list(ACTIONS), out=tmp_path / "requests", min_item_events=1)
    assert "no request column" not in line(other, protocol=replace(PROTOCOL, supervise="candidates"))


def test_a_temporal_split_and_a_note_stand_in_the_line(dataset, tmp_path):
    assert "split leave-one-out" in line(dataset) and line(dataset).endswith("; seed 0")
    split = Temporal(cut_validation_s=1_004_000, cut_test_s=1_006_000)
    other = prepared(random_log(), tmp_path / "temporal", split=split)
    assert "split temporal (validation from 1004000, test from 1006000)" in line(other)
    assert protocol_line(other, MODEL, Optim(precision="auto"), Protocol(), [1]).count("\n") == 0


def test_provenance_names_the_code_and_the_machine(monkeypatch):
    found = provenance.provenance("cpu")
    assert str(found).startswith(f"plait {found.version}, ")
    assert f"{torch.get_num_threads()} threads" in found.machine

    def no_git(*arguments, **named):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", no_git)
    provenance._commit.cache_clear()
    assert provenance.provenance("cpu").commit == ""
    provenance._commit.cache_clear()


PEAKS = """
import sys
import torch
from plait.nn.runtime import tune_process
from plait.training.memory import forget_peak_memory, peak_memory_mb

tune_process()  # which keeps freed memory in the process

def peak_of_work(megabytes):
    torch.ones(megabytes * 250_000).sum()
    return peak_memory_mb()

if not forget_peak_memory():
    sys.exit(77)
found = [peak_of_work(20), peak_of_work(400), peak_of_work(20)]
forget_peak_memory()
print(*found, peak_of_work(20))
"""


def test_a_small_run_after_a_large_one_does_not_repeat_its_peak():
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True)
    if done.returncode == 77:
        pytest.skip("this kernel does not let a process reset its peak")
    small, large, not_reset, reset = map(float, done.stdout.split())
    assert large > small + 350
    assert not_reset == large, "the process's own highest: what would be reported without"
    assert reset < small + 50


def test_where_nothing_tells_the_memory_it_is_not_known(tmp_path, monkeypatch):
    assert peak_memory_mb() > 50
    monkeypatch.setattr(memory, "OF_PROCESS", tmp_path / "none")
    assert not forget_peak_memory() and peak_memory_mb() is None
