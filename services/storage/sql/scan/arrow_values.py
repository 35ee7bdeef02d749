"""Arrow columns to lists of row values and back, for functions that Python computes inside a scan.

Also the DuckDB type that carries each SQL type: numeric travels as canonical text, timestamptz as a plain
timestamp in UTC, names and OIDs as their storage does, arrays as lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from orbit.kernel.types import Oid
from orbit.kernel.values import calendar as cal
from services.storage.sql.bind.type_catalog import ELEMENT_OF, REG_TYPES, VOID, XID, array_of

_NAMES: Final[dict[int, tuple[str, pa.DataType]]] = {
    Oid.BOOL: ("BOOLEAN", pa.bool_()),
    Oid.INT2: ("SMALLINT", pa.int16()),
    Oid.INT4: ("INTEGER", pa.int32()),
    Oid.INT8: ("BIGINT", pa.int64()),
    Oid.OID: ("BIGINT", pa.int64()),
    XID: ("BIGINT", pa.int64()),
    VOID: ("INTEGER", pa.int32()),
    Oid.FLOAT4: ("FLOAT", pa.float32()),
    Oid.FLOAT8: ("DOUBLE", pa.float64()),
    Oid.BYTEA: ("BLOB", pa.binary()),
    Oid.DATE: ("DATE", pa.date32()),
    Oid.TIME: ("TIME", pa.time64("us")),
    Oid.TIMESTAMP: ("TIMESTAMP", pa.timestamp("us")),
    Oid.TIMESTAMPTZ: ("TIMESTAMP", pa.timestamp("us")),
    Oid.INTERVAL: ("INTERVAL", pa.month_day_nano_interval()),
    **dict.fromkeys(REG_TYPES, ("BIGINT", pa.int64())),
}


def list_of(oid: int) -> int:
    """Return what stands for a list of values of the type: its array type, or -oid where that is an array already."""
    array = array_of(oid)
    return -oid if array is None else array


def _element(oid: int) -> int | None:
    return -oid if oid < 0 else ELEMENT_OF.get(oid)


def duckdb_type(oid: int) -> str:
    """Return the DuckDB type that carries a SQL type."""
    if (element := _element(oid)) is not None:
        return duckdb_type(element) + "[]"
    return _NAMES[oid][0] if oid in _NAMES else "VARCHAR"


def carrier(oid: int) -> pa.DataType:
    """Return the Arrow type of that DuckDB type."""
    if (element := _element(oid)) is not None:
        return pa.list_(carrier(element))
    return _NAMES[oid][1] if oid in _NAMES else pa.string()


_INTEGER_VIEWS: Final = {
    Oid.DATE: pa.int32(), Oid.TIME: pa.int64(), Oid.TIMESTAMP: pa.int64(), Oid.TIMESTAMPTZ: pa.int64(),
}  # fmt: skip
# DuckDB's infinities are symmetric, ours are the ends of the integer range.
_LOWEST: Final = {
    Oid.DATE: (-(1 << 31) + 1, cal.DATE_MINUS_INFINITY),
    Oid.TIMESTAMP: (-(1 << 63) + 1, cal.TIMESTAMP_MINUS_INFINITY),
    Oid.TIMESTAMPTZ: (-(1 << 63) + 1, cal.TIMESTAMP_MINUS_INFINITY),
}


def to_values(column: pa.Array | pa.ChunkedArray, oid: int) -> list[Any]:
    """Return a column as row values."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    view = _INTEGER_VIEWS.get(Oid(oid)) if oid in _INTEGER_VIEWS else None
    if view is not None:
        values: list[Any] = column.cast(carrier(oid)).view(view).to_pylist()
        lowest = _LOWEST.get(Oid(oid))
        if lowest is not None and lowest[0] in values:
            return [lowest[1] if value == lowest[0] else value for value in values]
        return values
    if oid == Oid.NUMERIC:
        return [None if value is None else Decimal(value) for value in column.cast(pa.string()).to_pylist()]
    if oid == Oid.INTERVAL:
        return [None if value is None else (value[0], value[1], value[2] // 1000) for value in column.to_pylist()]
    if oid in ELEMENT_OF:
        return _lists_to_values(column, ELEMENT_OF[oid])
    return list(column.to_pylist())


def _lists_to_values(column: pa.Array, element: int) -> list[Any]:
    flat = to_values(column.flatten(), element)
    sizes = pc.list_value_length(column).to_pylist()
    result: list[Any] = []
    at = 0
    for size in sizes:
        if size is None:
            result.append(None)
        else:
            result.append(tuple(flat[at : at + size]))
            at += size
    return result


def to_arrow(values: Sequence[Any], oid: int) -> pa.Array:
    """Return row values as a column of the carrier type."""
    if oid in _INTEGER_VIEWS:
        lowest = _LOWEST.get(Oid(oid))
        if lowest is not None and lowest[1] in values:
            values = [lowest[0] if value == lowest[1] else value for value in values]
        return pa.array(values, _INTEGER_VIEWS[Oid(oid)]).view(carrier(oid))
    if oid == Oid.NUMERIC:
        return pa.array([None if value is None else numeric_text(value) for value in values], pa.string())
    if oid == Oid.INTERVAL:
        return pa.array(
            [None if v is None else pa.MonthDayNano([v[0], v[1], v[2] * 1000]) for v in values],
            pa.month_day_nano_interval(),
        )
    if (element := _element(oid)) is not None:
        flat = to_arrow([item for value in values if value is not None for item in value], element)
        offsets: list[int | None] = []
        at = 0
        for value in values:
            offsets.append(None if value is None else at)
            at += 0 if value is None else len(value)
        offsets.append(at)
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
    if oid == VOID:
        return pa.nulls(len(values), pa.int32())
    return pa.array(values, carrier(oid))


def numeric_text(value: Decimal) -> str:
    """Return a numeric's canonical text."""
    return f"{value:f}"
