"""Starts and stops the single-node engine that `make up` gives.

Owns the order of a start: settings, ports, password, process, health, run.json; and that a start which fails leaves
nothing running. Prints nothing: `app` tells the person.
"""

from __future__ import annotations

import contextlib
import fcntl
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orbit.chassis.config import Config, load
from orbit.cli import http, log_excerpt, process
from orbit.cli.run_file import ROOT, Endpoints, Process, Run, StateFolder

ENGINE_COMMAND = (sys.executable, "-m", "services")

READY_TIMEOUT_SECONDS = 180.0
"""Recovery replays the log behind the last checkpoint, so a start after a crash may take a while."""
STOP_TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.02
LOG_ROTATE_BYTES = 64 << 20

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class StartFailed(Exception):
    """The engine is not running; the message says why, for a person."""


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of `up`."""

    run: Run
    already_running: bool
    seconds: float
    notes: tuple[str, ...] = ()


def up(
    folder: StateFolder,
    environ: dict[str, str],
    on_password: Callable[[str], None],
    command: Sequence[str] = ENGINE_COMMAND,
) -> Started:
    """Start the engine, or find it running. `on_password` gets a generated password, once, at the first start.

    Raises StartFailed, and ConfigError for settings that cannot be used.
    """
    began = time.monotonic()
    loaded = load(environ, defaults={"node.data_dir": folder.path / "data"})
    config = loaded.config
    if run := _running(folder):
        return Started(run, True, time.monotonic() - began)
    _check_ports(config)
    folder.log_folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        if run := _running(folder):
            return Started(run, True, time.monotonic() - began)
        folder.remove()
        notes = _settle_password(folder, config, on_password)
        run = _start(folder, config, environ, command)
    return Started(run, False, time.monotonic() - began, notes)


def down(folder: StateFolder) -> tuple[list[Process], list[Process]]:
    """Stop what run.json names. Return (stopped, killed because they did not stop in time). Idempotent."""
    run = folder.read()
    if run is None:
        return [], []
    if run.topology == "cluster":
        raise StartFailed("a cluster is running here, not a single node: stop it with `make cluster-down`")
    stopped: list[Process] = []
    killed: list[Process] = []
    for one in run.processes:
        if process.is_alive(one):
            (stopped if process.end(one, STOP_TIMEOUT_SECONDS) else killed).append(one)
    folder.remove()
    return stopped, killed


def _running(folder: StateFolder) -> Run | None:
    run = folder.read()
    if run is None or not any(process.is_alive(one) for one in run.processes):
        return None
    if run.topology == "cluster":
        raise StartFailed("a cluster is running here: stop it with `make cluster-down` first")
    return run


@contextlib.contextmanager
def _only_one(folder: StateFolder) -> Iterator[None]:
    """Hold the folder's lock, so that two commands at once cannot start two engines."""
    with folder.lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartFailed(
                f"another command is starting the engine right now ({folder.lock_file} is held)"
            ) from None
        yield


def _ports(config: Config) -> dict[str, tuple[str, int, str]]:
    """Return host, port and the setting that moves it, for each listener of a single node."""
    gateway, monitoring = config.gateway, config.monitoring
    ports = {
        "postgres": (gateway.bind_address, gateway.postgres.port, "ORBIT_POSTGRES_PORT (gateway.postgres.port)"),
        "redis": (gateway.bind_address, gateway.redis.port, "ORBIT_REDIS_PORT (gateway.redis.port)"),
        "rest": (gateway.bind_address, gateway.rest.port, "ORBIT_REST_PORT (gateway.rest.port)"),
        "metrics": (monitoring.bind_address, monitoring.metrics_port, "METRICS_PORT (monitoring.metrics_port)"),
    }
    if not config.log.urls and config.log.embedded_port:
        ports["nats"] = ("127.0.0.1", config.log.embedded_port, "ORBIT_NATS_PORT (log.embedded_port)")
    return ports


