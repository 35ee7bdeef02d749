"""What the REST routes do: catalog look-ups, rows, statements, transactions, over the session pool.

Owns the statements that are run for a request and what is read from their answers. Knows no HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import Oid, SqlType
from services.gateway.conversation import Result
from services.gateway.protocols.rest import query, wire
from services.gateway.protocols.rest.errors import BadRequest, NotFound
from services.gateway.protocols.rest.limits import RestLimits
from services.gateway.protocols.rest.pool import PooledConversation
from services.gateway.protocols.rest.query import TableName
from services.storage.client import ColumnDescription, Statement

CLEAN_TAGS = frozenset(
    {b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"CREATE", b"DROP", b"ALTER", b"TRUNCATE", b"EXPLAIN"}
)
"""First words of tags after which a session is as it was."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table's columns and the names of its primary key, in key order."""

    table: TableName
    columns: Sequence[ColumnDescription]
    key: list[str]

    def type_of(self, column: str) -> SqlType:
        """Return a column's type. Raises OrbitError 42703."""
        for item in self.columns:
            if item.name == column:
                return item.type
        message = f'column "{column}" of relation "{self.table.name}" does not exist'
        raise OrbitError(message, sqlstate="42703")


async def list_tables(conversation: PooledConversation) -> list[dict[str, str]]:
    """Return the tables and views that the user may see."""
    result = await conversation.run(
        "SELECT table_schema, table_name, table_type FROM information_schema.tables"
        " WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY table_schema, table_name"
    )
    return [
        {"schema": _text(schema), "name": _text(name), "type": "view" if kind == b"VIEW" else "table"}
        for schema, name, kind in result.rows
    ]


async def shape_of(conversation: PooledConversation, table: TableName) -> TableShape:
    """Return a table's shape. Raises OrbitError 42P01 when there is no such table."""
    statement = await conversation.prepare(f"SELECT * FROM {table.sql}")
    columns = statement.columns or ()
    key: list[str] = []
    if columns and columns[0].table_oid:
        result = await conversation.run(
            "SELECT indkey FROM pg_catalog.pg_index WHERE indrelid = $1 AND indisprimary",
            (b"%d" % columns[0].table_oid,),
            (Oid.OID,),
        )
        by_number = {column.column_number: column.name for column in columns}
        for row in result.rows:
            key = [by_number[int(number)] for number in _text(row[0]).split()]
    return TableShape(table, columns, key)


async def describe_table(conversation: PooledConversation, table: TableName) -> dict[str, Any]:
    """Return the body of GET /tables/{name}."""
    shape = await shape_of(conversation, table)
    result = await conversation.run(
        "SELECT column_name, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_schema = $1 AND table_name = $2",
        (table.schema.encode(), table.name.encode()),
        (Oid.TEXT, Oid.TEXT),
    )
    facts = {row[0]: (row[1] == b"YES", row[2]) for row in result.rows}
    columns = []
    for column in shape.columns:
        nullable, default = facts.get(column.name.encode(), (True, None))
        expression = None if default is None else default.decode()
        columns.append(
            {"name": column.name, "type": wire.name_of(column.type), "nullable": nullable, "default": expression}
        )
    return {"schema": table.schema, "name": table.name, "columns": columns, "primary_key": shape.key}


async def read_page(
    conversation: PooledConversation, table: TableName, pairs: Sequence[tuple[str, str]], limit: int, offset: int
) -> bytes:
    """Return the body of GET rows: one row more than the limit is read to know whether more follow."""
    sql, values = query.select_rows(table, pairs, limit + 1, offset)
    statement = await conversation.prepare(sql)
    result = await conversation.execute(statement, [str(value).encode() for value in values])
    write = wire.objects(result.columns)
    rows = b",".join([write(row) for row in result.rows[:limit]])
    more = b"true" if len(result.rows) > limit else b"false"
    columns = wire.columns_json(result.columns)
    return b'{"columns":%b,"rows":[%b],"limit":%d,"offset":%d,"more":%b}' % (columns, rows, limit, offset, more)


async def read_row(conversation: PooledConversation, table: TableName, key: str, select: str | None) -> bytes:
    """Return the row with a key as a JSON object. Raises NotFound."""
    shape = await shape_of(conversation, table)
    condition = query.key_condition(_key(shape), 1)
    sql = f"SELECT {query.selection(select)} FROM {table.sql} WHERE {condition}"
    values = [value.encode() for value in query.key_values(key, len(shape.key))]
    return _one_object(await conversation.run(sql, values), key)


async def insert_rows(conversation: PooledConversation, table: TableName, rows: list[dict[str, Any]]) -> bytes:
    """Insert rows in one transaction; return {"rows": [..]} as they are stored."""
    shape = await shape_of(conversation, table)
    statements: dict[tuple[str, ...], Statement] = {}
    written: list[bytes] = []
    if len(rows) > 1:
        await conversation.begin()
    for row in rows:
        names = tuple(row)
        parameters = [wire.to_parameter(row[name], shape.type_of(name).oid) for name in names]
        statement = statements.get(names)
        if statement is None:
            statement = statements[names] = await conversation.prepare(query.insert(table, names))
        result = await conversation.execute(statement, parameters)
        written += map(wire.objects(result.columns), result.rows)
    if len(rows) > 1:
        await conversation.commit()
    return b'{"rows":[%b]}' % b",".join(written)


