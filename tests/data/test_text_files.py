"""Delimited text: every row that is there is read as it is spelt, or the line that stands in the way is named."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data import TextFormat, prepare
from plait.data.logs import delimited_text, record_counts
from plait.data.logs.containers import Content
from plait.data.logs.delimited_text import find_separator, read_delimited
from plait.data.logs.tables import open_tables
from plait.data.manifest import check_types
from plait.schema import Feature, Regression

ALL = {"min_user_events": 1, "min_item_events": 1}
Reader = Callable[[str], list[tuple[str, ...]]]


def records(text: str) -> list[list[str]] | None:
    """What Python's csv finds under RFC 4180; None where a quoted field does not end or lines are uneven."""
    try:
        found = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        return None
    return found if len({len(row) for row in found}) == 1 else None


def rows_of(text: str, options: TextFormat = TextFormat(separator=",")) -> list[tuple[str, ...]]:
    found = read_delimited(Content("log.csv", text.encode()), options)
    assert found is not None
    frame = found.scan(found.dialect.columns).collect()
    assert frame.height == found.rows
    return [tuple(field or "" for field in row) for row in frame.rows()]


FIELDS = [
    "a",
    "é7",
    "",
    '5" pipe',
    'a""b',
    '"q"',
    '"a,b"',
    '"a\nb"',
    '"\n\n"',
    '""',
    '"a""b"',
    '"odd',
    'x"',
    '"a"b',
    " ",
]
LINE = st.tuples(
    st.sampled_from(FIELDS), st.sampled_from(FIELDS), st.sampled_from(["\n", "\r\n", "\n\n", "\r\n\r\n"])
)
ROWS = st.lists(LINE, min_size=1, max_size=6).map(
    lambda lines: "".join(f"{a},{b}{end}" for a, b, end in lines)
)
RAW = st.text(alphabet='a",\né', max_size=16)
TEXTS = st.one_of(ROWS, RAW, ROWS.map(lambda text: text.rstrip("\r\n"))).map(lambda text: f"x,y\n{text}")


def check_against_csv(read: Reader, block_bytes: int) -> Counter[str]:
    """Over hostile texts: what is read is what Python's csv reads, and what csv cannot read is refused."""
    met: Counter[str] = Counter()

    @settings(max_examples=300)
    @given(TEXTS)
    def check(text: str) -> None:
        expected = records(text)
        if expected is None:
            met["refused"] += 1
            with pytest.raises(ValueError, match=r"log\.csv, line \d+: "):
                read(text)
            return
        assert read(text) == [tuple(row) for row in expected[1:]]
        met["read"] += 1
        met["quoted line end"] += any("\n" in field for row in expected for field in row)
        met["lone quote"] += '5" pipe' in text
        met["blank line"] += "\n\n" in text or "\r\n\r\n" in text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_counts, "BLOCK_BYTES", block_bytes)
        patch.setattr(delimited_text, "BLOCK_BYTES", block_bytes)
        check()
    return met


@pytest.mark.parametrize("block_bytes", [3, 1 << 18])
def test_what_is_read_is_what_csv_reads(block_bytes: int) -> None:
    met = check_against_csv(rows_of, block_bytes)
    assert (
        min(met[what] for what in ("refused", "read", "quoted line end", "lone quote", "blank line")) > 10
    ), met


def polars_alone(text: str) -> list[tuple[str, ...]]:
    frame = pl.scan_csv(text.encode(), infer_schema=False, truncate_ragged_lines=True).collect()
    return [tuple(field or "" for field in row) for row in frame.rows()]


def no_blank_lines_cut(text: str) -> list[tuple[str, ...]]:
    return rows_of(text.replace("\n\n", "\n,\n"))


@pytest.mark.parametrize("mutant", [polars_alone, no_blank_lines_cut])
def test_another_reader_is_caught(mutant: Reader) -> None:
    with pytest.raises((AssertionError, pl.exceptions.PolarsError, BaseExceptionGroup)):
        check_against_csv(mutant, 1 << 18)


@pytest.mark.parametrize(
    "uneven", ["1,2,3\n4\n", "1\n2,3,4\n", "1,2\n3,4,5\n6\n", '"1",2\n3\n4,5,6\n', '"1",2\n3,"4",5\n6\n']
)
def test_lines_that_even_each_other_out_are_still_uneven(uneven: str) -> None:
    with pytest.raises(ValueError, match=r"log\.csv, line \d: \d fields, expected 2 \(x, y\)"):
        rows_of("x,y\n" + uneven)