def _check_ports(config: Config) -> None:
    problems = [
        f"the {name} port {port} on {host} cannot be used: {problem}. Move it with {setting}"
        for name, (host, port, setting) in _ports(config).items()
        if (problem := process.port_problem(host, port))
    ]
    if problems:
        raise StartFailed("\n".join(problems))


def _settle_password(folder: StateFolder, config: Config, on_password: Callable[[str], None]) -> tuple[str, ...]:
    """Make sure that the password file holds the administrator's password, as far as it can be known."""
    given = config.bootstrap.password.get_secret_value()
    kept = folder.read_password()
    data = config.node.data_dir
    first_start = not data.exists() or not any(data.iterdir())
    if first_start:
        if given:
            folder.write_password(given)
        else:
            # Kept already when an earlier first start failed: shown again, because nothing was created with it yet.
            if not kept:
                kept = secrets.token_urlsafe(18)
                folder.write_password(kept)
            on_password(kept)
        return ()
    if kept is None:
        return (f"{data} was made elsewhere: its password is not known here, and ORBIT_PASSWORD does not change it",)
    if given and given != kept:
        return ("ORBIT_PASSWORD counts at the first start only: the password was not changed",)
    return ()


def _start(folder: StateFolder, config: Config, environ: dict[str, str], command: Sequence[str]) -> Run:
    log = folder.log_folder / "engine.log"
    if log.exists() and log.stat().st_size > LOG_ROTATE_BYTES:
        log.replace(log.with_suffix(".log.1"))
    log_start = log.stat().st_size if log.exists() else 0
    variables = {
        **environ,
        "PYTHONPATH": str(ROOT),
        "ORBIT_DATA_DIR": str(config.node.data_dir),
        "ORBIT_PASSWORD": folder.read_password() or "",
    }
    pid = process.spawn(command, variables, log)
    ticks = process.start_ticks(pid)
    if ticks is None:
        raise StartFailed(_died(process.exit_code(pid), log, log_start))
    run = _described(
        folder,
        config,
        Process(
            service="engine",
            node_id=config.node.id,
            pid=pid,
            start_ticks=ticks,
            ports={name: port for name, (_, port, _) in _ports(config).items()},
            log=str(log),
        ),
    )
    folder.write(run)
    try:
        _wait_until_ready(pid, run.endpoints.operations, log, log_start)
    except BaseException:
        # Whatever ended the wait, an interrupt included: nothing stays half-started.
        process.end(run.processes[0], STOP_TIMEOUT_SECONDS)
        folder.remove()
        raise
    return run


def _described(folder: StateFolder, config: Config, engine: Process) -> Run:
    def address(name: str) -> str:
        host, port, _ = _ports(config)[name]
        host = _WILDCARDS.get(host, host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    return Run(
        topology="single",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        processes=[engine],
        endpoints=Endpoints(
            postgres=address("postgres"),
            redis=address("redis"),
            rest=f"http://{address('rest')}",
            operations=f"http://{address('metrics')}",
        ),
        user=config.bootstrap.user,
        database=config.bootstrap.database,
        password_file=str(folder.password_file) if folder.password_file.exists() else "",
    )


def _wait_until_ready(pid: int, operations: str, log: Path, log_start: int) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    last = "nothing listens yet"
    while time.monotonic() < deadline:
        if (code := process.exit_code(pid)) is not None:
            raise StartFailed(_died(code, log, log_start))
        try:
            answer = http.request(f"{operations}/health/ready", timeout_seconds=2.0)
        except http.Unreachable as error:
            last = str(error)
        else:
            if answer.status == 200:
                return
            last = answer.body.decode(errors="replace").strip()
        # Another process's health, over HTTP: there is no event to wait for.
        time.sleep(POLL_SECONDS)
    raise StartFailed(
        f"the engine was not ready after {READY_TIMEOUT_SECONDS:.0f} s and was stopped: {last}\n"
        + log_excerpt.reason(log, log_start)
    )


def _died(code: int | None, log: Path, log_start: int) -> str:
    how = "ended" if code is None else f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"
    return f"the engine {how} while starting:\n{log_excerpt.reason(log, log_start)}\nall of it: {log}"
