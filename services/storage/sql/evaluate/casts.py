"""Conversions between types, as functions from value to value.

`cast(source, target, explicit)` returns the conversion or raises 42846; NULL is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values import coerce_to, json_text
from orbit.kernel.values.numbers import to_float32
from orbit.kernel.values.zones import MICROS_PER_DAY
from services.storage.sql.bind.type_catalog import ELEMENT_OF, REG_TYPES, display_name, is_array, is_binary_coercible
from services.storage.sql.evaluate import dates, numerics, registered_names
from services.storage.sql.evaluate.numbers import CHECKS, out_of_range
from services.storage.sql.text_values import text_formatter, text_parser

Convert = Callable[[Any, Any], Any]
"""(context, value) -> value"""

_INTEGERS: Final = {Oid.INT2: "int2", Oid.INT4: "int4", Oid.INT8: "int8"}
_SHOWN: Final = {Oid.INT2: "smallint", Oid.INT4: "integer", Oid.INT8: "bigint"}
_STRINGS: Final = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR))
_FLOATS: Final = frozenset((Oid.FLOAT4, Oid.FLOAT8))
_OIDS: Final = REG_TYPES | {Oid.OID}


def cast(source: SqlType, target: SqlType, explicit: bool) -> Convert:
    """Return the conversion between two types, the target's modifier applied."""
    if source.oid == target.oid:
        return _modify(target, explicit)
    if target.oid in (Oid.BPCHAR, Oid.VARCHAR) and source.oid in _STRINGS:
        limit = _modify(target, explicit)
        if source.oid == Oid.BPCHAR:
            return lambda context, value: limit(context, value.rstrip(" "))
        return limit
    convert = _convert(source.oid, target.oid)
    if target.modifier == -1:
        return convert
    modify = _modify(target, explicit)
    return lambda context, value: modify(context, convert(context, value))


def _same(_context: Any, value: Any) -> Any:
    return value


def _modify(target: SqlType, explicit: bool) -> Convert:
    """Return what a modifier does to a value of its own type. Explicit casts of text cut it in silence."""
    if target.modifier < 0:
        return _same
    if target.oid == Oid.VARCHAR and explicit:
        size = target.modifier - 4
        return lambda _, value: value[:size]
    if target.oid == Oid.BPCHAR and explicit:
        size = target.modifier - 4
        return lambda _, value: value[:size].ljust(size)
    if is_array(target.oid):
        element = _modify(SqlType(ELEMENT_OF[target.oid], target.modifier), explicit)
        return lambda context, value: tuple(None if item is None else element(context, item) for item in value)
    apply = coerce_to(target.oid, target.modifier)
    return _same if apply is None else lambda _, value: apply(value)


def _plain(call: Callable[[Any], Any]) -> Convert:
    return lambda _, value: call(value)


def _convert(source: int, target: int) -> Convert:
    special = _SPECIAL.get((source, target))
    if special is not None:
        return special
    if target in _INTEGERS:
        converted = _to_integer(source, target)
        if converted is not None:
            return converted
    if target == Oid.NUMERIC and (source in _INTEGERS):
        return _plain(Decimal)
    if target in _FLOATS and (source in _INTEGERS or source == Oid.NUMERIC):
        return _plain(_float_from if target == Oid.FLOAT8 else lambda value: _single(_float_from(value)))
    if source in _OIDS and target in _OIDS:
        return _same
    if target in _OIDS and source in _INTEGERS:
        return _plain(_to_oid)
    if source in REG_TYPES and target in _STRINGS:
        return lambda context, value: registered_names.name_of(context, source, value)
    if target in REG_TYPES and source in (*_STRINGS, Oid.UNKNOWN):
        return lambda context, value: registered_names.oid_of(context, target, value)
    if is_array(source) and is_array(target) and not is_binary_coercible(source, target):
        element = (
            _convert(ELEMENT_OF[source], ELEMENT_OF[target]) if ELEMENT_OF[source] != ELEMENT_OF[target] else _same
        )
        return lambda context, value: tuple(None if item is None else element(context, item) for item in value)
    return _through_text(source, target)


def _through_text(source: int, target: int) -> Convert:
    if target in _STRINGS or target == Oid.UNKNOWN:
        if source == Oid.BPCHAR:
            return _plain(lambda value: value.rstrip(" "))
        if source in _STRINGS or source == Oid.UNKNOWN:
            if target == Oid.CHAR:
                return _plain(lambda value: value[:1])
            return _plain(lambda value: value[:63]) if target == Oid.NAME else _same
        if source == Oid.TIMESTAMPTZ or ELEMENT_OF.get(source) == Oid.TIMESTAMPTZ:
            return lambda context, value: text_formatter(source, context.zone)(value)
        if ELEMENT_OF.get(source) in REG_TYPES:
            element = ELEMENT_OF[source]
            return lambda context, value: text_formatter(1009)(
                tuple(None if item is None else registered_names.name_of(context, element, item) for item in value)
            )
        return _plain(text_formatter(source))
    if source in _STRINGS or source == Oid.UNKNOWN:
        if target in _ZONED or ELEMENT_OF.get(target) in _ZONED:
            # These also take 'now', 'today' and the like.
            return lambda context, value: text_parser(SqlType(target), context.zone, lambda: context.now_us)(value)
        parse = text_parser(SqlType(target))
        return _plain(parse)
    if is_binary_coercible(source, target):
        return _same
    raise NotSupported(f"cast from {display_name(SqlType(source))} to {display_name(SqlType(target))} is not supported")


