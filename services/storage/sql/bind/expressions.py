"""Scalar expressions: sqlglot's nodes to bound, typed ones.

Owns literals, names, operators, CASE and casts. Calls of functions are in `calls`, subqueries in `subqueries`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values.numbers import parse_numeric
from services.storage.sql.bind import calls, errors, operators, subqueries, windows
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.coerce import unify
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.scope import Scope
from services.storage.sql.bind.tree import (
    ArrayExpr,
    BoolExpr,
    BoolTest,
    CaseExpr,
    ColumnRef,
    Const,
    DistinctTest,
    Expression,
    FunctionCall,
    InList,
    NotExpr,
    NullTest,
    Parameter,
    walk,
)
from services.storage.sql.bind.type_catalog import (
    BOOL,
    ELEMENT_OF,
    INT4,
    INT8,
    NUMERIC,
    UNKNOWN,
    array_of,
    display_name,
    is_array,
)
from services.storage.sql.bind.type_names import type_of

MAX_PARAMETERS: Final = 65535


def bind(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    """Return the bound expression. Raises OrbitError with PostgreSQL's SQLSTATE, wording and position."""
    handler = _HANDLERS.get(type(node))
    if handler is None:
        if isinstance(node, exp.Query):
            return subqueries.bind_scalar(binder, scope, node)
        raise errors.unsupported(f"expression {node.key.upper()}", node)
    return handler(binder, scope, node)


def bind_boolean(binder: Binder, scope: Scope, node: exp.Expr, construct: str) -> Expression:
    return binder.boolean(bind(binder, scope, node), construct, position_of(node))


# Literals and names