def test_without_quoting_every_quote_is_a_character() -> None:
    text = 'x\ty\n"odd\t5" pipe\n"q"\t""\n'
    assert rows_of(text, TextFormat()) == [('"odd', '5" pipe'), ('"q"', '""')]
    assert rows_of('x,y\n"odd,"q"\n', TextFormat(quoting="none")) == [('"odd', '"q"')]
    assert rows_of('x\ty\n"a\tb"\t1\n', TextFormat(quoting="rfc4180")) == [("a\tb", "1")]


LOG = [(user, item, 1_600_000_000 + 10 * user + item) for user in range(3) for item in range(4)]


def write_log(
    path: Path, separator: str, *, header: bool = True, title: str = 'a 5" pipe', end: str = "\n"
) -> Path:
    lines = [separator.join(("user", "item", "time", "title"))] if header else []
    lines += [separator.join((str(user), f"i{item}", str(time), title)) for user, item, time in LOG]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def prepared(path: Path, out: Path, **more):
    return prepare(path, user="user", item="item", time="time", actions={}, out=out, **(ALL | more))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.dat", "log.data", "log.CSV", "log.inter", "log"])
def test_separators_are_found_and_said(separator: str, end: str, name: str, tmp_path: Path) -> None:
    data = prepared(write_log(tmp_path / name, separator, end=end), tmp_path / "out")
    assert data.manifest.counts.rows_read == len(LOG)
    assert data.item_ids().to_list() == ["i0", "i1", "i2", "i3"]
    said = "tab" if separator == "\t" else repr(separator)
    assert data.manifest.read_as[0].startswith(f"{name}: text, separator {said}, ")


