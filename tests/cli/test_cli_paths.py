"""Paths are never patterns: what stands in a folder called `run[1]` is read there, whatever neighbours it has."""

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny import random_log
from words import SMALL, Capture, plait, prepared_by, said_by, table_of, train

import plait as package
from plait.data import Dataset, prepare
from plait.data.simulator import World, oracle, simulate
from plait.data.sources import find_recipe
from plait.schema import Feature

ROOT = Path(package.__file__).parent
PATTERNS = {
    "run[1]": "run1",
    "run?": "runs",
    "run*": "runner",
    "lr=[0.1]": "lr=0",
}  # a name, and what it matches
GIVEN_BYTES = {
    ("nested_fields.py", "scan_ndjson"),
    ("nested_fields.py", "read_json"),
    ("amazon.py", "scan_ndjson"),
}


def globbing_calls(source: str, file: str) -> list[str]:
    """Calls of polars' readers that would take a path as a pattern, and uses of the module `glob`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            names = [alias.name for alias in node.names]
            readers = [name for name in names if module == "polars" and name.startswith(("read_", "scan_"))]
            found += readers + [name for name in [module, *names] if name == "glob"]
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, node.func.value
        is_polars = (
            isinstance(owner, ast.Name)
            and owner.id in ("pl", "polars")
            and name.startswith(("read_", "scan_"))
        )
        literal = any(
            keyword.arg == "glob" and isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            for keyword in node.keywords
        )
        if is_polars and not literal and (file, name) not in GIVEN_BYTES:
            found.append(name)
    return found


def test_no_reader_globs() -> None:
    calls = 0
    for path in sorted(ROOT.rglob("*.py")):
        source = path.read_text()
        assert not globbing_calls(source, path.name), f"{path}: give glob=False, or the bytes"
        calls += source.count("glob=False") + sum(
            f"pl.{name}" in source for file, name in GIVEN_BYTES if file == path.name
        )
    assert calls >= 8


@pytest.mark.parametrize(
    "mutant",
    [
        "import polars as pl\npl.read_parquet(path)",
        "import polars\npolars.scan_ipc(path, glob=True)",
        "pl.scan_csv(path, glob=not True)",
        "from polars import scan_csv",
        "import glob",
        "from glob import glob",
        "pl.scan_ndjson(path)",
    ],
)
def test_a_reader_that_globs_is_seen(mutant: str) -> None:
    assert globbing_calls(mutant, "tables.py")


WRITERS: dict[str, Callable[[pl.DataFrame, Path], object]] = {
    "csv": pl.DataFrame.write_csv,
    "jsonl": pl.DataFrame.write_ndjson,
    "parquet": pl.DataFrame.write_parquet,
    "arrow": pl.DataFrame.write_ipc,
}
FRAME = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2, 1, 2], "item": [1, 2, 3, 1, 3, 2, 1, 3], "time": range(8)})
OTHER = FRAME.with_columns(pl.col("item") + 500)
ALL = {
    "user": "user",
    "item": "item",
    "time": "time",
    "actions": {},
    "min_user_events": 1,
    "min_item_events": 1,
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(("name", "neighbour"), PATTERNS.items())
def test_logs_and_tables_are_read_where_they_are(
    suffix: str, name: str, neighbour: str, tmp_path: Path
) -> None:
    for folder, frame in ((neighbour, OTHER), (name, FRAME)):
        (tmp_path / folder).mkdir()
        for file in (f"{folder}.{suffix}", f"{neighbour}.{suffix}"):
            WRITERS[suffix](frame, tmp_path / folder / file)
    log = tmp_path / name / f"{name}.{suffix}"
    table = FRAME.unique("item").with_columns(kind=pl.col("item").cast(pl.String))
    items = tmp_path / name / f"items{name}.{suffix}"
    WRITERS[suffix](table, items)
    np.save(tmp_path / name / "v[1].npy", np.ones((3, 2)))
    np.save(tmp_path / name / "v1.npy", np.ones((9, 2)))
    features = [Feature.parse("kind:category"), Feature.parse(f"v:vector:{tmp_path / name}/v[1].npy")]
    options = ALL | {"items": items, "item_features": features}
    data = prepare(log, out=tmp_path / name / "data", **options)
    assert data.manifest.counts.rows_read == 8 and data.item_ids().cast(pl.String).to_list() == [
        "1",
        "2",
        "3",
    ]
    (tmp_path / "both[12]").mkdir()
    (tmp_path / "both[12]" / f"a.{suffix}").write_bytes(log.read_bytes())
    assert prepare(tmp_path / "both[12]", out=tmp_path / "out", **ALL).manifest.counts.rows_read == 8


def test_recipes_read_the_folder_that_is_named(tmp_path: Path) -> None:
    for folder, items in (("files1", 500), ("files[1]", 0)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ratings.dat").write_text("".join(f"1::{items + n}::3::{n}\n" for n in range(3)))
        review = '{{"reviewerID": "u", "asin": "{}", "overall": 3.0, "unixReviewTime": 1}}\n'
        (tmp_path / folder / "reviews_Beauty_5.json").write_text(review.format(items))
    read = find_recipe("ml-1m").read(tmp_path / "files[1]").collect()
    assert read["item_id"].to_list() == [0, 1, 2]
    assert find_recipe("amazon-2014-beauty").read(tmp_path / "files[1]").collect()["item_id"].to_list() == [
        "0"
    ]


@pytest.mark.parametrize(("name", "neighbour"), PATTERNS.items())
def test_a_model_is_opened_where_it_was_saved(name: str, neighbour: str, tmp_path: Path) -> None:
    protocol = package.Protocol(max_epochs=1, max_events=8, filter_seen=False)
    for folder, frame in ((neighbour, OTHER), (name, FRAME)):
        data = prepare(frame, out=tmp_path / "data" / folder, **ALL)
        model = package.fit(data, layout="item", protocol=protocol, report=lambda line: None)
        model.save_pretrained(tmp_path / folder)
    again = package.Recommender.from_pretrained(tmp_path / name)
    assert again.items.to_list() == [1, 2, 3]
    history = pl.LazyFrame({"item": [1], "time": [3]})
    assert set(again.retrieve(again.encode(history), k=2)["item"]) == {2, 3}


def test_a_world_is_opened_where_it_was_made(tmp_path: Path) -> None:
    for folder, seed in (("world1", 1), ("world[1]", 2)):
        simulate(World.toy(num_users=60, seed=seed), tmp_path / folder)
    data = Dataset.open(tmp_path / "world[1]")
    assert len(oracle(data, "test").item_Q)


@pytest.mark.parametrize("name", ["run[lr=0.1]", "what?*"])
def test_commands_work_to_the_end_and_read_back_what_they_wrote(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    base = tmp_path / name
    base.mkdir()
    other = tmp_path / name.replace("[lr=0.1]", "l").replace("*", "").replace("?", "t")
    assert prepared_by(random_log(seed=5), other, "--overwrite") == 0
    assert prepared_by(random_log(), base / "data[1]", suffix="csv") == 0
    assert prepared_by(random_log(seed=5), base / "data1") == 0
    assert plait(*train(base / "data[1]", base / name)) == 0
    rows = table_of(said_by(capsys, "recommend", base / name, "--user", "u03", "-k", 2))
    assert len(rows) == 2
    assert "hr@10" in said_by(capsys, "evaluate", base / name)
    layouts = ("--layouts", "item,lac", "--seeds", 1, "--out", base / "compared[12]")
    assert plait("compare", base / "data[1]", *layouts, *SMALL) == 0
    assert (base / "compared[12]" / "report.html").exists()
