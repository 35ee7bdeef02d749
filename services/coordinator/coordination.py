"""`EtcdCoordination`: a process's tie to a cluster whose membership and leadership etcd keeps.

Owns the order of things on the event loop: what is lost is told before anything new begins. The parts are
`registration` (the lease and the member record), `election` (one for each shard) and `view` (what etcd says).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import structlog

from orbit.chassis.etcd import EtcdClient
from orbit.chassis.etcd_nouns import Delete, EtcdSettings, Put
from services.coordinator.client import Leader, Member, NominationLost
from services.coordinator.election import Election
from services.coordinator.lease import boot_time
from services.coordinator.registration import Registration
from services.coordinator.server import LagMeter, health_document, replication_document, status_document
from services.coordinator.store import Keys, encode
from services.coordinator.view import ClusterView, World

_log = structlog.get_logger()

LAG_STEP_S: Final = 0.05
"""A candidate waits this long for each doubling of its lag behind the most advanced other member."""

LAG_LIMIT_S: Final = 1.0
PREFERENCE_S: Final = 0.15
"""A candidate lets the preferred leader, if it lives, go first by this much."""

UNPLACED_S: Final = 0.3
"""A node outside the shard's placement lets placed nodes that live go first by this much."""

JITTER_S: Final = 0.01


def campaign_delay_s(world: World, shard: int, node_id: str, applied_sequence: int) -> float:
    """Return how long a node lets others go first once a shard has no nominee."""
    others = {name: member for name, member in world.members().items() if name != node_id}
    best = max((member.applied_sequence for member in others.values()), default=0)
    delay_s = min(LAG_LIMIT_S, LAG_STEP_S * math.log2(1 + max(0, best - applied_sequence)))
    record = world.shard(shard)
    wanted = world.handover(shard) or (record.value.preferred if record is not None else None)
    if wanted in others:
        delay_s += PREFERENCE_S
    # Only for the sake of nodes that live: a plan that nobody keeps up must not delay a failover.
    if record is not None and node_id not in record.value.placement and others.keys() & set(record.value.placement):
        delay_s += UNPLACED_S
    return delay_s


