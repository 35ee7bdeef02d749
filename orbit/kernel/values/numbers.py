"""Text of numbers and booleans, as PostgreSQL 15 reads and prints them.

Owns boolean, the integers, oid, real, double precision and numeric. Every parser takes the whole literal and
raises InvalidValue: 22P02 for a form that PostgreSQL does not take, 22003 for a value outside the type.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction

import numpy as np

from orbit.kernel.errors import InvalidValue

SPACE = " \t\n\v\f\r"
"""What C's isspace() takes for white space; str.strip() without it would take more."""

_is_integer = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*").fullmatch
_is_decimal = re.compile(
    r"[ \t\n\v\f\r]*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?P<exponent>[eE][+-]?[0-9]+)?[ \t\n\v\f\r]*"
).fullmatch
_is_hexadecimal = re.compile(
    r"[ \t\n\v\f\r]*[+-]?0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?[ \t\n\v\f\r]*", re.IGNORECASE
).fullmatch
_is_special = re.compile(r"[ \t\n\v\f\r]*([+-]?)(?:(inf|infinity)|nan)[ \t\n\v\f\r]*", re.IGNORECASE).fullmatch


def bad_syntax(type_name: str, text: str) -> InvalidValue:
    """Return the error for a literal that has no form of its type."""
    return InvalidValue(f'invalid input syntax for type {type_name}: "{text}"')


# -- boolean ------------------------------------------------------------------------------------------------

_BOOLEANS: dict[str, bool] = {
    **{word[:n]: True for word in ("true", "yes") for n in range(1, len(word) + 1)},
    **{word[:n]: False for word in ("false", "no") for n in range(1, len(word) + 1)},
    "on": True,
    "of": False,
    "off": False,
    "1": True,
    "0": False,
}


def parse_bool(text: str) -> bool:
    value = _BOOLEANS.get(text)
    if value is None:
        value = _BOOLEANS.get(text.strip(SPACE).lower())
        if value is None:
            raise bad_syntax("boolean", text)
    return value


def format_bool(value: bool) -> bytes:
    return b"t" if value else b"f"


# -- integers -----------------------------------------------------------------------------------------------


def integer_parser(type_name: str, low: int, high: int) -> Callable[[str], int]:
    """Return the parser of an integer type with the given name and bounds."""

    def parse(text: str) -> int:
        if not (text.isdigit() and text.isascii()) and not _is_integer(text):
            raise bad_syntax(type_name, text)
        try:
            value = int(text)
        except ValueError:  # more digits than the interpreter converts
            value = high + 1
        if low <= value <= high:
            return value
        raise InvalidValue(f'value "{text}" is out of range for type {type_name}', sqlstate="22003")

    return parse


parse_int2 = integer_parser("smallint", -(1 << 15), (1 << 15) - 1)
parse_int4 = integer_parser("integer", -(1 << 31), (1 << 31) - 1)
parse_int8 = integer_parser("bigint", -(1 << 63), (1 << 63) - 1)
_parse_wide_oid = integer_parser("oid", -(1 << 31), (1 << 32) - 1)


def parse_oid(text: str) -> int:
    return _parse_wide_oid(text) & 0xFFFFFFFF


format_int: Callable[[int], bytes] = b"%d".__mod__


# -- floating point -----------------------------------------------------------------------------------------

_pack_float32 = struct.Struct("<f").pack
_unpack_float32 = struct.Struct("<f").unpack
_pack_float64 = struct.Struct("<d").pack


def _special_float(text: str, type_name: str) -> float:
    match = _is_special(text)
    if match is None:
        if _is_hexadecimal(text):
            return _hexadecimal(text, type_name)
        raise bad_syntax(type_name, text)
    if not match[2]:
        return float("nan")
    return float("-inf") if match[1] == "-" else float("inf")


def _hexadecimal(text: str, type_name: str) -> float:
    try:
        return float.fromhex(text)
    except OverflowError:
        raise _float_out_of_range(type_name, text) from None


def _float_out_of_range(type_name: str, text: str) -> InvalidValue:
    return InvalidValue(f'"{text.strip(SPACE)}" is out of range for type {type_name}', sqlstate="22003")


