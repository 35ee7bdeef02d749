"""The one place that knows how a SQL value looks outside: PostgreSQL 15's text and binary forms, to the byte.

    parse  = parse_text(Oid.INT4)           parse("42") -> 42           InvalidValue 22P02, 22003, 22007, 22008, 22001
    print_ = format_text(Oid.FLOAT8)        print_(1e20) -> b"1e+20"

Each function here returns a specialised function, which hot paths bind once per plan. NULL is the caller's.
Values are those of `orbit.kernel.types`. Bulk forms are in `columns` (Arrow to text), `data_rows` (Arrow to
DataRow messages) and `copy_text` (Arrow to COPY data).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Any

from orbit.kernel.errors import NotSupported
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values import calendar, datetime_input, json_text, numbers, strings
from orbit.kernel.values.binary import CODECS
from orbit.kernel.values.interval import format_interval, interval_rounder, parse_interval
from orbit.kernel.values.strings import decode_text
from orbit.kernel.values.zones import time_zone

Parse = Callable[[str], Any]
Format = Callable[[Any], bytes]
ParseBinary = Callable[[bytes], Any]
NowMicros = datetime_input.NowMicros

_PARSERS: dict[int, Parse] = {
    Oid.BOOL: numbers.parse_bool,
    Oid.INT2: numbers.parse_int2,
    Oid.INT4: numbers.parse_int4,
    Oid.INT8: numbers.parse_int8,
    Oid.OID: numbers.parse_oid,
    Oid.FLOAT4: numbers.parse_float4,
    Oid.FLOAT8: numbers.parse_float8,
    Oid.NUMERIC: numbers.parse_numeric,
    Oid.TEXT: strings.parse_string,
    Oid.UNKNOWN: strings.parse_string,
    Oid.VARCHAR: strings.parse_string,
    Oid.BPCHAR: strings.parse_string,
    Oid.NAME: strings.parse_name,
    Oid.CHAR: strings.parse_single_char,
    Oid.BYTEA: strings.parse_bytea,
    Oid.UUID: strings.parse_uuid,
    Oid.JSON: json_text.parse_json,
    Oid.JSONB: json_text.parse_jsonb,
    Oid.INTERVAL: parse_interval,
}

_FORMATTERS: dict[int, Format] = {
    Oid.BOOL: numbers.format_bool,
    Oid.INT2: numbers.format_int,
    Oid.INT4: numbers.format_int,
    Oid.INT8: numbers.format_int,
    Oid.OID: numbers.format_int,
    Oid.FLOAT4: numbers.format_float4,
    Oid.FLOAT8: numbers.format_float8,
    Oid.NUMERIC: numbers.format_numeric,
    Oid.BYTEA: strings.format_bytea,
    Oid.DATE: calendar.format_date,
    Oid.TIME: calendar.format_time,
    Oid.TIMESTAMP: calendar.format_timestamp,
    Oid.INTERVAL: format_interval,
    **dict.fromkeys(
        (Oid.TEXT, Oid.UNKNOWN, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR, Oid.UUID, Oid.JSON, Oid.JSONB),
        strings.format_string,
    ),
}


def _unknown(oid: int) -> NotSupported:
    return NotSupported(f"type with OID {oid} is not supported")


def parse_text(oid: int, modifier: int = -1, zone: tzinfo = UTC, now: NowMicros | None = None) -> Parse:
    """Return the parser of a type's text form: str -> value, with the type modifier applied.

    `zone` is the session's time zone (timestamptz without one of its own). `now` gives the transaction's start in
    microseconds for 'now', 'today' and the like; without it these raise 0A000.
    """
    if oid == Oid.TIMESTAMPTZ:
        return datetime_input.timestamptz_parser(modifier, zone, now)
    if oid == Oid.TIMESTAMP:
        return datetime_input.timestamp_parser(modifier, zone, now)
    if oid == Oid.DATE:
        return datetime_input.date_parser(zone, now)
    if oid == Oid.TIME:
        return datetime_input.time_parser(modifier, zone, now)
    parse = _PARSERS.get(oid)
    if parse is None:
        raise _unknown(oid)
    if modifier < 0:
        return parse
    if oid == Oid.VARCHAR:
        return strings.varchar_parser(modifier - 4)
    if oid == Oid.BPCHAR:
        return strings.char_parser(modifier - 4)
    if oid == Oid.NUMERIC or oid == Oid.INTERVAL:
        coerce = coerce_to(oid, modifier)
        assert coerce is not None
        return _then(parse, coerce)
    return parse


def _then(parse: Callable[[Any], Any], coerce: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda data: coerce(parse(data))


def coerce_to(oid: int, modifier: int) -> Callable[[Any], Any] | None:
    """Return what storing a value of the type under this modifier does (round, pad, check), or None for nothing."""
    if modifier < 0:
        return None
    if oid == Oid.NUMERIC:
        return numbers.numeric_rounder(modifier)
    if oid == Oid.VARCHAR:
        return strings.varchar_parser(modifier - 4)
    if oid == Oid.BPCHAR:
        return strings.char_parser(modifier - 4)
    if oid == Oid.INTERVAL:
        return interval_rounder(modifier)
    if oid == Oid.TIME:
        return datetime_input.time_rounder(modifier)
    if oid in (Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        return datetime_input.timestamp_rounder(modifier)
    return None


def format_text(oid: int, zone: tzinfo = UTC) -> Format:
    """Return the printer of a type's text form: value -> bytes. `zone` is the session's (timestamptz only)."""
    if oid == Oid.TIMESTAMPTZ:
        return calendar.timestamptz_formatter(zone)
    formatter = _FORMATTERS.get(oid)
    if formatter is None:
        raise _unknown(oid)
    return formatter


def parse_binary(oid: int, modifier: int = -1) -> ParseBinary:
    """Return the parser of a type's binary form: bytes -> value, with the type modifier applied."""
    codec = CODECS.get(oid)
    if codec is None:
        raise _unknown(oid)
    coerce = coerce_to(oid, modifier)
    return codec[0] if coerce is None else _then(codec[0], coerce)


def format_binary(oid: int) -> Format:
    """Return the printer of a type's binary form: value -> bytes."""
    codec = CODECS.get(oid)
    if codec is None:
        raise _unknown(oid)
    return codec[1]


def parse_parameter(oid: int, wire_format: int, zone: tzinfo = UTC, now: NowMicros | None = None) -> ParseBinary:
    """Return the parser of a bound parameter's bytes: format 0 is text, 1 binary (anything else: 22023)."""
    if wire_format == 1:
        return parse_binary(oid)
    if wire_format != 0:
        raise NotSupported(f"unsupported format code: {wire_format}", sqlstate="22023")
    parse = parse_text(oid, -1, zone, now)
    return lambda data: parse(decode_text(data))


def parser_of(sql_type: SqlType, zone: tzinfo = UTC, now: NowMicros | None = None) -> Parse:
    """Return `parse_text` of a column's type."""
    return parse_text(sql_type.oid, sql_type.modifier, zone, now)


__all__ = [
    "Format",
    "NowMicros",
    "Parse",
    "ParseBinary",
    "coerce_to",
    "decode_text",
    "format_binary",
    "format_text",
    "parse_binary",
    "parse_parameter",
    "parse_text",
    "parser_of",
    "time_zone",
]