class EtcdCoordination:
    """Implements `Coordination` and `ClusterReport`. Gateways use it without `join`."""

    def __init__(
        self,
        settings: EtcdSettings,
        *,
        region: str,
        root: str = "/orbit/",
        election_timeout_ms: int = 5000,
        heartbeat_interval_ms: int = 1000,
        connect_timeout_s: float = 10.0,
        now: Callable[[], float] = boot_time,
        jitter: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._keys = Keys(region, root)
        self._election_timeout_ms = election_timeout_ms
        self._heartbeat_interval_ms = heartbeat_interval_ms
        self._connect_timeout_s = connect_timeout_s
        self._now = now
        self._jitter = jitter or random.Random()
        self._client = EtcdClient(settings)
        self._view = ClusterView(self._client, self._keys)
        self._meter = LagMeter(heartbeat_interval_ms / 1000)
        self._member: Member | None = None
        self._applied_sequence = 0
        self._registration: Registration | None = None
        self._elections: dict[int, Election] = {}
        self._announced: dict[int, Leader] = {}
        self._resigned: set[int] = set()
        self._lost_callbacks: list[Callable[[], None]] = []
        self._handovers: set[asyncio.Task[None]] = set()
        self._unsubscribe: Callable[[], None] = lambda: None
        self._lease_valid: Callable[[], bool] = lambda: False
        self._stopped = False

    @property
    def nodes_total(self) -> int:
        return len(self._view.world.members())

    @property
    def leader_changes_total(self) -> int:
        return self._meter.leader_changes

    @property
    def heartbeat_failures_total(self) -> int:
        return 0 if self._registration is None else self._registration.heartbeat_failures

    @property
    def replication_lag_ms(self) -> int:
        lag_ms: int = self.cluster_status()["replication_lag_ms"]
        return lag_ms

    async def start(self) -> None:
        self._unsubscribe = self._view.subscribe(self._on_change)
        try:
            await self._view.start(self._connect_timeout_s)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Give everything back. Once stopped it stays so; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._unsubscribe()
        for handover in tuple(self._handovers):
            handover.cancel()
        for election in self._elections.values():
            await election.stop()
        if self._registration is not None:
            await self._registration.stop()
        await self._view.stop()
        await self._client.close()

    async def join(self, member: Member) -> None:
        """Register. Raises NodeIdTaken when another live process has this node id.

        A process that has died keeps its node id until its lease ends: its successor waits here for that.
        """
        if self._registration is not None:
            raise RuntimeError("already joined")
        self._member = member
        self._applied_sequence = member.applied_sequence
        registration = Registration(
            self._client,
            self._settings,
            key=self._keys.member(member.node_id),
            record=self._record,
            election_timeout_ms=self._election_timeout_ms,
            heartbeat_interval_ms=self._heartbeat_interval_ms,
            lost=self._on_lease_lost,
            now=self._now,
        )
        try:
            await registration.start()
        except BaseException:
            await registration.stop()
            raise
        self._registration = registration
        self._lease_valid = registration.valid

    def report(self, applied_sequence: int) -> None:
        self._applied_sequence = applied_sequence

    async def campaign(self, shard: int) -> None:
        election = self._election(shard)
        await election.win(lambda world: self._delay_s(world, shard))
        self._resigned.discard(shard)
        _log.info("nominated", shard=shard, node=self._node_id)

    async def announce(self, leader: Leader) -> None:
        election = self._election(leader.shard)
        reign = election.reign
        if reign is None:
            raise NominationLost(f"not nominated for shard {leader.shard}")
        put = Put(self._keys.leader(leader.shard), encode(leader), reign.lease.lease_id)
        await election.publish((put, Delete(self._keys.handover(leader.shard))))
        self._announced[leader.shard] = leader

    async def resign(self, shard: int) -> None:
        self._announced.pop(shard, None)
        election = self._elections.get(shard)
        if election is not None and election.reign is not None:
            self._resigned.add(shard)
            await election.resign((Delete(self._keys.leader(shard)),))
            _log.info("resigned", shard=shard, node=self._node_id)

    def lease_valid(self) -> bool:
        return self._lease_valid()

    def on_lease_lost(self, callback: Callable[[], None]) -> None:
        self._lost_callbacks.append(callback)

    def watch_leader(self, shard: int, callback: Callable[[Leader | None], None]) -> Callable[[], None]:
        def changed(before: World, after: World) -> None:
            if before.leader(shard) != after.leader(shard):
                callback(after.leader(shard))

        known = self._view.world.leader(shard)
        if known is not None:
            callback(known)
        return self._view.subscribe(changed)

    def members(self) -> list[Member]:
        return list(self._view.world.members().values())

    def health(self) -> dict[str, Any]:
        return health_document(self._view.world, self._view.connected)

    def cluster_status(self) -> dict[str, Any]:
        self._meter.observe(self._view.world, self._now())
        return status_document(self._view.world, self._meter, self._now(), self._view.connected, node_id=self._node_id)

    def cluster_replication(self) -> dict[str, Any]:
        self._meter.observe(self._view.world, self._now())
        return replication_document(self._view.world, self._meter, self._now())

    @property
    def _node_id(self) -> str | None:
        return None if self._member is None else self._member.node_id

    def _record(self) -> bytes:
        """Return the member record; called from the keep-alive's thread too."""
        assert self._member is not None
        return encode(replace(self._member, applied_sequence=self._applied_sequence))

    def _election(self, shard: int) -> Election:
        if self._registration is None or self._member is None:
            raise RuntimeError("only a storage node that has joined can lead: join first")
        if shard not in self._elections:
            key = self._keys.nomination(shard)
            self._elections[shard] = Election(self._client, self._view, self._registration, key, self._member.node_id)
        return self._elections[shard]

    def _delay_s(self, world: World, shard: int) -> float:
        assert self._member is not None
        delay_s = campaign_delay_s(world, shard, self._member.node_id, self._applied_sequence)
        if shard in self._resigned and len(world.members()) > 1:
            delay_s += self._heartbeat_interval_ms / 1000
        return delay_s + self._jitter.random() * JITTER_S

    def _on_change(self, _: World, world: World) -> None:
        self._meter.observe(world, self._now())
        self._resigned = {shard for shard in self._resigned if not self._led_by_another(world, shard)}
        lost = [shard for shard, election in self._elections.items() if election.seen(world)]
        if lost and self._registration is not None:
            # With the lease it was lost under: nothing of that reign may look valid when the callbacks run.
            self._registration.abandon(f"the nomination for shard {lost[0]} was deleted")
        for shard in tuple(self._announced):
            wanted = world.handover(shard)
            if wanted is not None and wanted != self._node_id and wanted in world.members():
                self._hand_over(shard, wanted)

    def _led_by_another(self, world: World, shard: int) -> bool:
        """Return whether the shard found a successor, so that this node may campaign like any other again."""
        leader = world.leader(shard)
        return leader is not None and leader.node_id != self._node_id

    def _on_lease_lost(self, reason: str) -> None:
        for election in self._elections.values():
            election.reign = None
        self._announced.clear()
        self._tell_lost()

    def _hand_over(self, shard: int, wanted: str) -> None:
        """Step down for the node that an operator wants: stop serving first, then let the nomination go."""
        _log.info("handing over", shard=shard, to=wanted)
        self._announced.pop(shard, None)
        self._tell_lost()
        task = asyncio.create_task(self.resign(shard), name="hand-over")
        self._handovers.add(task)
        task.add_done_callback(self._handovers.discard)

    def _tell_lost(self) -> None:
        for callback in tuple(self._lost_callbacks):
            callback()
