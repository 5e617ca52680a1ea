"""Several models of one log: who answers whom, a shadow that nobody sees, and a version of one that changes alone."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from served import RATING, ask, rating_event, recommender_of, served_log
from tiny import assert_caught, assert_not_vacuous

import plait
from plait.data import Dataset
from plait.service.catalogue import Catalogues
from plait.service.deployed import Deployed, Question
from plait.service.models import Model
from plait.service.running import _reloading
from plait.service.service import GIVE_BACK_S, Service, seed
from plait.service.settings import ServiceSettings
from plait.service.shadow import Shadow
from plait.service.spare import MOST_SPARE, SpareThread
from plait.service.split import Split, Traffic
from plait.store.history import Retention
from plait.store.lmdb_store import LmdbStore

USERS = [str(user) for user in range(3_000)]
LAYOUTS = {"first": "lac", "second": "lac", "items": "item"}


def services(folder: Path, data: Dataset, traffic: Traffic | None = None, **settings: Any) -> Service:
    """Two models that can do everything, and one that predicts no action."""
    models = []
    for nth, (name, layout) in enumerate(LAYOUTS.items()):
        if not (folder / name).exists():
            recommender_of(data, layout, scale=1.0 + nth / 10).save_pretrained(folder / name)
        models.append(Model(name, folder / name, data, "cpu"))
    store = LmdbStore(folder / "store", "process", Retention())
    seed(store, data, recommender_of(data))
    return Service(models, store, ServiceSettings(**settings), traffic)


@pytest.fixture
def several(tmp_path: Path, data: Dataset) -> Iterator[Service]:
    service = services(tmp_path, data)
    yield service
    service.close()


def answered_by(service: Service, path: str = "/v1/retrieve", **body: Any) -> str:
    answer = ask(service, path, {"user": 191, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]


# The split


def check_split(split: Split, moved: Split) -> None:
    """Users are shared as stated, and stay where they are but for those that a changed share moves."""
    among = [name for name, _ in split.share]
    before, after = ([of.model_of(user, among) for user in USERS] for of in (split, moved))
    for name, share in split.share:
        expected = share / sum(share for _, share in split.share)
        assert abs(before.count(name) / len(USERS) - expected) < 0.03
    changed = {name for name, share in moved.share if dict(split.share)[name] != share}
    moves = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert_not_vacuous({"moves": len(moves)}, above=20)
    assert all(changed & {one, other} for one, other in moves)


SPLIT = Split((("a", 6.0), ("b", 3.0), ("c", 1.0)))
MOVED = Split((("a", 6.0), ("b", 3.0), ("c", 2.0)))
OF_40_USERS = "baaabababaaaabaabaacababbacaabaababaaaac"  # who answers the users 0, 1, ...


def test_a_split_is_as_stated_and_moves_no_more_users_than_it_must():
    check_split(SPLIT, MOVED)
    assert SPLIT.model_of("196", ["a", "b"]) in ("a", "b") and SPLIT.model_of("196", []) is None
    assert SPLIT.model_of("196", ["a", "b", "c"]) == Split(SPLIT.share).model_of("196", {"c", "b", "a"})
    salted = replace(SPLIT, salt="2")
    assert [salted.model_of(user, "abc") for user in USERS] != [SPLIT.model_of(user, "abc") for user in USERS]


def test_a_split_by_the_remainder_of_a_hash_is_caught(monkeypatch):
    def by_remainder(self: Split, user: str, among: Sequence[str]) -> str:
        parts = int(sum(share for _, share in self.share))
        place = int(self._unit("", user) * parts * 1_000) % parts
        return [name for name, share in self.share for _ in range(int(share))][place]

    monkeypatch.setattr(Split, "model_of", by_remainder)
    assert_caught(check_split, SPLIT, MOVED)


@pytest.mark.parametrize("share", [-1.0, float("nan"), float("inf")])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(ValueError, match="a share is a number from 0 on"):
        Split((("a", 1.0), ("b", share)))
    with pytest.raises(ValueError, match="every share is 0"):
        Split((("a", 0.0),))


def check_process(split: Split) -> None:
    """What other processes found, and this one will find after every start."""
    assert "".join(split.model_of(str(user), "abc") or "" for user in range(40)) == OF_40_USERS


def test_a_split_is_the_same_in_every_process():
    check_process(SPLIT)


def test_a_hash_of_this_process_alone_is_caught(monkeypatch):
    monkeypatch.setattr(
        Split, "_unit", lambda self, *parts: (hash((self.salt, *parts)) % 2**32 + 0.5) / 2**32
    )
    assert_caught(check_process, SPLIT)


def check_nobodys(of_salt: Callable[[str], Split]) -> None:
    """A history of nobody is the first's that can answer and has a share, whatever the salt."""
    salts = [str(salt) for salt in range(40)]
    assert {of_salt(salt).model_of(None, ["a", "b", "c"]) for salt in salts} == {"a"}
    assert {of_salt(salt).model_of(None, ["c", "b"]) for salt in salts} == {"b"}
    assert Split((("a", 0.0), ("b", 1.0))).model_of(None, ["a", "b"]) == "b"


