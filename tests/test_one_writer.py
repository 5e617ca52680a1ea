"""Files are written whole: through `plait.files`, which hands out the path `aside`, or into a draft folder."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "plait"
WRITES = {
    "write_text", "savez", "save_file", "tofile", "write_parquet", "write_csv", "write_ipc", "write_ndjson",
    "sink_parquet", "sink_csv", "sink_ipc", "sink_ndjson", "copyfile", "copyfileobj", "copy2", "dump", "extractall",
}  # fmt: skip
ELSEWHERE = {  # function -> why it writes otherwise
    "data/storage/whole_folders.py:write_bytes": "into a draft of `whole_folder`, which takes its place whole",
    "data/storage/whole_folders.py:parquet_bytes": "into memory",
    "data/sources/downloading.py:download": "into a draft folder",
    "data/sources/downloading.py:unpack": "into a draft folder",
    "training/memory.py:forget_peak_memory": "tells the kernel something",
}


def writes_of(source: str) -> Iterator[tuple[str, str]]:
    """Calls that write past the one writer: the outermost function or class that they stand in, and the call."""
    for outer in ast.parse(source).body:
        for node in ast.walk(outer):
            if isinstance(node, ast.Call) and _writes(node) and "aside" not in ast.unparse(node):
                yield getattr(outer, "name", ""), ast.unparse(node)


def _writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    receiver = ast.unparse(call.func).rpartition(".")[0]
    modes = [
        word.value for word in call.args if isinstance(word, ast.Constant) and isinstance(word.value, str)
    ]
    opens = name == "open" and any(set(mode) & set("wax+") and len(mode) <= 3 for mode in modes)
    saves = name == "save" and receiver in ("np", "torch")
    return opens or saves or name in WRITES or (name == "write_bytes" and bool(receiver))


def test_nothing_writes_past_the_one_writer() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}:{function}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "files.py"
        for function, call in writes_of(path.read_text())
        if not call.startswith("np.savez(file, allow_pickle=False")
    }
    assert found == set(ELSEWHERE)


def test_a_write_past_it_is_seen() -> None:
    assert list(writes_of("def f(p): p.write_text('x')")) == [("f", "p.write_text('x')")]
    assert list(writes_of("def f(p):\n    with open(p, 'wb') as g: g.write(b'')")) == [("f", "open(p, 'wb')")]
    assert not list(writes_of("def f(p): write_whole(p, lambda aside: aside.write_text('x'))"))
