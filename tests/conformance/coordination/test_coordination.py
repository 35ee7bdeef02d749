"""One suite over both implementations of `Coordination`: what storage and gateways rely on."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from services.coordinator.client import (
    ClusterReport,
    Coordination,
    EmbeddedCoordination,
    EtcdCoordination,
    Leader,
    Member,
    NominationLost,
)
from tests.fixtures.fix_etcd import EtcdCluster

SHARD = 0
MEMBER = Member("node-1", "127.0.0.1:7000", "127.0.0.1:9090", 5, 1_000_000)
LEADER = Leader(SHARD, "node-1", "127.0.0.1:7000", 3)
_regions = itertools.count(1)


@pytest.fixture(params=["embedded", pytest.param("etcd", marks=pytest.mark.integration)])
async def coordination(request: pytest.FixtureRequest) -> AsyncIterator[Coordination]:
    made: EmbeddedCoordination | EtcdCoordination
    if request.param == "embedded":
        made = EmbeddedCoordination()
    else:
        cluster: EtcdCluster = request.getfixturevalue("etcd")
        made = EtcdCoordination(
            cluster.settings(),
            region=f"conformance-{next(_regions)}",
            election_timeout_ms=1000,
            heartbeat_interval_ms=100,
        )
    await made.start()
    yield made
    await made.stop()


class Seen:
    """What a leader watch was told, to be awaited."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[Leader | None] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()

    def __call__(self, leader: Leader | None) -> None:
        assert asyncio.get_running_loop() is self.loop
        self.told.put_nowait(leader)

    async def next(self) -> Leader | None:
        async with asyncio.timeout(30):
            return await self.told.get()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)


async def test_the_lease_is_valid_from_join_to_stop(coordination: Coordination) -> None:
    assert not coordination.lease_valid()
    await coordination.join(MEMBER)
    assert coordination.lease_valid()
    await coordination.stop()
    assert not coordination.lease_valid()


async def test_the_member_is_listed_with_its_progress(coordination: Coordination) -> None:
    assert coordination.members() == []
    await coordination.join(MEMBER)
    await eventually(lambda: coordination.members() == [MEMBER])
    coordination.report(77)
    await eventually(lambda: coordination.members() == [replace(MEMBER, applied_sequence=77)])


async def test_campaign_announce_resign_reach_a_watcher(coordination: Coordination) -> None:
    seen = Seen()
    coordination.watch_leader(SHARD, seen)
    await coordination.join(MEMBER)
    async with asyncio.timeout(5):
        await coordination.campaign(SHARD)
    assert seen.told.empty(), "a nominee does not lead before it announces"
    await coordination.announce(LEADER)
    assert await seen.next() == LEADER
    await coordination.announce(replace(LEADER, epoch=4))
    assert await seen.next() == replace(LEADER, epoch=4)
    await coordination.resign(SHARD)
    assert await seen.next() is None
    assert coordination.lease_valid(), "resigning a shard is not leaving the cluster"


async def test_a_late_watcher_is_told_at_once(coordination: Coordination) -> None:
    await coordination.join(MEMBER)
    await coordination.campaign(SHARD)
    first = Seen()
    coordination.watch_leader(SHARD, first)
    await coordination.announce(LEADER)
    assert await first.next() == LEADER
    late = Seen()
    coordination.watch_leader(SHARD, late)
    assert late.told.get_nowait() == LEADER


async def test_an_unsubscribed_watcher_hears_nothing(coordination: Coordination) -> None:
    gone, stays = Seen(), Seen()
    unsubscribe = coordination.watch_leader(SHARD, gone)
    coordination.watch_leader(SHARD, stays)
    await coordination.join(MEMBER)
    await coordination.campaign(SHARD)
    unsubscribe()
    unsubscribe()
    await coordination.announce(LEADER)
    assert await stays.next() == LEADER
    assert gone.told.empty()


async def test_a_watcher_hears_only_of_its_shard(coordination: Coordination) -> None:
    other, own = Seen(), Seen()
    coordination.watch_leader(1, other)
    coordination.watch_leader(SHARD, own)
    await coordination.join(MEMBER)
    await coordination.campaign(SHARD)
    await coordination.announce(LEADER)
    assert await own.next() == LEADER
    assert other.told.empty()


async def test_announce_needs_a_nomination(coordination: Coordination) -> None:
    await coordination.join(MEMBER)
    with pytest.raises(NominationLost):
        await coordination.announce(LEADER)
    await coordination.campaign(SHARD)
    await coordination.resign(SHARD)
    with pytest.raises(RuntimeError):
        await coordination.announce(LEADER)


async def test_campaigning_needs_membership_and_happens_once(coordination: Coordination) -> None:
    with pytest.raises(RuntimeError, match="join first"):
        await coordination.campaign(SHARD)
    await coordination.join(MEMBER)
    await coordination.campaign(SHARD)
    with pytest.raises(RuntimeError, match="already"):
        await coordination.campaign(SHARD)


async def test_a_resigned_node_may_campaign_again(coordination: Coordination) -> None:
    seen = Seen()
    coordination.watch_leader(SHARD, seen)
    await coordination.join(MEMBER)
    await coordination.campaign(SHARD)
    await coordination.announce(LEADER)
    await coordination.resign(SHARD)
    async with asyncio.timeout(30):
        await coordination.campaign(SHARD)
    await coordination.announce(replace(LEADER, epoch=4))
    assert [await seen.next() for _ in range(3)] == [LEADER, None, replace(LEADER, epoch=4)]


async def test_resigning_what_is_not_led_does_nothing(coordination: Coordination) -> None:
    await coordination.resign(SHARD)
    await coordination.join(MEMBER)
    await coordination.resign(SHARD)
    assert coordination.lease_valid()


async def test_the_reports_have_the_shapes_of_the_operations_endpoints(coordination: Coordination) -> None:
    assert isinstance(coordination, EmbeddedCoordination | EtcdCoordination)
    report: ClusterReport = coordination
    await coordination.join(MEMBER)
    await eventually(coordination.members)
    assert not report.health()["healthy"]
    assert report.health()["reason"] == "shard 0 has no leader"
    assert report.cluster_status()["role"] == "candidate"
    await coordination.campaign(SHARD)
    await coordination.announce(LEADER)
    await eventually(lambda: report.health()["healthy"])
    status = report.cluster_status()
    shown = {key: status[key] for key in ("healthy", "role", "term", "peers", "replication_lag_ms")}
    assert shown == {"healthy": True, "role": "leader", "term": 3, "peers": [], "replication_lag_ms": 0}
    replication = report.cluster_replication()
    assert replication["leader"] == "node-1"
    assert replication["members"] == [
        {
            "node": "node-1",
            "address": "127.0.0.1:7000",
            "role": "leader",
            "applied_sequence": 5,
            "lag_records": 0,
            "lag_ms": 0,
        }
    ]
