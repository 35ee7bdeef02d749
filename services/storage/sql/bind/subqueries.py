"""Subqueries as expressions, and comparisons of rows."""

from __future__ import annotations

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import SqlType
from services.storage.sql.bind import errors, expressions, query
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.scope import Scope
from services.storage.sql.bind.signatures import Signature
from services.storage.sql.bind.tree import BoolExpr, Const, Expression, NotExpr, Query, SubqueryExpr
from services.storage.sql.bind.type_catalog import BOOL, array_of


def _inner(binder: Binder, scope: Scope, node: exp.Expr) -> Query:
    return query.bind_query(binder, scope, node)


def bind_scalar(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    inner = _inner(binder, scope, node)
    if len(inner.types) != 1:
        raise OrbitError("subquery must return only one column", sqlstate="42601", position=position_of(node))
    return SubqueryExpr(inner.types[0], "scalar", inner)


def bind_exists(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return SubqueryExpr(BOOL, "exists", _inner(binder, scope, node.this))


def bind_array(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    inner = _inner(binder, scope, node)
    if len(inner.types) != 1:
        raise OrbitError("subquery must return only one column", sqlstate="42601", position=position_of(node))
    array = array_of(inner.types[0].oid)
    if array is None:
        raise errors.unsupported("array of arrays", node)
    return SubqueryExpr(SqlType(array), "array", inner)


def bind_quantified(binder: Binder, scope: Scope, name: str, left: exp.Expr, node: exp.Expr, every: bool) -> Expression:
    """Bind `left operator ANY (query)`, which IN is for `=`."""
    while isinstance(left, exp.Paren):
        left = left.this
    lefts = row_items(left) or [left]
    tests = [expressions.bind(binder, scope, item) for item in lefts]
    inner = _inner(binder, scope, node)
    if len(inner.types) != len(tests):
        few = "subquery has too few columns" if len(inner.types) < len(tests) else "subquery has too many columns"
        raise OrbitError(few, sqlstate="42601", position=position_of(left))
    if len(tests) > 1 and name not in ("=", "<>"):
        raise errors.unsupported(f"row comparison {name} with a subquery", left)
    signatures: list[Signature] = []
    casts: list[SqlType] = []
    converted: list[Expression] = []
    for test, sql_type in zip(tests, inner.types, strict=True):
        signature, pair, _ = binder.operator_parts(name, (test, Const(sql_type, None)), position_of(left))
        signatures.append(signature)
        converted.append(pair[0])
        casts.append(pair[1].type)
    return SubqueryExpr(BOOL, "all" if every else "any", inner, tuple(converted), tuple(signatures), tuple(casts))


def row_items(node: exp.Expr) -> list[exp.Expr] | None:
    """Return the fields of (a, b) or ROW(a, b); None for anything else."""
    if isinstance(node, exp.Tuple):
        return list(node.expressions)
    if isinstance(node, exp.Anonymous) and node.name.lower() == "row":
        return list(node.expressions)
    return None


def compare_rows(binder: Binder, scope: Scope, name: str, left: exp.Expr, right: exp.Expr) -> Expression:
    """Bind (a, b) = (c, d) and the like as comparisons of their fields."""
    if isinstance(right, exp.Subquery | exp.Select):
        raise errors.unsupported("comparison of a row with a subquery", right)
    lefts, rights = row_items(left), row_items(right)
    if lefts is None or rights is None:
        raise errors.unsupported("comparison of a row with a scalar", left)
    if len(lefts) != len(rights):
        raise OrbitError("unequal number of entries in row expressions", sqlstate="42601", position=position_of(left))
    pairs = [
        (expressions.bind(binder, scope, a), expressions.bind(binder, scope, b))
        for a, b in zip(lefts, rights, strict=True)
    ]
    position = position_of(left)
    if name in ("=", "<>"):
        equal = [binder.operator("=", pair, position) for pair in pairs]
        both: Expression = equal[0] if len(equal) == 1 else BoolExpr(BOOL, "and", tuple(equal))
        return both if name == "=" else NotExpr(BOOL, both)
    strict = name.rstrip("=")
    # Lexicographic order: the first pair that differs decides.
    result: Expression = binder.operator(name, pairs[-1], position)
    for pair in reversed(pairs[:-1]):
        less = binder.operator(strict, pair, position)
        same = binder.operator("=", pair, position)
        result = BoolExpr(BOOL, "or", (less, BoolExpr(BOOL, "and", (same, result))))
    return result