def _literal(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    text = node.name
    if node.args.get("is_string"):
        return Const(UNKNOWN, text)
    if text.isdigit():
        value = int(text)
        if value < 1 << 31:
            return Const(INT4, value)
        if value < 1 << 63:
            return Const(INT8, value)
        return Const(NUMERIC, Decimal(text))
    return Const(NUMERIC, parse_numeric(text))


def _string(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return Const(UNKNOWN, node.name)


def _adjacent_strings(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    if not all(isinstance(item, exp.Literal) and item.is_string for item in node.expressions):
        raise errors.unsupported("CONCAT of this form", node)
    return Const(UNKNOWN, "".join(item.name for item in node.expressions))


def _unicode_string(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    text = node.name
    if "\\" not in text:
        return Const(UNKNOWN, text)
    raise errors.unsupported("U& string with escapes", node)


def _null(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return Const(UNKNOWN, None)


def _boolean(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return Const(BOOL, bool(node.this))


def _parameter(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    number = node.name
    if not number.isdigit() or not 1 <= int(number) <= MAX_PARAMETERS:
        raise OrbitError(f"there is no parameter ${number}", sqlstate="42P02", position=position_of(node))
    index = int(number) - 1
    return Parameter(binder.parameters.type_of(index), index)


_KEYWORD_FUNCTIONS: Final = frozenset(("user", "current_role", "current_schema", "current_catalog", "session_user"))


def _column(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    binder.refuse_unhandled(node, "this", "table", "db")
    if isinstance(node.this, exp.Star):
        raise OrbitError('row expansion via "*" is not supported here', sqlstate="0A000", position=position_of(node))
    name = identifier(node.this)
    position = position_of(node)
    table = node.args.get("table")
    if table is not None:
        schema = node.args.get("db")
        found = scope.qualified(identifier(schema) if schema is not None else None, identifier(table), name, position)
        return found.expression
    column = scope.column(name, position)
    if column is not None:
        return column.expression
    if name in _KEYWORD_FUNCTIONS and not node.this.args.get("quoted"):
        return binder.function(name, [], position)
    if scope.item(None, name) is not None:
        raise errors.unsupported(f'whole-row reference to "{name}"', node)
    raise errors.undefined_column(name, position)


def _dot(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    if isinstance(node.this, exp.Identifier) and isinstance(node.expression, exp.Anonymous):
        schema = identifier(node.this)
        if schema != "pg_catalog":
            raise OrbitError(
                f"function {schema}.{node.expression.name}() does not exist"
                if binder.context.catalog.schema(schema) is not None
                else f'schema "{schema}" does not exist',
                sqlstate="42883" if binder.context.catalog.schema(schema) is not None else "3F000",
                position=position_of(node),
            )
        return calls.bind_call(binder, scope, node.expression)
    raise errors.unsupported("field selection from a composite value", node)


# Logic


def _and_or(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    word = "and" if isinstance(node, exp.And) else "or"
    leaves: list[exp.Expr] = []
    pending: list[exp.Expr] = [node]
    while pending:
        current = pending.pop()
        if type(current) is type(node):
            pending.extend((current.expression, current.this))
        else:
            leaves.append(current)
    args: list[Expression] = []
    for leaf in leaves:
        bound = bind_boolean(binder, scope, leaf, word.upper())
        if isinstance(bound, BoolExpr) and bound.operator == word:
            args.extend(bound.args)
        else:
            args.append(bound)
    return BoolExpr(BOOL, word, tuple(args))


def _not(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    inner = node.this
    if isinstance(inner, exp.RegexpLike | exp.RegexpILike):
        name = operators.NEGATED[operators.BINARY[type(inner)]]
        right = inner.expression
        if isinstance(right, exp.Any | exp.All):
            return operators.quantified(binder, scope, name, inner.this, right)
        return binder.operator(
            name, (bind(binder, scope, inner.this), bind(binder, scope, right)), operators.operator_position(inner)
        )
    return NotExpr(BOOL, bind_boolean(binder, scope, inner, "NOT"))


def _is(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    negated = bool(node.args.get("negate"))
    test = node.expression
    if isinstance(test, exp.Null):
        if operators.is_row(node.this):
            raise errors.unsupported("IS NULL of a row", node)
        return NullTest(BOOL, binder.settled(bind(binder, scope, node.this)), negated)
    if isinstance(test, exp.Boolean):
        value = bind_boolean(binder, scope, node.this, f"IS {'NOT ' if negated else ''}{str(bool(test.this)).upper()}")
        return BoolTest(BOOL, value, bool(test.this), negated)
    raise errors.unsupported(f"IS {test.sql('postgres').upper()}", node)


def _distinct_from(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    negated = isinstance(node, exp.NullSafeEQ)
    lefts = subqueries.row_items(node.this) or [node.this]
    rights = subqueries.row_items(node.expression) or [node.expression]
    if len(lefts) != len(rights):
        raise OrbitError("unequal number of entries in row expressions", sqlstate="42601", position=position_of(node))
    tests: list[Expression] = []
    for left, right in zip(lefts, rights, strict=True):
        args = (bind(binder, scope, left), bind(binder, scope, right))
        signature, converted, _ = binder.operator_parts("=", args, operators.operator_position(node))
        tests.append(DistinctTest(BOOL, converted[0], converted[1], signature, negated))
    return tests[0] if len(tests) == 1 else BoolExpr(BOOL, "and" if negated else "or", tuple(tests))


def _between(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    position = operators.operator_position(node)
    value = bind(binder, scope, node.this)
    low, high = bind(binder, scope, node.args["low"]), bind(binder, scope, node.args["high"])

    def within(bottom: Expression, top: Expression) -> Expression:
        return BoolExpr(
            BOOL,
            "and",
            (binder.operator(">=", (value, bottom), position), binder.operator("<=", (value, top), position)),
        )

    if node.args.get("symmetric"):
        return BoolExpr(BOOL, "or", (within(low, high), within(high, low)))
    return within(low, high)


def _in(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    binder.refuse_unhandled(node, "this", "expressions", "query")
    query = node.args.get("query")
    if query is not None:
        return subqueries.bind_quantified(binder, scope, "=", node.this, query, False)
    if operators.is_row(node.this):
        tests = [subqueries.compare_rows(binder, scope, "=", node.this, item) for item in node.expressions]
        return tests[0] if len(tests) == 1 else BoolExpr(BOOL, "or", tuple(tests))
    value = bind(binder, scope, node.this)
    items = [bind(binder, scope, item) for item in node.expressions]
    position = operators.operator_position(node)
    mixed = any(item.type.oid not in (value.type.oid, Oid.UNKNOWN) for item in items)
    if mixed and any(isinstance(part, ColumnRef) for item in items for part in walk(item)):
        # PostgreSQL gives only what holds no columns a common type. Operators one by one differ for char(n) alone.
        if any(item.type.oid == Oid.BPCHAR for item in (value, *items)):
            raise errors.unsupported("IN over char(n) and columns of other types", node)
    try:
        _, unified = unify(binder.parameters, [value, *items], "IN", [position] * (len(items) + 1))
    except OrbitError:
        # No common type: each item is compared by an operator of its own, as PostgreSQL does.
        tests = [binder.operator("=", (value, item), position) for item in items]
        return tests[0] if len(tests) == 1 else BoolExpr(BOOL, "or", tuple(tests))
    signature, converted, _ = binder.operator_parts("=", (unified[0], unified[1]), position)
    wanted = converted[1].type
    members = tuple(
        binder.coerce(item, SqlType(wanted.oid), "i", position) if item.type.oid != wanted.oid else item
        for item in unified[1:]
    )
    return InList(BOOL, converted[0], members, signature, False)


def _case(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    operand = bind(binder, scope, node.this) if node.this is not None else None
    conditions: list[Expression] = []
    results: list[Expression] = []
    nodes: list[exp.Expr] = []
    for branch in node.args["ifs"]:
        if operand is None:
            conditions.append(bind_boolean(binder, scope, branch.this, "CASE/WHEN"))
        else:
            right = bind(binder, scope, branch.this)
            conditions.append(binder.operator("=", (operand, right), position_of(branch.this)))
        results.append(bind(binder, scope, branch.args["true"]))
        nodes.append(branch.args["true"])
    default = node.args.get("default")
    results.append(Const(UNKNOWN, None) if default is None else bind(binder, scope, default))
    # PostgreSQL puts ELSE first when it chooses the type.
    ordered = [results[-1], *results[:-1]]
    positions = [position_of(item) for item in (default or node, *nodes)]
    target, converted = unify(binder.parameters, ordered, "CASE", positions)
    return CaseExpr(target, tuple(zip(conditions, converted[1:], strict=True)), converted[0])


# Casts, arrays and special syntax


def _cast(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    target = type_of(node.args["to"])
    inner = node.this
    position = position_of(node.args["to"])
    if isinstance(inner, exp.Array) and is_array(target.oid):
        element = SqlType(ELEMENT_OF[target.oid], target.modifier)
        items = tuple(binder.coerce(bind(binder, scope, item), element, "e", position) for item in inner.expressions)
        return ArrayExpr(SqlType(target.oid), items)
    value = bind(binder, scope, inner)
    return binder.coerce(value, target, "e", position_of(inner) if isinstance(value, Const) else position)


def _interval(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    text = node.this
    if not (isinstance(text, exp.Literal) and text.is_string):
        raise errors.unsupported("INTERVAL of an expression", node)
    unit = node.args.get("unit")
    if unit is None:
        value = text.name
    elif isinstance(unit, exp.Var):
        value = f"{text.name} {unit.name.lower()}"
    else:
        raise errors.unsupported("INTERVAL with a range of fields", node)
    return binder.coerce(Const(UNKNOWN, value), SqlType(Oid.INTERVAL), "e", position_of(node))


def _array(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    items = [bind(binder, scope, item) for item in node.expressions]
    if len(items) == 1 and isinstance(node.expressions[0], exp.Query):
        return subqueries.bind_array(binder, scope, node.expressions[0])
    if not items:
        raise OrbitError(
            "cannot determine type of empty array",
            sqlstate="42P18",
            hint="Explicitly cast to the desired type, for example ARRAY[]::integer[].",
            position=position_of(node),
        )
    target, converted = unify(binder.parameters, items, "ARRAY", [position_of(item) for item in node.expressions])
    array = array_of(target.oid)
    if array is None:
        raise errors.unsupported(f"array of {display_name(target)}", node)
    return ArrayExpr(SqlType(array), tuple(converted))


def _bracket(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    array = bind(binder, scope, node.this)
    index = node.expressions[0] if len(node.expressions) == 1 else None
    if index is None or isinstance(index, exp.Slice) or not is_array(array.type.oid):
        raise errors.unsupported("subscripting of this form", node)
    # sqlglot has moved a literal subscript to count from 0.
    offset = 1 if isinstance(index, exp.Literal) else 0
    at = bind(binder, scope, index)
    at = Const(INT4, at.value + offset) if isinstance(at, Const) and isinstance(at.value, int) else at
    if offset == 0 and not isinstance(at, Const):
        at = _undo_shift(at)
    element = SqlType(ELEMENT_OF[array.type.oid])
    return FunctionCall(element, calls.SUBSCRIPT, (array, binder.coerce(at, INT4, "a", position_of(index))))


def _undo_shift(at: Expression) -> Expression:
    if isinstance(at, FunctionCall) and at.signature.name == "-" and at.args[1] == Const(INT4, 1):
        return at.args[0]
    return at


def _collate(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    name = node.expression.name if not isinstance(node.expression, exp.Dot) else node.expression.expression.name
    if name not in ("C", "POSIX", "default", "ucs_basic"):
        raise errors.unsupported(f'collation "{name}"', node)
    return binder.settled(bind(binder, scope, node.this))


def _at_time_zone(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    args = (bind(binder, scope, node.args["zone"]), bind(binder, scope, node.this))
    return binder.function("timezone", args, position_of(node))


def _paren(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    return bind(binder, scope, node.this)


def _keyword(name: str) -> Callable[[Binder, Scope, exp.Expr], Expression]:
    def handle(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
        if node.this is not None:
            raise errors.unsupported(f"{name.upper()} with a precision", node)
        if name in ("current_date", "localtimestamp", "localtime"):
            target = {"current_date": Oid.DATE, "localtimestamp": Oid.TIMESTAMP, "localtime": Oid.TIME}[name]
            return binder.coerce(binder.function("now", [], None), SqlType(target), "e")
        return binder.function("now" if name == "current_timestamp" else name, [], None)

    return handle


def _refuse(feature: str) -> Callable[[Binder, Scope, exp.Expr], Expression]:
    def handle(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
        raise errors.unsupported(feature, node)

    return handle


def _default_keyword(binder: Binder, scope: Scope, node: exp.Expr) -> Expression:
    if node.name.upper() == "DEFAULT":
        raise OrbitError("DEFAULT is not allowed in this context", sqlstate="42601", position=position_of(node))
    raise errors.unsupported(f"keyword {node.name}", node)


_HANDLERS: Final[dict[type[exp.Expr], Callable[[Binder, Scope, exp.Expr], Expression]]] = {
    exp.Literal: _literal,
    exp.RawString: _string,
    exp.ByteString: _string,
    exp.National: _string,
    exp.UnicodeString: _unicode_string,
    exp.Concat: _adjacent_strings,
    exp.Null: _null,
    exp.Boolean: _boolean,
    exp.Parameter: _parameter,
    exp.Column: _column,
    exp.Dot: _dot,
    exp.Paren: _paren,
    exp.Neg: operators.negative,
    exp.BitwiseNot: operators.prefix("~"),
    exp.Sqrt: operators.prefix("|/"),
    exp.Abs: operators.prefix("@"),
    exp.Cbrt: operators.cbrt,
    exp.Not: _not,
    exp.And: _and_or,
    exp.Or: _and_or,
    exp.Is: _is,
    exp.NullSafeEQ: _distinct_from,
    exp.NullSafeNEQ: _distinct_from,
    exp.Between: _between,
    exp.In: _in,
    exp.Like: operators.like,
    exp.ILike: operators.like,
    exp.Escape: operators.escape,
    exp.Case: _case,
    exp.Cast: _cast,
    exp.Interval: _interval,
    exp.Array: _array,
    exp.Bracket: _bracket,
    exp.Collate: _collate,
    exp.AtTimeZone: _at_time_zone,
    exp.Operator: operators.named_operator,
    exp.JSONExtract: operators.json_arrow,
    exp.JSONExtractScalar: operators.json_arrow,
    exp.CurrentDate: _keyword("current_date"),
    exp.CurrentTimestamp: _keyword("current_timestamp"),
    exp.Localtimestamp: _keyword("localtimestamp"),
    exp.Localtime: _keyword("localtime"),
    exp.CurrentUser: _keyword("current_user"),
    exp.SessionUser: _keyword("session_user"),
    exp.CurrentRole: _keyword("current_role"),
    exp.CurrentSchema: _keyword("current_schema"),
    exp.CurrentCatalog: _keyword("current_catalog"),
    exp.CurrentTime: _refuse("time with time zone"),
    exp.HexString: _refuse("bit string"),
    exp.BitString: _refuse("bit string"),
    exp.SimilarTo: _refuse("SIMILAR TO"),
    exp.Overlaps: _refuse("OVERLAPS"),
    exp.Tuple: _refuse("row value"),
    exp.Var: _default_keyword,
    exp.Anonymous: calls.bind_call,
    exp.Extract: calls.bind_extract,
    exp.Substring: calls.bind_substring,
    exp.Trim: calls.bind_trim,
    exp.StrPosition: calls.bind_position,
    exp.Overlay: calls.bind_overlay,
    exp.Window: windows.bind_window,
    exp.Filter: calls.bind_filter,
    exp.WithinGroup: calls.bind_within_group,
    exp.Exists: subqueries.bind_exists,
    exp.Subquery: subqueries.bind_scalar,
    exp.Select: subqueries.bind_scalar,
    **dict.fromkeys(operators.BINARY, operators.binary),
    **dict.fromkeys(operators.COMPARISONS, operators.comparison),
    **dict.fromkeys(operators.MISSING_OPERATORS, operators.missing_operator),
}
