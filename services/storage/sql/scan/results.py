"""Arrow in and out of DuckDB: storage columns as it takes them, result columns as the encoders want them.

A result column has the storage type of its SQL type (`orbit.kernel.types.arrow_type`), except that a numeric may be
any decimal128 whose scale is the display scale, and that arrays and reg* are their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values import calendar as cal
from services.storage.client import ColumnDescription
from services.storage.sql.bind.tree import Cast, ColumnRef
from services.storage.sql.bind.type_catalog import ELEMENT_OF, REG_TYPES, TEXT, VOID
from services.storage.sql.scan.arrow_values import carrier
from services.storage.sql.scan.pieces import Piece

if TYPE_CHECKING:
    from services.storage.sql.scan.generator import Generator

_ENDS: Final[dict[int, tuple[Any, int, int]]] = {
    Oid.DATE: (pa.int32(), cal.DATE_MINUS_INFINITY, -(1 << 31) + 1),
    Oid.TIMESTAMP: (pa.int64(), cal.TIMESTAMP_MINUS_INFINITY, -(1 << 63) + 1),
    Oid.TIMESTAMPTZ: (pa.int64(), cal.TIMESTAMP_MINUS_INFINITY, -(1 << 63) + 1),
}
"""-infinity here and in DuckDB, whose infinities are symmetric."""


def registered(rows: Any, columns: Sequence[int], oids: Sequence[int]) -> Any:
    """Return a table's rows as DuckDB takes them: columns c<position>, timestamptz as plain UTC timestamps."""
    names = [f"c{at}" for at in columns]
    if isinstance(rows, list):
        if not rows:
            empty = pa.schema([(name, carrier(oid)) for name, oid in zip(names, oids, strict=True)])
            return empty.empty_table()
        rows = pa.Table.from_batches(rows)
    if isinstance(rows, pa.RecordBatchReader):
        schema = pa.schema(
            [(name, _taken_type(field.type, oid)) for name, field, oid in zip(names, rows.schema, oids, strict=True)]
        )
        return pa.RecordBatchReader.from_batches(
            schema, (pa.record_batch(_taken(batch.columns, oids), schema=schema) for batch in rows)
        )
    return pa.table(_taken(rows.columns, oids), names=names)


def _taken_type(arrow: Any, oid: int) -> Any:
    return pa.timestamp("us") if oid == Oid.TIMESTAMPTZ else arrow


def _taken(columns: Sequence[Any], oids: Sequence[int]) -> list[Any]:
    return [_take(column, oid) for column, oid in zip(columns, oids, strict=True)]


def _take(column: Any, oid: int) -> Any:
    if oid == Oid.TIMESTAMPTZ:
        column = column.cast(pa.timestamp("us"))
    return _ends(column, oid, inward=True) if oid in _ENDS else column


def _ends(column: Any, oid: int, inward: bool) -> Any:
    wide, ours, theirs = _ENDS[oid]
    find, put = (ours, theirs) if inward else (theirs, ours)
    if isinstance(column, pa.ChunkedArray):
        chunks = [_ends(chunk, oid, inward) for chunk in column.chunks]
        return pa.chunked_array(chunks, type=column.type)
    numbers = column.view(wide)
    found = pc.equal(numbers, pa.scalar(find, wide))
    if not pc.any(found).as_py():
        return column
    return pc.if_else(found, pa.scalar(put, wide), numbers).view(column.type)


def deliverable(generator: Generator, piece: Piece) -> str:
    """Return the SQL of a result column in the form in which it leaves DuckDB."""
    oid = piece.type.oid
    if oid in REG_TYPES or oid in ELEMENT_OF:
        # Text is made where the session's context is.
        template = Cast(TEXT, ColumnRef(SqlType(oid), 0, 0, ""), True)
        name = generator.functions.expression(template, [oid])
        return f"{name}({generator.running.number}, {piece.sql})"
    if oid == VOID:
        return f"CASE WHEN {piece.sql} IS NULL THEN '' END"
    return piece.sql


def finished(batch: pa.RecordBatch, columns: Sequence[ColumnDescription]) -> pa.RecordBatch:
    """Return a batch of DuckDB's with the result's column types."""
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * batch.num_rows, pa.struct([])))
    arrays: list[Any] = []
    for column, description in zip(batch.columns, columns, strict=True):
        oid = description.type.oid
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if oid in _ENDS:
            column = _ends(column, oid, inward=False)
        if oid == Oid.TIMESTAMPTZ:
            column = column.view(pa.int64()).view(pa.timestamp("us", tz="UTC"))
        arrays.append(column)
    return pa.record_batch(arrays, names=[f"c{at}" for at in range(len(columns))])


def encoding_types(columns: Sequence[ColumnDescription]) -> list[SqlType]:
    """Return the types by which the encoders must read the result's columns: text where the column is text already."""
    return [
        TEXT
        if column.type.oid in REG_TYPES or column.type.oid in ELEMENT_OF or column.type.oid == VOID
        else column.type
        for column in columns
    ]
