"""PostgreSQL as the reference: its answers as bytes, and its tables as our catalog and Arrow data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg.pq import ExecStatus

from orbit.kernel.schema import Catalog, Column, Index, Role, Schema, Table
from orbit.kernel.types import SqlType, arrow_type
from orbit.kernel.values.columns import storage_column
from services.storage.sql.text_values import text_parser


@dataclass(frozen=True)
class Answer:
    """What a client sees of one statement: columns (name, type, modifier) and rows of text, or a SQLSTATE."""

    columns: list[tuple[str, int, int]]
    rows: list[tuple[str | None, ...]]
    sqlstate: str | None = None
    message: str = ""
    position: int | None = None


def ask(connection: psycopg.Connection[Any], sql: str) -> Answer:
    result = connection.pgconn.exec_(sql.encode())
    if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
        state = (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
        message = (result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        position = (result.error_field(psycopg.pq.DiagnosticField.STATEMENT_POSITION) or b"").decode()
        return Answer([], [], state, message, int(position) if position else None)
    columns = [((result.fname(at) or b"").decode(), result.ftype(at), result.fmod(at)) for at in range(result.nfields)]
    rows = [tuple(_text(result.get_value(row, at)) for at in range(result.nfields)) for row in range(result.ntuples)]
    return Answer(columns, rows)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class MemoryTables:
    """The reference's tables of schema public, as a catalog and as Arrow tables in storage types."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.rows: dict[str, pa.Table] = {}
        objects: dict[int, Any] = {
            2200: Schema(id=2200, name="public", owner="postgres"),
            10: Role(id=10, name="postgres", superuser=True),
        }
        for oid, name in connection.execute(
            "select oid::int8, relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
        ).fetchall():
            table = self._table(connection, oid, name)
            objects[oid] = table
            self.rows[name] = self._data(connection, table)
        self.catalog = Catalog(objects, 1)

    def _table(self, connection: psycopg.Connection[Any], oid: int, name: str) -> Table:
        columns = tuple(
            Column(number=number, name=column, type=SqlType(kind, modifier), nullable=not required)
            for number, column, kind, modifier, required in connection.execute(
                "select attnum, attname, atttypid::int8, atttypmod, attnotnull from pg_attribute "
                "where attrelid = %s and attnum > 0 order by attnum",
                (oid,),
            ).fetchall()
        )
        indexes = tuple(
            Index(
                id=number, name=index, columns=tuple(int(part) for part in keys.split()), unique=True, primary=primary
            )
            for number, index, keys, primary in connection.execute(
                "select indexrelid::int8, indexrelid::regclass::text, indkey::text, indisprimary from pg_index "
                "where indrelid = %s and indisunique",
                (oid,),
            ).fetchall()
        )
        return Table(
            id=oid, schema="public", name=name, columns=columns, storage_id=oid, owner="postgres", indexes=indexes
        )

    def _data(self, connection: psycopg.Connection[Any], table: Table) -> pa.Table:
        answer = ask(connection, f'select * from "{table.name}"')
        arrays = []
        for at, column in enumerate(table.columns):
            parse = text_parser(column.type)
            values = [None if (text := row[at]) is None else parse(text) for row in answer.rows]
            arrays.append(storage_column(values, column.type))
        schema = pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])
        return pa.table(arrays, schema=schema)

    def scan(self, table: Table, columns: Any, bounds: Any) -> pa.Table:
        return self.rows[table.name].select(list(columns))
