"""What a new user does in the first minutes: start, connect through every door, kill it, start again, stop."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import time
import urllib.request

import pytest

from orbit.cli.run_file import StateFolder
from tests.fixtures.fix_cluster import environment
from tests.fixtures.fix_engine import PASSWORD, PORT_SETTINGS, USER, Engine, StartEngine, runs

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def newcomer(start_engine: StartEngine) -> Engine:
    """The engine, not started yet: the tests below are one story and run in their order."""
    return start_engine(started=False)


def redis_cli(engine: Engine, *words: str) -> str:
    done = subprocess.run(
        ["redis-cli", "-p", str(engine.ports["redis"]), "--user", USER, "--no-auth-warning", *words],
        env=environment({"REDISCLI_AUTH": PASSWORD}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize("door", PORT_SETTINGS)
def test_a_taken_port_is_named_with_its_setting_and_nothing_is_left(newcomer: Engine, door: str) -> None:
    with socket.create_server(("127.0.0.1", newcomer.ports[door])):
        done = newcomer.command("up")
    assert done.returncode == 1
    assert str(newcomer.ports[door]) in done.stderr
    assert PORT_SETTINGS[door] in done.stderr
    assert StateFolder(newcomer.state_dir).read() is None
    assert not (newcomer.state_dir / "data").exists()


def test_up_says_where_everything_is(newcomer: Engine) -> None:
    said = newcomer.start()
    assert "Orbit Engine is up" in said
    for port in newcomer.ports.values():
        assert str(port) in said
    assert "make down" in said


def test_up_again_says_that_it_runs(newcomer: Engine) -> None:
    pid = newcomer.pid
    assert "already running" in newcomer.start()
    assert newcomer.pid == pid


def test_psql_creates_fills_and_reads_a_table(newcomer: Engine) -> None:
    script = """
        CREATE TABLE airlines (carrier text PRIMARY KEY, name text NOT NULL, founded date, fleet integer);
        INSERT INTO airlines VALUES ('AA', 'American', '1926-04-15', 950), ('ZZ', 'Zed''s', NULL, NULL);
        COPY airlines FROM STDIN CSV;
DL,"Delta, of Atlanta",1925-03-02,900
\\.
        BEGIN;
        UPDATE airlines SET fleet = fleet + 1 WHERE carrier = 'AA';
        DELETE FROM airlines WHERE carrier = 'ZZ';
        ROLLBACK;
        UPDATE airlines SET fleet = fleet + 5 WHERE carrier = 'AA';
        SELECT * FROM airlines WHERE carrier = 'AA';
        SELECT * FROM airlines WHERE carrier = 'DL';
        SELECT * FROM airlines WHERE carrier = 'ZZ';
    """
    done = newcomer.psql(script=script)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "AA|American|1926-04-15|955",
        "DL|Delta, of Atlanta|1925-03-02|900",
        "ZZ|Zed's||",
    ]


def test_psql_describes_the_table(newcomer: Engine) -> None:
    listed = newcomer.psql("\\dt")
    assert listed.returncode == 0, listed.stderr
    assert "public|airlines|table|orbit" in listed.stdout.splitlines()
    described = newcomer.psql("\\pset tuples_only off", "\\d airlines")
    assert described.returncode == 0, described.stderr
    assert "carrier|text||not null|" in described.stdout
    assert '"airlines_pkey" PRIMARY KEY' in described.stdout


def test_redis_cli_writes_keys(newcomer: Engine) -> None:
    assert redis_cli(newcomer, "PING") == "PONG"
    assert redis_cli(newcomer, "SET", "greeting", "hello") == "OK"
    assert redis_cli(newcomer, "GET", "greeting") == "hello"
    assert redis_cli(newcomer, "INCR", "visits") == "1"
    assert redis_cli(newcomer, "HSET", "user:1", "name", "Ada", "born", "1815") == "2"
    assert redis_cli(newcomer, "HGET", "user:1", "name") == "Ada"
    assert redis_cli(newcomer, "SET", "short", "lived", "EX", "100") == "OK"
    assert 90 < int(redis_cli(newcomer, "TTL", "short")) <= 100


def test_sql_sees_the_keys_of_redis_and_redis_what_sql_wrote(newcomer: Engine) -> None:
    seen = newcomer.psql("SELECT convert_from(value, 'UTF8') FROM redis.keys WHERE key = 'greeting'")
    assert (seen.stdout, seen.stderr) == ("hello\n", "")
    changed = newcomer.psql("UPDATE redis.keys SET value = 'from sql' WHERE key = 'greeting'")
    assert changed.stderr == ""
    assert redis_cli(newcomer, "GET", "greeting") == "from sql"


def test_curl_reads_the_same_rows_over_rest(newcomer: Engine) -> None:
    request = urllib.request.Request(
        f"{newcomer.rest_url}/sql",
        data=json.dumps({"sql": "SELECT carrier, fleet FROM airlines WHERE carrier = 'AA'"}).encode(),
        headers={
            "Content-Type": "application/json",
            "Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
        },
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        assert json.load(answer)["rows"] == [["AA", 955]]
    with newcomer.rest() as client:
        assert client.get("/health").status_code == 200
        assert "/sql" in client.get("/openapi.json").json()["paths"]
        rows = client.get("/tables/airlines/rows", params={"carrier": "eq.DL"})
        assert rows.status_code == 200, rows.text


def test_the_orbit_command_asks_it(newcomer: Engine) -> None:
    status = newcomer.command("status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert "healthy" in status.stdout
    answer = newcomer.command("sql", "SELECT fleet FROM airlines WHERE carrier = 'AA'")
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"^\s*955$", answer.stdout, re.MULTILINE)
    tiers = newcomer.command("tiers")
    assert tiers.returncode == 0, tiers.stderr
    assert re.search(r"public\.airlines\s+hot\s+3\b", tiers.stdout)


def test_after_kill_9_everything_is_there(newcomer: Engine) -> None:
    newcomer.kill9()
    assert not newcomer.alive
    assert newcomer.command("status").returncode == 3
    began = time.monotonic()
    newcomer.start()
    print(f"\nstarted again after kill -9 in {time.monotonic() - began:.2f} s")
    rows = newcomer.psql("SELECT * FROM airlines ORDER BY carrier").stdout.splitlines()
    assert rows == ["AA|American|1926-04-15|955", "DL|Delta, of Atlanta|1925-03-02|900", "ZZ|Zed's||"]
    assert redis_cli(newcomer, "GET", "greeting") == "from sql"
    assert redis_cli(newcomer, "HGETALL", "user:1").splitlines() == ["name", "Ada", "born", "1815"]
    assert redis_cli(newcomer, "INCR", "visits") == "2"


def test_down_stops_it_and_the_data_stays(newcomer: Engine) -> None:
    pid, children = newcomer.pid, newcomer.children()
    assert children, "the engine runs a NATS server"
    newcomer.stop()
    assert StateFolder(newcomer.state_dir).read() is None
    assert not any(runs(gone) for gone in (pid, *children))
    assert "not running" in newcomer.command("down").stdout
    began = time.monotonic()
    newcomer.start()
    seconds = time.monotonic() - began
    print(f"\nstarted after a clean stop in {seconds:.2f} s (promised: 3 s on an idle machine)")
    assert seconds < 30
    assert newcomer.psql("SELECT fleet FROM airlines WHERE carrier = 'AA'").stdout == "955\n"
