"""Whole Arrow columns to PostgreSQL's text, for results of scans and COPY TO.

Owns `text_column`: an Arrow array of any storage type to an Arrow string array with the same NULLs. Arrow's own
cast prints most values as PostgreSQL does; what it prints otherwise (exponents, infinities, BC) is found by mask
and printed value by value with `format_text`, so that the bulk form and the plain one cannot differ.
"""

from __future__ import annotations

from datetime import UTC, tzinfo
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orbit.kernel.errors import NotSupported
from orbit.kernel.types import Oid, SqlType, arrow_type, type_name
from orbit.kernel.values import calendar as cal
from orbit.kernel.values import format_text
from orbit.kernel.values.zones import MICROS_PER_DAY, MICROS_PER_SECOND, offset_at

_STRINGS = frozenset(
    (Oid.TEXT, Oid.UNKNOWN, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR, Oid.UUID, Oid.JSON, Oid.JSONB)
)
_INTEGERS = frozenset((Oid.INT2, Oid.INT4, Oid.INT8, Oid.OID))
_QUARTER_HOUR = 900 * MICROS_PER_SECOND
_FIRST_DAY = -719_162
_LAST_DAY = 2_932_896
"""0001-01-01 and 9999-12-31: between them Arrow prints dates as PostgreSQL does."""