def _has_nonzero_digit(text: str) -> bool:
    return any(c in "123456789" for c in text.lower().split("e")[0])


def parse_float8(text: str) -> float:
    if not _is_decimal(text):
        return _special_float(text, "double precision")
    value = float(text)
    if value - value != 0.0 or (value == 0.0 and _has_nonzero_digit(text)):
        raise _float_out_of_range("double precision", text)
    return value


def to_float32(value: float) -> float:
    """Return the nearest single-precision value; raises OverflowError past the largest."""
    single: float = _unpack_float32(_pack_float32(value))[0]
    return single


def parse_float4(text: str) -> float:
    match = _is_decimal(text)
    value = float(text) if match else _special_float(text, "real")
    if value - value != 0.0 and not match:
        return value
    try:
        single = to_float32(value)
    except OverflowError:
        raise _float_out_of_range("real", text) from None
    if single - single != 0.0 or (single == 0.0 and (value or _has_nonzero_digit(text))):
        raise _float_out_of_range("real", text)
    # Rounding twice (text to double to single) is wrong only when the double lies halfway between two singles.
    if int.from_bytes(_pack_float64(value), "little") & 0x1FFFFFFF == 0x10000000:
        exact = Fraction(Decimal(text.strip(SPACE))) if match else Fraction(value)
        below, above = np.float32(single), np.float32(single)
        below = np.nextafter(single, np.float32("-inf"), dtype=np.float32) if single > value else below
        above = np.nextafter(single, np.float32("inf"), dtype=np.float32) if single < value else above
        if exact != value:
            return float(above) if exact > value else float(below)
    return single


_MIDPOINT_LOW = float(1 << 52)
_MIDPOINT_HIGH = 1e41


def format_float8(value: float) -> bytes:
    """Return the shortest text that reads back as the same double, in PostgreSQL's form."""
    text = repr(value)
    if text.endswith(".0"):
        if -1e15 < value < 1e15:
            return text[:-2].encode()
        return _scientific(text[:-2]) if -_MIDPOINT_LOW < value < _MIDPOINT_LOW else _format_large(value, text)
    if value != value:
        return b"NaN"
    size = abs(value)
    if size < _MIDPOINT_LOW or size > _MIDPOINT_HIGH:
        if size == float("inf"):
            return b"Infinity" if value > 0 else b"-Infinity"
        return text.encode() if size < 1e15 or "e" in text else _scientific(text)
    return _format_large(value, text)


def _format_large(value: float, text: str) -> bytes:
    """Print a double whose shortest text may lie exactly halfway to a neighbour: PostgreSQL then takes a longer one."""
    size = abs(value)
    exact = Fraction(size)
    half_ulp = (Fraction(np.nextafter(size, np.inf)) - exact) / 2
    if abs(Fraction(text.lstrip("-")) - exact) == half_ulp:
        for digits in range(15, 17):
            longer = f"{value:.{digits}e}"
            if float(longer) == value and abs(Fraction(longer.lstrip("-")) - exact) != half_ulp:
                text = longer
                break
    return _scientific(text)


def _scientific(text: str) -> bytes:
    """Turn any decimal text of a number >= 1 into d.ddde+XX."""
    sign = "-" if text[0] == "-" else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    power = int(exponent or 0) + len(whole) - 1
    digits = (whole + fraction).rstrip("0")
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e+{power:02d}".encode()


_SINGLE_MIDPOINT_LOW = float(1 << 24)
_SINGLE_MIDPOINT_HIGH = 1e18


def _format_large_single(value: float) -> bytes:
    """As `_format_large`: the first text that reads back and does not lie halfway between two singles."""
    exact = Fraction(value)
    half_ulp = (Fraction(float(np.nextafter(np.float32(abs(value)), np.float32("inf")))) - abs(exact)) / 2
    for digits in range(9):
        text = f"{value:.{digits}e}"
        if abs(Fraction(text) - exact) < half_ulp and to_float32(float(text)) == value:
            return _scientific(text)
    raise AssertionError("nine digits name every single")


