"""The rooms of the package, and which way imports may point."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "plait"

EVERYWHERE = {
    "schema",
    "files",
    "limits",
    "wording",
    "lazy_names",
    "window_rule",
}  # datasets, runs and models are written, and numbers checked, by one rule
MODEL = {"layouts", "nn", "models", "engine"}
MAY_IMPORT = {
    "schema": {"limits"},
    "files": set(),
    "limits": {"wording"},
    "randomness": set(),
    "allocation": set(),
    "waiting_threads": set(),
    "notices": set(),
    "wording": set(),
    "lazy_names": set(),
    "window_rule": set(),
    "terminal": set(),
    "layouts": set(),
    "data": set(),
    "metrics": set(),
    "counts": set(),
    "baselines": {"counts", "data"},
    "nn": {"layouts", "allocation"},
    "models": {"counts", "layouts", "nn"},
    "engine": {"layouts", "nn", "models"},
    "answer_tables": {"data", "engine"},
    "conditions": {"data", "engine", "layouts"},
    "given": MODEL | {"data", "answer_tables", "conditions"},
    "recommender": MODEL | {"data", "answer_tables", "conditions", "given"},
    "exporting": MODEL | {"counts", "data", "recommender"},
    "evaluation": MODEL | {"data", "metrics", "randomness", "counts", "baselines"},
    "training": MODEL | {"counts", "data", "evaluation", "randomness", "allocation", "notices"},
    "lum": MODEL | {"conditions", "data", "evaluation", "recommender"},
    "fitting": MODEL | {"data", "evaluation", "training", "recommender", "notices"},
    "store": set(),
    "load": set(),
    "service": MODEL | {"allocation", "conditions", "data", "recommender", "store"},
    "counting_recommender": {
        "answer_tables",
        "baselines",
        "data",
        "engine",
        "evaluation",
        "given",
        "recommender",
    },
    "rankers": {
        "compare",
        "data",
        "evaluation",
        "fitting",
        "layouts",
        "models",
        "nn",
        "notices",
        "recommender",
        "training",
    },
    "compare": MODEL | {"data", "metrics", "evaluation", "training", "notices", "terminal"},
    "papers": MODEL
    | {
        "compare",
        "data",
        "evaluation",
        "lum",
        "metrics",
        "notices",
        "rankers",
        "recommender",
        "terminal",
        "training",
    },
}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(source: str) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "plait":
            parts = node.module.split(".")
            rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            rooms |= {name.name.split(".")[1] for name in node.names if name.name.startswith("plait.")}
    return rooms


def test_imports_point_one_way() -> None:
    checked = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room in ("__init__", "__main__", "cli"):
            continue
        extra = imported_rooms(path.read_text()) - MAY_IMPORT[room] - {room} - EVERYWHERE
        assert not extra, (
            f"{path} imports {sorted(extra)}; {room} may import {sorted(MAY_IMPORT[room]) or 'nothing'}"
        )
        checked += 1
    assert checked > 20


def test_a_wrong_import_is_seen() -> None:
    assert imported_rooms("from plait.training.loop import fit\nimport plait.data.dataset") == {
        "training",
        "data",
    }
    assert imported_rooms("def f():\n    from plait import engine") == {"engine"}


def test_the_page_of_the_architecture_says_so() -> None:
    page = (ROOT / "docs" / "concepts" / "architecture.md").read_text()
    table = page.partition("<!-- rooms:start -->")[2].partition("<!-- rooms:end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| ([\w, ]+) \|$", table, re.MULTILINE)
    assert dict(rows) == {room: ", ".join(sorted(may)) or "nothing" for room, may in MAY_IMPORT.items()}
    assert all(f"`{room}`" in page for room in EVERYWHERE)


def test_every_room_is_on_the_map() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__", "cli"}
    assert rooms == set(MAY_IMPORT)


def public_functions(source: str) -> set[str]:
    functions = (
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return {function.name for function in functions if not function.name.startswith("_")}


def said_twice(sources: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Names that several rooms give to functions of theirs, of (room, source)."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for room, source in sources:
        for name in public_functions(source):
            rooms[name].add(room)
    return {name: found for name, found in rooms.items() if len(found) > 1}


def is_verb(path: Path) -> bool:
    """A verb is called what the function is called that does it."""
    return room_of(path) == "cli" and path.stem in public_functions(path.read_text())


def test_a_function_s_name_is_of_one_room() -> None:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if not is_verb(path)]
    assert said_twice((room_of(path), path.read_text()) for path in paths) == {}
    assert sum(len(public_functions(path.read_text())) for path in paths) > 500


def test_a_name_of_two_rooms_is_seen() -> None:
    found = said_twice(
        [("nn", "def share(): ..."), ("data", "async def share(): ..."), ("data", "def _share(): ...")]
    )
    assert found == {"share": {"nn", "data"}}
