"""What other services see of coordination: membership, leases, leadership.

Owns the contract and the two implementations' common nouns. `EmbeddedCoordination` (one node, no etcd) and
`EtcdCoordination` are interchangeable: same code path in storage and gateways. Both are importable from here and
loaded at first use, so that a single node never loads an etcd client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from orbit.chassis.config import Config
    from orbit.chassis.metrics import Metrics
    from services.coordinator.coordination import EtcdCoordination
    from services.coordinator.embedded import EmbeddedCoordination

__all__ = [
    "ClusterReport",
    "Coordination",
    "EmbeddedCoordination",
    "EtcdCoordination",
    "Leader",
    "Member",
    "NodeIdTaken",
    "NominationLost",
    "feed_metrics",
    "make_coordination",
]


@dataclass(frozen=True, slots=True)
class Member:
    """One live storage node, as its lease-bound record says."""

    node_id: str
    address: str
    """host:port of its storage gRPC server."""
    operations_address: str
    """host:port of its operations endpoint."""
    applied_sequence: int
    started_us: int


@dataclass(frozen=True, slots=True)
class Leader:
    """The node that leads a shard, once its EPOCH record is in the log."""

    shard: int
    node_id: str
    address: str
    epoch: int


class NodeIdTaken(Exception):
    """Another live process is registered under this node id."""


class NominationLost(RuntimeError):
    """The node is not, or no longer, nominated to lead the shard."""


class ClusterReport(Protocol):
    """The cluster as one process sees it, in the JSON shapes of the operations endpoints.

    Offered by every `Coordination` here and by the coordinator service.
    """

    @property
    def nodes_total(self) -> int:
        """Live storage nodes (`orbit_cluster_nodes_total`)."""
        ...

    @property
    def leader_changes_total(self) -> int:
        """Changes of the leader seen since the start (`orbit_cluster_leader_changes_total`)."""
        ...

    @property
    def heartbeat_failures_total(self) -> int:
        """Keep-alives of this process's lease that failed (`orbit_raft_heartbeat_failures_total`)."""
        ...

    @property
    def replication_lag_ms(self) -> int:
        """A follower's own lag, elsewhere the worst of all (`orbit_cluster_replication_lag_ms`)."""
        ...

    def health(self) -> dict[str, Any]:
        """Return {"healthy": bool, "reason": text or None}: whether the store answers and every shard has a leader."""
        ...

    def cluster_status(self) -> dict[str, Any]:
        """Return `/cluster/status`: healthy, role, term, peers, replication_lag_ms, and what explains them."""
        ...

    def cluster_replication(self) -> dict[str, Any]:
        """Return `/cluster/replication`: for each member its applied sequence, and its lag in records and ms."""
        ...


class Coordination(Protocol):
    """One process's tie to the cluster's membership and leadership."""

    async def start(self) -> None:
        """Connect. Raises OSError with the endpoint's name when the store cannot be reached in time."""
        ...

    async def stop(self) -> None:
        """Resign what is led, give the lease back and disconnect."""
        ...

    async def join(self, member: Member) -> None:
        """Register this storage node under a kept-alive lease; registers again by itself after a lost lease."""
        ...

    def report(self, applied_sequence: int) -> None:
        """Tell progress; published with the next keep-alive, and used to delay this node's own campaigns."""
        ...

    async def campaign(self, shard: int) -> None:
        """Wait until this node is nominated to lead the shard. Cancel to give up."""
        ...

    async def announce(self, leader: Leader) -> None:
        """Publish leadership after the EPOCH record is in the log. Raises RuntimeError when the nomination is gone."""
        ...

    async def resign(self, shard: int) -> None:
        """Give the nomination back, so that a successor need not wait for the lease to end."""
        ...

    def lease_valid(self) -> bool:
        """Return whether the lease surely still holds.

        That is: by the time since *sending* the last good keep-alive, less a margin.
        """
        ...

    def on_lease_lost(self, callback: Callable[[], None]) -> None:
        """Call back, from the event loop, once for each loss of the lease or nomination.

        When the callback returns, the node must have stopped serving what it led: a successor may be nominated then.
        """
        ...

    def watch_leader(self, shard: int, callback: Callable[[Leader | None], None]) -> Callable[[], None]:
        """Call back now (if known) and at each change, from the event loop. Returns the unsubscriber."""
        ...

    def members(self) -> list[Member]:
        """Return the live members, from the watched view."""
        ...


def make_coordination(config: Config) -> EmbeddedCoordination | EtcdCoordination:
    """Return the coordination that the configuration asks for, not started. For a service's wiring.

    Raises OSError when a certificate cannot be read, ValueError when the etcd settings contradict each other.
    """
    from services.coordinator.wiring import make

    return make(config)


def feed_metrics(metrics: Metrics, report: ClusterReport) -> None:
    """Let the cluster's metrics be read from the report at each scrape. For a service's wiring."""
    from services.coordinator.wiring import feed

    feed(metrics, report)


def __getattr__(name: str) -> Any:
    """Load an implementation when its name is first asked for."""
    match name:
        case "EmbeddedCoordination":
            from services.coordinator.embedded import EmbeddedCoordination

            return EmbeddedCoordination
        case "EtcdCoordination":
            from services.coordinator.coordination import EtcdCoordination

            return EtcdCoordination
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
