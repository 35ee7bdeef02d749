"""Parts of dates, times and intervals: extract, date_part, date_trunc, date_bin."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import tzinfo
from decimal import Decimal
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from orbit.kernel.values import calendar as cal
from orbit.kernel.values.zones import MICROS_PER_DAY, MICROS_PER_SECOND, offset_at
from services.storage.sql.evaluate.dates import (
    DATE_ENDS,
    MICROS_PER_HOUR,
    MICROS_PER_MINUTE,
    TIMESTAMP_ENDS,
    Interval,
    date_to_timestamp,
    from_local,
    named_zone,
    to_local,
    toward_zero,
)
from services.storage.sql.evaluate.registry import function, keys

_UNITS: Final[dict[str, str]] = {
    **{word: unit for unit, words in {
        "microseconds": "microseconds microsecond us usec usecs microsecon",
        "milliseconds": "milliseconds millisecond ms msec msecs millisecon",
        "second": "second seconds sec secs s", "minute": "minute minutes min mins m",
        "hour": "hour hours hr hrs h", "day": "day days d", "week": "week weeks w", "month": "month months mon mons",
        "quarter": "quarter qtr", "year": "year years y yr yrs", "decade": "decade decades dec decs",
        "century": "century centuries c cent", "millennium": "millennium millennia mil mils millenniums",
        "epoch": "epoch", "dow": "dow", "isodow": "isodow", "doy": "doy", "isoyear": "isoyear", "julian": "julian j jd",
        "timezone": "timezone", "timezone_hour": "timezone_hour", "timezone_minute": "timezone_minute",
    }.items() for word in words.split()},
}  # fmt: skip
_OF_DAY: Final = frozenset(("microseconds", "milliseconds", "second", "minute", "hour"))


def _unit(field: str, type_name: str) -> str:
    unit = _UNITS.get(field.lower().strip())
    if unit is None:
        raise OrbitError(f'unit "{field}" not recognized for type {type_name}', sqlstate="22023")
    return unit


def _not_supported(field: str, type_name: str) -> OrbitError:
    return OrbitError(f'unit "{field}" not supported for type {type_name}', sqlstate="0A000")


def iso_week(days: int) -> tuple[int, int]:
    """Return the ISO year and week of a date."""
    weekday = (days + 3) % 7
    thursday = days - weekday + 3
    year = cal.civil_from_days(thursday)[0]
    return year, (thursday - cal.days_from_civil(year, 1, 1)) // 7 + 1


def _time_part(unit: str, micros: int) -> tuple[int, int]:
    """Return a part of a time of day as (value, decimal places)."""
    if unit == "hour":
        return micros // MICROS_PER_HOUR, 0
    if unit == "minute":
        return micros // MICROS_PER_MINUTE % 60, 0
    within = micros % MICROS_PER_MINUTE
    return within, {"second": 6, "milliseconds": 3, "microseconds": 0}[unit]


def _display_year(year: int) -> int:
    # There is no year 0: it is 1 BC, shown as -1.
    return year if year > 0 else year - 1


def _date_part(unit: str, days: int) -> int | None:
    year, month, day = cal.civil_from_days(days)
    if unit in ("day", "month"):
        return day if unit == "day" else month
    if unit == "year":
        return _display_year(year)
    if unit == "quarter":
        return (month + 2) // 3
    if unit == "week":
        return iso_week(days)[1]
    if unit == "isoyear":
        return _display_year(iso_week(days)[0])
    if unit == "dow":
        return (days + 4) % 7
    if unit == "isodow":
        return (days + 3) % 7 + 1
    if unit == "doy":
        return days - cal.days_from_civil(year, 1, 1) + 1
    if unit == "decade":
        return year // 10
    if unit == "century":
        return (year + 99) // 100 if year > 0 else -((99 - (year - 1)) // 100)
    if unit == "millennium":
        return (year + 999) // 1000 if year > 0 else -((999 - (year - 1)) // 1000)
    if unit == "julian":
        return days + 2_440_588
    return None


def _timestamp_part(field: str, micros: int, type_name: str) -> tuple[int, int]:
    unit = _unit(field, type_name)
    if unit == "epoch":
        return micros, 6
    if unit in _OF_DAY:
        return _time_part(unit, micros % MICROS_PER_DAY)
    if unit == "julian":
        raise _not_supported(field, type_name)
    value = _date_part(unit, micros // MICROS_PER_DAY)
    if value is None:
        raise _not_supported(field, type_name)
    return value, 0


def _moment_part(context: Any, field: str, micros: int) -> tuple[int, int]:
    unit = _unit(field, "timestamp with time zone")
    if unit == "epoch":
        return micros, 6
    if unit.startswith("timezone"):
        offset = offset_at(micros // MICROS_PER_SECOND, context.zone)
        sign = -1 if offset < 0 else 1
        hours, minutes = abs(offset) // 3600 * sign, abs(offset) // 60 % 60 * sign
        return {"timezone": offset, "timezone_hour": hours, "timezone_minute": minutes}[unit], 0
    return _timestamp_part(field, to_local(micros, context.zone), "timestamp with time zone")


def _date_only_part(field: str, days: int) -> tuple[int, int]:
    unit = _unit(field, "date")
    if unit == "epoch":
        return days * 86_400, 0
    value = _date_part(unit, days)
    if value is None:
        raise _not_supported(field, "date")
    return value, 0


def _clock_part(field: str, micros: int) -> tuple[int, int]:
    unit = _unit(field, "time without time zone")
    if unit == "epoch":
        return micros, 6
    if unit not in _OF_DAY:
        raise _not_supported(field, "time without time zone")
    return _time_part(unit, micros)


def _interval_part(field: str, span: Interval) -> tuple[int, int]:
    unit = _unit(field, "interval")
    months, days, micros = span
    years, rest = toward_zero(months, 12)
    if unit == "epoch":
        # A year counts 365.25 days, a month 30.
        return (years * 31_557_600 + rest * 2_592_000 + days * 86_400) * MICROS_PER_SECOND + micros, 6
    simple = {
        "day": days, "month": rest, "year": years, "quarter": rest // 3 + 1, "decade": toward_zero(years, 10)[0],
        "century": toward_zero(years, 100)[0], "millennium": toward_zero(years, 1000)[0],
        "hour": toward_zero(micros, MICROS_PER_HOUR)[0],
        "minute": toward_zero(toward_zero(micros, MICROS_PER_HOUR)[1], MICROS_PER_MINUTE)[0],
    }  # fmt: skip
    if unit in simple:
        return simple[unit], 0
    if unit in _OF_DAY:
        within = toward_zero(micros, MICROS_PER_MINUTE)[1]
        return within, {"second": 6, "milliseconds": 3, "microseconds": 0}[unit]
    raise _not_supported(field, "interval")


_INFINITE: Final = frozenset(("epoch", "year", "decade", "century", "millennium", "isoyear", "julian"))


def _numeric(part: tuple[int, int]) -> Decimal:
    return Decimal(part[0]).scaleb(-part[1])


def _double(part: tuple[int, int]) -> float:
    return float(part[0] / 10 ** part[1])


def _infinite(field: str, value: int, ends: tuple[int, int]) -> float | bool | None:
    """Return the part of an infinite value: infinity for growing fields, NULL (None) for others; False when finite."""
    if value not in ends:
        return False
    if _UNITS.get(field.lower()) in _INFINITE:
        return math.inf if value > 0 else -math.inf
    return None


def _parts(name: str, convert: Callable[[tuple[int, int]], Any], infinite: Callable[[float], Any]) -> None:
    def of(part: Callable[..., tuple[int, int]], ends: tuple[int, int]) -> Callable[[str, int], Any]:
        def run(field: str, value: int) -> Any:
            end = _infinite(field, value, ends)
            if end is False:
                return convert(part(field, value))
            return None if end is None else infinite(end)

        return run

    function(f"{name}(text,timestamp)")(
        of(lambda field, v: _timestamp_part(field, v, "timestamp without time zone"), TIMESTAMP_ENDS)
    )
    function(f"{name}(text,time)")(lambda field, v: convert(_clock_part(field, v)))
    function(f"{name}(text,interval)")(lambda field, v: convert(_interval_part(field, v)))
    function(f"{name}(text,timestamptz)", context=True)(
        lambda c, field, v: of(lambda f, m: _moment_part(c, f, m), TIMESTAMP_ENDS)(field, v)
    )
    if name == "extract":
        function(f"{name}(text,date)")(of(_date_only_part, DATE_ENDS))
    else:
        # date_part of a date goes through timestamp, which knows hours.
        function(f"{name}(text,date)")(
            lambda field, v: of(lambda f, m: _timestamp_part(f, m, "timestamp without time zone"), TIMESTAMP_ENDS)(
                field, date_to_timestamp(v)
            )
        )


_parts("extract", _numeric, lambda end: Decimal("Infinity" if end > 0 else "-Infinity"))
_parts("date_part", _double, lambda end: end)


# Truncation


@function("date_trunc(text,timestamp)")
def truncate(field: str, micros: int, type_name: str = "timestamp without time zone") -> int:
    unit = _unit(field, type_name)
    if micros in TIMESTAMP_ENDS:
        return micros
    step = {"microseconds": 1, "milliseconds": 1000, "second": MICROS_PER_SECOND, "minute": MICROS_PER_MINUTE,
            "hour": MICROS_PER_HOUR, "day": MICROS_PER_DAY}.get(unit)  # fmt: skip
    if step is not None:
        return micros - micros % step
    days = micros // MICROS_PER_DAY
    if unit == "week":
        return (days - (days + 3) % 7) * MICROS_PER_DAY
    year, month, _ = cal.civil_from_days(days)
    if unit == "month":
        pass
    elif unit == "quarter":
        month -= (month - 1) % 3
    elif unit in ("year", "decade", "century", "millennium"):
        month = 1
        if unit == "decade":
            year -= year % 10
        elif unit == "century":
            year -= (year - 1) % 100
        elif unit == "millennium":
            year -= (year - 1) % 1000
    else:
        raise _not_supported(field, type_name)
    return cal.days_from_civil(year, month, 1) * MICROS_PER_DAY


@function("date_trunc(text,timestamptz)", context=True)
def _truncate_moment(context: Any, field: str, micros: int) -> int:
    return _truncate_in(field, micros, context.zone)


@function("date_trunc(text,timestamptz,text)", context=True)
def _truncate_in_zone(context: Any, field: str, micros: int, zone: str) -> int:
    return _truncate_in(field, micros, named_zone(zone))


def _truncate_in(field: str, micros: int, zone: tzinfo) -> int:
    return from_local(truncate(field, to_local(micros, zone), "timestamp with time zone"), zone)


@function("date_trunc(text,interval)")
def _truncate_interval(field: str, span: Interval) -> Interval:
    unit = _unit(field, "interval")
    months, days, micros = span
    by_months = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200, "millennium": 12000}.get(unit)
    if by_months is not None:
        return months - toward_zero(months, by_months)[1], 0, 0
    if unit == "day":
        return months, days, 0
    step = {"microseconds": 1, "milliseconds": 1000, "second": MICROS_PER_SECOND, "minute": MICROS_PER_MINUTE,
            "hour": MICROS_PER_HOUR}.get(unit)  # fmt: skip
    if step is None:
        raise _not_supported(field, "interval")
    return months, days, micros - toward_zero(micros, step)[1]


@function(*keys("date_bin", "interval,timestamp,timestamp", "interval,timestamptz,timestamptz"))
def _date_bin(stride: Interval, value: int, origin: int) -> int:
    if stride[0]:
        raise OrbitError("timestamps cannot be binned into intervals containing months or years", sqlstate="0A000")
    width = stride[1] * MICROS_PER_DAY + stride[2]
    if width <= 0:
        raise OrbitError("stride must be greater than zero", sqlstate="22008")
    return value - (value - origin) % width
