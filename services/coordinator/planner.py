"""What the coordinator would change: a pure function from the observed world and the goals to actions.

Owns the rules for node records, placement, the preferred leader and requests for a handover. Does no IO and reads no
clock. Every action names the revision that it was decided at, so that a stale plan cannot be carried out.

Nothing here is needed for a failover: nominations and leases work without a coordinator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from services.coordinator.store import ClusterConfig, NodeRecord, ShardRecord, Value, Versioned
from services.coordinator.view import World


@dataclass(frozen=True, slots=True)
class Goals:
    """What the cluster should look like."""

    shards: tuple[int, ...] = (0,)
    replication_factor: int = 1
    replace_after_us: int = 600_000_000
    """How long a dead node keeps its place while a spare node could take it: copying a replica is dear."""


@dataclass(frozen=True, slots=True)
class Action:
    """Write `value` to `key`, or delete it (None), if the key was last written at `expected_revision` (0: absent)."""

    key: str
    value: Value | None
    expected_revision: int
    sentence: str


def plan(world: World, goals: Goals, now_us: int) -> tuple[Action, ...]:
    """Return the actions that bring the world to the goals; none when it is there."""
    return (*_config(world, goals), *_nodes(world, now_us), *_shards(world, goals, now_us), *_handovers(world, goals))


def _config(world: World, goals: Goals) -> Iterator[Action]:
    stored = world.config()
    wanted = ClusterConfig(1, len(goals.shards), goals.replication_factor)
    if stored is not None:
        wanted = replace(wanted, version=stored.value.version)
        if stored.value == wanted:
            return
        wanted = replace(wanted, version=stored.value.version + 1)
    sentence = f"configuration is now version {wanted.version} with replication factor {wanted.replication_factor}"
    yield Action(world.keys.config, wanted, _revision(stored), sentence)


def _nodes(world: World, now_us: int) -> Iterator[Action]:
    members, nodes = world.members(), world.nodes()
    for name, member in members.items():
        known = nodes.get(name)
        seen = NodeRecord(name, member.address, member.operations_address, True, now_us)
        if known is None or replace(known.value, since_us=now_us) != seen:
            yield Action(world.keys.node(name), seen, _revision(known), f"node {name} is alive")
    for name, known in nodes.items():
        if known.value.alive and name not in members:
            dead = replace(known.value, alive=False, since_us=now_us)
            yield Action(world.keys.node(name), dead, known.mod_revision, f"node {name} is dead")


def _shards(world: World, goals: Goals, now_us: int) -> Iterator[Action]:
    replicas: Counter[str] = Counter()
    leads: Counter[str] = Counter()
    for shard in goals.shards:
        if (known := world.shard(shard)) is not None:
            replicas.update(known.value.placement)
            leads.update(filter(None, (known.value.preferred,)))
    for shard in goals.shards:
        known = world.shard(shard)
        before = ShardRecord(shard, goals.replication_factor, ()) if known is None else known.value
        replicas.subtract(before.placement)
        leads.subtract(filter(None, (before.preferred,)))
        placement = _placement(world, goals, now_us, shard, before.placement, replicas)
        preferred = _preferred(world, shard, placement, before.preferred, leads)
        after = ShardRecord(shard, goals.replication_factor, placement, preferred)
        replicas.update(placement)
        leads.update(filter(None, (preferred,)))
        if (known is None or after != before) and placement:
            sentence = f"shard {shard} is placed on {', '.join(placement)} and preferred on {preferred or 'none'}"
            yield Action(world.keys.shard(shard), after, _revision(known), sentence)


def _placement(
    world: World, goals: Goals, now_us: int, shard: int, before: tuple[str, ...], replicas: Counter[str]
) -> tuple[str, ...]:
    """Return who holds the shard's replicas: as few moves as the replication factor allows."""
    members, nodes, leader = world.members(), world.nodes(), world.leader(shard)
    spare = sorted(set(members) - set(before), key=lambda name: (replicas[name], name))

    def worth(name: str) -> tuple[bool, bool, int, str]:
        """Order for keeping a place: the leader, then live nodes, then those that died last."""
        known = nodes.get(name)
        return (
            leader is None or leader.node_id != name,
            name not in members,
            0 if name in members or known is None else -known.value.since_us,
            name,
        )

    kept = sorted(before, key=worth)[: goals.replication_factor]
    if leader is not None and leader.node_id in spare:
        spare.remove(leader.node_id)
        spare.insert(0, leader.node_id)
    while spare and len(kept) < goals.replication_factor:
        kept.append(spare.pop(0))
    bereft = not any(name in members for name in kept)
    for name in reversed(tuple(kept)):
        known = nodes.get(name)
        given_up = name not in members and (
            known is None
            or (not known.value.alive and now_us - known.value.since_us >= goals.replace_after_us)
            or (bereft and name == kept[-1])  # Nobody is left to lead it: one replica moves at once.
        )
        if given_up and spare:
            kept[kept.index(name)] = spare.pop(0)
    return tuple(sorted(kept))


def _preferred(
    world: World, shard: int, placement: tuple[str, ...], before: str | None, leads: Counter[str]
) -> str | None:
    """Return who should lead: whom the plan already names, else who leads now, else who leads least."""
    candidates = [name for name in placement if name in world.members()]
    if before in candidates:
        return before
    leader = world.leader(shard)
    if leader is not None and leader.node_id in candidates:
        return leader.node_id
    if not candidates:
        return before if before in placement else None
    return min(candidates, key=lambda name: (leads[name], name))


def _handovers(world: World, goals: Goals) -> Iterator[Action]:
    """Drop requests that are fulfilled, or that nobody can fulfil."""
    for shard in goals.shards:
        wanted = world.handover(shard)
        if wanted is None:
            continue
        leader = world.leader(shard)
        if wanted not in world.members() or (leader is not None and leader.node_id == wanted):
            key = world.keys.handover(shard)
            reason = "done" if wanted in world.members() else "void, the node is dead"
            sentence = f"handover of shard {shard} to {wanted} is {reason}"
            yield Action(key, None, world.entries[key].mod_revision, sentence)


def _revision(stored: Versioned[ClusterConfig] | Versioned[NodeRecord] | Versioned[ShardRecord] | None) -> int:
    return 0 if stored is None else stored.mod_revision
