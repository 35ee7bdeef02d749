"""The 22 queries of TPC-H over generated data of scale 0.01, against PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conformance.sql.engine import Engine
from tests.conformance.sql.reference import MemoryTables, ask
from tests.conformance.sql.test_statements import statements_of

HERE = Path(__file__).parent
QUERIES = statements_of(HERE / "tpch.sql")
SCALE = "0.01"


@pytest.fixture(scope="module")
def tpch(
    postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[psycopg.Connection[Any], Engine]]:
    folder = tmp_path_factory.mktemp("tpch")
    generator = Path(sys.executable).parent / "tpchgen-cli"
    subprocess.run([str(generator), "csv", "-s", SCALE, f"--output-dir={folder}"], check=True, capture_output=True)
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("create database sql_tpch")
    with psycopg.connect(postgres_dsn, dbname="sql_tpch", autocommit=True) as connection:
        connection.pgconn.exec_((HERE / "tpch_schema.sql").read_bytes())
        for table in ("region", "nation", "supplier", "part", "partsupp", "customer", "orders", "lineitem"):
            with connection.cursor().copy(f"copy {table} from stdin with (format csv, header)") as copy:
                copy.write((folder / f"{table}.csv").read_bytes())
        connection.execute("analyze")
        engine = Engine(MemoryTables(connection))
        yield connection, engine
        engine.close()


@pytest.mark.integration
@pytest.mark.parametrize("number", range(1, len(QUERIES) + 1))
def test_query(number: int, tpch: tuple[psycopg.Connection[Any], Engine]) -> None:
    connection, engine = tpch
    sql = QUERIES[number - 1]
    expected, actual = ask(connection, sql), engine.ask(sql)
    assert expected.sqlstate is None and actual.sqlstate is None, (expected.message, actual.message)
    assert actual.columns == expected.columns
    assert actual.rows == expected.rows
