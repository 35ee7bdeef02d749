"""The coordinator service over real etcd: records, activity passed on, switch-over, and failover without it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from orbit.chassis.etcd import EtcdClient
from orbit.chassis.etcd_nouns import EtcdUnavailable, Put
from services.coordinator.client import EtcdCoordination, Leader, Member
from services.coordinator.election import Reign
from services.coordinator.lease import Lease
from services.coordinator.planner import Goals, plan
from services.coordinator.reconciler import Reconciler, SwitchOverRefused, Turn
from services.coordinator.service import CoordinatorService
from services.coordinator.store import Candidate, Keys, ShardRecord, encode
from services.coordinator.view import ClusterView
from tests.fixtures.fix_etcd import EtcdCluster, free_ports

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[3]
TTL_S = 1.0
_regions = itertools.count(1)


@pytest.fixture
def region() -> str:
    return f"service-{next(_regions)}"


class Node:
    """A storage node's tie to the cluster: it leads whenever it is nominated."""

    def __init__(self, cluster: EtcdCluster, region: str, name: str) -> None:
        self.name = name
        self.tie = EtcdCoordination(
            cluster.settings(), region=region, election_timeout_ms=1000, heartbeat_interval_ms=100
        )
        self._lost = asyncio.Event()
        self._epoch = itertools.count(int(time.monotonic() * 1000))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> Node:
        await self.tie.start()
        await self.tie.join(Member(self.name, f"{self.name}:7000", f"{self.name}:9090", 10, 1))
        self.tie.on_lease_lost(self._lost.set)
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self.tie.stop()

    async def _run(self) -> None:
        while True:
            await self.tie.campaign(0)
            self._lost.clear()
            await self.tie.announce(Leader(0, self.name, f"{self.name}:7000", next(self._epoch)))
            await self._lost.wait()


@pytest.fixture
async def started() -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """Return a function that starts a node or a service; what it started is stopped at the end."""
    running: list[Any] = []

    async def start(what: Any) -> Any:
        await what.start()
        running.append(what)
        return what

    yield start
    await asyncio.gather(*(each.stop() for each in running))


def service(cluster: EtcdCluster, region: str, name: str, factor: int = 2) -> CoordinatorService:
    return CoordinatorService(
        cluster.settings(),
        region=region,
        instance_id=name,
        operations_address=f"{name}:9090",
        goals=Goals(replication_factor=factor),
        election_timeout_ms=1000,
        heartbeat_interval_ms=100,
        connect_timeout_s=0.5,
    )


