"""Text of intervals, as PostgreSQL 15 reads them and prints them in its own style.

Owns the value (months, days, microseconds), its input forms (units, SQL standard, ISO 8601) and its output.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from orbit.kernel.errors import InvalidValue, NotSupported
from orbit.kernel.values.numbers import SPACE
from orbit.kernel.values.zones import MICROS_PER_DAY, MICROS_PER_SECOND

Interval = tuple[int, int, int]
"""(months, days, microseconds)"""

DAYS_PER_MONTH = 30
FULL_RANGE = 0x7FFF
FULL_PRECISION = 0xFFFF

_MICROS: dict[str, int] = {
    **dict.fromkeys(("us", "usec", "usecs", "microsecond", "microseconds", "usecond", "useconds"), 1),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds", "msecond", "mseconds"), 1000),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), MICROS_PER_SECOND),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60 * MICROS_PER_SECOND),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600 * MICROS_PER_SECOND),
}
_DAYS: dict[str, int] = {
    **dict.fromkeys(("d", "day", "days"), 1),
    **dict.fromkeys(("w", "week", "weeks"), 7),
}
_MONTHS: dict[str, int] = {
    **dict.fromkeys(("mon", "mons", "month", "months"), 1),
    **dict.fromkeys(("y", "yr", "yrs", "year", "years"), 12),
    **dict.fromkeys(("dec", "decs", "decade", "decades"), 120),
    **dict.fromkeys(("c", "cent", "century", "centuries"), 1200),
    **dict.fromkeys(("mil", "mils", "millennium", "millennia"), 12000),
}

_TOKEN = re.compile(
    r"""[\s,@]*(?:
        (?P<time>[+-]?[0-9]+:[0-9]+(?::[0-9]+)?(?:\.[0-9]*)?)
      | (?P<yearmonth>[+-]?[0-9]+-[0-9]+)
      | (?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))
      | (?P<word>[a-z]+)
    )[\s,]*""",
    re.VERBOSE,
)
_ISO_UNITS = re.compile(r"([+-]?[0-9]*(?:\.[0-9]+)?)([ymwdhs])")
_ISO_CLOCK = re.compile(r"p([+-]?\d+)-([+-]?\d+)-([+-]?\d+)(?:t([+-]?\d+):(\d+):(\d+(?:\.\d+)?))?$")


class _Sum:
    """An interval being added up, with PostgreSQL's way of spreading fractions downwards."""

    __slots__ = ("days", "micros", "months")

    def __init__(self) -> None:
        self.months = 0
        self.days = 0
        self.micros = 0

    def add_micros(self, whole: int, fraction: float, scale: int) -> None:
        self.micros += whole * scale
        self._add_fraction(fraction, scale)

    def _add_fraction(self, fraction: float, scale: int) -> None:
        scaled = fraction * scale
        micros = int(scaled)
        rest = scaled - micros
        self.micros += micros + (1 if rest > 0.5 else -1 if rest < -0.5 else 0)

    def add_days(self, whole: int, fraction: float, scale: int) -> None:
        self.days += whole * scale
        scaled = fraction * scale
        days = int(scaled)
        self.days += days
        self._add_fraction(scaled - days, MICROS_PER_DAY)

    def add_months(self, whole: int, fraction: float, scale: int) -> None:
        self.months += whole * scale
        if scale == 1:
            self.add_days(0, fraction, DAYS_PER_MONTH)
        else:
            self.months += round(fraction * scale)

    def add(self, whole: int, fraction: float, unit: str) -> bool:
        """Add a number of units; returns whether the unit is known."""
        if (scale := _MICROS.get(unit)) is not None:
            self.add_micros(whole, fraction, scale)
        elif (scale := _DAYS.get(unit)) is not None:
            self.add_days(whole, fraction, scale)
        elif (scale := _MONTHS.get(unit)) is not None:
            self.add_months(whole, fraction, scale)
        else:
            return False
        return True


def _bad_syntax(text: str) -> InvalidValue:
    return InvalidValue(f'invalid input syntax for type interval: "{text}"', sqlstate="22007")


def _out_of_range(text: str) -> InvalidValue:
    return InvalidValue(f'interval field value out of range: "{text}"', sqlstate="22015")


def _number(token: str) -> tuple[int, float]:
    """Return (whole, fraction), both with the token's sign."""
    sign = -1 if token[0] == "-" else 1
    whole, _, fraction = token.lstrip("+-").partition(".")
    return sign * int(whole or 0), sign * float(f"0.{fraction or 0}")


