"""What serving takes each layout: measured on the models of a comparison, and shown beside its tables."""

import time
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from small_runs import settings_of
from test_page import compared
from tiny import assert_not_vacuous

from plait.compare import serving as measuring
from plait.compare.charted import serving_chart
from plait.compare.comparing import compare_variants
from plait.compare.page import html_page, terminal_table
from plait.compare.results import Comparison, Request, Serving, ServingCost
from plait.compare.side_tables import serving_notes, serving_table
from plait.compare.variants import Variant
from plait.data import Dataset
from plait.engine import one_pass

REQUESTS = get_args(Request)


@pytest.fixture(scope="module")
def found(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison, list[str]]:
    out, said = tmp_path_factory.mktemp("served"), list[str]()
    layouts = ("item", "action_out", "lac")
    variants = [Variant(name, settings_of(name, max_epochs=1)) for name in layouts]
    made = compare_variants(dataset, variants, 1, out, command="", report=said.append).comparison
    return out, made, said


def test_every_request_that_a_layout_can_answer_is_measured(found):
    out, comparison, said = found
    met = dict.fromkeys(REQUESTS, 0)
    for card, of in zip(comparison.layouts, comparison.serving.costs, strict=True):
        able = {request for request in REQUESTS if card.answers(request)}
        assert set(of.median_s) == able and of.layout == card.name and not of.why_not
        assert all(0 < seconds < comparison.serving.wall_s for seconds in of.median_s.values())
        met = {request: count + (request in able) for request, count in met.items()}
    assert_not_vacuous(met)
    assert met["score 1"] < len(comparison.layouts) and met["retrieve"] < len(comparison.layouts)
    assert said[-1] == f"serving costs of 3 layouts, measured in {comparison.serving.wall_s:.1f} s"
    read = msgspec.json.decode((out / "comparison.json").read_bytes(), type=Comparison)
    assert read.serving == comparison.serving


def test_what_is_asked_is_the_engines_own(found, dataset, monkeypatch):
    """So many candidates of one user whose history is encoded; the user is in the middle of all."""
    out, comparison, _ = found
    asked = {"score": [], "retrieve": [], "append": []}

    def noting(name):
        right = getattr(one_pass, name)

        def noted(model, state, *more, **how):
            asked[name].append((state.kept is not None, more))
            return right(model, state, *more, **how)

        return noted

    for name in asked:
        monkeypatch.setattr(one_pass, name, noting(name))
    monkeypatch.setattr(measuring, "MOST_TIMES", 1)
    measuring.serving(dataset, comparison, out, "cpu", True)
    assert {more[0].shape for _, more in asked["score"]} == {(1, 1), (1, 100), (1, 1000)}
    assert all(kept for calls in asked.values() for kept, _ in calls) and all(asked.values())
    lengths = sorted(dataset.train_user_counts())
    user = measuring._middle_user(dataset)
    assert dataset.train_user_counts()[user] == lengths[len(lengths) // 2]
    assert comparison.serving.num_events == len(dataset.history(user).item_E)


def test_slow_requests_are_asked_a_few_times_and_no_more(monkeypatch):
    monkeypatch.setattr(measuring, "MOST_S", 0.01)
    calls = []
    measuring._median_s(lambda: calls.append(time.sleep(0.02)), measuring.torch.device("cpu"))
    assert len(calls) == 2
    monkeypatch.setattr(measuring, "MOST_S", 1000.0)
    measuring._median_s(lambda: calls.append(None), measuring.torch.device("cpu"))
    assert len(calls) == 2 + 1 + measuring.MOST_TIMES


def test_a_user_who_cannot_be_asked_is_told(found, dataset, monkeypatch):
    out, comparison, _ = found

    def refuse(*args, **how):
        raise ValueError("the user has 1 events before what is asked about")

    monkeypatch.setattr(one_pass, "retrieve", refuse)
    served = measuring.serving(dataset, comparison, out, "cpu", True)
    without = msgspec.structs.replace(comparison, serving=served)
    table = serving_table(without)
    column = table.headings.index("retrieve, ms")
    cells = {name: cells[column].value for name, cells in table.rows}
    assert cells == {"item": "not measured", "action_out": "cannot", "lac": "not measured"}
    assert "item, retrieve not measured: the user has 1 events before" in " ".join(serving_notes(without))


def invented() -> Comparison:
    found = compared()
    costs = tuple(
        ServingCost(card.name, {its: 0.0004 * (n + 1) for n, its in enumerate(REQUESTS) if card.answers(its)})
        for card in found.layouts
        if card.name != "pc"
    )
    return msgspec.structs.replace(found, serving=Serving(costs, 65, 10, 4.2))


def test_it_stands_on_the_page_and_not_in_the_terminals_table():
    comparison = invented()
    page = html_page(comparison)
    rows = dict(serving_table(comparison).rows)
    assert [cell.value for cell in rows["lac"]] == ["0.40", "0.80", "1.20", "1.60", "2.00"]
    assert [cell.value for cell in rows["item"]] == ["cannot", "cannot", "cannot", "1.60", "2.00"]
    assert "Measuring took 4.2 s" in page and "one user with 65 events" in page
    assert "Not measured, since no model was kept: pc." in page
    chart = serving_chart(comparison)
    assert chart.x_label == "time of a request, µs"
    assert [mark.title.split(":")[0] for mark in chart.marks] == ["action_out", "lac", "interleaved"]
    assert chart.title in page and 'id="serving"' in page
    assert not [row for row in terminal_table(comparison).rows if "score 100" in str(row)]


def test_comparisons_of_before_have_none():
    encoded = msgspec.json.decode(msgspec.json.encode(compared()))
    encoded.pop("serving")
    read = msgspec.json.decode(msgspec.json.encode(encoded), type=Comparison)
    assert read.serving is None and serving_table(read) is None and serving_notes(read) == []
    assert serving_chart(read) is None and "Serving cost" not in html_page(read)


def test_without_models_nothing_is_measured(found, dataset, tmp_path):
    _, comparison, _ = found
    assert measuring.serving(dataset, comparison, tmp_path, "cpu", True) is None
