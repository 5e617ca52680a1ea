"""A model whose conditions have frozen vectors, served: what HTTP answers is what the library does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from answering import asked_under
from served import RATING, ask, rating_event, served_log
from tiny import assert_caught

import plait
from plait.data import Dataset
from plait.recommender import Recommender
from plait.schema import Keyed, Vector
from plait.service.deployed import Deployed
from plait.service.models import Model
from plait.service.service import Service, seed
from plait.service.settings import ServiceSettings
from plait.store.history import Retention
from plait.store.lmdb_store import LmdbStore

TEXTS = ("red shoes", "green shoes", "blue hats")
NEW = "violet hats"  # in the table, and in no event
ASKED = [{"query": TEXTS[0]}, {"query": TEXTS[2]}, {"query": NEW}, {}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    log, rng = served_log(), np.random.default_rng(2)
    vectors = rng.normal(size=(len(TEXTS) + 1, 5)).astype(np.float32)
    return plait.prepare(
        log.with_columns(query=pl.Series(rng.choice(TEXTS, len(log)))), user="user_id", item="item_id",
        time="timestamp", actions=list(RATING), conditions={"query": Vector()}, min_item_events=1,
        condition_vectors={"query": pl.DataFrame({"text": [*TEXTS, NEW], "vector": vectors})},
        out=tmp_path_factory.mktemp("keyed") / "data",
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, place = asked_under(data, "lum"), tmp_path_factory.mktemp("models") / "lum"
    assert model.model.conditions is not None
    model.model.conditions.describe(model.model.config.conditions, data.condition_vectors())
    model.save_pretrained(place)
    return place


@pytest.fixture
def service(tmp_path: Path, data: Dataset, folder: Path) -> Iterator[Service]:
    store = LmdbStore(tmp_path / "store", "process", Retention())
    seed(store, data, Recommender.from_pretrained(folder, "cpu"))
    found = Service([Model("lum", folder, data, "cpu")], store, ServiceSettings())
    yield found
    found.close()


def said(service: Service, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = ask(service, path, {"user": 191, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def check_answers_by_text(service: Service, data: Dataset, folder: Path) -> None:
    """Interests and lists under texts, one of them without events, are those of the library."""
    model = Recommender.from_pretrained(folder, "cpu")
    assert isinstance(model.model.config.conditions[0].kind, Keyed)
    state = model.encode(data.histories(np.array([1])))
    expected = np.stack(model.query(state, ASKED)["interest"])
    assert len(np.unique(expected.round(4), axis=0)) == len(ASKED), "one interest for all proves nothing"
    answer = said(service, "/v1/interests", conditions=ASKED)
    assert np.allclose(answer["interests"], expected, rtol=1e-4, atol=1e-5)
    assert answer["unseen"] == [[]] * len(ASKED)
    for condition in ASKED:
        table = model.retrieve(state, 4, condition=condition)
        found = said(service, "/v1/retrieve", condition=condition, k=4)
        assert found["items"] == table["item"].to_list()
        assert np.allclose(found["scores"], table["score"].to_numpy(), rtol=1e-4, atol=1e-5)


def test_a_text_is_answered_by_its_vector(service: Service, data: Dataset, folder: Path) -> None:
    check_answers_by_text(service, data, folder)


def test_histories_without_their_texts_are_caught(
    service: Service, data: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Deployed.encoded

    def forgetful(self: Deployed, rows: Any, *more: Any) -> Any:
        return right(self, [{name: row[name] for name in row if name != "query"} for row in rows], *more)

    monkeypatch.setattr(Deployed, "encoded", forgetful)
    assert_caught(check_answers_by_text, service, data, folder)


def test_an_event_is_kept_with_its_text(service: Service) -> None:
    before = said(service, "/v1/interests", conditions=ASKED)["interests"]
    assert ask(service, "/v1/events", {"events": [rating_event("e", 191, query=NEW)]}).status_code == 200
    assert said(service, "/v1/interests", conditions=ASKED)["interests"] != before
    history = ask(service, "/v1/users/191", method="GET").json()["history"]
    assert history[-1]["event"]["query"] == NEW


def test_a_text_in_no_table_is_named_and_a_vector_is_refused(service: Service) -> None:
    with pytest.warns(UserWarning, match="no training event has them"):
        answer = said(service, "/v1/interests", conditions=[{"query": "in no table"}, {}])
    assert answer["unseen"] == [["query"], []]
    refused = said(service, "/v1/retrieve", 422, condition={"query": [0.1] * 5})
    assert refused["title"] == "wrong request"
