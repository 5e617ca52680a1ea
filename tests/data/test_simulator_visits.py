"""Users who come again answer as those of the log do."""

import numpy as np
import pytest
from tiny import assert_caught, assert_not_vacuous

from plait.data.simulator import Visitors, World, visits
from plait.data.simulator.drawing import draw_log

WORLD = World(num_users=300, num_events=6, num_items=40, mood=2.0)


def check_answers_as_likely(visitors: Visitors) -> int:
    """Of many answers, clicks are as frequent as `chances` says, among the likely and among the unlikely alike."""
    rng = np.random.default_rng(0)
    user_E, item_E = np.repeat(np.arange(300), 40), np.tile(np.arange(40), 300)
    click_E = visitors.respond(user_E, item_E, rng)[:, 0]
    chance_E = visitors.chances("click")[user_E, item_E]
    groups = np.array_split(np.argsort(chance_E), 6)
    for group in groups:
        bound = 5 * np.sqrt(chance_E[group].mean() / len(group))
        assert abs(click_E[group].mean() - chance_E[group].mean()) < bound
    return int(np.ptp([chance_E[group].mean() for group in groups]) * 100)


def test_users_answer_as_likely_as_is_said() -> None:
    visitors = Visitors.after(WORLD, draw_log(WORLD))
    assert_not_vacuous({"spread": check_answers_as_likely(visitors)}, above=40)
    assert_not_vacuous({"again": check_answers_as_likely(visitors.again(np.random.default_rng(1)))}, above=40)


def test_chances_of_others_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = visits.chances_to
    monkeypatch.setattr(
        visits,
        "chances_to",
        lambda world, truth, minds, item_E, action: right(world, truth, minds, item_E[::-1], 0),
    )
    assert_caught(check_answers_as_likely, Visitors.after(WORLD, draw_log(WORLD)))


def test_who_comes_again_is_who_was_there() -> None:
    log = draw_log(WORLD)
    visitors = Visitors.after(WORLD, log)
    for user in (0, 7, 299):
        last = np.flatnonzero(log.user_E == user)[-1]
        assert visitors.minds.mood_E[user] == log.mood_E[last]
        assert visitors.minds.scenario_E[user] == log.scenario_E[last]
    again = visitors.again(np.random.default_rng(0))
    np.testing.assert_array_equal(again.minds.type_E, visitors.minds.type_E)
    assert 0.2 < (again.minds.mood_E == visitors.minds.mood_E).mean() < 1, "moods last, and not for ever"
    with pytest.raises(
        ValueError, match="'clik' is no response of the world; expected one of click, watch_s"
    ):
        visitors.chances("clik")
