"""A ranker is told interests that were asked for while its request was on its way, else older ones, else none."""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import torch
from answering import asked_under
from hypothesis import given
from hypothesis import strategies as st
from served import MANY_MS, asked, client_of
from test_conditioned import data as data  # a fixture
from tiny import assert_caught, started, trunk_of

from plait.conditions import OWN, condition_of, text_of
from plait.data import Dataset
from plait.data.history import columns_read
from plait.evaluation.settings import Optim, Protocol
from plait.models.building import built
from plait.models.generative import ModelSettings
from plait.models.ranker import Ranker
from plait.models.saving import model_hash
from plait.nn.interests import InterestRows, InterestSettings
from plait.nn.ranker_settings import RankerSettings
from plait.nn.towers import TowerConfig
from plait.nn.two_tower import TowerInterests, TwoTowerSettings
from plait.rankers.settings import RankerProtocol, run_settings
from plait.rankers.two_tower import two_tower_settings
from plait.recommender import Recommender
from plait.service import deployed as deployed_module
from plait.service.deployed import Deployed, Question
from plait.service.models import Model
from plait.service.problems import Problem
from plait.service.service import Service, seed
from plait.service.settings import ServiceSettings
from plait.service.telling import Query, Telling
from plait.service.told import Flights, InterestTable, LastInterests, Precomputed
from plait.service.wire import RetrieveRequest, ScoreRequest
from plait.store.history import Retention, StoreUnavailable
from plait.store.lmdb_store import LmdbStore

CONDITIONS = OWN, "scenario=search"  # as a ranker's files of interests name them, in their order
ITEMS, HOME = [242, 302, 285], {"scenario": "home"}
RANKED = {"plait-request-id": "r1", **MANY_MS}
Talk = Callable[[httpx.AsyncClient], Awaitable[Any]]


def ranker_of(data: Dataset, lum: Recommender, version: str) -> Recommender:
    """Untrained, with weights so large that interests matter, and so small that no rating is at an end of its scale."""
    from plait.training.run import config_of

    told = InterestSettings(num_conditions=len(CONDITIONS), width=lum.model.config.settings.trunk.dim)
    settings = ModelSettings(
        trunk=trunk_of(),
        tower=TowerConfig(kind="linear"),
        ranker=RankerSettings(hidden=(16, 8), interests=told),
    )
    of_run = run_settings("din", settings, protocol=RankerProtocol(max_events=9))
    config = replace(config_of(data, of_run), told_conditions=CONDITIONS, told_version=version)
    model, draw = started(built(config)).eval(), torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.15, generator=draw)
    return Recommender(model, data.items, columns_read(data))


@pytest.fixture(scope="module")
def folders(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp("told") / name for name in ("lum", "din", "lac")}
    lum = asked_under(data, "lum")
    lum.save_pretrained(found["lum"])
    asked_under(data, "lac").save_pretrained(found["lac"])
    ranker_of(data, lum, model_hash(found["lum"])[:16]).save_pretrained(found["din"])
    return found


def served(
    place: Path, data: Dataset, folders: dict[str, Path], table: InterestTable | None = None
) -> Service:
    store = LmdbStore(place / "store", "process", Retention())
    seed(store, data, Recommender.from_pretrained(folders["lum"], "cpu"))
    models = [Model(name, folder, data, "cpu") for name, folder in folders.items()]
    return Service(models, store, ServiceSettings(), interests=table)


@pytest.fixture
def three(tmp_path: Path, data: Dataset, folders: dict[str, Path]) -> Iterator[Service]:
    service = served(tmp_path, data, folders)
    yield service
    service.close()


def talk(service: Service, of: Talk) -> Any:
    """Several requests of one event loop, as a service has."""

    async def with_client() -> Any:
        async with client_of(service) as client:
            return await of(client)

    return asyncio.run(with_client())


