"""INSERT, UPDATE and DELETE from sqlglot's tree to bound expressions over the target's columns.

Owns what these statements may say; UPDATE .. FROM and DELETE .. USING are refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlglot import exp

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Index, Table
from services.storage.client import ColumnDescription
from services.storage.sql.bind import Binder, table_scope
from services.storage.sql.bind.coerce import coerce_for_assignment
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.expressions import bind, bind_boolean
from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.naming import column_name
from services.storage.sql.bind.scope import Scope, ScopeItem, relation_columns
from services.storage.sql.bind.tree import BoundQuery, ColumnRef, Expression, TableRelation

FindTable = Callable[[str | None, str], Table]
BindQuery = Callable[[exp.Query], BoundQuery]

Assignment = tuple[int, Expression | None]
"""(column position, value); None for DEFAULT."""


@dataclass(frozen=True, slots=True)
class Returning:
    """RETURNING: expressions over the target row, and what the client is told of them."""

    expressions: tuple[Expression, ...]
    columns: tuple[ColumnDescription, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """ON CONFLICT. `index` is None for any; `assignments` is None for DO NOTHING."""

    index: Index | None
    assignments: tuple[Assignment, ...] | None
    where: Expression | None
    excluded: int


@dataclass(frozen=True, slots=True)
class BoundInsert:
    """`rows` of values aligned with `positions`, None for DEFAULT; or `query`."""

    relation: TableRelation
    positions: tuple[int, ...]
    rows: tuple[tuple[Expression | None, ...], ...]
    query: BoundQuery | None
    casts: tuple[Expression, ...]
    """For a query: its columns converted to the target's types, over relation 0."""
    conflict: Conflict | None
    returning: Returning | None


@dataclass(frozen=True, slots=True)
class BoundChange:
    """UPDATE (`assignments`), or DELETE (None)."""

    relation: TableRelation
    assignments: tuple[Assignment, ...] | None
    where: Expression | None
    returning: Returning | None


def target(binder: Binder, find: FindTable, node: exp.Expr) -> TableRelation:
    """Return the table that a statement changes."""
    if not isinstance(node, exp.Table):
        raise NotSupported(f"changing {node.sql(dialect='postgres')} is not supported")
    alias = node.args.get("alias")
    schema = node.args.get("db")
    table = find(None if schema is None else identifier(schema), identifier(node.this))
    return table_scope(binder, table, identifier(alias.this) if alias is not None else None)[1]


def relation_scope(*relations: TableRelation) -> Scope:
    """Return the scope in which these relations' columns are names."""
    return Scope(items=[ScopeItem(item.alias, item.table.schema, item, relation_columns(item)) for item in relations])


def bind_insert(binder: Binder, find: FindTable, bind_query: BindQuery, tree: exp.Insert) -> BoundInsert:
    """Bind an INSERT."""
    if tree.args.get("with_") or tree.args.get("with"):
        raise NotSupported("WITH before INSERT is not supported")
    named = tree.this
    names: list[exp.Expr] = []
    if isinstance(named, exp.Schema):
        names, named = named.expressions, named.this
    relation = target(binder, find, named)
    table = relation.table
    positions = _positions(table, names)
    source = tree.expression
    rows: tuple[tuple[Expression | None, ...], ...] = ()
    query: BoundQuery | None = None
    casts: tuple[Expression, ...] = ()
    if tree.args.get("default"):
        rows = ((None,) * len(positions),)
    elif isinstance(source, exp.Values):
        rows = tuple(_values(binder, table, positions, item, bool(names)) for item in source.expressions)
        positions = positions[: len(rows[0])]
    elif isinstance(source, exp.Query):
        query = bind_query(source)
        positions, casts = _query_columns(binder, table, positions, query, bool(names))
    else:
        raise NotSupported(f"INSERT of {tree.sql(dialect='postgres')} is not supported")
    conflict = _bind_conflict(binder, relation, tree.args.get("conflict"))
    returning = _bind_returning(binder, relation, tree.args.get("returning"))
    return BoundInsert(relation, positions, rows, query, casts, conflict, returning)


