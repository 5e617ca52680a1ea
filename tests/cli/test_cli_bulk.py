"""Answers in bulk: equal to those given one by one, and not lost to a kill."""

import io
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from tiny import assert_caught
from words import Capture, complaint, heard_of, plait, said_by, told_by

from plait.cli import bulk, parted, user_state
from plait.cli import recommend as recommend_verb
from plait.data import Dataset
from plait.recommender import Recommender

USERS, PAIRS = 6, 7  # to a part


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "USERS_PER_PART", USERS)
    monkeypatch.setattr(bulk, "PAIRS_PER_PART", PAIRS)


@pytest.fixture(scope="module")
def model(run: Path) -> Recommender:
    return Recommender.from_pretrained(run / "model")


def alone(model: Recommender, dataset: Dataset, user: str) -> object:
    return user_state.state_as_logged(model, dataset, np.array([dataset.user_index(user)]))


def assert_close(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    """Equal but for the rounding of products of another shape."""
    assert found.columns == expected.columns
    for column in found:
        if column.dtype.is_float():
            np.testing.assert_allclose(
                column.to_numpy(), expected[column.name].to_numpy(), rtol=1e-4, atol=1e-5
            )
        else:
            assert column.to_list() == expected[column.name].to_list(), column.name


def check_lists(run: Path, model: Recommender, dataset: Dataset, out: Path) -> None:
    assert plait("recommend", run, "--users", "all", "-k", 3, "--out", out) == 0
    users = dataset.user_ids().to_list()
    expected = [model.retrieve(alone(model, dataset, user), 3) for user in users]  # type: ignore[arg-type]
    assert len(users) > 3 * USERS
    assert_close(pl.read_parquet(out), pl.concat(expected))


def test_lists_of_all_users_are_those_of_each(
    run: Path, model: Recommender, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_lists(run, model, dataset, tmp_path / "recs.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["recs.parquet"]
    right = user_state.state_as_logged
    monkeypatch.setattr(bulk, "state_as_logged", lambda model, data, user_U: right(model, data, user_U[::-1]))
    assert_caught(check_lists, run, model, dataset, tmp_path / "mutant.parquet")


def test_the_users_of_a_file_keep_its_order(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "users.csv").write_text("user,name\nu09,x\nu03,y\nu09,z\nu11,z\n")
    words = ("recommend", run, "--users", tmp_path / "users.csv", "-k", 2, "--out", tmp_path / "recs.parquet")
    said, told = heard_of(capsys, *words)
    assert said == f"{tmp_path}/recs.parquet: 6 rows; 3 users, 0 users with fewer items left\n"
    assert "1 rows name a user again" in told and "read are user, and not name" in told
    assert pl.read_parquet(tmp_path / "recs.parquet")["user"].to_list() == [
        user for user in ("u09", "u03", "u11") for _ in range(2)
    ]
    told = json.loads(said_by(capsys, *words, "--json"))
    assert told["rows"] == 6 and told["users"] == 3


def test_who_has_fewer_items_left_gets_those(
    run: Path, model: Recommender, dataset: Dataset, tmp_path: Path, capsys: Capture
) -> None:
    items = dataset.item_ids()
    seen = {
        user: len(np.unique(dataset.history(dataset.user_index(user)).item_E)) for user in dataset.user_ids()
    }
    k = len(items) - max(seen.values()) + 1
    said = said_by(capsys, "recommend", run, "--users", "all", "-k", k, "--out", tmp_path / "r.parquet")
    found = dict(pl.read_parquet(tmp_path / "r.parquet").group_by("user").len().iter_rows())
    assert found == {user: min(k, len(items) - count) for user, count in seen.items()}
    short = sum(count > len(items) - k for count in seen.values())
    assert short and f"{short} users with fewer items left" in said
    none = complaint(capsys, 2, "recommend", run, "--users", "all", "-k", 99, "--out", tmp_path / "n.parquet")
    assert f"-k 99: expected 1 to {len(items)}, the items of the catalogue" in none
    met = items.gather(np.unique(dataset.history(dataset.user_index("u03")).item_E) - 1)
    met.to_frame("item").write_csv(tmp_path / "met.csv")
    words = ("recommend", run, "--users", "all", "-k", 1, "--allow", tmp_path / "met.csv")
    said_by(capsys, *words, "--out", tmp_path / "left.parquet")
    found = pl.read_parquet(tmp_path / "left.parquet")
    assert "u03" not in found["user"].to_list() and found["item"].is_in(met.to_list()).all()
    pl.DataFrame({"user": ["u03"]}).write_csv(tmp_path / "one.csv")
    words = ("recommend", run, "--users", tmp_path / "one.csv", "-k", 1, "--allow", tmp_path / "met.csv")
    assert ": 0 rows; 1 users, 1 users with fewer" in said_by(capsys, *words, "--out", tmp_path / "0.parquet")


class Killed(Exception):
    """Stands for a kill."""


def test_what_was_killed_goes_on(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("recommend", run, "--users", "all", "--out")
    assert plait(*asked, tmp_path / "whole.parquet", "-k", 3) == 0
    right, computed = bulk.BulkLists.part, []

    def part(self: bulk.BulkLists, number: int) -> pl.DataFrame:
        computed.append(number)
        if computed.count(2) == 1 and number == 2:
            raise Killed
        return right(self, number)

    monkeypatch.setattr(bulk.BulkLists, "part", part)
    with pytest.raises(Killed):
        plait(*asked, tmp_path / "killed.parquet", "-k", 3)
    assert not (tmp_path / "killed.parquet").exists()
    other = complaint(capsys, 2, *asked, tmp_path / "killed.parquet", "-k", 4)
    assert "holds the beginning of" in other and "k: found 3, asked 4" in other
    assert "goes on after 2 of 4 parts" in told_by(capsys, *asked, tmp_path / "killed.parquet", "-k", 3)
    assert computed == [0, 1, 2, 2, 3]
    whole, killed = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("whole", "killed"))
    assert killed.equals(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.parquet", "killed.parquet"}


def test_a_table_that_is_there_stays(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "recs.parquet"
    words = ("recommend", run, "--users", "all", "--out", out)
    assert plait(*words, "-k", 3) == 0
    before = out.read_bytes()
    monkeypatch.delattr(bulk.BulkLists, "_of")
    monkeypatch.setattr(bulk.BulkLists, "check", lambda self: None)
    assert "holds this answer already; nothing is computed" in told_by(capsys, *words, "-k", 3)
    said = complaint(capsys, 2, *words, "-k", 4, "--no-filter-seen")
    assert f"{out} holds an answer to another question:" in said
    assert "  k: found 3, asked 4\n  filter_seen: found True, asked False\n" in said
    assert out.read_bytes() == before
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    for name, why in (("other", "is no answer of Plait's"), ("text", "is no Parquet file")):
        assert why in complaint(capsys, 2, *words[:-1], tmp_path / f"{name}.parquet")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    out, table = tmp_path / "out.parquet", pl.DataFrame({"a": [1]})

    def answer(number: int) -> pl.DataFrame:
        with pytest.raises(ValueError, match="another process writes it just now"):
            parted.write_in_parts(out, {}, 1, lambda number: table, print, lambda done: None)
        return table

    assert parted.write_in_parts(out, {}, 2, answer, print, lambda done: None) == 2


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Twenty pairs, users and items in no order, some twice; and a part of unknown items only."""
    rng = np.random.default_rng(3)
    users = [f"u{user:02d}" for user in rng.integers(0, 23, 20)]
    items = [f"i{item:02d}" for item in rng.integers(0, 20, 20)]
    items[PAIRS : 2 * PAIRS] = ["new"] * PAIRS
    users[:3], items[:3] = ["u03", "u05", "u03"], ["i05", "i05", "i05"]
    pl.DataFrame({"user": users, "item": items}).write_csv(tmp_path / "pairs.csv")
    return tmp_path / "pairs.csv"


def check_pairs(run: Path, model: Recommender, dataset: Dataset, pairs: Path, out: Path) -> None:
    words = ("score", run, "--pairs", pairs, "--value", "rating * liked", "--out", out)
    assert plait(*words) == 0
    found, asked = pl.read_parquet(out), pl.read_csv(pairs)
    assert found.columns == ["user", "item", "status", "rating", "liked", "value"]
    assert found.select("user", "item").rows() == asked.rows()
    for user, item, status, *answer in found.iter_rows():
        if item not in model.items.to_list():
            assert (status, answer) == ("unknown item", [None] * 3)
            continue
        expected = model.score(alone(model, dataset, user), [item], value="rating * liked")  # type: ignore[arg-type]
        np.testing.assert_allclose(answer, expected.row(0)[2:], rtol=1e-4)
        assert status == "ok"


def test_scores_of_pairs_are_those_of_each(
    run: Path,
    model: Recommender,
    dataset: Dataset,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_pairs(run, model, dataset, pairs, tmp_path / "out.parquet")
    status = pl.read_parquet(tmp_path / "out.parquet")["status"]
    assert 5 < (status == "ok").sum() < len(status) - PAIRS + 1
    right = user_state.state_as_logged
    monkeypatch.setattr(bulk, "state_as_logged", lambda model, data, user_U: right(model, data, 22 - user_U))
    assert_caught(check_pairs, run, model, dataset, pairs, tmp_path / "mutant.parquet")


def test_lists_are_pairs(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """Their columns are called user and item, whatever the log says."""
    recs, scores = tmp_path / "recs.parquet", tmp_path / "scores.parquet"
    assert plait("recommend", run, "--users", "all", "-k", 2, "--out", recs) == 0
    said = said_by(capsys, "score", run, "--pairs", recs, "--out", scores)
    assert said == f"{scores}: 46 rows; 0 pairs of unknown items\n"


@pytest.mark.parametrize(
    ("verb", "content", "message"),
    [
        ("recommend", "user\nu03\nann\nbob\nann\n", "2 of 3 users are not in tiny: 'ann', 'bob'. Leave them out"),
        ("recommend", "usr\nu03\n", "has no column 'user', did you mean 'usr'?"),
        ("recommend", "", "is empty"),
        ("recommend", "user\n", "has no rows"),
        ("recommend", "user,n\n,1\nu03,2\n", "user is missing in row 1"),
        ("score", "user,item\nann,i05\n", "1 of 1 users are not in tiny: 'ann'"),
        ("score", "user\nu03\n", "has no column 'item'"),
        ("score", "user,item\nu03,film\n", "none of the 1 pairs has an item among the model's 17"),
        ("score", "user,item\nu03,\n", "item is missing in row 1"),
    ],
)  # fmt: skip
def test_a_question_that_is_none_is_refused(
    verb: str, content: str, message: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "asked.csv").write_text(content)
    words = {"recommend": ("--users", tmp_path / "asked.csv"), "score": ("--pairs", tmp_path / "asked.csv")}
    assert message in complaint(capsys, 2, verb, run, *words[verb], "--out", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["asked.csv"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recommend",), "give --user for one list"),
        (("recommend", "--user", "u03", "--out", "{out}.parquet"), "give --user for one list"),
        (("recommend", "--users", "all"), "and --out for a table of many"),
        (("recommend", "--user", "u03", "--users", "all", "--out", "{out}.parquet"), "give --user for one list"),
        (("recommend", "--users", "all", "--out", "{out}.csv"), "expected a name that ends in .parquet"),
        (("recommend", "--users", "all", "--out", "."), "is a folder; name a file"),
        (("recommend", "--users", "all", "--titles", "t.csv", "--out", "{out}.parquet"), "beside the list of one"),
        (("recommend", "--users", "all", "-k", "0", "--out", "{out}.parquet"), "-k 0: expected 1 to 17"),
        (("recommend", "--users", "nowhere.csv", "--out", "{out}.parquet"), "nowhere.csv"),
        (("score", "--user", "u03"), "give --user and --items for one answer"),
        (("score", "--pairs", "p.csv"), "name the table that is written"),
        (("score", "--pairs", "p.csv", "--user", "u03", "--out", "{out}.parquet"), "and no user or items"),
        (("score", "--user", "u03", "--items", "i05", "--value", "likd"), "no number is called 'likd'; did you mean"),
        (("score", "--user", "u03", "--items", "i05", "--item-numbers", "t.csv"), "give --value, or leave them out"),
    ],
)  # fmt: skip
def test_words_that_ask_nothing(
    words: tuple[str, ...], message: str, run: Path, tmp_path: Path, capsys: Capture
) -> None:
    verb, *rest = (word.format(out=tmp_path / "out") for word in words)
    assert message in complaint(capsys, 2, verb, run, *rest)
    assert not list(tmp_path.iterdir())


def test_filters_of_one_list(run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "some.csv").write_text("item\ni05\ni02\nnew\ni09\n")
    words = ("recommend", run, "--user", "u03", "--no-filter-seen", "--json")
    said, told = heard_of(capsys, *words, "-k", 3, "--allow", tmp_path / "some.csv")
    assert {row["item"] for row in json.loads(said)} == {"i05", "i02", "i09"}
    assert "1 of 4 items are not among the model's 17, such as 'new'; they are never recommended" in told
    said = said_by(capsys, *words, "-k", 14, "--deny", tmp_path / "some.csv")
    assert len({row["item"] for row in json.loads(said)} - {"i05", "i02", "i09"}) == 14
    both = ("--allow", tmp_path / "some.csv", "--deny", tmp_path / "some.csv")
    assert "the filters keep none of the 17 items" in complaint(capsys, 2, *words, "-k", 1, *both)


def test_items_like_one_are_the_models(
    run: Path, model: Recommender, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "titles.csv").write_text(
        "item,title\n" + "".join(f"{item},The {item}\n" for item in model.items)
    )
    words = ("similar", run, "--item", "i05", "-k", 4)
    rows = json.loads(said_by(capsys, *words, "--titles", tmp_path / "titles.csv", "--json"))
    expected = model.similar(["i05"], 4)
    assert [(row["item"], row["rank"]) for row in rows] == expected.select("similar", "rank").rows()
    assert [row["title"] for row in rows] == [f"The {row['item']}" for row in rows]
    assert "-k 17: expected 1 to 16" in complaint(capsys, 2, *words[:-1], 17)
    assert "such as 'i99'" in complaint(capsys, 2, "similar", run, "--item", "i99")


def test_a_terminal_shows_how_many_parts_are_there(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(recommend_verb, "progress_console", lambda: terminal)
    assert plait("recommend", run, "--users", "all", "-k", 2, "--out", tmp_path / "out.parquet") == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.file.getvalue())  # type: ignore[attr-defined]
    assert "4 of 4 parts" in shown
