"""`EmbeddedCoordination`: coordination of a single node, in-process, without etcd.

Same meaning as `EtcdCoordination` with one member: nominated at once, the lease valid until `stop`. Epochs are the
log's business, so nothing needs to be remembered here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from orbit.kernel.ids import DEFAULT_SHARD
from services.coordinator.client import Leader, Member, NominationLost

LeaderCallback = Callable[[Leader | None], None]


class EmbeddedCoordination:
    """Implements `Coordination` and `ClusterReport` for one process."""

    def __init__(self) -> None:
        self._running = False
        self._member: Member | None = None
        self._nominated: set[int] = set()
        self._leaders: dict[int, Leader] = {}
        self._watchers: list[tuple[int, LeaderCallback]] = []
        self._lost_callbacks: list[Callable[[], None]] = []
        self._applied_sequence = 0
        self._term = 0
        self._changes = 0
        self._led_before = False

    async def start(self) -> None:
        self._running = True

    async def stop(self) -> None:
        self._running = False
        self._nominated.clear()
        for shard in tuple(self._leaders):
            self._lead(shard, None)
        self._member = None

    async def join(self, member: Member) -> None:
        if self._member is not None:
            raise RuntimeError("already joined")
        self._member = member
        self._applied_sequence = member.applied_sequence

    def report(self, applied_sequence: int) -> None:
        self._applied_sequence = applied_sequence

    async def campaign(self, shard: int) -> None:
        if self._member is None:
            raise RuntimeError("only a storage node that has joined can lead: join first")
        if shard in self._nominated:
            raise RuntimeError(f"shard {shard}: already nominated")
        self._nominated.add(shard)

    async def announce(self, leader: Leader) -> None:
        if leader.shard not in self._nominated:
            raise NominationLost(f"not nominated for shard {leader.shard}")
        if self._led_before and leader.epoch != self._term:
            self._changes += 1
        self._led_before, self._term = True, leader.epoch
        self._lead(leader.shard, leader)

    async def resign(self, shard: int) -> None:
        self._nominated.discard(shard)
        if shard in self._leaders:
            self._lead(shard, None)

    def lease_valid(self) -> bool:
        return self._running and self._member is not None

    def on_lease_lost(self, callback: Callable[[], None]) -> None:
        """Take the callback; it is never called, since this lease cannot be lost."""
        self._lost_callbacks.append(callback)

    def watch_leader(self, shard: int, callback: LeaderCallback) -> Callable[[], None]:
        entry = (shard, callback)
        self._watchers.append(entry)
        if shard in self._leaders:
            callback(self._leaders[shard])
        return lambda: self._watchers.remove(entry) if entry in self._watchers else None

    def members(self) -> list[Member]:
        return [] if self._member is None else [replace(self._member, applied_sequence=self._applied_sequence)]

    @property
    def nodes_total(self) -> int:
        return len(self.members())

    @property
    def leader_changes_total(self) -> int:
        return self._changes

    @property
    def heartbeat_failures_total(self) -> int:
        return 0

    @property
    def replication_lag_ms(self) -> int:
        return 0

    def health(self) -> dict[str, Any]:
        reason = None if DEFAULT_SHARD in self._leaders else f"shard {DEFAULT_SHARD} has no leader"
        return {"healthy": reason is None, "reason": reason}

    def cluster_status(self) -> dict[str, Any]:
        health = self.health()
        node_id = None if self._member is None else self._member.node_id
        return {
            "healthy": health["healthy"],
            "role": "leader" if health["healthy"] else "candidate",
            "term": self._term,
            "peers": [],
            "replication_lag_ms": 0,
            "reason": health["reason"],
            "degraded": None,
            "node": node_id,
            "leader": node_id if health["healthy"] else None,
            "coordinator": None,
            "nodes": {} if node_id is None else {node_id: True},
        }

    def cluster_replication(self) -> dict[str, Any]:
        leads = DEFAULT_SHARD in self._leaders
        members = [
            {
                "node": member.node_id,
                "address": member.address,
                "role": "leader" if leads else "follower",
                "applied_sequence": member.applied_sequence,
                "lag_records": 0 if leads else None,
                "lag_ms": 0 if leads else None,
            }
            for member in self.members()
        ]
        return {
            "shard": DEFAULT_SHARD,
            "leader": members[0]["node"] if leads and members else None,
            "term": self._term,
            "replication_factor": 1,
            "placement": [member["node"] for member in members],
            "resolution_ms": 0,
            "members": members,
        }

    def _lead(self, shard: int, leader: Leader | None) -> None:
        if leader is None:
            del self._leaders[shard]
        elif self._leaders.get(shard) == leader:
            return
        else:
            self._leaders[shard] = leader
        # As etcd's view does: from the event loop, never from inside the caller's own step.
        loop = asyncio.get_running_loop()
        for entry in self._watchers:
            if entry[0] == shard:
                loop.call_soon(self._tell, entry, leader)

    def _tell(self, entry: tuple[int, LeaderCallback], leader: Leader | None) -> None:
        if entry in self._watchers:
            entry[1](leader)