def _clock(token: str, text: str) -> tuple[int, float]:
    """Return (microseconds, fraction of a second) of 'h:m', 'h:m:s.f' or 'm:s.f'."""
    sign = -1 if token[0] == "-" else 1
    body, dot, fraction = token.lstrip("+-").partition(".")
    parts = [int(part) for part in body.split(":")]
    if len(parts) == 2:
        parts = [0, *parts] if dot else [*parts, 0]
    hours, minutes, seconds = parts
    if minutes > 59 or seconds > 60:
        raise _out_of_range(text)
    return sign * ((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND, sign * float(f"0.{fraction or 0}")


def _parse_units(text: str, body: str) -> _Sum:
    """Add up 'number unit' pairs, clock times and bare numbers, from the right as PostgreSQL does."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None:
            raise _bad_syntax(text)
        tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
        at = match.end()
    total = _Sum()
    unit = "s"  # of a number that names none
    waiting: str | None = None  # a unit read, its number still to come
    seen: set[str] = set()
    ago = False
    for kind, token in reversed(tokens):
        if kind == "word":
            if waiting is not None:
                raise _bad_syntax(text)
            if token == "ago":
                ago = True
            else:
                waiting = token
            continue
        if kind == "number":
            name, waiting = waiting or unit, None
            whole, fraction = _number(token)
            canonical = f"{_MICROS.get(name)}/{_DAYS.get(name)}/{_MONTHS.get(name)}"
            if canonical in seen or not total.add(whole, fraction, name):
                raise _bad_syntax(text)
            seen.add(canonical)
            continue
        if waiting is not None or kind in seen:
            raise _bad_syntax(text)
        seen.add(kind)
        if kind == "time":
            micros, fraction = _clock(token, text)
            total.micros += micros
            total.add_micros(0, fraction, MICROS_PER_SECOND)
            unit = "day"
        else:
            sign = -1 if token[0] == "-" else 1
            years, months = token.lstrip("+-").split("-")
            if int(months) > 11:
                raise _out_of_range(text)
            total.months += sign * (int(years) * 12 + int(months))
    if waiting is not None or not seen:
        raise _bad_syntax(text)
    if ago:
        total.months, total.days, total.micros = -total.months, -total.days, -total.micros
    return total


def _parse_iso(text: str, body: str) -> _Sum:
    """Add up 'P1Y2M3DT4H5M6S' or 'P0001-02-03T04:05:06'."""
    total = _Sum()
    if match := _ISO_CLOCK.match(body):
        total.months = int(match[1]) * 12 + int(match[2])
        total.days = int(match[3])
        if match[4]:
            hours, sign = int(match[4]), -1 if match[4].startswith("-") else 1
            total.micros = (hours * 3600 + sign * int(match[5]) * 60) * MICROS_PER_SECOND
            total.add_micros(0, sign * float(match[6]), MICROS_PER_SECOND)
        return total
    days, marker, clock = body[1:].partition("t")
    if not (days or marker):
        raise _bad_syntax(text)
    for part, units in ((days, {"y": "y", "m": "mon", "w": "w", "d": "d"}), (clock, {"h": "h", "m": "m", "s": "s"})):
        at = 0
        while at < len(part):
            match = _ISO_UNITS.match(part, at)
            if match is None or not match[1].strip("+-") or match[2] not in units:
                raise _bad_syntax(text)
            total.add(*_number(match[1]), units[match[2]])
            at = match.end()
    return total


def parse_interval(text: str) -> Interval:
    """Return (months, days, microseconds). Raises InvalidValue 22007, 22015, or 22008 when it does not fit."""
    body = text.strip(SPACE).lower()
    is_iso = len(body) > 1 and body[0] == "p"
    total = _parse_iso(text, body) if is_iso else _parse_units(text, body)
    if not (-(1 << 31) <= total.months < 1 << 31 and -(1 << 31) <= total.days < 1 << 31):
        raise _out_of_range(text)
    if not -(1 << 63) <= total.micros < 1 << 63:
        raise _out_of_range(text)
    return total.months, total.days, total.micros


def interval_rounder(modifier: int) -> Callable[[Interval], Interval]:
    """Return what interval(p) does to a value. Raises NotSupported for `interval day to second` and the like."""
    if (modifier >> 16) & FULL_RANGE != FULL_RANGE:
        raise NotSupported("interval fields are not supported")
    precision = modifier & 0xFFFF
    if precision == FULL_PRECISION or precision >= 6:
        return lambda value: value
    scale = 10 ** (6 - precision)

    def apply(value: Interval) -> Interval:
        months, days, micros = value
        rounded = (abs(micros) + scale // 2) // scale * scale
        return months, days, rounded if micros >= 0 else -rounded

    return apply


def format_interval(value: Interval) -> bytes:
    """Return for example b'1 year 2 mons -3 days +04:05:06.7'."""
    months, days, micros = value
    sign = -1 if months < 0 else 1
    years, months = sign * (abs(months) // 12), sign * (abs(months) % 12)
    parts: list[str] = []
    negative = False
    for amount, unit in ((years, "year"), (months, "mon"), (days, "day")):
        if amount:
            plus = "+" if negative and amount > 0 else ""
            parts.append(f"{plus}{amount} {unit}{'' if amount == 1 else 's'}")
            negative = amount < 0
    if micros or not parts:
        seconds, fraction = divmod(abs(micros), MICROS_PER_SECOND)
        minutes, second = divmod(seconds, 60)
        hours, minute = divmod(minutes, 60)
        mark = "-" if micros < 0 else "+" if negative else ""
        tail = f".{fraction:06d}".rstrip("0") if fraction else ""
        parts.append(f"{mark}{hours:02d}:{minute:02d}:{second:02d}{tail}")
    return " ".join(parts).encode()
