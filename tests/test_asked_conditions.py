"""The face under conditions: values as the log spells them, those of items asked and never given."""

import warnings
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from answering import asked_under
from polars.testing import assert_frame_equal
from tiny import ACTIONS, assert_caught, random_log

from plait.conditions import conditions_frame
from plait.data import Dataset, prepare
from plait.given import histories
from plait.recommender import Recommender
from plait.schema import Category, Feature

GENRES = pl.DataFrame(
    {"item": [f"i{n:02d}" for n in range(17)], "genre": ["x|y" if n % 3 else "z" for n in range(17)]}
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return prepare(
        random_log(), user="user", item="item", time="time", actions=ACTIONS, min_item_events=1,
        out=tmp_path_factory.mktemp("asked") / "data", conditions={"scenario": Category()}, item_conditions=("genre",),
        items=GENRES, item_features=[Feature.parse("genre:categories:|")],
    )  # fmt: skip


@pytest.fixture(scope="module")
def lum(data) -> Recommender:
    return asked_under(data, "lum")


ASKED = [{"scenario": "home"}, {"scenario": "search", "genre": "z"}, {"genre": "x|y"}, {}]


def check_a_table_answers_as_the_dataset(model: Recommender, data: Dataset) -> None:
    """Conditions of items follow from the items of a history; those of the moment are its columns."""
    log = random_log()
    of_table = model.query(model.encode(log), ASKED)
    of_data = model.query(model.encode(data.histories(np.arange(data.num_users))), ASKED)
    close = np.abs(np.stack(of_table["interest"]) - np.stack(of_data["interest"])).max()
    assert close < 1e-5, close


def test_a_table_answers_as_the_dataset(lum, data):
    check_a_table_answers_as_the_dataset(lum, data)
    state = lum.encode(random_log().filter(user="u03"))
    found = lum.query(state, ASKED)
    assert (
        found.columns == ["user", "scenario", "genre", "interest"] and found["user"].to_list() == ["u03"] * 4
    )
    assert found["scenario"].to_list() == ["home", "search", None, None]
    interests = np.stack(found["interest"])
    assert np.abs(interests[:, None] - interests)[~np.eye(4, dtype=bool)].max(axis=-1).min() > 1e-3
    assert_frame_equal(found, lum.query(state, conditions_frame(ASKED)))


def test_a_history_whose_conditions_are_forgotten_is_caught(lum, data, monkeypatch):
    def forgetful(model, events, of_table=False):
        return (
            replace(events, condition_EG=np.zeros((len(events.item_E), 3), np.int64)) if of_table else events
        )

    monkeypatch.setattr(histories, "conditioned", forgetful)
    assert_caught(check_a_table_answers_as_the_dataset, lum, data)


def test_an_appended_event_brings_its_condition(lum):
    log = random_log().filter(user="u03")
    state = lum.append(lum.encode(log[:-1]), log[-1])
    assert_frame_equal(lum.query(state, ASKED), lum.query(lum.encode(log), ASKED), abs_tol=1e-4)
    other = lum.append(lum.encode(log[:-1]), log[-1].with_columns(scenario=pl.lit("elsewhere")))
    found, expected = (np.stack(lum.query(each, ASKED)["interest"]) for each in (other, state))
    assert np.abs(found - expected).max() > 1e-3


def test_lists_need_a_condition_and_are_what_interests_are_most_similar_to(lum):
    state = lum.encode(random_log().filter(user="u03"))
    with pytest.raises(
        ValueError, match=r"asked under a condition \(scenario, genre\): say which, with condition"
    ):
        lum.retrieve(state, 3)
    items, (interest,) = lum.item_interests(), lum.query(state, [{"genre": "z"}])["interest"]
    similarity = np.stack(items["interest"]) @ interest.to_numpy()
    best = items["item"].gather(np.argsort(-similarity)[:3]).to_list()
    assert lum.retrieve(state, 3, filter_seen=False, condition={"genre": "z"})["item"].to_list() == best
    assert len(lum.retrieve(state, 3, condition={})) == 3, "that nothing is known can be said"


def test_a_layout_without_conditions_reads_and_takes_none(data):
    lac, log = asked_under(data, "lac"), random_log().filter(user="u03")
    state = lac.encode(log.drop("scenario"))
    assert state.events.condition_EG.shape[1] == 0
    assert_frame_equal(
        lac.retrieve(state, 3),
        lac.retrieve(lac.encode(data.histories(np.array([3]))), 3).with_columns(user=pl.lit("u03")),
    )
    for ask in (
        lambda: lac.retrieve(state, 3, condition={"scenario": "home"}),
        lambda: lac.score(state, ["i03"], condition={"scenario": "home"}),
    ):
        with pytest.raises(ValueError, match="asked under no condition"):
            ask()
    with pytest.raises(ValueError, match="the model is asked under none"):
        lac.query(state, ASKED)


def test_a_value_that_no_training_event_has_is_unseen_and_counted(lum):
    state = lum.encode(random_log().filter(user="u03"))
    with pytest.warns(UserWarning, match="condition 'scenario': 1 of 2 values are unseen, such as 'kiosk'"):
        found = lum.query(state, [{"scenario": "kiosk"}, {"scenario": "home"}])
    assert len(found) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lum.query(state, ASKED)
    with pytest.raises(ValueError, match=r"condition 'scenari': .* did you mean 'scenario'"):
        lum.query(state, [{"scenari": "home"}])
    with pytest.raises(ValueError, match="expected values by name for each"):
        lum.query(state, ["home"])


def test_a_saved_model_asks_alike(lum, tmp_path):
    lum.save_pretrained(tmp_path / "model")
    again = Recommender.from_pretrained(tmp_path / "model", device="cpu")
    log = random_log()
    assert_frame_equal(lum.query(lum.encode(log), ASKED), again.query(again.encode(log), ASKED))
    state = lum.encode(log)
    lum.save_state(state, tmp_path / "state")
    assert_frame_equal(lum.query(lum.load_state(tmp_path / "state"), ASKED), lum.query(state, ASKED))
