"""The scan executor: cancellation, timeouts, limits, isolation from the outside, and where queries run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Catalog, Column, Table
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind import BindContext, BoundQuery, bind_select_statement
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.parse import parse
from services.storage.sql.query import QueryRunner
from services.storage.sql.scan.executor import NICENESS, ScanExecutor, ScanResult
from services.storage.sql.scan.source import ColumnBound
from services.storage.sql.small import small_query

TABLE = Table(
    id=16384,
    schema="public",
    name="t",
    storage_id=1,
    owner="o",
    columns=(
        Column(number=1, name="id", type=SqlType(Oid.INT4)),
        Column(number=2, name="amount", type=SqlType(Oid.NUMERIC, (38 << 16 | 2) + 4)),
        Column(number=3, name="label", type=SqlType(Oid.TEXT)),
    ),
)
CATALOG = Catalog({TABLE.id: TABLE}, 1)
ROWS = pa.table(
    {
        "id": pa.array(range(1000), pa.int32()),
        "amount": pa.array([Decimal("9" * 35 + ".99")] * 1000, pa.decimal128(38, 2)),
        "label": pa.array([f"row {n}" for n in range(1000)]),
    }
)


class Source:
    def __init__(self) -> None:
        self.bounds: list[ColumnBound] = []
        self.columns: list[int] = []

    def scan(self, table: Table, columns: Any, bounds: Any) -> pa.Table:
        self.bounds, self.columns = list(bounds), list(columns)
        return ROWS.select(list(columns))


@pytest.fixture(scope="module")
def executor() -> Iterator[ScanExecutor]:
    executor = ScanExecutor(threads=2, memory_limit="200MB")
    yield executor
    executor.close()


def bound(sql: str) -> BoundQuery:
    return bind_select_statement(parse(sql)[0], BindContext(CATALOG))


def rows(executor: ScanExecutor, sql: str, source: Source | None = None) -> list[tuple[Any, ...]]:
    result = executor.run(bound(sql), source or Source(), (), EvaluationContext())
    return [tuple(row.values()) for batch in result.batches for row in batch.to_pylist()]


async def submitted(
    executor: ScanExecutor, sql: str, timeout_ms: int = 0, cancel: bool = False
) -> ScanResult | OrbitError:
    done: asyncio.Future[ScanResult | OrbitError] = asyncio.get_running_loop().create_future()
    handle = executor.submit(bound(sql), Source(), (), EvaluationContext(), done.set_result, timeout_ms)
    if cancel:
        asyncio.get_running_loop().call_later(0.05, handle.cancel)
    return await done


ENDLESS = "select count(*) from t a, t b, t c, t d where a.id + b.id + c.id + d.id = -1"


async def test_a_canceled_query_ends_with_57014(executor: ScanExecutor) -> None:
    outcome = await submitted(executor, ENDLESS, cancel=True)
    assert isinstance(outcome, OrbitError)
    assert (outcome.sqlstate, outcome.message) == ("57014", "canceling statement due to user request")
    assert isinstance(await submitted(executor, "select count(*) from t"), ScanResult)


async def test_the_statement_timeout_ends_a_query(executor: ScanExecutor) -> None:
    outcome = await submitted(executor, ENDLESS, timeout_ms=50)
    assert isinstance(outcome, OrbitError)
    assert (outcome.sqlstate, outcome.message) == ("57014", "canceling statement due to statement timeout")


async def test_cancel_before_the_start_counts(executor: ScanExecutor) -> None:
    done: asyncio.Future[ScanResult | OrbitError] = asyncio.get_running_loop().create_future()
    handle = executor.submit(bound("select count(*) from t"), Source(), (), EvaluationContext(), done.set_result)
    handle.cancel()
    handle.cancel()
    outcome = await done
    assert isinstance(outcome, ScanResult) or outcome.sqlstate == "57014"


async def test_queries_run_side_by_side(executor: ScanExecutor) -> None:
    outcomes = await asyncio.gather(*(submitted(executor, f"select sum(id) + {n} from t") for n in range(20)))
    totals = [outcome.batches[0].column(0)[0].as_py() for outcome in outcomes if isinstance(outcome, ScanResult)]
    assert [int(total) for total in totals] == [sum(range(1000)) + n for n in range(20)]


def test_too_little_memory_is_53200(executor: ScanExecutor) -> None:
    with pytest.raises(OrbitError) as caught:
        rows(executor, "select count(distinct md5(a.label || b.label || c.label)) from t a, t b, t c where c.id < 20")
    assert caught.value.sqlstate in ("53200", "53100"), caught.value.message


def test_numbers_past_38_digits_are_exact(executor: ScanExecutor) -> None:
    ((square, large),) = rows(executor, "select sum(amount * amount), max(amount) * 1000000 from t where id < 2")
    assert square.replace(".", "") == str(2 * int("9" * 37) ** 2)
    assert large == "9" * 37 + "0000.00"


def test_nothing_outside_can_be_reached(executor: ScanExecutor) -> None:
    for sql in ("select * from read_csv('/etc/passwd')", "select * from 'x.parquet'", "select getenv('HOME')"):
        with pytest.raises(OrbitError):
            rows(executor, sql)
    # The binder lets none of these through; DuckDB itself would not either.
    database = executor._database.cursor()
    for statement in (
        "select * from read_csv('/etc/passwd')",
        "install httpfs",
        "set threads = 1",
        "attach '/tmp/x.db'",
    ):
        with pytest.raises(Exception, match=r"(?i)disabled|permission|locked|not allowed"):
            database.execute(statement).fetchall()


def test_only_the_needed_columns_and_rows_are_asked_for(executor: ScanExecutor) -> None:
    source = Source()
    assert rows(
        executor, "select label from t where id >= 998 and 3 > id - 996 and label > 'a' order by 1", source
    ) == [("row 998",)]
    assert source.columns == [0, 2]
    assert source.bounds == [ColumnBound(0, ">=", 998), ColumnBound(2, ">", "a")]


def test_bounds_stop_at_outer_joins(executor: ScanExecutor) -> None:
    source = Source()
    query = bound("select count(*) from t a left join t b on a.id = b.id and b.id < 5 where a.id < 10 and b.id is null")
    seen: dict[str, list[ColumnBound]] = {}

    class Watching(Source):
        def scan(self, table: Table, columns: Any, bounds: Any) -> pa.Table:
            seen[str(len(seen))] = list(bounds)
            return super().scan(table, columns, bounds)

    executor.run(query, Watching(), (), EvaluationContext())
    assert seen == {"0": [ColumnBound(0, "<", 10)], "1": []}
    assert source.bounds == []


def test_worker_threads_have_a_lower_priority(executor: ScanExecutor) -> None:
    nice = [os.getpriority(os.PRIO_PROCESS, int(name)) for name in os.listdir("/proc/self/task")]
    assert nice.count(NICENESS) >= 1
    assert os.getpriority(os.PRIO_PROCESS, 0) < NICENESS


@pytest.mark.parametrize(
    "sql",
    ["select 1", "select version()", "select now(), current_user, $1::text", "values (1, 'a'), (2, null)",
     "select array[1, 2], 'pg_class'::regclass", "select 1 where false"],
)  # fmt: skip
def test_small_queries_do_without_duckdb(sql: str) -> None:
    small = small_query(bound(sql))
    assert small is not None
    assert len(small.rows(["x"], EvaluationContext(user="u"))) == {"values": 2}.get(
        sql.split(maxsplit=1)[0], 0 if "false" in sql else 1
    )


@pytest.mark.parametrize("sql", ["select 1 union select 2", "select count(*)", "select * from t", "select 1 limit 1"])
def test_other_queries_need_a_scan(sql: str) -> None:
    assert small_query(bound(sql)) is None


def test_an_empty_source_is_an_empty_table(executor: ScanExecutor) -> None:
    class Empty(Source):
        def scan(self, table: Table, columns: Any, bounds: Any) -> Any:
            return []

    assert rows(executor, "select count(*), sum(id), max(label) from t", Empty()) == [(0, None, None)]


def test_readers_and_batches_are_sources_too(executor: ScanExecutor) -> None:
    class Batches(Source):
        def scan(self, table: Table, columns: Any, bounds: Any) -> Any:
            return ROWS.select(list(columns)).to_batches(100)

    class Reader(Source):
        def scan(self, table: Table, columns: Any, bounds: Any) -> Any:
            chosen = ROWS.select(list(columns))
            return pa.RecordBatchReader.from_batches(chosen.schema, chosen.to_batches(100))

    for source in (Batches(), Reader()):
        assert rows(executor, "select count(*), min(id), max(id) from t", source) == [(1000, 0, 999)]


def test_the_runner_chooses(executor: ScanExecutor) -> None:
    runner = QueryRunner(executor)
    assert runner.run(bound("select 7"), Source(), (), EvaluationContext()).batches[0].column(0)[0].as_py() == 7
    assert runner.run(bound("select count(*) from t"), Source(), (), EvaluationContext()).row_count == 1


def test_errors_deep_in_a_large_result_keep_their_code(executor: ScanExecutor) -> None:
    for sql, sqlstate in (
        ("select 1 / (i - 290000) from generate_series(1, 300000) i", "22012"),
        ("select i + 2147200000 from generate_series(1, 300000) i", "22003"),
        ("select (i || case when i = 290000 then 'x' else '' end)::integer from generate_series(1, 300000) i", "22P02"),
        ("select 1.0 / (i - 290000) from generate_series(1, 300000) i", "22012"),
    ):
        with pytest.raises(OrbitError) as caught:
            rows(executor, sql)
        assert caught.value.sqlstate == sqlstate, (sql, caught.value.message)


def test_too_deep_an_expression_is_54001(executor: ScanExecutor) -> None:
    with pytest.raises(OrbitError) as caught:
        rows(executor, "select " + " + ".join(["id"] * 390) + " from t")
    assert caught.value.sqlstate == "54001"
    assert rows(executor, "select " + " + ".join(["id"] * 100) + " from t where id = 1") == [(100,)]


def test_constants_do_not_make_new_functions(executor: ScanExecutor) -> None:
    rows(executor, "select lpad(label, 10, 'x') from t where id < 2")
    before = len(executor._functions._names)
    for size in range(11, 20):
        assert len(rows(executor, f"select lpad(label, {size}, 'y{size}') from t where id < 2")) == 2
    assert len(executor._functions._names) == before
