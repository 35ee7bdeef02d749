"""`python -m deploy.runner` as a person meets it: own services, scaling, failures, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.runner.process import Identity
from tests.fixtures.fix_cluster import environment

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[3]

SERVICE = '''
"""Answers each connection to METRICS_PORT (HTTP) and ORBIT_POSTGRES_PORT (its name)."""
import asyncio, os, sys

async def health(reader, writer):
    await reader.readline()
    writer.write(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + os.environ["NODE_ID"].encode())
    await writer.drain(); writer.close()

async def name(reader, writer):
    writer.write(os.environ["NODE_ID"].encode() + b"\\n")
    await writer.drain(); writer.close()

async def main():
    print("listening", sorted(os.environ), flush=True)
    address = os.environ["ORBIT_BIND_ADDRESS"]
    await asyncio.start_server(health, address, int(os.environ["METRICS_PORT"]))
    await asyncio.start_server(name, address, int(os.environ["ORBIT_POSTGRES_PORT"]))
    if os.environ.get("FAIL"):
        sys.exit("cannot go on: FAIL is set")
    await asyncio.Event().wait()

asyncio.run(main())
'''

COMPOSE = """
services:
  gateway:
    build: {context: ., args: {SERVICE: gateway}}
    restart: unless-stopped
    environment:
      NODE_ID: gateway
      METRICS_PORT: "9090"
      ORBIT_POSTGRES_PORT: "5432"
      ORBIT_BIND_ADDRESS: 0.0.0.0
      FAIL: ${FAIL:-}
      ORBIT_PASSWORD: ${ORBIT_PASSWORD:?the password}
    expose: [5432, 9090]
    healthcheck:
      test: [CMD, python, -c, 'import urllib.request; urllib.request.urlopen("http://localhost:9090/", timeout=2)']
      interval: 1s
      start_period: 20s
  haproxy:
    image: haproxy:2.8
    restart: unless-stopped
    depends_on: {gateway: {condition: service_healthy}}
    ports: ["${ORBIT_POSTGRES_PORT:-5432}:5432"]
    expose: [8404]
    volumes: ["./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"]
    healthcheck:
      test: [CMD, wget, -q, -O, /dev/null, "http://localhost:8404/healthz"]
      interval: 1s
      start_period: 20s
  grafana:
    image: grafana/grafana:11
    restart: unless-stopped
"""

HAPROXY = """
defaults
  mode tcp
  timeout connect 2s
  timeout client 10s
  timeout server 10s
listen postgres
  bind 0.0.0.0:5432
  balance roundrobin
  default-server check inter 100ms fall 1 rise 1
  server-template gateway 8 gateway:5432
frontend operations
  mode http
  bind 0.0.0.0:8404
  monitor-uri /healthz
