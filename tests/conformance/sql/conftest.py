"""The reference server with the tables of `schema.sql`, and our engine over the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conformance.sql.engine import Engine
from tests.conformance.sql.reference import MemoryTables

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def reference(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("create database sql_conformance")
    with psycopg.connect(postgres_dsn, dbname="sql_conformance", autocommit=True) as connection:
        connection.pgconn.exec_((HERE / "schema.sql").read_bytes())
        assert connection.execute("select count(*) from numbers").fetchone() is not None
        yield connection


@pytest.fixture(scope="session")
def engine(reference: psycopg.Connection[Any]) -> Iterator[Engine]:
    engine = Engine(MemoryTables(reference))
    yield engine
    engine.close()