_ZONED: Final = frozenset((Oid.TIMESTAMPTZ, Oid.TIMESTAMP, Oid.DATE, Oid.TIME))


def _to_integer(source: int, target: int) -> Convert | None:
    check, shown = CHECKS[_INTEGERS[Oid(target)]], _SHOWN[Oid(target)]
    if source in _INTEGERS:
        return _plain(check)
    if source == Oid.NUMERIC:
        return lambda _, value: numerics.to_integer(value, check, shown)
    if source in _FLOATS:

        def from_float(_context: Any, value: float) -> int:
            if math.isinf(value) or value != value:
                raise out_of_range(shown)
            return check(round(value))

        return from_float
    if source in _OIDS:
        return _plain(lambda value: value - (1 << 32) if target == Oid.INT4 and value >= 1 << 31 else value)
    if source == Oid.BOOL:
        return _plain(int)
    if source == Oid.CHAR:
        return _plain(lambda value: ord(value[0]) if value else 0)
    return None


def _float_from(value: Any) -> float:
    number = float(value)
    if math.isinf(number) and isinstance(value, Decimal) and value.is_finite():
        raise OrbitError(f'"{value:f}" is out of range for type double precision', sqlstate="22003")
    return number


def _single(value: float) -> float:
    if math.isinf(value) or value != value:
        return value
    narrow = to_float32(value)
    if math.isinf(narrow):
        raise OrbitError("value out of range: overflow", sqlstate="22003")
    if narrow == 0 and value != 0:
        raise OrbitError("value out of range: underflow", sqlstate="22003")
    return narrow


def _to_oid(value: int) -> int:
    if -(1 << 31) <= value < 0:
        return value + (1 << 32)
    if 0 <= value < 1 << 32:
        return value
    raise OrbitError("OID out of range", sqlstate="22003")


def _time_of_day(micros: int) -> int | None:
    return None if micros in dates.TIMESTAMP_ENDS else micros % MICROS_PER_DAY


_SPECIAL: Final[dict[tuple[int, int], Convert]] = {
    (Oid.BOOL, Oid.TEXT): _plain(lambda value: "true" if value else "false"),
    (Oid.BOOL, Oid.VARCHAR): _plain(lambda value: "true" if value else "false"),
    (Oid.BOOL, Oid.BPCHAR): _plain(lambda value: "true" if value else "false"),
    (Oid.INT4, Oid.BOOL): _plain(bool),
    (Oid.INT4, Oid.CHAR): _plain(lambda value: chr(value & 0x7F)),
    (Oid.FLOAT4, Oid.FLOAT8): _same,
    (Oid.FLOAT8, Oid.FLOAT4): _plain(_single),
    (Oid.FLOAT8, Oid.NUMERIC): _plain(lambda value: numerics.from_float(value, 15)),
    (Oid.FLOAT4, Oid.NUMERIC): _plain(lambda value: numerics.from_float(value, 6)),
    (Oid.DATE, Oid.TIMESTAMP): _plain(dates.date_to_timestamp),
    (Oid.DATE, Oid.TIMESTAMPTZ): lambda context, value: dates.from_local(dates.date_to_timestamp(value), context.zone),
    (Oid.TIMESTAMP, Oid.DATE): _plain(dates.timestamp_to_date),
    (Oid.TIMESTAMP, Oid.TIME): _plain(_time_of_day),
    (Oid.TIMESTAMP, Oid.TIMESTAMPTZ): lambda context, value: dates.from_local(value, context.zone),
    (Oid.TIMESTAMPTZ, Oid.TIMESTAMP): lambda context, value: dates.to_local(value, context.zone),
    (Oid.TIMESTAMPTZ, Oid.DATE): lambda context, value: dates.timestamp_to_date(dates.to_local(value, context.zone)),
    (Oid.TIMESTAMPTZ, Oid.TIME): lambda context, value: _time_of_day(dates.to_local(value, context.zone)),
    (Oid.TIME, Oid.INTERVAL): _plain(lambda value: (0, 0, value)),
    (Oid.INTERVAL, Oid.TIME): _plain(lambda value: value[2] % MICROS_PER_DAY),
    (Oid.JSON, Oid.JSONB): _plain(json_text.parse_jsonb),
    (Oid.JSONB, Oid.JSON): _same,
}