def format_float4(value: float) -> bytes:
    """Return the shortest text that reads back as the same single, in PostgreSQL's form."""
    text = f"{value:.6g}"  # six digits always survive a single; its switch to exponents is PostgreSQL's too
    size = abs(value)
    if 1e-36 < size < _SINGLE_MIDPOINT_LOW and to_float32(float(text)) == value:
        return text.encode()
    if value != value:
        return b"NaN"
    if size == float("inf"):
        return b"Infinity" if value > 0 else b"-Infinity"
    if size == 0.0:
        return text.encode()
    if _SINGLE_MIDPOINT_LOW <= size < _SINGLE_MIDPOINT_HIGH:
        return _format_large_single(value)
    scientific = np.format_float_scientific(np.float32(value), unique=True, trim="-", exp_digits=2)
    mantissa, _, exponent = scientific.partition("e")
    power = int(exponent)
    if not -4 <= power < 6:
        return scientific.encode()
    places = max(len(mantissa.lstrip("-").replace(".", "")) - 1 - power, 0)
    return f"{Decimal(scientific):.{places}f}".encode()


# -- numeric ------------------------------------------------------------------------------------------------

NUMERIC_MAX_SCALE = 16383
NUMERIC_MAX_DIGITS = 131072
"""PostgreSQL's bounds: digits after and before the decimal point."""

EXACT = Context(
    prec=NUMERIC_MAX_DIGITS + NUMERIC_MAX_SCALE + 1000, rounding=ROUND_HALF_UP, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[]
)
"""Arithmetic without a loss of digits, rounding half away from zero as numeric does."""

_ONE = Decimal(1)
_NAN = Decimal("NaN")


def _overflows() -> InvalidValue:
    return InvalidValue("value overflows numeric format", sqlstate="22003")


def parse_numeric(text: str) -> Decimal:
    """Return the Decimal with the literal's own scale: '1.50' keeps its zero, '1e3' is 1000, '-0' is 0."""
    match = _is_decimal(text)
    if match is None:
        special = _is_special(text)
        if special is None:
            raise bad_syntax("numeric", text)
        if special[2]:
            return Decimal("-Infinity") if special[1] == "-" else Decimal("Infinity")
        if special[1]:
            raise bad_syntax("numeric", text)
        return _NAN
    if (exponent := match["exponent"]) and len(exponent) > 10 and abs(int(exponent[1:20])) >= 1 << 30:
        raise _overflows()
    return normal_numeric(Decimal(text.strip(SPACE)))


def normal_numeric(value: Decimal) -> Decimal:
    """Return a finite Decimal in the engine's form: exponent <= 0, no negative zero. Raises 22003 past the bounds."""
    power = value.as_tuple().exponent
    assert isinstance(power, int)
    if value.is_zero():
        if power < -NUMERIC_MAX_SCALE:
            raise _overflows()
        return Decimal((0, (0,), min(power, 0)))
    if value.adjusted() >= NUMERIC_MAX_DIGITS or power < -NUMERIC_MAX_SCALE:
        raise _overflows()
    return value.quantize(_ONE, context=EXACT) if power > 0 else value


def numeric_rounder(modifier: int) -> Callable[[Decimal], Decimal]:
    """Return what numeric(p, s) does to a value: round half away from zero, then check (22003)."""
    precision, scale = (modifier - 4) >> 16, (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    step = Decimal((0, (1,), -scale))
    digits = precision - scale

    def overflow(reason: str) -> InvalidValue:
        detail = f"A field with precision {precision}, scale {scale} {reason}"
        return InvalidValue("numeric field overflow", sqlstate="22003", detail=detail)

    def apply(value: Decimal) -> Decimal:
        if not value.is_finite():
            if value.is_nan():
                return value
            raise overflow("cannot hold an infinite value.")
        rounded = value.quantize(step, context=EXACT)
        if not rounded:
            return Decimal((0, (0,), min(-scale, 0)))
        if rounded.adjusted() >= digits:
            raise overflow(f"must round to an absolute value less than {f'10^{digits}' if digits else '1'}.")
        return rounded if scale >= 0 else rounded.quantize(_ONE, context=EXACT)

    return apply


def format_numeric(value: Decimal) -> bytes:
    text = f"{value:f}"
    if text[0] == "-" and not value:
        text = text[1:]
    return text.encode()
