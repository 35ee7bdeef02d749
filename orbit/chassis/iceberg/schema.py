"""SQL tables as Iceberg tables: field ids, types, and the Arrow columns of their files.

A column's number is its field id for ever, so that renames and drops never touch a file. The hidden row id column has
a field id beyond every column number.

| SQL type                            | Iceberg            | in files                                  |
|-------------------------------------|--------------------|-------------------------------------------|
| boolean, integer, bigint, oid       | boolean, int, long | as stored                                 |
| smallint                            | int                | int32                                     |
| real, double precision              | float, double      | as stored                                 |
| numeric(p, s), p <= 38              | decimal(p, s)      | as stored                                 |
| date, time, timestamp, timestamptz  | the same           | as stored (microseconds)                  |
| bytea                               | binary             | as stored                                 |
| interval                            | string             | ISO 8601, signed parts: P14M3DT-5.000001S |
| every other                         | string             | canonical text                            |
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.schema import Schema, sanitize_column_names
from pyiceberg.types import (
    BinaryType,
    BooleanType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IcebergType,
    IntegerType,
    LongType,
    NestedField,
    StringType,
    TimestampType,
    TimestamptzType,
    TimeType,
)

from orbit.kernel.errors import NotSupported
from orbit.kernel.ids import ROW_ID_COLUMN
from orbit.kernel.schema import Column, Table
from orbit.kernel.types import MAX_ARROW_PRECISION, Oid, SqlType, arrow_type

ROW_ID_FIELD: Final = 1_000_000
"""Field id of the row id column. Column numbers stay below; Iceberg reserves only the ids near 2^31."""

FIELD_ID_KEY: Final = b"PARQUET:field_id"

_PRIMITIVES: Final[dict[int, IcebergType]] = {
    Oid.BOOL: BooleanType(),
    Oid.INT2: IntegerType(),
    Oid.INT4: IntegerType(),
    Oid.INT8: LongType(),
    Oid.OID: LongType(),
    Oid.FLOAT4: FloatType(),
    Oid.FLOAT8: DoubleType(),
    Oid.DATE: DateType(),
    Oid.TIME: TimeType(),
    Oid.TIMESTAMP: TimestampType(),
    Oid.TIMESTAMPTZ: TimestamptzType(),
    Oid.BYTEA: BinaryType(),
}
_IDENTIFIER_TYPES: Final = (FloatType, DoubleType)
"""Types that Iceberg refuses in identifier fields."""


def iceberg_type(sql_type: SqlType) -> IcebergType:
    """Return the Iceberg type of a SQL type."""
    numeric = sql_type.precision_and_scale
    if numeric is not None and numeric[0] <= MAX_ARROW_PRECISION:
        return DecimalType(*numeric)
    return _PRIMITIVES.get(sql_type.oid, StringType())


def file_type(sql_type: SqlType) -> pa.DataType:
    """Return the Arrow type of a column in data files."""
    if sql_type.oid == Oid.INT2:
        return pa.int32()
    return pa.string() if sql_type.oid == Oid.INTERVAL else arrow_type(sql_type)


def iceberg_schema(table: Table, current: Schema | None = None) -> Schema:
    """Return the table's Iceberg schema.

    A field is required when its column is NOT NULL and was so in `current`, the schema that existing files have:
    a column that came later is missing in them. Raises NotSupported for a column with the row id's name.
    """
    if table.column(ROW_ID_COLUMN) is not None:
        raise NotSupported(f"a table with a column named {ROW_ID_COLUMN} cannot move to the cold tier")
    before = {} if current is None else {field.field_id: field.required for field in current.fields}
    fields = [
        NestedField(
            column.number,
            column.name,
            iceberg_type(column.type),
            required=not column.nullable and (current is None or before.get(column.number, False)),
        )
        for column in table.columns
    ]
    by_id = {field.field_id: field for field in fields}
    key = table.primary_key
    identifiers = [] if key is None else list(key.columns)
    if any(not by_id[n].required or isinstance(by_id[n].field_type, _IDENTIFIER_TYPES) for n in identifiers):
        identifiers = []
    fields.append(NestedField(ROW_ID_FIELD, ROW_ID_COLUMN, LongType(), required=True, doc="Orbit's name for the row"))
    return Schema(*fields, schema_id=0, identifier_field_ids=identifiers)


def file_schema(schema: Schema, table: Table) -> pa.Schema:
    """Return the Arrow schema of the data files: Iceberg's field order and ids, names that any reader takes."""
    types = {column.number: file_type(column.type) for column in table.columns}
    types[ROW_ID_FIELD] = pa.int64()
    return pa.schema(
        pa.field(
            field.name,
            types[field.field_id],
            nullable=not field.required,
            metadata={FIELD_ID_KEY: str(field.field_id).encode()},
        )
        for field in sanitize_column_names(schema).fields
    )


def to_file(batch: pa.RecordBatch, table: Table, schema: pa.Schema) -> pa.Table:
    """Return storage columns (the row id and the table's, by name) as the columns of a data file."""
    names = {column.number: column.name for column in table.columns}
    names[ROW_ID_FIELD] = ROW_ID_COLUMN
    arrays = []
    for field in schema:
        array = batch.column(names[field_id(field)])
        if isinstance(array.type, pa.DictionaryType):
            array = array.dictionary_decode()
        if pa.types.is_interval(array.type):
            array = pa.array([interval_text(value) for value in array.to_pylist()], pa.string())
        arrays.append(array if array.type == field.type else array.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def from_file(array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    """Return a data file's column in its storage type."""
    wanted = arrow_type(column.type)
    if array.type == wanted:
        return array
    if column.type.oid == Oid.INTERVAL:
        return pa.chunked_array([[interval_value(text) for text in array.to_pylist()]], wanted)
    return pc.cast(array, wanted)


def field_id(field: pa.Field) -> int:
    """Return the Iceberg field id of a file's field, 0 for none."""
    metadata: dict[bytes, bytes] = field.metadata or {}
    return int(metadata.get(FIELD_ID_KEY, b"0"))


def interval_text(value: Any) -> str | None:
    """Return an interval's (months, days, nanoseconds) as text."""
    if value is None:
        return None
    months, days, nanoseconds = value
    sign = "-" if nanoseconds < 0 else ""
    seconds, micros = divmod(abs(nanoseconds) // 1000, 1_000_000)
    return f"P{months}M{days}DT{sign}{seconds}.{micros:06}S"


_INTERVAL = re.compile(r"P(-?\d+)M(-?\d+)DT(-?)(\d+)\.(\d{6})S")


def interval_value(text: str | None) -> pa.MonthDayNano | None:
    """Return the value of `interval_text`."""
    if text is None:
        return None
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise ValueError(f"not an interval of this engine: {text!r}")
    months, days, sign, seconds, micros = match.groups()
    magnitude = (int(seconds) * 1_000_000 + int(micros)) * 1000
    return pa.MonthDayNano([int(months), int(days), -magnitude if sign else magnitude])


def same_fields(left: Schema, right: Schema) -> bool:
    """Return whether two schemas have the same fields and identifiers, whatever their schema id."""
    return left.fields == right.fields and set(left.identifier_field_ids) == set(right.identifier_field_ids)


def column_numbers(table: Table, columns: Sequence[str | int]) -> list[Column]:
    """Return columns named by name or number. Raises KeyError for one that the table has not."""
    found = []
    for wanted in columns:
        column = next((c for c in table.columns if wanted in (c.name, c.number)), None)
        if column is None:
            raise KeyError(wanted)
        found.append(column)
    return found
