"""The operations port: health, every metric of the deployment guide, and that each moves with what it measures."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import errors

from tests.fixtures.fix_engine import Engine, StartEngine
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.e2e

GUIDE = (
    "orbit_storage_hot_tier_size_bytes",
    "orbit_storage_warm_tier_size_bytes",
    "orbit_storage_cold_tier_size_bytes",
    "orbit_storage_tier_migration_total",
    'orbit_storage_operations_total{operation="read",tier="hot"}',
    'orbit_storage_operations_total{operation="write",tier="hot"}',
    'orbit_storage_operations_total{operation="read",tier="warm"}',
    'orbit_storage_operations_total{operation="write",tier="warm"}',
    'orbit_storage_operations_total{operation="read",tier="cold"}',
    'orbit_storage_operations_total{operation="write",tier="cold"}',
    'orbit_storage_operation_duration_seconds_count{operation="read",tier="hot"}',
    "orbit_transactions_active",
    'orbit_transactions_total{status="committed"}',
    'orbit_transactions_total{status="aborted"}',
    "orbit_transaction_duration_seconds_count",
    "orbit_transaction_conflicts_total",
    "orbit_deadlocks_detected_total",
    "orbit_cluster_nodes_total",
    "orbit_cluster_leader_changes_total",
    "orbit_cluster_replication_lag_ms",
    "orbit_raft_heartbeat_failures_total",
    "orbit_query_execution_duration_seconds_count",
    "orbit_query_rows_scanned_total",
    "orbit_query_cache_hits_total",
    "orbit_simd_operations_total",
)
ROWS = 500
SINK = {
    "HOT_TIER_RETENTION_HOURS": "0.0005",
    "WARM_TIER_RETENTION_DAYS": "0.00005",
    "TIER_MIGRATION_INTERVAL_MS": "300",
}


@pytest.fixture(scope="module")
def engine(start_engine: StartEngine) -> Engine:
    engine = start_engine()
    with engine.connect() as connection:
        connection.execute("CREATE TABLE counted (id integer PRIMARY KEY, n integer NOT NULL)")
        connection.execute(f"INSERT INTO counted SELECT n, n FROM generate_series(1, {ROWS}) AS n")
    return engine


def test_health_is_what_the_guide_shows(engine: Engine) -> None:
    with engine.operations() as client:
        answer = client.get("/health")
        assert answer.status_code == 200
        health = answer.json()
        assert health["healthy"] is True
        assert health["role"] == "leader"
        assert health["term"] >= 1
        assert health["peers"] == []
        assert health["replication_lag_ms"] == 0
        assert health["durability"] == "checked"
        for path in ("/health/live", "/health/ready"):
            assert client.get(path).status_code == 200
        assert client.get("/nowhere").status_code == 404


def test_the_cluster_of_one_describes_itself(engine: Engine) -> None:
    with engine.operations() as client:
        status = client.get("/cluster/status").json()
        assert {"healthy", "role", "term", "peers", "replication_lag_ms"} <= status.keys()
        assert (status["healthy"], status["role"], status["leader"]) == (True, "leader", status["node"])
        replication = client.get("/cluster/replication").json()
        [member] = replication["members"]
        assert (member["role"], member["lag_records"], member["lag_ms"]) == ("leader", 0, 0)
        assert replication["leader"] == status["node"]


def test_every_metric_of_the_guide_is_there(engine: Engine) -> None:
    with engine.operations() as client:
        answer = client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
    missing = [name for name in GUIDE if name not in engine.metrics()]
    assert not missing


@contextlib.contextmanager
def moves(engine: Engine, *names: str, by: float = 1) -> Iterator[None]:
    """Assert that what happens inside moves each of these metrics up."""
    before = engine.metrics()
    yield
    after = engine.metrics()
    still = {name: after[name] for name in names if after[name] < before[name] + by}
    assert not still, f"these did not move by {by}: {still}"


def test_commits_and_their_durations_are_counted(engine: Engine) -> None:
    with (
        engine.connect() as connection,
        moves(
            engine,
            'orbit_transactions_total{status="committed"}',
            "orbit_transaction_duration_seconds_count",
            "orbit_query_execution_duration_seconds_count",
            'orbit_storage_operations_total{operation="write",tier="hot"}',
            by=10,
        ),
    ):
        for at in range(10):
            connection.execute("UPDATE counted SET n = n + 1 WHERE id = %s", (at + 1,))


def test_aborts_are_counted_and_open_transactions_shown(engine: Engine) -> None:
    with engine.connect() as connection:
        with moves(engine, 'orbit_transactions_total{status="aborted"}'):
            connection.execute("BEGIN")
            connection.execute("UPDATE counted SET n = 0 WHERE id = 1")
            assert engine.metrics()["orbit_transactions_active"] == 1
            connection.execute("ROLLBACK")
        assert engine.metrics()["orbit_transactions_active"] == 0


def test_point_reads_and_plan_cache_hits_are_counted(engine: Engine) -> None:
    with (
        engine.connect() as connection,
        moves(
            engine,
            'orbit_storage_operations_total{operation="read",tier="hot"}',
            "orbit_query_rows_scanned_total",
            "orbit_query_cache_hits_total",
            by=9,
        ),
    ):
        for at in range(10):
            connection.execute(f"SELECT n FROM counted WHERE id = {at + 1}")


def test_scans_are_counted(engine: Engine) -> None:
    with engine.connect() as connection:
        with moves(engine, "orbit_query_rows_scanned_total", by=ROWS):
            connection.execute("SELECT sum(n) FROM counted")
        with moves(engine, "orbit_simd_operations_total"):
            connection.execute("SELECT n % 10, sum(id) FROM counted GROUP BY 1")


def test_conflicts_are_counted(engine: Engine) -> None:
    with engine.connect() as one, engine.connect() as other, moves(engine, "orbit_transaction_conflicts_total"):
        one.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        one.execute("SELECT n FROM counted WHERE id = 2")
        other.execute("UPDATE counted SET n = n + 1 WHERE id = 2")
        with pytest.raises(errors.SerializationFailure):
            one.execute("UPDATE counted SET n = n + 1 WHERE id = 2")
        one.execute("ROLLBACK")


def test_deadlocks_are_counted(engine: Engine) -> None:
    with engine.connect() as one, engine.connect() as other, moves(engine, "orbit_deadlocks_detected_total"):
        for connection, row in ((one, 3), (other, 4)):
            connection.execute("BEGIN")
            connection.execute("UPDATE counted SET n = 0 WHERE id = %s", (row,))
        outcomes: list[str | None] = []

        def update(connection: psycopg.Connection[object], row: int) -> None:
            try:
                connection.execute("UPDATE counted SET n = 0 WHERE id = %s", (row,))
                outcomes.append(None)
            except errors.DeadlockDetected as error:
                outcomes.append(error.sqlstate)
            connection.execute("ROLLBACK")

        threads = [threading.Thread(target=update, args=pair) for pair in ((one, 4), (other, 3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive(), "nobody broke the deadlock"
        assert sorted(map(str, outcomes)) == ["40P01", "None"]


def test_redis_commands_are_transactions_too(engine: Engine) -> None:
    with moves(engine, 'orbit_transactions_total{status="committed"}', by=5):
        for at in range(5):
            engine.redis().set(f"key {at}", at)


@pytest.fixture(scope="module")
def sinking(start_engine: StartEngine) -> Engine:
    engine = start_engine(SINK)
    with engine.connect() as connection:
        connection.execute("CREATE TABLE counted (id integer PRIMARY KEY, n integer NOT NULL)")
        connection.execute(f"INSERT INTO counted SELECT n, n FROM generate_series(1, {ROWS}) AS n")
    return engine


def seen(engine: Engine, name: str) -> Callable[[], bool]:
    return lambda: engine.metrics()[name] > 0


def test_tiers_and_the_reads_from_them_are_counted(sinking: Engine) -> None:
    assert sinking.metrics()["orbit_storage_hot_tier_size_bytes"] > 0
    for name in ("orbit_storage_tier_migration_total", "orbit_storage_cold_tier_size_bytes"):
        eventually(seen(sinking, name), name, 60)
    with sinking.connect() as connection:
        with moves(
            sinking,
            'orbit_storage_operations_total{operation="read",tier="cold"}',
            'orbit_storage_operation_duration_seconds_count{operation="read",tier="cold"}',
        ):
            connection.execute("SELECT sum(n) FROM counted")
        with moves(sinking, 'orbit_storage_operations_total{operation="read",tier="cold"}'):
            assert connection.execute("SELECT n FROM counted WHERE id = 7").fetchone() == (7,)
