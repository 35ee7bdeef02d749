"""What is measured. Each workload runs on one system and returns one figure.

Owns the loads themselves: pgbench, COPY, TPC-H queries, redis-benchmark. Which systems run them, and in which order,
is `__main__`'s.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psycopg

from tests.bench import tpch
from tests.bench.systems import Resp, Sql

CHUNK_BYTES = 1 << 18
QUERY_TIMEOUT_S = 60
PGBENCH_SCALE = 10


@dataclass(frozen=True)
class Rate:
    """A workload whose figure is better when it is larger."""

    name: str
    unit: str
    run: Callable[[Sql], float]


def pgbench_workloads(seconds: int) -> list[Rate]:
    """Point reads and TPC-B-like transactions, at several numbers of clients."""

    def load(clients: int, protocol: str, options: Sequence[str]) -> Callable[[Sql], float]:
        return lambda sql: sql.pgbench.run(seconds=seconds, clients=clients, protocol=protocol, options=options).tps

    reads = [("prepared", clients) for clients in (1, 16, 64)] + [("simple", 16)]
    return [
        *(
            Rate(f"pgbench -S {protocol} {clients}", "reads/s", load(clients, protocol, ["-S"]))
            for protocol, clients in reads
        ),
        *(
            Rate(f"pgbench TPC-B prepared {clients}", "transactions/s", load(clients, "prepared", []))
            for clients in (1, 16, 64)
        ),
    ]


def copy_lineitem(folder: Path) -> Rate:
    """COPY of TPC-H's largest table, with its primary key, from CSV."""

    def run(sql: Sql) -> float:
        with psycopg.connect(sql.dsn, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS lineitem")
            connection.execute(tpch.TABLES["lineitem"])
            began = time.perf_counter()
            rows = _copy(connection, "lineitem", folder / "lineitem.csv")
            return rows / (time.perf_counter() - began)

    return Rate("COPY lineitem", "rows/s", run)


def _copy(connection: psycopg.Connection[tuple[object, ...]], table: str, file: Path) -> int:
    with connection.cursor() as cursor, file.open("rb") as source:
        with cursor.copy(f"COPY {table} FROM STDIN WITH (FORMAT csv, HEADER)") as copy:
            while data := source.read(CHUNK_BYTES):
                copy.write(data)
        return cursor.rowcount


def load_tpch(sql: Sql, folder: Path) -> None:
    """Create and fill the eight tables."""
    with psycopg.connect(sql.dsn, autocommit=True) as connection:
        for table, definition in tpch.TABLES.items():
            connection.execute(f"DROP TABLE IF EXISTS {table}")
            connection.execute(definition)
            _copy(connection, table, folder / f"{table}.csv")
        if sql.name.startswith("postgresql"):
            connection.execute("ANALYZE")


Seconds = dict[str, float | str]
"""By query: how long it took, or why it did not."""


def query_tpch(sql: Sql) -> Seconds:
    """Run each query once to warm up and once to measure."""
    found: Seconds = {}
    with psycopg.connect(sql.dsn, autocommit=True) as connection:
        connection.execute(f"SET statement_timeout = '{QUERY_TIMEOUT_S}s'")
        for name, query in tpch.QUERIES.items():
            try:
                connection.execute(query).fetchall()
                began = time.perf_counter()
                connection.execute(query).fetchall()
                found[name] = time.perf_counter() - began
            except psycopg.Error as error:
                found[name] = f"{error.sqlstate}: {str(error).splitlines()[0]}"
                if connection.closed:
                    raise
    return found


def query_tpch_in_duckdb(folder: Path) -> Seconds:
    """The same in DuckDB's own tables, in this process."""
    database = duckdb.connect(":memory:")
    for table, definition in tpch.TABLES.items():
        database.execute(definition)
        database.execute(f"COPY {table} FROM '{folder / table}.csv' (HEADER)")
    found: Seconds = {}
    for name, query in tpch.QUERIES.items():
        database.execute(query).fetchall()
        began = time.perf_counter()
        database.execute(query).fetchall()
        found[name] = time.perf_counter() - began
    database.close()
    return found


def generate_tpch(folder: Path, scale: float) -> None:
    """Write the tables as CSV files."""
    subprocess.run(
        [str(Path(sys.executable).parent / "tpchgen-cli"), "csv", "-s", str(scale), f"--output-dir={folder}"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def redis_benchmark(resp: Resp, command: str, pipeline: int, requests: int) -> float:
    """Return requests per second of redis-benchmark with 50 connections."""
    login = ["--user", resp.user, "-a", resp.password] if resp.user else []
    done = subprocess.run(
        [
            "redis-benchmark",
            "-p",
            str(resp.port),
            *login,
            "-c",
            "50",
            "-P",
            str(pipeline),
            "-n",
            str(requests),
            "-r",
            "10000",
            "-t",
            command,
            "--csv",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    for row in csv.reader(io.StringIO(done.stdout)):
        if row and row[0].lower() == command:
            return float(row[1])
    raise RuntimeError(f"redis-benchmark said {done.stdout + done.stderr}")