def _positions(table: Table, names: Sequence[exp.Expr]) -> tuple[int, ...]:
    if not names:
        return tuple(range(len(table.columns)))
    positions: list[int] = []
    for name in names:
        wanted = identifier(name)
        at = next((at for at, column in enumerate(table.columns) if column.name == wanted), None)
        if at is None:
            raise OrbitError(
                f'column "{wanted}" of relation "{table.name}" does not exist',
                sqlstate="42703",
                position=position_of(name),
            )
        if at in positions:
            raise OrbitError(
                f'column "{wanted}" specified more than once', sqlstate="42701", position=position_of(name)
            )
        positions.append(at)
    return tuple(positions)


def _values(
    binder: Binder, table: Table, positions: Sequence[int], item: exp.Expr, named: bool
) -> tuple[Expression | None, ...]:
    nodes = item.expressions if isinstance(item, exp.Tuple) else [item.this if isinstance(item, exp.Paren) else item]
    if len(nodes) > len(positions):
        raise OrbitError(
            "INSERT has more expressions than target columns", sqlstate="42601", position=position_of(nodes[-1])
        )
    if len(nodes) < len(positions) and named:
        raise OrbitError("INSERT has more target columns than expressions", sqlstate="42601")
    scope = Scope(parent=None, clause="VALUES")
    return tuple(_assigned(binder, scope, table, at, node) for at, node in zip(positions, nodes, strict=False))


def _assigned(binder: Binder, scope: Scope, table: Table, at: int, node: exp.Expr) -> Expression | None:
    """Return a value converted to the type of the column at a position; None for DEFAULT."""
    keyword = isinstance(node, (exp.Var, exp.Column)) and node.name.upper() == "DEFAULT"
    if keyword and not _quoted(node):
        return None
    column = table.columns[at]
    if column.identity == "a":
        raise OrbitError(
            f'cannot insert a non-DEFAULT value into column "{column.name}"',
            sqlstate="428C9",
            detail=f'Column "{column.name}" is an identity column defined as GENERATED ALWAYS.',
        )
    value = bind(binder, scope, node)
    return coerce_for_assignment(binder.parameters, value, column.name, column.type, position_of(node))


def _quoted(node: exp.Expr) -> bool:
    identifier = node.this
    return isinstance(identifier, exp.Identifier) and bool(identifier.args.get("quoted"))


def _query_columns(
    binder: Binder, table: Table, positions: tuple[int, ...], query: BoundQuery, named: bool
) -> tuple[tuple[int, ...], tuple[Expression, ...]]:
    count = len(query.columns)
    if count > len(positions):
        raise OrbitError("INSERT has more expressions than target columns", sqlstate="42601")
    if count < len(positions) and named:
        raise OrbitError("INSERT has more target columns than expressions", sqlstate="42601")
    casts: list[Expression] = []
    for at, described in enumerate(query.columns):
        column = table.columns[positions[at]]
        value = ColumnRef(described.type, 0, at, described.name)
        casts.append(coerce_for_assignment(binder.parameters, value, column.name, column.type, None))
    return positions[:count], tuple(casts)


def _bind_conflict(binder: Binder, relation: TableRelation, node: exp.Expr | None) -> Conflict | None:
    if node is None:
        return None
    table = relation.table
    _, excluded = table_scope(binder, table, "excluded")
    binder.tables.remove(excluded)
    index = _conflict_index(table, node)
    action = node.args["action"].name.upper() if node.args.get("action") is not None else ""
    if action == "DO NOTHING":
        return Conflict(index, None, None, excluded.number)
    if action != "DO UPDATE":
        raise NotSupported(f"ON CONFLICT {action} is not supported")
    if index is None:
        raise OrbitError("ON CONFLICT DO UPDATE requires inference specification or constraint name", sqlstate="42601")
    scope = relation_scope(relation, excluded)
    own = relation_scope(relation)
    assignments = _assignments(binder, scope, own, table, node.expressions)
    where = node.args.get("where")
    condition = None if where is None else bind_boolean(binder, scope, where.this, "WHERE")
    return Conflict(index, assignments, condition, excluded.number)


