"""SELECT: its clauses in PostgreSQL's order, grouping rules, ORDER BY and DISTINCT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from services.storage.sql.bind import calls, errors, expressions, from_items, naming, query, windows
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.scope import Scope, ScopeColumn
from services.storage.sql.bind.signatures import FUNCTIONS
from services.storage.sql.bind.tree import (
    AggregateCall,
    ColumnRef,
    Expression,
    FromItem,
    GroupingCall,
    Join,
    Query,
    RowLock,
    Select,
    SubqueryExpr,
    TableRelation,
    Target,
    WindowCall,
    children,
)
from services.storage.sql.bind.type_catalog import INT8

_HANDLED = (
    "expressions", "from_", "joins", "where", "group", "having", "windows", "order", "limit", "offset", "distinct",
    "locks", "with_", "laterals",
)  # fmt: skip
MAX_GROUPING_SETS = 4096


def bind_select(binder: Binder, scope: Scope, node: exp.Select, settle: bool) -> Query:
    binder.refuse_unhandled(node, *_HANDLED)
    source = from_items.bind_from(binder, scope, node)
    where = node.args.get("where")
    condition = None
    if where is not None:
        condition = expressions.bind_boolean(binder, _level(scope, "WHERE"), where.this, "WHERE")
    level = replace(scope, aggregates=True, windows=True)
    _named_windows(binder, level, node)
    source_box = [source]
    targets = _targets(binder, level, node, source_box, settle)
    source = source_box[0]
    group, sets = _group(binder, scope, node, targets)
    having_node = node.args.get("having")
    having = None
    if having_node is not None:
        having = expressions.bind_boolean(binder, _level(scope, "HAVING", aggregates=True), having_node.this, "HAVING")
    distinct_node = node.args.get("distinct")
    targets, order = _order(
        binder, level, node, targets, distinct_node is not None and distinct_node.args.get("on") is None
    )
    if settle:
        targets = [replace(item, expression=binder.settled(item.expression)) for item in targets]
    distinct_on = _distinct_on(binder, level, distinct_node, targets, order)
    aggregated = (
        bool(group)
        or sets is not None
        or having is not None
        or any(_contains(item.expression, AggregateCall) for item in targets)
    )
    limit, offset, ties = query.bind_limit(binder, scope, node)
    if ties and not order:
        raise OrbitError("WITH TIES cannot be specified without ORDER BY clause", sqlstate="42601")
    bound = Select(
        tuple(targets), (), tuple(order), limit, offset, ties, source, condition, tuple(group), sets, having,
        aggregated, distinct_node is not None and not distinct_on, tuple(distinct_on), (),
    )  # fmt: skip
    if aggregated:
        bound = _check_grouping(scope, bound, node)
    return replace(bound, locks=_locks(scope, node, bound))


def _level(scope: Scope, clause: str, aggregates: bool = False) -> Scope:
    return replace(scope, clause=clause, aggregates=aggregates, windows=False)


def _own(node: Any) -> Iterator[Any]:
    """Yield the node and what is below it in the same query level."""
    pending = [node]
    while pending:
        current = pending.pop()
        yield current
        if isinstance(current, SubqueryExpr):
            pending.extend(current.tests)
        else:
            pending.extend(children(current))


def _contains(expression: Expression, kind: type[Expression]) -> bool:
    return any(isinstance(item, kind) for item in _own(expression))


def _named_windows(binder: Binder, scope: Scope, node: exp.Select) -> None:
    for window in node.args.get("windows") or ():
        name = identifier(window.this)
        if name in scope.named_windows:
            raise OrbitError(f'window "{name}" is already defined', sqlstate="42P20", position=position_of(window))
        level = replace(scope, windows=False, clause="window definitions")
        partition, order, frame = windows.window_parts(binder, level, scope, window)
        placeholder = FUNCTIONS["row_number"][0]
        scope.named_windows[name] = WindowCall(INT8, placeholder, (), partition, order, frame, None)


# The select list


def _targets(
    binder: Binder, scope: Scope, node: exp.Select, source: list[FromItem | None], settle: bool
) -> list[Target]:
    targets: list[Target] = []
    for item in node.expressions:
        inner, name = (item.this, identifier(item.args["alias"])) if isinstance(item, exp.Alias) else (item, None)
        if isinstance(inner, exp.Star):
            binder.refuse_unhandled(inner)
            if not scope.items:
                raise OrbitError(
                    "SELECT * with no tables specified is not valid", sqlstate="42601", position=position_of(inner)
                )
            targets.extend(Target(column.name, column.expression) for column in scope.visible())
            continue
        if isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star):
            targets.extend(_table_star(scope, inner))
            continue
        name = name if name is not None else naming.column_name(inner)
        lifted = _set_returning(binder, scope, inner, source)
        value = lifted if lifted is not None else expressions.bind(binder, scope, inner)
        targets.append(Target(name, value))
    return targets


def _table_star(scope: Scope, node: exp.Column) -> list[Target]:
    table, schema = node.args["table"], node.args.get("db")
    item = scope.item(identifier(schema) if schema is not None else None, identifier(table))
    if item is None:
        raise errors.missing_from(identifier(table), position_of(table))
    return [Target(column.name, column.expression) for column in item.columns]


def _set_returning(binder: Binder, scope: Scope, node: exp.Expr, source: list[FromItem | None]) -> Expression | None:
    """Move a set-returning function of the select list into FROM, where it means the same for one such function."""
    call = node.expression if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Anonymous) else node
    if isinstance(call, exp.Unnest):
        name, args = "unnest", call.expressions
    elif isinstance(call, exp.Anonymous):
        name, args = calls.call_name(call), call.expressions
    else:
        return None
    if not any(item.kind == "s" for item in FUNCTIONS.get(name, ())):
        return None
    if isinstance(source[0], Join) and source[0].kind == "cross" and getattr(source[0].right, "alias", "") == "*srf":
        raise errors.unsupported("more than one set-returning function in a select list", node)
    level = replace(scope, windows=False, aggregates=False, clause="set-returning function arguments")
    bound = [expressions.bind(binder, level, item) for item in args]
    relation, items = from_items.set_function(binder, name, bound, "*srf", [], False, position_of(call))
    source[0] = relation if source[0] is None else Join("cross", source[0], relation, None)
    return items[0].columns[0].expression


# Grouping


def _group(
    binder: Binder, scope: Scope, node: exp.Select, targets: list[Target]
) -> tuple[list[Expression], tuple[tuple[int, ...], ...] | None]:
    group = node.args.get("group")
    if group is None:
        return [], None
    binder.refuse_unhandled(group, "expressions", "rollup", "cube", "grouping_sets")
    level = _level(scope, "GROUP BY")
    found: list[Expression] = []

    def position(item: exp.Expr) -> int:
        value = _group_item(binder, level, item, targets)
        if value not in found:
            found.append(value)
        return found.index(value)

    parts: list[list[tuple[int, ...]]] = []
    special = False
    nodes = [*group.expressions]
    for key in ("grouping_sets", "cube", "rollup"):
        nodes.extend(item for item in group.args.get(key) or () if isinstance(item, exp.Expr))
    for item in nodes:
        special = special or isinstance(item, exp.Rollup | exp.Cube | exp.GroupingSets)
        parts.append(_grouping_sets(item, position))
    if not special:
        return found, None
    sets = tuple(tuple(dict.fromkeys(at for part in choice for at in part)) for choice in product(*parts))
    if len(sets) > MAX_GROUPING_SETS:
        raise OrbitError(f"too many grouping sets present (maximum {MAX_GROUPING_SETS})", sqlstate="54001")
    return found, sets


def _grouping_sets(node: exp.Expr, position: Any) -> list[tuple[int, ...]]:
    if isinstance(node, exp.Rollup):
        keys = [_grouping_element(item, position) for item in node.expressions]
        return [tuple(at for key in keys[:n] for at in key) for n in range(len(keys), -1, -1)]
    if isinstance(node, exp.Cube):
        keys = [_grouping_element(item, position) for item in node.expressions]
        return [
            tuple(at for n, key in enumerate(keys) if not mask >> (len(keys) - 1 - n) & 1 for at in key)
            for mask in range(1 << len(keys))
        ]
    if isinstance(node, exp.GroupingSets):
        return [one for item in node.expressions for one in _grouping_sets(item, position)]
    return [_grouping_element(node, position)]


def _grouping_element(node: exp.Expr, position: Any) -> tuple[int, ...]:
    if isinstance(node, exp.Tuple):
        return tuple(position(item) for item in node.expressions)
    return (position(node.this if isinstance(node, exp.Paren) else node),)


def _group_item(binder: Binder, scope: Scope, node: exp.Expr, targets: list[Target]) -> Expression:
    if isinstance(node, exp.Column) and node.args.get("table") is None:
        # A name is an input column first and an output name second: the opposite of ORDER BY.
        column = _own_column(scope, identifier(node.this), position_of(node))
        if column is not None:
            return column.expression
    at = query.output_position(targets, node, "GROUP BY")
    if at is None:
        return binder.settled(expressions.bind(binder, scope, node))
    if _contains(targets[at].expression, AggregateCall):
        raise errors.not_allowed("aggregate functions", "GROUP BY", "42803", position_of(node))
    if _contains(targets[at].expression, WindowCall):
        raise errors.not_allowed("window functions", "GROUP BY", "42P20", position_of(node))
    targets[at] = replace(targets[at], expression=binder.settled(targets[at].expression))
    return targets[at].expression


def _own_column(scope: Scope, name: str, position: int | None) -> ScopeColumn | None:
    return replace(scope, parent=None).column(name, position)


def _check_grouping(scope: Scope, bound: Select, node: exp.Select) -> Select:
    """Raise 42803 for a column that is neither grouped nor aggregated.

    A table grouped by its whole primary key lends all its columns: those that the query uses join the groups.
    """
    own = calls.scope_relations(scope) | _relation_numbers(bound.source)
    tables = {item.number: item for item in _tables(bound.source)}
    extra: list[Expression] = []

    def dependent(reference: ColumnRef) -> bool:
        table = tables.get(reference.relation)
        key = table.table.primary_key if table is not None else None
        if table is None or key is None or bound.grouping_sets is not None:
            return False
        grouped = {item.column for item in bound.group if isinstance(item, ColumnRef) and item.relation == table.number}
        return all(table.table.position(number) in grouped for number in key.columns)

    def check(current: Any) -> None:
        if isinstance(current, Expression) and current in bound.group:
            return
        if isinstance(current, AggregateCall | GroupingCall):
            return
        if isinstance(current, ColumnRef) and current.relation in own:
            if dependent(current):
                if current not in extra:
                    extra.append(current)
                return
            raise errors.grouping_error(
                f'column "{_shown(scope, current)}" must appear in the GROUP BY clause '
                "or be used in an aggregate function",
                _find_position(node, current.name),
            )
        for child in children(current):
            check(child)

    for target in bound.targets:
        check(target.expression)
    for item in (bound.having, *bound.distinct_on):
        if item is not None:
            check(item)
    return replace(bound, group=(*bound.group, *extra)) if extra else bound


def _shown(scope: Scope, reference: ColumnRef) -> str:
    for item in scope.items:
        for column in item.columns:
            if column.expression == reference and item.alias is not None:
                return f"{item.alias}.{column.name}"
    return reference.name


def _find_position(node: exp.Select, name: str) -> int | None:
    for part in (*node.expressions, node.args.get("having"), node.args.get("order")):
        if part is None:
            continue
        for column in part.find_all(exp.Column):
            inside = column.find_ancestor(exp.Anonymous)
            aggregate = inside is not None and any(
                item.kind == "a" for item in FUNCTIONS.get(calls.call_name(inside), ())
            )
            if isinstance(column.this, exp.Identifier) and identifier(column.this) == name and not aggregate:
                return position_of(column)
    return None


def _relation_numbers(source: FromItem | None) -> set[int]:
    if isinstance(source, Join):
        return _relation_numbers(source.left) | _relation_numbers(source.right)
    return set() if source is None else {source.number}


def _tables(source: FromItem | None) -> Iterator[TableRelation]:
    if isinstance(source, Join):
        yield from _tables(source.left)
        yield from _tables(source.right)
    elif isinstance(source, TableRelation):
        yield source


# ORDER BY, DISTINCT, locks


def _order(
    binder: Binder, scope: Scope, node: exp.Select, targets: list[Target], distinct: bool
) -> tuple[list[Target], list[tuple[int, bool, bool]]]:
    order_node = node.args.get("order")
    keys: list[tuple[int, bool, bool]] = []
    targets = list(targets)
    for item in order_node.expressions if order_node is not None else ():
        binder.refuse_unhandled(item, "this", "desc", "nulls_first")
        at = query.output_position(targets, item.this, "ORDER BY")
        if at is None:
            value = binder.settled(expressions.bind(binder, replace(scope, clause="ORDER BY"), item.this))
            at = next((n for n, target in enumerate(targets) if target.expression == value), None)
            if at is None:
                if distinct:
                    raise OrbitError(
                        "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                        sqlstate="42P10",
                        position=position_of(item.this),
                    )
                at = len(targets)
                targets.append(Target("", value, hidden=True))
        calls.require_order(binder, targets[at].expression, position_of(item.this))
        keys.append((at, bool(item.args.get("desc")), bool(item.args.get("nulls_first"))))
    return targets, keys


def _distinct_on(
    binder: Binder,
    scope: Scope,
    node: exp.Expr | None,
    targets: list[Target],
    order: list[tuple[int, bool, bool]],
) -> list[Expression]:
    if node is None or node.args.get("on") is None:
        return []
    on = node.args["on"]
    found: list[Expression] = []
    for item in on.expressions if isinstance(on, exp.Tuple) else [on]:
        at = query.output_position(targets, item, "DISTINCT ON")
        value = targets[at].expression if at is not None else binder.settled(expressions.bind(binder, scope, item))
        if value not in found:
            found.append(value)
    leading = [targets[at].expression for at, _, _ in order[: len(found)]]
    if any(item not in found for item in leading):
        raise OrbitError(
            "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
            sqlstate="42P10",
            position=position_of(on),
        )
    return found


def _locks(scope: Scope, node: exp.Select, bound: Select) -> tuple[RowLock, ...]:
    found: list[RowLock] = []
    for lock in node.args.get("locks") or ():
        key, update, wait = bool(lock.args.get("key")), bool(lock.args.get("update")), lock.args.get("wait")
        strength = {
            (True, False): "update",
            (True, True): "no key update",
            (False, False): "share",
            (False, True): "key share",
        }[update, key]
        if bound.aggregated or bound.distinct or bound.distinct_on:
            what = (
                "DISTINCT clause"
                if bound.distinct or bound.distinct_on
                else "GROUP BY clause"
                if bound.group
                else "aggregate functions"
            )
            raise OrbitError(f"FOR {strength.upper()} is not allowed with {what}", sqlstate="0A000")
        numbers: list[int] = []
        for table in lock.expressions:
            item = scope.item(None, identifier(table.this))
            if item is None or item.relation is None:
                raise OrbitError(
                    f'relation "{identifier(table.this)}" in FOR {strength.upper()} clause not found in FROM clause',
                    sqlstate="42P01",
                    position=position_of(table),
                )
            numbers.append(item.relation.number)
        if not lock.expressions:
            numbers = [item.relation.number for item in scope.items if isinstance(item.relation, TableRelation)]
        found.append(RowLock(strength, tuple(numbers), {None: "wait", False: "skip", True: "nowait"}.get(wait, "wait")))
    return tuple(found)
