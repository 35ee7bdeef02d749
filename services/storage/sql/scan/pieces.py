"""Pieces of generated SQL, and how a numeric travels in them.

A numeric piece has one of two forms. Decimal: DuckDB's DECIMAL(p, s), whose display scale is `s` or, when the rows
differ (CASE over different scales), the integer SQL expression `scale`. Text: canonical text, for scales that only
the value tells (quotients) and for numbers past 38 digits; Python computes on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from orbit.kernel.errors import NotSupported
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.type_catalog import ELEMENT_OF, VOID
from services.storage.sql.scan.arrow_values import duckdb_type, numeric_text

MAX_PRECISION: Final = 38


@dataclass(frozen=True, slots=True)
class Piece:
    """SQL text of a value. `decimal` is (precision, scale) of a numeric in decimal form."""

    sql: str
    type: SqlType
    decimal: tuple[int, int] | None = None
    scale: str | None = None

    @property
    def is_text_numeric(self) -> bool:
        return self.type.oid == Oid.NUMERIC and self.decimal is None


def quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def constant(value: Any, sql_type: SqlType, wide: bool = False) -> Piece:
    """Return a row value as SQL. `wide` keeps numerics as text."""
    oid = sql_type.oid
    if oid == Oid.NUMERIC:
        return _numeric_constant(value, sql_type, wide)
    if value is None:
        return Piece(f"CAST(NULL AS {duckdb_type(oid)})", sql_type)
    return Piece(_literal(value, oid), sql_type)


def _numeric_constant(value: Decimal | None, sql_type: SqlType, wide: bool) -> Piece:
    if value is None:
        if wide:
            return Piece("CAST(NULL AS VARCHAR)", sql_type)
        return Piece("CAST(NULL AS DECIMAL(1,0))", sql_type, (1, 0))
    if not wide and value.is_finite():
        exponent = value.as_tuple().exponent
        assert isinstance(exponent, int)
        scale = -exponent
        precision = max(value.adjusted() + 1 + scale, scale + 1)
        if precision <= MAX_PRECISION:
            return Piece(f"CAST('{value:f}' AS DECIMAL({precision},{scale}))", sql_type, (precision, scale))
    return Piece(quote(numeric_text(value)), sql_type)


def _literal(value: Any, oid: int) -> str:
    if oid in ELEMENT_OF:
        element = ELEMENT_OF[oid]
        items = ", ".join("NULL" if item is None else _literal(item, element) for item in value)
        return f"CAST([{items}] AS {duckdb_type(oid)})"
    if oid == Oid.BOOL:
        return "true" if value else "false"
    name = duckdb_type(oid)
    if name in ("SMALLINT", "INTEGER", "BIGINT"):
        return f"CAST({int(value)} AS {name})" if oid != VOID else "CAST(NULL AS INTEGER)"
    if name in ("FLOAT", "DOUBLE"):
        return f"CAST('{value!r}' AS {name})"
    if oid == Oid.NUMERIC:
        return quote(numeric_text(value))
    if oid == Oid.BYTEA:
        return "from_hex(" + quote(value.hex()) + ")"
    if oid == Oid.INTERVAL:
        months, days, micros = value
        return f"(to_months({months}) + to_days({days}) + to_microseconds(CAST({micros} AS BIGINT)))"
    if oid == Oid.DATE:
        if abs(value) >= (1 << 31) - 1:
            return f"CAST('{'' if value > 0 else '-'}infinity' AS DATE)"
        return f"(DATE '1970-01-01' + CAST({value} AS INTEGER))"
    if oid in (Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        if abs(value) >= (1 << 63) - 1:
            return f"CAST('{'' if value > 0 else '-'}infinity' AS TIMESTAMP)"
        return f"make_timestamp(CAST({value} AS BIGINT))"
    if oid == Oid.TIME:
        return f"(TIME '00:00:00' + to_microseconds(CAST({value} AS BIGINT)))"
    if isinstance(value, str):
        if "\0" in value:
            raise NotSupported("text with a NUL character is not supported")
        return quote(value)
    raise AssertionError((value, oid))


def as_decimal(piece: Piece, precision: int, scale: int) -> str:
    """Return a decimal piece cast to another decimal type (its display scale is the caller's)."""
    if piece.decimal == (precision, scale):
        return piece.sql
    return f"CAST({piece.sql} AS DECIMAL({precision},{scale}))"
