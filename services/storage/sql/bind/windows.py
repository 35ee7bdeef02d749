"""Window functions: OVER, its partitions, orders and frames, and named windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import SqlType
from services.storage.sql.bind import calls, errors, expressions
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.scope import Scope
from services.storage.sql.bind.signatures import FUNCTIONS
from services.storage.sql.bind.tree import Expression, Frame, SortKey, WindowCall
from services.storage.sql.bind.type_catalog import INT8

_BOUNDS: Final = {"UNBOUNDED": "unbounded", "CURRENT ROW": "current row"}


def bind_window(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    """Bind `call OVER (..)`."""
    binder.refuse_unhandled(node, "this", "partition_by", "order", "spec", "alias", "over")
    inner = node.this
    position = position_of(node)
    if not scope.windows:
        if scope.inside_window:
            raise OrbitError("window function calls cannot be nested", sqlstate="42P20", position=position)
        if scope.inside_aggregate:
            raise errors.grouping_error("aggregate function calls cannot contain window function calls", position)
        raise errors.not_allowed("window functions", scope.clause, "42P20", position)
    condition: exp.Expr | None = None
    if isinstance(inner, exp.IgnoreNulls):
        raise errors.unsupported("IGNORE NULLS", node)
    if isinstance(inner, exp.Filter):
        condition = inner.expression.this
        inner = inner.this
    if isinstance(inner, exp.Dot):
        inner = inner.expression
    if not isinstance(inner, exp.Anonymous):
        raise errors.unsupported("OVER on this expression", node)
    definition = replace(scope, windows=False, clause="window definitions")
    partition, order, frame = window_parts(binder, definition, scope, node)
    level = replace(scope, windows=False, inside_window=True)
    call = _window_call(binder, level, inner, condition, position)
    return replace(call, partition=partition, order=order, frame=frame)


def window_parts(
    binder: Binder, level: Scope, scope: Scope, node: exp.Expr
) -> tuple[tuple[Expression, ...], tuple[SortKey, ...], Frame | None]:
    """Bind PARTITION BY, ORDER BY and the frame of a window, with what it takes from a named one."""
    partition = tuple(
        binder.settled(expressions.bind(binder, level, item)) for item in node.args.get("partition_by") or ()
    )
    order_node = node.args.get("order")
    order = calls.sort_keys(binder, level, order_node.expressions) if order_node is not None else ()
    frame = _frame(binder, level, node.args.get("spec"))
    base = node.args.get("alias")
    if base is not None:
        name = identifier(base)
        named = scope.named_windows.get(name)
        if named is None:
            raise OrbitError(f'window "{name}" does not exist', sqlstate="42704", position=position_of(base))
        if partition:
            raise OrbitError(
                f'cannot override PARTITION BY clause of window "{name}"', sqlstate="42P20", position=position_of(base)
            )
        if order and named.order:
            raise OrbitError(
                f'cannot override ORDER BY clause of window "{name}"', sqlstate="42P20", position=position_of(base)
            )
        partition, order, frame = named.partition, order or named.order, frame or named.frame
    return partition, order, frame


def _frame(binder: Binder, scope: Scope, spec: exp.Expr | None) -> Frame | None:
    if spec is None:
        return None
    mode = str(spec.args["kind"]).lower()
    exclude = spec.args.get("exclude")

    def bound(key: str) -> tuple[str, Expression | None]:
        value, side = spec.args.get(key), str(spec.args.get(f"{key}_side") or "").lower()
        if value is None:
            return "current row", None
        if isinstance(value, str):
            word = _BOUNDS[value.upper()]
            return (f"{word} {side}" if word == "unbounded" else word), None
        offset = expressions.bind(binder, scope, value)
        if mode in ("rows", "groups"):
            offset = binder.coerce(offset, INT8, "i", position_of(value))
        return side, offset

    return Frame(mode, bound("start"), bound("end"), None if exclude is None else exclude.name.lower())


def _window_call(
    binder: Binder, level: Scope, node: exp.Expr, condition: exp.Expr | None, position: int | None
) -> WindowCall:
    name = calls.call_name(node)
    kinds = {item.kind for item in FUNCTIONS.get(name, ())}
    if kinds and not kinds & {"a", "w"}:
        raise OrbitError(
            f"OVER specified, but {name} is not a window function nor an aggregate function",
            sqlstate="42809",
            position=position,
        )
    nodes, distinct, order_nodes = calls.split_arguments(node)
    if distinct:
        raise OrbitError("DISTINCT is not implemented for window functions", sqlstate="0A000", position=position)
    if order_nodes:
        raise errors.unsupported("ORDER BY inside a window aggregate", node)
    if len(nodes) == 1 and isinstance(nodes[0], exp.Star):
        nodes = []
    args = calls.bound_arguments(binder, level, nodes)
    filtered = None if condition is None else expressions.bind_boolean(binder, level, condition, "FILTER")
    candidate = binder.resolve(name, args, position, "aw")
    if filtered is not None and candidate.signature.kind == "w":
        raise OrbitError(
            "FILTER is not implemented for non-aggregate window functions", sqlstate="0A000", position=position
        )
    converted, result = binder.arguments(candidate, args, [position] * len(args))
    arguments = tuple(calls.any_argument(binder, item) for item in converted)
    return WindowCall(SqlType(result), candidate.signature, arguments, (), (), None, filtered)
