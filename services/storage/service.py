"""One storage node as a component: its disk, its state, its role, its servers.

Owns the assembly of the node and the order in which its parts start and stop; `wiring` makes its settings from the
configuration.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from orbit.chassis.operations import Health
from orbit.chassis.rpc import RpcServer
from orbit.kernel.clock import Clock, SystemClock
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.ids import DEFAULT_SHARD
from orbit.kernel.limits import LEADER_WAIT_S
from orbit.kernel.redis_schema import REDIS_TABLES
from orbit.kernel.schema import Catalog
from orbit.kernel.scram import make_verifier
from services.coordinator.client import Leader, Member
from services.storage.bootstrap import bootstrap
from services.storage.checkpoint import Checkpointer
from services.storage.client import Credentials, SessionOwner
from services.storage.engine import Engine
from services.storage.log.interface import Log
from services.storage.maintenance import Maintenance, MaintenanceSettings
from services.storage.mover import LeaderMoves
from services.storage.moves import SnapshotRef
from services.storage.moves_rpc import MovesServicer
from services.storage.node import Node, NodeSettings, Role
from services.storage.replication import Replicator
from services.storage.replication_rpc import ReplicationServicer
from services.storage.server import SessionsServicer
from services.storage.session import StorageSession
from services.storage.sql.planner import Planner
from services.storage.sql.queries import QueryPlanner
from services.storage.state import State
from services.storage.tiers.cold_source import ColdColumns
from services.storage.tiers.warm import WarmStore
from services.storage.traced import traced_leader
from services.storage.txn.transaction import Isolation

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """What one node is told."""

    node: NodeSettings
    operations_address: str
    database: str
    user: str
    password: str
    rocksdb_path: Path
    block_cache_bytes: int
    write_buffer_bytes: int
    max_open_files: int
    column_cache_bytes: int
    maintenance: MaintenanceSettings
    isolation: Isolation
    max_transactions: int
    transaction_timeout_ms: int
    executor_threads: int
    query_memory_bytes: int
    region: str
    read_only: bool
    """A replica region's node: local writes are refused, and another region's commits are applied."""


class StorageService:
    """See the module. `open_log` connects to the log; `cold` reads the warehouse, None when there is none."""

    def __init__(
        self,
        settings: StorageSettings,
        coordination: Any,
        open_log: Callable[[], Awaitable[Log]],
        rpc: RpcServer,
        cold: ColdColumns | None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.coordination = coordination
        self.state = State(Catalog({}, 0))
        self.clock = clock or SystemClock()
        self.engine = Engine(self.state, self.clock, max_concurrent=settings.max_transactions)
        self.rpc = rpc
        self._open_log = open_log
        self._cold = cold
        self._sessions: set[StorageSession] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._leader_address = ""
        self._unwatch_leader: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Open the disk, load the checkpoint, connect the log, follow. Returns when the node follows or leads."""
        settings = self.settings
        began = time.monotonic()
        self.warm = WarmStore(
            settings.rocksdb_path,
            block_cache_bytes=settings.block_cache_bytes,
            write_buffer_bytes=settings.write_buffer_bytes,
            max_open_files=settings.max_open_files,
            column_cache_bytes=settings.column_cache_bytes,
        )
        self.checkpointer = Checkpointer(self.state, self.warm, self._cold)
        found = self.checkpointer.load()
        self.queries = QueryPlanner(
            self.engine, threads=settings.executor_threads, memory_bytes=settings.query_memory_bytes
        )
        self.planner = Planner(
            self.engine,
            self.queries,
            default_isolation=settings.isolation,
            make_verifier=make_verifier,
            session_closed=self._sessions.discard,
        )
        self.maintenance = Maintenance(
            self.state, self.warm, self.checkpointer, self.clock, settings.maintenance, self._cold
        )
        self.log = await self._open_log()
        self.node = Node(settings.node, self.engine, self.log, self.coordination, self.clock, self._bootstrap)
        self.node.on_deposed.append(self._deposed)
        self.moves = LeaderMoves(self.engine, self.checkpointer.saved)
        SessionsServicer(self.open_session, self.find_credentials).register(self.rpc.server)
        MovesServicer(lambda shard: self.moves if shard == DEFAULT_SHARD and self.node.leading else None).register(
            self.rpc.server
        )
        self._unwatch_leader = self.coordination.watch_leader(DEFAULT_SHARD, self._leader_changed)
        ReplicationServicer(
            Replicator(self.engine, settings.region, accepts=settings.read_only),
            lambda: self.node.leading,
            lambda: self._leader_address,
        ).register(self.rpc.server)
        await self.rpc.start()
        await self.coordination.join(
            Member(
                settings.node.node_id,
                settings.node.address,
                settings.operations_address,
                self.state.applied_sequence,
                self.clock.now_us(),
            )
        )
        await self.node.start()
        await self.maintenance.start()
        self._sweeper = asyncio.create_task(self._expire_transactions(), name="transaction-timeouts")
        _log.info(
            "storage started",
            checkpoint=found,
            sequence=self.state.applied_sequence,
            seconds=round(time.monotonic() - began, 3),
        )

    async def stop(self) -> None:
        """Step down, write a last checkpoint, let go of everything."""
        self._unwatch_leader()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        if hasattr(self, "node"):
            await self.node.stop()
            await self.rpc.stop()
            await self.maintenance.stop()
            await self.log.close()
        if hasattr(self, "queries"):
            self.queries.close()
        if hasattr(self, "warm"):
            self.warm.close()

    async def ended(self) -> None:
        """Wait until the node can no longer do its part; raises why."""
        await self.node.ended()
        # A node that has found its log corrupt stays up to say so.
        await asyncio.Event().wait()

    # Sessions.

    def open_session(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> StorageSession:
        """Open a session on this node. Raises NotLeader, 3D000."""
        tracing = self.engine.tracing
        if tracing.enabled:
            traced: StorageSession = traced_leader(
                lambda inner: self._open_session(user, database, settings, inner), owner, tracing
            )
            return traced
        return self._open_session(user, database, settings, owner)

    def _open_session(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> StorageSession:
        self.engine.check_leading()
        if database != self.settings.database:
            raise OrbitError(f'database "{database}" does not exist', sqlstate="3D000", severity="FATAL")
        session = StorageSession(self.engine, self.planner, owner, user, database, settings)
        session.region_read_only = self.settings.read_only
        self._sessions.add(session)
        return session

    def find_credentials(self, user: str) -> Credentials | None:
        """Return a role's credentials. Raises NotLeader."""
        self.engine.check_leading()
        role = self.state.catalog.role(user)
        return None if role is None else Credentials(role.name, role.verifier, role.login)

    async def _bootstrap(self) -> None:
        settings = self.settings
        if settings.read_only:
            return

        def open_session(user: str, owner: SessionOwner) -> StorageSession:
            return StorageSession(self.engine, self.planner, owner, user, settings.database, {})

        await bootstrap(open_session, settings.user, self.planner.verifier(settings.password), REDIS_TABLES)
        _log.info("database created", database=settings.database, user=settings.user)

    def _leader_changed(self, leader: Leader | None) -> None:
        self._leader_address = "" if leader is None else leader.address

    def _deposed(self, error: OrbitError) -> None:
        for session in list(self._sessions):
            session.deposed(error)

    async def _expire_transactions(self) -> None:
        """Abort transactions that are older than TRANSACTION_TIMEOUT_MS."""
        limit_us = self.settings.transaction_timeout_ms * 1000
        while True:
            await asyncio.sleep(min(1.0, self.settings.transaction_timeout_ms / 2000))
            before = self.clock.now_us() - limit_us
            for session in list(self._sessions):
                transaction = session.transaction
                if transaction is not None and transaction.started_us < before:
                    session.transaction_expired()

    # What the operations port tells.

    def health(self) -> Health:
        """Return the node's health from what it observes."""
        reasons: list[str] = []
        if self.node.failure is not None:
            reasons.append(self.node.failure)
        durability = self.log.durable()
        if durability is not None and self.node.leading:
            reasons.append(durability)
        if self.maintenance.failing is not None:
            reasons.append(self.maintenance.failing)
        cluster = self.coordination.cluster_status()
        led = self.node.leading or cluster["leader"] is not None
        if not led:
            reasons.append("the shard has no leader")
        return Health(
            healthy=not reasons,
            ready=led and self.node.failure is None,
            role=self.node.role.value if self.node.role is not Role.STARTING else "candidate",
            term=self.state.epoch,
            peers=cluster["peers"],
            replication_lag_ms=cluster["replication_lag_ms"],
            durability="checked" if durability is None else durability,
            reasons=reasons,
            details={"applied_sequence": self.state.applied_sequence, "node": self.settings.node.node_id},
        )

    # Metrics are scraped before the parts are there, too.

    def hot_bytes(self) -> int:
        return self.maintenance.hot_bytes() if hasattr(self, "maintenance") else 0

    def tier_migrations(self) -> int:
        return self.maintenance.migrations_total if hasattr(self, "maintenance") else 0

    def plan_cache_hits(self) -> int:
        return self.planner.cache_hits if hasattr(self, "planner") else 0

    def rows_written(self, tier: str) -> int:
        """Return rows written into a tier: changes applied (hot), rows that moved there (warm, cold)."""
        if tier == "hot":
            return self.state.rows_written
        return self.maintenance.rows_moved[tier] if hasattr(self, "maintenance") else 0

    def tier_bytes(self, tier: str) -> int:
        """Return the bytes of a tier over all tables."""
        return sum(store.tier_report()[tier]["bytes"] for store in self.state.stores.values())

    async def tiers(self) -> dict[str, Any]:
        """Return `/tiers`: for each table and tier its rows, bytes and files (data files in the cold tier)."""
        tables = []
        for table in self.state.catalog.tables():
            report = self.state.stores[table.storage_id].tier_report()
            last = self.state.cold.get(table.storage_id)
            if last is not None and self._cold is not None:
                ref = SnapshotRef(last.metadata_location, last.snapshot_id)
                files, size = await asyncio.to_thread(self._cold.files, ref)
                report["cold"]["files"], report["cold"]["bytes"] = files, size
            tables.append({"table": f"{table.schema}.{table.name}", "tiers": report})
        return {"tables": tables}


class DirectBackend:
    """`Backend` of a gateway in the same process."""

    def __init__(self, service: StorageService) -> None:
        self._service = service

    async def credentials(self, user: str) -> Credentials | None:
        deadline = time.monotonic() + LEADER_WAIT_S
        while True:
            try:
                return self._service.find_credentials(user)
            except NotLeader:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(0.05)

    def open(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> StorageSession:
        return self._service.open_session(user, database, settings, owner)
