"""Models that were saved once open and answer as they did when they were saved.

`goldens/` holds folders of `save_pretrained` as commit e63b7e6 wrote them, a history of two users, and
what each model then answered. They are never made anew: what cannot open or answer them any more is a change for users.
Kernels of other machines sum in other orders, so numbers are compared within a tolerance, and orders where it allows.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait import Recommender
from plait.files import HASHES
from plait.layouts import audit
from plait.models.generative import GenerativeRecommender

GOLDENS = Path(__file__).parent / "goldens"
NAMES = sorted(path.name for path in GOLDENS.iterdir() if path.is_dir())
AT = 1_025_000  # after all of the history
ITEMS = ["i03", "i11", "i00"]

Answers = dict[str, dict[str, list[object]]]


def answers(recommender: Recommender) -> Answers:
    """All that the model can be asked about both users."""
    history = pl.read_csv(GOLDENS / "history.csv")
    users = pl.read_csv(GOLDENS / "users.csv") if recommender.columns.user_features else None
    context = {"device": "phone", "hour": 7} if recommender.columns.context else None
    state = recommender.encode(history, users)
    found, able = {}, audit(recommender.model.layout)
    if able.can_score != "no":
        found["score"] = recommender.score(state, ITEMS, at=AT, context=context).to_dict(as_series=False)
    if able.can_retrieve:
        found["retrieve"] = recommender.retrieve(state, 5, at=AT).to_dict(as_series=False)
    return found


def saved(name: str) -> Recommender:
    """It was written before files had hashes, and a warning says so."""
    with pytest.warns(UserWarning, match=f"no {HASHES}"):
        return Recommender.from_pretrained(GOLDENS / name, "cpu")


def check_answers(name: str, recommender: Recommender) -> None:
    found, saved = answers(recommender), json.loads((GOLDENS / "answers.json").read_text())[name]
    assert found.keys() == saved.keys()
    numbers = set()
    for asked, columns in saved.items():
        assert found[asked].keys() == columns.keys()
        for column, values in columns.items():
            if column in ("user", "item", "rank"):
                assert found[asked][column] == values, (asked, column)
            else:
                np.testing.assert_allclose(found[asked][column], values, rtol=2e-5, atol=2e-5)
                numbers.update(values)
    assert_not_vacuous({"different numbers": len(numbers)}, above=11)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_was_saved_once_answers_as_it_did(name: str) -> None:
    check_answers(name, saved(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_that_was_saved_is_heard(name: str) -> None:
    """Each in turn three times as large: a part that is dropped, or takes the place of another, does not pass.
    A vector for "nothing yet" or "to be predicted" is heard where the layout shows such a fact."""
    recommender = saved(name)
    shown = [fact for token in recommender.model.layout.all_tokens for fact in token.shown]
    special = {f"specials.{fact.field}" for fact in shown if fact.offset != 0}
    heard = 0
    for part, weight in recommender.model.named_parameters():
        if part.startswith("specials.") and part not in special:
            continue
        right = weight.detach().clone()
        weight.data.mul_(3)
        assert_caught(check_answers, name, recommender)
        weight.data.copy_(right)
        heard += 1
    assert_not_vacuous({"weights": heard}, above=15)


def test_a_normaliser_that_was_saved_without_its_value_is_that_of_the_positions(tmp_path: Path) -> None:
    """From then on it is the model's own: another number of positions does not change it."""
    of_before = json.loads((GOLDENS / "interleaved-rab" / "config.json").read_text())["model"]
    assert of_before["settings"]["trunk"]["hstu"]["norm_len"] is None and "window_step" not in of_before
    recommender = saved("interleaved-rab")
    recommender.save_pretrained(tmp_path)
    now = json.loads((tmp_path / "config.json").read_text())["model"]
    num_positions = 2 * of_before["max_events"] + 2  # two tokens an event, and those of the event to come
    assert now["settings"]["trunk"]["hstu"]["norm_len"] == num_positions
    loaded = Recommender.from_pretrained(tmp_path, "cpu")
    assert loaded.model.config == recommender.model.config
    check_answers("interleaved-rab", loaded)
    config = replace(loaded.model.config, max_events=99, window_step=9)
    assert GenerativeRecommender(config).trunk.blocks[0].norm_len == num_positions