def test_a_history_of_nobody_is_the_first_s():
    check_nobodys(lambda salt: Split(SPLIT.share, salt))


def test_a_history_of_nobody_that_is_hashed_is_caught(monkeypatch):
    right = Split.model_of
    monkeypatch.setattr(Split, "model_of", lambda self, user, among: right(self, user or "", among))
    assert_caught(check_nobodys, lambda salt: Split(SPLIT.share, salt))


# Who answers


def test_the_first_answers_unless_another_is_named(several: Service):
    assert answered_by(several) == "first" and answered_by(several, model="second") == "second"
    assert answered_by(several, "/v1/score", items=[242], model="second") == "second"
    assert answered_by(several, "/v1/why", model="second") == "second"
    scores = [ask(several, "/v1/retrieve", {"user": 191, "model": name}).json()["scores"] for name in LAYOUTS]
    assert scores[0] != scores[1] != scores[2]
    unknown = ask(several, "/v1/retrieve", {"user": 191, "model": "nobody"})
    assert unknown.status_code == 404 and "first, second, items" in unknown.json()["detail"]
    assert "nobody" not in unknown.text
    cannot = ask(several, "/v1/score", {"user": 191, "items": [242], "model": "items"})
    assert cannot.status_code == 422


def test_users_are_shared_among_those_that_can_answer(tmp_path: Path, data: Dataset):
    split = Split((("first", 1.0), ("second", 0.0), ("items", 1.0)))
    service = services(tmp_path, data, Traffic(split))
    try:
        users = data.user_ids().to_list()
        retrieved = {str(user): answered_by(service, user=user) for user in users}
        assert retrieved == {user: split.model_of(user, LAYOUTS) for user in retrieved}
        assert set(retrieved.values()) == {"first", "items"}
        assert {answered_by(service, "/v1/score", user=user, items=[242]) for user in users} == {"first"}
        assert {answered_by(service, user=user, with_actions=True) for user in users} == {"first"}
        history = [{"item_id": 242, "timestamp": 1_600_000_000}]
        assert answered_by(service, user=None, history=history) == "first"
        shares = {
            each["model"]: each["share"] for each in ask(service, "/v1/models", method="GET").json()["models"]
        }
        assert shares == {"first": 1.0, "second": 0.0, "items": 1.0}
    finally:
        service.close()


def test_an_event_changes_the_answers_of_all_and_a_deleted_user_is_gone_from_all(several: Service):
    def scores() -> list[Any]:
        asked = {"user": 191, "filter_seen": False}
        return [ask(several, "/v1/retrieve", {**asked, "model": name}).json() for name in LAYOUTS]

    before = scores()
    assert ask(several, "/v1/events", {"events": [rating_event("e", 191, rating=5)]}).status_code == 200
    after = scores()
    assert all(one["scores"] != other["scores"] for one, other in zip(before, after, strict=True))
    assert [len(its.deployed.states) for its in several.served.values()] == [1, 1, 1]
    assert ask(several, "/v1/users/191", method="DELETE").status_code == 204
    assert [len(its.deployed.states) for its in several.served.values()] == [0, 0, 0]
    assert {found["answered_by"] for found in scores()} == {"fallback"}


def test_one_model_changes_its_version_alone(several: Service, tmp_path: Path, data: Dataset):
    before = {name: its.deployed for name, its in several.served.items()}
    recommender_of(data, scale=0.7).save_pretrained(tmp_path / "second")
    for path in ("/v1/models/reload?model=first", "/v1/models/reload?model=items"):
        (done,) = ask(several, path).json()["models"]
        assert not done["swapped"]
    assert [done["swapped"] for done in ask(several, "/v1/models/reload").json()["models"]] == [
        False,
        True,
        False,
    ]
    after = {name: its.deployed for name, its in several.served.items()}
    assert [before[name] is after[name] for name in LAYOUTS] == [True, False, True]
    assert ask(several, "/v1/models/reload?model=nobody").status_code == 404
    recommender_of(data, "item", scale=0.7).save_pretrained(tmp_path / "items")
    weights = next((tmp_path / "items").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-9])
    broken = ask(several, "/v1/models/reload")
    assert broken.status_code == 409 and answered_by(several, model="items") == "items"


