"""Operators: arithmetic, comparisons, LIKE, quantified comparisons, JSON arrows, and the sign of literals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import errors, expressions, subqueries
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.scope import Scope
from services.storage.sql.bind.tree import ArrayTest, Const, Expression
from services.storage.sql.bind.type_catalog import BOOL, ELEMENT_OF, INT4, INT8, NUMERIC, UNKNOWN, array_of, is_array

BINARY: Final[dict[type[exp.Expr], str]] = {
    exp.Add: "+",
    exp.Sub: "-",
    exp.Mul: "*",
    exp.Div: "/",
    exp.Mod: "%",
    exp.Pow: "^",
    exp.DPipe: "||",
    exp.BitwiseAnd: "&",
    exp.BitwiseOr: "|",
    exp.BitwiseXor: "#",
    exp.BitwiseLeftShift: "<<",
    exp.BitwiseRightShift: ">>",
    exp.RegexpLike: "~",
    exp.RegexpILike: "~*",
}
COMPARISONS: Final[dict[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}
NEGATED: Final = {"~": "!~", "~*": "!~*", "~~": "!~~", "~~*": "!~~*"}
MISSING_OPERATORS: Final[dict[type[exp.Expr], str]] = {
    exp.ArrayContainsAll: "@>",
    exp.ArrayContainedBy: "<@",
    exp.ArrayOverlaps: "&&",
    exp.JSONBContains: "?",
    exp.JSONBExtract: "#>",
    exp.JSONBExtractScalar: "#>>",
}


def binary(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = BINARY[type(node)]
    # Chains of one operator lean to the left; they are bound in a loop, so that their length costs no stack.
    chain: list[exp.Expr] = []
    current: exp.Expr = node
    while type(current) is type(node):
        chain.append(current)
        current = current.this
    left = expressions.bind(binder, scope, current)
    for link in reversed(chain):
        right = expressions.bind(binder, scope, link.expression)
        left = binder.operator(name, (left, right), operator_position(link))
    return left


def operator_position(node: exp.Expr) -> int | None:
    # sqlglot keeps no position for operators; the start of the left side is the nearest that we know.
    return position_of(node)


def comparison(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = COMPARISONS[type(node)]
    left, right = node.this, node.expression
    if type(left) in COMPARISONS or type(right) in COMPARISONS:
        raise OrbitError(f'syntax error at or near "{name}"', sqlstate="42601", position=position_of(right))
    if isinstance(right, exp.Any | exp.All) or is_quantifier(right):
        return quantified(binder, scope, name, left, right)
    if is_row(left) or is_row(right):
        return subqueries.compare_rows(binder, scope, name, left, right)
    return compare(
        binder,
        name,
        expressions.bind(binder, scope, left),
        expressions.bind(binder, scope, right),
        operator_position(node),
    )


def is_quantifier(node: exp.Expr) -> bool:
    return (
        isinstance(node, exp.Anonymous) and node.name.lower() in ("any", "some", "all") and len(node.expressions) == 1
    )


def compare(binder: Binder, name: str, left: Expression, right: Expression, position: int | None) -> Expression:
    return binder.operator(name, (left, right), position)


def is_row(node: exp.Expr) -> bool:
    return isinstance(node, exp.Tuple) or (isinstance(node, exp.Anonymous) and node.name.lower() == "row")


def quantified(binder: Binder, scope: Scope, name: str, left: exp.Expr, right: exp.Expr) -> Expression:
    every = isinstance(right, exp.All) or right.name.lower() == "all"
    inner = right.expressions[0] if isinstance(right, exp.Anonymous) else right.this
    while isinstance(inner, exp.Paren):
        inner = inner.this
    if isinstance(inner, exp.Query) and not (isinstance(inner, exp.Subquery) and inner.args.get("alias")):
        return subqueries.bind_quantified(binder, scope, name, left, inner, every)
    value = expressions.bind(binder, scope, left)
    array = expressions.bind(binder, scope, inner)
    return array_test(binder, name, value, array, every, position_of(left))


def array_test(
    binder: Binder, name: str, value: Expression, array: Expression, every: bool, position: int | None
) -> Expression:
    """Bind `value operator ANY (array)`."""
    if array.type.oid == Oid.UNKNOWN:
        element = SqlType(value.type.oid if value.type.oid != Oid.UNKNOWN else Oid.TEXT)
        wanted = array_of(element.oid)
        if wanted is None:
            raise errors.undefined_operator(name, [value.type, array.type], position)
        array = binder.coerce(array, SqlType(wanted), "i", position)
    if not is_array(array.type.oid):
        raise OrbitError("op ANY/ALL (array) requires array on right side", sqlstate="42809", position=position)
    element = SqlType(ELEMENT_OF[array.type.oid])
    probe = Const(element, None)
    signature, converted, _ = binder.operator_parts(name, (value, probe), position)
    wanted_element = converted[1].type
    if wanted_element.oid != element.oid:
        array_oid = array_of(wanted_element.oid)
        assert array_oid is not None
        array = binder.coerce(array, SqlType(array_oid), "e", position)
    return ArrayTest(BOOL, converted[0], array, signature, every)


def like(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = "~~" if isinstance(node, exp.Like) else "~~*"
    negate = bool(node.args.get("negate"))
    name = NEGATED[name] if negate else name
    right = node.expression
    if isinstance(right, exp.Any | exp.All):
        return quantified(binder, scope, name, node.this, right)
    return binder.operator(
        name,
        (expressions.bind(binder, scope, node.this), expressions.bind(binder, scope, right)),
        operator_position(node),
    )


def escape(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    inner = node.this
    if not isinstance(inner, exp.Like | exp.ILike):
        raise errors.unsupported("ESCAPE on this operator", node)
    mark = node.expression
    if not (isinstance(mark, exp.Literal) and mark.is_string):
        raise errors.unsupported("LIKE with a computed ESCAPE", node)
    if len(mark.name) > 1:
        raise OrbitError(
            "invalid escape string", sqlstate="22019", hint="Escape string must be empty or one character."
        )
    pattern = expressions.bind(binder, scope, inner.expression)
    if not isinstance(pattern, Const):
        if mark.name != "\\":
            raise errors.unsupported("LIKE with ESCAPE and a computed pattern", node)
        return like(binder, scope, inner)
    name = "~~" if isinstance(inner, exp.Like) else "~~*"
    name = NEGATED[name] if inner.args.get("negate") else name
    if pattern.value is not None:
        pattern = Const(UNKNOWN, _with_backslashes(str(pattern.value), mark.name))
    return binder.operator(name, (expressions.bind(binder, scope, inner.this), pattern), operator_position(node))


def _with_backslashes(pattern: str, escape: str) -> str:
    """Rewrite a LIKE pattern from its own escape character to the backslash."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if escape and char == escape:
            at += 1
            if at >= len(pattern):
                raise OrbitError("LIKE pattern must not end with escape character", sqlstate="22025")
            parts.append("\\" + pattern[at])
        else:
            parts.append("\\\\" if char == "\\" else char)
        at += 1
    return "".join(parts)


