"""SQL types: their PostgreSQL identity, their value in a Python row, their Arrow column.

Owns the table of types. Text and binary input and output are in `orbit.kernel.values`.

| type                     | value in a row                    | Arrow storage                         |
|--------------------------|-----------------------------------|---------------------------------------|
| boolean                  | bool                              | bool                                  |
| smallint .. bigint, oid  | int                               | int16 .. int64                        |
| real, double precision   | float                             | float32, float64                      |
| numeric(p, s), p <= 38   | decimal.Decimal                   | decimal128(p, s)                      |
| numeric                  | decimal.Decimal                   | string (canonical text)               |
| text, varchar, char(n)   | str                               | string                                |
| json, jsonb, uuid        | str (canonical text)              | string                                |
| bytea                    | bytes                             | binary                                |
| date                     | int, days since 1970-01-01        | date32                                |
| time                     | int, microseconds since midnight  | time64[us]                            |
| timestamp, timestamptz   | int, microseconds since 1970 UTC  | timestamp[us], timestamp[us, UTC]     |
| interval                 | tuple (months, days, microseconds)| month_day_nano_interval               |

NULL is None. PostgreSQL's `infinity` dates and timestamps are the ends of their integer range.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec
import pyarrow as pa


class Oid(IntEnum):
    """PostgreSQL's type OIDs, as `pg_type` numbers them."""

    BOOL = 16
    BYTEA = 17
    CHAR = 18
    NAME = 19
    INT8 = 20
    INT2 = 21
    INT4 = 23
    TEXT = 25
    OID = 26
    JSON = 114
    FLOAT4 = 700
    FLOAT8 = 701
    UNKNOWN = 705
    BPCHAR = 1042
    VARCHAR = 1043
    DATE = 1082
    TIME = 1083
    TIMESTAMP = 1114
    TIMESTAMPTZ = 1184
    INTERVAL = 1186
    NUMERIC = 1700
    UUID = 2950
    JSONB = 3802


class SqlType(msgspec.Struct, frozen=True, array_like=True):
    """A column's type. `modifier` is PostgreSQL's typmod: -1 for none.

    varchar(n), char(n): n + 4. numeric(p, s): (p << 16 | s) + 4. time, timestamp: digits of a second.
    """

    oid: int
    modifier: int = -1

    @property
    def precision_and_scale(self) -> tuple[int, int] | None:
        """Return (p, s) of numeric(p, s), or None for an unconstrained numeric."""
        if self.oid != Oid.NUMERIC or self.modifier < 4:
            return None
        packed = self.modifier - 4
        return packed >> 16, packed & 0xFFFF

    @property
    def length(self) -> int | None:
        """Return n of varchar(n) or char(n)."""
        if self.oid in (Oid.VARCHAR, Oid.BPCHAR) and self.modifier >= 4:
            return self.modifier - 4
        return None


_NAMES: Final[dict[int, str]] = {
    Oid.BOOL: "boolean",
    Oid.BYTEA: "bytea",
    Oid.CHAR: '"char"',
    Oid.NAME: "name",
    Oid.INT8: "bigint",
    Oid.INT2: "smallint",
    Oid.INT4: "integer",
    Oid.TEXT: "text",
    Oid.OID: "oid",
    Oid.JSON: "json",
    Oid.FLOAT4: "real",
    Oid.FLOAT8: "double precision",
    Oid.UNKNOWN: "unknown",
    Oid.BPCHAR: "character",
    Oid.VARCHAR: "character varying",
    Oid.DATE: "date",
    Oid.TIME: "time without time zone",
    Oid.TIMESTAMP: "timestamp without time zone",
    Oid.TIMESTAMPTZ: "timestamp with time zone",
    Oid.INTERVAL: "interval",
    Oid.NUMERIC: "numeric",
    Oid.UUID: "uuid",
    Oid.JSONB: "jsonb",
}

_SIZES: Final[dict[int, int]] = {
    Oid.BOOL: 1,
    Oid.CHAR: 1,
    Oid.NAME: 64,
    Oid.INT2: 2,
    Oid.INT4: 4,
    Oid.OID: 4,
    Oid.INT8: 8,
    Oid.FLOAT4: 4,
    Oid.FLOAT8: 8,
    Oid.DATE: 4,
    Oid.TIME: 8,
    Oid.TIMESTAMP: 8,
    Oid.TIMESTAMPTZ: 8,
    Oid.INTERVAL: 16,
    Oid.UUID: 16,
}

_ARROW: Final[dict[int, pa.DataType]] = {
    Oid.BOOL: pa.bool_(),
    Oid.BYTEA: pa.binary(),
    Oid.CHAR: pa.string(),
    Oid.NAME: pa.string(),
    Oid.INT2: pa.int16(),
    Oid.INT4: pa.int32(),
    Oid.INT8: pa.int64(),
    Oid.OID: pa.int64(),
    Oid.TEXT: pa.string(),
    Oid.UNKNOWN: pa.string(),
    Oid.JSON: pa.string(),
    Oid.JSONB: pa.string(),
    Oid.UUID: pa.string(),
    Oid.BPCHAR: pa.string(),
    Oid.VARCHAR: pa.string(),
    Oid.FLOAT4: pa.float32(),
    Oid.FLOAT8: pa.float64(),
    Oid.DATE: pa.date32(),
    Oid.TIME: pa.time64("us"),
    Oid.TIMESTAMP: pa.timestamp("us"),
    Oid.TIMESTAMPTZ: pa.timestamp("us", tz="UTC"),
    Oid.INTERVAL: pa.month_day_nano_interval(),
}

MAX_ARROW_PRECISION = 38


def type_name(sql_type: SqlType) -> str:
    """Return the type as `format_type` prints it, for example `numeric(12,2)`."""
    name = _NAMES[sql_type.oid]
    if (length := sql_type.length) is not None:
        return f"{name}({length})"
    if (numeric := sql_type.precision_and_scale) is not None:
        return f"numeric({numeric[0]},{numeric[1]})"
    return name


def type_size(oid: int) -> int:
    """Return `typlen`: bytes of a fixed-size type, -1 for a variable one."""
    return _SIZES.get(oid, -1)


def arrow_type(sql_type: SqlType) -> pa.DataType:
    """Return the Arrow type that stores the column in segments and bulk records."""
    if sql_type.oid == Oid.NUMERIC:
        numeric = sql_type.precision_and_scale
        if numeric is not None and numeric[0] <= MAX_ARROW_PRECISION:
            return pa.decimal128(*numeric)
        return pa.string()
    return _ARROW[sql_type.oid]


def is_known(oid: int) -> bool:
    """Return whether the engine stores values of this type."""
    return oid in _NAMES
