"""The rows of information_schema, computed from the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from orbit.kernel.schema import Column, Schema, Sequence, Table, View
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.type_catalog import display_name, internal_name, is_array
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.system_catalog.definitions import constraint_text, constraints
from services.storage.sql.system_catalog.names import NAMESPACES
from services.storage.sql.system_catalog.rows import Row
from services.storage.sql.system_catalog.tables import OWNER, TABLES

_RADIX: Final = {
    Oid.INT2: (16, 2, 0), Oid.INT4: (32, 2, 0), Oid.INT8: (64, 2, 0), Oid.FLOAT4: (24, 2, None), Oid.FLOAT8: (53,
    2, None),
}  # fmt: skip
_TIMES: Final = frozenset((Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ, Oid.INTERVAL))
_STRINGS: Final = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR))
_RULES: Final = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def tables(context: EvaluationContext) -> Iterator[Row]:
    for (schema, name), table in TABLES.items():
        kind = "BASE TABLE" if schema == "pg_catalog" and table.id < 12000 else "VIEW"
        yield _table(context, schema, name, kind, False)
    for item in context.catalog.objects.values():
        if isinstance(item, Table | View):
            is_table = isinstance(item, Table)
            yield _table(context, item.schema, item.name, "BASE TABLE" if is_table else "VIEW", is_table)


def _table(context: EvaluationContext, schema: str, name: str, kind: str, writable: bool) -> Row:
    return {
        "table_catalog": context.database, "table_schema": schema, "table_name": name, "table_type": kind,
        "is_insertable_into": "YES" if writable else "NO", "is_typed": "NO",
    }  # fmt: skip


def columns(context: EvaluationContext) -> Iterator[Row]:
    for table in TABLES.values():
        for at, column in enumerate(table.columns, 1):
            yield _column(context, table, column, at)
    for item in context.catalog.objects.values():
        if isinstance(item, Table | View):
            for at, column in enumerate(item.columns, 1):
                yield _column(context, item, column, column.number if isinstance(item, Table) else at)


def _column(context: EvaluationContext, table: Table | View, column: Column, position: int) -> Row:
    oid = column.type.oid
    row: Row = {
        "table_catalog": context.database, "table_schema": table.schema, "table_name": table.name,
        "column_name": column.name, "ordinal_position": position, "column_default": column.default,
        "is_nullable": "YES" if column.nullable else "NO",
        "data_type": "ARRAY" if is_array(oid) else display_name(SqlType(oid)) if oid != Oid.BPCHAR else "character",
        "udt_catalog": context.database, "udt_schema": "pg_catalog", "udt_name": internal_name(oid),
        "dtd_identifier": str(position), "is_self_referencing": "NO", "is_identity": "YES" if column.identity else "NO",
        "identity_generation": {"a": "ALWAYS", "d": "BY DEFAULT"}.get(column.identity), "identity_cycle": "NO",
        "is_generated": "ALWAYS" if column.generated else "NEVER", "is_updatable": "YES" if isinstance(table,
        Table) else "NO",
    }  # fmt: skip
    if oid in _STRINGS:
        length = column.type.length
        row |= {"character_maximum_length": length, "character_octet_length": 4 * length if length else 1 << 30}
    if oid in _RADIX:
        precision, radix, scale = _RADIX[Oid(oid)]
        row |= {"numeric_precision": precision, "numeric_precision_radix": radix, "numeric_scale": scale}
    if oid == Oid.NUMERIC:
        limits = column.type.precision_and_scale or (None, None)
        row |= {"numeric_precision": limits[0], "numeric_precision_radix": 10, "numeric_scale": limits[1]}
    if oid in _TIMES:
        row["datetime_precision"] = column.type.modifier if column.type.modifier >= 0 else 6
    if oid == Oid.DATE:
        row["datetime_precision"] = 0
    return row


def schemata(context: EvaluationContext) -> Iterator[Row]:
    names = dict.fromkeys(NAMESPACES, OWNER)
    names |= {item.name: item.owner for item in context.catalog.objects.values() if isinstance(item, Schema)}
    for name, owner in names.items():
        yield {"catalog_name": context.database, "schema_name": name, "schema_owner": owner}


def views(context: EvaluationContext) -> Iterator[Row]:
    for item in context.catalog.objects.values():
        if isinstance(item, View):
            yield {
                "table_catalog": context.database, "table_schema": item.schema, "table_name": item.name,
                "view_definition": item.query, "check_option": "NONE", "is_updatable": "NO", "is_insertable_into": "NO",
            }  # fmt: skip


def table_constraints(context: EvaluationContext) -> Iterator[Row]:
    words = {"p": "PRIMARY KEY", "u": "UNIQUE", "c": "CHECK", "f": "FOREIGN KEY"}
    for table in context.catalog.tables():
        for item in constraints(table):
            key = item.foreign_key
            yield {
                **_constraint_name(context, table, item.name), **_table_name(context, table),
                "constraint_type": words[item.kind],
                "is_deferrable": "YES" if key is not None and key.deferrable else "NO",
                "initially_deferred": "YES" if key is not None and key.deferred else "NO", "enforced": "YES",
                "nulls_distinct": "YES" if item.kind == "u" and item.index and item.index.nulls_distinct else None,
            }  # fmt: skip


def _constraint_name(context: EvaluationContext, table: Table, name: str) -> Row:
    return {"constraint_catalog": context.database, "constraint_schema": table.schema, "constraint_name": name}


def _table_name(context: EvaluationContext, table: Table) -> Row:
    return {"table_catalog": context.database, "table_schema": table.schema, "table_name": table.name}


def key_column_usage(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for item in constraints(table):
            numbers = (
                item.index.columns if item.index is not None else item.foreign_key.columns if item.foreign_key else ()
            )
            for at, number in enumerate(numbers, 1):
                yield {
                    **_constraint_name(context, table, item.name), **_table_name(context, table),
                    "column_name": table.columns[table.position(number)].name, "ordinal_position": at,
                    "position_in_unique_constraint": at if item.foreign_key is not None else None,
                }  # fmt: skip


def referential_constraints(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for key in table.foreign_keys:
            parent = context.catalog.objects.get(key.parent_table)
            unique = None
            if isinstance(parent, Table):
                unique = next(
                    (i for i in parent.indexes if i.unique and set(i.columns) == set(key.parent_columns)), None
                )
            yield {
                **_constraint_name(context, table, key.name), "unique_constraint_catalog": context.database,
                "unique_constraint_schema": parent.schema if isinstance(parent, Table) else None,
                "unique_constraint_name": unique.name if unique is not None else None, "match_option": "NONE",
                "update_rule": _RULES[key.on_update], "delete_rule": _RULES[key.on_delete],
            }  # fmt: skip


def constraint_column_usage(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for item in constraints(table):
            target, numbers = table, item.index.columns if item.index is not None else ()
            if item.foreign_key is not None:
                parent = context.catalog.objects.get(item.foreign_key.parent_table)
                if not isinstance(parent, Table):
                    continue
                target, numbers = parent, item.foreign_key.parent_columns
            for number in numbers:
                yield {
                    **_table_name(context, target), "column_name": target.columns[target.position(number)].name,
                    **_constraint_name(context, table, item.name),
                }  # fmt: skip


def check_constraints(context: EvaluationContext) -> Iterator[Row]:
    for table in context.catalog.tables():
        for item in constraints(table):
            if item.check is not None:
                text = constraint_text(context.catalog, item, context.search_path)
                yield {**_constraint_name(context, table, item.name), "check_clause": text.removeprefix("CHECK ")}


def sequences(context: EvaluationContext) -> Iterator[Row]:
    for item in context.catalog.objects.values():
        if isinstance(item, Sequence):
            yield {
                "sequence_catalog": context.database, "sequence_schema": item.schema, "sequence_name": item.name,
                "data_type": display_name(item.type), "numeric_precision": 64, "numeric_precision_radix": 2,
                "numeric_scale": 0, "start_value": str(item.start), "minimum_value": str(item.minimum),
                "maximum_value": str(item.maximum), "increment": str(item.increment),
                "cycle_option": "YES" if item.cycle else "NO",
            }  # fmt: skip


INFORMATION_ROWS: Final[dict[str, Callable[[EvaluationContext], Iterator[Row]]]] = {
    "tables": tables,
    "columns": columns,
    "schemata": schemata,
    "views": views,
    "table_constraints": table_constraints,
    "key_column_usage": key_column_usage,
    "referential_constraints": referential_constraints,
    "constraint_column_usage": constraint_column_usage,
    "check_constraints": check_constraints,
    "sequences": sequences,
}