def python_values(array: Any, oid: int) -> list[Any]:
    """Return the array's values as `orbit.kernel.types` has them in rows."""
    if oid in (Oid.DATE, Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        wide = pa.int32() if oid == Oid.DATE else pa.int64()
        values: list[Any] = _micros(array, oid).view(wide).to_pylist()
        return values
    if oid == Oid.INTERVAL:
        return [None if v is None else (v[0], v[1], v[2] // 1000) for v in array.to_pylist()]
    values = array.to_pylist()
    if oid == Oid.NUMERIC and values:
        return [v if v is None or type(v) is Decimal else Decimal(v) for v in values]
    return values


def _micros(array: Any, oid: int) -> Any:
    """Return a date or time array in its storage type."""
    storage = {
        Oid.DATE: pa.date32(),
        Oid.TIME: pa.time64("us"),
        Oid.TIMESTAMP: pa.timestamp("us"),
        Oid.TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
    }[Oid(oid)]
    return array if array.type == storage else array.cast(storage)


def storage_column(values: list[Any], sql_type: SqlType) -> Any:
    """Return row values as an Arrow array of the type's storage form. Raises NotSupported for NaN in decimals."""
    kind = arrow_type(sql_type)
    if sql_type.oid == Oid.INTERVAL:
        values = [None if v is None else pa.MonthDayNano([v[0], v[1], v[2] * 1000]) for v in values]
    elif sql_type.oid == Oid.NUMERIC:
        if pa.types.is_string(kind):
            values = [None if v is None else f"{v:f}" for v in values]
        elif any(v is not None and not v.is_finite() for v in values):
            raise NotSupported(f"NaN in a column of type {type_name(sql_type)} is not supported")
    elif sql_type.oid == Oid.DATE:
        return pa.array(values, pa.int32()).view(kind)
    elif sql_type.oid in (Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        return pa.array(values, pa.int64()).view(kind)
    return pa.array(values, kind)


def text_column(array: Any, oid: int, zone: tzinfo = UTC) -> Any:
    """Return the array's values as PostgreSQL prints them: a pa.string() array of the same length, NULLs kept.

    `array` is a pa.Array of the type's storage form, or of one that a query engine gives for it (a wider or
    narrower integer, a dictionary, another decimal width).
    """
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_dictionary(array.type):
        return text_column(array.dictionary, oid, zone).take(array.indices)
    if oid in _STRINGS:
        return array if array.type == pa.string() else array.cast(pa.string())
    if pa.types.is_null(array.type):
        return array.cast(pa.string())
    if oid in _INTEGERS:
        return array.cast(pa.string())
    if oid == Oid.BOOL:
        return pc.if_else(array, "t", "f")
    if oid in (Oid.FLOAT8, Oid.FLOAT4):
        return _float_text(array, oid)
    if oid == Oid.NUMERIC:
        return _numeric_text(array)
    if oid == Oid.DATE:
        array = _micros(array, oid)
        return _patched(array.cast(pa.string()), array, _outside(array.view(pa.int32()), _FIRST_DAY, _LAST_DAY), oid)
    if oid == Oid.TIME:
        array = _micros(array, oid)
        text = _trimmed(array.cast(pa.string()))
        return _patched(text, array, _outside(array.view(pa.int64()), 0, MICROS_PER_DAY - 1), oid)
    if oid == Oid.TIMESTAMP:
        return _timestamp_text(_micros(array, oid))
    if oid == Oid.TIMESTAMPTZ:
        return _timestamptz_text(_micros(array, oid), zone)
    print_ = format_text(oid, zone)
    return pa.array([None if v is None else print_(v).decode() for v in python_values(array, oid)], pa.string())


def _outside(array: Any, low: int, high: int) -> Any:
    return pc.or_(pc.less(array, low), pc.greater(array, high))


def _patched(text: Any, array: Any, wrong: Any, oid: int, zone: tzinfo = UTC) -> Any:
    """Replace the texts at `wrong` (a mask whose NULLs mean no) by what `format_text` prints for those values."""
    wrong = wrong.fill_null(False)
    if not pc.any(wrong).as_py():
        return text
    print_ = format_text(oid, zone)
    values = python_values(array.filter(wrong), oid)
    return pc.replace_with_mask(text, wrong, pa.array([print_(value).decode() for value in values], pa.string()))


def _float_text(array: Any, oid: int) -> Any:
    # Where both print plain decimals. A single of more than six digits switches to exponents in PostgreSQL alone.
    size = pc.abs(array)
    low, high = (1e-4, 1e10) if oid == Oid.FLOAT8 else (1e-4, 1e6)
    plain = pc.or_(pc.equal(array, 0.0), pc.and_(pc.greater_equal(size, low), pc.less(size, high)))
    return _patched(array.cast(pa.string()), array, pc.invert(plain), oid)


def _numeric_text(array: Any) -> Any:
    if pa.types.is_string(array.type):  # canonical text already
        return array
    if not pa.types.is_decimal(array.type):  # an integer or a float that a query engine gave for a numeric
        if pa.types.is_floating(array.type):
            print_ = format_text(Oid.NUMERIC)
            values = python_values(array.cast(pa.string()), Oid.NUMERIC)
            return pa.array([None if v is None else print_(v).decode() for v in values], pa.string())
        return array.cast(pa.string())
    text = array.cast(pa.string())
    if array.type.scale <= 6:  # Arrow prints an exponent only below 1e-6
        return text
    return _patched(text, array, pc.match_substring(text, "E"), Oid.NUMERIC)


def _trimmed(text: Any) -> Any:
    """Cut the zeros, and then a bare point, that Arrow prints after the seconds."""
    return pc.utf8_rtrim(pc.utf8_rtrim(text, characters="0"), characters=".")


def _timestamp_text(array: Any) -> Any:
    micros = array.view(pa.int64())
    wrong = _outside(micros, _FIRST_DAY * MICROS_PER_DAY, (_LAST_DAY + 1) * MICROS_PER_DAY - 1)
    return _patched(_trimmed(array.cast(pa.string())), array, wrong, Oid.TIMESTAMP)


def _timestamptz_text(array: Any, zone: tzinfo) -> Any:
    micros = array.view(pa.int64())
    wrong = _outside(micros, (_FIRST_DAY + 2) * MICROS_PER_DAY, (_LAST_DAY - 2) * MICROS_PER_DAY)
    if zone is UTC:
        plain = _trimmed(array.cast(pa.timestamp("us")).cast(pa.string()))
        return _patched(pc.binary_join_element_wise(plain, "+00", ""), array, wrong, Oid.TIMESTAMPTZ)
    values = micros.fill_null(0).to_numpy()
    # Rules change on whole quarters of an hour (since zones have rules): look each quarter up once.
    quarters, where = np.unique(values // _QUARTER_HOUR, return_inverse=True)
    inside = np.abs(quarters) < (_LAST_DAY * MICROS_PER_DAY) // _QUARTER_HOUR
    offsets = np.array(
        [offset_at(int(q) * 900, zone) if ok else 0 for q, ok in zip(quarters, inside, strict=True)], np.int64
    )[where]
    # Local mean time ended within a quarter: those few old moments go value by value.
    old = pa.array(values < cal.days_from_civil(1973, 1, 1) * MICROS_PER_DAY)
    with np.errstate(over="ignore"):
        local = pa.array(values + offsets * MICROS_PER_SECOND, pa.timestamp("us"), mask=np.asarray(micros.is_null()))
    known, at = np.unique(offsets, return_inverse=True)
    suffixes = pa.array([cal.offset_text(int(offset)) for offset in known], pa.string()).take(pa.array(at))
    text = pc.binary_join_element_wise(_trimmed(local.cast(pa.string())), suffixes, "")
    return _patched(text, array, pc.and_(pc.or_(wrong, old), array.is_valid()), Oid.TIMESTAMPTZ, zone)