def _conflict_index(table: Table, node: exp.Expr) -> Index | None:
    constraint = node.args.get("constraint")
    if constraint is not None:
        for index in table.indexes:
            if index.unique and index.name == identifier(constraint):
                return index
        raise OrbitError(f'constraint "{constraint.name}" for table "{table.name}" does not exist', sqlstate="42704")
    keys = node.args.get("conflict_keys") or []
    if not keys:
        return None
    if node.args.get("index_predicate") is not None:
        raise NotSupported("ON CONFLICT with an index predicate is not supported")
    names = {_key_name(key) for key in keys}
    for index in table.indexes:
        if index.unique and {table.columns[table.position(number)].name for number in index.columns} == names:
            return index
    raise OrbitError(
        "there is no unique or exclusion constraint matching the ON CONFLICT specification", sqlstate="42P10"
    )


def _key_name(key: exp.Expr) -> str:
    inner = key.this if isinstance(key, exp.Ordered) else key
    if not isinstance(inner, (exp.Column, exp.Identifier)):
        raise NotSupported("ON CONFLICT over expressions is not supported")
    return identifier(inner.this if isinstance(inner, exp.Column) else inner)


def _assignments(
    binder: Binder, scope: Scope, own: Scope, table: Table, nodes: Sequence[exp.Expr]
) -> tuple[Assignment, ...]:
    assignments: list[Assignment] = []
    for node in nodes:
        if not isinstance(node, exp.EQ) or not isinstance(node.this, exp.Column):
            raise NotSupported(f"assignment {node.sql(dialect='postgres')} is not supported")
        (at,) = _positions(table, [node.this.this])
        if any(at == other for other, _ in assignments):
            raise OrbitError(f'multiple assignments to same column "{node.this.name}"', sqlstate="42601")
        assignments.append((at, _assigned(binder, scope, table, at, node.expression)))
    return tuple(assignments)


def bind_change(binder: Binder, find: FindTable, tree: exp.Expr) -> BoundChange:
    """Bind an UPDATE or DELETE."""
    if tree.args.get("with_") or tree.args.get("with"):
        raise NotSupported(f"WITH before {tree.key.upper()} is not supported")
    if tree.args.get("from_") or tree.args.get("from"):
        raise NotSupported("UPDATE .. FROM is not supported")
    if tree.args.get("using"):
        raise NotSupported("DELETE .. USING is not supported")
    relation = target(binder, find, tree.this)
    scope = relation_scope(relation)
    assignments = None
    if isinstance(tree, exp.Update):
        assignments = _assignments(binder, scope, scope, relation.table, tree.expressions)
    where = tree.args.get("where")
    condition = None if where is None else bind_boolean(binder, scope, where.this, "WHERE")
    return BoundChange(relation, assignments, condition, _bind_returning(binder, relation, tree.args.get("returning")))


def _bind_returning(binder: Binder, relation: TableRelation, node: exp.Expr | None) -> Returning | None:
    if node is None:
        return None
    table, scope = relation.table, relation_scope(relation)
    expressions: list[Expression] = []
    columns: list[ColumnDescription] = []
    for item in node.expressions:
        if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
            for at, column in enumerate(table.columns):
                expressions.append(ColumnRef(column.type, relation.number, at, column.name))
                columns.append(ColumnDescription(column.name, column.type, table.id, column.number))
            continue
        inner = item.this if isinstance(item, exp.Alias) else item
        value = binder.settled(bind(binder, scope, inner))
        expressions.append(value)
        plain = isinstance(value, ColumnRef)
        number = table.columns[value.column].number if isinstance(value, ColumnRef) else 0
        name = identifier(item.args["alias"]) if isinstance(item, exp.Alias) else column_name(inner)
        columns.append(ColumnDescription(name, value.type, table.id if plain else 0, number))
    return Returning(tuple(expressions), tuple(columns))
