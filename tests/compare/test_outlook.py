"""How far a comparison is, and what time is left by how its runs ended."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.compare.outlook import Runs, outlook
from plait.notices import Outlook

SECONDS = st.floats(0.0, 1e6)
MICROSECOND = 1e-6  # a difference of large sums has lost what is smaller


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.data())
def test_a_run_is_expected_to_take_what_its_like_took(names: list[str], data: st.DataObject) -> None:
    wall_s = data.draw(st.lists(SECONDS, max_size=len(names) - 1))
    found = outlook(names, wall_s, elapsed_s=7.0)
    assert (found.number, found.of, found.elapsed_s) == (len(wall_s) + 1, len(names), 7.0)
    if not wall_s:
        assert found.left_s() is None
        return
    expected = 0.0
    for name in names[len(wall_s) :]:
        like = [seconds for other, seconds in zip(names, wall_s, strict=False) if other == name]
        expected += float(np.mean(like or wall_s))
    assert found.left_s() == pytest.approx(expected, abs=MICROSECOND)
    assert found.this_s is not None and found.left_s(found.this_s + 1) == pytest.approx(
        expected - found.this_s, abs=MICROSECOND
    )


class Watching:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[Outlook] = []

    def __call__(self, share: float, tokens_per_s: float) -> None:
        pass

    def begins(self, outlook: Outlook) -> None:
        self.begun.append(outlook)


def test_each_run_is_announced_and_a_finished_one_counts_for_what_it_took() -> None:
    lines, watch = [], Watching()
    runs = Runs(["item", "lac", "item"], lines.append, watch)
    for name in ("item", "lac", "item"):
        runs.begin(name)
        runs.end(60.0)
    assert lines[0] == "item (run 1 of 3)"
    assert lines[1].startswith("lac (run 2 of 3, after 0.0 s, about 2 min 00 s left)")
    assert [its.left_s() for its in watch.begun] == [None, 120.0, 60.0]
    plain = Runs(["item"], lines.append, lambda share, speed: None)
    plain.begin("item")
    assert lines[-1] == "item (run 1 of 1)", "a plain function is a watch, too"