async def retrieved(client: httpx.AsyncClient, user: int = 191, **more: Any) -> dict[str, Any]:
    body = {"model": "lum", "user": user, "k": 2, "condition": HOME, "rank_with": "din", **more}
    answer = await asked(client, "/v1/retrieve", body, headers=RANKED)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ranked(
    client: httpx.AsyncClient, user: int = 191, headers: Any = MANY_MS, **more: Any
) -> dict[str, Any]:
    answer = await asked(
        client, "/v1/score", {"model": "din", "user": user, "items": ITEMS, **more}, headers=headers
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def assert_close(found: Sequence[float], expected: Sequence[float]) -> None:
    """Ways of multiplying differ; unknown items have none."""
    np.testing.assert_allclose(
        np.array(found, dtype=float), np.array(expected, dtype=float), rtol=1e-4, atol=1e-5
    )


class Known:
    """Interests as the library asks for them, for whichever question is asked."""

    def __init__(self, lum: Recommender, interest_QW: np.ndarray | None) -> None:
        self.items = {str(item): vector for item, vector in lum.item_interests().iter_rows()}
        self.lum, self.interest_QW = lum, interest_QW

    def of(self, user_M: np.ndarray, number_M: np.ndarray, item_M: np.ndarray) -> InterestRows:
        ids = map(str, self.lum.vocabulary.ids_at(item_M).to_list())
        vector_MW = torch.tensor(np.stack([self.items[id] for id in ids]).astype(np.float32))
        nothing_QW = np.zeros((len(CONDITIONS), vector_MW.shape[1]), dtype=np.float32)
        found_QW = torch.tensor(
            nothing_QW if self.interest_QW is None else self.interest_QW, dtype=torch.float32
        )
        has_MQ = torch.full((len(user_M), len(CONDITIONS)), self.interest_QW is not None)
        return InterestRows(
            found_QW.repeat(len(user_M), 1, 1), has_MQ, vector_MW, torch.ones(len(user_M), dtype=bool)
        )


def expected(data: Dataset, folders: dict[str, Path], user: int = 191, *, knows: bool = True) -> list[float]:
    """What the library's ranker says with the interests that the library's user model says."""
    lum, din = (Recommender.from_pretrained(folders[name], "cpu") for name in ("lum", "din"))
    history = data.histories(
        data.user_ids().cast(pl.String).index_of(str(user)) + np.zeros(1, dtype=np.int64)
    )
    interest_QW = np.stack(lum.query(lum.encode(history), [HOME, {"scenario": "search"}])["interest"])
    assert isinstance(din.model, Ranker)
    with din.model.told(Known(lum, interest_QW if knows else None)):
        return din.score(din.encode(history), [str(item) for item in ITEMS])["rating"].to_list()


def check_queried(service: Service, data: Dataset, folders: dict[str, Path]) -> None:
    """What is asked with the request is what the ranker reads; the user model and the library agree."""

    async def both(client: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, Any]]:
        answer = await retrieved(client)
        assert answer["request_id"] == "r1"
        return answer, await ranked(client, request_id="r1")

    _, answer = talk(service, both)
    assert answer["interests"] == "queried" and answer["answered_by"] == "model"
    assert_close(answer["actions"]["rating"], expected(data, folders))


def test_a_ranker_reads_what_its_request_asked(three: Service, data: Dataset, folders: dict[str, Path]):
    check_queried(three, data, folders)
    apart = np.abs(np.subtract(expected(data, folders), expected(data, folders, knows=False)))
    assert apart.max() > 1e-2, "interests matter"


