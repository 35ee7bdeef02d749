"""Dates and times from text, as PostgreSQL 15 reads them with DateStyle 'ISO, MDY'.

Owns the input of date, time, timestamp and timestamptz. ISO text takes a fast path of one regular expression; all
other forms are cut into fields (`_Reader`), and the fields checked. Errors: 22007 for a form that is not known,
22008 for a field out of its range, 22009 for a zone offset, 22023 for a zone's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from typing import NoReturn

from orbit.kernel.errors import InvalidValue
from orbit.kernel.values import calendar as cal
from orbit.kernel.values.numbers import SPACE
from orbit.kernel.values.zones import (
    ABBREVIATIONS,
    MAX_OFFSET_HOURS,
    MICROS_PER_DAY,
    MICROS_PER_SECOND,
    named_zone,
    offset_at,
    offset_of_local,
)

NowMicros = Callable[[], int]
"""Gives the transaction's start in microseconds since 1970 UTC, for 'now', 'today' and their kin."""

_iso = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(?:(Z)|([+-])(\d\d)(?::?(\d\d))?)?)?"
).fullmatch
_clock = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?").fullmatch

_MONTHS = {
    name: number
    for number, names in enumerate(
        (
            ("jan", "january"),
            ("feb", "february"),
            ("mar", "march"),
            ("apr", "april"),
            ("may",),
            ("jun", "june"),
            ("jul", "july"),
            ("aug", "august"),
            ("sep", "sept", "september"),
            ("oct", "october"),
            ("nov", "november"),
            ("dec", "december"),
        ),
        start=1,
    )
    for name in names
}
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
_IGNORED = frozenset(
    (*_WEEKDAYS, *(day[:3] for day in _WEEKDAYS), "tues", "weds", "wednes", "thur", "thurs", "at", "on")
)
_SPECIAL = frozenset(("now", "today", "tomorrow", "yesterday", "epoch", "infinity", "-infinity", "+infinity"))

