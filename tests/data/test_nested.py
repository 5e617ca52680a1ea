"""Events that lie within others: JSON, structs, lists, and text that holds several events a row."""

import json
from pathlib import Path

import polars as pl
import pytest

from plait.cli import main
from plait.data import Explode, TextFormat, prepare
from plait.data.logs.tables import open_tables
from plait.schema import Categorical, Feature, Regression

CLICKS = Categorical(("click", "buy"))
SESSIONS = [
    {
        "user": "u1",
        "ts": 1_600_000_001_000,
        "views": [{"aid": 7, "type": "click"}, {"aid": 9, "type": "buy"}],
    },
    {"user": "u2", "ts": 1_600_000_002_000, "views": [{"aid": 7, "type": "click"}]},
    {"user": "u2", "ts": 1_600_000_003_000, "views": []},
    {"user": "u1", "ts": 1_600_000_004_000, "views": [{"aid": 8, "type": "click"}]},
    {"user": "u2", "ts": 1_600_000_005_000, "views": [{"aid": 7, "type": None}, {"aid": 9, "type": "buy"}]},
]
EVENTS = [
    ("u1", "7", "click"),
    ("u1", "9", "buy"),
    ("u2", "7", "click"),
    ("u1", "8", "click"),
    ("u2", "7", None),
    ("u2", "9", "buy"),
]


def lines_of(sessions: list[dict]) -> str:
    return "".join(json.dumps(session) + "\n" for session in sessions)


def frame_of(tmp_path: Path) -> pl.DataFrame:
    return pl.DataFrame(SESSIONS)


def parquet_of(tmp_path: Path) -> Path:
    pl.DataFrame(SESSIONS).write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def json_lines_of(tmp_path: Path) -> Path:
    (tmp_path / "log.jsonl").write_text("\n" + lines_of(SESSIONS) + "\n")
    return tmp_path / "log.jsonl"


def json_array_of(tmp_path: Path) -> Path:
    (tmp_path / "log.json").write_text(json.dumps(SESSIONS, indent=1))
    return tmp_path / "log.json"


@pytest.mark.parametrize("source", [frame_of, parquet_of, json_lines_of, json_array_of])
@pytest.mark.parametrize("prefix", ["", "views."])
def test_fields_of_lists_become_events(source, prefix: str, tmp_path: Path) -> None:
    item, kind = f"{prefix}aid", f"{prefix}type"
    (table,) = open_tables(source(tmp_path), wanted=["user", item, "ts", kind], item=item)
    frame = table.lazy([item]).select("user", pl.col(item).cast(pl.String), kind).collect()
    assert frame.rows() == EVENTS
    data = prepare(
        source(tmp_path),
        user="user",
        item=item,
        time="ts",
        time_unit="ms",
        actions={kind: CLICKS},
        out=tmp_path / "out",
        min_user_events=1,
        min_item_events=1,
    )
    assert (data.manifest.counts.rows_read, data.num_users, data.num_items) == (6, 2, 3)
    assert data.manifest.counts.missing == {kind: 1}


def test_the_command_line_says_what_it_made_of_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ["--user", "user", "--item", "aid", "--time", "ts", "--time-unit", "ms"]
    columns += ["--action", "type:categorical:click,buy", "--min-user-events", "1", "--min-item-events", "1"]
    assert (
        main(["data", "prepare", str(json_lines_of(tmp_path)), *columns, "--out", str(tmp_path / "out")]) == 0
    )
    assert "log.jsonl: JSON lines, a row for each part of views\n" in capsys.readouterr().out


def test_types_of_json_are_those_of_all_its_rows(tmp_path: Path) -> None:
    rows = [{"user": 1, "item": 5}] * 500 + [{"user": "x", "item": 5, "late": 1}]
    (tmp_path / "log.jsonl").write_text(lines_of(rows))
    (table,) = open_tables(tmp_path / "log.jsonl")
    assert not table.has_types and table.rows == 501
    frame = table.lazy(["item"]).collect()
    assert frame["user"].to_list() == ["1"] * 500 + ["x"] and frame["late"][-1] == 1
    assert frame["item"].dtype == pl.String and set(frame["item"]) == {"5"}


def test_structs_become_columns(tmp_path: Path) -> None:
    rows = [{"who": {"id": n % 3, "plan": "free"}, "item": n % 2, "t": n} for n in range(20)]
    data = prepare(
        pl.DataFrame(rows),
        user="who.id",
        item="item",
        time="t",
        actions={},
        out=tmp_path / "out",
        context=[Feature.parse("plan:category")],
        min_user_events=1,
        min_item_events=1,
    )
    assert data.num_users == 3 and data.context[0].kind.values == ("free",)


