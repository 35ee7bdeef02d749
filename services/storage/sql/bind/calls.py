"""Calls: functions, aggregates, window functions, and the constructs that look like functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import errors, expressions, subqueries
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.coerce import unify
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.scope import Scope
from services.storage.sql.bind.signatures import FUNCTIONS, Signature
from services.storage.sql.bind.tree import (
    AggregateCall,
    Coalesce,
    ColumnRef,
    Const,
    Expression,
    Extreme,
    FunctionCall,
    GroupingCall,
    NullIf,
    Relabel,
    SortKey,
    walk,
)
from services.storage.sql.bind.type_catalog import (
    ALIASES,
    ANYARRAY,
    ANYELEMENT,
    BY_NAME,
    INT4,
    TEXT,
    UNKNOWN,
    is_array,
)

SUBSCRIPT: Final = Signature("[]", (ANYARRAY, Oid.INT4), ANYELEMENT, "f", key="[](anyarray,int4)")


def call_name(node: exp.Expr) -> str:
    """Return a call's function name, folded as an identifier is."""
    name = node.this if isinstance(node.this, str) else node.name
    return str(name).lower()


def bound_arguments(binder: Binder, scope: Scope, nodes: list[exp.Expr]) -> list[Expression]:
    for node in nodes:
        if isinstance(node, exp.Kwarg):
            raise errors.unsupported("named argument", node)
        if isinstance(node, exp.Variadic):
            raise errors.unsupported("VARIADIC argument", node)
    return [expressions.bind(binder, scope, node) for node in nodes]


