"""Bad input and failing neighbours: a typed error for the client, a line in the log, and the service goes on."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator

import httpx
import psycopg
import pytest
import redis
from psycopg import errors
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.runner.plan import free_port
from tests.fixtures.fix_engine import DATABASE, USER, Engine, StartEngine, runs
from tests.fixtures.waiting import eventually

pytestmark = pytest.mark.e2e

MIGRATE_AT_ONCE = {
    "HOT_TIER_RETENTION_HOURS": "0.0005",
    "WARM_TIER_RETENTION_DAYS": "0.00005",
    "TIER_MIGRATION_INTERVAL_MS": "300",
}


@pytest.fixture(scope="module")
def engine(start_engine: StartEngine) -> Engine:
    engine = start_engine()
    with engine.connect() as connection:
        connection.execute("CREATE TABLE kept (id integer PRIMARY KEY, note text)")
        connection.execute("INSERT INTO kept VALUES (1, 'still here')")
    return engine


@pytest.fixture(autouse=True)
def serves_afterwards(engine: Engine) -> Iterator[None]:
    """After each bad day, every door still serves."""
    yield
    with engine.connect() as connection:
        assert connection.execute("SELECT note FROM kept WHERE id = 1").fetchone() == ("still here",)
    assert engine.redis().ping()
    with engine.rest() as client:
        assert client.get("/health").status_code == 200


def exchange(port: int, data: bytes) -> bytes:
    """Send bytes and return everything until the server closes, or until it says nothing more for two seconds."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(data)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                answer += piece
    return answer


def test_a_wrong_password_is_refused_at_each_door(engine: Engine) -> None:
    for user in (USER, "nobody"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(engine.dsn(user=user, password="wrong"))
        with pytest.raises(redis.AuthenticationError):
            # One try: each wrong password costs its sender some seconds.
            redis.Redis(port=engine.ports["redis"], username=user, password="wrong", retry=Retry(NoBackoff(), 0)).ping()
        answer = httpx.post(f"{engine.rest_url}/sql", json={"sql": "SELECT 1"}, auth=(user, "wrong"), trust_env=False)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "28P01"
    assert "wrong" not in engine.log_file.read_text().replace("wrong password", "")


def test_nothing_is_served_without_a_password(engine: Engine) -> None:
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=engine.ports["redis"], protocol=2).get("key")
    assert httpx.get(f"{engine.rest_url}/tables", trust_env=False).status_code == 401


def test_an_unknown_database_is_refused(engine: Engine) -> None:
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        psycopg.connect(engine.dsn().replace(f"dbname={DATABASE}", "dbname=nowhere"))


def test_malformed_bytes_get_an_error_of_the_protocol(engine: Engine) -> None:
    engine.allow("Invalid HTTP request")
    unknown_protocol = struct.pack("!ii", 8, 99 << 16)
    assert exchange(engine.ports["postgres"], unknown_protocol)[:1] == b"E"
    assert exchange(engine.ports["postgres"], struct.pack("!i", 2**31 - 1) + b"x" * 100)[:1] in (b"E", b"")
    assert exchange(engine.ports["redis"], b"*3\r\n$-5\r\n\r\n").startswith(b"-")
    assert exchange(engine.ports["redis"], os.urandom(16).replace(b"\n", b"") + b"\r\n").startswith(b"-")
    assert b" 400 " in exchange(engine.ports["rest"], b"NONSENSE\r\n\r\n").splitlines()[0] + b" "
    with engine.rest() as client:
        broken = client.post("/sql", content=b"{not json", headers={"content-type": "application/json"})
        assert broken.status_code in (400, 422)
        assert "error" in broken.json()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELEC 1", errors.SyntaxError),
        ("SELECT * FROM nowhere", errors.UndefinedTable),
        ("SELECT nothing FROM kept", errors.UndefinedColumn),
        ("SELECT 1 / 0", errors.DivisionByZero),
        ("SELECT 'x'::integer", errors.InvalidTextRepresentation),
        ("INSERT INTO kept VALUES (1)", errors.UniqueViolation),
        ("INSERT INTO kept VALUES (NULL)", errors.NotNullViolation),
        ("CREATE EXTENSION nothing", errors.FeatureNotSupported),
    ],
)
def test_bad_sql_gets_postgresqls_error_and_the_session_goes_on(
    engine: Engine, statement: str, error: type[psycopg.Error]
) -> None:
    with engine.connect() as connection:
        with pytest.raises(error):
            connection.execute(statement)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with engine.rest() as client:
        answer = client.post("/sql", json={"sql": statement})
        assert answer.status_code >= 400
        assert answer.json()["error"]["code"] == error.sqlstate


