"""What a service answered is what its log holds."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from served import MANY_MS, ask, rating_event, recommender_of
from tiny import assert_caught, assert_not_vacuous

from plait.data import Dataset
from plait.service import answer_log, rolling_files
from plait.service.answer_log import Answer
from plait.service.models import Model
from plait.service.rolling_files import RollingSettings
from plait.service.service import Service, seed
from plait.service.settings import ServiceSettings
from plait.service.wire import RetrieveRequest, ScoreRequest
from plait.store.history import Retention
from plait.store.lmdb_store import LmdbStore

CLOCK_S = 1_700_000_000.25


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def logged(tmp_path: Path, folder: Path, data: Dataset) -> Iterator[Service]:
    service = logging_service(tmp_path, folder, data)
    yield service
    service.close()


def logging_service(tmp_path: Path, folder: Path, data: Dataset, **settings: Any) -> Service:
    recommender = recommender_of(data)
    recommender.save_pretrained(tmp_path / "model")
    store = LmdbStore(tmp_path / "store", "process", Retention())
    seed(store, data, recommender)
    model = Model("lac", tmp_path / "model", data, "cpu")
    log = RollingSettings(folder=folder, **settings)
    return Service([model], store, ServiceSettings(), clock_s=lambda: CLOCK_S, log=log)


def table_of(folder: Path, name: str) -> pl.DataFrame:
    files = sorted(folder.glob(f"{name}-*.parquet"))
    return pl.concat([pl.read_parquet(file) for file in files], how="diagonal")


def written(service: Service, folder: Path, name: str) -> pl.DataFrame:
    assert service.answer_log is not None
    service.answer_log.close()
    return table_of(folder, name)


# Answers


QUESTIONS: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/v1/retrieve", {"user": 191, "k": 4, "with_actions": True, "filter_seen": False}, {}),
    ("/v1/score", {"user": 192, "items": [242, "nowhere", 302], "value": "2 * rating"}, {}),
    ("/v1/score", {"user": 192, "items": ["nowhere"], "at": 1_650_000_000}, {}),
    ("/v1/retrieve", {"history": [{"item_id": 242, "timestamp": 1_600_000_000}], "k": 3}, {}),
    ("/v1/retrieve", {"user": "new", "k": 3, "with_actions": True}, {"plait-request-id": "mine-1"}),
    ("/v1/score", {"user": "new", "items": [302, "nowhere"]}, {}),
    ("/v1/why", {"user": 191}, {}),
    ("/v1/retrieve", {"user": 191, "allow": ["nowhere"]}, {}),
]


def check_holds_what_was_answered(tmp_path: Path, data: Dataset) -> Counter:
    """Every member of every answer, row by row."""
    service, answers = logging_service(tmp_path, tmp_path / "log", data), []
    try:
        for path, body, headers in QUESTIONS:
            answer = ask(service, path, body, headers=MANY_MS | headers)
            assert answer.status_code == 200, answer.text
            if path != "/v1/why":
                answers.append((path, body, answer.json()))
    finally:
        service.close()
    rows, met = table_of(tmp_path / "log", "answers").rows(named=True), Counter()
    for path, body, answer in answers:
        mine = [row for row in rows if row["request_id"] == answer["request_id"]]
        assert len(mine) == len(answer["items"])
        for place, row in enumerate(mine):
            assert row["position"] == place + 1 and row["item"] == str(answer["items"][place])
            assert row["asked"] == path.rpartition("/")[2] and row["time"].timestamp() == CLOCK_S
            assert row["user"] == (str(body["user"]) if "user" in body else None)
            assert row["at"] == (str(body["at"]) if "at" in body else None)
            for name in ("model", "version", "answered_by"):
                assert row[name] == answer[name]
            assert row["why"] == answer.get("why")
            assert row["status"] == (answer["status"][place] if "status" in answer else "ok")
            for name in ("value", "scores"):
                expected = answer[name][place] if name in answer else None
                check_same(row[name.removesuffix("s")], expected)
            for name, values in answer.get("actions", {}).items():
                check_same(row[f"expected_{name}"], values[place])
            met.update([row["status"], row["answered_by"], row["asked"]])
            met["nobody"] += row["user"] is None
    met["rows"] = len(rows)
    assert met["rows"] == sum(len(answer["items"]) for _, _, answer in answers)
    assert json.loads(rows[0]["question"]) == {"k": 4, "filter_seen": False}
    return met


def check_same(found: float | None, expected: float | None) -> None:
    assert (found is None) == (expected is None)
    if expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_log_holds_what_was_answered(tmp_path: Path, data: Dataset) -> None:
    met = check_holds_what_was_answered(tmp_path, data)
    kinds = ("ok", "unknown item", "model", "fallback", "retrieve", "score", "nobody")
    assert_not_vacuous({name: met[name] for name in kinds}, above=2)


def test_a_log_of_other_numbers_is_caught(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = answer_log._floats
    monkeypatch.setattr(answer_log, "_floats", lambda values, num_rows: right(values, num_rows)[::-1])
    assert_caught(check_holds_what_was_answered, tmp_path, data)


@pytest.mark.parametrize(
    "asked", [RetrieveRequest(user=1), ScoreRequest(items=(), user=1)], ids=["list", "scores"]
)
def test_a_table_of_nothing_has_the_columns_of_any_other(asked: RetrieveRequest | ScoreRequest) -> None:
    told = {"model": "lac", "version": "v", "answered_by": "model"}
    tables = [
        answer_log.answers_table([Answer("r", 0, asked, told | {"items": ids, "scores": [0.5] * len(ids)})])
        for ids in ([], ["a"])
    ]
    assert [len(table) for table in tables] == [0, 1] and tables[0].schema == tables[1].schema
    assert pl.concat(tables).equals(tables[1])


def test_late_answers_are_logged_as_counts(
    logged: Service, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(logged.first.deployed), "state_of", lambda self, user: time.sleep(0.3))
    answer = ask(logged, "/v1/retrieve", {"user": 191, "k": 2}, headers={"plait-deadline-ms": "30"}).json()
    found = written(logged, folder, "answers")
    assert found["answered_by"].to_list() == ["fallback"] * 2 == [answer["answered_by"]] * 2
    assert "deadline" in found["why"][0] and found["item"].to_list() == [
        str(item) for item in answer["items"]
    ]


# Events


def test_events_are_logged_once(logged: Service, folder: Path) -> None:
    about = {**rating_event("a", 191, rating=4), "request_id": "r-1"}
    sent = {"events": [about, rating_event("b", "x", item="nowhere")]}
    assert ask(logged, "/v1/events", sent).status_code == 200
    assert ask(logged, "/v1/events", {"events": [about]}).json()["events"][0]["status"] == "duplicate"
    assert ask(logged, "/v1/events", {"events": [rating_event("a", 191, item=302)]}).status_code == 409
    assert ask(logged, "/v1/events", {"events": [{**about, "request_id": ""}]}).status_code == 422
    found = written(logged, folder, "events")
    assert found.select("event_id", "request_id", "user").rows() == [("a", "r-1", "191"), ("b", None, "x")]
    assert [json.loads(text) for text in found["event"]] == [each["event"] for each in sent["events"]]
    assert {when.timestamp() for when in found["time"]} == {CLOCK_S}


# Trouble


def counted(service: Service) -> dict[str, float]:
    lines = ask(service, "/metrics", method="GET").text.splitlines()
    told = (line.rpartition(" ") for line in lines if line.startswith("plait_log"))
    return {name: float(value) for name, _, value in told}


def test_answers_go_on_without_a_disk(
    tmp_path: Path, folder: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rolling_files, "RETRY_S", 0.02)
    service = logging_service(tmp_path, folder, data, file_rows=3, most_rows=7)
    shutil.rmtree(folder)
    for _ in range(4):
        assert ask(service, "/v1/retrieve", {"user": 191, "k": 3}).json()["answered_by"] == "model"
    told = counted(service)
    while not told['plait_log_failures_total{table="answers"}']:
        told = counted(service)
    assert told['plait_logged_rows_total{fate="no room",table="answers"}'] == 6
    folder.mkdir()
    service.close()
    assert table_of(folder, "answers").height == 6
    assert counted_after(service) == 6


def counted_after(service: Service) -> float:
    return service.counters.logged.labels("answers", "written")._value.get()


def test_without_a_folder_nothing_is_logged(service: Service, tmp_path: Path) -> None:
    assert ask(service, "/v1/retrieve", {"user": 191}).status_code == 200
    assert service.answer_log is None and not list(tmp_path.rglob("*.parquet.*"))
    assert not list(tmp_path.rglob("answers-*"))


def test_a_folder_that_cannot_be_had_serves_nothing(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be written"):
        logging_service(tmp_path, tmp_path / "file", data)


def test_a_new_folder_is_for_its_owner_alone(logged: Service, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
