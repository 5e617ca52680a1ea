"""Lists under filters, and items like others: the whole catalogue sorted, whatever the parts."""

from collections import Counter

import numpy as np
import pytest
import torch
from answering import ITEMS, USERS, state_of, untrained
from tiny import assert_caught, assert_not_vacuous

from plait.engine import filters, ranking, similar, steps
from plait.recommender import Recommender

MOST = len(ITEMS)


@pytest.fixture(scope="module")
def model() -> Recommender:
    return untrained()


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "STEP_LOGITS", 8)


def check_filtered_lists_are_the_sorted_catalogue(model: Recommender) -> None:
    """Over random filters, the seen ones among them."""
    state, rng, met = state_of(model), np.random.default_rng(2), Counter[str]()
    seen_U = [set(model.vocabulary.ids_at(seen)) for seen in state.seen_U]
    every = model.retrieve(state, MOST, filter_seen=False)
    for trial in range(24):
        allow, deny = (rng.choice(ITEMS, rng.integers(0, 12)).tolist() for _ in range(2))
        given = {
            "allow": allow if trial % 2 else None,
            "deny": deny if trial % 3 else None,
            "mask": rng.random(MOST) < 0.7 if trial % 5 else None,
        }
        filter_seen = bool(rng.integers(2))
        kept = set(ITEMS if given["allow"] is None else allow) - set(deny if given["deny"] else [])
        if given["mask"] is not None:
            kept &= {item for item, is_kept in zip(ITEMS, given["mask"], strict=True) if is_kept}
        left = [kept - (seen if filter_seen else set()) for seen in seen_U]
        k = min(map(len, left))
        if not k:
            with pytest.raises(ValueError, match="so none is left to recommend"):
                model.retrieve(state, 1, filter_seen=filter_seen, **given)
            met["none left"] += 1
            continue
        found = model.retrieve(state, k, filter_seen=filter_seen, **given)
        for user, its in zip(USERS, left, strict=True):
            sorted_items = [i for u, i in every.select("user", "item").rows() if u == user and i in its]
            assert [i for u, i in found.select("user", "item").rows() if u == user] == sorted_items[:k]
        met["lists"] += 1
        with pytest.raises(ValueError, match=f"k = {k + 1}: expected 1 to {k}, the items"):
            model.retrieve(state, k + 1, filter_seen=filter_seen, **given)
    assert_not_vacuous(met, above=2)


def test_filtered_lists_are_the_sorted_catalogue(model: Recommender, small_parts: None) -> None:
    check_filtered_lists_are_the_sorted_catalogue(model)


def test_a_filter_that_keeps_what_is_denied_is_caught(
    model: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen_only(self: filters.Filters, part: ranking.Scores) -> ranking.Scores:
        return ranking.without(part, self.seen)

    monkeypatch.setattr(filters.Filters, "applied", seen_only)
    assert_caught(check_filtered_lists_are_the_sorted_catalogue, model)


def test_a_filter_says_what_it_does_not_know(model: Recommender) -> None:
    state = state_of(model)
    with pytest.warns(
        UserWarning, match=r"deny: 1 of 2 items are not among the model's 17, such as 'new'; they"
    ):
        found = model.retrieve(state, 2, filter_seen=False, deny=["new", "i03"])
    assert "i03" not in found["item"].to_list()
    for mask in ([True] * 3, np.ones(MOST)):
        with pytest.raises(ValueError, match="mask: expected a truth value for each of the model's 17 items"):
            model.retrieve(state, 1, mask=mask)
    with pytest.raises(
        ValueError, match="user 'u1' has seen all 2 items that the filters keep, so none is left"
    ):
        seen = model.vocabulary.ids_at(state.seen_U[1][:2]).to_list()
        model.retrieve(state, 1, allow=seen)


def by_hand(model: Recommender, item: str, k: int) -> list[tuple[str, float]]:
    assert model.model.items is not None
    vector_VD = model.model.items.table()[1:].detach().double().numpy()
    vector_VD = vector_VD / np.linalg.norm(vector_VD, axis=1, keepdims=True)
    cosine_V = vector_VD @ vector_VD[ITEMS.index(item)]
    others = [(other, float(cosine_V[place])) for place, other in enumerate(ITEMS) if other != item]
    return sorted(others, key=lambda pair: -pair[1])[:k]


def check_similar(model: Recommender) -> None:
    found = model.similar(["i05", "i11", "i05"], k=6)
    assert found.columns == ["item", "rank", "similar", "cosine"] and len(found) == 18
    for number, item in enumerate(["i05", "i11", "i05"]):
        rows = found[6 * number : 6 * number + 6]
        expected = by_hand(model, item, 6)
        assert rows["item"].to_list() == [item] * 6 and rows["rank"].to_list() == [1, 2, 3, 4, 5, 6]
        assert rows["similar"].to_list() == [other for other, _ in expected]
        np.testing.assert_allclose(rows["cosine"], [cosine for _, cosine in expected], atol=1e-5)


@pytest.mark.parametrize("layout", ["lac", "action_out"])
def test_similar_items_are_those_of_the_sorted_catalogue(layout: str, small_parts: None) -> None:
    """Whether the layout retrieves or not."""
    check_similar(untrained(layout))


def test_similarity_of_vectors_that_are_not_of_length_one_is_caught(
    model: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "_directions", lambda items, item_C: items(item_C).float())
    assert_caught(check_similar, model)


def test_items_of_equal_vectors_are_the_most_alike() -> None:
    twins = untrained()
    assert twins.model.items is not None and twins.model.items.embedding is not None
    with torch.no_grad():
        twins.model.items.embedding.weight[[4, 9, 15]] = twins.model.items.embedding.weight[7].clone()
    found = twins.similar(["i06"], k=3)
    assert set(found["similar"]) == {"i03", "i08", "i14"}, "and not the item itself"
    np.testing.assert_allclose(found["cosine"], 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("items", "k", "message"),
    [
        (["i99"], 3, "1 of 1 items are not among the model's 17, such as 'i99'"),
        (["i05"], 17, "k = 17: expected 1 to 16, the other items of the catalogue"),
        (["i05"], 0, "k = 0: expected 1 to 16"),
        (["i05"], True, "k = True: expected a whole number"),
        ("i05", 2, "expected a list of item ids"),
    ],
)
def test_what_is_like_nothing(model: Recommender, items: object, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.similar(items, k)  # type: ignore[arg-type]
