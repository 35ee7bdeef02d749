"""Starting and stopping, with real processes, ports and files. A stand-in answers in place of the engine."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from orbit.chassis.config import ConfigError
from orbit.cli import engine, health, process, sql_client, tier_report
from orbit.cli.run_file import Run, RunFileBroken, StateFolder

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_engine.py")))
PORTS = ("ORBIT_POSTGRES_PORT", "ORBIT_REDIS_PORT", "ORBIT_REST_PORT", "METRICS_PORT")


def free_ports(count: int) -> list[int]:
    """Return ports below the ephemeral range: no outgoing connection of another test can take one meanwhile."""
    free: list[int] = []
    while len(free) < count:
        port = random.randrange(12_000, 32_000)
        if port not in free and process.port_problem("127.0.0.1", port) is None:
            free.append(port)
    return free


class Machine:
    """One state folder, four free ports, and the passwords that were shown."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder = StateFolder(tmp_path / "state")
        self.environ = {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
        self.shown: list[str] = []

    def up(self, command: tuple[str, ...] = STAND_IN, **extra: str) -> engine.Started:
        return engine.up(self.folder, {**self.environ, **extra}, self.shown.append, command)

    def given_password(self) -> str:
        return (self.folder.path / "data" / "password-given").read_text()


def record_writes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Return a list that fills with every run.json written, for starts that remove it again."""
    recorded: list[Run] = []
    write = machine.folder.write

    def record(run: Run) -> None:
        recorded.append(run)
        write(run)

    monkeypatch.setattr(machine.folder, "write", record)
    return recorded


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    one = Machine(tmp_path)
    yield one
    with contextlib.suppress(RunFileBroken):
        engine.down(one.folder)


def test_up_waits_for_health_and_writes_what_it_started(machine: Machine) -> None:
    started = machine.up(STAND_IN="late")
    run = machine.folder.read()
    assert run == started.run
    assert not started.already_running
    (one,) = started.run.processes
    assert process.is_alive(one)
    assert one.ports == {
        "postgres": int(machine.environ["ORBIT_POSTGRES_PORT"]),
        "redis": int(machine.environ["ORBIT_REDIS_PORT"]),
        "rest": int(machine.environ["ORBIT_REST_PORT"]),
        "metrics": int(machine.environ["METRICS_PORT"]),
    }
    assert Path(one.log).exists()
    written = json.loads(machine.folder.run_file.read_text())
    assert written["endpoints"]["rest"] == f"http://127.0.0.1:{machine.environ['ORBIT_REST_PORT']}"
    assert written["endpoints"]["postgres"] == f"127.0.0.1:{machine.environ['ORBIT_POSTGRES_PORT']}"
    assert (written["user"], written["database"]) == ("orbit", "orbit")


def test_a_generated_password_is_shown_once_and_kept_for_its_owner_only(machine: Machine) -> None:
    machine.up()
    (password,) = machine.shown
    assert len(password) >= 20
    assert machine.given_password() == password == machine.folder.read_password()
    assert stat.S_IMODE(machine.folder.password_file.stat().st_mode) == 0o600
    engine.down(machine.folder)
    machine.up()
    assert machine.shown == [password]
    assert machine.given_password() == password


def test_a_first_start_that_fails_does_not_use_up_the_showing(machine: Machine) -> None:
    with pytest.raises(engine.StartFailed):
        machine.up((*STAND_IN, "refuse"))
    machine.up()
    assert machine.shown == [machine.given_password()] * 2


def test_a_given_password_is_used_and_later_ones_change_nothing(machine: Machine) -> None:
    assert machine.up(ORBIT_PASSWORD="first").notes == ()
    assert machine.given_password() == "first" == machine.folder.read_password()
    engine.down(machine.folder)
    started = machine.up(ORBIT_PASSWORD="second")
    assert "first start only" in started.notes[0]
    assert machine.folder.read_password() == "first"
    assert machine.shown == []


def test_a_second_up_finds_it_running(machine: Machine) -> None:
    first = machine.up()
    second = machine.up(("false",))
    assert second.already_running
    assert second.run == first.run


def test_down_stops_it_and_is_idempotent(machine: Machine) -> None:
    run = machine.up().run
    assert engine.down(machine.folder) == (run.processes, [])
    assert not process.is_alive(run.processes[0])
    assert not machine.folder.run_file.exists()
    assert engine.down(machine.folder) == ([], [])


def test_down_kills_what_does_not_stop_and_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STOP_TIMEOUT_SECONDS", 0.2)
    run = machine.up(STAND_IN="deaf").run
    assert engine.down(machine.folder) == ([], run.processes)
    assert not process.is_alive(run.processes[0])


def test_down_never_touches_a_process_that_only_has_the_same_pid(machine: Machine) -> None:
    run = machine.up().run
    (one,) = run.processes
    other = msgspec.structs.replace(one, pid=os.getpid())
    machine.folder.write(msgspec.structs.replace(run, processes=[other]))
    assert engine.down(machine.folder) == ([], [])
    assert process.is_alive(one)
    machine.folder.write(run)


def test_a_stale_run_file_does_not_hinder_a_start(machine: Machine) -> None:
    first = machine.up().run
    process.end(first.processes[0], 5.0)
    second = machine.up()
    assert not second.already_running
    assert second.run.processes[0].pid != first.processes[0].pid


def test_every_taken_port_is_named_with_the_setting_that_moves_it(machine: Machine) -> None:
    with contextlib.ExitStack() as sockets:
        for name in ("ORBIT_REDIS_PORT", "METRICS_PORT"):
            sockets.enter_context(socket.create_server(("127.0.0.1", int(machine.environ[name]))))
        with pytest.raises(engine.StartFailed) as raised:
            machine.up()
    redis, metrics = str(raised.value).splitlines()
    assert machine.environ["ORBIT_REDIS_PORT"] in redis
    assert "address already in use" in redis
    assert "ORBIT_REDIS_PORT (gateway.redis.port)" in redis
    assert "METRICS_PORT (monitoring.metrics_port)" in metrics
    assert not machine.folder.path.exists(), "something was left behind"


def test_an_engine_that_dies_while_starting_tells_why(machine: Machine) -> None:
    with pytest.raises(engine.StartFailed) as raised:
        machine.up(STAND_IN="dies")
    assert "exit code 3" in str(raised.value)
    assert "log is unreachable url=nats://x" in str(raised.value)
    assert "starting" not in str(raised.value).splitlines()[1]
    assert machine.folder.read() is None


def test_an_engine_that_dies_at_once_shows_its_traceback_not_that_of_an_earlier_start(machine: Machine) -> None:
    for _ in range(2):
        with pytest.raises(engine.StartFailed, match="ValueError: no such thing") as raised:
            machine.up((*STAND_IN, "refuse"))
    assert str(raised.value).count("Traceback") == 1


def test_an_engine_that_never_becomes_ready_is_stopped(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "READY_TIMEOUT_SECONDS", 0.5)
    recorded = record_writes(machine, monkeypatch)
    with pytest.raises(engine.StartFailed, match="was not ready after"):
        machine.up((sys.executable, "-c", "import signal; signal.pause()"))
    assert not process.is_alive(recorded[0].processes[0])
    assert machine.folder.read() is None


def test_an_interrupted_start_leaves_nothing_running(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = record_writes(machine, monkeypatch)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "_wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.up()
    assert not process.is_alive(recorded[0].processes[0])
    assert machine.folder.read() is None


def test_settings_that_cannot_be_used_start_nothing(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="TRANSACTION_TIMEOUT_MS"):
        machine.up(TRANSACTION_TIMEOUT_MS="0")
    assert not machine.folder.path.exists()


def test_two_starts_at_once_start_one_engine(machine: Machine) -> None:
    machine.folder.path.mkdir(parents=True)
    with engine._only_one(machine.folder), pytest.raises(engine.StartFailed, match="another command"):
        machine.up()


def test_a_cluster_is_left_to_its_own_command(machine: Machine) -> None:
    run = machine.up().run
    machine.folder.write(msgspec.structs.replace(run, topology="cluster"))
    with pytest.raises(engine.StartFailed, match="make cluster-down"):
        machine.up()
    with pytest.raises(engine.StartFailed, match="make cluster-down"):
        engine.down(machine.folder)
    machine.folder.write(run)


def test_a_broken_run_file_is_named(machine: Machine) -> None:
    machine.folder.path.mkdir()
    machine.folder.run_file.write_text("{")
    with pytest.raises(RunFileBroken, match=r"run\.json cannot be read"):
        machine.up()


def test_a_running_engine_answers_status_sql_and_tiers(machine: Machine) -> None:
    run = machine.up().run
    (report,) = health.reports(run)
    assert report.alive and report.healthy
    assert "healthy" in health.table(run, [report])
    assert "role=leader" in health.table(run, [report])
    answer = sql_client.run_sql(run, "SELECT 1")
    assert sql_client.table(answer).splitlines() == [" n  word", "--  ----", " 1  one", "22", "(2 rows)"]
    with pytest.raises(sql_client.SqlFailed, match='column "boom" does not exist \\(42703\\)\n  hint: look'):
        sql_client.run_sql(run, "SELECT boom")
    lines = tier_report.table(tier_report.read(run)).splitlines()
    assert lines[2].split() == ["public.flights", "hot", "1,200", "3.4", "MB", "0"]
    assert lines[-1].split() == ["total", "cold", "5", "10", "B", "2"]
    process.end(run.processes[0], 5.0)
    (report,) = health.reports(run)
    assert not report.alive
    assert "dead" in health.table(run, [report])
