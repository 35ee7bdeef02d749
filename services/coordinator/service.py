"""The coordinator service: several instances, of which the one that etcd's election makes active plans and writes.

Owns the control loop, and the documents and figures that every instance, active or not, serves from its own view.
Serves no HTTP: `orbit.chassis.operations` calls `health`, `cluster_status` and `cluster_replication`.

No failover waits for it: leases and nominations are between storage nodes and etcd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from orbit.chassis.etcd import EtcdClient
from orbit.chassis.etcd_nouns import EtcdError, EtcdSettings
from orbit.kernel.clock import Clock, SystemClock
from services.coordinator.election import Election
from services.coordinator.lease import boot_time
from services.coordinator.planner import Goals, plan
from services.coordinator.reconciler import Reconciler
from services.coordinator.registration import Registration
from services.coordinator.server import LagMeter, replication_document, status_document
from services.coordinator.store import Instance, Keys, encode
from services.coordinator.view import ClusterView, World

_log = structlog.get_logger()

TURN_S: Final = 1.0
"""The longest time between two turns of the active coordinator; a change of the world starts one at once."""


class CoordinatorService:
    """One instance. Implements `ClusterReport`."""

    def __init__(
        self,
        settings: EtcdSettings,
        *,
        region: str,
        instance_id: str,
        operations_address: str,
        goals: Goals,
        root: str = "/orbit/",
        election_timeout_ms: int = 5000,
        heartbeat_interval_ms: int = 1000,
        connect_timeout_s: float = 10.0,
        clock: Clock | None = None,
        now: Callable[[], float] = boot_time,
    ) -> None:
        self._keys = Keys(region, root)
        self._goals = goals
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock or SystemClock()
        self._now = now
        self._instance = Instance(instance_id, operations_address, self._clock.now_us())
        self._client = EtcdClient(settings)
        self._view = ClusterView(self._client, self._keys)
        self._meter = LagMeter(heartbeat_interval_ms / 1000)
        self._reconciler = Reconciler(self._client, self._view)
        self._registration = Registration(
            self._client,
            settings,
            key=self._keys.coordinator(instance_id),
            record=lambda: encode(self._instance),
            election_timeout_ms=election_timeout_ms,
            heartbeat_interval_ms=heartbeat_interval_ms,
            lost=self._on_lease_lost,
            now=now,
        )
        self._election = Election(self._client, self._view, self._registration, self._keys.active, instance_id)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None
        self._stopped = False

    async def start(self) -> None:
        """Connect, register and begin to campaign. Raises EtcdError with the endpoint's name, NodeIdTaken."""
        self._unsubscribe = self._view.subscribe(self._on_change)
        try:
            await self._view.start(self._connect_timeout_s)
            await self._registration.start()
        except BaseException:
            await self.stop()
            raise
        self._task = asyncio.create_task(self._run(), name="coordinator")

    async def stop(self) -> None:
        """Pass activity on at once, and disconnect. Once stopped it stays so; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        await self._election.stop()
        await self._registration.stop()
        await self._view.stop()
        await self._client.close()

    async def ended(self) -> None:
        """Return or raise when the control loop has died; for the process's watch over its parts."""
        if self._task is not None:
            await asyncio.shield(self._task)

    @property
    def active(self) -> bool:
        """Whether this instance plans and writes."""
        return self._election.reign is not None and self._registration.valid()

    @property
    def nodes_total(self) -> int:
        return len(self._view.world.members())

    @property
    def leader_changes_total(self) -> int:
        return self._meter.leader_changes

    @property
    def heartbeat_failures_total(self) -> int:
        return self._registration.heartbeat_failures

    @property
    def replication_lag_ms(self) -> int:
        lag_ms: int = self.cluster_status()["replication_lag_ms"]
        return lag_ms

    def health(self) -> dict[str, Any]:
        """Return whether this instance can do its work. The cluster's health is in `cluster_status`."""
        reason = None
        if not self._view.connected:
            reason = "etcd does not answer: the view of the cluster may be old"
        elif not self._registration.valid():
            reason = "the lease of this coordinator is not proven"
        return {"healthy": reason is None, "reason": reason}

    def cluster_status(self) -> dict[str, Any]:
        role = "active" if self.active else "standby"
        return status_document(self._view.world, self._meter, self._now(), self._view.connected, role=role)

    def cluster_replication(self) -> dict[str, Any]:
        return replication_document(self._view.world, self._meter, self._now())

    async def switch_over(self, shard: int, node_id: str, timeout_s: float = 10.0) -> None:
        """Move leadership of the shard to the node. Raises SwitchOverRefused with the reason, EtcdError."""
        await self._reconciler.switch_over(shard, node_id, timeout_s)

    async def _run(self) -> None:
        while True:
            await self._election.win(lambda _: 0.0)
            _log.info("coordinator is active", instance=self._instance.instance_id)
            while self._election.reign is not None:
                self._changed.clear()
                await self._turn()
                try:
                    async with asyncio.timeout(TURN_S):
                        await self._changed.wait()
                except TimeoutError:
                    continue
            _log.warning("coordinator is no longer active", instance=self._instance.instance_id)

    async def _turn(self) -> None:
        """Plan once and carry the plan out; say so in one sentence if anything changed."""
        reign = self._election.reign
        if reign is None or not self._registration.valid():
            return
        actions = plan(self._view.world, self._goals, self._clock.now_us())
        try:
            turn = await self._reconciler.carry_out(actions, reign)
        except EtcdError as error:
            _log.warning("coordinator cannot write to etcd", planned=len(actions), error=str(error))
            return
        if turn.done or turn.conflicts:
            _log.info("; ".join(turn.done) or "nothing changed", conflicts=turn.conflicts)

    def _on_change(self, _: World, world: World) -> None:
        self._meter.observe(world, self._now())
        self._election.seen(world)
        self._changed.set()

    def _on_lease_lost(self, _: str) -> None:
        self._election.reign = None
        self._changed.set()