def bind_call(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    """Bind `name(arguments)`."""
    name = call_name(node)
    special = _SPECIAL.get(name)
    if special is not None:
        return special(binder, scope, node)
    kinds = {item.kind for item in FUNCTIONS.get(name, ())}
    if "a" in kinds:
        return bind_aggregate(binder, scope, node, None, None)
    if "w" in kinds:
        raise OrbitError(
            f"window function {name} requires an OVER clause", sqlstate="42809", position=position_of(node)
        )
    position = position_of(node)
    if "s" in kinds:
        raise errors.unsupported(f"set-returning function {name} inside an expression", node)
    args = bound_arguments(binder, scope, node.expressions)
    cast = _as_cast(binder, name, args, position)
    if cast is not None:
        return cast
    return binder.function(name, args, position)


def _as_cast(binder: Binder, name: str, args: list[Expression], position: int | None) -> Expression | None:
    """Return `type_name(value)` as a cast, where no function has the name."""
    if len(args) != 1 or name in FUNCTIONS:
        return None
    oid = BY_NAME[name].oid if name in BY_NAME else ALIASES.get(name)
    if oid is None:
        return None
    return binder.coerce(args[0], SqlType(oid), "e", position)


def _coalesce(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = bound_arguments(binder, scope, node.expressions)
    target, converted = unify(binder.parameters, args, "COALESCE", [position_of(item) for item in node.expressions])
    return Coalesce(target, tuple(converted))


def _extreme(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = call_name(node)
    args = bound_arguments(binder, scope, node.expressions)
    target, converted = unify(binder.parameters, args, name.upper(), [position_of(item) for item in node.expressions])
    signature, compared, _ = binder.operator_parts("<", (converted[0], converted[0]), position_of(node))
    if compared[0].type.oid != target.oid:
        # Compared as another type (varchar as text); what comes out keeps the common one.
        converted = [binder.coerce(item, SqlType(compared[0].type.oid)) for item in converted]
    return Extreme(target, name, tuple(converted), signature)


def _nullif(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = bound_arguments(binder, scope, node.expressions)
    if len(args) != 2:
        raise OrbitError('syntax error at or near ")"', sqlstate="42601", position=position_of(node))
    signature, compared, _ = binder.operator_parts("=", args, position_of(node))
    left = args[0] if args[0].type.oid == compared[0].type.oid else compared[0]
    return NullIf(left.type, left, compared[0], compared[1], signature)


def _grouping(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return GroupingCall(INT4, tuple(bound_arguments(binder, scope, node.expressions)))


def _row(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    raise errors.unsupported("row value", node)


def _array_subquery(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return subqueries.bind_array(binder, scope, node.expressions[0])


def _precise_keyword(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    target = {
        "current_timestamp": Oid.TIMESTAMPTZ,
        "localtimestamp": Oid.TIMESTAMP,
        "localtime": Oid.TIME,
        "current_time": None,
    }[call_name(node)]
    digits = node.expressions[0].name if node.expressions else ""
    if target is None or not digits.isdigit():
        raise errors.unsupported(f"{call_name(node).upper()} of this form", node)
    return binder.coerce(binder.function("now", [], None), SqlType(target, min(int(digits), 6)), "e")


def _concat(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = bound_arguments(binder, scope, node.expressions)
    # Each value goes in by its output function, as text; format keeps its template first.
    converted = [binder.coerce(item, TEXT, "e") if item.type.oid != Oid.TEXT else item for item in args]
    values = 0 if call_name(node) == "concat" else 1
    converted[values:] = [_printed(*pair) for pair in zip(converted[values:], args[values:], strict=True)]
    return binder.function(call_name(node), converted, position_of(node))


def _printed(converted: Expression, original: Expression) -> Expression:
    if original.type.oid == Oid.BOOL:
        return FunctionCall(TEXT, BOOL_OUT, (original,))
    if original.type.oid == Oid.BPCHAR:
        # The cast to text would take the padding off.
        return Relabel(TEXT, original)
    return converted


BOOL_OUT: Final = Signature("boolout", (Oid.BOOL,), Oid.TEXT, "f", key="boolout(bool)")
"""Prints t and f, where the cast to text prints true and false."""


def _typeof(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = bound_arguments(binder, scope, node.expressions)
    if len(args) != 1:
        raise errors.undefined_function("pg_typeof", [item.type for item in args], position_of(node))
    return binder.function("pg_typeof", (args[0], Const(SqlType(Oid.OID), args[0].type.oid)), position_of(node))


def _array_to_string(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = bound_arguments(binder, scope, node.expressions)
    if args and is_array(args[0].type.oid):
        args[0] = binder.coerce(args[0], SqlType(1009), "e")
    return binder.function("array_to_string", args, position_of(node))


def _interval(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = bound_arguments(binder, scope, node.expressions)
    if len(args) != 1:
        raise errors.unsupported("interval of this form", node)
    return binder.coerce(args[0], SqlType(Oid.INTERVAL), "e", position_of(node))


_SPECIAL: Final = {
    "interval": _interval,
    "pg_typeof": _typeof,
    "array_to_string": _array_to_string,
    "coalesce": _coalesce,
    "nullif": _nullif,
    "greatest": _extreme,
    "least": _extreme,
    "grouping": _grouping,
    "row": _row,
    "array": _array_subquery,
    "current_timestamp": _precise_keyword,
    "localtimestamp": _precise_keyword,
    "localtime": _precise_keyword,
    "current_time": _precise_keyword,
    "concat": _concat,
    "concat_ws": _concat,
    "format": _concat,
}


# Special syntax


def bind_extract(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    field = node.this.name.lower()
    value = expressions.bind(binder, scope, node.expression)
    return binder.function("extract", (Const(TEXT, field), value), position_of(node))


def bind_substring(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    parts = [node.this, node.args.get("start"), node.args.get("length")]
    args = [expressions.bind(binder, scope, item) for item in parts if item is not None]
    return binder.function("substring", args, position_of(node))


def bind_trim(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    place = str(node.args.get("position") or "BOTH").upper()
    name = {"BOTH": "btrim", "LEADING": "ltrim", "TRAILING": "rtrim"}[place]
    parts = [node.this, node.expression] if node.args.get("expression") is not None else [node.this]
    return binder.function(name, [expressions.bind(binder, scope, item) for item in parts], position_of(node))


def bind_position(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = [expressions.bind(binder, scope, node.this), expressions.bind(binder, scope, node.args["substr"])]
    return binder.function("position", args, position_of(node))


def bind_overlay(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    parts = [node.this, node.expression, node.args.get("from_"), node.args.get("for_")]
    args = [expressions.bind(binder, scope, item) for item in parts if item is not None]
    return binder.function("overlay", args, position_of(node))


# Aggregates


def bind_filter(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    inner = node.this
    if isinstance(inner, exp.WithinGroup):
        return bind_aggregate(binder, scope, inner.this, node.expression.this, inner.expression)
    if isinstance(inner, exp.Dot):
        inner = inner.expression
    return bind_aggregate(binder, scope, inner, node.expression.this, None)


def bind_within_group(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return bind_aggregate(binder, scope, node.this, None, node.expression)


def split_arguments(node: exp.Expr) -> tuple[list[exp.Expr], bool, list[exp.Expr]]:
    """Return a call's arguments, whether DISTINCT stands before them, and its ORDER BY."""
    nodes = list(node.expressions)
    order: list[exp.Expr] = []
    distinct = False
    if nodes and isinstance(nodes[-1], exp.Order):
        last = nodes.pop()
        order = last.expressions
        if last.this is not None:
            nodes.append(last.this)
    if nodes and isinstance(nodes[0], exp.Distinct):
        distinct = True
        nodes[:1] = nodes[0].expressions
        if nodes and isinstance(nodes[-1], exp.Order):
            last = nodes.pop()
            order = last.expressions
            nodes.append(last.this)
    return nodes, distinct, order


def sort_keys(binder: Binder, scope: Scope, nodes: list[exp.Expr]) -> tuple[SortKey, ...]:
    keys: list[SortKey] = []
    for node in nodes:
        value = binder.settled(expressions.bind(binder, scope, node.this))
        require_order(binder, value, position_of(node.this))
        descending = bool(node.args.get("desc"))
        keys.append(SortKey(value, descending, bool(node.args.get("nulls_first"))))
    return tuple(keys)


def require_order(binder: Binder, value: Expression, position: int | None) -> None:
    """Raise 42883 for a type without an ordering operator (json)."""
    if value.type.oid == Oid.JSON:
        raise OrbitError(
            "could not identify an ordering operator for type json",
            sqlstate="42883",
            hint="Use an explicit ordering operator or modify the query.",
            position=position,
        )


def bind_aggregate(
    binder: Binder,
    scope: Scope,
    node: exp.Expr,
    condition: exp.Expr | None,
    within_group: exp.Expr | None,
) -> Expression:
    name = call_name(node)
    position = position_of(node)
    if not any(item.kind == "a" for item in FUNCTIONS.get(name, ())):
        if name in FUNCTIONS:
            raise OrbitError(
                f"FILTER specified, but {name} is not an aggregate function", sqlstate="42809", position=position
            )
        raise errors.undefined_function(
            name, [item.type for item in bound_arguments(binder, scope, node.expressions)], position
        )
    if scope.inside_aggregate:
        raise errors.grouping_error("aggregate function calls cannot be nested", position)
    if not scope.aggregates:
        raise errors.not_allowed("aggregate functions", scope.clause, "42803", position)
    inner = replace(scope, inside_aggregate=True, windows=False)
    nodes, distinct, order_nodes = split_arguments(node)
    if len(nodes) == 1 and isinstance(nodes[0], exp.Star):
        nodes = []
        if name != "count":
            raise OrbitError(
                f"{name}(*) specified, but {name} is not an aggregate function", sqlstate="42809", position=position
            )
    elif not nodes and name == "count":
        raise OrbitError(
            "count(*) must be used to call a parameterless aggregate function", sqlstate="42809", position=position
        )
    args = bound_arguments(binder, inner, nodes)
    order = sort_keys(binder, inner, order_nodes)
    keys = sort_keys(binder, inner, within_group.expressions) if within_group is not None else ()
    filtered = (
        None
        if condition is None
        else expressions.bind_boolean(binder, replace(inner, clause="FILTER"), condition, "FILTER")
    )
    candidate = binder.resolve(name, [*args, *(key.expression for key in keys)], position, "a")
    if bool(candidate.signature.ordered_set) != bool(keys):
        raise OrbitError(
            f"WITHIN GROUP is required for ordered-set aggregate {name}"
            if not keys
            else f"{name} is not an ordered-set aggregate, so it cannot have WITHIN GROUP",
            sqlstate="42809",
            position=position,
        )
    actual = [*args, *(key.expression for key in keys)]
    converted, result = binder.arguments(candidate, actual, [position] * len(actual))
    keys = tuple(replace(key, expression=item) for key, item in zip(keys, converted[len(args) :], strict=True))
    arguments = tuple(any_argument(binder, item) for item in converted[: len(args)])
    _check_distinct(distinct, order, arguments, position)
    call = AggregateCall(
        _result_type(name, result, arguments),
        candidate.signature,
        arguments,
        distinct,
        keys or order,
        filtered,
        bool(keys),
    )
    _refuse_outer(scope, call, node)
    return call


def any_argument(binder: Binder, item: Expression) -> Expression:
    return binder.coerce(item, TEXT, "i") if item.type == UNKNOWN else item


def _result_type(name: str, result: int, args: tuple[Expression, ...]) -> SqlType:
    if name in ("min", "max") and args and args[0].type.oid == result:
        return SqlType(result)
    return SqlType(result)


def _check_distinct(
    distinct: bool, order: tuple[SortKey, ...], args: tuple[Expression, ...], position: int | None
) -> None:
    if distinct and any(key.expression not in args for key in order):
        raise OrbitError(
            "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
            sqlstate="42P10",
            position=position,
        )


def _refuse_outer(scope: Scope, call: AggregateCall, node: exp.Expr) -> None:
    """An aggregate over outer columns only belongs to the outer query, which we do not do."""
    relations = {item.relation for item in walk(call) if isinstance(item, ColumnRef)}
    if relations and not relations & scope_relations(scope) and scope.items and scope.parent is not None:
        raise errors.unsupported("aggregate of an outer query", node)


def scope_relations(scope: Scope) -> set[int]:
    """Return the relation numbers that this query level's names refer to."""
    return {
        item.relation
        for entry in scope.items
        for column in entry.columns
        for item in walk(column.expression)
        if isinstance(item, ColumnRef)
    }
