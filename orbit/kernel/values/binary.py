"""The binary wire form of each type (PostgreSQL's send and receive functions), in network byte order.

Owns both directions. Days and microseconds travel counted from 2000-01-01; infinity is the end of the integer
range on both sides. Bytes of the wrong length or content are InvalidValue 22P03.

    numeric:   | ndigits | weight | sign | dscale | ndigits digits of base 10000 |   each 16 bits
    interval:  | microseconds 64 | days 32 | months 32 |
    jsonb:     | version 1 | text |
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from orbit.kernel.errors import InvalidValue
from orbit.kernel.types import Oid
from orbit.kernel.values import calendar as cal
from orbit.kernel.values.json_text import parse_json, parse_jsonb
from orbit.kernel.values.numbers import EXACT, normal_numeric, to_float32
from orbit.kernel.values.strings import decode_text, uuid_text

_numeric_head = struct.Struct(">HhHH")
_interval = struct.Struct(">qii")
_POSITIVE, _NEGATIVE, _NAN, _PLUS_INFINITY, _MINUS_INFINITY = 0x0000, 0x4000, 0xC000, 0xD000, 0xF000
_MAX_SCALE = 16383


def _bad_format(what: str = "incorrect binary data format") -> InvalidValue:
    return InvalidValue(what, sqlstate="22P03")


def _fixed(code: str) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    packer = struct.Struct(">" + code)
    unpack = packer.unpack

    def parse(data: bytes) -> Any:
        try:
            return unpack(data)[0]
        except struct.error:
            raise _bad_format() from None

    return parse, packer.pack


def _shifted(code: str, shift: int, low: int, high: int, lowest: int, end: int, name: str) -> tuple[Any, Any]:
    """Codec of an integer counted from 2000 on the wire; `low` and `high` are the infinities and stay themselves."""
    parse_int, pack = _fixed(code)

    def parse(data: bytes) -> int:
        value: int = parse_int(data)
        if value in (low, high):
            return value
        value += shift
        if not lowest <= value < end:
            raise InvalidValue(f"{name} out of range", sqlstate="22008")
        return value

    def format_(value: int) -> bytes:
        return pack(value if value in (low, high) else value - shift)

    return parse, format_


def _parse_bool(data: bytes) -> bool:
    if len(data) != 1:
        raise _bad_format()
    return data != b"\0"


def _format_bool(value: bool) -> bytes:
    return b"\1" if value else b"\0"


def _format_string(value: str) -> bytes:
    return value.encode()


def _parse_bytea(data: bytes) -> bytes:
    return bytes(data)


def _parse_uuid(data: bytes) -> str:
    if len(data) != 16:
        raise _bad_format()
    return uuid_text(data.hex())


def _format_uuid(value: str) -> bytes:
    return bytes.fromhex(value.replace("-", ""))


def _parse_json(data: bytes) -> str:
    return parse_json(decode_text(data))


def _parse_jsonb(data: bytes) -> str:
    if data[:1] != b"\1":
        raise _bad_format(f"unsupported jsonb version number {data[0] if data else 0}")
    return parse_jsonb(decode_text(data[1:]))


def _format_jsonb(value: str) -> bytes:
    return b"\1" + value.encode()


_parse_micros, _pack_micros = _fixed("q")


def _parse_time(data: bytes) -> int:
    value: int = _parse_micros(data)
    if not 0 <= value <= 86_400_000_000:
        raise InvalidValue("time out of range", sqlstate="22008")
    return value


def _parse_interval(data: bytes) -> tuple[int, int, int]:
    try:
        micros, days, months = _interval.unpack(data)
    except struct.error:
        raise _bad_format() from None
    return months, days, micros


def _format_interval(value: tuple[int, int, int]) -> bytes:
    return _interval.pack(value[2], value[1], value[0])


def _parse_numeric(data: bytes) -> Decimal:
    try:
        count, weight, sign, scale = _numeric_head.unpack_from(data)
        digits = struct.unpack(f">{count}H", data[8:])
    except struct.error:
        raise _bad_format() from None
    if sign in (_NAN, _PLUS_INFINITY, _MINUS_INFINITY):
        return Decimal({_NAN: "NaN", _PLUS_INFINITY: "Infinity", _MINUS_INFINITY: "-Infinity"}[sign])
    if sign not in (_POSITIVE, _NEGATIVE):
        raise _bad_format('invalid sign in external "numeric" value')
    if scale > _MAX_SCALE:
        raise _bad_format('invalid scale in external "numeric" value')
    if any(digit > 9999 for digit in digits):
        raise _bad_format('invalid digit in external "numeric" value')
    text = "".join([f"{digit:04d}" for digit in digits]) or "0"
    exponent = 4 * (weight + 1 - count) if count else 0
    value = Decimal((1 if sign else 0, tuple(map(int, text)), exponent))
    # Digits past the stated scale are cut, missing ones are zeros.
    scaled = EXACT.create_decimal(value).quantize(Decimal((0, (1,), -scale)), rounding="ROUND_DOWN", context=EXACT)
    return normal_numeric(scaled)


def _format_numeric(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        code = _NAN if exponent in ("n", "N") else _MINUS_INFINITY if sign else _PLUS_INFINITY
        return _numeric_head.pack(0, 0, code, 0 if code == _NAN else 0x20)
    scale = max(-exponent, 0)
    text = "".join(map(str, digits)) + "0" * max(exponent, 0)
    whole, fraction = text[: len(text) - scale], text[len(text) - scale :].rjust(scale, "0")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int((whole + fraction)[at : at + 4]) for at in range(0, len(whole) + len(fraction), 4)]
    weight = len(whole) // 4 - 1
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        weight, sign = 0, 0
    head = _numeric_head.pack(len(groups), weight, _NEGATIVE if sign else _POSITIVE, scale)
    return head + struct.pack(f">{len(groups)}H", *groups)


_parse_float4, _pack_float4 = _fixed("f")


def _format_float4(value: float) -> bytes:
    try:
        return _pack_float4(value)
    except OverflowError:
        return _pack_float4(to_float32(float("inf") if value > 0 else float("-inf")))


_date = _shifted(
    "i",
    cal.POSTGRES_EPOCH_DAYS,
    cal.DATE_MINUS_INFINITY,
    cal.DATE_INFINITY,
    cal.DATE_MIN_DAYS,
    cal.DATE_END_DAYS,
    "date",
)
_timestamp = _shifted(
    "q",
    cal.POSTGRES_EPOCH_MICROS,
    cal.TIMESTAMP_MINUS_INFINITY,
    cal.TIMESTAMP_INFINITY,
    cal.TIMESTAMP_MIN,
    cal.TIMESTAMP_END,
    "timestamp",
)

CODECS: dict[int, tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = {
    Oid.BOOL: (_parse_bool, _format_bool),
    Oid.INT2: _fixed("h"),
    Oid.INT4: _fixed("i"),
    Oid.INT8: _fixed("q"),
    Oid.OID: _fixed("I"),
    Oid.FLOAT4: (_parse_float4, _format_float4),
    Oid.FLOAT8: _fixed("d"),
    Oid.NUMERIC: (_parse_numeric, _format_numeric),
    Oid.BYTEA: (_parse_bytea, bytes),
    Oid.UUID: (_parse_uuid, _format_uuid),
    Oid.JSON: (_parse_json, _format_string),
    Oid.JSONB: (_parse_jsonb, _format_jsonb),
    Oid.DATE: _date,
    Oid.TIME: (_parse_time, _pack_micros),
    Oid.TIMESTAMP: _timestamp,
    Oid.TIMESTAMPTZ: _timestamp,
    Oid.INTERVAL: (_parse_interval, _format_interval),
    **dict.fromkeys(
        (Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR, Oid.UNKNOWN), (decode_text, _format_string)
    ),
}
"""(parse, format) by type."""