_TOKEN = re.compile(
    r"""[\s,]*(?:
        (?P<time>\d+:\d+(?::\d+)?(?:\.\d*)?)
      | (?P<triple>\d+(?P<mark>[-/.])\d+(?P=mark)\d+(?!\d|(?P=mark)))
      | (?P<named>\d+-[a-z]+-\d+|[a-z]{3,9}[-/]\d+[-/]\d+|\d+/[a-z]+/\d+)
      | (?P<ordinal>\d{4}[.-]\d{3}(?!\d))
      | (?P<offset>[+-]\d+(?::\d+){0,2})
      | (?P<infinity>[+-]?infinity)
      | (?P<zone>[a-z]+(?:/[a-z0-9_+-]+)+|[a-z]+\d[a-z]+)
      | (?P<julian>j\d+)
      | (?P<t>t(?=\d))
      | (?P<word>[a-z]+)
      | (?P<number>\d+(?:\.\d*)?)
    )""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Fields:
    """What a literal says. `day` is days since 1970; None where nothing was said."""

    day: int | None = None
    micros: int | None = None
    offset: int | None = None
    zone: tzinfo | None = None
    special: str = ""


class _Reader:
    """Reads one literal. `type_name` and `text` are for the error messages."""

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name = type_name
        self.text = text
        self.year: int | None = None
        self.month: int | None = None
        self.month_day: int | None = None
        self.two_digits = False
        self.day_of_year = 1
        self.era = ""
        self.half = ""  # am or pm
        self.clock: tuple[int, int, int, str] | None = None
        self.fields = Fields()

    # -- errors

    def bad_syntax(self) -> NoReturn:
        raise InvalidValue(f'invalid input syntax for type {self.type_name}: "{self.text}"', sqlstate="22007")

    def out_of_range(self, *, maybe_style: bool = False) -> NoReturn:
        hint = 'Perhaps you need a different "datestyle" setting.' if maybe_style else None
        raise InvalidValue(f'date/time field value out of range: "{self.text}"', sqlstate="22008", hint=hint)

    # -- fields

    def read(self) -> Fields:
        body = self.text.strip(SPACE).lower()
        at = 0
        if not body:
            self.bad_syntax()
        while at < len(body):
            match = _TOKEN.match(body, at)
            if match is None:
                if not body[at:].strip(" ,\t\n\v\f\r"):
                    break
                self.bad_syntax()
            kind = match.lastgroup or ""
            kind = "triple" if kind == "mark" else kind
            if kind in ("triple", "named") and at:  # PostgreSQL takes a whole date only at the start
                self.bad_syntax()
            getattr(self, "_" + kind)(match[kind])
            at = match.end()
        self._finish()
        return self.fields

    def _time(self, token: str) -> None:
        if self.clock is not None:
            self.bad_syntax()
        body, dot, fraction = token.partition(".")
        parts = [int(part) for part in body.split(":")]
        if len(parts) == 2 and dot:
            parts.insert(0, 0)
        self.clock = (parts[0], parts[1], parts[2] if len(parts) > 2 else 0, fraction)

    def _set_date(self, year: str, month: int, day: int) -> None:
        if self.year is not None or self.month is not None:
            self.bad_syntax()
        self.year, self.month, self.month_day = int(year), month, day
        self.two_digits = len(year) <= 2

    def _triple(self, token: str) -> None:
        first, second, third = re.split(r"[-/.]", token)
        if len(first) > 2:
            self._set_date(first, int(second), int(third))
        else:
            self._set_date(third, int(first), int(second))

    def _named(self, token: str) -> None:
        parts = re.split(r"[-/]", token)
        at = next(at for at, part in enumerate(parts) if part.isalpha())
        month = _MONTHS.get(parts.pop(at))
        if month is None:
            self.bad_syntax()
        if len(parts[0]) > 2:
            self._set_date(parts[0], month, int(parts[1]))
        else:
            self._set_date(parts[1], month, int(parts[0]))

    def _ordinal(self, token: str) -> None:
        if token[4] == "-":  # '2001-001' would be an offset after a year, which PostgreSQL refuses too
            self.bad_syntax()
        day = int(token[5:])
        if not 1 <= day <= 366:
            self.out_of_range()
        self._set_date(token[:4], 1, 1)
        self.day_of_year = day

    def _julian(self, token: str) -> None:
        if self.fields.day is not None or self.year is not None:
            self.bad_syntax()
        self.fields.day = int(token[1:]) + cal.DATE_MIN_DAYS

    def _t(self, token: str) -> None:
        if self.clock is not None:
            self.bad_syntax()

    def _offset(self, token: str) -> None:
        if self.fields.offset is not None or self.fields.zone is not None:
            self.bad_syntax()
        parts = token[1:].split(":")
        if len(parts) == 1 and len(parts[0]) > 2:
            digits = parts[0].rjust(4 if len(parts[0]) <= 4 else 6, "0")
            parts = [digits[at : at + 2] for at in range(0, len(digits), 2)]
        hours, minutes, seconds = (int(part) for part in (*parts, "0", "0")[:3])
        if hours > MAX_OFFSET_HOURS or minutes > 59 or seconds > 59:
            raise InvalidValue(f'time zone displacement out of range: "{self.text}"', sqlstate="22009")
        total = hours * 3600 + minutes * 60 + seconds
        self.fields.offset = -total if token[0] == "-" else total

    def _infinity(self, token: str) -> None:
        self._word(token.removeprefix("+"))

    def _zone(self, token: str) -> None:
        zone = named_zone(token)
        if zone is None:
            raise InvalidValue(f'time zone "{token}" not recognized', sqlstate="22023")
        if self.fields.zone is not None or self.fields.offset is not None:
            self.bad_syntax()
        self.fields.zone = zone

    def _word(self, token: str) -> None:
        if token in _MONTHS:
            if self.month is not None:
                self.bad_syntax()
            self.month = _MONTHS[token]
        elif token in ("am", "pm"):
            self.half = token
        elif token in ("bc", "ad"):
            if self.era:
                self.bad_syntax()
            self.era = token
        elif token in _IGNORED:
            return
        elif token in _SPECIAL:
            if self.fields.special:
                self.bad_syntax()
            self.fields.special = token
        elif token == "allballs":
            self.clock = (0, 0, 0, "")
            self.fields.offset = 0
        elif token in ABBREVIATIONS and self.fields.offset is None:
            self.fields.offset = ABBREVIATIONS[token]
        elif token != "t" and (zone := named_zone(token)) is not None:
            self.fields.zone = zone
        else:
            self.bad_syntax()

    def _number(self, token: str) -> None:
        digits, _, fraction = token.partition(".")
        has_date = None not in (self.year, self.month, self.month_day)
        if has_date or self.fields.day is not None or self.type_name == "time":
            if len(digits) not in (2, 4, 6) or self.clock is not None:
                self.bad_syntax()
            digits = digits.ljust(6, "0")
            self.clock = (int(digits[:2]), int(digits[2:4]), int(digits[4:6]), fraction)
        elif fraction or "." in token:
            self.bad_syntax()
        elif self.month is None and len(digits) >= 6:
            self._set_date(digits[:-4], int(digits[-4:-2]), int(digits[-2:]))
        elif len(digits) > 2:
            if self.year is not None:
                self.bad_syntax()
            self.year = int(digits)
        elif self.month_day is None and (self.month is not None or self.year is None):
            self.month_day = int(digits)
        elif self.year is None:
            self.year, self.two_digits = int(digits), True
        else:
            self.bad_syntax()

    # -- the whole

    def _finish(self) -> None:
        fields = self.fields
        if fields.special:
            if self.year is not None or self.month is not None or fields.day is not None:
                self.bad_syntax()
        elif fields.day is None:
            said = (self.year is not None) + (self.month is not None) + (self.month_day is not None)
            if said == 3:
                fields.day = self._day()
            elif said or self.era:
                self.bad_syntax()
        if self.clock is not None:
            fields.micros = self._micros(*self.clock)
        elif self.half:
            self.bad_syntax()

    def _day(self) -> int:
        year, month, day = self.year, self.month, self.month_day
        assert year is not None and month is not None and day is not None
        if self.two_digits and self.era != "bc":
            year += 2000 if year < 70 else 1900
        if year <= 0:
            self.out_of_range()
        if self.era == "bc":
            year = 1 - year
        if not 1 <= month <= 12 or not 1 <= day <= 31:
            self.out_of_range(maybe_style=True)
        if day > cal.days_in_month(year, month):
            self.out_of_range()
        return cal.days_from_civil(year, month, day) + self.day_of_year - 1

    def _micros(self, hour: int, minute: int, second: int, fraction: str) -> int:
        if self.half:
            if not 1 <= hour <= 12:
                self.out_of_range()
            hour = hour % 12 + (12 if self.half == "pm" else 0)
        rest = int(fraction.ljust(6, "0")) if len(fraction) <= 6 else round(float(f"0.{fraction}") * MICROS_PER_SECOND)
        micros = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + rest
        if minute > 59 or second > 60 or micros > MICROS_PER_DAY:
            self.out_of_range()
        return micros


def _now(now: NowMicros | None, word: str) -> int:
    if now is None:
        raise InvalidValue(f'date/time value "{word}" needs a running transaction', sqlstate="0A000")
    return now()


def _special_day(word: str, zone: tzinfo, now: NowMicros | None) -> int:
    """Return the local day that 'now', 'today', 'tomorrow' or 'yesterday' names."""
    moment = _now(now, word)
    local = moment + offset_at(moment // MICROS_PER_SECOND, zone) * MICROS_PER_SECOND
    return local // MICROS_PER_DAY + {"tomorrow": 1, "yesterday": -1}.get(word, 0)


# -- date ---------------------------------------------------------------------------------------------------


def date_parser(zone: tzinfo, now: NowMicros | None) -> Callable[[str], int]:
    """Return the parser of date, giving days since 1970."""

    def parse(text: str) -> int:
        match = _iso(text)
        if match is not None and match[4] is None:
            year, month, day = int(match[1]), int(match[2]), int(match[3])
            if 1 <= month <= 12 and year > 0 and 1 <= day <= cal.days_in_month(year, month):
                return cal.days_from_civil(year, month, day)
        reader = _Reader("date", text)
        fields = reader.read()
        if fields.special == "infinity":
            return cal.DATE_INFINITY
        if fields.special == "-infinity":
            return cal.DATE_MINUS_INFINITY
        if fields.special == "epoch":
            return 0
        if fields.special:
            return _special_day(fields.special, zone, now)
        if fields.day is None:
            reader.bad_syntax()
        if not cal.DATE_MIN_DAYS <= fields.day < cal.DATE_END_DAYS:
            raise InvalidValue(f'date out of range: "{text}"', sqlstate="22008")
        return fields.day

    return parse


# -- time ---------------------------------------------------------------------------------------------------


def _fraction(digits: str | None) -> int:
    return int(digits.ljust(6, "0")) if digits else 0


def time_parser(modifier: int, zone: tzinfo, now: NowMicros | None) -> Callable[[str], int]:
    """Return the parser of time(p), giving microseconds since midnight; 24:00:00 is a value."""
    scale = 10 ** (6 - modifier) if 0 <= modifier < 6 else 1

    def parse(text: str) -> int:
        match = _clock(text)
        micros: int | None = None
        if match is not None:
            hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
            if hour < 24 and minute < 60 and second < 60:
                micros = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + _fraction(match[4])
        if micros is None:
            micros = _read_time(text, zone, now)
        return (micros + scale // 2) // scale * scale if scale > 1 else micros

    return parse


def _read_time(text: str, zone: tzinfo, now: NowMicros | None) -> int:
    reader = _Reader("time", text)
    fields = reader.read()
    if fields.special == "now":
        moment = _now(now, "now")
        return (moment + offset_at(moment // MICROS_PER_SECOND, zone) * MICROS_PER_SECOND) % MICROS_PER_DAY
    if fields.special or fields.micros is None or (fields.zone is not None and fields.day is None):
        reader.bad_syntax()
    return fields.micros


# -- timestamps ---------------------------------------------------------------------------------------------


def _round_timestamp(micros: int, scale: int) -> int:
    """Round half away from 2000-01-01, from which PostgreSQL counts."""
    since = micros - cal.POSTGRES_EPOCH_MICROS
    rounded = (abs(since) + scale // 2) // scale * scale
    return (rounded if since >= 0 else -rounded) + cal.POSTGRES_EPOCH_MICROS


def time_rounder(modifier: int) -> Callable[[int], int] | None:
    """Return what time(p) does to a value; None for full precision."""
    scale = 10 ** (6 - modifier) if 0 <= modifier < 6 else 1
    return (lambda micros: (micros + scale // 2) // scale * scale) if scale > 1 else None


def timestamp_rounder(modifier: int) -> Callable[[int], int] | None:
    """Return what timestamp(p) and timestamptz(p) do to a value; None for full precision."""
    scale = 10 ** (6 - modifier) if 0 <= modifier < 6 else 1
    if scale == 1:
        return None
    ends = (cal.TIMESTAMP_INFINITY, cal.TIMESTAMP_MINUS_INFINITY)
    return lambda micros: micros if micros in ends else _round_timestamp(micros, scale)


def _timestamp_parser(
    type_name: str, modifier: int, zone: tzinfo, now: NowMicros | None, *, with_zone: bool
) -> Callable[[str], int]:
    scale = 10 ** (6 - modifier) if 0 <= modifier < 6 else 1

    def to_utc(local: int, offset: int | None, named: tzinfo | None) -> int:
        if not with_zone:
            return local
        if offset is None:
            offset = offset_of_local(local // MICROS_PER_SECOND, named or zone)
        return local - offset * MICROS_PER_SECOND

    def read(text: str) -> int:
        reader = _Reader(type_name, text)
        fields = reader.read()
        if fields.special == "infinity":
            return cal.TIMESTAMP_INFINITY
        if fields.special == "-infinity":
            return cal.TIMESTAMP_MINUS_INFINITY
        if fields.special == "epoch":
            return 0
        if fields.special == "now":
            moment = _now(now, "now")
            return moment if with_zone else moment + offset_at(moment // MICROS_PER_SECOND, zone) * MICROS_PER_SECOND
        day = _special_day(fields.special, zone, now) if fields.special else fields.day
        if day is None:
            reader.bad_syntax()
        return to_utc(day * MICROS_PER_DAY + (fields.micros or 0), fields.offset, fields.zone)

    def parse(text: str) -> int:
        match = _iso(text)
        micros: int | None = None
        if match is not None:
            y, mo, d, h, mi, s, fraction, utc, sign, zone_hours, zone_minutes = match.groups()
            year, month, day = int(y), int(mo), int(d)
            hour, minute, second = int(h or 0), int(mi or 0), int(s or 0)
            offset = 0 if utc else None
            if sign:
                offset = int(zone_hours) * 3600 + int(zone_minutes or 0) * 60
                offset = -offset if sign == "-" else offset
            # Whatever is out of the ordinary goes the slow way, which words the errors.
            valid = 1 <= month <= 12 and year > 0 and 1 <= day <= cal.days_in_month(year, month)
            if valid and hour < 24 and minute < 60 and second < 60 and abs(offset or 0) < 54_000:
                clock = ((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + _fraction(fraction)
                micros = to_utc(cal.days_from_civil(year, month, day) * MICROS_PER_DAY + clock, offset, None)
        if micros is None:
            micros = read(text)
            if micros in (cal.TIMESTAMP_INFINITY, cal.TIMESTAMP_MINUS_INFINITY):
                return micros
        if scale > 1:
            micros = _round_timestamp(micros, scale)
        if not cal.TIMESTAMP_MIN <= micros < cal.TIMESTAMP_END:
            raise InvalidValue(f'timestamp out of range: "{text}"', sqlstate="22008")
        return micros

    return parse


def timestamp_parser(modifier: int, zone: tzinfo, now: NowMicros | None) -> Callable[[str], int]:
    """Return the parser of timestamp(p), giving microseconds since 1970; a zone in the text is ignored."""
    return _timestamp_parser("timestamp", modifier, zone, now, with_zone=False)


def timestamptz_parser(modifier: int, zone: tzinfo, now: NowMicros | None) -> Callable[[str], int]:
    """Return the parser of timestamptz(p), giving microseconds since 1970 UTC; `zone` is for text that names none."""
    return _timestamp_parser("timestamp with time zone", modifier, zone, now, with_zone=True)
