"""What the coordinator keeps in etcd: the keys, and the shape of each value.

Owns the layout below and its encoding. Does no IO.

    /orbit/<region>/members/<node>           lease   Member         a live storage node and its progress
    /orbit/<region>/coordinators/<instance>  lease   Instance       a live coordinator
    /orbit/<region>/coordinator/active       lease   Candidate      the coordinator that plans
    /orbit/<region>/shards/<id>/nomination   lease   Candidate      the node that may lead; its create revision fences
    /orbit/<region>/shards/<id>/leader       lease   Leader         the node that leads, since its EPOCH is in the log
    /orbit/<region>/shards/<id>/record               ShardRecord    replicas, preferred leader: the coordinator's plan
    /orbit/<region>/shards/<id>/handover             Candidate      the node that an operator wants as leader
    /orbit/<region>/nodes/<node>                     NodeRecord     every node ever seen, alive or dead
    /orbit/<region>/config/version                   ClusterConfig  cluster-wide settings and their version

The root, `/orbit/`, is a setting (`coordinator.prefix`).

A key under a lease goes with its owner. Nobody but its owner ever deletes a nomination: while it exists its owner
may believe that it leads, and only the end of the owner's lease, or its own resignation, proves otherwise.
Values are JSON, so that a person can read them with etcdctl.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from orbit.chassis.etcd_nouns import KeyValue
from services.coordinator.client import Leader, Member

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Candidate:
    """Whom a nomination, the active coordinator's key or a handover names."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Instance:
    """One live coordinator, active or standing by."""

    instance_id: str
    operations_address: str
    started_us: int


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """The plan for one shard."""

    shard: int
    replication_factor: int
    placement: tuple[str, ...]
    """Nodes that hold a replica, sorted."""
    preferred: str | None = None
    """The node that should lead, other things being equal."""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """What is remembered of a node when its lease is gone."""

    node_id: str
    address: str
    operations_address: str
    alive: bool
    since_us: int
    """When it became alive or dead, by the active coordinator's clock."""


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Settings that every coordinator must agree on; `version` grows with each change."""

    version: int
    shards: int
    replication_factor: int


Value = Member | Instance | Candidate | Leader | ShardRecord | NodeRecord | ClusterConfig


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A decoded value and what etcd knows of its key."""

    value: T
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one region."""

    region: str
    root: str = "/orbit/"

    def __post_init__(self) -> None:
        if not self.region or "/" in self.region:
            raise ValueError(f"region {self.region!r} must be a name without a slash")
        if not (self.root.startswith("/") and self.root.endswith("/")):
            raise ValueError(f"etcd prefix {self.root!r} must begin and end with a slash")

    @property
    def prefix(self) -> str:
        return f"{self.root}{self.region}/"

    def member(self, node_id: str) -> str:
        return f"{self.prefix}members/{node_id}"

    def coordinator(self, instance_id: str) -> str:
        return f"{self.prefix}coordinators/{instance_id}"

    @property
    def active(self) -> str:
        return f"{self.prefix}coordinator/active"

    def nomination(self, shard: int) -> str:
        return f"{self.prefix}shards/{shard}/nomination"

    def leader(self, shard: int) -> str:
        return f"{self.prefix}shards/{shard}/leader"

    def shard(self, shard: int) -> str:
        return f"{self.prefix}shards/{shard}/record"

    def handover(self, shard: int) -> str:
        return f"{self.prefix}shards/{shard}/handover"

    def node(self, node_id: str) -> str:
        return f"{self.prefix}nodes/{node_id}"

    @property
    def config(self) -> str:
        return f"{self.prefix}config/version"

    def type_of(self, key: str) -> type[Any] | None:
        """Return what the key's value decodes to; None for a key that this version does not know."""
        match key.removeprefix(self.prefix).split("/"):
            case ["members", _]:
                return Member
            case ["coordinators", _]:
                return Instance
            case ["coordinator", "active"] | ["shards", _, "nomination" | "handover"]:
                return Candidate
            case ["shards", _, "leader"]:
                return Leader
            case ["shards", _, "record"]:
                return ShardRecord
            case ["nodes", _]:
                return NodeRecord
            case ["config", "version"]:
                return ClusterConfig
            case _:
                return None


encode = msgspec.json.Encoder().encode
"""Returns the JSON of any of the values above."""


def decode(keys: Keys, stored: KeyValue) -> Versioned[Any] | None:
    """Return the decoded value; None for an unknown key. Raises msgspec.DecodeError when the value is not its type."""
    shape = keys.type_of(stored.key)
    if shape is None:
        return None
    value = msgspec.json.decode(stored.value, type=shape)
    return Versioned(value, stored.create_revision, stored.mod_revision, stored.lease)