def check_reload(service: Service, folder: Path, data: Dataset) -> None:
    """A model that cannot be loaded keeps none beside it from its new version, wherever it stands."""
    before = {name: its.deployed for name, its in service.served.items()}
    for name, layout in LAYOUTS.items():
        recommender_of(data, layout, scale=0.7).save_pretrained(folder / name)
    weights = next((folder / "first").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-9])
    told = ask(service, "/v1/models/reload")
    assert told.status_code == 409 and told.json()["detail"].startswith("first: ")
    after = {name: its.deployed for name, its in service.served.items()}
    assert [before[name] is after[name] for name in LAYOUTS] == [True, False, False]
    assert [(its["model"], its["swapped"]) for its in told.json()["models"]] == [
        ("second", True),
        ("items", True),
    ]
    assert [answered_by(service, model=name) for name in LAYOUTS] == list(LAYOUTS)
    page = ask(service, "/metrics", method="GET").text
    assert (
        'plait_swaps_total{model="second"} 1.0' in page and 'plait_swaps_total{model="first"} 1.0' not in page
    )


def test_a_model_that_fails_to_load_leaves_the_others_alone(several: Service, tmp_path: Path, data: Dataset):
    check_reload(several, tmp_path, data)


def test_a_reload_that_ends_at_the_first_failure_is_caught(
    several: Service, tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Service, "reload", lambda self, name: [its.reload() for its in self.served.values()])
    assert_caught(check_reload, several, tmp_path, data)


def test_a_signal_tells_of_every_model(several: Service, tmp_path: Path, data: Dataset):
    said: list[str] = []
    failed = threading.Event()
    report = lambda line: (said.append(line), failed.set() if line.startswith("reload:") else None)  # noqa: E731
    recommender_of(data, scale=0.7).save_pretrained(tmp_path / "second")
    (tmp_path / "first" / "hashes.json").unlink()
    _reloading(several, report)(1, None)
    assert failed.wait(60)
    second, items = (several.served[name].deployed.version for name in ("second", "items"))
    assert said[:2] == [f"model second {second}: swapped", f"model items {items}: served already"]
    assert len(said) == 3 and said[2].startswith("reload: first: ") and str(tmp_path) not in said[2]


def test_passes_are_counted_by_model(several: Service):
    answered_by(several)
    answered_by(several, model="items")
    page = ask(several, "/metrics", method="GET").text
    for name, count in (("first", "1.0"), ("items", "1.0")):
        assert f'plait_model_seconds_count{{model="{name}"}} {count}' in page
        assert f'plait_questions_together_count{{model="{name}"}} {count}' in page


@pytest.mark.parametrize("path", ["/v1/retrieve", "/v1/score", "/v1/why", "/v1/query", "/v1/interests"])
def test_a_misspelt_model_is_no_other_model(several: Service, path: str):
    body = {"user": 191, "items": [242]} if path == "/v1/score" else {"user": 191}
    if path in ("/v1/query", "/v1/interests"):
        body["conditions"] = [{}]
    refused = ask(several, path, {**body, "modle": "second"})
    assert refused.status_code == 422 and "a field that is none of" in refused.json()["detail"]
    assert "modle" not in refused.text and "model" in refused.json()["detail"]


def test_what_a_page_asks_for_is_of_the_model_that_is_named(several: Service):
    layouts = [ask(several, f"/v1/layout?model={name}", method="GET").json()["layout"] for name in LAYOUTS]
    assert layouts[0] == layouts[1] != layouts[2]
    assert ask(several, "/v1/layout", method="GET").json()["layout"] == layouts[0]
    assert ask(several, "/v1/layout?model=nobody", method="GET").status_code == 404


# Refused at the start


def test_models_of_other_logs_or_names_are_refused(tmp_path: Path, data: Dataset):
    recommender_of(data).save_pretrained(tmp_path / "one")
    other = recommender_of(data)
    other.columns = msgspec.structs.replace(other.columns, item="movie")
    other.save_pretrained(tmp_path / "two")
    one, two = (Model(name, tmp_path / name, data, "cpu") for name in ("one", "two"))
    for models, traffic, why in (
        ([one, two], None, "two reads another log than one: its item differ"),
        ([one, one], None, "two models are called one"),
        ([one], Traffic(Split((("two", 1.0),))), "no model is called 'two'; served are one"),
        ([one], Traffic(Split.all_to("one"), shadow="two"), "no model is called 'two'"),
    ):
        store = LmdbStore(tmp_path / "store", "process", Retention())
        try:
            with pytest.raises(ValueError, match=why):
                Service(models, store, ServiceSettings(), traffic)
        finally:
            store.close()