def test_conditions_in_another_order_are_caught(
    three: Service, data: Dataset, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    teller = three.telling._tellers["din"]
    three.telling._tellers["din"] = replace(teller, conditions=teller.conditions[::-1])
    assert_caught(check_queried, three, data, folders)


def test_without_a_query_it_takes_older_interests_and_then_none(
    three: Service, data: Dataset, folders: dict[str, Path]
):
    async def in_turns(client: httpx.AsyncClient) -> list[dict[str, Any]]:
        before = await ranked(client, request_id="r1")
        await retrieved(client)
        await ranked(client, request_id="r1")
        return [before, await ranked(client), await ranked(client, user=192, request_id="r1")]

    before, older, other = talk(three, in_turns)
    assert [its["interests"] for its in (before, older, other)] == ["none", "last", "none"]
    page = talk(three, lambda client: asked(client, "/metrics", method="GET")).text
    for source, number in (("none", 2), ("queried", 1), ("last", 1)):
        assert f'plait_told_total{{interests="{source}",model="din"}} {number}.0' in page
    assert_close(before["actions"]["rating"], expected(data, folders, knows=False))
    assert_close(older["actions"]["rating"], expected(data, folders))
    assert_close(other["actions"]["rating"], expected(data, folders, 192, knows=False))


def check_in_time(service: Service) -> None:
    """A query that takes for ever is waited for until the ranker's time is needed, and no longer."""
    hold, right = threading.Event(), Deployed.answer

    async def both(client: httpx.AsyncClient) -> dict[str, Any]:
        await retrieved(client)
        begin_s = time.monotonic()
        answer = await ranked(client, request_id="r1", headers={"plait-deadline-ms": "3000"})
        assert answer["answered_by"] == "model" and time.monotonic() - begin_s < 30
        return answer

    async def for_ever(deployed: Deployed, question: Question, deadline_s: float) -> Any:
        await asyncio.to_thread(hold.wait, 60)

    service.telling._ask = for_ever
    service.asking.mean_s = 0.5
    try:
        told = talk_without_end(service, both, hold)
    finally:
        hold.set()
    assert told["interests"] == "none"
    assert Deployed.answer is right


def talk_without_end(service: Service, of: Talk, hold: threading.Event) -> Any:
    """The same, where a thread waits that the loop would wait for."""

    async def with_client() -> Any:
        async with client_of(service) as client:
            try:
                return await of(client)
            finally:
                hold.set()

    return asyncio.run(with_client())


def test_a_slow_query_does_not_make_a_ranker_late(three: Service):
    check_in_time(three)


def test_a_ranker_that_waits_until_its_own_deadline_is_caught(
    three: Service, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("plait.service.service.RANKING", -1.0)
    assert_caught(check_in_time, three)


def check_mates(deployed: Deployed, told: Sequence[Any]) -> None:
    """Users of one pass, each with interests of their own, are answered as each alone."""
    questions = [
        Question(ScoreRequest(user=191 + nth, items=tuple(ITEMS[: 1 + nth])), 1_600_000_000, its)
        for nth, its in enumerate(told)
    ]
    together = deployed.answer(questions)
    for question, found in zip(questions, together, strict=True):
        (alone,) = deployed.answer([question])
        assert found["interests"] == alone["interests"] == question.told.source
        assert_close(found["actions"]["rating"].tolist(), alone["actions"]["rating"].tolist())


def told_of_three(width: int) -> list[Any]:
    rng = np.random.default_rng(1)
    some_QW, nothing_QW = (rng.normal(size=(len(CONDITIONS), width)).astype(np.float32) for _ in range(2))
    nothing_QW[0] = np.nan
    told = deployed_module.Told
    return [told("queried", some_QW), told(), told("precomputed", nothing_QW)]


def test_interests_of_batch_mates_stay_apart(three: Service):
    din = three.served["din"].deployed
    check_mates(din, told_of_three(three.served["lum"].deployed.recommender.model.config.settings.trunk.dim))


def test_users_that_all_have_one_number_are_caught(three: Service, monkeypatch: pytest.MonkeyPatch):
    right = deployed_module._joined

    def unnumbered(group: Any) -> Any:
        state = right(group)
        return replace(state, events=replace(state.events, user_U=np.zeros(len(group), dtype=np.int64)))

    monkeypatch.setattr(deployed_module, "_joined", unnumbered)
    din = three.served["din"].deployed
    told = told_of_three(three.served["lum"].deployed.recommender.model.config.settings.trunk.dim)
    assert_caught(check_mates, din, told)


def test_only_the_version_that_it_was_trained_with_tells_a_ranker(
    tmp_path: Path, data: Dataset, folders: dict[str, Path]
):
    """After the user model's weights changed, a ranker hears nothing of it until it is trained again."""
    (tmp_path / "lum").mkdir()
    places = {**folders, "lum": tmp_path / "lum"}
    Recommender.from_pretrained(folders["lum"], "cpu").save_pretrained(places["lum"])
    service = served(tmp_path, data, places)
    try:
        assert service.telling.teller_name("din") == "lum"
        talk(service, retrieved)
        other = Recommender.from_pretrained(folders["lum"], "cpu")
        for parameter in other.model.parameters():
            parameter.data.mul_(1.01)
        other.save_pretrained(places["lum"])
        assert service.reload("lum")[0]["swapped"]
        assert service.telling.teller_name("din") is None
        assert talk(service, ranked)["interests"] == "none"

        async def refused(client: httpx.AsyncClient) -> httpx.Response:
            return await asked(client, "/v1/retrieve", {"user": 191, "condition": HOME, "rank_with": "din"})

        answer = talk(service, refused)
        assert answer.status_code == 422 and "trained with" in answer.json()["detail"]
    finally:
        service.close()


def test_a_user_who_is_deleted_is_told_of_no_more(three: Service):
    async def deleted(client: httpx.AsyncClient) -> dict[str, Any]:
        await retrieved(client)
        assert (await ranked(client, request_id="r1"))["interests"] == "queried"
        assert (await asked(client, "/v1/users/191", method="DELETE")).status_code == 204
        history = [{"item_id": 242, "timestamp": 1_500_000_000}]
        event = {"id": "new", "user": 191, "event": history[0]}
        assert (await asked(client, "/v1/events", {"events": [event]})).status_code == 200
        return await ranked(client, request_id="r1")

    assert talk(three, deleted)["interests"] == "none"


@pytest.mark.parametrize(
    ("named", "status", "what"),
    [("nobody", 404, "no model is called so"), ("lac", 422, "reads no interests")],
)
def test_who_cannot_be_told_is_said_at_once(three: Service, named: str, status: int, what: str):
    async def refused(client: httpx.AsyncClient) -> httpx.Response:
        return await asked(client, "/v1/retrieve", {"user": 191, "condition": HOME, "rank_with": named})

    answer = talk(three, refused)
    assert answer.status_code == status and what in answer.json()["detail"]


def test_models_say_who_tells_whom(three: Service):
    async def listed(client: httpx.AsyncClient) -> httpx.Response:
        return await asked(client, "/v1/models", method="GET")

    told_by = {
        its["model"]: (its["reads_interests"], its["told_by"]) for its in talk(three, listed).json()["models"]
    }
    assert told_by == {"lum": (False, None), "din": (True, "lum"), "lac": (False, None)}


def test_another_version_of_a_ranker_is_told_nothing(three: Service):
    """It may read other conditions than the one that was introduced."""
    din = three.served["din"].deployed
    other = Deployed("din", "v2", din.recommender, three.store, None, 1_000)

    async def told(client: httpx.AsyncClient) -> list[str]:
        await retrieved(client)
        asked = ScoreRequest(user=191, items=(242,), request_id="r1")
        return [(await three.telling.told(its, asked, 60.0)).source for its in (din, other)]

    assert talk(three, told) == ["queried", "none"]


# Interests from before


def table_of(width: int = 12, version: str = "v1") -> pl.DataFrame:
    rows = [("191", OWN), ("191", "scenario=search"), ("192", "scenario=search")]
    interest = np.random.default_rng(0).normal(size=(len(rows), width)).astype(np.float32)
    return pl.DataFrame(rows, schema=["user", "condition"], orient="row").with_columns(
        pl.Series("interest", interest, dtype=pl.Array(pl.Float32, width)).cast(pl.Array(pl.Float16, width)),
        version=pl.lit(version),
    )


def test_a_table_tells_what_it_has_of_its_version(tmp_path: Path):
    table_of().write_parquet(tmp_path / "users.parquet")
    known, told = (
        Precomputed(InterestTable.read(tmp_path / "users.parquet")),
        table_of()["interest"].to_numpy(),
    )
    np.testing.assert_array_equal(known.of("191", "v1", CONDITIONS), told[:2].astype(np.float32))
    half_QW = known.of("192", "v1", CONDITIONS)
    assert half_QW is not None and np.isnan(half_QW[0]).all()
    np.testing.assert_array_equal(half_QW[1], told[2].astype(np.float32))
    assert known.of("191", "v2", CONDITIONS) is None and known.of("193", "v1", CONDITIONS) is None
    assert known.of("192", "v1", (OWN,)) is None
    known.forget("191")
    assert known.of("191", "v1", CONDITIONS) is None


def check_forgets_in_no_room(known: Precomputed) -> None:
    for user in map(str, range(1_000)):
        known.forget(user)
    assert len(known._gone) <= 2


def test_users_who_are_in_no_table_take_no_room_when_they_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    table_of().write_parquet(tmp_path / "users.parquet")
    known = Precomputed(InterestTable.read(tmp_path / "users.parquet"))
    check_forgets_in_no_room(Precomputed())
    check_forgets_in_no_room(known)
    assert known._gone == {"191", "192"} and known.of("191", "v1", CONDITIONS) is None
    monkeypatch.setattr(InterestTable, "knows", lambda self, user: True)
    assert_caught(check_forgets_in_no_room, known)


def test_a_ranker_is_told_by_a_table(tmp_path: Path, data: Dataset, folders: dict[str, Path]):
    width = asked_under(data, "lum").model.config.settings.trunk.dim
    table_of(width, model_hash(folders["lum"])[:16]).write_parquet(tmp_path / "users.parquet")
    service = served(tmp_path, data, folders, InterestTable.read(tmp_path / "users.parquet"))
    try:
        assert talk(service, ranked)["interests"] == "precomputed"
    finally:
        service.close()


def test_the_last_interests_of_so_many_users_are_kept():
    known = LastInterests(most=2)
    for user in ("a", "b", "a", "c"):
        known.keep(user, "v1", CONDITIONS, np.ones((2, 3), np.float32))
    found = [known.of(user, "v1", CONDITIONS) is not None for user in "abc"]
    assert found == [True, False, True]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda table: table.drop("condition"), "expected user, condition, interest, version"),
        (lambda table: pl.concat([table, table.with_columns(version=pl.lit("v2"))]), "expected rows of one"),
        (lambda table: pl.concat([table, table]), "two interests under one condition"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, change: Any, what: str):
    change(table_of()).write_parquet(tmp_path / "users.parquet")
    with pytest.raises(ValueError, match=what):
        InterestTable.read(tmp_path / "users.parquet")


def test_a_condition_is_found_again_in_its_key():
    names = st.sampled_from(["scenario", "hour", "a b", "x=y"])
    values = st.text(st.characters(codec="ascii", exclude_characters="="), min_size=1, max_size=8)

    @given(st.dictionaries(names, values, max_size=4))
    def holds(condition: dict[str, str]) -> None:
        assert condition_of(text_of(condition), ["scenario", "hour", "a b", "x=y"]) == condition

    holds()
    with pytest.raises(ValueError, match="no condition of scenario"):
        condition_of("hour=9", ["scenario"])


def test_a_condition_is_whole_in_what_is_asked(three: Service):
    """What the request comes with stands for `own`, and what a key says for the others."""
    sent: list[Any] = []

    async def listening(deployed: Deployed, question: Question, deadline_s: float) -> Any:
        sent.append((deployed.name, question.asked))
        return await three.asking.ask(deployed, question, deadline_s)

    three.telling._ask = listening
    talk(three, lambda client: retrieved(client, condition={"scenario": "home"}))
    ((name, its),) = sent
    assert name == "lum" and its.conditions == ({"scenario": "home"}, {"scenario": "search"})
    assert isinstance(its.user, int) and RetrieveRequest(user=191).rank_with is None


# Queries that fail


def check_a_failure_is_counted(service: Service, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    """Nobody reads what failed, nothing is said of it by the event loop, and its kind is logged once."""
    unheard: list[Any] = []

    async def failing(deployed: Deployed, question: Question, deadline_s: float) -> Any:
        raise error

    async def thrice(client: httpx.AsyncClient) -> str:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unheard.append(context))
        for nth in range(3):
            await retrieved(client, user=191 + nth)
        service.telling._flights = Flights()  # the tasks are gone, and would be complained of
        gc.collect()
        await asyncio.sleep(0)
        return (await asked(client, "/metrics", method="GET")).text

    service.telling._ask = failing
    with caplog.at_level("ERROR", logger="plait.service.telling"):
        page = talk(service, thrice)
    name = type(error).__name__
    assert not unheard, unheard
    assert f'plait_queries_failed_total{{error="{name}",model="lum"}} 3.0' in page
    assert [name in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), RuntimeError("ours")], ids=["store", "ours"])
