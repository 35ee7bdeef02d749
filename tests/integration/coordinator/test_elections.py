"""Elections over real etcd: nodes that are killed, paused or hung, and etcd servers that go and come back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orbit.chassis.etcd import BlockingEtcdClient, EtcdClient
from orbit.chassis.etcd_nouns import Delete, EtcdSettings, EtcdUnavailable, Get, Put
from services.coordinator.client import EtcdCoordination, Leader, Member, NodeIdTaken, NominationLost
from services.coordinator.store import Candidate, Keys, ShardRecord, encode
from tests.fixtures.fix_etcd import EtcdCluster, free_ports

pytestmark = pytest.mark.integration

SHARD = 0
TTL_S = 1.0
HEARTBEAT_MS = 100
REPOSITORY = Path(__file__).parents[3]
_regions = itertools.count(1)

Make = Callable[..., Awaitable[EtcdCoordination]]


def member(node_id: str, applied_sequence: int = 0) -> Member:
    return Member(node_id, f"{node_id}:7000", f"{node_id}:9090", applied_sequence, 1)


def leader(node_id: str, epoch: int) -> Leader:
    return Leader(SHARD, node_id, f"{node_id}:7000", epoch)


@pytest.fixture
def region() -> str:
    return f"elections-{next(_regions)}"


@pytest.fixture
async def make(region: str) -> AsyncIterator[Make]:
    """Return a maker of started coordinations, joined where a node id is given; all are stopped at the end."""
    made: list[EtcdCoordination] = []

    async def start(cluster: EtcdCluster, node_id: str | None = None, applied_sequence: int = 0) -> EtcdCoordination:
        coordination = EtcdCoordination(
            cluster.settings(), region=region, election_timeout_ms=1000, heartbeat_interval_ms=HEARTBEAT_MS
        )
        await coordination.start()
        made.append(coordination)
        if node_id is not None:
            await coordination.join(member(node_id, applied_sequence))
        return coordination

    yield start
    await asyncio.gather(*(coordination.stop() for coordination in made))


@contextlib.asynccontextmanager
async def node_process(cluster: EtcdCluster, region: str, node_id: str) -> AsyncIterator[NodeProcess]:
    endpoints = ",".join(cluster.settings().endpoints)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.coordinator.node", endpoints, region, node_id,
        stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    try:
        yield NodeProcess(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class NodeProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def event(self, name: str | None, timeout_s: float = 10.0) -> dict[str, Any]:
        """Return the next event, which must be of this name, if one is given."""
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line)
        assert name is None or found["event"] == name, found
        return found

    async def events_until(self, name: str) -> list[dict[str, Any]]:
        """Return the next events up to the one of this name."""
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != name:
            found.append(await self.event(None))
        return found


async def eventually(condition: Callable[[], Any], timeout_s: float = 8.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


async def within(seconds: float, waited: Awaitable[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await waited


async def test_two_nodes_campaign_and_one_wins(etcd: EtcdCluster, make: Make) -> None:
    nodes = {name: await make(etcd, name) for name in ("a", "b")}
    campaigns = {name: asyncio.create_task(node.campaign(SHARD)) for name, node in nodes.items()}
    done, waiting = await asyncio.wait(campaigns.values(), return_when=asyncio.FIRST_COMPLETED, timeout=5)
    assert len(done) == 1
    winner = next(name for name, task in campaigns.items() if task in done)
    loser = "b" if winner == "a" else "a"
    await nodes[winner].announce(leader(winner, 1))
    await eventually(lambda: nodes[loser].cluster_status()["leader"] == winner)
    assert nodes[loser].cluster_status()["role"] == "follower"
    with pytest.raises(NominationLost):
        await nodes[loser].announce(leader(loser, 2))
    assert not waiting.pop().done()

    began_at = time.monotonic()
    await nodes[winner].resign(SHARD)
    await within(5, campaigns[loser])
    assert time.monotonic() - began_at < 0.5, "a resignation hands over without waiting for the lease"


async def test_the_most_advanced_follower_wins(etcd: EtcdCluster, make: Make) -> None:
    old, behind, ahead = await make(etcd, "old", 900), await make(etcd, "behind", 100), await make(etcd, "ahead", 890)
    await old.campaign(SHARD)
    await eventually(lambda: len(behind.members()) == len(ahead.members()) == 3)
    late = asyncio.create_task(behind.campaign(SHARD))
    first = asyncio.create_task(ahead.campaign(SHARD))
    await old.stop()
    await within(5, first)
    assert not late.done()


async def test_the_preferred_leader_wins_and_a_handover_moves_leadership(
    etcd: EtcdCluster, make: Make, region: str
) -> None:
    keys = Keys(region)
    client = EtcdClient(etcd.settings())
    record = ShardRecord(SHARD, 2, ("a", "b"), preferred="b")
    await client.transact((), (Put(keys.shard(SHARD), encode(record)),))
    a, b = await make(etcd, "a"), await make(etcd, "b")
    await eventually(lambda: len(a.members()) == len(b.members()) == 2)
    told_a: list[bool] = []
    a.on_lease_lost(lambda: told_a.append(a.lease_valid()))
    campaign_a, campaign_b = asyncio.create_task(a.campaign(SHARD)), asyncio.create_task(b.campaign(SHARD))
    await within(5, campaign_b)
    await b.announce(leader("b", 1))
    assert not campaign_a.done()
    await client.transact((), (Put(keys.handover(SHARD), encode(Candidate("a"))),))
    await within(1, campaign_a)
    assert told_a == []
    await a.announce(leader("a", 2))
    await eventually(lambda: b.cluster_status()["leader"] == "a")
    assert await client.get(keys.handover(SHARD)) is None, "the new leader has cleared the request"
    with pytest.raises(NominationLost):
        await b.announce(leader("b", 3))
    await client.close()


async def test_a_killed_leader_is_replaced_within_its_lease(etcd: EtcdCluster, make: Make, region: str) -> None:
    async with node_process(etcd, region, "victim") as victim:
        await victim.event("leads")
        heir = await make(etcd, "heir")
        campaign = asyncio.create_task(heir.campaign(SHARD))
        seen: asyncio.Queue[Leader | None] = asyncio.Queue()
        heir.watch_leader(SHARD, seen.put_nowait)
        assert (await within(2, seen.get())).node_id == "victim"
        victim.signal(signal.SIGKILL)
        killed_at = time.monotonic()
        await within(TTL_S + 4, campaign)
        assert time.monotonic() - killed_at < TTL_S + 1.0
        assert await within(1, seen.get()) is None
        assert [each.node_id for each in heir.members()] == ["heir"]


async def test_a_paused_leader_wakes_without_a_lease(etcd: EtcdCluster, make: Make, region: str) -> None:
    async with node_process(etcd, region, "sleeper") as sleeper:
        await sleeper.event("leads")
        heir = await make(etcd, "heir")
        campaign = asyncio.create_task(heir.campaign(SHARD))
        sleeper.signal(signal.SIGSTOP)
        paused_at = time.monotonic()
        await within(TTL_S + 4, campaign)
        assert time.monotonic() - paused_at < TTL_S + 1.0
        await heir.announce(leader("heir", 2))
        sleeper.signal(signal.SIGCONT)
        # Its first act is a check of its lease, or the timer of the lease itself: both must find it not valid.
        assert [event["valid"] for event in await sleeper.events_until("lost")] in ([False], [False, False])
        # It is back under a new lease, as a follower: its successor was never disturbed.
        await eventually(lambda: len(heir.members()) == 2)
        assert heir.lease_valid()
        assert heir.cluster_status()["leader"] == "heir"


async def test_a_hung_event_loop_loses_its_lease(etcd: EtcdCluster, make: Make, region: str) -> None:
    hung = await make(etcd, "hung")
    await hung.campaign(SHARD)
    told: list[bool] = []
    hung.on_lease_lost(lambda: told.append(hung.lease_valid()))
    vacant = threading.Event()

    def watch_nomination() -> None:
        client, key = BlockingEtcdClient(etcd.settings()), Keys(region).nomination(SHARD)
        while client.transact((), (Get(key),)).reads[0] is not None:
            time.sleep(0.05)
        vacant.set()
        client.close()

    watcher = threading.Thread(target=watch_nomination)
    watcher.start()
    time.sleep(TTL_S + 2.0)  # noqa: ASYNC251 - this is the hang
    assert vacant.is_set(), "etcd still holds the nomination of a hung node"
    assert not hung.lease_valid()
    watcher.join()
    await eventually(lambda: told == [False])
    await within(5, hung.campaign(SHARD))


async def test_a_busy_event_loop_keeps_its_lease(etcd: EtcdCluster, make: Make) -> None:
    busy = await make(etcd, "busy")
    await busy.campaign(SHARD)
    told: list[None] = []
    busy.on_lease_lost(lambda: told.append(None))
    for _ in range(12):
        time.sleep(0.2)  # noqa: ASYNC251 - a long step of the data path
        assert busy.lease_valid()
        await asyncio.sleep(0)
    assert told == []


async def test_callbacks_run_on_the_loop_and_announcing_after_a_loss_is_refused(etcd: EtcdCluster, make: Make) -> None:
    node = await make(etcd, "node")
    main_thread = threading.get_ident()
    told: list[tuple[int, bool]] = []
    node.on_lease_lost(lambda: told.append((threading.get_ident(), node.lease_valid())))
    await node.campaign(SHARD)
    client = EtcdClient(etcd.settings())
    nomination = await client.get(Keys(node._keys.region).nomination(SHARD))
    assert nomination is not None
    await client.revoke(nomination.lease)
    with pytest.raises(NominationLost):
        await node.announce(leader("node", 1))
    await eventually(lambda: told)
    await eventually(node.lease_valid)
    assert told == [(main_thread, False)], "one loss is told once, while no lease is held"
    with pytest.raises(NominationLost):
        await node.announce(leader("node", 1))
    await eventually(lambda: [each.node_id for each in node.members()] == ["node"])
    await within(5, node.campaign(SHARD))
    await node.announce(leader("node", 2))
    await client.close()


async def test_a_deleted_nomination_is_a_loss_and_nothing_is_written_for_it(
    etcd: EtcdCluster, make: Make, region: str
) -> None:
    node = await make(etcd, "node")
    told: list[bool] = []
    node.on_lease_lost(lambda: told.append(node.lease_valid()))
    await node.campaign(SHARD)
    client, keys = BlockingEtcdClient(etcd.settings()), Keys(region)
    # The loop stands still, so that the node announces before its view can tell it.
    client.transact((), (Delete(keys.nomination(SHARD)),))
    with pytest.raises(NominationLost):
        await node.announce(leader("node", 1))
    assert client.transact((), (Get(keys.leader(SHARD)),)).reads == (None,)
    client.close()
    await eventually(lambda: told == [False])


async def test_a_cancelled_campaign_leaves_no_nomination(etcd: EtcdCluster, make: Make) -> None:
    node, other = await make(etcd, "node"), await make(etcd, "other")
    for pause_s in (0.0, 0.002, 0.005, 0.01, 0.012, 0.015, 0.02):
        campaign = asyncio.create_task(node.campaign(SHARD))
        await asyncio.sleep(pause_s)
        campaign.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await campaign
            await node.resign(SHARD)
    await within(3, other.campaign(SHARD))


async def test_a_nomination_won_too_late_is_taken_back(etcd: EtcdCluster, make: Make, region: str) -> None:
    """A candidate gave up while its transaction was on the way; etcd carries it out afterwards."""
    node, other = await make(etcd, "node"), await make(etcd, "other")
    await node.campaign(SHARD)
    await node.resign(SHARD)
    assert node._registration is not None
    lease = node._registration.current()
    assert lease is not None
    client, keys = EtcdClient(etcd.settings()), Keys(region)
    await client.transact((), (Put(keys.nomination(SHARD), encode(Candidate("node")), lease.lease_id),))
    await within(3, other.campaign(SHARD))
    assert node.lease_valid(), "only the nomination goes, not the lease"
    await client.close()


async def test_a_taken_node_id_is_refused_and_a_dead_ones_is_inherited(
    etcd: EtcdCluster, make: Make, region: str
) -> None:
    await make(etcd, "twin")
    second = await make(etcd)
    with pytest.raises(NodeIdTaken, match="members/twin"):
        await second.join(member("twin"))
    async with node_process(etcd, region, "phoenix") as process:
        await process.event("leads")
        process.signal(signal.SIGKILL)
        reborn = await make(etcd, "phoenix")
    assert reborn.lease_valid()
    assert sorted(each.node_id for each in reborn.members()) == ["phoenix", "twin"]


async def test_etcd_killed_and_restarted(etcd_alone: EtcdCluster, make: Make) -> None:
    node, gateway = await make(etcd_alone, "node"), await make(etcd_alone)
    told: list[bool] = []
    node.on_lease_lost(lambda: told.append(node.lease_valid()))
    seen: list[Leader | None] = []
    gateway.watch_leader(SHARD, seen.append)
    await node.campaign(SHARD)
    await node.announce(leader("node", 1))
    await eventually(lambda: seen == [leader("node", 1)])
    etcd_alone.kill()
    killed_at = time.monotonic()
    await eventually(lambda: told)
    assert time.monotonic() - killed_at < TTL_S + 0.2
    assert told == [False]
    assert not gateway.health()["healthy"]
    assert gateway.members() == [member("node")], "a gateway keeps what it knew"
    assert node.heartbeat_failures_total > 0
    campaign = asyncio.create_task(node.campaign(SHARD))
    await asyncio.to_thread(etcd_alone.start)
    await within(5, campaign)
    await node.announce(leader("node", 2))
    await eventually(lambda: seen[-1] == leader("node", 2))
    assert node.lease_valid()
    assert told == [False]
    await eventually(lambda: gateway.health()["healthy"])


async def test_a_short_etcd_outage_costs_no_leadership(etcd_alone: EtcdCluster, make: Make) -> None:
    node = await make(etcd_alone, "node")
    told: list[None] = []
    node.on_lease_lost(lambda: told.append(None))
    await node.campaign(SHARD)
    etcd_alone.servers[0].pause()
    await asyncio.sleep(0.4)
    etcd_alone.servers[0].resume()
    await asyncio.sleep(TTL_S)
    assert node.lease_valid()
    await node.announce(leader("node", 1))
    assert told == []


async def test_the_etcd_leader_is_killed(etcd_trio: EtcdCluster, make: Make) -> None:
    node, gateway = await make(etcd_trio, "node"), await make(etcd_trio)
    seen: list[Leader | None] = []
    gateway.watch_leader(SHARD, seen.append)
    await node.campaign(SHARD)
    await node.announce(leader("node", 1))
    killed = etcd_trio.leader()
    killed.kill()
    # Whether the lease outlives a change of etcd's own leader depends on its election: with a lifetime of one
    # second it may not. Either way there is a leader again, and every watcher knows it.
    epoch = 1
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and epoch < 3:
        epoch += 1
        try:
            await node.announce(leader("node", epoch))
        except NominationLost:
            await within(10, node.campaign(SHARD))
            await node.announce(leader("node", epoch))
    await eventually(lambda: seen and seen[-1] == leader("node", 3))
    killed.start()
    await asyncio.to_thread(etcd_trio.wait_healthy)
    await eventually(lambda: node.lease_valid() and gateway.health()["healthy"])


async def test_a_silent_etcd_server_is_left_for_another(etcd_trio: EtcdCluster, make: Make) -> None:
    """A server that is paused holds its connections open and says nothing."""
    node, gateway = await make(etcd_trio, "node"), await make(etcd_trio)
    seen: list[Leader | None] = []
    gateway.watch_leader(SHARD, seen.append)
    used = gateway._client._connections.current().name
    silent = next(server for server in etcd_trio.servers if server.endpoint == used)
    silent.pause()
    campaign = asyncio.create_task(node.campaign(SHARD))
    await within(10, campaign)
    await node.announce(leader("node", 7))
    await eventually(lambda: seen and seen[-1] == leader("node", 7))
    silent.resume()


async def test_starting_without_etcd_names_the_endpoint(region: str) -> None:
    port = free_ports(1)[0]
    coordination = EtcdCoordination(
        EtcdSettings((f"127.0.0.1:{port}",), timeout_s=0.5), region=region, connect_timeout_s=0.3
    )
    with pytest.raises(EtcdUnavailable, match=f"127.0.0.1:{port}"):
        await coordination.start()


async def test_lease_lifetime_is_rounded_up_and_progress_is_published(etcd: EtcdCluster, region: str) -> None:
    coordination = EtcdCoordination(
        etcd.settings(), region=region, election_timeout_ms=1500, heartbeat_interval_ms=HEARTBEAT_MS
    )
    await coordination.start()
    await coordination.join(member("node"))
    assert coordination._registration is not None
    lease = coordination._registration.current()
    assert lease is not None
    assert lease.ttl_s == 2
    coordination.report(12)
    await eventually(lambda: coordination.members() == [replace(member("node"), applied_sequence=12)])
    await coordination.stop()
    client = EtcdClient(etcd.settings())
    assert (await client.get_prefix(Keys(region).prefix)).items == (), "a stopped node leaves nothing behind"
    await client.close()
