"""Dates, times, timestamps and intervals: arithmetic, parts, truncation, age.

Values are integers as `orbit.kernel.types` says; an interval is (months, days, microseconds).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import tzinfo
from decimal import Decimal
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from orbit.kernel.values import calendar as cal
from orbit.kernel.values import time_zone
from orbit.kernel.values.zones import MICROS_PER_DAY, MICROS_PER_SECOND, offset_at, offset_of_local
from services.storage.sql.evaluate.numbers import division_by_zero
from services.storage.sql.evaluate.registry import INLINE, function, keys

Interval = tuple[int, int, int]
MICROS_PER_HOUR: Final = 3600 * MICROS_PER_SECOND
MICROS_PER_MINUTE: Final = 60 * MICROS_PER_SECOND
TIMESTAMP_ENDS: Final = (cal.TIMESTAMP_INFINITY, cal.TIMESTAMP_MINUS_INFINITY)
DATE_ENDS: Final = (cal.DATE_INFINITY, cal.DATE_MINUS_INFINITY)


def _out_of_range(what: str) -> OrbitError:
    return OrbitError(f"{what} out of range", sqlstate="22008")


def check_timestamp(micros: int) -> int:
    if cal.TIMESTAMP_MIN <= micros < cal.TIMESTAMP_END:
        return micros
    raise _out_of_range("timestamp")


def check_date(days: int) -> int:
    if cal.DATE_MIN_DAYS <= days < cal.DATE_END_DAYS:
        return days
    raise _out_of_range("date")


def _check_interval(months: int, days: int, micros: int) -> Interval:
    if abs(months) < 1 << 31 and abs(days) < 1 << 31 and abs(micros) < 1 << 63:
        return months, days, micros
    raise _out_of_range("interval")


# Conversions between them


def date_to_timestamp(days: int) -> int:
    if days in DATE_ENDS:
        return cal.TIMESTAMP_INFINITY if days > 0 else cal.TIMESTAMP_MINUS_INFINITY
    micros = days * MICROS_PER_DAY
    if cal.TIMESTAMP_MIN <= micros < cal.TIMESTAMP_END:
        return micros
    raise OrbitError("date out of range for timestamp", sqlstate="22008")


def timestamp_to_date(micros: int) -> int:
    if micros in TIMESTAMP_ENDS:
        return cal.DATE_INFINITY if micros > 0 else cal.DATE_MINUS_INFINITY
    return micros // MICROS_PER_DAY


def to_local(micros: int, zone: tzinfo) -> int:
    """Return the wall clock (as a timestamp) of a moment in a zone."""
    if micros in TIMESTAMP_ENDS:
        return micros
    return check_timestamp(micros + offset_at(micros // MICROS_PER_SECOND, zone) * MICROS_PER_SECOND)


def from_local(micros: int, zone: tzinfo) -> int:
    """Return the moment at which a zone's wall clock reads this."""
    if micros in TIMESTAMP_ENDS:
        return micros
    return check_timestamp(micros - offset_of_local(micros // MICROS_PER_SECOND, zone) * MICROS_PER_SECOND)


# Comparisons across types


def _compared(left: Callable[[Any, Any], int], right: Callable[[Any, Any], int]) -> dict[str, Callable[..., bool]]:
    return {
        "=": lambda c, a, b: left(c, a) == right(c, b),
        "<>": lambda c, a, b: left(c, a) != right(c, b),
        "<": lambda c, a, b: left(c, a) < right(c, b),
        "<=": lambda c, a, b: left(c, a) <= right(c, b),
        ">": lambda c, a, b: left(c, a) > right(c, b),
        ">=": lambda c, a, b: left(c, a) >= right(c, b),
    }


_AS_LOCAL: Final[dict[str, Callable[[Any, int], int]]] = {
    "date": lambda _, v: date_to_timestamp(v),
    "timestamp": lambda _, v: v,
}
_AS_MOMENT: Final[dict[str, Callable[[Any, int], int]]] = {
    "date": lambda c, v: from_local(date_to_timestamp(v), c.zone),
    "timestamp": lambda c, v: from_local(v, c.zone),
    "timestamptz": lambda _, v: v,
}
for _left, _right in (("date", "timestamp"), ("timestamp", "date")):
    for _name, _test in _compared(_AS_LOCAL[_left], _AS_LOCAL[_right]).items():
        function(f"{_name}({_left},{_right})", context=True)(_test)
for _left, _right in (
    ("date", "timestamptz"), ("timestamptz", "date"), ("timestamp", "timestamptz"), ("timestamptz", "timestamp"),
):  # fmt: skip
    for _name, _test in _compared(_AS_MOMENT[_left], _AS_MOMENT[_right]).items():
        function(f"{_name}({_left},{_right})", context=True)(_test)


def interval_key(value: Interval) -> int:
    """Return an interval's length for comparisons: a month has 30 days, a day 24 hours."""
    return (value[0] * 30 + value[1]) * MICROS_PER_DAY + value[2]


for _name, _python in (("=", "=="), ("<>", "!="), ("<", "<"), ("<=", "<="), (">", ">"), (">=", ">=")):
    INLINE[f"{_name}(interval,interval)"] = f"(interval_key({{0}}) {_python} interval_key({{1}}))"


# Arithmetic


@function("+(date,int4)")
def _date_plus(days: int, count: int) -> int:
    return days if days in DATE_ENDS else check_date(days + count)


function("+(int4,date)")(lambda count, days: _date_plus(days, count))
function("-(date,int4)")(lambda days, count: _date_plus(days, -count))


@function("-(date,date)")
def _date_minus_date(a: int, b: int) -> int:
    if a in DATE_ENDS or b in DATE_ENDS:
        raise OrbitError("cannot subtract infinite dates", sqlstate="22008")
    return a - b


function("+(date,time)")(lambda days, micros: date_to_timestamp(days) + micros)
function("+(time,date)")(lambda micros, days: date_to_timestamp(days) + micros)


def add_months(days: int, months: int) -> int:
    """Move a date by months, to the end of a shorter month."""
    year, month, day = cal.civil_from_days(days)
    total = year * 12 + month - 1 + months
    year, month = total // 12, total % 12 + 1
    return cal.days_from_civil(year, month, min(day, cal.days_in_month(year, month)))


def timestamp_plus(micros: int, span: Interval) -> int:
    """Add months, then days, then time."""
    if micros in TIMESTAMP_ENDS:
        return micros
    months, days, time = span
    if months:
        date, rest = divmod(micros, MICROS_PER_DAY)
        micros = add_months(date, months) * MICROS_PER_DAY + rest
    return check_timestamp(micros + days * MICROS_PER_DAY + time)


def negate_interval(span: Interval) -> Interval:
    return _check_interval(-span[0], -span[1], -span[2])


def moment_plus(context: Any, micros: int, span: Interval) -> int:
    """Add to a timestamptz: months and days on the session's calendar, time on the clock."""
    if micros in TIMESTAMP_ENDS:
        return micros
    months, days, time = span
    if months or days:
        micros = from_local(timestamp_plus(to_local(micros, context.zone), (months, days, 0)), context.zone)
    return check_timestamp(micros + time)


function("+(timestamp,interval)")(timestamp_plus)
function("+(interval,timestamp)")(lambda span, v: timestamp_plus(v, span))
function("-(timestamp,interval)")(lambda v, span: timestamp_plus(v, negate_interval(span)))
function("+(date,interval)")(lambda v, span: timestamp_plus(date_to_timestamp(v), span))
function("+(interval,date)")(lambda span, v: timestamp_plus(date_to_timestamp(v), span))
function("-(date,interval)")(lambda v, span: timestamp_plus(date_to_timestamp(v), negate_interval(span)))
function("+(timestamptz,interval)", context=True)(moment_plus)
function("+(interval,timestamptz)", context=True)(lambda c, span, v: moment_plus(c, v, span))
function("-(timestamptz,interval)", context=True)(lambda c, v, span: moment_plus(c, v, negate_interval(span)))


@function("-(timestamp,timestamp)", "-(timestamptz,timestamptz)")
def timestamp_minus(a: int, b: int) -> Interval:
    if a in TIMESTAMP_ENDS or b in TIMESTAMP_ENDS:
        raise OrbitError("cannot subtract infinite timestamps", sqlstate="22008")
    return justify_hours((0, 0, a - b))


def _toward_zero(value: int, unit: int) -> tuple[int, int]:
    whole = abs(value) // unit
    whole = whole if value >= 0 else -whole
    return whole, value - whole * unit


@function("justify_hours(interval)")
def justify_hours(span: Interval) -> Interval:
    whole, time = _toward_zero(span[2], MICROS_PER_DAY)
    days = span[1] + whole
    if days > 0 and time < 0:
        days, time = days - 1, time + MICROS_PER_DAY
    elif days < 0 and time > 0:
        days, time = days + 1, time - MICROS_PER_DAY
    return span[0], days, time


@function("justify_days(interval)")
def justify_days(span: Interval) -> Interval:
    whole, days = _toward_zero(span[1], 30)
    months = span[0] + whole
    if months > 0 and days < 0:
        months, days = months - 1, days + 30
    elif months < 0 and days > 0:
        months, days = months + 1, days - 30
    return months, days, span[2]


@function("justify_interval(interval)")
def _justify_interval(span: Interval) -> Interval:
    months, days, time = span
    whole, time = _toward_zero(time, MICROS_PER_DAY)
    days += whole
    whole, days = _toward_zero(days, 30)
    months += whole
    if months > 0 and (days < 0 or (days == 0 and time < 0)):
        days, months = days + 30, months - 1
    elif months < 0 and (days > 0 or (days == 0 and time > 0)):
        days, months = days - 30, months + 1
    if days > 0 and time < 0:
        time, days = time + MICROS_PER_DAY, days - 1
    elif days < 0 and time > 0:
        time, days = time - MICROS_PER_DAY, days + 1
    return months, days, time


function("+(time,interval)")(lambda v, span: (v + span[2]) % MICROS_PER_DAY)
function("+(interval,time)")(lambda span, v: (v + span[2]) % MICROS_PER_DAY)
function("-(time,interval)")(lambda v, span: (v - span[2]) % MICROS_PER_DAY)
function("-(time,time)")(lambda a, b: (0, 0, a - b))
function("+(interval,interval)")(lambda a, b: _check_interval(a[0] + b[0], a[1] + b[1], a[2] + b[2]))
function("-(interval,interval)")(lambda a, b: _check_interval(a[0] - b[0], a[1] - b[1], a[2] - b[2]))
function("-(interval)")(negate_interval)


def _rounded_micros(value: float) -> float:
    return round(value * 1e6) / 1e6


@function("*(interval,float8)")
def interval_times(span: Interval, factor: float) -> Interval:
    """Multiply, spilling fractions of months into days and of days into time (interval_mul)."""
    return _scaled(span, lambda part: part * factor)


def _scaled(span: Interval, scale: Callable[[int], float]) -> Interval:
    exact_months, exact_days = scale(span[0]), scale(span[1])
    if not math.isfinite(exact_months) or not math.isfinite(exact_days):
        raise _out_of_range("interval")
    months, days = math.trunc(exact_months), math.trunc(exact_days)
    month_days = _rounded_micros((exact_months - months) * 30)
    seconds = _rounded_micros((exact_days - days + month_days - math.trunc(month_days)) * 86_400)
    if abs(seconds) >= 86_400:
        whole = math.trunc(seconds / 86_400)
        days += whole
        seconds -= whole * 86_400
    days += math.trunc(month_days)
    return _check_interval(months, days, round(scale(span[2]) + seconds * MICROS_PER_SECOND))


function("*(float8,interval)")(lambda factor, span: interval_times(span, factor))


@function("/(interval,float8)")
def _interval_over(span: Interval, divisor: float) -> Interval:
    if divisor == 0:
        raise division_by_zero()
    return _scaled(span, lambda part: part / divisor)


# age


def _fields(micros: int) -> tuple[int, int, int, int]:
    days, time = divmod(micros, MICROS_PER_DAY)
    return (*cal.civil_from_days(days), time)


@function("age(timestamp,timestamp)")
def age(a: int, b: int) -> Interval:
    """Subtract field by field, so that the result has years, months and days."""
    if a in TIMESTAMP_ENDS or b in TIMESTAMP_ENDS:
        raise OrbitError("cannot subtract infinite timestamps", sqlstate="22008")
    sign = 1
    if a < b:
        a, b, sign = b, a, -1
    (year_a, month_a, day_a, time_a), (year_b, month_b, day_b, time_b) = _fields(a), _fields(b)
    months, days, time = (year_a - year_b) * 12 + month_a - month_b, day_a - day_b, time_a - time_b
    if time < 0:
        time, days = time + MICROS_PER_DAY, days - 1
    while days < 0:
        # Borrow the month of the earlier date.
        days += cal.days_in_month(year_b, month_b)
        months -= 1
    return sign * months, sign * days, sign * time


function("age(timestamptz,timestamptz)", context=True)(lambda c, a, b: age(to_local(a, c.zone), to_local(b, c.zone)))


def _today(context: Any) -> int:
    return to_local(context.now_us, context.zone) // MICROS_PER_DAY * MICROS_PER_DAY


function("age(timestamp)", context=True)(lambda c, v: age(_today(c), v))
function("age(timestamptz)", context=True)(lambda c, v: age(_today(c), to_local(v, c.zone)))


# Parts

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
    years, rest = _toward_zero(months, 12)
    if unit == "epoch":
        # A year counts 365.25 days, a month 30.
        return (years * 31_557_600 + rest * 2_592_000 + days * 86_400) * MICROS_PER_SECOND + micros, 6
    simple = {
        "day": days, "month": rest, "year": years, "quarter": rest // 3 + 1, "decade": _toward_zero(years, 10)[0],
        "century": _toward_zero(years, 100)[0], "millennium": _toward_zero(years, 1000)[0],
        "hour": _toward_zero(micros, MICROS_PER_HOUR)[0],
        "minute": _toward_zero(_toward_zero(micros, MICROS_PER_HOUR)[1], MICROS_PER_MINUTE)[0],
    }  # fmt: skip
    if unit in simple:
        return simple[unit], 0
    if unit in _OF_DAY:
        within = _toward_zero(micros, MICROS_PER_MINUTE)[1]
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
    return _truncate_in(field, micros, _zone(zone))


def _truncate_in(field: str, micros: int, zone: tzinfo) -> int:
    return from_local(truncate(field, to_local(micros, zone), "timestamp with time zone"), zone)


@function("date_trunc(text,interval)")
def _truncate_interval(field: str, span: Interval) -> Interval:
    unit = _unit(field, "interval")
    months, days, micros = span
    by_months = {"month": 1, "quarter": 3, "year": 12, "decade": 120, "century": 1200, "millennium": 12000}.get(unit)
    if by_months is not None:
        return months - _toward_zero(months, by_months)[1], 0, 0
    if unit == "day":
        return months, days, 0
    step = {"microseconds": 1, "milliseconds": 1000, "second": MICROS_PER_SECOND, "minute": MICROS_PER_MINUTE,
            "hour": MICROS_PER_HOUR}.get(unit)  # fmt: skip
    if step is None:
        raise _not_supported(field, "interval")
    return months, days, micros - _toward_zero(micros, step)[1]


@function(*keys("date_bin", "interval,timestamp,timestamp", "interval,timestamptz,timestamptz"))
def _date_bin(stride: Interval, value: int, origin: int) -> int:
    if stride[0]:
        raise OrbitError("timestamps cannot be binned into intervals containing months or years", sqlstate="0A000")
    width = stride[1] * MICROS_PER_DAY + stride[2]
    if width <= 0:
        raise OrbitError("stride must be greater than zero", sqlstate="22008")
    return value - (value - origin) % width


# Construction and zones


def _zone(name: str) -> tzinfo:
    try:
        return time_zone(name)
    except OrbitError:
        raise OrbitError(f'time zone "{name}" not recognized', sqlstate="22023") from None


function("timezone(text,timestamp)")(lambda zone, v: from_local(v, _zone(zone)))
function("timezone(text,timestamptz)")(lambda zone, v: to_local(v, _zone(zone)))
function("timezone(interval,timestamp)")(lambda span, v: check_timestamp(v - span[2]))
function("timezone(interval,timestamptz)")(lambda span, v: check_timestamp(v + span[2]))


@function("make_date(int4,int4,int4)")
def _make_date(year: int, month: int, day: int) -> int:
    actual = year if year > 0 else year + 1
    if year == 0 or not 1 <= month <= 12 or not 1 <= day <= cal.days_in_month(actual, month):
        raise OrbitError(f"date field value out of range: {year}-{month:02d}-{day:02d}", sqlstate="22008")
    return check_date(cal.days_from_civil(actual, month, day))


@function("make_time(int4,int4,float8)")
def _make_time(hour: int, minute: int, seconds: float) -> int:
    if not (0 <= hour <= 24 and 0 <= minute < 60 and 0 <= seconds <= 60):
        raise OrbitError(f"time field value out of range: {hour}:{minute:02d}:{seconds:02g}", sqlstate="22008")
    return hour * MICROS_PER_HOUR + minute * MICROS_PER_MINUTE + round(seconds * MICROS_PER_SECOND)


@function("make_timestamp(int4,int4,int4,int4,int4,float8)")
def _make_timestamp(year: int, month: int, day: int, hour: int, minute: int, seconds: float) -> int:
    return check_timestamp(_make_date(year, month, day) * MICROS_PER_DAY + _make_time(hour, minute, seconds))


@function("to_timestamp(float8)")
def _to_timestamp(seconds: float) -> int:
    if math.isinf(seconds):
        return cal.TIMESTAMP_INFINITY if seconds > 0 else cal.TIMESTAMP_MINUS_INFINITY
    if seconds != seconds:
        raise OrbitError("timestamp cannot be NaN", sqlstate="22008")
    return check_timestamp(round(seconds * MICROS_PER_SECOND))


function("isfinite(date)")(lambda v: v not in DATE_ENDS)
function("isfinite(timestamp)", "isfinite(timestamptz)")(lambda v: v not in TIMESTAMP_ENDS)
function("isfinite(interval)")(lambda v: True)
function(*keys("now transaction_timestamp", ""), context=True)(lambda c: c.now_us)
function("statement_timestamp()", context=True)(lambda c: c.statement_us or c.now_us)
function("clock_timestamp()", context=True)(lambda c: c.clock_us())
