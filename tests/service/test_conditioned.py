"""A model that is asked under conditions, served beside one that is not: interests, lists, and which answers what."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from answering import asked_under
from served import RATING, ask, rating_event, served_log
from test_fuzz import statuses
from tiny import assert_caught, assert_not_vacuous

import plait
from plait.data import Dataset
from plait.recommender import Recommender
from plait.schema import Categories, Category, Feature, Number
from plait.service.conditioned import unseen_of
from plait.service.deployed import Deployed
from plait.service.examples import EXAMPLES
from plait.service.models import Model
from plait.service.page_routes import condition_said
from plait.service.service import Service, seed
from plait.service.settings import ServiceSettings
from plait.service.split import Split, Traffic
from plait.store.history import Retention
from plait.store.lmdb_store import LmdbStore

ASKED = [{"scenario": "search"}, {"scenario": "home"}, {}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    log = served_log()
    scenario = np.random.default_rng(2).choice(["home", "search"], len(log))
    return plait.prepare(
        log.with_columns(scenario=pl.Series(scenario)), user="user_id", item="item_id", time="timestamp",
        actions=list(RATING), conditions={"scenario": Category()}, out=tmp_path_factory.mktemp("asked") / "data",
        min_item_events=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp("models") / name for name in ("lac", "lum")}
    for name, folder in found.items():
        asked_under(data, name).save_pretrained(folder)
    return found


@pytest.fixture(params=[("lac", "lum"), ("lum", "lac")], ids=" ".join)
def both(request: Any, tmp_path: Path, data: Dataset, folders: dict[str, Path]) -> Iterator[Service]:
    """Both models have a share, and either may be the first."""
    store = LmdbStore(tmp_path / "store", "process", Retention())
    seed(store, data, Recommender.from_pretrained(folders[request.param[0]], "cpu"))
    models = [Model(name, folders[name], data, "cpu") for name in request.param]
    traffic = Traffic(Split(tuple((name, 1.0) for name in request.param)), shadow="lum")
    service = Service(models, store, ServiceSettings(), traffic)
    yield service
    service.close()


def found(service: Service, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = ask(service, path, {"user": 191, **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def check_interests(service: Service, data: Dataset, folders: dict[str, Path]) -> int:
    """Interests and lists are those of the library, of the history as the log has it."""
    model = Recommender.from_pretrained(folders["lum"], "cpu")
    compared = 0
    for place, user in enumerate(data.user_ids().to_list()[:3]):
        state = model.encode(data.histories(np.array([place])))
        expected = np.stack(model.query(state, ASKED)["interest"])
        answer = found(service, "/v1/interests", user=user, conditions=ASKED)
        np.testing.assert_allclose(answer["interests"], expected, rtol=1e-4, atol=1e-5)
        queried = found(service, "/v1/query", user=user, conditions=ASKED, k=4, with_interests=True)
        np.testing.assert_allclose(queried["interests"], expected, rtol=1e-4, atol=1e-5)
        lists = queried["lists"]
        for condition, its in zip(ASKED, lists, strict=True):
            table = model.retrieve(state, 4, condition=condition)
            assert (
                its["items"] == table["item"].cast(str).to_list() or its["items"] == table["item"].to_list()
            )
            np.testing.assert_allclose(its["scores"], table["score"].to_numpy(), rtol=1e-4, atol=1e-5)
            one = found(service, "/v1/retrieve", user=user, condition=condition, k=4)
            assert one["items"] == its["items"] and one["model"] == "lum"
            compared += 1
        assert lists[0]["scores"] != lists[1]["scores"]
    return compared


def test_interests_are_those_of_the_library(both: Service, data: Dataset, folders: dict[str, Path]) -> None:
    assert check_interests(both, data, folders) == 9


def test_histories_without_their_conditions_are_caught(
    both: Service, data: Dataset, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Deployed.encoded

    def forgetful(self: Deployed, rows: Any, *more: Any) -> Any:
        return right(self, [{name: row[name] for name in row if name != "scenario"} for row in rows], *more)

    monkeypatch.setattr(Deployed, "encoded", forgetful)
    assert_caught(check_interests, both, data, folders)


def test_a_request_goes_to_a_model_that_can_answer_it(both: Service) -> None:
    assert found(both, "/v1/retrieve")["model"] == "lac"
    assert found(both, "/v1/score", items=[242])["model"] == "lac"
    assert found(both, "/v1/retrieve", condition={})["model"] == "lum"
    assert found(both, "/v1/why")["model"] == "lac"
    for body, what in (
        ({"model": "lac", "condition": {}}, "asked under no condition"),
        ({"model": "lum"}, "asked under a condition: name one"),
    ):
        assert what in found(both, "/v1/retrieve", 422, **body)["detail"]
    assert "not asked under" in found(both, "/v1/query", 422, model="lac", conditions=ASKED)["detail"]
    assert "is not told" in found(both, "/v1/why", 422, model="lum")["detail"]
    models = {each["model"]: each for each in ask(both, "/v1/models", method="GET").json()["models"]}
    assert models["lum"]["conditions"] == ["scenario"] and models["lac"]["conditions"] == []


def test_an_event_s_condition_is_kept_for_the_model_that_reads_it(both: Service) -> None:
    before = found(both, "/v1/interests", conditions=ASKED)["interests"]
    for nth, scenario in enumerate(("home", "search")):
        event = rating_event(f"e{nth}", 190 + 2 * nth, scenario=scenario)
        assert ask(both, "/v1/events", {"events": [event]}).status_code == 200
    kept = [
        ask(both, f"/v1/users/{user}", method="GET").json()["history"][-1]["event"] for user in (190, 192)
    ]
    assert [event["scenario"] for event in kept] == ["home", "search"]
    wrong = rating_event("x", 191, scenaro="home")
    assert "it knows" in ask(both, "/v1/events", {"events": [wrong]}).json()["detail"]
    assert found(both, "/v1/interests", conditions=ASKED)["interests"] == before


@pytest.mark.filterwarnings("ignore:condition 'scenario'")  # as a service does
def test_values_that_no_training_event_has_are_told_and_not_repeated(both: Service) -> None:
    answer = found(both, "/v1/interests", conditions=[{"scenario": "s3cret"}, {"scenario": "home"}])
    assert answer["unseen"] == [["scenario"], []]
    wrong = found(both, "/v1/interests", 422, conditions=[{"s3cret": 1}])
    assert "s3cret" not in wrong["detail"] and "scenario" in wrong["detail"]
    model = both.served["lum"].deployed.recommender
    assert unseen_of(model, {"scenario": None}) == []


def test_who_has_no_history_gets_no_interest_and_popular_items(both: Service) -> None:
    assert (
        "append events first" in found(both, "/v1/interests", 404, user="nobody", conditions=ASKED)["detail"]
    )
    answer = found(both, "/v1/query", user="nobody", conditions=ASKED, k=3)
    assert answer["answered_by"] == "fallback" and [len(its["items"]) for its in answer["lists"]] == [3, 3, 3]
    assert "interests" not in found(both, "/v1/query", user="nobody", conditions=ASKED, with_interests=True)
    plain = found(both, "/v1/query", conditions=ASKED, k=1_000)
    assert plain["lists"][0]["items"] and "interests" not in plain
    assert "expected" in found(both, "/v1/query", 422, conditions=[])["detail"].lower()


@pytest.mark.filterwarnings("ignore:condition 'scenario'")
def test_examples_of_conditions_are_answered_and_odd_ones_refused(both: Service) -> None:
    sent = 0
    for path in ("/v1/query", "/v1/interests"):
        for body in EXAMPLES[path].values():
            answer = ask(both, path, body)
            assert answer.status_code == 200, answer.text
            sent += 1
    met = asyncio.run(statuses(both, 80))
    assert_not_vacuous({"sent": sent, "200": met[200], "422": met[422]}, 2)


def test_a_page_is_told_what_to_choose_from(both: Service):
    def told(model: str) -> list[dict[str, Any]]:
        answer = ask(both, f"/v1/conditions?model={model}", method="GET")
        assert answer.status_code == 200, answer.text
        return answer.json()["conditions"]

    scenario = {"name": "scenario", "kind": "category", "values": ["home", "search"], "more": 0}
    assert told("lum") == [scenario]
    assert ask(both, "/v1/conditions?model=nobody", method="GET").status_code == 404
    listed = ask(both, "/v1/models", method="GET").json()["models"]
    assert {its["model"]: its["reads_condition"] for its in listed} == {"lum": True, "lac": False}


def test_of_many_values_a_page_is_told_some():
    many = Feature("query", Category(tuple(f"{n:05d}" for n in range(1_234))))
    said = condition_said(many)
    assert len(said["values"]) == 1_000 and said["more"] == 234
    assert condition_said(Feature("hour", Number()))["kind"] == "number"
    genres = condition_said(Feature("genre", Categories("|", ("a", "b"))))
    assert genres["values"] == ("a", "b") and genres["kind"] == "category"
