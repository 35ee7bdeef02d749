"""The evaluator over rows: column references, laziness, NULLs and depth. tests/conformance/sql compares values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Catalog, Column, Index, Table
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import (
    BindContext,
    Binder,
    bind_assignment,
    bind_check,
    bind_condition,
    bind_default,
    bind_expression,
    parse_expression,
    signatures,
    table_scope,
)
from services.storage.sql.evaluate import EvaluationContext, evaluator, tuple_evaluator
from services.storage.sql.evaluate.registry import FUNCTIONS, INLINE
from services.storage.sql.system_catalog import functions

_REGISTERS = functions
TABLE = Table(
    id=16384,
    schema="public",
    name="t",
    storage_id=1,
    owner="o",
    columns=(
        Column(number=1, name="a", type=SqlType(Oid.INT4)),
        Column(number=2, name="b", type=SqlType(Oid.TEXT)),
        Column(number=4, name="n", type=SqlType(Oid.NUMERIC, (6 << 16 | 2) + 4), default="1.005"),
        Column(number=5, name="v", type=SqlType(Oid.VARCHAR, 7), default="now()::date::text"),
    ),
    indexes=(Index(id=16390, name="pk", columns=(1,), unique=True, primary=True),),
)
CONTEXT = BindContext(Catalog({TABLE.id: TABLE}, 1))
ROW = (7, "x", Decimal("1.50"), "abc")


def value(text: str, row: tuple[Any, ...] = ROW, parameters: tuple[Any, ...] = ()) -> Any:
    binder = Binder(CONTEXT)
    scope, relation = table_scope(binder, TABLE)
    expression = bind_expression(binder, scope, parse_expression(text))
    return evaluator(expression, (relation.number,))((row,), parameters, EvaluationContext(now_us=86_400_000_000))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + 1", 8), ("n * a", Decimal("10.50")), ("b || v", "xabc"), ("t.a between 1 and 7", True),
        ("a in (1, 7)", True), ("a in (1, null)", None), ("coalesce(b, 'z')", "x"), ("upper(v) = 'ABC'", True),
        ("case when a > 5 then 'big' else 'small' end", "big"), ("a is distinct from null", True),
        ("a = any (array[1, 7])", True), ("a <> all (array[1, 2])", True), ("nullif(a, 7)", None),
        ("greatest(a, 9, null)", 9), ("a::text || b", "7x"), ("false and 1 / (a - 7) > 0", False),
        ("case when true then a else 1 / (a - 7) end", 7), ("coalesce(a, 1 / (a - 7))", 7), ("now()::date", 1),
        ("$1 + a", 10),
    ],
)  # fmt: skip
def test_values(text: str, expected: Any) -> None:
    found = value(text, parameters=(3,))
    assert found == expected
    assert type(found) is type(expected)


def test_null_goes_through_strict_functions() -> None:
    row = (None, None, None, None)
    for text in (
        "a + 1",
        "b || 'x'",
        "n * 2",
        "upper(b)",
        "a = 1",
        "a in (1, 2)",
        "not (a = 1)",
        "a between 1 and 2",
        "a::text",
    ):
        assert value(text, row) is None, text
    assert value("a is null", row) is True
    assert value("a = 1 or true", row) is True
    assert value("a = 1 and false", row) is False


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("a / 0", "22012"),
        ("a + 2147483647", "22003"),
        ("b::integer", "22P02"),
        ("n / 0", "22012"),
        ("b::date", "22007"),
    ],
)
def test_errors(text: str, sqlstate: str) -> None:
    with pytest.raises(OrbitError) as caught:
        value(text)
    assert caught.value.sqlstate == sqlstate


def test_long_chains_and_many_branches() -> None:
    assert value(" + ".join(["a"] * 150)) == 7 * 150
    with pytest.raises(OrbitError) as caught:
        value(" + ".join(["a"] * 5000))
    assert caught.value.sqlstate == "54001"
    assert value(" and ".join(["a = 7"] * 2000)) is True
    assert value("case " + " ".join(f"when a = {n} then {n}" for n in range(100, 600)) + " else 0 end") == 0


def test_two_rows_and_a_tuple() -> None:
    binder = Binder(CONTEXT)
    left, first = table_scope(binder, TABLE, "l")
    right, second = table_scope(binder, TABLE, "r")
    left.items.extend(right.items)
    bound = [bind_expression(binder, left, parse_expression(text)) for text in ("l.a + r.a", "r.b")]
    evaluate = tuple_evaluator(bound, (first.number, second.number))
    assert evaluate((ROW, (1, "y", None, None)), (), EvaluationContext()) == (8, "y")


def test_defaults_take_the_columns_type() -> None:
    default = bind_default(CONTEXT, TABLE.columns[2])
    assert evaluator(default)((), (), EvaluationContext()) == Decimal("1.01")
    with pytest.raises(OrbitError) as caught:
        evaluator(bind_default(CONTEXT, TABLE.columns[3]))((), (), EvaluationContext(now_us=0))
    assert caught.value.sqlstate == "22001"


def test_checks_and_assignments() -> None:
    condition, relation = bind_check(CONTEXT, TABLE, "a > 0 and n < 100")
    evaluate = evaluator(condition, (relation.number,))
    assert evaluate((ROW,), (), EvaluationContext()) is True
    assert evaluate(((0, None, None, None),), (), EvaluationContext()) is False
    binder = Binder(CONTEXT)
    scope, _ = table_scope(binder, TABLE)
    with pytest.raises(OrbitError) as caught:
        bind_assignment(binder, scope, parse_expression("b"), TABLE.columns[0])
    assert caught.value.sqlstate == "42804"
    assert caught.value.message == 'column "a" is of type integer but expression is of type text'
    with pytest.raises(OrbitError, match="argument of WHERE must be type boolean, not type integer"):
        bind_condition(binder, scope, parse_expression("a"))


def test_what_rows_cannot_tell_is_refused() -> None:
    binder = Binder(CONTEXT)
    scope, relation = table_scope(binder, TABLE)
    bound = bind_expression(binder, scope, parse_expression("exists (select 1)"))
    with pytest.raises(NotSupported):
        evaluator(bound, (relation.number,))


def test_every_function_has_a_meaning() -> None:
    """A signature that binds must either evaluate or refuse by name: these are the ones that refuse."""
    refused = {
        signature.key
        for table in (signatures.FUNCTIONS, signatures.OPERATORS, signatures.PREFIX_OPERATORS)
        for overloads in table.values()
        for signature in overloads
        if signature.kind in "fop" and signature.key not in FUNCTIONS and signature.key not in INLINE
    }
    assert refused == {
        "||(text,anynonarray)", "||(anynonarray,text)", "||(jsonb,jsonb)", "to_json(anyelement)",
        "to_jsonb(anyelement)", *(f"{name}(jsonb,jsonb)" for name in ("=", "<>", "<", "<=", ">", ">=")),
    }  # fmt: skip