def test_lists_side_by_side_are_as_long_as_each_other(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "t": [1, 2], "items": [["a", "b"], ["c"]], "stars": [[1, 2], [3]]})
    options = {"user": "user", "item": "items", "time": "t", "min_user_events": 1, "min_item_events": 1}
    (table,) = open_tables(frame, wanted=["user", "items", "t", "stars"], item="items")
    assert table.lazy().collect().rows() == [(1, 1, "a", 1), (1, 1, "b", 2), (2, 2, "c", 3)]
    uneven = frame.with_columns(stars=pl.Series([[1, 2], [3, 4]]))
    with pytest.raises(
        ValueError, match="row 2: the lists items, stars hold 1, 2 parts; expected equally many"
    ):
        prepare(uneven, actions={"stars": Regression(1, 5)}, out=tmp_path / "out", **options)


def test_a_list_beside_a_single_item_is_no_event(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "t": [1, 2], "item": ["a", "b"], "stars": [[1, 2], [3]]})
    with pytest.raises(ValueError, match="'stars' holds List"):
        prepare(
            frame,
            user="user",
            item="item",
            time="t",
            actions={"stars": Regression(1, 5)},
            out=tmp_path / "out",
        )


def test_a_field_that_several_have_is_not_guessed(tmp_path: Path) -> None:
    rows = [{"user": 1, "t": 1, "views": [{"aid": 1}], "carts": [{"aid": 2}]}]
    with pytest.raises(ValueError, match=r"several fields 'aid': views\.aid, carts\.aid; name one of these"):
        open_tables(pl.DataFrame(rows), wanted=["aid"], item="aid")


IMPRESSIONS = "user\ttime\timpressions\nu1\t100\tN-1-0 N2-1\nu2\t200\t\nu2\t300\tN2-0\nu1\t400\tN3\n"


def test_impressions_in_text(tmp_path: Path) -> None:
    (tmp_path / "behaviours.tsv").write_text(IMPRESSIONS)
    options = TextFormat(explode=(Explode("impressions", " ", "-", ("news", "clicked")),))
    wanted = ["user", "time", "news", "clicked"]
    (table,) = open_tables(tmp_path / "behaviours.tsv", options, wanted=wanted, item="news")
    rows = table.lazy(["news"]).select(wanted).collect().rows()
    assert rows == [
        ("u1", 100, "N-1", "0"),
        ("u1", 100, "N2", "1"),
        ("u2", 300, "N2", "0"),
        ("u1", 400, "N3", None),
    ]
    with pytest.raises(ValueError, match="explode names the column 'shown', which is not there"):
        open_tables(
            tmp_path / "behaviours.tsv",
            TextFormat(explode=(Explode("shown", " "),)),
            wanted=wanted,
            item="news",
        )


def test_sessions_in_text(tmp_path: Path) -> None:
    (tmp_path / "sessions.csv").write_text("user,time,items\nu1,100,7\nu2,200,7 9\n")
    options = TextFormat(explode=(Explode("items", "space"),))
    (table,) = open_tables(tmp_path / "sessions.csv", options, wanted=["user", "items", "time"], item="items")
    assert table.lazy(["items"]).collect()["items"].to_list() == ["7", "7", "9"]
    assert table.read_as.endswith("a row for each part of items")


@pytest.mark.parametrize("text", ["impressions", "a:b:c", ":x", "a:", "a: :-:one", "a: :-:one,"])
def test_an_explode_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"explode|Explode|separator"):
        Explode.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"user": 1}\n{"user": 2', "cannot be read: "),
        ('[{"user": 1}, {"user"', "cannot be read: .*cut off"),
        ('[{"user": 1}, 7]', r"element 2 of the array is 7; expected an object"),
    ],
)
def test_damaged_json_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(ValueError, match=rf"log\.json.*{message}|{message}"):
        for table in open_tables(tmp_path / "log.json"):
            prepare(
                tmp_path / "log.json",
                user="user",
                item="user",
                time="t",
                actions={},
                out=tmp_path / table.name,
            )


def test_feature_tables_keep_their_lists(tmp_path: Path) -> None:
    rows = [{"item": n, "tags": ["a", "b"][: n + 1], "vector": [1.0, float(n)]} for n in range(2)]
    (tmp_path / "items.jsonl").write_text(lines_of(rows))
    log = pl.DataFrame({"user": [1, 1, 1, 1], "item": [0, 1, 0, 1], "time": [1, 2, 3, 4]})
    data = prepare(
        log,
        user="user",
        item="item",
        time="time",
        actions={},
        out=tmp_path / "out",
        items=tmp_path / "items.jsonl",
        min_user_events=1,
        min_item_events=1,
        item_features=[Feature.parse("tags:categories"), Feature.parse("vector:vector")],
    )
    assert data.item_features.vector_NW.shape == (3, 2) and data.item_features.features[0].kind.values == (
        "a",
        "b",
    )
