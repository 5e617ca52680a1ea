"""Users on the page are the log's, and what is recommended to them is what the run's own recommender says."""

from pathlib import Path

import pytest
from small_runs import MODEL as SMALL
from small_runs import OPTIM, PROTOCOL, silent

from plait.compare import examples as of_users
from plait.compare.comparing import compare
from plait.compare.examples import K, examples
from plait.compare.results import Comparison
from plait.compare.verdict import verdict_of
from plait.data import Dataset
from plait.layouts import resolve
from plait.recommender import Recommender


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def comparison(dataset: Dataset, folder: Path) -> Comparison:
    layouts = [resolve(name) for name in ("item", "lac", "attn_mvp")]
    return compare(dataset, layouts, 1, folder, SMALL, OPTIM, PROTOCOL, "plait compare", silent)


def test_recommendations_are_those_of_the_run(dataset: Dataset, folder: Path, comparison: Comparison) -> None:
    found = comparison.examples
    assert len({example.user for example in found}) == len(found) == 5
    for example in found:
        assert list(example.recommended) == ["item", "lac"], "what retrieves, the reference first"
        user = dataset.user_index(example.user)
        for layout, items in example.recommended.items():
            model = Recommender.from_pretrained(folder / "runs" / f"{layout}-seed0" / "model", "cpu")
            answer = model.retrieve(model.encode(dataset.history(user)), K)
            assert list(items) == [str(item) for item in answer["item"]]


def test_a_history_is_the_logs(dataset: Dataset, comparison: Comparison) -> None:
    example = comparison.examples[0]
    history = dataset.history(dataset.user_index(example.user))
    last = str(dataset.items.ids_at(history.item_E[-1:])[0])
    assert example.history[-1].startswith(last) and len(example.history) == min(8, len(history.item_E))


def test_what_cannot_be_asked_is_left_out(
    dataset: Dataset, folder: Path, comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = verdict_of(comparison)
    monkeypatch.setattr(of_users, "_has_items_left", lambda data, user: user == 3)
    (one,) = examples(dataset, comparison, verdict, folder, True)
    assert one.user == str(dataset.user_ids()[3])
    monkeypatch.setattr(of_users, "_has_items_left", lambda data, user: False)
    assert examples(dataset, comparison, verdict, folder, True) == ()
    monkeypatch.setattr(of_users, "_asks_for_nothing", lambda model: False)
    assert examples(dataset, comparison, verdict, folder, True) == ()
