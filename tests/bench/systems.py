"""The systems that are measured: each on 127.0.0.1, each as durable as ours (fsync on, appendfsync always)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import redis

from deploy.runner.plan import free_port
from orbit.chassis.nats_server import NatsServer
from orbit.cli.run_file import ROOT
from tests.fixtures.fix_cluster import environment
from tests.fixtures.fix_engine import DATABASE, PASSWORD, USER, make_engine
from tests.fixtures.fix_etcd import make_etcd
from tests.fixtures.fix_pgbench import Pgbench

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Sql:
    """Something that speaks PostgreSQL's protocol."""

    name: str
    pgbench: Pgbench

    @property
    def dsn(self) -> str:
        where = self.pgbench
        return (
            f"host={where.host} port={where.port} dbname={where.database} user={where.user} password='{where.password}'"
        )


@dataclass(frozen=True)
class Resp:
    """Something that speaks Redis's protocol."""

    name: str
    port: int
    user: str = ""
    password: str = ""


@dataclass(frozen=True)
class Engine:
    """Ours, in one topology."""

    topology: str
    sql: Sql
    resp: Resp


def _engine(topology: str, postgres_port: int, redis_port: int) -> Engine:
    pgbench = Pgbench("127.0.0.1", postgres_port, USER, PASSWORD, DATABASE)
    return Engine(topology, Sql("orbit", pgbench), Resp("orbit", redis_port, USER, PASSWORD))


@contextlib.contextmanager
def single(folder: Path) -> Iterator[Engine]:
    """Everything in one process, as `make up` starts it."""
    engine = make_engine(folder / "single", {"ORBIT_LOG_LEVEL": "warning"})
    try:
        engine.start()
        yield _engine("single", engine.ports["postgres"], engine.ports["redis"])
    finally:
        engine.end()


@contextlib.contextmanager
def split(folder: Path) -> Iterator[Engine]:
    """Gateway and storage as processes of their own, with an etcd between them and one NATS server."""
    (folder / "etcd").mkdir()
    etcd = make_etcd(folder / "etcd", 1)
    nats = NatsServer(folder / "nats")
    asyncio.run(nats.start())
    ports = _ports("postgres", "redis", "rest", "node", "storage", "gateway")
    shared = {
        "ORBIT_COORDINATOR_STORE": "etcd",
        "ORBIT_ETCD_ENDPOINTS": f"http://{etcd.servers[0].endpoint}",
        "CLUSTER_PEERS": f"127.0.0.1:{ports['node']}",
        "REPLICATION_FACTOR": "1",
        **_nats_settings(nats),
        "ORBIT_USER": USER,
        "ORBIT_PASSWORD": PASSWORD,
        "ORBIT_DATABASE": DATABASE,
        "ORBIT_LOG_LEVEL": "warning",
    }
    storage = {
        "NODE_ID": "storage",
        "ORBIT_NODE_BIND_ADDRESS": f"127.0.0.1:{ports['node']}",
        "ORBIT_NODE_ADVERTISE_ADDRESS": f"127.0.0.1:{ports['node']}",
        "METRICS_PORT": str(ports["storage"]),
        "ORBIT_DATA_DIR": str(folder / "storage"),
    }
    gateway = {
        "NODE_ID": "gateway",
        "ORBIT_BIND_ADDRESS": "127.0.0.1",
        "ORBIT_POSTGRES_PORT": str(ports["postgres"]),
        "ORBIT_REDIS_PORT": str(ports["redis"]),
        "ORBIT_REST_PORT": str(ports["rest"]),
        "METRICS_PORT": str(ports["gateway"]),
        "ORBIT_DATA_DIR": str(folder / "gateway"),
    }
    try:
        etcd.start()
        with _service("storage", shared | storage, ports["storage"], folder):
            with _service("gateway", shared | gateway, ports["gateway"], folder):
                yield _engine("split", ports["postgres"], ports["redis"])
    finally:
        etcd.kill()
        asyncio.run(nats.stop())


def _nats_settings(nats: NatsServer) -> dict[str, str]:
    return {
        "ORBIT_NATS_URLS": nats.url,
        "ORBIT_NATS_USER": nats.application.user,
        "ORBIT_NATS_PASSWORD": nats.application.password,
        "ORBIT_NATS_SYSTEM_USER": nats.system.user,
        "ORBIT_NATS_SYSTEM_PASSWORD": nats.system.password,
    }


@contextlib.contextmanager
def _service(role: str, settings: Mapping[str, str], operations: int, folder: Path) -> Iterator[None]:
    log = folder / f"{role}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{role}"],
            env=environment({**settings, "ORBIT_ROLES": role}),
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(role, process, lambda: _ready(operations), log)
        yield
    finally:
        _end(process)


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[Sql]:
    """PostgreSQL 15 with its defaults: fsync and synchronous commit on."""
    binaries = Path("/usr/lib/postgresql/15/bin")
    home = folder / "postgres"
    home.mkdir()
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        # PostgreSQL refuses to run as root, and its user must reach the folder.
        os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        for parent in (folder, *folder.parents):
            if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
    port = _ports("postgres")["postgres"]
    initdb = [
        str(binaries / "initdb"),
        "-D",
        str(home / "data"),
        "-U",
        USER,
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
    ]
    subprocess.run(initdb, user=user, cwd=home, check=True, stdout=subprocess.DEVNULL)
    options = ["-p", str(port), "-k", str(home), "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB"]
    with (home / "log").open("wb") as output:
        process = subprocess.Popen(
            [binaries / "postgres", "-D", home / "data", *options], user=user, cwd=home, stdout=output, stderr=output
        )
    try:
        sql = Sql("postgresql 15", Pgbench("127.0.0.1", port, USER, "", "postgres"))
        _wait("PostgreSQL", process, lambda: _connects(sql.dsn))
        yield sql
    finally:
        process.send_signal(2)  # SIGINT: the fast shutdown
        process.wait(STOP_TIMEOUT_S)


def _connects(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[Resp]:
    """Redis 7 that fsyncs each write before it answers."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("redis-server is not installed: apt-get install redis-server")
    home = folder / "redis"
    home.mkdir()
    port = _ports("redis")["redis"]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""]
    process = subprocess.Popen(
        [binary, *options, "--appendonly", "yes", "--appendfsync", "always"], stdout=subprocess.DEVNULL
    )
    try:
        _wait("Redis", process, lambda: _answers(port))
        yield Resp("redis 7", port)
    finally:
        _end(process)


def _answers(port: int) -> bool:
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def _ports(*names: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = free_port(found.values(), random.Random())
    return found


def _wait(what: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path | None = None) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{what} did not start" + (f":\n{log.read_text()[-2000:]}" if log else ""))
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
