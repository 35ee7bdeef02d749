"""Conversions of bound expressions: unknown literals and parameters get their type, casts are made explicit.

Contexts are PostgreSQL's: `i` implicit, `a` assignment, `e` explicit.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from orbit.kernel.errors import InvalidValue, OrbitError
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import errors
from services.storage.sql.bind.context import ParameterTypes
from services.storage.sql.bind.resolve import common_type
from services.storage.sql.bind.tree import ArrayExpr, Cast, Const, Expression, Parameter, Relabel
from services.storage.sql.bind.type_catalog import (
    BOOL,
    ELEMENT_OF,
    REG_TYPES,
    UNKNOWN,
    can_coerce,
    display_name,
    is_array,
    is_binary_coercible,
)
from services.storage.sql.text_values import text_parser

_AT_RUN_TIME = REG_TYPES | {Oid.TIMESTAMPTZ}
"""Types whose literals mean something only with the session's settings or the catalog."""
_MAYBE_RELATIVE = frozenset((Oid.DATE, Oid.TIME, Oid.TIMESTAMP))
_RELATIVE_WORDS = ("now", "today", "tomorrow", "yesterday", "allballs")
_INTEGERS = frozenset((Oid.INT2, Oid.INT4, Oid.INT8))


def coerce(
    parameters: ParameterTypes,
    expression: Expression,
    target: SqlType,
    context: str,
    position: int | None = None,
) -> Expression | None:
    """Return the expression as the target type, or None when no such cast exists in the context."""
    source = expression.type
    if source == target:
        return expression
    if source.oid == Oid.UNKNOWN:
        if isinstance(expression, Parameter):
            settled = parameters.settle(expression.index, target)
            return _with_modifier(Parameter(settled, expression.index), target, context)
        if isinstance(expression, Const):
            return literal(expression.value, target, context, position)
    if target.oid == Oid.UNKNOWN:
        return expression
    if source.oid == target.oid:
        return _with_modifier(expression, target, context)
    if isinstance(expression, ArrayExpr) and is_array(target.oid):
        element = SqlType(ELEMENT_OF[target.oid], target.modifier)
        items = [coerce(parameters, item, element, context, position) for item in expression.items]
        if all(item is not None for item in items):
            return ArrayExpr(target, tuple(item for item in items if item is not None))
    if not can_coerce(source.oid, target.oid, context):
        return None
    if is_binary_coercible(source.oid, target.oid) and target.oid not in REG_TYPES and source.oid != Oid.BPCHAR:
        return _with_modifier(Relabel(SqlType(target.oid), expression), target, context)
    folded = _fold_number(expression, target)
    return folded if folded is not None else Cast(target, expression, context == "e")


def _with_modifier(expression: Expression, target: SqlType, context: str) -> Expression:
    if target.modifier == -1 or expression.type == target:
        return expression
    return Cast(target, expression, context == "e")


def _fold_number(expression: Expression, target: SqlType) -> Expression | None:
    """Widen an integer literal at once; everything else is left to the executor."""
    if not isinstance(expression, Const) or expression.type.oid not in _INTEGERS or target.modifier != -1:
        return None
    value = expression.value
    if target.oid == Oid.NUMERIC:
        return Const(target, None if value is None else Decimal(value))
    if target.oid == Oid.INT8:
        return Const(target, value)
    if target.oid == Oid.FLOAT8 and (value is None or abs(value) < 1 << 53):
        return Const(target, None if value is None else float(value))
    return None


def literal(value: str | None, target: SqlType, context: str, position: int | None) -> Expression:
    """Return a quoted literal as a constant of the type. Raises InvalidValue at the literal's position."""
    if value is None:
        return Const(SqlType(target.oid), None) if target.modifier == -1 else Const(target, None)
    word = value.strip().lower()
    relative = target.oid in _MAYBE_RELATIVE and word.startswith(_RELATIVE_WORDS)
    if target.oid in _AT_RUN_TIME or relative or ELEMENT_OF.get(target.oid) in _AT_RUN_TIME:
        return Cast(target, Const(UNKNOWN, value), context == "e")
    try:
        parsed = text_parser(SqlType(target.oid))(value)
    except InvalidValue as error:
        if error.position is None:
            error.position = position
        raise
    return _with_modifier(Const(SqlType(target.oid), parsed), target, context)


def coerce_or_fail(
    parameters: ParameterTypes, expression: Expression, target: SqlType, context: str, position: int | None
) -> Expression:
    """Like `coerce`; raises 42846 where no cast exists."""
    result = coerce(parameters, expression, target, context, position)
    if result is None:
        raise errors.cannot_cast(expression.type, target, position)
    return result


def coerce_to_boolean(
    parameters: ParameterTypes, expression: Expression, construct: str, position: int | None
) -> Expression:
    result = coerce(parameters, expression, BOOL, "i", position)
    if result is None:
        raise errors.must_be_boolean(construct, expression.type, position)
    return result


def coerce_for_assignment(
    parameters: ParameterTypes, expression: Expression, column: str, target: SqlType, position: int | None
) -> Expression:
    """Return the expression as a column's value (INSERT, UPDATE, DEFAULT). Raises 42804."""
    result = coerce(parameters, expression, target, "a", position)
    if result is None:
        raise OrbitError(
            f'column "{column}" is of type {display_name(SqlType(target.oid))} '
            f"but expression is of type {display_name(expression.type)}",
            sqlstate="42804",
            hint="You will need to rewrite or cast the expression.",
            position=position,
        )
    return result


def unify(
    parameters: ParameterTypes,
    expressions: Sequence[Expression],
    construct: str,
    positions: Sequence[int | None],
) -> tuple[SqlType, list[Expression]]:
    """Bring the arms of UNION, CASE, COALESCE, VALUES .. to their common type. Raises 42804."""
    chosen = common_type([item.type.oid for item in expressions])
    if chosen is None:
        first = next(item.type for item in expressions if item.type.oid != Oid.UNKNOWN)
        for item, position in zip(expressions, positions, strict=True):
            if common_type([first.oid, item.type.oid]) is None:
                raise errors.cannot_match(construct, first, item.type, position)
        raise errors.cannot_match(construct, first, expressions[-1].type, positions[-1])
    modifiers = {item.type.modifier for item in expressions if item.type.oid == chosen}
    same = len(modifiers) == 1 and all(item.type.oid == chosen for item in expressions)
    target = SqlType(chosen, modifiers.pop() if same else -1)
    converted: list[Expression] = []
    for item, position in zip(expressions, positions, strict=True):
        result = coerce(parameters, item, target, "i", position)
        if result is None:
            raise OrbitError(
                f"{construct} could not convert type {display_name(item.type)} to {display_name(target)}",
                sqlstate="42846",
                position=position,
            )
        converted.append(result)
    return target, converted
