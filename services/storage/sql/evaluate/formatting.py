"""to_char, to_date, to_timestamp: values by format pictures.

Supports the patterns that reports use; another raises 0A000 with its letters, so that nothing is printed wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from typing import Any, Final

from orbit.kernel.errors import InvalidValue, NotSupported, OrbitError
from orbit.kernel.values import calendar as cal
from orbit.kernel.values.zones import MICROS_PER_DAY, MICROS_PER_SECOND, offset_at
from services.storage.sql.evaluate.date_parts import iso_week
from services.storage.sql.evaluate.dates import TIMESTAMP_ENDS, Interval, from_local, to_local
from services.storage.sql.evaluate.numerics import from_float, to_scale
from services.storage.sql.evaluate.registry import function

MONTHS: Final = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
DAYS: Final = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

_PATTERNS: Final = (
    "HH24", "HH12", "HH", "MI", "SSSSS", "SSSS", "SS", "MS", "US", "AM", "PM", "am", "pm", "A.M.", "P.M.", "a.m.",
    "p.m.",
    "Y,YYY", "YYYY", "YYY", "YY", "Y", "IYYY", "IYY", "IY", "I", "MONTH", "Month", "month", "MON", "Mon", "mon", "MM",
    "DAY", "Day", "day", "DY", "Dy", "dy", "DDD", "IDDD", "DD", "ID", "D", "WW", "W", "IW", "CC", "J", "Q", "TZH",
    "TZM",
    "TZ", "tz", "OF", "BC", "AD", "B.C.", "A.D.", "RM", "rm", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6",
)  # fmt: skip
_INSENSITIVE: Final = {pattern.lower(): pattern for pattern in _PATTERNS if pattern.upper() == pattern}


@dataclass(frozen=True, slots=True)
class _Node:
    """A pattern with its FM and TH marks, or plain text when `pattern` is None."""

    pattern: str | None
    text: str = ""
    fill: bool = True
    ordinal: str = ""


@lru_cache(maxsize=256)
def _parse(picture: str) -> tuple[_Node, ...]:
    nodes: list[_Node] = []
    at = 0
    by_length = sorted(_PATTERNS, key=len, reverse=True)
    while at < len(picture):
        if picture[at] == '"':
            end = picture.find('"', at + 1)
            end = len(picture) if end < 0 else end
            nodes.append(_Node(None, picture[at + 1 : end]))
            at = end + 1
            continue
        fill = True
        start = at
        if picture[at : at + 2].upper() == "FM":
            fill = False
            at += 2
        found = next((p for p in by_length if picture.startswith(p, at)), None)
        if found is None:
            longest = max(
                (key for key in _INSENSITIVE if picture[at : at + len(key)].lower() == key), key=len, default=None
            )
            found = _INSENSITIVE[longest] if longest is not None else None
        if found is None:
            at = start
            nodes.append(_Node(None, picture[at]))
            at += 1
            continue
        at += len(found)
        ordinal = picture[at : at + 2] if picture[at : at + 2] in ("TH", "th") else ""
        at += len(ordinal)
        nodes.append(_Node(found, "", fill, ordinal))
    return tuple(nodes)


def _ordinal(text: str, suffix: str) -> str:
    if not suffix:
        return text
    number = int(text)
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return text + (ending.upper() if suffix == "TH" else ending)


def _cased(name: str, pattern: str) -> str:
    return name.upper() if pattern.isupper() else name.lower() if pattern.islower() else name


def _date_field(pattern: str, days: int, fill: bool) -> str | None:
    year, month, day = cal.civil_from_days(days)
    upper = pattern.upper()
    shown = year if year > 0 else 1 - year
    if upper in ("YYYY", "YYY", "YY", "Y"):
        return _year(shown, len(upper), fill)
    if upper == "Y,YYY":
        return f"{shown // 1000},{shown % 1000:03d}"
    if upper in ("IYYY", "IYY", "IY", "I"):
        return _year(iso_week(days)[0], len(upper), fill)
    if upper in ("MONTH", "DAY"):
        name = _cased(MONTHS[month - 1] if upper == "MONTH" else DAYS[(days + 4) % 7], pattern)
        return name.ljust(9) if fill else name
    if upper in ("MON", "DY"):
        return _cased((MONTHS[month - 1] if upper == "MON" else DAYS[(days + 4) % 7])[:3], pattern)
    if upper in ("BC", "AD"):
        return _cased("AD" if year > 0 else "BC", pattern)
    if upper in ("B.C.", "A.D."):
        return _cased("A.D." if year > 0 else "B.C.", pattern)
    of_year = days - cal.days_from_civil(year, 1, 1) + 1
    numbers = {
        "MM": (month, 2), "DD": (day, 2), "DDD": (of_year, 3), "D": ((days + 4) % 7 + 1, 1),
        "ID": ((days + 3) % 7 + 1, 1),
        "WW": ((of_year - 1) // 7 + 1, 2), "W": ((day - 1) // 7 + 1, 1), "IW": (iso_week(days)[1], 2),
        "CC": ((year + 99) // 100, 2), "J": (days + 2_440_588, 1), "Q": ((month + 2) // 3, 1),
    }  # fmt: skip
    if upper not in numbers:
        return None
    value, width = numbers[upper]
    return str(value).zfill(width) if fill else str(value)


def _year(year: int, digits: int, fill: bool) -> str:
    if digits == 4:
        return str(year).zfill(4) if fill else str(year)
    value = year % 10**digits
    return str(value).zfill(digits) if fill else str(value)


def _time_field(pattern: str, micros: int, fill: bool) -> str | None:
    seconds, fraction = divmod(micros, MICROS_PER_SECOND)
    hours, minutes = seconds // 3600, seconds // 60 % 60
    upper = pattern.upper()
    if upper in ("AM", "PM"):
        return _cased("AM" if hours % 24 < 12 else "PM", pattern)
    if upper in ("A.M.", "P.M."):
        return _cased("A.M." if hours % 24 < 12 else "P.M.", pattern)
    if upper.startswith("FF"):
        return f"{fraction:06d}"[: int(upper[2])]
    numbers = {
        "HH24": (hours, 2), "HH12": ((hours + 11) % 12 + 1, 2), "HH": ((hours + 11) % 12 + 1, 2), "MI": (minutes, 2),
        "SS": (seconds % 60, 2), "MS": (fraction // 1000, 3), "US": (fraction, 6), "SSSS": (seconds, 1),
        "SSSSS": (seconds, 1),
    }  # fmt: skip
    if upper not in numbers:
        return None
    value, width = numbers[upper]
    return str(value).zfill(width) if fill else str(value)


def _format(micros: int, picture: str, offset: int | None, zone_name: str) -> str:
    days, time = divmod(micros, MICROS_PER_DAY)
    parts: list[str] = []
    for node in _parse(picture):
        if node.pattern is None:
            parts.append(node.text)
            continue
        text = _time_field(node.pattern, time, node.fill)
        if text is None:
            text = _date_field(node.pattern, days, node.fill)
        if text is None and node.pattern.upper() in ("TZ", "OF"):
            text = _zone_field(node.pattern, offset, zone_name)
        if text is None:
            raise NotSupported(f'to_char pattern "{node.pattern}" is not supported')
        parts.append(_ordinal(text, node.ordinal))
    return "".join(parts)


def _zone_field(pattern: str, offset: int | None, name: str) -> str:
    if pattern.upper() == "TZ":
        return "" if offset is None else _cased(name, pattern)
    minutes = abs(offset or 0) // 60
    sign = "-" if (offset or 0) < 0 else "+"
    return f"{sign}{minutes // 60:02d}" + (f":{minutes % 60:02d}" if minutes % 60 else "")


@function("to_char(timestamp,text)")
def _timestamp_to_char(micros: int, picture: str) -> str | None:
    return None if not picture or micros in TIMESTAMP_ENDS else _format(micros, picture, None, "")


@function("to_char(timestamptz,text)", context=True)
def _moment_to_char(context: Any, micros: int, picture: str) -> str | None:
    if not picture or micros in TIMESTAMP_ENDS:
        return None
    offset = offset_at(micros // MICROS_PER_SECOND, context.zone)
    name = "UTC" if offset == 0 else _zone_field("OF", offset, "")
    return _format(to_local(micros, context.zone), picture, offset, name)


@function("to_char(interval,text)")
def _interval_to_char(span: Interval, picture: str) -> str:
    months, days, micros = span
    if months < 0 or days < 0 or micros < 0:
        raise NotSupported("to_char of a negative interval is not supported")
    parts: list[str] = []
    for node in _parse(picture):
        upper = (node.pattern or "").upper()
        if node.pattern is None:
            text = node.text
        elif upper in ("DD", "DDD", "MM", "YYYY"):
            value = {"DD": days, "DDD": days, "MM": months % 12, "YYYY": months // 12}[upper]
            width = {"DD": 2, "DDD": 3, "MM": 2, "YYYY": 4}[upper]
            text = str(value).zfill(width) if node.fill else str(value)
        else:
            found = _time_field(node.pattern, micros, node.fill)
            if found is None:
                raise NotSupported(f'to_char pattern "{node.pattern}" of an interval is not supported')
            text = found
        parts.append(text)
    return "".join(parts)


# Numbers


_PICTURE: Final = re.compile(
    r"(?P<fm>FM)?(?P<sign>S|MI)?(?P<body>[09,G]*(?:[.D][09]*)?)(?P<tail>S|MI|PR)?", re.IGNORECASE
)


def _number_to_char(value: Decimal, picture: str) -> str:
    match = _PICTURE.fullmatch(picture.strip())
    if match is None or not re.search("[09]", match["body"]):
        raise NotSupported(f'to_char number pattern "{picture}" is not supported')
    body = match["body"].upper().replace("D", ".").replace("G", ",")
    whole, _, fraction = body.partition(".")
    places = len(fraction)
    if not value.is_finite():
        raise NotSupported("to_char of NaN or infinity is not supported")
    rounded = to_scale(value, places, ROUND_HALF_UP)
    digits = f"{abs(rounded):f}"
    left, _, right = digits.partition(".")
    slots = sum(char in "09" for char in whole)
    negative = rounded < 0
    fill = match["fm"] is None
    if len(left.lstrip("0")) > slots:
        text = re.sub("[09]", "#", body)
        return (" " if fill else "") + text if not negative else "-" + text
    text = _whole_part(whole, left.lstrip("0"), bool(places))
    if places:
        if not fill:
            kept = fraction.rfind("0") + 1
            right = right[:kept] + right[kept:].rstrip("0")
        text += "." + right
    return _signed(text, negative, fill, match["sign"], match["tail"])


def _whole_part(whole: str, digits: str, has_fraction: bool) -> str:
    """Place the digits from the right; leading positions are blank until the first 0 of the picture."""
    first_zero = whole.find("0")
    padded = digits.rjust(sum(char in "09" for char in whole))
    result: list[str] = []
    at = 0
    started = False
    for position, char in enumerate(whole):
        if char == ",":
            result.append("," if started else " ")
            continue
        digit = padded[at]
        at += 1
        if digit != " ":
            started = True
        elif first_zero >= 0 and position >= first_zero:
            digit, started = "0", True
        result.append(digit)
    if not started and not has_fraction and result:
        result[-1] = "0"
    return "".join(result)


def _signed(text: str, negative: bool, fill: bool, before: str | None, after: str | None) -> str:
    before, after = (before or "").upper(), (after or "").upper()
    bare = text.lstrip(" ")
    pad = text[: len(text) - len(bare)]
    if after == "PR":
        body = f"<{bare}>" if negative else f" {bare} "
        return pad + body if fill else body.strip()
    if before == "S" or after == "S":
        sign = "-" if negative else "+"
        body = f"{pad}{sign}{bare}" if before else f"{text}{sign}"
        return body if fill else body.strip()
    if before == "MI" or after == "MI":
        sign = "-" if negative else " " if fill else ""
        return (sign + text if before else text + sign) if fill else (sign + bare if before else bare + sign)
    body = pad + ("-" if negative else " ") + bare
    return body if fill else body.strip()


function("to_char(int4,text)", "to_char(int8,text)")(lambda v, picture: _number_to_char(Decimal(v), picture))
function("to_char(numeric,text)")(_number_to_char)
function("to_char(float8,text)")(lambda v, picture: _number_to_char(from_float(v, 15), picture))


# Reading


_READERS: Final[dict[str, str]] = {
    "YYYY": r"(?P<year>\d{1,4})", "MM": r"(?P<month>\d{1,2})", "DD": r"(?P<day>\d{1,2})", "HH24": r"(?P<hour>\d{1,2})",
    "HH12": r"(?P<hour12>\d{1,2})", "HH": r"(?P<hour12>\d{1,2})", "MI": r"(?P<minute>\d{1,2})",
    "SS": r"(?P<second>\d{1,2})",
    "MS": r"(?P<ms>\d{1,3})", "US": r"(?P<us>\d{1,6})", "AM": r"(?P<half>[AaPp][Mm])", "PM": r"(?P<half>[AaPp][Mm])",
    "MON": r"(?P<mon>[A-Za-z]{3})", "MONTH": r"(?P<mon>[A-Za-z]+)", "DDD": r"(?P<doy>\d{1,3})",
}  # fmt: skip


@lru_cache(maxsize=256)
def _reader(picture: str) -> re.Pattern[str]:
    parts: list[str] = []
    for node in _parse(picture):
        if node.pattern is None:
            parts.append(r"\s*" if node.text.isspace() else r"[^\w]?" if not node.text.isalnum() else ".")
            continue
        reader = _READERS.get(node.pattern.upper())
        if reader is None or node.ordinal:
            raise NotSupported(f'to_timestamp pattern "{node.pattern}" is not supported')
        parts.append(r"\s*" + reader)
    return re.compile("".join(parts))


def _read(text: str, picture: str, what: str) -> int:
    match = _reader(picture).match(text.strip())
    if match is None:
        raise InvalidValue(f'invalid value "{text}" for "{picture}"', sqlstate="22007")
    found = match.groupdict()

    def number(name: str, default: int) -> int:
        return int(found[name]) if found.get(name) else default

    year, month, day = number("year", 1), number("month", 1), number("day", 1)
    if found.get("mon"):
        month = next((at for at, name in enumerate(MONTHS, 1) if name[:3].lower() == found["mon"][:3].lower()), 0)
    hour = number("hour", 0)
    if found.get("hour12"):
        hour = number("hour12", 12) % 12 + (12 if (found.get("half") or "").lower() == "pm" else 0)
    minute, second = number("minute", 0), number("second", 0)
    if not (
        1 <= month <= 12 and 1 <= day <= cal.days_in_month(year, month) and hour < 24 and minute < 60 and second < 60
    ):
        raise OrbitError(f'date/time field value out of range: "{text}"', sqlstate="22008")
    fraction = int((found.get("us") or "").ljust(6, "0") or 0) + int((found.get("ms") or "").ljust(3, "0") or 0) * 1000
    days = cal.days_from_civil(year, month, day)
    if found.get("doy"):
        days = cal.days_from_civil(year, 1, 1) + number("doy", 1) - 1
    return days * MICROS_PER_DAY + (hour * 3600 + minute * 60 + second) * MICROS_PER_SECOND + fraction


function("to_date(text,text)")(lambda text, picture: _read(text, picture, "date") // MICROS_PER_DAY)
function("to_timestamp(text,text)", context=True)(
    lambda context, text, picture: from_local(_read(text, picture, "timestamp"), context.zone)
)