async def eventually(condition: Callable[[], Any], timeout_s: float = 8.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


def placed(coordinator: CoordinatorService) -> list[str]:
    placement: list[str] = coordinator.cluster_replication()["placement"]
    return placement


async def test_records_status_and_a_switch_over(etcd: EtcdCluster, region: str, started: Any) -> None:
    first = await started(service(etcd, region, "coordinator-1"))
    await eventually(lambda: first.active)
    nodes = {name: await started(Node(etcd, region, name)) for name in ("a", "b")}
    await eventually(lambda: first.cluster_status()["healthy"] and first.nodes_total == 2)
    world = first._view.world
    await eventually(lambda: len(placed(first)) == 2)
    leading = first.cluster_status()["leader"]
    other = "b" if leading == "a" else "a"
    assert first.cluster_status()["role"] == "active"
    assert first.cluster_status()["peers"] == ["a:7000", "b:7000"]
    assert first.health() == {"healthy": True, "reason": None}
    assert {each["node"]: each["lag_records"] for each in first.cluster_replication()["members"]} == {"a": 0, "b": 0}

    began_at = time.monotonic()
    await first.switch_over(0, other)
    assert time.monotonic() - began_at < 1.0
    assert first.cluster_status()["leader"] == other
    assert first.leader_changes_total == 1
    await eventually(lambda: first._view.world.handover(0) is None)
    assert first._view.world.shard(0).value == ShardRecord(0, 2, ("a", "b"), other)
    assert nodes[leading].tie.lease_valid(), "a node that handed over stays a member"

    for wrong, why in (("nobody", "not alive"), ("c", "holds no replica")):
        if wrong == "c":
            await started(Node(etcd, region, "c"))
            await eventually(lambda: first.nodes_total == 3)
        with pytest.raises(SwitchOverRefused, match=why):
            await first.switch_over(0, wrong)
    await nodes["a"].tie.stop()
    await eventually(lambda: first.cluster_status()["nodes"] == {"a": False, "b": True, "c": True})
    assert world.revision < first._view.world.revision


async def test_activity_passes_on_when_the_active_one_stops(etcd: EtcdCluster, region: str, started: Any) -> None:
    first, second = service(etcd, region, "one"), await started(service(etcd, region, "two"))
    await eventually(lambda: second.active)
    await first.start()
    await eventually(lambda: first.cluster_status()["coordinator"] == "two")
    assert (first.active, first.cluster_status()["role"]) == (False, "standby")
    assert first.health()["healthy"], "a standby is healthy, and answers from its own view"
    await first.stop()
    third = await started(service(etcd, region, "three"))
    began_at = time.monotonic()
    await second.stop()
    await eventually(lambda: third.active)
    assert time.monotonic() - began_at < 0.7
    assert not second.active


async def test_a_coordinator_that_is_no_longer_active_writes_nothing(etcd: EtcdCluster, region: str) -> None:
    """As one that was paused between planning and writing, while another became active."""
    client = EtcdClient(etcd.settings())
    view = ClusterView(client, Keys(region))
    await view.start(5)
    lease = Lease(0, 1, "", 0)
    active = await client.transact((), (Put(view.world.keys.active, encode(Candidate("other"))),))
    actions = plan(view.world, Goals(), 1)
    assert len(actions) == 1
    turn = await Reconciler(client, view).carry_out(actions, Reign(lease, active.revision - 1))
    assert turn == Turn((), 1)
    assert await client.get(view.world.keys.config) is None
    turn = await Reconciler(client, view).carry_out(actions, Reign(lease, active.revision))
    assert turn == Turn((actions[0].sentence,), 0)
    assert view.world.config() is not None, "a turn ends when its own writes are in view"
    await view.stop()
    await client.close()


async def test_a_failover_needs_no_coordinator(etcd: EtcdCluster, region: str, started: Any) -> None:
    coordinator = service(etcd, region, "only")
    await coordinator.start()
    nodes = {name: await started(Node(etcd, region, name)) for name in ("a", "b")}
    await eventually(lambda: coordinator.cluster_status()["leader"] and len(placed(coordinator)) == 2)
    leading = coordinator.cluster_status()["leader"]
    other = "b" if leading == "a" else "a"
    told: list[None] = []
    nodes[leading].tie.on_lease_lost(lambda: told.append(None))
    await coordinator.stop()
    await asyncio.sleep(TTL_S + 0.5)
    assert told == [], "a coordinator's end is no reason to lose a lease"
    assert nodes[other].tie.cluster_status()["leader"] == leading
    began_at = time.monotonic()
    await nodes[leading].tie.resign(0)
    await eventually(lambda: nodes[other].tie.cluster_status()["leader"] == other)
    assert time.monotonic() - began_at < 0.5


async def test_an_etcd_outage_and_its_end(etcd_alone: EtcdCluster, region: str, started: Any) -> None:
    coordinator = await started(service(etcd_alone, region, "one"))
    node = await started(Node(etcd_alone, region, "a"))
    await eventually(lambda: coordinator.active and coordinator.cluster_status()["healthy"])
    etcd_alone.kill()
    await eventually(lambda: not coordinator.active and not coordinator.health()["healthy"])
    assert coordinator.heartbeat_failures_total > 0
    await asyncio.to_thread(etcd_alone.start)
    await eventually(lambda: coordinator.active and node.tie.lease_valid())
    await eventually(lambda: coordinator.cluster_status()["healthy"])


async def test_starting_without_etcd_names_the_endpoint(etcd: EtcdCluster, region: str) -> None:
    cluster = EtcdCluster([type(etcd.servers[0])("none", free_ports(1)[0], [], Path())])
    with pytest.raises(EtcdUnavailable, match=cluster.servers[0].endpoint):
        await service(cluster, region, "one").start()


@dataclass
class Running:
    """`python -m services.coordinator` as a process of its own."""

    process: asyncio.subprocess.Process
    port: int

    async def get(self, path: str) -> tuple[int, Any]:
        """Return (status, body) from the operations port; the body decoded where it is JSON."""
        async with httpx.AsyncClient(trust_env=False) as client:
            reply = await client.get(f"http://127.0.0.1:{self.port}{path}")
        return reply.status_code, reply.json() if "json" in reply.headers["content-type"] else reply.text


@contextlib.asynccontextmanager
async def process(endpoints: str, region: str, name: str) -> AsyncIterator[Running]:
    (port,) = free_ports(1)
    environment = {
        "PATH": os.environ["PATH"],
        "NODE_ID": name,
        "ORBIT_ROLES": "coordinator",
        "ORBIT_REGION": region,
        "ORBIT_COORDINATOR_STORE": "etcd",
        "ORBIT_ETCD_ENDPOINTS": endpoints,
        "ORBIT_NATS_URLS": "nats://127.0.0.1:4222",
        "RAFT_ELECTION_TIMEOUT_MS": "1000",
        "RAFT_HEARTBEAT_INTERVAL_MS": "100",
        "REPLICATION_FACTOR": "3",
        "METRICS_PORT": str(port),
    }
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.coordinator", cwd=REPOSITORY, env=environment,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Running(running, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


async def test_processes_pass_activity_on_and_stop_cleanly(etcd: EtcdCluster, region: str, started: Any) -> None:
    endpoints = ",".join(etcd.settings().endpoints)
    client = EtcdClient(etcd.settings())
    view = ClusterView(client, Keys(region))
    await view.start(5)
    async with process(endpoints, region, "one") as one:
        async with asyncio.timeout(15):
            await view.until(lambda world: world.active() == "one" and world.config() is not None)
        async with process(endpoints, region, "two") as two:
            async with asyncio.timeout(15):
                await view.until(lambda world: list(world.instances()) == ["one", "two"])
            one.process.send_signal(signal.SIGKILL)
            began_at = time.monotonic()
            async with asyncio.timeout(TTL_S + 4):
                await view.until(lambda world: world.active() == "two")
            assert time.monotonic() - began_at < TTL_S + 1.0
            await started(Node(etcd, region, "a"))
            async with asyncio.timeout(5):
                await view.until(lambda world: world.leader(0) is not None)
            await _check_operations(two)
            two.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await two.process.wait() == 0
                await view.until(lambda world: world.active() is None and not world.instances())
    await view.stop()
    await client.close()


async def _check_operations(coordinator: Running) -> None:
    async with asyncio.timeout(5):
        while (status := (await coordinator.get("/cluster/status"))[1])["leader"] is None:  # noqa: ASYNC110 - it polls
            await asyncio.sleep(0.01)
    assert (status["healthy"], status["role"], status["peers"]) == (True, "active", ["a:7000"])
    code, health = await coordinator.get("/health")
    assert (code, health["healthy"], health["term"]) == (200, True, status["term"])
    _, replication = await coordinator.get("/cluster/replication")
    assert [each["node"] for each in replication["members"]] == ["a"]
    _, metrics = await coordinator.get("/metrics")
    assert "orbit_cluster_nodes_total 1.0" in metrics
    for name in ("leader_changes_total", "replication_lag_ms"):
        assert f"orbit_cluster_{name} " in metrics
    assert "orbit_raft_heartbeat_failures_total 0.0" in metrics


async def test_a_process_with_impossible_settings_says_why(region: str) -> None:
    (port,) = free_ports(1)
    async with process(f"127.0.0.1:{port},https://127.0.0.1:{port}", region, "one") as running:
        assert running.process.stderr is not None
        said = await asyncio.wait_for(running.process.stderr.read(), 30)
        assert await running.process.wait() == 1
    assert b"ORBIT_ETCD_ENDPOINTS" in said
    assert b"Traceback" not in said


async def test_a_process_without_etcd_is_not_healthy_and_can_be_stopped(region: str) -> None:
    (port,) = free_ports(1)
    async with process(f"127.0.0.1:{port}", region, "one") as running:
        async with asyncio.timeout(10):
            while True:
                try:
                    code, health = await running.get("/health")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
        assert (code, health["healthy"]) == (503, False)
        assert "etcd does not answer" in health["reasons"][0]
        running.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await running.process.wait() == 0
