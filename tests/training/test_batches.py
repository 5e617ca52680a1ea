"""The order of the data: a function of seed, epoch and step, the same for every layout."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import PROTOCOL
from tiny import assert_caught

from plait.data import Dataset
from plait.data.windows import Stretches
from plait.evaluation.ahead import ahead
from plait.layouts import resolve
from plait.layouts.arrange import Predictions
from plait.models.generative import ModelSettings
from plait.models.inputs import Inputs, training_inputs
from plait.models.late import LateSettings, LateStatistics
from plait.nn.read import Read
from plait.schema import EventBatch
from plait.training import batches
from plait.training.batches import targets_per_epoch, training_stream, users_of_step


def test_every_epoch_meets_every_user_once_in_another_order(dataset):
    def users(epoch: int, seed: int = 0) -> list[np.ndarray]:
        return [of.user_B for of in users_of_step(dataset, 5, replace(PROTOCOL, seed=seed), epoch)]

    epochs = [np.concatenate(users(epoch)) for epoch in range(3)]
    for order_U in epochs:
        assert sorted(order_U.tolist()) == dataset.train_users().tolist()
    assert len({tuple(order_U) for order_U in epochs}) == 3
    assert not np.array_equal(epochs[0], np.concatenate(users(0, seed=1)))
    assert [len(users_U) for users_U in users(0)] == [5, 5, 5, 5, 3]


def check_asked_users(dataset: Dataset) -> None:
    """Training asks about those who have a training event from the cut on, and builds no history to find them."""
    events = dataset.histories(np.arange(dataset.num_users))
    user_E = np.repeat(events.user_U, events.num_events_U)
    is_trained_E = events.number_E < dataset.train_user_counts()[user_E]
    since_s = int(np.median(events.time_s_E[is_trained_E]))
    late = set(user_E[is_trained_E & (events.time_s_E >= since_s)].tolist())
    expected = sorted(late & set(dataset.train_users().tolist()))
    assert 0 < len(expected) < len(dataset.train_users())
    assert expected != sorted(set(user_E[events.time_s_E >= since_s].tolist())), "some come later alone"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Dataset, "histories", None)
        steps = users_of_step(dataset, 5, replace(PROTOCOL, asked_from_s=since_s), epoch=0)
    assert sorted(np.concatenate([of.user_B for of in steps]).tolist()) == expected


def test_users_are_asked_about_who_have_events_from_the_cut_on(dataset, monkeypatch):
    check_asked_users(dataset)

    def of_all_events(self: Dataset, of: Stretches) -> np.ndarray:
        return self._time_s_E[self._start_U1[of.user_B + 1] - 1]

    monkeypatch.setattr(Dataset, "last_times", of_all_events)
    assert_caught(check_asked_users, dataset)


def in_window(batch: EventBatch) -> list[int]:
    """Items of a batch without its leads."""
    kept = [
        batch.item_E[a + n : b]
        for a, n, b in zip(batch.start_U1, batch.lead_U, batch.start_U1[1:], strict=False)
    ]
    return np.concatenate(kept).tolist()


def check_same_events(dataset: Dataset) -> None:
    """Layouts that need events before the window see the same windows as those that do not."""
    protocol = replace(PROTOCOL, max_events=4, window="random")
    users_U = dataset.whole_training(dataset.train_users())
    windows = {
        name: [
            batches.training_batch(
                dataset, protocol.plan(resolve(name), ModelSettings()), users_U, protocol, epoch, step
            )
            for epoch, step in ((0, 0), (0, 1), (1, 0))
        ]
        for name in ("item", "lac", "interleaved")
    }
    assert windows["lac"][0].lead_U.any() and not windows["item"][0].lead_U.any()
    items = {name: [in_window(batch) for batch in found] for name, found in windows.items()}
    assert items["item"] == items["lac"] == items["interleaved"]
    assert len({tuple(found) for found in items["lac"]}) == 3, "windows are random"


def test_every_layout_is_trained_on_the_same_events(dataset):
    check_same_events(dataset)


def test_windows_drawn_by_a_layouts_lag_are_caught(dataset, monkeypatch):
    right = batches.training_batch

    def broken(dataset, plan, users_U, protocol, epoch, step):
        return right(dataset, plan, users_U, protocol, epoch + plan.lead, step)

    monkeypatch.setattr(batches, "training_batch", broken)
    assert_caught(check_same_events, dataset)


def test_a_stream_that_starts_late_skips_whole_steps(dataset):
    protocol = replace(PROTOCOL, window="random")
    arguments = (dataset, protocol.plan(resolve("lac"), ModelSettings()), 5, protocol, 1)
    whole = list(training_stream(*arguments, 0, "cpu"))
    late = list(training_stream(*arguments, 3, "cpu"))
    assert len(whole) == 5 and len(late) == 2
    for (users_U, inputs), (late_U, late_inputs) in zip(whole[3:], late, strict=True):
        assert users_U.tolist() == late_U.tolist()
        assert inputs.item_E.tolist() == late_inputs.item_E.tolist()


def test_an_error_of_the_thread_is_raised_where_the_value_is_awaited():
    def make(number: int) -> int:
        if number == 3:
            raise OSError("disk gone")
        return number

    numbers = ahead(make, range(6))
    assert [next(numbers) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(numbers)


def test_point_wise_samples_ask_what_whole_users_ask(dataset):
    """The same questions in another order and company: each from the same history."""
    layout = resolve("genrank")
    asked = {}
    for sample in ("user", "event"):
        protocol = replace(PROTOCOL, supervise="candidates", candidate_requests=2, sample=sample)
        found = []
        plan = protocol.plan(layout, ModelSettings())
        for users_U, inputs in training_stream(dataset, plan, 5, protocol, 0, 0, "cpu"):
            (of_actions,) = inputs.questions
            length_U = np.bincount(inputs.user_N.numpy(), minlength=len(users_U))
            found.append((len(users_U), int(length_U.max()), inputs.item_E[of_actions.label_M].tolist()))
        asked[sample] = found
    items = {
        sample: sorted(item for *_, item_M in found for item in item_M) for sample, found in asked.items()
    }
    assert items["user"] == items["event"] and len(items["user"]) == 2 * len(dataset.train_users())
    assert len(asked["user"]) == len(asked["event"]), "as many steps"
    assert max(users for users, *_ in asked["event"]) > 5


def check_parts(dataset: Dataset) -> None:
    """An epoch of parts asks what one of whole users does, from the same histories, in as many steps."""
    layout, asked, sizes = resolve("genrank"), {}, {}
    every = replace(PROTOCOL, max_events=50, candidate_requests=50)
    for sample in ("user", "part"):
        protocol = replace(every, sample=sample, requests_per_part=2)
        plan, found, sizes[sample] = protocol.plan(layout, ModelSettings()), [], []
        assert plan.sample_taken == sample
        for users_U, inputs in training_stream(dataset, plan, 5, protocol, 0, 0, "cpu"):
            (of_actions,) = inputs.questions
            seen_RL = inputs.segments.seen_RL
            assert seen_RL is not None, "candidates do not see each other"
            event_M = of_actions.label_M
            order_N = inputs.cell_N.argsort()
            token_M = order_N[torch.searchsorted(inputs.cell_N[order_N], of_actions.cell_M)]
            user_M = users_U[inputs.user_N[token_M].numpy()]
            seen_M = seen_RL.flatten()[of_actions.cell_M].numpy()
            found += list(zip(user_M, inputs.number_E[event_M.numpy()], seen_M, strict=True))
            sizes[sample].append(len(set(users_U.tolist())))
        asked[sample] = sorted(tuple(map(int, each)) for each in found)
    assert asked["user"] == asked["part"]
    assert len(asked["part"]) > 3 * len(dataset.train_users())
    assert len(sizes["user"]) == len(sizes["part"]) and max(sizes["user"]) == 5 < min(sizes["part"])


def test_parts_ask_what_whole_users_ask(dataset):
    check_parts(dataset)


def test_parts_that_share_requests_are_caught(dataset, monkeypatch):
    right = Dataset.training_parts
    monkeypatch.setattr(Dataset, "training_parts", lambda self, last, _: right(self, last, 1))
    assert_caught(check_parts, dataset)


def test_parts_are_of_candidates():
    """A layout that is asked about every event where it stands takes whole users."""
    plan = replace(PROTOCOL, sample="part").plan(resolve("lac"), ModelSettings())
    assert plan.sample_taken == "user"
    with pytest.raises(ValueError, match=r"expected protocol.window = 'last'"):
        replace(PROTOCOL, sample="part", window="random")


def test_samples_of_one_event_take_candidates():
    with pytest.raises(ValueError, match=r"take protocol.supervise = 'candidates'"):
        replace(PROTOCOL, sample="event")


@pytest.mark.parametrize("layout", ["item", "lac", "pc", "genrank", "action_in"])
@pytest.mark.parametrize("choices", [{}, {"supervise": "candidates", "sample": "event"}])
def test_targets_are_counted_as_the_first_epoch_asks_them(dataset, layout, choices):
    protocol = replace(PROTOCOL, **choices)
    plan = protocol.plan(resolve(layout), ModelSettings())
    asked = Counter[str]()
    for _, inputs in training_stream(dataset, plan, 5, protocol, 0, 0, "cpu"):
        for questions in inputs.questions:
            asked[questions.target.fact.field] += len(questions.label_M)
    assert targets_per_epoch(dataset, plan, 5, protocol) == asked and min(asked.values()) >= 23


def said_of(inputs: Inputs, batch: EventBatch, since_s: int) -> list[list[object]]:
    """All that is said of those questions whose event is not before a time: first the cells."""
    said: list[list[object]] = []
    for asked in inputs.questions:
        late_M = torch.from_numpy(batch.time_s_E >= since_s)[asked.label_M]
        told = [] if asked.late_MF is None else [asked.late_MF.nan_to_num(nan=-1.0)]
        rows = [asked.cell_M, asked.label_M, *(source_M for _, source_M in asked.given_M), *told]
        said.append([each[late_M].tolist() for each in rows])
    return said


def check_asked_from(dataset: Dataset, layout: str) -> None:
    """What is asked from a cut on is all of it that is asked without one, and answers to nothing else are computed."""
    protocol = replace(PROTOCOL, max_events=9)
    late = LateStatistics(
        LateSettings(windows=(3,)), dataset.actions, np.zeros((dataset.num_items + 1, 0), np.int32)
    )
    plan = protocol.plan(resolve(layout), ModelSettings())
    whole_users = dataset.whole_training(dataset.train_users())
    batch = batches.training_batch(dataset, plan, whole_users, protocol, 0, 0)
    since_s = int(np.quantile(batch.time_s_E, 0.8))
    cut = replace(protocol, asked_from_s=since_s).plan(resolve(layout), ModelSettings())
    whole, found = (training_inputs(each, batch, late=late) for each in (plan, cut))
    expected = said_of(whole, batch, since_s)
    assert said_of(found, batch, 0) == expected
    num_asked, num_all = (sum(len(each.label_M) for each in its.questions) for its in (found, whole))
    assert 0 < num_asked < num_all / 2
    assert found.read is not None
    assert found.read.cell_M.tolist() == sorted({cell for cells, *_ in expected for cell in cells})


@pytest.mark.parametrize("layout", ["item", "lac", "pc", "interleaved"])
def test_what_lies_before_the_cut_is_not_computed(dataset, layout):
    check_asked_from(dataset, layout)


def test_rows_that_answer_nothing_are_caught(dataset, monkeypatch):
    right = Read.some_of

    def all_of(cells, segment_RL, device):
        every = np.flatnonzero(segment_RL.reshape(-1) >= 0)
        return right([every[: len(every) // 2], *cells], segment_RL, device)

    monkeypatch.setattr(Read, "some_of", all_of)
    assert_caught(check_asked_from, dataset, "lac")


def test_questions_that_stay_are_caught(dataset, monkeypatch):
    monkeypatch.setattr(Predictions, "of_labels", lambda self, is_kept_M: self)
    assert_caught(check_asked_from, dataset, "lac")


def test_targets_from_the_cut_on_are_counted_as_they_are_asked(dataset):
    times_s = dataset.histories(dataset.train_users()).time_s_E
    protocol = replace(PROTOCOL, asked_from_s=int(np.quantile(times_s, 0.8)))
    plan = protocol.plan(resolve("lac"), ModelSettings())
    asked = Counter[str]()
    for _, inputs in training_stream(dataset, plan, 5, protocol, 0, 0, "cpu"):
        for questions in inputs.questions:
            asked[questions.target.fact.field] += len(questions.label_M)
    without = targets_per_epoch(dataset, replace(plan, asked_from_s=None), 5, protocol)
    assert targets_per_epoch(dataset, plan, 5, protocol) == asked and 0 < asked["i"] < without["i"]
