"""Dates, times, timestamps and intervals: arithmetic, parts, truncation, age.

Values are integers as `orbit.kernel.types` says; an interval is (months, days, microseconds).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import tzinfo
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


def toward_zero(value: int, unit: int) -> tuple[int, int]:
    whole = abs(value) // unit
    whole = whole if value >= 0 else -whole
    return whole, value - whole * unit


@function("justify_hours(interval)")
def justify_hours(span: Interval) -> Interval:
    whole, time = toward_zero(span[2], MICROS_PER_DAY)
    days = span[1] + whole
    if days > 0 and time < 0:
        days, time = days - 1, time + MICROS_PER_DAY
    elif days < 0 and time > 0:
        days, time = days + 1, time - MICROS_PER_DAY
    return span[0], days, time


@function("justify_days(interval)")
def justify_days(span: Interval) -> Interval:
    whole, days = toward_zero(span[1], 30)
    months = span[0] + whole
    if months > 0 and days < 0:
        months, days = months - 1, days + 30
    elif months < 0 and days > 0:
        months, days = months + 1, days - 30
    return months, days, span[2]


@function("justify_interval(interval)")
def _justify_interval(span: Interval) -> Interval:
    months, days, time = span
    whole, time = toward_zero(time, MICROS_PER_DAY)
    days += whole
    whole, days = toward_zero(days, 30)
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


# Construction and zones


def named_zone(name: str) -> tzinfo:
    try:
        return time_zone(name)
    except OrbitError:
        raise OrbitError(f'time zone "{name}" not recognized', sqlstate="22023") from None


function("timezone(text,timestamp)")(lambda zone, v: from_local(v, named_zone(zone)))
function("timezone(text,timestamptz)")(lambda zone, v: to_local(v, named_zone(zone)))
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