def negative(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    operand = node.this
    while isinstance(operand, exp.Paren):
        operand = operand.this
    if isinstance(operand, exp.Neg) or (isinstance(operand, exp.Literal) and not operand.is_string):
        # The sign belongs to the literal: -2147483648 is an integer, although 2147483648 is not.
        number = expressions.bind(binder, scope, operand)
        if not isinstance(number, Const):
            return binder.operator("-", (number,), operator_position(node))
        value = -number.value
        if number.type.oid == Oid.NUMERIC and (value.as_tuple().exponent != 0 or not -(1 << 63) <= value < 1 << 63):
            return Const(NUMERIC, value or abs(value))
        whole = int(value)
        return Const(INT4 if -(1 << 31) <= whole < 1 << 31 else INT8, whole)
    return binder.operator("-", (expressions.bind(binder, scope, operand),), operator_position(node))


def prefix(name: str) -> Callable[[Binder, Scope, exp.Expr], Expression]:
    def handle(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
        return binder.operator(name, (expressions.bind(binder, scope, node.this),), operator_position(node))

    return handle


def cbrt(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return binder.function("cbrt", (expressions.bind(binder, scope, node.this),), operator_position(node))


def json_arrow(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = "->" if isinstance(node, exp.JSONExtract) else "->>"
    key = node.expression
    right: Expression
    if isinstance(key, exp.JSONPath):
        last = key.expressions[-1]
        if len(key.expressions) != 2 or not isinstance(last, exp.JSONPathKey | exp.JSONPathSubscript):
            raise errors.unsupported(f"operator {name} with a path", node)
        right = (
            Const(INT4, int(last.this)) if isinstance(last, exp.JSONPathSubscript) else Const(UNKNOWN, str(last.this))
        )
    else:
        right = expressions.bind(binder, scope, key)
    return binder.operator(name, (expressions.bind(binder, scope, node.this), right), operator_position(node))


def named_operator(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = str(node.args["operator"]).removeprefix("pg_catalog.")
    return binder.operator(
        name,
        (expressions.bind(binder, scope, node.this), expressions.bind(binder, scope, node.expression)),
        operator_position(node),
    )


def missing_operator(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    raise errors.unsupported(f"operator {MISSING_OPERATORS[type(node)]}", node)
