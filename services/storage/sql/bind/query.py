"""Queries: WITH, set operations, VALUES, ORDER BY and LIMIT around them. SELECT itself is in `select`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import errors, expressions, select
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.coerce import unify
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.scope import Scope
from services.storage.sql.bind.tree import (
    ColumnRef,
    Const,
    Cte,
    Expression,
    Parameter,
    Query,
    Select,
    SetOperation,
    SubqueryRelation,
    Target,
    Values,
    walk,
)
from services.storage.sql.bind.type_catalog import INT8, display_name


def bind_query(binder: Binder, parent: Scope | None, node: exp.Expr, settle: bool = True) -> Query:
    """Bind a query in a new level below `parent`. Unless `settle`, untyped literals stay untyped."""
    if isinstance(node, exp.Subquery):
        binder.refuse_unhandled(node, "this", "alias", "order", "limit", "offset", "with_")
        if any(node.args.get(key) for key in ("order", "limit", "offset", "with_")):
            return _around(binder, parent, node, settle)
        return bind_query(binder, parent, node.this, settle)
    if isinstance(node, exp.Paren):
        return bind_query(binder, parent, node.this, settle)
    scope = Scope(parent=parent)
    ctes = _bind_with(binder, scope, node.args.get("with_"))
    if isinstance(node, exp.Select):
        bound = select.bind_select(binder, scope, node, settle)
    elif isinstance(node, exp.SetOperation):
        bound = _set_operation(binder, scope, node, settle)
    elif isinstance(node, exp.Values):
        bound = _values(binder, scope, node, settle)
    else:
        raise errors.unsupported(f"{node.key.upper()} as a query", node)
    return replace(bound, ctes=(*ctes, *bound.ctes)) if ctes else bound


def _around(binder: Binder, parent: Scope | None, node: exp.Subquery, settle: bool) -> Query:
    """Bind `(query) ORDER BY .. LIMIT ..` as a query over the inner one."""
    scope = Scope(parent=parent)
    ctes = _bind_with(binder, scope, node.args.get("with_"))
    inner = bind_query(binder, scope, node.this, settle)
    wrapped = over(binder, inner)
    ordered = order_by_output(binder, wrapped, node.args.get("order"), None)
    limit, offset, ties = bind_limit(binder, scope, node)
    return replace(wrapped, ctes=ctes, order=ordered, limit=limit, offset=offset, with_ties=ties)


def over(binder: Binder, inner: Query, types: Sequence[SqlType] | None = None) -> Select:
    """Return SELECT of all columns of a query, converted to `types` when given."""
    relation = SubqueryRelation(binder.number(), "*", inner.names, inner.types, inner, False)
    targets: list[Target] = []
    for at, (name, sql_type) in enumerate(zip(inner.names, inner.types, strict=True)):
        value: Expression = ColumnRef(sql_type, relation.number, at, name)
        if types is not None:
            value = binder.coerce(value, types[at], "i")
        targets.append(Target(name, value))
    return Select(tuple(targets), (), (), None, None, False, relation, None, (), None, None, False, False, (), ())


# WITH


def _bind_with(binder: Binder, scope: Scope, node: exp.Expr | None) -> tuple[Cte, ...]:
    if node is None:
        return ()
    recursive = bool(node.args.get("recursive"))
    bound: list[Cte] = []
    for item in node.expressions:
        binder.refuse_unhandled(item, "this", "alias", "materialized")
        alias = item.args["alias"]
        name = identifier(alias.this)
        columns = [identifier(column) for column in alias.args.get("columns") or ()]
        if name in {cte.name for cte in bound}:
            raise OrbitError(
                f'WITH query name "{name}" specified more than once', sqlstate="42712", position=position_of(alias)
            )
        body = item.this
        if not isinstance(body, exp.Query | exp.Values):
            raise errors.unsupported("data-modifying statement in WITH", item)
        if recursive and _mentions(body, name):
            cte = _recursive_cte(binder, scope, name, columns, body)
        else:
            inner = bind_query(binder, scope, body)
            names = _cte_names(name, columns, inner)
            cte = Cte(binder.number(), name, names, inner.types, inner, False, item.args.get("materialized"))
        scope.ctes[name] = cte
        bound.append(cte)
    return tuple(bound)


def _mentions(node: exp.Expr, name: str) -> bool:
    return any(
        isinstance(table.this, exp.Identifier) and identifier(table.this) == name and table.args.get("db") is None
        for table in node.find_all(exp.Table)
    )


def _cte_names(name: str, columns: list[str], inner: Query) -> tuple[str, ...]:
    if len(columns) > len(inner.names):
        raise OrbitError(
            f'WITH query "{name}" has {len(inner.names)} columns available but {len(columns)} columns specified',
            sqlstate="42P10",
        )
    return (*columns, *inner.names[len(columns) :])


def _recursive_cte(binder: Binder, scope: Scope, name: str, columns: list[str], body: exp.Expr) -> Cte:
    if not isinstance(body, exp.Union) or body.args.get("order") or body.args.get("limit"):
        raise OrbitError(
            f'recursive query "{name}" does not have the form non-recursive-term UNION [ALL] recursive-term',
            sqlstate="42P19",
        )
    first = bind_query(binder, scope, _arm(body.this))
    number = binder.number()
    names = _cte_names(name, columns, first)
    level = Scope(parent=scope, ctes={name: Cte(number, name, names, first.types, first, True, None)})
    second = bind_query(binder, level, _arm(body.expression))
    if len(second.types) != len(first.types):
        raise OrbitError("each UNION query must have the same number of columns", sqlstate="42601")
    converted = second
    for at, (have, want) in enumerate(zip(second.types, first.types, strict=True)):
        if have.oid != want.oid:
            _, unified = unify(binder.parameters, [Const(want, None), Const(have, None)], "UNION", [None, None])
            if unified[0].type.oid != want.oid:
                raise OrbitError(
                    f'recursive query "{name}" column {at + 1} has type {display_name(want)} in non-recursive term '
                    f"but type {display_name(unified[0].type)} overall",
                    sqlstate="42804",
                    hint="Cast the output of the non-recursive term to the correct type.",
                )
    if second.types != first.types:
        converted = over(binder, second, first.types)
    union = _combine(binder, "union", not body.args.get("distinct"), first, converted, first.types)
    return Cte(number, name, names, first.types, union, True, None)


# Set operations and VALUES


def _arm(node: exp.Expr) -> exp.Expr:
    while isinstance(node, exp.Subquery | exp.Paren) and not any(
        node.args.get(key) for key in ("order", "limit", "offset", "with_")
    ):
        node = node.this
    return node


def _set_operation(binder: Binder, scope: Scope, node: exp.SetOperation, settle: bool) -> Query:
    binder.refuse_unhandled(node, "this", "expression", "distinct", "order", "limit", "offset", "with_")
    # A long chain leans to the left: bound in a loop.
    chain: list[exp.SetOperation] = []
    current: exp.Expr = node
    while isinstance(current, exp.SetOperation) and (
        current is node or not any(current.args.get(key) for key in ("order", "limit", "offset", "with_"))
    ):
        chain.append(current)
        current = current.this
        if isinstance(current, exp.Subquery):
            current = _arm(current)
    left = bind_query(binder, scope, current, False)
    for link in reversed(chain):
        right = bind_query(binder, scope, _arm(link.expression), False)
        operator = {exp.Union: "union", exp.Intersect: "intersect", exp.Except: "except"}[type(link)]
        left = _unified(binder, operator, link, left, right)
    assert isinstance(left, SetOperation)
    order = order_by_output(binder, left, node.args.get("order"), node)
    limit, offset, ties = bind_limit(binder, scope, node)
    return replace(left, order=order, limit=limit, offset=offset, with_ties=ties)


def _unified(binder: Binder, operator: str, node: exp.Expr, left: Query, right: Query) -> SetOperation:
    word = operator.upper()
    if len(left.types) != len(right.types):
        raise OrbitError(
            f"each {word} query must have the same number of columns",
            sqlstate="42601",
            position=position_of(node.expression),
        )
    lefts, rights = _visible(left), _visible(right)
    types: list[SqlType] = []
    for a, b in zip(lefts, rights, strict=True):
        target, _ = unify(
            binder.parameters, [_probe(a.expression), _probe(b.expression)], word, [None, position_of(node.expression)]
        )
        types.append(target)
    return _combine(
        binder,
        operator,
        not node.args.get("distinct"),
        _converted(binder, left, types),
        _converted(binder, right, types),
        types,
    )


def _probe(expression: Expression) -> Expression:
    """Return a stand-in that shows only the type, so that a trial conversion settles nothing."""
    if isinstance(expression, Const):
        return Const(expression.type, None)
    if isinstance(expression, Parameter):
        return Const(expression.type, None)
    return expression


def _visible(query: Query) -> list[Target]:
    return [target for target in query.targets if not target.hidden]


def _converted(binder: Binder, query: Query, types: Sequence[SqlType]) -> Query:
    if list(query.types) == list(types):
        return query
    if isinstance(query, Select):
        wanted = iter(types)
        targets = tuple(
            target if target.hidden else replace(target, expression=binder.coerce(target.expression, next(wanted), "i"))
            for target in query.targets
        )
        return replace(query, targets=targets)
    return over(binder, query, types)


def _combine(
    binder: Binder, operator: str, every: bool, left: Query, right: Query, types: Sequence[SqlType]
) -> SetOperation:
    number = binder.number()
    targets = tuple(
        Target(name, ColumnRef(sql_type, number, at, name))
        for at, (name, sql_type) in enumerate(zip(left.names, types, strict=True))
    )
    return SetOperation(targets, (), (), None, None, False, number, operator, every, left, right)


def _values(binder: Binder, scope: Scope, node: exp.Values, settle: bool) -> Query:
    binder.refuse_unhandled(node, "expressions", "alias", "order", "limit", "offset", "with_")
    level = replace(scope, clause="VALUES")
    rows: list[list[Expression]] = []
    for row in node.expressions:
        fields = row.expressions if isinstance(row, exp.Tuple) else [row]
        rows.append([expressions.bind(binder, level, item) for item in fields])
    if len({len(row) for row in rows}) != 1:
        raise OrbitError("VALUES lists must all be the same length", sqlstate="42601", position=position_of(node))
    columns: list[list[Expression]] = []
    for column in zip(*rows, strict=True):
        if not settle and all(item.type.oid == Oid.UNKNOWN for item in column):
            columns.append(list(column))
            continue
        columns.append(unify(binder.parameters, column, "VALUES", [None] * len(column))[1])
    number = binder.number()
    targets = tuple(
        Target(f"column{at + 1}", ColumnRef(column[0].type, number, at, f"column{at + 1}"))
        for at, column in enumerate(columns)
    )
    bound = Values(targets, (), (), None, None, False, number, tuple(zip(*columns, strict=True)))
    order = order_by_output(binder, bound, node.args.get("order"), None)
    limit, offset, ties = bind_limit(binder, scope, node)
    return replace(bound, order=order, limit=limit, offset=offset, with_ties=ties)


# ORDER BY and LIMIT


def order_by_output(
    binder: Binder, query: Query, node: exp.Expr | None, operation: exp.Expr | None
) -> tuple[tuple[int, bool, bool], ...]:
    """Bind ORDER BY that may only name output columns."""
    if node is None:
        return ()
    keys: list[tuple[int, bool, bool]] = []
    for item in node.expressions:
        at = output_position(query.targets, item.this, "ORDER BY")
        if at is None:
            if operation is None and isinstance(item.this, exp.Column):
                raise errors.undefined_column(identifier(item.this.this), position_of(item.this))
            if isinstance(item.this, exp.Column):
                raise errors.undefined_column(identifier(item.this.this), position_of(item.this))
            raise OrbitError(
                "invalid UNION/INTERSECT/EXCEPT ORDER BY clause",
                sqlstate="0A000",
                detail="Only result column names can be used, not expressions or functions.",
                hint="Add the expression/function to every SELECT, or move the UNION into a FROM clause.",
                position=position_of(item.this),
            )
        keys.append((at, bool(item.args.get("desc")), bool(item.args.get("nulls_first"))))
    return tuple(keys)


def output_position(targets: Sequence[Target], node: exp.Expr, clause: str) -> int | None:
    """Return the target that a bare name or a number stands for; None when it is neither."""
    if isinstance(node, exp.Literal) and not node.is_string:
        visible = sum(1 for target in targets if not target.hidden)
        if not node.name.isdigit():
            raise OrbitError(f"non-integer constant in {clause}", sqlstate="42601", position=position_of(node))
        at = int(node.name)
        if not 1 <= at <= visible:
            raise OrbitError(
                f"{clause} position {at} is not in select list", sqlstate="42P10", position=position_of(node)
            )
        return at - 1
    if isinstance(node, exp.Literal | exp.Null | exp.Boolean) and clause != "DISTINCT ON":
        if not isinstance(node, exp.Literal) and clause == "ORDER BY":
            return None
        raise OrbitError(f"non-integer constant in {clause}", sqlstate="42601", position=position_of(node))
    if isinstance(node, exp.Column) and node.args.get("table") is None and isinstance(node.this, exp.Identifier):
        name = identifier(node.this)
        found = [at for at, target in enumerate(targets) if target.name == name and not target.hidden]
        if not found:
            return None
        if any(targets[at].expression != targets[found[0]].expression for at in found):
            raise OrbitError(f'{clause} "{name}" is ambiguous', sqlstate="42702", position=position_of(node))
        return found[0]
    return None


def bind_limit(binder: Binder, scope: Scope, node: exp.Expr) -> tuple[Expression | None, Expression | None, bool]:
    """Bind LIMIT, OFFSET and FETCH FIRST."""
    limit_node, offset_node = node.args.get("limit"), node.args.get("offset")
    level = Scope(parent=scope.parent, items=scope.items, clause="LIMIT")
    limit: Expression | None = None
    ties = False
    if isinstance(limit_node, exp.Fetch):
        count = limit_node.args.get("count")
        options = limit_node.args.get("limit_options")
        if options is not None and options.args.get("percent"):
            raise errors.unsupported("FETCH FIRST PERCENT", limit_node)
        ties = bool(options is not None and options.args.get("with_ties"))
        limit = Const(INT8, 1) if count is None else expressions.bind(binder, level, count)
    elif limit_node is not None:
        value = limit_node.expression
        binder.refuse_unhandled(limit_node, "expression")
        if not (isinstance(value, exp.Var) and value.name.upper() == "ALL"):
            limit = expressions.bind(binder, level, value)
    offset = (
        None
        if offset_node is None
        else expressions.bind(binder, replace(level, clause="OFFSET"), offset_node.expression)
    )
    return _count(binder, limit, "LIMIT"), _count(binder, offset, "OFFSET"), ties


def _count(binder: Binder, value: Expression | None, clause: str) -> Expression | None:
    if value is None:
        return None
    if any(isinstance(item, ColumnRef) for item in walk(value)):
        raise OrbitError(f"argument of {clause} must not contain variables", sqlstate="42P10")
    return binder.coerce(value, INT8, "a")
