"""Ids asked for, found among those that are known: as joining them finds, and without looking at the others."""

import numpy as np
import polars as pl
import pytest
from jaxtyping import Int64
from tiny import assert_caught, assert_not_vacuous

from plait.data import vocabulary
from plait.data.columns.ids import ids_as
from plait.data.vocabulary import Buckets, Vocabulary
from plait.schema import UNKNOWN_ITEM

NUMBERS, TEXTS = pl.Series([3, 100, 7]), pl.Series(["3", "b"])


def joined(asked: pl.Series, known: pl.Series) -> Int64[np.ndarray, " I"]:
    """The plain reference: dense item numbers by a join with all that are known."""
    numbered = pl.DataFrame({"id": known}).with_row_index("index", offset=UNKNOWN_ITEM + 1)
    ids = pl.DataFrame({"id": ids_as(asked, known.dtype)})
    found = ids.join(numbered, on="id", how="left", maintain_order="left")["index"]
    return found.fill_null(UNKNOWN_ITEM).to_numpy().astype(np.int64)


@pytest.mark.parametrize(
    ("asked", "known", "found"),
    [
        (pl.Series([7, 8, 3]), NUMBERS, [3, 0, 1]),
        (pl.Series(["100", "x"]), NUMBERS, [2, 0]),
        (pl.Series([100.0, 100.5, float("nan"), None]), NUMBERS, [2, 0, 0, 0]),
        (pl.Series([True, False]), pl.Series([0, 1]), [0, 0]),
        (pl.Series([3, 4]), TEXTS, [1, 0]),
        (pl.Series([], dtype=pl.Int64), NUMBERS, []),
        (pl.Series(["a"]), pl.Series([], dtype=pl.String), [0]),
    ],
)
def test_only_the_very_item_is_found(asked, known, found):
    assert Vocabulary.of_items(known).index_of(asked).tolist() == found == joined(asked, known).tolist()


def random_ids(rng: np.random.Generator, kind: str) -> pl.Series:
    """Different ids in no order, more than their buckets keep apart."""
    number_V = np.unique(rng.integers(-50 if kind == "numbers" else 0, 400, rng.integers(1, 200)))
    ids = pl.Series(rng.permutation(number_V))
    match kind:
        case "text":
            return ids.cast(pl.String) + pl.Series(rng.choice(["", "x", ".0"], len(ids)))
        case "large":
            return ids.cast(pl.UInt64) + 2**63
        case _:
            return ids


def random_asked(rng: np.random.Generator, known: pl.Series) -> pl.Series:
    """Known ones, some of them twice, strange ones and missing ones, in any spelling."""
    strange = [str(n) for n in rng.integers(-500, 900, 10)] + ["007", "", "NA", str(2**64)]
    asked = pl.Series([*known.cast(pl.String).to_list(), *strange, None])
    asked = asked.gather(rng.integers(0, len(asked), 60))
    if known.dtype != pl.String and rng.integers(2):
        return ids_as(asked, known.dtype)
    return asked


def check_random_ids(rounds: int = 120) -> None:
    met = {"found": 0, "not held": 0, "missing": 0, "asked twice": 0, "shared bucket": 0}
    rng = np.random.default_rng(0)
    for turn in range(rounds):
        known = random_ids(rng, ("numbers", "text", "large")[turn % 3])
        asked, its = random_asked(rng, known), Vocabulary.of_items(known)
        found_I, expected_I = its.index_of(asked), joined(asked, known)
        np.testing.assert_array_equal(found_I, expected_I)
        of_users = Vocabulary.of_users(known)
        np.testing.assert_array_equal(of_users.index_of(asked), expected_I - 1)
        held = found_I != its.unknown
        spelt = ids_as(asked, known.dtype).filter(pl.Series(held))
        assert its.ids_at(found_I[held]).to_list() == spelt.to_list()
        assert of_users.ids_at(expected_I[held] - 1).to_list() == spelt.to_list()
        met["found"] += int(held.sum())
        met["not held"] += int((~held).sum())
        met["missing"] += asked.null_count()
        met["asked twice"] += len(asked) - asked.n_unique()
        met["shared bucket"] += int((np.diff(Buckets.of(known).start_B1) > 1).sum())
    assert_not_vacuous(met, above=50)


def test_random_ids_are_found_where_a_join_finds_them() -> None:
    check_random_ids()


def test_that_comparison_notices_one_place_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ids share a bucket, only the first is looked at."""
    whole = Buckets.candidates

    def only_first(self: Buckets, asked: pl.Series) -> tuple[np.ndarray, np.ndarray]:
        place_M, of_M = whole(self, asked)
        first_M = np.unique(of_M, return_index=True)[1]
        return place_M[first_M], of_M[first_M]

    monkeypatch.setattr(Buckets, "candidates", only_first)
    assert_caught(check_random_ids, 3)


@pytest.mark.parametrize("write", [lambda n: n, str], ids=["numbers", "text"])
def test_a_look_up_touches_few_ids_however_many_there_are(write, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    bucket_of = vocabulary._bucket_of
    monkeypatch.setattr(
        vocabulary,
        "_bucket_of",
        lambda ids, num_buckets: hashed.append(len(ids)) or bucket_of(ids, num_buckets),
    )
    for num_ids in (1_000, 100_000):
        its = Vocabulary.of_items(pl.Series([write(n) for n in range(num_ids)]))
        asked = pl.Series([write(n) for n in (5, 500, 999, num_ids + 1)])
        for _ in range(3):
            assert its.index_of(asked).tolist() == [6, 501, 1000, UNKNOWN_ITEM]
        assert hashed == [num_ids, 4, 4, 4], "made once, then only what is asked for is hashed"
        assert len(its._buckets.candidates(asked)[0]) <= 20, "and compared with a few"
        assert np.diff(its._buckets.start_B1).max() <= 12
        hashed.clear()


def test_a_vocabulary_grows_behind_what_it_has() -> None:
    its = Vocabulary.of_items(pl.Series(["b", "c"]))
    grown = its.with_more(pl.Series(["a"]))
    assert grown.index_of(pl.Series(["a", "b", "c"])).tolist() == [3, 1, 2] and len(grown) == 3
    assert its.index_of(pl.Series(["a"])).tolist() == [UNKNOWN_ITEM]


def test_an_id_that_stands_twice_is_no_vocabulary() -> None:
    with pytest.raises(AssertionError, match="twice"):
        Vocabulary.of_items(pl.Series(["a", "a"])).index_of(pl.Series(["a"]))
