"""Times as logs write them, read alike in preparation and in histories."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from plait.data import Temporal, prepare
from plait.data.columns.times import check_format
from plait.data.history import Columns, load_vocabulary, read_history, save_vocabulary
from plait.data.vocabulary import Vocabulary
from plait.files import HASHES

NAMES = {"user": "user", "item": "item"}
ALL = NAMES | {"actions": {}, "min_user_events": 1, "min_item_events": 1}
NOON = int(datetime(2020, 12, 8, 12, tzinfo=UTC).timestamp())


def log_of(times, **more) -> pl.DataFrame:
    """One user who meets another item at each time."""
    values = {"user": [1] * len(times), "item": [*range(len(times))], "time": times}
    return pl.DataFrame(values | more, strict=False)


def seconds(frame, folder, **options):
    """The times as preparation reads them from a frame and from a file, and a history by the same settings."""
    frame.write_csv(folder / "log.csv")
    found = []
    for number, source in enumerate((frame, folder / "log.csv")):
        data = prepare(source, time="time", out=folder / str(number), **(ALL | options))
        found.append(np.load(data.folder / "time_s.npy").tolist())
    own = {name: value for name, value in options.items() if name.startswith("time_")}
    columns = Columns(**NAMES, time="time", **({"time_unit": "s"} | own))
    found.append(read_history(frame, columns, (), data.items).events.time_s_E.tolist())
    assert found[0] == found[1] == found[2]
    return found[0]


SPELT = [
    "2020-12-08T12:00:00Z", "2020-12-08T12:00:00z", "2020-12-08 12:00:00+00:00", "2020-12-08 14:00:00+0200",
    "2020-12-08T14:00:00.000+02", "2020-12-08 08:30:00 -0330", "2020-12-08 12:00:00 UTC", "2020-12-08 12:00 GMT",
    "2020-12-08 12:00", "2020-12-08T12:00:00", "2020-12-08T12:00:00,5", "2020-12-09T02:00:00.123456789+14:00",
    " 2020-12-08 12:00 ", str(NOON), f"{NOON}.25",
]  # fmt: skip


def test_iso_8601_with_zones_of_every_kind_in_one_column(tmp_path):
    assert seconds(log_of(SPELT), tmp_path) == [NOON] * len(SPELT)


def test_a_day_is_its_midnight(tmp_path):
    assert (
        seconds(log_of(["2020-12-08", "2020-12-08 00:00", "2020-12-08"]), tmp_path) == [NOON - 12 * 3600] * 3
    )


@pytest.mark.parametrize(
    "text",
    ["2020-13-08", "2020-12-08 25:00", "2020-12-08 12:00+99:00", "2020-12-08+0200", "08.12.2020", "soon"],
)
def test_what_is_no_time_is_named(tmp_path, text):
    with pytest.raises(ValueError, match=r"time is not a time: 1 rows, e.g. row 2"):
        prepare(log_of(["2020-12-08", text, "2020-12-08"]), time="time", out=tmp_path / "out", **ALL)


@pytest.mark.parametrize("word", ["", "NA", "null", None])
def test_a_missing_time_is_missing(tmp_path, word):
    with pytest.raises(ValueError, match=r"time is missing: 1 rows, e.g. row 2"):
        prepare(log_of(["2020-12-08", word, "2020-12-08"]), time="time", out=tmp_path / "out", **ALL)


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("%d.%m.%Y %H:%M", "08.12.2020 12:00"),
        ("%m/%d/%Y %I:%M:%S %p", "12/08/2020 12:00:00 PM"),
        ("%d/%b/%Y:%H:%M:%S %z", "08/Dec/2020:13:00:00 +0100"),
        ("%Y%m%d%H%M", "202012081200"),
    ],
)
def test_a_format_of_its_own(tmp_path, format, text):
    assert seconds(log_of([text] * 3), tmp_path, time_format=format) == [NOON] * 3
    with pytest.raises(ValueError, match="time is not a time"):
        prepare(log_of([text, text, "?"]), time="time", time_format=format, out=tmp_path / "bad", **ALL)


@pytest.mark.parametrize("format", ["day", "%Q", "%d.%m.%!"])
def test_a_format_that_is_none_is_named(format):
    with pytest.raises(ValueError, match=r"time_format = .*codes of strftime"):
        check_format(format)


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("of", [int, float, str])
def test_units(tmp_path, unit, per_s, of):
    times = [of(second * per_s) for second in (NOON, NOON + 1, NOON + 2)]
    assert seconds(log_of(times), tmp_path, time_unit=unit) == [NOON, NOON + 1, NOON + 2]
    if unit != "s":
        with pytest.raises(
            ValueError, match=rf"if these are {'milli|micro|nano'}.*pass time_unit = '{unit}'"
        ):
            prepare(log_of([NOON * per_s] * 3), time="time", out=tmp_path / "wrong", **ALL)


@pytest.mark.parametrize("offset", ["+0200", "+02:00", "+02", 2, 120, "120", "2"])
@pytest.mark.parametrize("dated", ["text", "datetime", "format"])
def test_a_column_of_offsets(tmp_path, offset, dated):
    local = datetime(2020, 12, 8, 14)
    options = {"time_offset": "ahead"} | ({"time_format": "%d.%m.%y %H:%M"} if dated == "format" else {})
    time = {"text": "2020-12-08 14:00:00", "datetime": local, "format": "08.12.20 14:00"}[dated]
    assert seconds(log_of([time] * 3, ahead=[offset] * 3), tmp_path, **options) == [NOON] * 3


def test_offsets_that_are_none_and_zones_that_times_name(tmp_path):
    times = ["2020-12-08 14:00", "2020-12-08 12:00Z", "2020-12-08 14:00"]
    assert seconds(log_of(times, ahead=["+0200"] * 3), tmp_path, time_offset="ahead") == [NOON] * 3
    for bad in ("here", "17", "+9900", None):
        frame = log_of(["2020-12-08 14:00"] * 3, ahead=["+0200", bad, "+0200"])
        with pytest.raises(ValueError, match=r"ahead is no offset from UTC: 1 rows, e.g. row 2"):
            prepare(frame, time="time", time_offset="ahead", out=tmp_path / "bad", **ALL)
    with pytest.raises(
        ValueError, match="'time' holds Int64; expected dates, of which 'ahead' holds the offset"
    ):
        prepare(
            log_of([NOON] * 3, ahead=[2] * 3), time="time", time_offset="ahead", out=tmp_path / "bad", **ALL
        )
    with pytest.raises(ValueError, match="offsets from UTC holds Float64; expected text such as \\+0200"):
        prepare(log_of(times, ahead=[2.0] * 3), time="time", time_offset="ahead", out=tmp_path / "bad", **ALL)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"time": None, "order": "place"}, "and order is about times"),
        ({"time": None, "deduplicate": True}, "deduplicate"),
        ({"time": None, "split": Temporal(validation=0.1, test=0.1)}, "and temporal is about times"),
        ({"time": None, "time_unit": "ms"}, "and time_unit is about times"),
        ({"time": None, "time_format": "%Y"}, "time_format"),
        ({"time": "time", "time_unit": "ms", "time_format": "%Y"}, "and time_format of dates"),
        ({"time": "time", "time_unit": "ms", "time_offset": "x"}, "and time_offset of dates"),
    ],
)
def test_settings_of_time_that_exclude_each_other(tmp_path, options, named):
    with pytest.raises(ValueError, match=named):
        prepare(log_of([NOON] * 3), out=tmp_path / "out", **(ALL | options))


def test_a_log_without_times_is_in_the_order_of_its_rows(tmp_path):
    frame = pl.DataFrame({"user": [2, 1, 2, 1, 2, 1, 2], "item": [5, 3, 1, 2, 4, 1, 3]})
    data = prepare(frame, time=None, out=tmp_path / "out", **ALL)
    assert data.manifest.settings.time is None and data.manifest.tied_share == 0
    for user, items in ((1, [3, 2, 1]), (2, [5, 1, 4, 3])):
        events = data.history(data.user_index(user))
        assert data.item_ids().gather(events.item_E - 1).to_list() == items
        assert events.request_E.tolist() == [*range(len(items))], "each event is a request of its own"
    read = read_history(frame, Columns(**NAMES, time=None, time_unit="s"), (), data.items)
    both = np.concatenate([data.history(user).item_E for user in (0, 1)])
    assert read.events.item_E.tolist() == both.tolist() and read.user_ids == (1, 2)
    assert read.request_name_U == (None, None) and read.place_U == ((), ())


def test_columns_of_before_still_open(tmp_path):
    columns = Columns(**NAMES, time="time", time_unit="ms")
    save_vocabulary(tmp_path, Vocabulary.of_items(pl.Series([1])), columns)
    path = tmp_path / "recommender.json"
    text = path.read_text()
    for name in ("time_format", "time_offset", "user_ids"):
        line = next(line for line in text.splitlines(keepends=True) if f'"{name}"' in line)
        text = text.replace(line, "")
    path.write_text(text)
    (tmp_path / HASHES).unlink()
    with pytest.warns(UserWarning, match=f"no {HASHES}"):
        assert load_vocabulary(tmp_path)[1] == columns
    assert columns.user_ids == "as given"
