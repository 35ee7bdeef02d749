"""Parameters: the types that PostgreSQL infers for them, and the answers with values bound."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import psycopg
import pytest

from services.storage.sql.bind import BindContext, bind_select_statement
from services.storage.sql.parse import parse
from tests.conformance.sql.engine import Engine

STATEMENTS = [
    "select $1",
    "select $1::integer + $2",
    "select * from numbers where id = $1 and price > $2 and flag = $3",
    "select * from words where t like $1 or v = $2 or c = $3",
    "select * from moments where d > $1 and ts < $2 and iv = $3",
    "select id from numbers where id in ($1, $2, $3) limit $4 offset $5",
    "select id from numbers where id = any ($1)",
    "select coalesce($1, price), case when $2 then $3 else id end from numbers",
    "select $1 || 'x', upper($2), length($3), round($4, 2), $5 + interval '1 day'",
    "select id from numbers where id between $1 and $2",
    "select $1 + 1, 1.5 * $2, $3 = 'a', $4 and true",
    "values ($1, 1), ('a', $2)",
    "select 1 union select $1",
    "select $2::text, $1",
    "select sum(price) filter (where id > $1) from numbers group by flag having count(*) > $2",
    "select lag(price, $1) over (order by id) from numbers",
    "select extract(year from $1::date), date_trunc($2, ts) from moments",
]


@pytest.mark.integration
@pytest.mark.parametrize("sql", STATEMENTS)
def test_inferred_types(sql: str, reference: psycopg.Connection[Any], engine: Engine) -> None:
    reference.pgconn.prepare(b"probe", sql.encode())
    described = reference.pgconn.describe_prepared(b"probe")
    expected = [described.param_type(at) for at in range(described.nparams)]
    reference.pgconn.exec_(b"deallocate all")
    bound = bind_select_statement(parse(sql)[0], BindContext(engine.tables.catalog))
    assert [item.oid for item in bound.parameter_types] == expected


@pytest.mark.integration
def test_conflicting_types_are_refused(engine: Engine) -> None:
    answer = engine.ask("select $1::integer, $1::date")
    assert answer.sqlstate in ("42P08", "42846"), answer.message


@pytest.mark.integration
def test_values_reach_the_scan(engine: Engine) -> None:
    answer = engine.ask(
        "select id, price * $1, name from numbers join people using (id) where price > $2 and name = any ($3) "
        "order by id",
        (Decimal("1.5"), Decimal(0), ("Ada", "Bob", "O'Brien")),
    )
    assert answer.rows == [("1", "15.000", "Ada"), ("2", "30.750", "Bob")]


@pytest.mark.integration
def test_a_null_parameter_is_null(engine: Engine) -> None:
    assert engine.ask("select count(*) from numbers where id = $1", (None,)).rows == [("0",)]
    assert engine.ask("select $1::integer is null, coalesce($1, 7)", (None,)).rows == [("t", "7")]