# The shadow


@pytest.fixture
def shadowed(tmp_path: Path, data: Dataset) -> Iterator[Service]:
    traffic = Traffic(Split.all_to("first", ["second", "items"]), shadow="second")
    service = services(tmp_path, data, traffic)
    yield service
    service.close()


def outcomes(service: Service) -> Counter:
    """What became of the shadow's answers, when all are done."""
    service.spare._works.join()
    (samples,) = service.counters.shadowed.collect()
    return Counter(
        {its.labels["outcome"]: int(its.value) for its in samples.samples if its.name.endswith("_total")}
    )


def check_shadow(service: Service, alone: Service) -> Counter:
    """Answers are those of a service without a shadow, whatever the shadow says."""
    for user in (191, 192, 193):
        for path, body in (("/v1/retrieve", {"k": 3}), ("/v1/score", {"items": [242, 302, "nowhere"]})):
            answer, expected = (ask(its, path, {"user": user, **body}).json() for its in (service, alone))
            assert answer["model"] == "first" and answer["version"] == expected["version"]
            assert {name: answer[name] for name in ("items", "answered_by")} == {
                name: expected[name] for name in ("items", "answered_by")
            }
    return outcomes(service)


@pytest.fixture
def alone(tmp_path: Path, data: Dataset) -> Iterator[Service]:
    service = services(tmp_path / "alone", data)
    yield service
    service.close()


def test_a_shadow_is_compared_and_never_shown(shadowed: Service, alone: Service):
    assert check_shadow(shadowed, alone) == {"compared": 6}
    page = ask(shadowed, "/metrics", method="GET").text
    assert 'plait_shadow_overlap_count{model="second"} 3.0' in page
    assert 'plait_shadow_difference_count{action="rating",model="second"} 3.0' in page
    assert 'plait_answered_total{by="model",model="second"}' not in page
    (shadow,) = [
        its for its in ask(shadowed, "/v1/models", method="GET").json()["models"] if its["is_shadow"]
    ]
    assert shadow["model"] == "second"
    answered_by(shadowed, model="second")
    assert outcomes(shadowed) == {"compared": 6}, "what it answered itself it does not answer again"


def test_a_shadow_that_fails_harms_nobody(shadowed: Service, alone: Service, monkeypatch: pytest.MonkeyPatch):
    right = Deployed.answer

    def answer(self: Deployed, questions: Sequence[Question]) -> Any:
        if self.name == "second":
            raise RuntimeError("a mistake of ours")
        return right(self, questions)

    monkeypatch.setattr(Deployed, "answer", answer)
    assert check_shadow(shadowed, alone) == {"failed": 6}


def test_a_shadow_that_is_shown_is_caught(shadowed: Service, alone: Service, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Service, "_chosen", lambda self, asked: self.served["second"].deployed)
    assert_caught(check_shadow, shadowed, alone)