"""


@dataclass
class Checkout:
    """A small project with one service of its own."""

    path: Path
    port: int

    @property
    def state(self) -> Path:
        return self.path / "state" / "cluster"

    @property
    def run_file(self) -> Path:
        return self.path / "state" / "run.json"

    def environment(self, **settings: str) -> dict[str, str]:
        return environment({"ORBIT_POSTGRES_PORT": str(self.port)} | settings)

    def runner(self, verb: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        argv = self.argv(verb, *arguments)
        return subprocess.run(
            argv, cwd=ROOT, env=self.environment(**settings), capture_output=True, text=True, timeout=60, check=False
        )

    def argv(self, verb: str, *arguments: str) -> list[str]:
        files = ["-f", str(self.path / "compose.yaml")] if verb == "up" else []
        return [sys.executable, "-m", "deploy.runner", verb, *files, "--state-dir", str(self.state), *arguments]

    def pids(self) -> list[Identity]:
        run = json.loads(self.run_file.read_text())
        return [Identity(process["pid"], process["start_ticks"]) for process in run["processes"]]

    def ask(self) -> str:
        """Return the name of the gateway that the load balancer chose."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return connection.makefile().readline().strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    package = tmp_path / "services" / "gateway"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(SERVICE)
    (tmp_path / "compose.yaml").write_text(COMPOSE)
    (tmp_path / "haproxy.cfg").write_text(HAPROXY)
    (tmp_path / "secrets.env.example").write_text("ORBIT_PASSWORD=\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    found = Checkout(tmp_path, port)
    yield found
    done = found.runner("down")
    assert done.returncode == 0, done.stderr


def test_up_scales_says_so_again_and_down_ends_exactly_that(checkout: Checkout) -> None:
    up = checkout.runner("up", "--scale", "gateway=2")
    assert up.returncode == 0, up.stdout + up.stderr
    assert f"psql -h 127.0.0.1 -p {checkout.port}" in up.stdout
    assert "grafana: there is no local program" in up.stdout
    assert {checkout.ask() for _ in range(6)} == {"gateway-1", "gateway-2"}
    pids = checkout.pids()
    assert len(pids) == 3

    again = checkout.runner("up")
    assert (again.returncode, "already running: 3 processes" in again.stdout) == (0, True)
    status = checkout.runner("status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count("running") == 3
    # What a process gets of the shell is named; the rest is the file's.
    environments = (checkout.state / "logs" / "gateway-1.log").read_text()
    assert "'ORBIT_PASSWORD'" in environments
    assert "'PYTEST_CURRENT_TEST'" not in environments

    down = checkout.runner("down")
    assert down.returncode == 0, down.stderr
    assert [pid for pid in pids if pid.alive()] == []
    # The order is the reverse of the start's.
    assert down.stdout.index("haproxy: stopped") < down.stdout.index("gateway-1: stopped")
    assert not checkout.run_file.exists()
    assert checkout.runner("status").returncode == 1


def test_dead_gateway_is_noticed_and_the_other_serves(checkout: Checkout) -> None:
    assert checkout.runner("up", "--scale", "gateway=2").returncode == 0
    run = json.loads(checkout.run_file.read_text())
    victim = next(process for process in run["processes"] if process["name"] == "gateway-1")
    assert Identity(victim["pid"], victim["start_ticks"]).send(signal.SIGKILL, group=True)
    deadline = time.monotonic() + 10
    while {checkout.ask() for _ in range(4)} != {"gateway-2"}:
        assert time.monotonic() < deadline, "the load balancer kept the dead gateway"
    status = checkout.runner("status")
    assert status.returncode == 1
    assert "gateway-1        dead" in status.stdout
    up = checkout.runner("up")
    assert up.returncode == 1
    assert "only 2 of 3 processes still run" in up.stderr


def test_failing_service_is_named_with_its_last_words_and_nothing_stays(checkout: Checkout) -> None:
    up = checkout.runner("up", FAIL="1")
    assert up.returncode == 1
    assert "gateway ended with 1" in up.stderr
    assert "cannot go on: FAIL is set" in up.stderr
    assert not checkout.run_file.exists()
    assert checkout.runner("status").stdout.startswith("nothing runs")


def test_taken_port_names_the_setting_and_nothing_starts(checkout: Checkout) -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", checkout.port))
        taker.listen()
        up = checkout.runner("up")
        assert up.returncode == 1
        assert f"port {checkout.port} (haproxy) is taken by another program" in up.stderr
        assert "ORBIT_POSTGRES_PORT or ORBIT_PORT_OFFSET moves it" in up.stderr
        assert "started" not in up.stdout


def test_offset_moves_every_port_and_keeps_them(checkout: Checkout) -> None:
    offset = "1000"
    ports: list[dict[str, int]] = []
    checkout.port -= 1000
    for _ in range(2):
        up = checkout.runner("up", ORBIT_PORT_OFFSET=offset)
        assert up.returncode == 0, up.stderr
        run = json.loads(checkout.run_file.read_text())
        assert run["endpoints"]["postgres"] == f"127.0.0.1:{checkout.port + 1000}"
        ports.append({process["name"]: process["ports"] for process in run["processes"]})
        assert checkout.runner("down").returncode == 0
    assert ports[0] == ports[1]
    other = checkout.runner("up")
    assert other.returncode == 1
    assert "was made with ORBIT_PORT_OFFSET=1000" in other.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_start_leaves_nothing(checkout: Checkout, number: signal.Signals) -> None:
    # The service is never healthy, so that the start is still on its way when the signal comes.
    (checkout.path / "compose.yaml").write_text(COMPOSE.replace("localhost:9090", "localhost:1"))
    with subprocess.Popen(
        checkout.argv("up"),
        cwd=ROOT,
        env=checkout.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        started = next(line for line in up.stdout if line.startswith("gateway: started"))
        pid = int(started.rsplit(maxsplit=1)[-1])
        up.send_signal(number)
        _, complaint = up.communicate(timeout=20)
    assert up.returncode == 1
    assert "interrupted" in complaint
    assert not Path(f"/proc/{pid}").exists()
    assert not checkout.run_file.exists()


def test_secrets_are_made_once_and_are_nobody_elses(checkout: Checkout) -> None:
    assert checkout.runner("up", "--only", "gateway").returncode == 0
    password = (checkout.state / "password").read_text()
    assert len(password.strip()) == 32
    assert (checkout.state / "password").stat().st_mode & 0o077 == 0
    assert (checkout.state / "secrets.env").stat().st_mode & 0o077 == 0
    assert checkout.runner("down").returncode == 0
    assert checkout.runner("up", "--only", "gateway").returncode == 0
    assert (checkout.state / "password").read_text() == password
    assert checkout.runner("down", "--volumes").returncode == 0
    assert not checkout.state.exists()


def test_guard_ends_the_cluster_of_a_killed_test_run(checkout: Checkout) -> None:
    script = (
        "import os, pathlib, sys, time\n"
        "from deploy.runner import Cluster, Options\n"
        f"files = [pathlib.Path({str(checkout.path / 'compose.yaml')!r})]\n"
        "options = Options(dict(os.environ), files, free_ports=True)\n"
        f"cluster = Cluster(options, pathlib.Path({str(checkout.state)!r}), guarded=True)\n"
        "cluster.start()\n"
        "print(*(f'{p.pid} {p.start_ticks}' for p in cluster.processes.values()), sep=',', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=checkout.environment(), stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        found = [Identity(*map(int, one.split())) for one in owner.stdout.readline().split(",")]
        assert len(found) == 2
        assert all(identity.alive() for identity in found)
        owner.kill()
    deadline = time.monotonic() + 15
    while any(identity.alive() for identity in found):
        assert time.monotonic() < deadline, "the guard left processes behind"
        time.sleep(0.05)  # another process ends them: there is nothing to wait on


def test_another_engine_of_the_checkout_is_not_disturbed(checkout: Checkout) -> None:
    stat = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()
    checkout.run_file.parent.mkdir()
    content = json.dumps({"topology": "single", "processes": [{"pid": os.getpid(), "start_ticks": int(stat[19])}]})
    checkout.run_file.write_text(content)
    up = checkout.runner("up")
    assert up.returncode == 1
    assert "another engine runs here" in up.stderr
    assert checkout.run_file.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "settings", "complaint"),
    [
        (["--scale", "gateway"], {}, "--scale gateway is not SERVICE=N"),
        (["--only", "gatewya"], {}, "gatewya is no service; there are gateway, haproxy, grafana"),
        ([], {"ORBIT_PORT_OFFSET": "many"}, "ORBIT_PORT_OFFSET=many is no number"),
    ],
)
def test_mistakes_are_named(checkout: Checkout, arguments: list[str], settings: dict[str, str], complaint: str) -> None:
    up = checkout.runner("up", *arguments, **settings)
    assert up.returncode == 1
    assert complaint in up.stderr
