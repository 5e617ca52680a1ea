"""What a file holds is told by its content: compression, encoding, format; and which files of a folder are read."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from plait.data import TextFormat, prepare
from plait.data.logs.tables import open_tables

FRAME = pl.DataFrame({"user": [1, 1, 1, 2], "item": ["a", "b", "é", "a"], "time": [10, 20, 30, 40]})
CSV = FRAME.write_csv().encode()


def zipped(data: bytes, *more: str) -> bytes:
    path = Path("archive.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/log.csv", data)
        archive.writestr("__MACOSX/._log.csv", b"\0")
        for name in more:
            archive.writestr(name, data)
    return path.read_bytes()


def zstandard(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "two gz": lambda data: gzip.compress(data[:30]) + gzip.compress(data[30:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard,
    "zip": zipped,
    "gz of zip": lambda data: gzip.compress(zipped(data)),
}


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(path: Path, **options) -> pl.DataFrame:
    (table,) = open_tables(path, TextFormat(**options))
    frame = table.lazy(["item"]).collect()
    assert table.rows == frame.height
    return frame


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("name", ["log.csv", "log.dat", "log.parquet.snappy", "log.CSV", "log"])
def test_compression_is_seen_whatever_the_name(packer: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(PACKERS[packer](CSV))
    assert read(tmp_path / name).equals(FRAME)


@pytest.mark.parametrize("packer", ["plain", "gz", "zip"])
@pytest.mark.parametrize(
    "write", [pl.DataFrame.write_parquet, pl.DataFrame.write_ipc, pl.DataFrame.write_ndjson]
)
def test_formats_are_seen_whatever_the_name(write: Callable, packer: str, tmp_path: Path) -> None:
    write(FRAME, tmp_path / "whole")
    (tmp_path / "log.parquet.snappy").write_bytes(PACKERS[packer]((tmp_path / "whole").read_bytes()))
    assert read(tmp_path / "log.parquet.snappy").equals(FRAME)
    (table,) = open_tables(tmp_path / "log.parquet.snappy")
    assert table.has_types == (write is not pl.DataFrame.write_ndjson)


@pytest.mark.parametrize("packer", ["gz", "bz2", "xz", "zst", "zip"])
def test_a_compressed_file_that_is_cut_is_refused(packer: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(PACKERS[packer](CSV * 50)[:-9])
    with pytest.raises(ValueError, match=r"log\.csv cannot be read: .*cut off"):
        open_tables(tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [(8, 0x01, "password required"), (10, 0x63, "compression method is not supported")],
)
def test_an_archive_that_cannot_be_unpacked_is_refused(
    at: int, value: int, said: str, tmp_path: Path
) -> None:
    data = bytearray(zipped(CSV))
    data[data.index(b"PK\x01\x02") + at] = value  # of the directory's entry: its flags, its method
    (tmp_path / "log.zip").write_bytes(data)
    with pytest.raises(ValueError, match=rf"log\.zip cannot be read: .*{said}"):
        open_tables(tmp_path / "log.zip")


def test_other_files_are_refused_by_what_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.arange(500.0))
    (tmp_path / "sheet.xlsx").write_bytes(zipped(CSV, "[Content_Types].xml"))
    (tmp_path / "two.zip").write_bytes(zipped(CSV, "other.csv"))
    (tmp_path / "log.tar").write_bytes(b"log.csv".ljust(257, b"\0") + b"ustar" + bytes(300))
    for name, message in (
        ("array.npy", "is neither text nor Parquet nor Arrow"),
        ("sheet.xlsx", "is a spreadsheet; save it as CSV or Parquet"),
        ("two.zip", "holds 2 files: folder/log.csv, other.csv; expected one: unpack the archive"),
        ("log.tar", "is a tar archive; unpack it"),
    ):
        with pytest.raises(ValueError, match=message):
            open_tables(tmp_path / name)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("latin-1", "latin-1"), ("cp1252", "latin-1"), ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")],
)
def test_another_encoding_is_named_and_can_be_given(encoding: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(CSV.decode().encode(encoding))
    with pytest.raises(
        ValueError,
        match=rf"log\.csv is not UTF-8: .*likely {said}: pass text=.*\(encoding='{said}'\), or save it",
    ):
        open_tables(tmp_path / "log.csv")
    assert read(tmp_path / "log.csv", encoding=encoding).equals(FRAME)


def test_the_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    lines = [b"user,item,time"] + [b"1,a,2"] * 100_000 + [b"1,caf\xe9,2", b"1,\x80,2"]
    (tmp_path / "log.csv").write_bytes(b"\n".join(lines))
    with pytest.raises(ValueError, match=r"line 100002 holds the byte 0xE9\. It is likely cp1252"):
        open_tables(tmp_path / "log.csv")


def test_characters_across_blocks_are_whole(tmp_path: Path) -> None:
    for shift in range(3):
        text = "user,item,time\n" + "1,x" + "x" * shift + "é" * 400_000 + ",2\n"
        (tmp_path / "log.csv").write_text(text)
        assert read(tmp_path / "log.csv")["item"][0].count("é") == 400_000
    (tmp_path / "log.csv").write_bytes(b"user,item,time\n1,x,2\n1,y,\xc3")
    with pytest.raises(ValueError, match="is not UTF-8: line 3 holds the byte 0xC3"):
        open_tables(tmp_path / "log.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_part_of_the_text(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(CSV.decode().encode(encoding))
    assert read(tmp_path / "log.csv").equals(FRAME)
    headless = CSV.decode().partition("\n")[2]
    (tmp_path / "log.csv").write_bytes(headless.encode(encoding))
    (table,) = open_tables(tmp_path / "log.csv", columns=("user", "item", "time"))
    assert table.lazy().collect().equals(FRAME)


def test_a_wrong_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(CSV)
    with pytest.raises(ValueError, match=r"log\.csv is not ascii: ordinal not in range.* in line 4"):
        open_tables(tmp_path / "log.csv", TextFormat(encoding="ascii"))


def folder_of(tmp_path: Path, **files: bytes) -> Path:
    folder = tmp_path / "log"
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    "empty",
    [b"", b"\n\n", b"user,item,time\n", gzip.compress(b""), gzip.compress(b"user,item,time\n")],
    ids=["nothing", "blank lines", "header", "packed nothing", "packed header"],  # packed bytes hold the time
)
def test_a_part_without_rows_types_nothing(empty: bytes, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a__csv=empty, b__csv=CSV, c__csv=empty)
    (table,) = open_tables(folder)
    assert table.lazy().collect().equals(FRAME)
    (folder / "b.csv").unlink()
    with pytest.raises(ValueError, match=r"is empty; expected rows|no rows"):
        prepare(folder, user="user", item="item", time="time", actions={}, out=tmp_path / "out")


def test_a_parquet_part_without_rows_types_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, b__csv=CSV)
    FRAME.clear().cast(pl.String).write_parquet(folder / "a.parquet")
    assert len(open_tables(folder)) == 1


def test_what_is_read_of_a_folder(tmp_path: Path) -> None:
    names = (
        "a__csv",
        "b__TXT",
        "c__csv__gz",
        "d__parquet__snappy",
        "part-00000",
        "README__md",
        "_SUCCESS",
        "__hidden__csv",
    )
    folder = folder_of(tmp_path, **dict.fromkeys(names, CSV))
    read_files = [Path(table.name).name for table in open_tables(folder)]
    assert read_files == ["a.csv", "b.TXT", "c.csv.gz", "d.parquet.snappy", "part-00000"]
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "README.md").write_text("words")
    with pytest.raises(ValueError, match=r"none holds no file ending in \.csv, "):
        open_tables(tmp_path / "none")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_folders_that_name_columns(suffix: str, tmp_path: Path) -> None:
    for day, shop, item in (
        ("2020-01-01", "7", "a"),
        ("2020-01-02", "8", "b"),
        ("2020-01-02", "__HIVE_DEFAULT_PARTITION__", "c"),
    ):
        folder = tmp_path / "log" / f"day={day}" / f"shop%20id={shop}"
        folder.mkdir(parents=True)
        frame = FRAME.with_columns(item=pl.lit(item))
        frame.write_csv(folder / "0.csv") if suffix == "csv" else frame.write_parquet(folder / "0.parquet")
    tables = open_tables(tmp_path / "log")
    assert [table.lazy().collect()["day"][0] for table in tables] == [
        "2020-01-01",
        "2020-01-02",
        "2020-01-02",
    ]
    assert [table.lazy().collect()["shop id"][0] for table in tables] == [7, 8, None]
    assert tables[0].lazy(["shop id"]).collect()["shop id"][0] == "7"
    assert tables[0].lazy().collect()["item"].unique().to_list() == ["a"]
    data = prepare(
        tmp_path / "log",
        user="user",
        item="item",
        time="time",
        actions={},
        out=tmp_path / "out",
        min_user_events=1,
        min_item_events=1,
    )
    assert data.manifest.counts.rows_read == 12
    FRAME.write_csv(tmp_path / "log" / "more.csv")
    with pytest.raises(ValueError, match="name other columns for some files: day, shop id and none"):
        open_tables(tmp_path / "log")