def test_a_query_that_fails_is_counted_and_logged_once(
    three: Service, caplog: pytest.LogCaptureFixture, error: Exception
):
    check_a_failure_is_counted(three, caplog, error)


def test_a_failure_that_nobody_takes_is_caught(
    three: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    async def untaken(self: Telling, query: Query, deadline_s: float) -> Any:
        return await self._ask(query.teller.deployed, query.question, deadline_s)

    monkeypatch.setattr(Telling, "_queried", untaken)
    assert_caught(check_a_failure_is_counted, three, caplog, RuntimeError("ours"))


def test_a_query_without_time_is_no_failure(three: Service, caplog: pytest.LogCaptureFixture):
    async def refusing(deployed: Deployed, question: Question, deadline_s: float) -> Any:
        raise Problem(429, "too many wait", "the queue is full")

    three.telling._ask = refusing
    with caplog.at_level("ERROR", logger="plait.service.telling"):
        talk(three, retrieved)
    assert not caplog.records and "plait_queries_failed_total{" not in three.counters.page().decode()


# Two towers


def towers_of(data: Dataset, *, user: bool, item: bool) -> Recommender:
    from plait.training.run import config_of

    told = TowerInterests(num_conditions=len(CONDITIONS), width=4, user=user, item=item)
    towers = TwoTowerSettings(hidden=(8,), interests=told)
    settings = two_tower_settings(ModelSettings(trunk=trunk_of(), two_tower=towers), Optim(), Protocol())
    config = replace(config_of(data, settings), told_conditions=CONDITIONS, told_version="v1")
    return Recommender(started(built(config)).eval(), data.items, columns_read(data))


def test_towers_that_look_interests_up_are_refused_served_or_reloaded(tmp_path: Path, data: Dataset):
    """Those whose vectors of items are saved with the model are served."""
    folder = tmp_path / "ebr"
    towers_of(data, user=False, item=True).save_pretrained(folder)
    service = served(tmp_path, data, {"lum": folder})
    towers_of(data, user=True, item=True).save_pretrained(folder)
    with pytest.raises(Problem) as refused:
        service.reload("lum")
    assert "serve a ranker" in refused.value.detail and refused.value.status == 409
    service.close()
    with pytest.raises(ValueError, match=r"two towers read interests of users.*interests.user = False"):
        served(tmp_path / "other", data, {"lum": folder})