def test_a_separator_that_is_given_is_taken(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.txt", " ", title="t")
    with pytest.raises(
        ValueError, match=r"log\.txt: none of the separators .* \(user item time title\); pass"
    ):
        prepared(path, tmp_path / "out")
    assert prepared(path, tmp_path / "out", text=TextFormat(separator="space")).num_items == 4
    with pytest.raises(ValueError, match="the separator ';' is not in its first line"):
        prepared(path, tmp_path / "other", text=TextFormat(separator=";"))


@pytest.mark.parametrize(
    ("lines", "separator"),
    [
        (["user;rating", "1;3,5", "2;4,0"], ";"),
        (["1;a;3,5", "2;b;4,0"], ";"),
        (["id,genres", "1,Action|Comedy", "2,Drama|War"], ","),
        (["1::Heat, the film::A|B", "2::Se7en, 1995::C|D"], "::"),
        (["u\ti, j", "1\ta, b"], "\t"),
        (['a,"b;c;d"', '1,"2;3;4"'], ","),
        (["a,b,c", "1,2"], ","),
    ],
)
def test_the_separator_is_the_one_that_parts_all_lines_alike(lines: list[str], separator: str) -> None:
    assert find_separator(lines, None, "log") == separator


def test_twenty_thousand_rows_with_lone_quotes(tmp_path: Path) -> None:
    lines = [
        f"{row % 50},i{row % 40},{1_600_000_000 + row},{'5' + chr(34) + ' pipe' if row % 2 else 'cap'}"
        for row in range(20_000)
    ]
    (tmp_path / "log.csv").write_text("user,item,time,title\n" + "\n".join(lines) + "\n")
    for quoting in (None, "none", "rfc4180"):
        data = prepared(tmp_path / "log.csv", tmp_path / str(quoting), text=TextFormat(quoting=quoting))
        assert data.manifest.counts.rows_read == data.manifest.counts.events == 20_000


def test_a_quote_that_does_not_end_names_its_line_and_the_option(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.csv", ",", title='"odd')
    with pytest.raises(ValueError, match=r"log\.csv, line 2: it cannot be parted .*quoting='none'"):
        prepared(path, tmp_path / "out")
    assert prepared(path, tmp_path / "out", text=TextFormat(quoting="none")).manifest.counts.events == len(
        LOG
    )


def test_feature_tables_are_read_by_the_same_rules(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.csv", ";")
    features = [Feature.parse("kind:category"), Feature.parse("size:number")]
    table = tmp_path / "items.dat"
    table.write_text('i0;5" pipe;1,5\ni1;"a;b";2\n\ni2;cap;3,25\ni3;cap;4\n')
    options = TextFormat(item_columns=("item", "kind", "size"))
    given_features = {"items": table, "item_features": features}
    with pytest.raises(
        ValueError, match=r"row 1 holds '1,5', which is no finite number; .*decimal_comma=True"
    ):
        prepared(log, tmp_path / "out", text=options, **given_features)
    options = TextFormat(item_columns=("item", "kind", "size"), decimal_comma=True)
    data = prepared(log, tmp_path / "out", text=options, **given_features)
    kind, size = data.item_features.features
    assert kind.kind.values == ('5" pipe', "a;b") and size.kind.edges[-1] <= 4
    assert data.manifest.counts.items_without_features == 0
    assert "items.dat: text, separator ';', quoted by RFC 4180, without a header" in data.manifest.read_as
    table.write_text("item;kind;size\ni0;x;1\ni1;x\n")
    with pytest.raises(ValueError, match=r"items\.dat, line 3: 2 fields, expected 3"):
        prepared(log, tmp_path / "other", **given_features)


def test_rows_that_are_not_read_are_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path / "log.csv", ",", title="t")
    scan = delimited_text.Delimited.scan
    monkeypatch.setattr(delimited_text.Delimited, "scan", lambda self, as_text: scan(self, as_text).head(7))
    with pytest.raises(ValueError, match=r"log\.csv: 7 rows were read, and 12 are there"):
        prepared(log, tmp_path / "out")
    frame = pl.DataFrame(LOG, schema=["user", "item", "time"], orient="row")
    with pytest.raises(ValueError, match=r"log\.csv: 7 rows were read, and 12 are there"):
        prepared(frame, tmp_path / "out", items=log, item_features=[Feature.parse("title:category")])


def test_decimal_commas_are_read_or_named(tmp_path: Path) -> None:
    rows = [f"{user};{item};{time};{1 + item},5" for user, item, time in LOG]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user;item;time;rating", *rows]) + "\n")
    asked = {"actions": {"rating": Regression(1, 5)}}
    with pytest.raises(
        ValueError,
        match=r"rating is not a number: 12 rows, .*'1,5'.* pass text=.*\(decimal_comma=True\)",
    ):
        prepare(path, user="user", item="item", time="time", out=tmp_path / "out", **asked, **ALL)
    data = prepare(
        path,
        user="user",
        item="item",
        time="time",
        out=tmp_path / "out",
        **asked,
        **ALL,
        text=TextFormat(decimal_comma=True),
    )
    assert data.history(0).action_EA[:, 0].tolist() == [1.5, 2.5, 3.5, 4.5]


def test_decimal_commas_are_read_beside_text(tmp_path: Path) -> None:
    """Where a number comes that is none, the column is read as text again, and the rule names that row alone."""
    rows = [
        f"{user},{item},{time},{'odd' if row == 5 else chr(34) + '1,5' + chr(34)}"
        for row, (user, item, time) in enumerate(LOG)
    ]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time,rating", *rows]))
    with pytest.raises(
        ValueError, match=r"1 of 12 rows .*\n.*rating is not a number: 1 rows, e\.g\. row 6 .*'odd'"
    ):
        prepare(
            tmp_path / "log.csv",
            user="user",
            item="item",
            time="time",
            out=tmp_path / "out",
            **ALL,
            actions={"rating": Regression(1, 5)},
            text=TextFormat(decimal_comma=True),
        )


def test_a_file_without_a_header(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.csv", ",", header=False)
    with pytest.raises(
        ValueError, match=r"no column 'user'.*; where the first line is no header, .*columns="
    ):
        prepared(path, tmp_path / "out")
    names = ("user", "item", "time", "title")
    data = prepared(path, tmp_path / "out", text=TextFormat(columns=names))
    assert data.manifest.counts.rows_read == len(LOG)
    with pytest.raises(ValueError, match=r"has 4 columns .*, and the names of 2 are given: user, item"):
        prepared(path, tmp_path / "other", text=TextFormat(columns=("user", "item")))
    with pytest.raises(
        ValueError, match="its first line is a header, user, item, time, title; leave its names out"
    ):
        prepared(write_log(tmp_path / "with.csv", ","), tmp_path / "other", text=TextFormat(columns=names))


def test_headers_of_recbole_name_types_too(tmp_path: Path) -> None:
    text = "user:token\titem:token\ttime:float\ttitle:token_seq\n1\ta\t3\tx y\n"
    (tmp_path / "log.inter").write_text(text)
    (table,) = open_tables(tmp_path / "log.inter")
    assert list(table.schema) == ["user", "item", "time", "title"]
    (tmp_path / "log.inter").write_text(text.replace("title:token_seq", "title"))
    (table,) = open_tables(tmp_path / "log.inter")
    assert list(table.schema) == ["user:token", "item:token", "time:float", "title"]


def test_text_is_read_as_it_is_spelt(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text('a,b\n007, x \n1E2,\n7.0,"q"\n')
    (table,) = open_tables(tmp_path / "log.csv")
    assert not table.has_types and table.rows == 3
    frame = table.lazy(["a", "b"]).collect()
    assert frame["a"].to_list() == ["007", "1E2", "7.0"] and frame["b"].to_list() == [" x ", None, "q"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("1,2\r\r\n\r\n3,4\r", [("1", "2"), ("3", "4")]),
        ("1,2\n3,4\n\r\n\r", [("1", "2"), ("3", "4")]),
        ('1,"x\r"\n3,5" y\n', [("1", "x\r"), ("3", '5" y')]),
        ('1,"x\r"\n\n"3",""\n', [("1", "x\r"), ("3", "")]),
        ("1,a\rb\n", [("1", "a\rb")]),
        ("1," + "long" * 50_000 + "\n", [("1", "long" * 50_000)]),
    ],
)
def test_carriage_returns_and_long_fields(rows: str, expected: list[tuple[str, str]]) -> None:
    assert rows_of("x,y\n" + rows) == expected
    assert rows_of("x,y\n" + rows, TextFormat()) == expected


def test_many_columns_are_cut_in_a_message(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(",".join(f"column{n}" for n in range(5000)) + "\n")
    with pytest.raises(ValueError, match=r"no column 'user'.* \(5000 in all\)$") as caught:
        prepared(tmp_path / "log.csv", tmp_path / "out")
    assert len(str(caught.value)) < 600


def test_the_options_are_recorded_and_folders_of_before_open(tmp_path: Path) -> None:
    options = TextFormat(separator="::", columns=("user", "item", "time", "title"))
    data = prepared(write_log(tmp_path / "log.dat", "::", header=False), tmp_path / "out", text=options)
    assert data.manifest.settings.text == options
    plain = prepared(write_log(tmp_path / "log.csv", ","), tmp_path / "plain")
    stored = (plain.folder / "manifest.json").read_text()
    assert '"text"' not in stored, "a default must leave the settings' hash as it was"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separator": ""}, "separator: found ''"),
        ({"separator": "\n"}, "separator: found"),
        ({"separator": "é"}, "expected a character of ASCII"),
        ({"encoding": "latin1000"}, "encoding: found 'latin1000', expected one that Python knows"),
        ({"encoding": "zip"}, "encoding: found 'zip'"),
        ({"columns": ("a", "a")}, "columns: found 'a' 2 times"),
        ({"columns": "a,b"}, "columns: found the text 'a,b', expected a list"),
        ({"separator": "::", "quoting": "rfc4180"}, "needs a separator of one character, not '::'"),
    ],
)
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextFormat(**options)


def test_bytes_that_no_text_has_leave_no_mark_for_a_separator() -> None:
    """A separator of several characters is read as one that does not occur; the last free one is still found."""
    options = TextFormat(separator="::")
    for free in ("\x02", "\x1f"):
        others = "".join(mark for mark in delimited_text.STAND_INS if mark != free)
        assert rows_of(f"user::item\na::b{others}\n", options) == [("a", f"b{others}")]
    with pytest.raises(ValueError, match="is hardly text: it holds all of"):
        rows_of(f"user::item\na::b{delimited_text.STAND_INS}\n", options)


def test_prepare_takes_a_text_format_alone() -> None:
    with pytest.raises(ValueError, match=r"text: found 'latin-1', expected plait\.TextFormat"):
        check_types({"text": "latin-1"})
