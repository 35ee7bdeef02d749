"""Parsed statements to bound trees: names, types and columns settled by PostgreSQL's rules.

bound = bind_select_statement(statement, BindContext(catalog), parameter_oids)
scope = table_scope(binder, table)             # a table's columns, for DML, CHECK and index expressions
expression = bind_expression(binder, scope, node)
value = bind_assignment(binder, scope, node, column)    # an expression as a column's value
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Column, Table
from services.storage.client import ColumnDescription
from services.storage.sql.bind import expressions
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.coerce import coerce_for_assignment
from services.storage.sql.bind.context import BindContext
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.naming import column_name
from services.storage.sql.bind.query import bind_query
from services.storage.sql.bind.scope import Scope, ScopeItem, relation_columns
from services.storage.sql.bind.tree import (
    BoundQuery,
    ColumnRef,
    Expression,
    Query,
    RowLock,
    Select,
    SetOperation,
    SubqueryRelation,
    TableRelation,
    walk,
)
from services.storage.sql.parse import Statement, parse
from services.storage.sql.parse.errors import too_complex

MAX_RESULT_COLUMNS = 1664


def bind_select_statement(statement: Statement, context: BindContext, parameter_oids: Sequence[int] = ()) -> BoundQuery:
    """Bind a query statement. `parameter_oids` are the client's; 0 leaves a type open. Raises OrbitError."""
    assert statement.tree is not None
    binder = Binder(context, parameter_oids)
    try:
        return finish(binder, bind_query(binder, None, statement.tree))
    except RecursionError:
        raise too_complex("stack depth limit exceeded") from None


def finish(binder: Binder, query: Query) -> BoundQuery:
    """Return the bound query with what its executors and clients need to know of it."""
    if len(query.types) > MAX_RESULT_COLUMNS:
        raise OrbitError(f"target lists can have at most {MAX_RESULT_COLUMNS} entries", sqlstate="54011")
    used: dict[int, set[int]] = {table.number: set() for table in binder.tables}
    for node in walk(query):
        if isinstance(node, ColumnRef) and node.relation in used:
            used[node.relation].add(node.column)
    return BoundQuery(
        query=query,
        columns=describe(binder, query),
        parameter_types=binder.parameters.final(),
        tables=tuple(binder.tables),
        columns_used={number: tuple(sorted(columns)) for number, columns in used.items()},
        volatility=binder.volatility,
        catalog_version=binder.context.catalog.version,
        locks=_locks(query),
    )


def _locks(query: Query) -> tuple[RowLock, ...]:
    return tuple(lock for node in walk(query) if isinstance(node, Select) for lock in node.locks)


def describe(binder: Binder, query: Query) -> tuple[ColumnDescription, ...]:
    """Return the result's columns, with the stored column that each one is, if it is one."""
    origins = {table.number: table for table in binder.tables}
    subqueries = {node.number: node.query for node in walk(query) if isinstance(node, SubqueryRelation)}

    def origin(expression: Expression) -> tuple[int, int]:
        while isinstance(expression, ColumnRef) and expression.relation in subqueries:
            inner = subqueries[expression.relation]
            if isinstance(inner, SetOperation):
                return 0, 0
            visible = [target for target in inner.targets if not target.hidden]
            expression = visible[expression.column].expression
        if isinstance(expression, ColumnRef) and expression.relation in origins:
            table = origins[expression.relation].table
            return table.id, table.columns[expression.column].number
        return 0, 0

    return tuple(
        ColumnDescription(target.name, target.expression.type, *origin(target.expression))
        for target in query.targets
        if not target.hidden
    )


def table_scope(
    binder: Binder, table: Table, alias: str | None = None, clause: str = "SELECT"
) -> tuple[Scope, TableRelation]:
    """Return a scope in which the table's columns are visible, and the relation that their references name."""
    relation = TableRelation(
        binder.number(),
        alias or table.name,
        tuple(column.name for column in table.columns),
        tuple(column.type for column in table.columns),
        table,
        False,
    )
    binder.tables.append(relation)
    item = ScopeItem(relation.alias, None if alias else table.schema, relation, relation_columns(relation))
    return Scope(items=[item], clause=clause), relation


def bind_expression(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    """Bind one expression; what is still untyped becomes text."""
    return binder.settled(expressions.bind(binder, scope, node))


def bind_condition(binder: Binder, scope: Scope, node: exp.Expr, construct: str = "WHERE") -> Expression:
    """Bind a boolean expression. Raises 42804 with the construct's name."""
    return expressions.bind_boolean(binder, scope, node, construct)


def bind_assignment(binder: Binder, scope: Scope, node: exp.Expr, column: Column) -> Expression:
    """Bind an expression as a column's value, with the assignment cast and the column's modifier. Raises 42804."""
    value = expressions.bind(binder, scope, node)
    return coerce_for_assignment(binder.parameters, value, column.name, column.type, position_of(node))


def parse_expression(text: str) -> exp.Expr:
    """Return the tree of an expression kept as text in the catalog (DEFAULT, CHECK, index predicate)."""
    tree = parse(f"SELECT {text}")[0].tree
    assert tree is not None
    only: exp.Expr = tree.expressions[0]
    return only.this if isinstance(only, exp.Alias) else only


def bind_default(context: BindContext, column: Column) -> Expression:
    """Bind a column's DEFAULT to an expression of the column's type, without any columns in sight."""
    assert column.default is not None
    binder = Binder(context)
    return bind_assignment(binder, Scope(clause="DEFAULT expressions"), parse_expression(column.default), column)


def bind_check(context: BindContext, table: Table, text: str) -> tuple[Expression, TableRelation]:
    """Bind a CHECK expression or an index predicate over a table's columns."""
    binder = Binder(context)
    scope, relation = table_scope(binder, table, clause="check constraints")
    return bind_condition(binder, scope, parse_expression(text), "CHECK"), relation


__all__ = [
    "BindContext",
    "Binder",
    "BoundQuery",
    "Scope",
    "bind_assignment",
    "bind_check",
    "bind_condition",
    "bind_default",
    "bind_expression",
    "bind_query",
    "bind_select_statement",
    "column_name",
    "describe",
    "finish",
    "parse_expression",
    "table_scope",
]
