"""States are joined and taken apart by their users, and events are appended for some of them."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal
from tiny import MAX_EVENTS, NUM_ITEMS, assert_caught, assert_not_vacuous, model_of, random_log

import plait
from plait import recommender as face
from plait.data.history import Columns
from plait.data.vocabulary import Vocabulary
from plait.engine.state import State
from plait.recommender import Recommender

USERS = ["u02", "u05", "u07", "u11"]


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    ids = Vocabulary.of_items(pl.Series("item_id", [f"i{n:02d}" for n in range(NUM_ITEMS)]))
    columns = Columns(user="user", item="item", time="time", time_unit="s")
    return Recommender(model_of("(i[t], a[t-1]) -> (i[t+1], a[t])", max_events=MAX_EVENTS), ids, columns)


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    return (
        random_log()
        .filter(pl.col("user").is_in(USERS))
        .with_columns(pl.col("rating", "liked").fill_nan(None))
    )


def answers(recommender: Recommender, state: State) -> pl.DataFrame:
    scores = recommender.score(state, ["i03", "i11"])
    return scores.sort("user", "item")


def assert_alike(one: pl.DataFrame, other: pl.DataFrame) -> None:
    assert one.select("user", "item").equals(other.select("user", "item"))
    assert_frame_equal(one, other, abs_tol=1e-4)


def check_some_grow(recommender: Recommender, log: pl.DataFrame) -> dict[str, int]:
    """In a state of any order, some users get an event and the others stay; as if all had been encoded so."""
    last = log.group_by("user", maintain_order=True).tail(1)
    before = log.join(last, on=["user", "time"], how="anti")
    met = {"moved": 0, "keys": 0}
    for order in (USERS, USERS[::-1], [USERS[2], USERS[0], USERS[3], USERS[1]]):
        for grow in (USERS[:1], USERS[1:3], [USERS[3], USERS[0]], USERS):
            state = plait.state_of_users(recommender.encode(before), order)
            events = last.filter(pl.col("user").is_in(grow))
            after = recommender.append(state, events)
            assert list(after.id_U) == order and list(state.id_U) == order
            whole = recommender.encode(pl.concat([before, events]))
            assert_alike(answers(recommender, after), answers(recommender, whole))
            met["moved"] += not answers(recommender, after).equals(answers(recommender, state))
            met["keys"] += after.kept is not None and after.nbytes >= whole.nbytes
    return met


def test_events_of_some_users_are_appended(recommender, log):
    assert_not_vacuous(check_some_grow(recommender, log), above=9)


def test_users_that_are_put_back_elsewhere_are_caught(recommender, log, monkeypatch):
    right = face.joined_states
    swapped = lambda states: plait.state_of_users(joined := right(states), joined.id_U[::-1])  # noqa: E731
    stale = lambda states: right([*states[1:], *states[:1]])  # noqa: E731
    monkeypatch.setattr(face, "joined_states", lambda states: stale(states))
    check_some_grow(recommender, log)  # whatever the order in between
    monkeypatch.setattr(
        face, "state_of_users", lambda state, users: swapped([plait.state_of_users(state, users)])
    )
    assert_caught(check_some_grow, recommender, log)


def test_states_that_are_taken_apart_and_joined_answer_as_they_did(recommender, log):
    state = recommender.encode(log)
    apart = [plait.state_of_users(state, [user]) for user in USERS]
    joined = plait.joined_states(apart)
    assert joined.id_U == state.id_U and joined.nbytes == sum(each.nbytes for each in apart)
    assert_alike(answers(recommender, joined), answers(recommender, state))
    neighbours = plait.state_of_users(state, USERS[1:3])
    keys = neighbours.kept.encoded._tensors[2]
    assert keys.untyped_storage().data_ptr() == state.kept.encoded._tensors[2].untyped_storage().data_ptr()


def test_what_is_no_user_of_the_state_is_refused(recommender, log):
    state = recommender.encode(log)
    with pytest.raises(ValueError, match="user 'u99' is not of the state's 4 users"):
        plait.state_of_users(state, ["u02", "u99"])
    with pytest.raises(ValueError, match="expected users of the state, each once"):
        plait.state_of_users(state, ["u02", "u02"])
    with pytest.raises(ValueError, match="expected users of the state, each once"):
        plait.state_of_users(state, [])
    with pytest.raises(ValueError, match="has a user twice"):
        plait.state_of_users(plait.joined_states([state, state]), ["u02"])
    with pytest.raises(ValueError, match="expected one state or more"):
        plait.joined_states([])
    event = pl.DataFrame({"user": ["u02", "u99"], "item": ["i03", "i03"], "time": [2_000_000] * 2})
    with pytest.raises(ValueError, match=r"events of the users \('u02', 'u99'\), and the state is of"):
        recommender.append(state, event)
