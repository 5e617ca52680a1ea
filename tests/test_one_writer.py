"""Files are written whole: where `plait.files` hands out a path beside the file, or within a draft folder.

A path is handed out by `write_whole` and `write_listed`, to the function that they are given, and by `whole_folder` and
`draft_folder`, to the block under `with`. What a function of `WRITERS` is told to write must be handed out to its
caller, and so on up.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from tiny import assert_caught, assert_not_vacuous

PACKAGE = Path(__file__).parent.parent / "plait"
FILES = {"write_whole", "write_listed"}  # call their second argument with a path
FOLDERS = {"whole_folder", "draft_folder"}
WRITERS = {  # write where their first argument says
    "write_bytes", "write_array", "write_arrays", "write_table", "write_prepared", "_write_events",
}  # fmt: skip
WRITES = {  # others' functions, by where they take the path: a method's object, or an argument
    "write_text": None, "write_bytes": None, "tofile": 0, "savez": 0, "save_file": 1, "dump": 1,
    "write_parquet": 0, "write_csv": 0, "write_ipc": 0, "write_ndjson": 0, "to_parquet": 0, "to_csv": 0,
    "sink_parquet": 0, "sink_csv": 0, "sink_ipc": 0, "sink_ndjson": 0, "extractall": 0,
    "copyfile": 1, "copyfileobj": 1, "copy": 1, "copy2": 1, "copytree": 1, "move": 1,
}  # fmt: skip
ELSEWHERE = {  # function -> why it writes otherwise
    "data/storage/whole_folders.py:parquet_bytes": "into memory",
    "data/sources/downloading.py:download": "into a draft folder: others' files, not ours",
    "data/sources/downloading.py:unpack": "into a draft folder: others' files, not ours",
    "exporting/writing.py:write_programs": "into a draft folder, which is sealed whole",
    "training/memory.py:forget_peak_memory": "tells the kernel something",
}


@dataclass
class Scope:
    """What is known at a place of the source."""

    handed: set[str]  # names of paths that are handed out
    passed: set[str]  # names of functions that `write_whole` or `write_listed` call


@dataclass
class Found:
    past: list[tuple[str, str]] = field(default_factory=list)  # outermost function or class, and the call
    well: int = 0  # calls that write where they may


@cache  # a mutant is one file among hundreds that are as they were
def writes_of(source: str) -> Found:
    """Calls that write past the one writer, and how many do not."""
    found, tree = Found(), ast.parse(source)
    passed = {
        call.args[1].id
        for call in _calls(tree)
        if _name(call) in FILES and len(call.args) > 1 and isinstance(call.args[1], ast.Name)
    }
    for outer in tree.body:
        _visit(outer, Scope(set(), passed), getattr(outer, "name", ""), found)
    return found


def _visit(node: ast.AST, scope: Scope, outer: str, found: Found, is_passed: bool = False) -> None:
    match node:
        case ast.FunctionDef(name=name, args=arguments):
            scope = _within(arguments, scope, name in scope.passed or name in WRITERS)
        case ast.Lambda(args=arguments):
            scope = _within(arguments, scope, is_passed)
        case ast.With(items=items):
            scope = Scope(set(scope.handed), scope.passed)
            for item in items:
                _bind(item.optional_vars, _gives_path(item.context_expr, scope), scope)
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                _bind(target, _is_handed(value, scope), scope)
        case ast.Call() if _is_write(node):
            if _is_handed(_target(node), scope):
                found.well += 1
            else:
                found.past.append((outer, ast.unparse(node)))
    for child in ast.iter_child_nodes(node):
        handed_on = isinstance(node, ast.Call) and _name(node) in FILES and child in node.args[1:2]
        _visit(child, scope, outer, found, is_passed=handed_on)


def _within(arguments: ast.arguments, scope: Scope, is_called_with_path: bool) -> Scope:
    names = [argument.arg for argument in arguments.args]
    handed = scope.handed - set(names)
    return Scope(handed | set(names[:1] if is_called_with_path else []), scope.passed)


def _bind(target: ast.AST | None, is_handed: bool, scope: Scope) -> None:
    if isinstance(target, ast.Name):
        (scope.handed.add if is_handed else scope.handed.discard)(target.id)


def _gives_path(context: ast.expr, scope: Scope) -> bool:
    """A draft folder, or the file that is opened for writing in one."""
    if not isinstance(context, ast.Call):
        return False
    return _name(context) in FOLDERS or (_is_write(context) and _is_handed(_target(context), scope))


def _is_handed(path: ast.AST | None, scope: Scope) -> bool:
    match path:
        case ast.Name(id=name):
            return name in scope.handed
        case ast.BinOp(left=left, op=ast.Div()):
            return _is_handed(left, scope)
    return False


def _is_write(call: ast.Call) -> bool:
    name = _name(call)
    if name == "open":
        words = [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
        modes = [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]
        return any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)
    if name in ("save", "copy", "move"):  # other things are called so, too
        return ast.unparse(call.func).rpartition(".")[0] in ("np", "torch", "shutil")
    return name in WRITES or name in WRITERS


def _target(call: ast.Call) -> ast.expr | None:
    """The expression of the path, or of the open file, that a call writes to."""
    name, is_method = _name(call), isinstance(call.func, ast.Attribute)
    place: int | None = 0
    if name == "open":
        place = 0 if not is_method else None
    elif name == "save":
        place = 1 if ast.unparse(call.func) == "torch.save" else 0
    elif name in WRITES and (is_method or name not in WRITERS):
        place = WRITES[name]
    if place is None:
        assert isinstance(call.func, ast.Attribute)
        return call.func.value
    return call.args[place] if place < len(call.args) else None


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def sources() -> dict[str, str]:
    paths = sorted(PACKAGE.rglob("*.py"))
    return {
        str(path.relative_to(PACKAGE)): path.read_text() for path in paths if path != PACKAGE / "files.py"
    }


def check_all_is_written_by_the_one_writer(files: dict[str, str]) -> None:
    met: Counter[str] = Counter()
    past: set[str] = set()
    for name, source in files.items():
        found = writes_of(source)
        past |= {f"{name}:{function}" for function, _ in found.past}
        met["well"] += found.well
    assert past == set(ELSEWHERE)
    assert_not_vacuous(met, above=15)


def test_every_file_is_written_by_the_one_writer() -> None:
    check_all_is_written_by_the_one_writer(sources())


MUTANTS = {  # file -> what it says, and what it must not
    "data/preparation/pipeline.py": ("write_prepared(aside,", "write_prepared(folder,"),
    "data/preparation/prepared_folder.py": ("write_bytes(folder / MANIFEST", "write_bytes(Path() / MANIFEST"),
    "data/simulator/simulating.py": ("with whole_folder(out) as folder:", "with suppress(out) as folder:"),
    "models/saving.py": (
        "files.write_listed(folder / WEIGHTS, write_weights)",
        "write_weights(folder / WEIGHTS)",
    ),
    "training/checkpoint.py": ("torch.save(state, aside)", "torch.save(state, path)"),
    "training/run.py": ("write_whole(path, lambda aside: aside.", "apply(path, lambda aside: aside."),
    "evaluation/run_files.py": ('open(aside, "wb")', 'open(path, "wb")'),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_file_of_ours_that_is_written_past_it_is_caught(name: str) -> None:
    files, (right, wrong) = sources(), MUTANTS[name]
    assert files[name].count(right) >= 1
    assert_caught(check_all_is_written_by_the_one_writer, files | {name: files[name].replace(right, wrong)})


PAST: Iterable[str] = (
    "def f(p): p.write_text('x')",
    "def f(aside): aside.write_text('x')",
    "def f(p): p.write_text('aside')",
    "def f(p):\n    with open(p, 'wb') as g: np.savez(g)",
    "def f(p):\n    with p.open(mode='w') as g: pass",
    "def f(p): write_whole(p, lambda aside: p.write_text('x'))",
    "def f(p):\n    with whole_folder(p) as aside: (p / 'x').write_bytes(b'')",
    "def f(p):\n    with whole_folder(p) as aside: write_table(p / 'x', t)",
    "def f(p):\n    with whole_folder(p) as aside:\n        aside = p\n        write_bytes(aside / 'x', b'')",
)
WELL: Iterable[str] = (
    "def f(p): write_whole(p, lambda aside: aside.write_text('x'))",
    "def f(p):\n    def g(a):\n        with open(a, 'wb') as h: np.savez(h)\n    files.write_listed(p, g)",
    "def f(p):\n    with whole_folder(p) as d: write_bytes(d / 'a' / 'x', b'')",
    "def f(p): return open(p)",
)


def test_writes_past_it_are_told_from_others() -> None:
    assert [len(writes_of(source).past) > 0 for source in PAST] == [True for _ in PAST]
    assert not [source for source in WELL if writes_of(source).past]
