"""A version answers before it is served."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from served import RATING, deployed_of, recommender_of, served_log, service_of
from tiny import assert_caught

import plait
from plait.data import Dataset
from plait.service.deployed import Deployed, Question
from plait.service.practice import MOST_APPENDED, practice_rows, practise
from plait.service.rows import packed
from plait.store.history import Append, StoredEvent


def check_practised(folder: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is ready, and again before it is swapped, a version answers once of each kind; nothing is kept."""
    kinds: list[str] = []
    right = Deployed.answer

    def answer(self: Deployed, questions: Sequence[Question]) -> Any:
        assert threading.current_thread().name == "plait-model"
        kinds.extend(type(question.asked).__name__ for question in questions)
        return right(self, questions)

    with monkeypatch.context() as patched:
        patched.setattr(Deployed, "answer", answer)
        service = service_of(folder, data)
        try:
            assert kinds == ["RetrieveRequest", "ScoreRequest"] and service.is_ready
            recommender_of(data, scale=1.1).save_pretrained(folder / "model")
            assert service.reload()[0]["swapped"] and kinds == ["RetrieveRequest", "ScoreRequest"] * 2
            assert len(service.first.deployed.states) == 0
            assert service.store.history("None") is None and service.asking.mean_s == 0
        finally:
            service.close()


def test_a_version_practises_before_it_is_served(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_practised(tmp_path, data, monkeypatch)


def test_a_version_that_does_not_practise_is_caught(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.service.service.practise", lambda deployed, step: 0)
    assert_caught(check_practised, tmp_path, data, monkeypatch)


def check_measured(folder: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is behind is appended to as long as that is cheaper than to encode its history anew."""
    deployed, right = deployed_of(folder, data, "lac"), plait.Recommender.encode

    def slow(self: Any, *given: Any, **more: Any) -> Any:
        time.sleep(0.3)
        return right(self, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(plait.Recommender, "encode", slow)
        practise(deployed)
    deployed.store.close()
    assert 2 < deployed.most_appended <= MOST_APPENDED


def test_it_is_measured_how_far_behind_a_state_may_be(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_measured(tmp_path / "measured", data, monkeypatch)
    monkeypatch.setattr("plait.service.practice.worth_appending", lambda encode_s, append_s: 1)
    assert_caught(check_measured, tmp_path / "fixed", data, monkeypatch)


def test_what_is_further_behind_is_encoded_anew(tmp_path: Path, data: Dataset) -> None:
    deployed = deployed_of(tmp_path, data, "lac")
    try:
        append_to(deployed, "1", 3)
        for most, anew in ((2, 0), (1, 1)):
            deployed.most_appended = most
            deployed.state_of("1")
            before = deployed.states.misses
            append_to(deployed, "1", 2)
            deployed.state_of("1")
            assert deployed.states.misses - before == anew
    finally:
        deployed.store.close()


def append_to(deployed: Deployed, user: str, count: int) -> None:
    head = deployed.store.head(user)
    first = 0 if head is None else head.count
    for nth in range(first, first + count):
        row = {"item_id": "280", "timestamp": 1_700_000_000 + nth, "rating": 4.0}
        (place,) = deployed.rows.places([row])
        deployed.store.append([[Append(user, StoredEvent(f"more{nth}", place, packed(row)))]])


@pytest.mark.parametrize(
    ("of", "name"),
    [(Deployed, "_retrieved"), (Deployed, "_scored"), (plait.Recommender, "append")],
    ids=["retrieve", "score", "append"],
)
def test_a_model_that_cannot_answer_is_not_served(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch, of: type, name: str
) -> None:
    def broken(self: Any, *given: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(of, name, broken)
    with pytest.raises(ValueError, match="the model cannot answer: no memory"):
        service_of(tmp_path, data)


def test_practice_spells_times_as_the_log_does(tmp_path: Path) -> None:
    when = pl.from_epoch("timestamp").dt.strftime("%d.%m.%Y %H:%M:%S")
    data = plait.prepare(
        served_log().with_columns(when.alias("timestamp"), visit=pl.col("timestamp").cast(pl.String)),
        user="user_id",
        item="item_id",
        time="timestamp",
        time_format="%d.%m.%Y %H:%M:%S",
        request="visit",
        actions=list(RATING),
        out=tmp_path / "data",
        min_item_events=1,
    )
    deployed = deployed_of(tmp_path, data, "lac")
    try:
        assert practise(deployed) == 2
        assert practice_rows(deployed)[1]["timestamp"] == "01.01.2020 00:01:00"
    finally:
        deployed.store.close()
