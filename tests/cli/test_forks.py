"""A child that was forked from a process that used polars is told so, instead of waiting for ever."""

import subprocess
import sys
from pathlib import Path

import pytest

from plait.data import Dataset, forks

pytestmark = pytest.mark.skipif(
    not forks.THREADS.exists(), reason="the threads of a process cannot be seen here"
)

CHILD = """
import os, signal, sys
import numpy as np
import polars as pl
import plait
from plait.data import forks

data_folder, model_folder, which = sys.argv[1:]
log = pl.DataFrame({"user": [1] * 4 + [2] * 4, "item": list(range(4)) * 2, "time": list(range(8))})
def prepare(place):
    return plait.prepare(log, user="user", item="item", time="time", actions={}, min_user_events=1,
                         min_item_events=1, out=f"{model_folder}-{place}")

def all_calls():
    data, model = plait.Dataset.open(data_folder), plait.Recommender.from_pretrained(model_folder)
    data.user_ids()
    history = {"item": ["i01", "i02"], "time": [1, 2]}
    state = model.encode(history)
    counts, scorer = plait.CountingRecommender.fit(data, "popularity"), plait.CountingScorer.fit(data, "item mean")
    counted = counts.encode(history)
    calls = {
        "prepare": lambda: prepare("child"),
        "fit": lambda: plait.fit(data),
        "refit": lambda: plait.refit(model_folder),
        "CountingRecommender.fit": lambda: plait.CountingRecommender.fit(data, "popularity"),
        "CountingRecommender.encode": lambda: counts.encode(history),
        "CountingRecommender.retrieve": lambda: counts.retrieve(counted, 2),
        "CountingScorer.fit": lambda: plait.CountingScorer.fit(data, "item mean"),
        "CountingScorer.encode": lambda: scorer.encode(history),
        "CountingScorer.score": lambda: scorer.score(counted, ["i01"]),
        "Recommender.encode": lambda: model.encode(history),
        "Recommender.append": lambda: model.append(state, {"item": "i03", "time": 3}),
        "Recommender.score": lambda: model.score(state, ["i01"]),
        "Recommender.score_lists": lambda: model.score_lists(state, [["i01"]]),
        "Recommender.score_dense": lambda: model.score_dense(state, np.array([1]), np.array([1])),
        "Recommender.retrieve": lambda: model.retrieve(state, 2),
        "Recommender.query": lambda: model.query(state, [{}]),
        "Recommender.attention": lambda: model.attention(state),
        "Recommender.item_interests": model.item_interests,
        "Recommender.save_state": lambda: model.save_state(state, f"{model_folder}-state"),
        "Recommender.load_state": lambda: model.load_state(f"{model_folder}-state"),
        "Recommender.load_index": lambda: model.load_index(model_folder),
        "Recommender.mask": lambda: model.mask(deny=["i01"]),
        "Recommender.similar": lambda: model.similar(["i01"], 1),
        "Recommender.value": lambda: model.value("liked"),
        "Recommender.add_items": lambda: model.add_items({"item": ["new"]}),
        "Recommender.add_condition_vectors": lambda: model.add_condition_vectors(query={}),
        "Recommender.save_pretrained": lambda: model.save_pretrained(f"{model_folder}-saved"),
        "Recommender.from_pretrained": lambda: plait.Recommender.from_pretrained(model_folder),
        "Dataset.item_ids": plait.Dataset.open(data_folder).item_ids,
        "Dataset.user_ids": plait.Dataset.open(data_folder).user_ids,
        "Dataset.item_index": lambda: data.item_index(["i01"]),
        "Dataset.user_index": lambda: data.user_index("u01"),
        "Dataset.check_content": data.check_content,
        "Dataset.train_item_counts": plait.Dataset.open(data_folder).train_item_counts,
        "Dataset.open, train_batch": lambda: plait.Dataset.open(data_folder).train_batch(data.train_users(), 5, 0),
    }
    public = {f"{of.__name__}.{name}" for of in (plait.Recommender, plait.CountingRecommender, plait.CountingScorer)
              for name, method in vars(of).items()
              if not name.startswith("_") and not isinstance(method, property)}
    assert public <= set(calls), public - set(calls)
    return calls

if which == "early":
    calls = {"prepare": lambda: prepare("early")}
else:
    prepare("parent")
    calls = all_calls()
if which == "unguarded":
    forks.check_can_work.__code__ = (lambda: None).__code__
    calls = {"prepare": calls["prepare"]}
sys.stdout.flush()
child = os.fork()
if not child:
    for name, call in calls.items():
        signal.alarm(20 if which != "unguarded" else 5)
        try:
            call()
            print(name, "answered")
        except ValueError as error:
            print(name, "refused" if "spawn or forkserver" in str(error) else repr(error))
        sys.stdout.flush()
    os._exit(0)
print("ended", os.waitpid(child, 0)[1])
"""


def said_by_child(dataset: Dataset, run: Path, folder: Path, which: str) -> list[str]:
    model = folder / "model"
    model.mkdir()
    for file in (run / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    words = [sys.executable, "-W", "ignore", "-c", CHILD, str(dataset.folder), str(model), which]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_every_entry_is_refused_in_a_forked_child(dataset, run, tmp_path):
    *said, ended = said_by_child(dataset, run, tmp_path, "late")
    answered = [line for line in said if line.endswith("answered")]
    assert answered == ["Dataset.open, train_batch answered"], said
    assert len(said) > 15 and all(line.endswith("refused") for line in said if line not in answered), said
    assert ended == "ended 0"


def test_a_child_of_a_process_that_never_used_polars_works(dataset, run, tmp_path):
    assert said_by_child(dataset, run, tmp_path, "early") == ["prepare answered", "ended 0"]


def test_without_the_guard_the_child_hangs(dataset, run, tmp_path):
    assert said_by_child(dataset, run, tmp_path, "unguarded") == ["ended 14"], "killed by its alarm"
