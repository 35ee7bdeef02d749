"""What the operations endpoints tell about the cluster: `/health`, `/cluster/status`, `/cluster/replication`.

Owns the JSON shapes and `LagMeter`, which turns the sequences that members report into milliseconds. Pure: gets the
observed world and the time, and serves no HTTP itself (`orbit.chassis.operations` does).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from orbit.kernel.ids import DEFAULT_SHARD
from services.coordinator.client import Leader
from services.coordinator.view import World

SAMPLES: Final = 4096
"""Reports of the leader's progress that are remembered: more than an hour of them at one a second."""


@dataclass(slots=True)
class LagMeter:
    """Measures replication lag from members' reports, and counts changes of leadership.

    A member lags since the first report in which the leader was past what the member has applied. Members report
    once in a heartbeat interval, so the lag is known to that interval only, which is subtracted: a follower that
    keeps up shows 0.
    """

    interval_s: float
    leader_changes: int = 0
    _leader: Leader | None = None
    _samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def observe(self, world: World, now_s: float) -> None:
        """Take in what the world says of the leader."""
        leader = world.leader(DEFAULT_SHARD)
        if leader is None:
            return
        if self._leader is not None and (leader.node_id, leader.epoch) != (self._leader.node_id, self._leader.epoch):
            self.leader_changes += 1
        self._leader = leader
        member = world.members().get(leader.node_id)
        if member is not None and (not self._samples or member.applied_sequence > self._samples[-1][1]):
            self._samples.append((now_s, member.applied_sequence))

    @property
    def last_leader(self) -> Leader | None:
        """The leader seen last: its epoch is the term even while nobody leads."""
        return self._leader

    def lag_records(self, world: World, node_id: str) -> int | None:
        """Return how many records a live member is behind the leader's last report; None when it is not known."""
        member = world.members().get(node_id)
        if member is None or not self._samples:
            return None
        return max(0, self._samples[-1][1] - member.applied_sequence)

    def lag_ms(self, world: World, node_id: str, now_s: float) -> int | None:
        """Return for how long a live member has been behind; None when it is not known."""
        member = world.members().get(node_id)
        if member is None or not self._samples:
            return None
        since = next((at for at, sequence in self._samples if sequence > member.applied_sequence), None)
        return 0 if since is None else max(0, round((now_s - since - self.interval_s) * 1000))


def health_document(world: World, connected: bool) -> dict[str, Any]:
    """Return whether the cluster can serve, and if not, why."""
    reason = _trouble(world, connected)
    return {"healthy": reason is None, "reason": reason}


def status_document(
    world: World,
    meter: LagMeter,
    now_s: float,
    connected: bool,
    *,
    node_id: str | None = None,
    role: str | None = None,
) -> dict[str, Any]:
    """Return `/cluster/status` as the process sees it.

    For a storage node (`node_id`): role is leader, follower or candidate (nobody leads), and the lag is its own, or
    the worst of its followers where it leads. For any other process: the worst lag of all, and `role` as given.
    """
    leader = world.leader(DEFAULT_SHARD)
    members = world.members()
    reason = _trouble(world, connected)
    if node_id is None:
        shown = role or "observer"
    elif leader is None:
        shown = "candidate"
    else:
        shown = "leader" if leader.node_id == node_id else "follower"
    measured = (
        [node_id] if shown == "follower" and node_id in members else [name for name in members if name != node_id]
    )
    lags = [lag for name in measured if name is not None and (lag := meter.lag_ms(world, name, now_s)) is not None]
    return {
        "healthy": reason is None,
        "role": shown,
        "term": 0 if meter.last_leader is None else meter.last_leader.epoch,
        "peers": [member.address for name, member in members.items() if name != node_id],
        "replication_lag_ms": max(lags, default=0),
        "reason": reason,
        "degraded": _degraded(world),
        "node": node_id,
        "leader": None if leader is None else leader.node_id,
        "coordinator": world.active(),
        "nodes": {name: node.value.alive for name, node in world.nodes().items()},
    }


def replication_document(world: World, meter: LagMeter, now_s: float) -> dict[str, Any]:
    """Return `/cluster/replication`: every live member's progress."""
    leader = world.leader(DEFAULT_SHARD)
    record = world.shard(DEFAULT_SHARD)
    return {
        "shard": DEFAULT_SHARD,
        "leader": None if leader is None else leader.node_id,
        "term": 0 if meter.last_leader is None else meter.last_leader.epoch,
        "replication_factor": None if record is None else record.value.replication_factor,
        "placement": [] if record is None else list(record.value.placement),
        "resolution_ms": round(meter.interval_s * 1000),
        "members": [
            {
                "node": name,
                "address": member.address,
                "role": "leader" if leader is not None and leader.node_id == name else "follower",
                "applied_sequence": member.applied_sequence,
                "lag_records": meter.lag_records(world, name),
                "lag_ms": meter.lag_ms(world, name, now_s),
            }
            for name, member in world.members().items()
        ],
    }


def _trouble(world: World, connected: bool) -> str | None:
    """Return why the cluster is not healthy, or None."""
    if not connected:
        return "etcd does not answer: the view of the cluster may be old"
    members = world.members()
    if not members:
        return "no storage node is alive"
    if world.leader(DEFAULT_SHARD) is None:
        return f"shard {DEFAULT_SHARD} has no leader"
    return None


def _degraded(world: World) -> str | None:
    """Return what is missing from the plan although the cluster serves: the log, not the nodes, holds the majority."""
    record, members = world.shard(DEFAULT_SHARD), world.members()
    if record is None:
        return None
    alive = sum(1 for name in record.value.placement if name in members)
    wanted = record.value.replication_factor
    return None if alive >= wanted else f"shard {DEFAULT_SHARD} has {alive} live replicas of {wanted}"
