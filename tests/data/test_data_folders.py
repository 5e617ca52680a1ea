import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import polars as pl
import pytest

from plait.data import Dataset, prepare
from plait.data.preparation import pipeline, prepared_folder
from plait.data.storage.locks import in_turn
from plait.schema import Regression

OPTIONS = {"user": "user", "item": "item", "time": "time", "actions": {"rating": Regression(1, 5)}}


def log(rows=40):
    row = np.arange(rows)
    return pl.DataFrame({"user": row % 4, "item": row % 5, "time": 10**9 + row, "rating": 1.0 + row % 5})


@pytest.fixture
def folder(tmp_path):
    return prepare(log(), out=tmp_path / "out", **OPTIONS).folder


@pytest.mark.parametrize("name", ["item.npy", "action.npy", "items.parquet", "start.npy"])
def test_a_folder_that_is_not_whole_names_the_file(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{name} has .* bytes instead of .*prepare the log again"):
        Dataset.open(folder)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Dataset.open(folder)


@pytest.mark.parametrize("rejected", [False, True])
def test_what_changed_in_any_file_is_noticed(tmp_path, rejected):
    table = log().with_columns(rating=pl.Series([9.0 if rejected else 1.0, *log()["rating"][1:]]))
    data = prepare(table, out=tmp_path / "out", on_bad_row="reject", **OPTIONS)
    data.check_content()
    files = [name for name in data.manifest.files if name != "rejects.parquet"]
    assert len(files) == len(data.manifest.files) - rejected and len(files) > 6
    for name in files:
        path = data.folder / name
        whole = path.read_bytes()
        if name.endswith(".npy"):
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        else:
            pl.read_parquet(path).reverse().write_parquet(path)
        with pytest.raises(ValueError, match=rf"{path} is damaged .*prepare the log again"):
            data.check_content()
        path.write_bytes(whole)
        data.check_content()


def test_a_folder_of_another_format_says_which(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps({"format_version": 99, "unknown": 1}))
    with pytest.raises(ValueError, match="format version 99, this plait reads 1; prepare again"):
        Dataset.open(folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Dataset.open(folder)
    path.write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match="is damaged"):
        Dataset.open(folder)
    path.unlink()
    with pytest.raises(ValueError, match="not a prepared dataset"):
        Dataset.open(folder)


def test_events_are_mapped_not_loaded(folder):
    data = Dataset.open(folder)
    for array in (data._item_E, data._time_s_E, data._request_E, data._action_EA):
        assert isinstance(array.base, np.memmap) and not array.flags.writeable


def test_a_pickled_dataset_maps_the_folder_again(folder):
    data = Dataset.open(folder)
    pickled = pickle.dumps(data)
    copy = pickle.loads(pickled)
    assert len(pickled) < 1_000 and isinstance(copy._item_E.base, np.memmap)
    assert (copy.history(1).item_E == data.history(1).item_E).all()


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    before = prepare(log(), out=tmp_path / "out", **OPTIONS).manifest.content_hash

    def fail(path, *contents):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared_folder, "write_bytes", fail)
    with pytest.raises(
        OSError, match=r"No space left on device: writing .*out failed and nothing of it was kept"
    ):
        prepare(log(80), out=tmp_path / "out", overwrite=True, **OPTIONS)
    assert Dataset.open(tmp_path / "out").manifest.content_hash == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("parent", ["file", "file/deeper", "/proc"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, parent):
    (tmp_path / "file").touch()
    out = tmp_path / parent / "out"
    with pytest.raises(OSError, match=f": writing {out} failed and .* name another folder$"):
        prepare(log(), out=out, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing(tmp_path):
    """The real thing: the kernel refuses files beyond 1000 bytes."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: writing .*out failed and nothing of it was kept"):
            prepare(log(4_000), out=tmp_path / "out", **OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_second_preparation_into_one_folder_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "ingest", None)  # not called
    refused = pytest.raises(ValueError, match=f"{tmp_path}/out: another process prepares there just now")
    with in_turn(tmp_path / ".out.lock"), refused:
        prepare(log(), out=tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    assert prepare(log(), out=tmp_path / "out", **OPTIONS).manifest.counts.events == 40
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("ended", [False, True])
def test_a_second_preparation_that_comes_while_the_log_is_read_goes_first(ended, tmp_path, monkeypatch):
    """The place of the lock is not there yet when this one begins."""
    out = tmp_path / "deeper" / "out"
    other, right = ExitStack(), pipeline.ingest

    def come_first(*arguments):
        monkeypatch.undo()
        if ended:
            prepare(log(44), out=out, **OPTIONS)
        else:
            out.parent.mkdir()
            other.enter_context(in_turn(out.parent / ".out.lock"))
        return right(*arguments)

    monkeypatch.setattr(pipeline, "ingest", come_first)
    with pytest.raises(
        ValueError, match=f"{out}.*{'holds a prepared' if ended else 'another process prepares'}"
    ):
        prepare(log(), out=out, **OPTIONS)
    assert [path.name for path in out.parent.iterdir()] == ["out" if ended else ".out.lock"]
    other.close()
    assert not (out.parent / ".out.lock").exists()


def test_processes_that_want_one_cached_dataset_make_it_once(tmp_path, monkeypatch):
    """Threads stand for processes: each takes the lock anew."""
    monkeypatch.setenv("PLAIT_DATA", str(tmp_path))
    right, made = pipeline.ingest, []

    def counted(*arguments):
        made.append(None)
        return right(*arguments)

    monkeypatch.setattr(pipeline, "ingest", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: prepare(log(), **OPTIONS).folder, range(4)))
    assert len(made) == 1 and len(set(found)) == 1
    assert list(tmp_path.iterdir()) == found[:1]
