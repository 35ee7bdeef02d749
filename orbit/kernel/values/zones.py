"""Time zones: names to tzinfo, and offsets on both sides of a change of clocks.

Owns the lookup (case-insensitive, as PostgreSQL's is), the fixed abbreviations, and offsets for years that
`datetime` cannot hold. The rules themselves are the tz database's, read through `zoneinfo`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from orbit.kernel.errors import InvalidValue

MICROS_PER_SECOND = 1_000_000
MICROS_PER_DAY = 86_400_000_000
_CYCLE_SECONDS = 146_097 * 86_400
"""400 Gregorian years: a whole number of weeks, after which rules of clock changes repeat."""
_FIRST_SECOND = -62_135_596_800 + 2 * 86_400
_LAST_SECOND = 253_402_300_799 - 2 * 86_400
_NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (wall clocks have no zone)

MAX_OFFSET_HOURS = 15

ABBREVIATIONS: dict[str, int] = {
    **dict.fromkeys(("z", "utc", "gmt", "ut", "uct", "zulu", "wet"), 0),
    **dict.fromkeys(("bst", "cet", "met", "wat", "mez"), 3600),
    **dict.fromkeys(("cest", "mest", "eet", "sast", "mesz"), 7200),
    **dict.fromkeys(("eest", "msk", "eat"), 10800),
    "ist": 7200,
    "msd": 14400,
    "pkt": 18000,
    "hkt": 28800,
    "sgt": 28800,
    "awst": 28800,
    **dict.fromkeys(("jst", "kst"), 32400),
    "acst": 34200,
    "aest": 36000,
    "acdt": 37800,
    "aedt": 39600,
    "nzst": 43200,
    "nzdt": 46800,
    "nst": -12600,
    "ndt": -9000,
    "ast": -14400,
    "adt": -10800,
    "est": -18000,
    "edt": -14400,
    "cst": -21600,
    "cdt": -18000,
    "mst": -25200,
    "mdt": -21600,
    "pst": -28800,
    "pdt": -25200,
    "akst": -32400,
    "akdt": -28800,
    "hst": -36000,
}
"""Seconds east of UTC of the abbreviations that PostgreSQL's default set knows and that people write."""

_NUMBER = re.compile(r"([+-]?)(\d{1,2})(?:\.(\d+))?$")
_OFFSET = re.compile(r"([+-])(\d{1,2}):?(\d{2})(?::?(\d{2}))?$")
_POSIX = re.compile(r"<?([A-Za-z+-]{3,})>?([+-]?)(\d{1,2})(?::(\d{2}))?$")


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones()}


def named_zone(name: str) -> tzinfo | None:
    """Return the zone of a tz database name in any case, or None."""
    lowered = name.lower()
    if lowered in ("utc", "etc/utc", "gmt", "zulu", "z"):
        return UTC
    known = _names().get(lowered)
    if known is None:
        return None
    try:
        return ZoneInfo(known)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def time_zone(name: str) -> tzinfo:
    """Return the zone for a TimeZone setting: a name, an abbreviation, hours east ('-5', '+05:30') or 'EST+5'.

    Raises InvalidValue 22023 as `SET TimeZone` does.
    """
    text = name.strip()
    zone = named_zone(text)
    if zone is not None:
        return zone
    if text.lower() in ABBREVIATIONS:
        return timezone(timedelta(seconds=ABBREVIATIONS[text.lower()]))
    seconds: float | None = None
    if match := _NUMBER.match(text):
        seconds = float(f"{match[2]}.{match[3] or 0}") * 3600 * (-1 if match[1] == "-" else 1)
    elif match := _OFFSET.match(text):
        seconds = (int(match[2]) * 3600 + int(match[3]) * 60 + int(match[4] or 0)) * (-1 if match[1] == "-" else 1)
    elif match := _POSIX.match(text):  # POSIX counts hours west
        seconds = (int(match[3]) * 3600 + int(match[4] or 0) * 60) * (1 if match[2] == "-" else -1)
    if seconds is None or abs(seconds) >= 86_400:
        raise InvalidValue(f'invalid value for parameter "TimeZone": "{name}"', sqlstate="22023")
    return timezone(timedelta(seconds=int(seconds)))


def _in_range(seconds: int) -> int:
    """Move a time into the years that `datetime` holds, to one with the same rules."""
    if seconds > _LAST_SECOND:
        return seconds - ((seconds - _LAST_SECOND) // _CYCLE_SECONDS + 1) * _CYCLE_SECONDS
    return max(seconds, _FIRST_SECOND)


def offset_at(utc_seconds: int, zone: tzinfo) -> int:
    """Return seconds east of UTC at a moment (seconds since 1970 UTC)."""
    moment = datetime.fromtimestamp(_in_range(utc_seconds), zone)
    offset = moment.utcoffset()
    assert offset is not None
    return offset.days * 86_400 + offset.seconds


def offset_of_local(local_seconds: int, zone: tzinfo) -> int:
    """Return seconds east of UTC for a wall clock reading (seconds since 1970 on that clock).

    As in PostgreSQL: a reading that a change of clocks skips counts with the offset before it, and one that
    occurs twice is the later one. Both are the smaller of the two offsets.
    """
    local = (_NAIVE_EPOCH + timedelta(seconds=_in_range(local_seconds))).replace(tzinfo=zone)
    early, late = local.utcoffset(), local.replace(fold=1).utcoffset()
    assert early is not None and late is not None
    offset = min(early, late)
    return offset.days * 86_400 + offset.seconds
