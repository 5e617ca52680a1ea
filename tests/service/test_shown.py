"""What was shown and what was done with it, joined as one would by hand, and prepared again."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from served import ask, recommender_of, served_log, service_of
from tiny import assert_caught, assert_not_vacuous

import plait
from plait.cli import main
from plait.data import Dataset
from plait.recommender import Recommender
from plait.service import shown
from plait.service.answer_log import Answer, Happened, answers_table, happened_table
from plait.service.shown import shown_log
from plait.service.wire import RetrieveRequest, ScoreRequest, SentEvent

ACTIONS = {"rating": plait.Regression(1, 5), "liked": plait.Binary()}
NAMES = {"user": "user_id", "item": "item_id", "time": "timestamp", "request": "session"}
AT_S = 1_700_000_000


@pytest.fixture(scope="module")
def requested(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A log whose requests have names."""
    log = served_log().with_columns(
        liked=(pl.col("item_id") % 2).cast(pl.Int64), session=pl.format("s{}", pl.int_range(pl.len()) // 2)
    )
    out = tmp_path_factory.mktemp("requested") / "data"
    return plait.prepare(log, **NAMES, actions=ACTIONS, out=out, min_item_events=1)


@pytest.fixture(scope="module")
def recommender(requested: Dataset) -> Recommender:
    return recommender_of(requested)


def found_of(items: list[Any], rng: np.random.Generator, scored: bool) -> dict[str, Any]:
    told = {"model": "lac", "version": "v", "answered_by": "model", "items": items}
    more = {"status": ["ok"] * len(items)} if scored else {"scores": rng.random(len(items))}
    return told | more | {"actions": {"liked": rng.random(len(items))}}


def drawn(seed: int, num: int = 60) -> tuple[list[Answer], list[Happened]]:
    """Answers, some of them asked again or to nobody, and events about some of their items, and others."""
    rng, answers, events = np.random.default_rng(seed), [], []
    user, request = None, ""
    for nth in range(num):
        if rng.random() > 0.2:  # else who asked last asks again
            user, request = None if rng.random() < 0.2 else int(rng.integers(190, 194)), f"r{nth}"
        items = rng.choice([242, 280, 281, 302], size=3, replace=False).tolist()
        scored = rng.random() < 0.3
        at = AT_S - 1_000 if rng.random() < 0.3 else None
        kind: Any = (
            ScoreRequest(items=tuple(items), user=user, at=at)
            if scored
            else RetrieveRequest(user=user, at=at)
        )
        answers.append(Answer(request, (AT_S + nth) * 10**6, kind, found_of(items, rng, scored)))
        for of in range(rng.integers(0, 4)):
            row: dict[str, Any] = {"item_id": int(rng.choice([*items, 285])), "timestamp": AT_S + nth + of}
            if rng.random() < 0.7:
                row |= {"liked": int(rng.integers(0, 2))}
            if rng.random() < 0.5:
                row |= {"rating": int(rng.integers(1, 6))}
            about = None if rng.random() < 0.2 else request if rng.random() < 0.9 else "gone"
            whose = 190 if user is None or rng.random() < 0.1 else user
            sent = SentEvent(f"e{nth}-{of}", whose, row, about)
            events.append(Happened((AT_S + nth) * 10**6 + of, sent))
    return answers, events


def written(folder: Path, answers: list[Answer], events: list[Happened]) -> Path:
    """As the service does, in several files."""
    folder.mkdir()
    for part in range(0, len(answers), 25):
        answers_table(answers[part : part + 25]).write_parquet(folder / f"answers-{part:03d}.parquet")
        happened_table(events[part * 2 : part * 2 + 50]).write_parquet(folder / f"events-{part:03d}.parquet")
    return folder


def by_hand(answers: list[Answer], events: list[Happened], first: int | None) -> list[dict[str, Any]]:
    """The same table, a row at a time: the plain reference of `shown_log`."""
    whose: dict[str, str] = {}
    for each in events:
        whose.setdefault(str(each.sent.request_id), str(each.sent.user))
    users = [whose.get(a.request_id) if a.asked.user is None else str(a.asked.user) for a in answers]
    last = {(a.request_id, user, type(a.asked)): a for user, a in zip(users, answers, strict=True)}
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for (_, user, _), answer in sorted(last.items(), key=lambda its: its[0][2] is ScoreRequest):
        for place, item in enumerate(answer.found["items"]):
            key = (answer.request_id, str(user), str(item))
            about = [
                each.sent
                for each in events
                if (each.sent.request_id, str(each.sent.user), str(each.sent.event["item_id"])) == key
            ]
            is_listed = isinstance(answer.asked, RetrieveRequest) and (first is None or place < first)
            if user is None or key in rows or not (about or is_listed):
                continue
            actions = {"liked": None if about else 0.0, "rating": None}
            for sent in about:
                actions |= {name: sent.event[name] for name in actions if name in sent.event}
            clock_s = answer.time_us // 10**6
            when = (clock_s, clock_s if answer.asked.at is None else int(str(answer.asked.at)))
            expected = answer.found["actions"]["liked"][place]
            rows[key] = {"key": key, "when": when, "taken": bool(about), "expected": expected, **actions}
    for key, row in rows.items():
        row["its"] = max(each["when"] for other, each in rows.items() if other[:2] == key[:2])[1]
    together = [{**row, "when": row["its"]} for row in rows.values()]
    for row in together:
        del row["its"]
    alone = [
        {
            "key": (sent.request_id or f"event {sent.id}", str(sent.user), str(sent.event["item_id"])),
            "when": sent.event["timestamp"],
            "taken": True,
            "expected": None,
            "liked": sent.event.get("liked"),
            "rating": sent.event.get("rating"),
        }
        for sent in (each.sent for each in events)
        if (sent.request_id, str(sent.user), str(sent.event["item_id"])) not in rows
    ]
    return [*together, *alone]


def check_as_by_hand(folder: Path, recommender: Recommender, seed: int, first: int | None) -> Counter:
    answers, events = drawn(seed)
    found = shown_log(written(folder / f"{seed}-{first}", answers, events), recommender, first)
    rows = [
        {
            "key": (row["session"], str(row["user_id"]), str(row["item_id"])),
            "when": row["timestamp"],
            "taken": row["taken"],
            "expected": row["expected_liked"],
            "liked": row["liked"],
            "rating": row["rating"],
        }
        for row in found.table.rows(named=True)
    ]
    expected = by_hand(answers, events, first)
    assert sorted(map(str, rows)) == sorted(map(str, expected_as_floats(expected)))
    order = [(row["key"][1], row["when"]) for row in rows]
    assert order == sorted(order)
    table = found.table.filter("shown")
    return Counter(
        taken=found.taken,
        untaken=table.height - found.taken,
        elsewhere=found.elsewhere,
        repeated=found.repeated,
        nobodys=found.nobodys,
    )


def expected_as_floats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    numbers = ("expected", "liked", "rating")
    return [row | {name: None if row[name] is None else float(row[name]) for name in numbers} for row in rows]


def test_the_join_is_as_one_does_it_by_hand(tmp_path: Path, recommender: Recommender) -> None:
    met: Counter = Counter()
    for seed in range(3):
        for first in (None, 2, 0):
            met += check_as_by_hand(tmp_path, recommender, seed, first)
    assert_not_vacuous(met, above=20)


def test_a_join_that_shows_lists_nobody_saw_is_caught(
    tmp_path: Path, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "_of_last_answers", lambda answers: (answers, 0))
    assert_caught(check_as_by_hand, tmp_path, recommender, 0, None)


def test_a_join_that_forgets_the_user_is_caught(
    tmp_path: Path, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "KEYS", ["request_id", "item"])
    with pytest.raises((AssertionError, pl.exceptions.PolarsError)):
        check_as_by_hand(tmp_path, recommender, 0, None)


# And back


def test_what_was_shown_is_prepared_as_requests(
    tmp_path: Path, recommender: Recommender, requested: Dataset
) -> None:
    found = shown_log(written(tmp_path / "log", *drawn(7)), recommender)
    data = plait.prepare(
        found.table, **NAMES, actions=ACTIONS, out=tmp_path / "again", min_item_events=1, min_user_events=2
    )
    events = data.histories(np.arange(data.num_users))
    rows = found.table.with_columns(
        its_user=np.repeat(np.arange(data.num_users), np.diff(events.start_U1)), its_request=events.request_E
    )
    assert data.item_ids().gather(events.item_E - 1).to_list() == rows["item_id"].to_list()
    requests = (
        rows.filter("shown")
        .group_by("user_id", "session")
        .agg(pl.struct("its_user", "its_request").n_unique(), pl.len())
    )
    assert set(requests["its_user"]) == {1}, "what was shown together is one request"
    assert_not_vacuous({"of several": requests.filter(pl.col("len") > 2).height}, above=10)


def test_values_where_nothing_was_done(tmp_path: Path, recommender: Recommender) -> None:
    answers, _ = drawn(1, num=5)
    folder = written(tmp_path / "log", answers, [])
    found = shown_log(folder, recommender, untaken={"rating": 1, "liked": 0}).table
    assert set(found["rating"]) == {1.0} and set(found["liked"]) == {0.0} and not found["taken"].any()
    with pytest.raises(ValueError, match="'ratin' is no action of the model; expected one of rating, liked"):
        shown_log(folder, recommender, untaken={"ratin": 1})


def test_what_cannot_be_joined(tmp_path: Path, recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="holds no answers"):
        shown_log(tmp_path, recommender)
    answers, _ = drawn(1, num=5)
    strange = Happened(0, SentEvent("e", 190, {"item_id": 1, "timestamp": 1, "sku": 3}))
    with pytest.raises(ValueError, match="an event is of another log than the model"):
        shown_log(written(tmp_path / "log", answers, [strange]), recommender)


@pytest.mark.parametrize(
    ("settings", "time", "at", "expected"),
    [
        ({"time_unit": "ms"}, 1_600_000_000_500, 1_600_000_000_000, 1_600_000_000_000),
        ({"time_unit": "ns"}, 1_600_000_000 * 10**9, "2020-09-13T12:26:40", 1_600_000_000 * 10**9),
        ({"time_format": "%d.%m.%Y %H:%M"}, "13.09.2020 12:26", "13.09.2020 12:26", "13.09.2020 12:26"),
    ],
)
def test_times_are_written_as_the_log_does(
    settings: dict[str, str], time: Any, at: Any, expected: Any, tmp_path: Path
) -> None:
    """A moment that was asked about, in the log's form; and of an answer that named none, the clock's."""
    log = served_log().with_columns(timestamp=pl.lit(time))
    names = {name: NAMES[name] for name in ("user", "item", "time")}
    data = plait.prepare(
        log, **names, **settings, actions={"rating": ACTIONS["rating"]}, out=tmp_path / "data",
        min_item_events=1,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    answers = [
        Answer(f"r{nth}", AT_S * 10**6, RetrieveRequest(user=190, at=when), found_of([242], rng, False))
        for nth, when in enumerate((at, None))
    ]
    sent = SentEvent("e", 190, {"item_id": 302, "timestamp": time})
    found = shown_log(written(tmp_path / "log", answers, [Happened(0, sent)]), recommender_of(data)).table
    by_request = dict(zip(found["request_id"], found["timestamp"], strict=True))
    assert by_request["r0"] == expected and by_request["event e"] == time
    plait.prepare(
        found.extend(found),
        **names,
        **settings,
        actions={},
        out=tmp_path / "again",
        min_item_events=1,
        min_user_events=2,
    )
    when = {"ms": AT_S * 10**3, "ns": AT_S * 10**9}.get(settings.get("time_unit", ""), "14.11.2023 22:13")
    assert by_request["r1"] == when


def test_the_verb_writes_the_log(
    tmp_path: Path, recommender: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    recommender.save_pretrained(tmp_path / "run" / "model")
    folder, out = written(tmp_path / "log", *drawn(2)), tmp_path / "new" / "shown.parquet"
    words = ["data", "shown", str(folder), "--run", str(tmp_path / "run"), "--out", str(out), "--first", "2"]
    assert main([*words, "--untaken", "rating=3"]) == 0
    expected = shown_log(folder, recommender, first=2, untaken={"rating": 3.0})
    assert pl.read_parquet(out).equals(expected.table)
    assert str(expected) in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--untaken", "rating"]) == 2
    assert "--untaken rating: expected ACTION=VALUE" in capsys.readouterr().err


# The store


def test_an_event_about_an_answer_is_of_its_request(tmp_path: Path, requested: Dataset) -> None:
    service = service_of(tmp_path, requested, recommender_of(requested))
    row = {"item_id": 242, "timestamp": 1_600_000_000}
    sent = [
        {"id": "a", "user": 190, "request_id": "r1", "event": row},
        {"id": "b", "user": 190, "request_id": "r1", "event": {**row, "session": "own"}},
        {"id": "c", "user": 190, "event": row},
    ]
    assert ask(service, "/v1/events", {"events": sent}).status_code == 200
    kept = ask(service, "/v1/users/190", method="GET").json()["history"][-3:]
    assert [each["event"].get("session") for each in kept] == ["r1", "own", None]
    service.close()
