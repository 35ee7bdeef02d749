"""Dates and times as integers: the proleptic Gregorian calendar, and the text that PostgreSQL 15 prints (ISO style).

Owns day arithmetic beyond the years of `datetime` (BC, and past 9999) and the output of date, time, timestamp
and timestamptz. Input is in `datetime_input`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, tzinfo

from orbit.kernel.values.zones import MICROS_PER_DAY, MICROS_PER_SECOND, offset_at

EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
POSTGRES_EPOCH_DAYS = 10_957
"""2000-01-01, from which PostgreSQL counts, as days since 1970."""
POSTGRES_EPOCH_MICROS = POSTGRES_EPOCH_DAYS * MICROS_PER_DAY

DATE_INFINITY = (1 << 31) - 1
DATE_MINUS_INFINITY = -(1 << 31)
TIMESTAMP_INFINITY = (1 << 63) - 1
TIMESTAMP_MINUS_INFINITY = -(1 << 63)

DATE_MIN_DAYS = -2_440_588
"""4714-11-24 BC, Julian day 0."""
DATE_END_DAYS = 2_145_042_906
"""The day after 5874897-12-31, PostgreSQL's last date."""
TIMESTAMP_MIN = DATE_MIN_DAYS * MICROS_PER_DAY
TIMESTAMP_END = TIMESTAMP_INFINITY
"""64 bits of microseconds since 1970 end in the year 294247; PostgreSQL, counting from 2000, ends with 294276."""

_FIRST_DAY = 1 - EPOCH_ORDINAL
_LAST_DAY = date.max.toordinal() - EPOCH_ORDINAL


def days_from_civil(year: int, month: int, day: int) -> int:
    """Return days since 1970-01-01 of a Gregorian date; year 0 is 1 BC.

    Eras of 400 years, years from March, so that the leap day is the last (H. Hinnant's chrono algorithms).
    """
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Return (year, month, day) of a day since 1970-01-01; year 0 is 1 BC."""
    days += 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def days_in_month(year: int, month: int) -> int:
    """Return the length of a month; year 0 is 1 BC."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def _date_text(days: int) -> tuple[str, str]:
    """Return the date and its era suffix ('' or ' BC')."""
    if _FIRST_DAY <= days <= _LAST_DAY:
        return date.fromordinal(days + EPOCH_ORDINAL).isoformat(), ""
    year, month, day = civil_from_days(days)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}", ""
    return f"{1 - year:04d}-{month:02d}-{day:02d}", " BC"


def format_date(days: int) -> bytes:
    if _FIRST_DAY <= days <= _LAST_DAY:
        return date.fromordinal(days + EPOCH_ORDINAL).isoformat().encode()
    if days == DATE_INFINITY:
        return b"infinity"
    if days == DATE_MINUS_INFINITY:
        return b"-infinity"
    text, era = _date_text(days)
    return (text + era).encode()


def _time_text(micros: int) -> str:
    seconds, fraction = divmod(micros, MICROS_PER_SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    if fraction:
        return f"{hour:02d}:{minute:02d}:{second:02d}." + f"{fraction:06d}".rstrip("0")
    return f"{hour:02d}:{minute:02d}:{second:02d}"


def format_time(micros: int) -> bytes:
    return _time_text(micros).encode()


def format_timestamp(micros: int) -> bytes:
    if micros == TIMESTAMP_INFINITY:
        return b"infinity"
    if micros == TIMESTAMP_MINUS_INFINITY:
        return b"-infinity"
    days, of_day = divmod(micros, MICROS_PER_DAY)
    text, era = _date_text(days)
    return f"{text} {_time_text(of_day)}{era}".encode()


def offset_text(offset: int) -> str:
    """Return '+05:30' for seconds east of UTC; minutes and seconds only where there are any."""
    minutes, seconds = divmod(abs(offset), 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{'-' if offset < 0 else '+'}{hours:02d}"
    if seconds:
        return f"{text}:{minutes:02d}:{seconds:02d}"
    return f"{text}:{minutes:02d}" if minutes else text


def timestamptz_formatter(zone: tzinfo) -> Callable[[int], bytes]:
    """Return the printer of timestamptz for a session in `zone`."""

    def format_timestamptz(micros: int) -> bytes:
        if micros == TIMESTAMP_INFINITY:
            return b"infinity"
        if micros == TIMESTAMP_MINUS_INFINITY:
            return b"-infinity"
        offset = offset_at(micros // MICROS_PER_SECOND, zone)
        days, of_day = divmod(micros + offset * MICROS_PER_SECOND, MICROS_PER_DAY)
        text, era = _date_text(days)
        return f"{text} {_time_text(of_day)}{offset_text(offset)}{era}".encode()

    return format_timestamptz
