"""Times as logs write them to microseconds since 1970, by one rule in preparation and in histories."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import polars as pl

from plait.data.columns.ids import is_nobody, is_text
from plait.wording import setting

DType = Any  # a pl.DataType: its metaclass has a repr that beartype refuses in annotations
MICROSECONDS_PER_S = 1_000_000
TimeUnit = Literal["s", "ms", "us", "ns"]
PER_S: dict[TimeUnit, int] = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
UNIT_NAMES: dict[TimeUnit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
ISO_8601 = (
    r"^(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)? ?"
    r"([Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?$"
)
HOURS_AND_MINUTES = r"^([+-])(\d{2}):?(\d{2})$"
MOST_HOURS = 14  # no zone is further from UTC
QUARTER_MIN = 15  # and all are whole quarters of an hour away


class TimeForm(msgspec.Struct, frozen=True, kw_only=True):
    """How a log writes its times."""

    column: str
    unit: TimeUnit = "s"  # of numbers
    format: str | None = None  # of text, as strftime's; None: ISO 8601
    offset: str | None = None  # the column that says how far local time is ahead of UTC

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.offset is None else (self.column, self.offset)


def check_format(format: str) -> None:
    """Raises ValueError where strftime knows no such format."""
    try:
        pl.Series(["x"]).str.to_datetime(format, strict=False, time_unit="us")
        pl.Series([datetime(2001, 2, 3, tzinfo=UTC)]).dt.strftime(format)
        known = "%" in format
    except pl.exceptions.PolarsError:
        known = False
    if not known:
        raise ValueError(
            f"{setting('time_format', format)}: expected the codes of strftime, such as '%d.%m.%Y %H:%M'"
        )


def microseconds(form: TimeForm, schema: Mapping[str, DType]) -> tuple[pl.Expr, pl.Expr | None]:
    """A column's times, null where they are none; and of numbers, as a float, how many units they count.

    Raises:
        ValueError: the columns are of types that hold no times or offsets.
    """
    dtype, raw = schema[form.column], pl.col(form.column)
    if form.format is not None and (dtype.is_integer() or is_text(dtype)):
        text = raw.cast(pl.String).str.strip_chars()
        time = text.str.to_datetime(form.format, strict=False, time_unit="us").dt.epoch("us")
        return _from_local(time, None, form, schema), None
    if dtype.is_numeric() and form.offset is None:
        return _of_numbers(raw, dtype, form.unit), raw.cast(pl.Float64)
    if dtype in (pl.Datetime, pl.Date):
        time = raw.cast(pl.Datetime("us")).dt.epoch("us") if dtype == pl.Date else raw.dt.epoch("us")
        zoned = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
        return (time if zoned else _from_local(time, None, form, schema)), None
    if is_text(dtype):
        return _of_text(raw.cast(pl.String).str.strip_chars(), form, schema)
    expected = "numbers of seconds (or another unit), datetimes, or ISO 8601 text"
    if form.offset is not None:
        expected = f"dates, of which {form.offset!r} holds the offset from UTC"
    raise ValueError(f"column {form.column!r} holds {dtype}; expected {expected}")


def offset_minutes(raw: pl.Expr, dtype: DType) -> pl.Expr:
    """How far local time is ahead of UTC, null where that is not said: +0200, +02:00, Z, UTC, a whole number of hours
    up to 14, or of minutes, which come in quarters of an hour.

    >>> offsets = pl.DataFrame({"to": ["+0200", "-03:30", "2", "-300", "UTC", "17", ""]})
    >>> offsets.select(offset_minutes(pl.col("to"), pl.String)).to_series().to_list()
    [120, -210, 120, -300, 0, None, None]
    """
    text = raw.cast(pl.String).str.strip_chars() if is_text(dtype) else None
    if text is None and not (dtype.is_integer() or dtype == pl.Null):
        raise ValueError(
            f"the column of offsets from UTC holds {dtype}; expected text such as +0200, or minutes"
        )
    number = raw.cast(pl.Int64) if text is None else text.cast(pl.Int64, strict=False)
    is_hours, is_minutes = number.abs() <= MOST_HOURS, number % QUARTER_MIN == 0
    minutes = pl.when(is_hours).then(number * 60).when(is_minutes).then(number)
    counted = pl.when(minutes.abs() <= MOST_HOURS * 60).then(minutes)
    return counted if text is None else pl.coalesce(_zone_minutes(text), counted)


def _of_numbers(raw: pl.Expr, dtype: DType, unit: TimeUnit) -> pl.Expr:
    if not dtype.is_integer():
        number = raw.cast(pl.Float64) * (MICROSECONDS_PER_S / PER_S[unit])
        return number.round().cast(pl.Int64, strict=False)
    whole = raw.cast(pl.Int64, strict=False)
    if PER_S[unit] <= MICROSECONDS_PER_S:
        return whole * (MICROSECONDS_PER_S // PER_S[unit])
    return whole // (PER_S[unit] // MICROSECONDS_PER_S)


def _of_text(text: pl.Expr, form: TimeForm, schema: Mapping[str, DType]) -> tuple[pl.Expr, pl.Expr]:
    number = text.cast(pl.Float64, strict=False)
    counted = pl.coalesce(
        _of_numbers(text.cast(pl.Int64, strict=False), pl.Int64(), form.unit),
        _of_numbers(number, pl.Float64(), form.unit),
    )
    part = pl.when(number.is_null()).then(text).str.extract_groups(ISO_8601)
    day, minute, second, fraction, zone = (part.struct.field(str(n)) for n in range(1, 6))
    spelt = pl.concat_str(
        day, pl.lit(" "), minute.fill_null("00:00"), pl.lit(":"), second.fill_null("00"),
        pl.lit("."), fraction.fill_null("0"),
    )  # fmt: skip
    time = spelt.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us").dt.epoch("us")
    return pl.coalesce(counted, _from_local(time, zone, form, schema)), number


def _from_local(time: pl.Expr, zone: pl.Expr | None, form: TimeForm, schema: Mapping[str, DType]) -> pl.Expr:
    """UTC from local time: by the zone that a time names, else by the column of offsets, else it is UTC already."""
    ahead: pl.Expr = pl.lit(0)
    if form.offset is not None:
        ahead = offset_minutes(pl.col(form.offset), schema[form.offset])
    if zone is not None:
        ahead = pl.when(zone.is_null()).then(ahead).otherwise(_zone_minutes(zone))
    return time - ahead * (60 * MICROSECONDS_PER_S)


def _zone_minutes(zone: pl.Expr) -> pl.Expr:
    """Minutes ahead of UTC of Z, UTC, GMT, +02, +0200, +02:00; null for anything else."""
    whole = zone.str.replace(r"^([+-]\d{2})$", "${1}00").str.extract_groups(HOURS_AND_MINUTES)
    sign, hours, minutes = (whole.struct.field(str(n)) for n in range(1, 4))
    size = hours.cast(pl.Int64) * 60 + minutes.cast(pl.Int64)
    signed = pl.when(sign == "-").then(-size).otherwise(size)
    possible = (minutes.cast(pl.Int64) < 60) & (size <= MOST_HOURS * 60)
    is_utc = zone.str.to_uppercase().is_in(["Z", "UTC", "GMT"])
    return pl.when(is_utc).then(pl.lit(0, dtype=pl.Int64)).when(possible).then(signed)


def fitting_unit(number: int | float, latest_s: float) -> TimeUnit | None:
    """The coarsest unit in which a number of units since 1970 is not in the future.

    >>> fitting_unit(1.6e12, 2e9)
    'ms'
    """
    return next((unit for unit, per_s in PER_S.items() if number <= latest_s * per_s), None)


def is_missing(raw: pl.Expr, dtype: DType) -> pl.Expr:
    """Null, NaN, and in text the words that stand for nothing."""
    if is_text(dtype):
        return is_nobody(raw.cast(pl.String).str.strip_chars())
    return raw.is_nan() | raw.is_null() if dtype.is_float() else raw.is_null()