async def replace_row(conversation: PooledConversation, table: TableName, key: str, row: dict[str, Any]) -> bytes:
    """Make the row with this key be exactly `row`, present or not; return it as stored."""
    shape = await shape_of(conversation, table)
    row = _with_key(shape, key, row)
    sql = query.replace(table, [column.name for column in shape.columns], list(row), shape.key)
    parameters = [wire.to_parameter(value, shape.type_of(name).oid) for name, value in row.items()]
    return _one_object(await conversation.run(sql, parameters), key)


async def update_row(conversation: PooledConversation, table: TableName, key: str, row: dict[str, Any]) -> bytes:
    """Change some columns of the row with this key; return it as stored. Raises NotFound."""
    shape = await shape_of(conversation, table)
    if not row:
        raise BadRequest("the body names no column to change")
    parameters = [wire.to_parameter(value, shape.type_of(name).oid) for name, value in row.items()]
    parameters += [value.encode() for value in query.key_values(key, len(_key(shape)))]
    return _one_object(await conversation.run(query.update(table, list(row), shape.key), parameters), key)


async def delete_row(conversation: PooledConversation, table: TableName, key: str) -> None:
    """Delete the row with this key. Raises NotFound."""
    shape = await shape_of(conversation, table)
    sql = f"DELETE FROM {table.sql} WHERE {query.key_condition(_key(shape), 1)}"
    result = await conversation.run(sql, [value.encode() for value in query.key_values(key, len(shape.key))])
    if not result.row_count:
        raise NotFound(f"no row has the key {key!r}")


async def run_statement(
    conversation: PooledConversation, sql: str, params: Sequence[Any]
) -> tuple[Statement, list[bytes | None]]:
    """Prepare a client's own statement and its parameters."""
    if "set_config" in sql.lower():
        conversation.tainted = True
    statement = await conversation.prepare(sql)
    oids = statement.parameter_oids
    if len(params) != len(oids):
        raise BadRequest(f"the statement has {len(oids)} parameters, the request gives {len(params)}", sqlstate="08P01")
    return statement, [wire.to_parameter(value, oid) for value, oid in zip(params, oids, strict=True)]


def check_after(conversation: PooledConversation, tag: bytes) -> None:
    """Look at what a client's own statement left behind. Raises NotSupported for an open transaction."""
    if tag.split(b" ")[0] not in CLEAN_TAGS:
        conversation.tainted = True
    if conversation.in_transaction:
        raise NotSupported(
            "transaction control over REST", hint="POST /transactions runs statements in one transaction."
        )


async def run_transaction(
    conversation: PooledConversation,
    statements: Sequence[tuple[str, Sequence[Any]]],
    isolation: str | None,
    limits: RestLimits,
) -> bytes:
    """Run statements in one transaction; return {"results": [..]}. Any failure undoes all of them."""
    await conversation.run(f"BEGIN ISOLATION LEVEL {isolation.upper()}" if isolation else "BEGIN")
    results: list[bytes] = []
    for at, (sql, params) in enumerate(statements):
        try:
            statement, parameters = await run_statement(conversation, sql, params)
            result = await conversation.execute(statement, parameters)
        except OrbitError as error:
            if error.detail is None:
                error.detail = f"statement {at + 1} of {len(statements)}"
            raise
        if not conversation.in_transaction:
            conversation.tainted = True
            raise NotSupported("transaction control inside POST /transactions", detail=f"statement {at + 1} ended it")
        if len(result.rows) > limits.max_rows:
            raise OrbitError(f"statement {at + 1} returns more than {limits.max_rows} rows", sqlstate="54000")
        if result.tag.split(b" ")[0] not in CLEAN_TAGS:
            conversation.tainted = True
        results.append(result_json(result))
    await conversation.commit()
    return b'{"results":[%b]}' % b",".join(results)


def result_json(result: Result) -> bytes:
    """Return one statement's answer as POST /sql writes it."""
    rows = b",".join(map(wire.arrays(result.columns), result.rows))
    columns = wire.columns_json(result.columns)
    tag = wire.string_json(result.tag.decode())
    return b'{"columns":%b,"rows":[%b],"tag":%b,"row_count":%d}' % (columns, rows, tag, result.row_count)


def _key(shape: TableShape) -> list[str]:
    if not shape.key:
        raise BadRequest(
            f'relation "{shape.table.name}" has no primary key',
            hint="Rows without a key are reached through filters or POST /sql.",
            sqlstate="42P10",
        )
    return shape.key


def _with_key(shape: TableShape, key: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with the path's key in it. Raises BadRequest when the body says another one."""
    values = dict(zip(_key(shape), query.key_values(key, len(shape.key)), strict=True))
    for name, value in values.items():
        if name in row and str(row[name]) != value:
            raise BadRequest(f"the body's {name!r} is not the one of the path")
    return {**row, **values}


def _one_object(result: Result, key: str) -> bytes:
    if not result.rows:
        raise NotFound(f"no row has the key {key!r}")
    return wire.objects(result.columns)(result.rows[0])


def _text(value: bytes | None) -> str:
    assert value is not None
    return value.decode()