def check_questions_go_on(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many are answered by the model, and in time, while one shadow takes for ever."""
    begun, hold = threading.Event(), threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(Shadow, "compare", lambda self, *asked: (begun.set(), hold.wait(60)))
        try:
            for nth in range(20):
                answer = ask(
                    service, "/v1/retrieve", {"user": 191}, headers={"plait-deadline-ms": "2000"}
                ).json()
                assert answer["answered_by"] == "model", nth
                assert begun.wait(10) and not hold.is_set()
        finally:
            hold.set()


def test_questions_do_not_wait_for_a_shadow(shadowed: Service, monkeypatch: pytest.MonkeyPatch):
    check_questions_go_on(shadowed, monkeypatch)


def test_a_shadow_in_the_thread_of_questions_is_caught(shadowed: Service, monkeypatch: pytest.MonkeyPatch):
    def in_the_same(self: SpareThread, work: Callable[[], object]) -> bool:
        shadowed.asking._works.append((work, Future()))
        return True

    monkeypatch.setattr(SpareThread, "take", in_the_same)
    assert_caught(check_questions_go_on, shadowed, monkeypatch)


def test_a_model_answers_one_thread_at_a_time(shadowed: Service, monkeypatch: pytest.MonkeyPatch):
    """The shadow may be asked by its name, too."""
    inside, most = [], []

    def answers(self: Deployed, questions: Sequence[Question]) -> list[Any]:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()
        return [{} for _ in questions]

    monkeypatch.setattr(Deployed, "_answers", answers)
    shadow = shadowed.served["second"].deployed
    threads = [threading.Thread(target=shadow.answer, args=([None],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_an_answer_does_not_wait_for_its_shadow(shadowed: Service, monkeypatch: pytest.MonkeyPatch):
    begun, hold = threading.Event(), threading.Event()
    monkeypatch.setattr(Shadow, "compare", lambda self, *asked: (begun.set(), hold.wait(30)))
    try:
        assert answered_by(shadowed) == "first"
        assert begun.wait(10) and not hold.is_set(), "it was answered while the shadow still works"
    finally:
        hold.set()


def test_every_question_of_many_is_compared_or_dropped(shadowed: Service, monkeypatch: pytest.MonkeyPatch):
    hold, num_questions, right = threading.Event(), MOST_SPARE + 5, Shadow.compare
    monkeypatch.setattr(Shadow, "compare", lambda self, *asked: (hold.wait(60), right(self, *asked)))
    for _ in range(num_questions):
        assert answered_by(shadowed, k=2) == "first"
    hold.set()
    found = outcomes(shadowed)
    assert found["compared"] + found["dropped"] == num_questions
    assert found["compared"] in (MOST_SPARE, MOST_SPARE + 1), "those that waited, and the one that was held"


def test_spare_works_wait_so_many_and_no_more():
    spare, begun, hold, done = SpareThread(), threading.Event(), threading.Event(), list[int]()
    assert spare.take(lambda: (begun.set(), hold.wait(60))) and begun.wait(30)
    taken = [spare.take(lambda nth=nth: done.append(nth)) for nth in range(MOST_SPARE + 3)]
    assert taken == [True] * MOST_SPARE + [False] * 3 and not done
    hold.set()
    spare._works.join()
    assert done == list(range(MOST_SPARE)), "in the order that they came"
    spare.close()
    assert not spare.take(done.clear), "it is going down"


def test_freed_memory_is_given_back_in_spare_time(shadowed: Service, monkeypatch: pytest.MonkeyPatch):
    """After a pass, and not after each."""
    given: list[int] = []
    monkeypatch.setattr("plait.service.service.give_back_freed_memory", lambda: given.append(1))
    shadowed._given_back_s -= GIVE_BACK_S
    for _ in range(5):
        answered_by(shadowed)
    outcomes(shadowed)
    assert given == [1]


# Catalogues


def check_catalogues(service: Service, data: Dataset) -> None:
    """Each model's items, with its data's titles; the first one's where none is named."""

    def found(query: str) -> list[str]:
        answer = ask(service, f"/v1/items?{query}", method="GET")
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert found("search=242") == found("search=242&model=lac") == ["242"]
    assert found("search=242&model=other") == ["9242"] and found("search=9242") == []
    assert found("search=285") == found("search=285&model=other") == ["285"]
    refused = ask(service, "/v1/items?search=2&model=nobody", method="GET")
    assert refused.status_code == 404 and "served are lac, other" in refused.json()["detail"]


@pytest.fixture
def unlike(tmp_path: Path, data: Dataset) -> Iterator[Service]:
    """Two models of one log, of which one was trained on other items."""
    other = plait.prepare(
        served_log().with_columns(pl.col("item_id").replace({242: 9_242, 302: 9_302})), user="user_id", item="item_id",
        time="timestamp", actions=list(RATING), out=tmp_path / "others", min_item_events=1,
    )  # fmt: skip
    models = []
    for name, its in (("lac", data), ("other", other)):
        recommender_of(its).save_pretrained(tmp_path / name)
        models.append(Model(name, tmp_path / name, its, "cpu"))
    store = LmdbStore(tmp_path / "store", "process", Retention())
    seed(store, data, recommender_of(data))
    service = Service(models, store, ServiceSettings())
    yield service
    service.close()


def test_each_model_has_a_catalogue_of_its_own(unlike: Service, data: Dataset) -> None:
    check_catalogues(unlike, data)
    other = unlike.served["other"].model
    assert other.dataset is not None
    recommender_of(other.dataset, scale=1.1).save_pretrained(other.folder)
    assert unlike.reload("other")[0]["swapped"]
    check_catalogues(unlike, data)


def test_one_catalogue_for_all_is_caught(
    unlike: Service, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Catalogues.of
    monkeypatch.setattr(Catalogues, "of", lambda self, model: right(self, None))
    assert_caught(check_catalogues, unlike, data)