def test_a_log_that_stands_still_holds_commits_until_it_goes_on(engine: Engine) -> None:
    engine.allow("append outcome unknown|durab|servers of the log|the log takes no record|cdc waits|change feed")
    engine.allow("nats connection lost|no nats server lets us in|migrator waits")
    [nats] = engine.children()
    outcomes: list[str] = []

    def insert() -> None:
        with engine.connect() as connection:
            try:
                connection.execute("INSERT INTO kept VALUES (2, 'slow')")
                outcomes.append("committed")
            except psycopg.Error as error:
                outcomes.append(error.sqlstate or "closed")

    writer = threading.Thread(target=insert)
    os.kill(nats, signal.SIGSTOP)
    try:
        writer.start()
        with engine.connect() as connection:
            for _ in range(20):
                assert connection.execute("SELECT note FROM kept WHERE id = 1").fetchone() == ("still here",)
                writer.join(0.1)
        assert not outcomes, "the commit was answered by a log that stands still"
    finally:
        os.kill(nats, signal.SIGCONT)
    writer.join(60)
    assert outcomes in (["committed"], ["40001"], ["57P03"])
    with engine.connect() as connection:
        found = connection.execute("SELECT id FROM kept WHERE id = 2").fetchall()
        assert found == ([(2,)] if outcomes == ["committed"] else [])


def test_without_its_nats_server_the_engine_ends_with_the_reason(start_engine: StartEngine) -> None:
    engine = start_engine()
    engine.allow("nats|log|append|component died|process stops|maintenance|change feed|checkpoint|session|migrator")
    with engine.connect() as connection:
        connection.execute("CREATE TABLE kept (id integer PRIMARY KEY)")
        connection.execute("INSERT INTO kept VALUES (1)")
    pid = engine.pid
    [nats] = engine.children()
    os.kill(nats, signal.SIGKILL)
    eventually(lambda: not runs(pid), "the engine ends", 45)
    assert any("nats" in line.get("event", "") + str(line.get("component", "")) for line in engine.log_lines())
    engine.start()
    with engine.connect() as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ORBIT_NATS_URLS": "nats://127.0.0.1:9"}, "127.0.0.1:9"),
        (
            {
                "ORBIT_COORDINATOR_STORE": "etcd",
                "ORBIT_ETCD_ENDPOINTS": "http://127.0.0.1:9",
                "ORBIT_NATS_URLS": "nats://127.0.0.1:10",
                "ORBIT_NODE_BIND_ADDRESS": f"127.0.0.1:{free_port((), random.Random())}",
            },
            "127.0.0.1:9",
        ),
        ({"DEFAULT_ISOLATION_LEVEL": "Chaos"}, "DEFAULT_ISOLATION_LEVEL"),
        ({"RAFT_ELECTION_TIMEOUT_MS": "-5"}, "RAFT_ELECTION_TIMEOUT_MS"),
    ],
    ids=["nats", "etcd", "setting", "number"],
)
def test_it_refuses_to_start_and_says_why(start_engine: StartEngine, settings: dict[str, str], named: str) -> None:
    engine = start_engine(settings, started=False)
    engine.allow(".")
    done = engine.command("up")
    assert done.returncode != 0
    assert named in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_log_refuses_writes_and_serves_reads(start_engine: StartEngine) -> None:
    engine = start_engine({"ORBIT_LOG_MAX_BYTES": str(4 << 20), "CDC_ENABLED": "false"})
    engine.allow("full|takes no record")
    with engine.connect() as connection:
        connection.execute("CREATE TABLE filling (id integer PRIMARY KEY, noise text)")
        written = 0
        try:
            for at in range(1000):
                connection.execute("INSERT INTO filling VALUES (%s, %s)", (at, os.urandom(20_000).hex()))
                written += 1
        except errors.DiskFull as error:
            print(f"\n{error}")
        assert 10 < written < 1000
        assert connection.execute("SELECT count(*) FROM filling").fetchone() == (written,)
    engine.kill9()
    engine.start()
    with engine.connect() as connection:
        assert connection.execute("SELECT count(*) FROM filling").fetchone() == (written,)


def test_a_store_that_is_away_delays_moves_and_nothing_else(start_engine: StartEngine) -> None:
    unreachable = {
        "ORBIT_STORAGE_BACKEND": "s3",
        "S3_ENDPOINT": "http://127.0.0.1:9",
        "AWS_REGION": "us-east-1",
        "S3_BUCKET": "away",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "a secret of the tests",
    }
    engine = start_engine(MIGRATE_AT_ONCE | unreachable)
    engine.allow("migrator waits")
    with engine.connect() as connection:
        connection.execute("CREATE TABLE staying (id integer PRIMARY KEY)")
        connection.execute("INSERT INTO staying SELECT n FROM generate_series(1, 100) AS n")

        def waiting() -> str:
            with engine.operations() as client:
                health = client.get("/health").json()
            assert health["healthy"] is True
            return str(health["details"]["migrator"].get("waiting_for") or "")

        assert "away" in eventually(waiting, "the migrator waits for the store", 60)
        assert connection.execute("SELECT count(*) FROM staying").fetchone() == (100,)
    assert "a secret of the tests" not in engine.log_file.read_text()
