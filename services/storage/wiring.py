"""From the configuration to a storage node: settings, connections, the cold tier's reader.

Owns that translation. Nothing connects before the service starts.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from orbit.chassis.config import Config
from orbit.chassis.metrics import (
    COLD_TIER_SIZE,
    DEADLOCKS,
    HOT_TIER_SIZE,
    QUERY_CACHE_HITS,
    QUERY_DURATION,
    QUERY_ROWS_SCANNED,
    SIMD_OPERATIONS,
    STORAGE_OPERATION_DURATION,
    STORAGE_OPERATIONS,
    TIER_MIGRATIONS,
    TRANSACTION_CONFLICTS,
    TRANSACTION_DURATION,
    TRANSACTIONS,
    TRANSACTIONS_ACTIVE,
    WARM_TIER_SIZE,
    Metrics,
)
from orbit.chassis.nats import NatsConnection, NatsOptions
from orbit.chassis.nats_server import NatsServer
from orbit.chassis.rpc import RpcServer
from orbit.chassis.tls import TlsFiles, client_context, tls_files
from orbit.kernel.ids import DEFAULT_SHARD
from services.storage.log.interface import Log
from services.storage.log.jetstream import JetStreamLog
from services.storage.maintenance import MaintenanceSettings
from services.storage.meters import TIERS
from services.storage.node import NodeSettings
from services.storage.service import StorageService, StorageSettings
from services.storage.tiers.cold_source import ColdColumns
from services.storage.tiers.demotion import HotLimits
from services.storage.txn.transaction import Isolation

GIB = 1 << 30
HOUR_US = 3_600_000_000
_ISOLATION = {
    "ReadUncommitted": Isolation.READ_COMMITTED,
    "ReadCommitted": Isolation.READ_COMMITTED,
    "RepeatableRead": Isolation.REPEATABLE_READ,
}
COLD_CACHE_BYTES = 2 * GIB


def cluster_tls(config: Config) -> TlsFiles | None:
    """Return the certificates of traffic between services, None when there are none."""
    tls = config.security.tls
    return tls_files(tls.cert_path, tls.key_path, tls.ca_cert_path)


def log_connections(config: Config, server: NatsServer | None) -> tuple[NatsOptions, NatsOptions | None]:
    """Return how to reach the log: as the application and, for the durability check, as the system account."""
    if server is not None:
        application, system = server.application, server.system
        return (
            NatsOptions((server.url,), application.user, application.password),
            NatsOptions((server.url,), system.user, system.password),
        )
    log = config.log
    files = cluster_tls(config)
    secure = any(url.startswith("tls://") for url in log.urls)
    tls = client_context(files) if secure else None
    own = NatsOptions(log.urls, log.user, log.password.get_secret_value(), tls)
    if log.durability == "relaxed" and not log.system_user:
        return own, None
    return own, NatsOptions(log.urls, log.system_user, log.system_password.get_secret_value(), tls)


def open_log(config: Config, server: NatsServer | None) -> Callable[[], Awaitable[Log]]:
    """Return what connects to the shard's log."""

    async def connect() -> Log:
        own, system = log_connections(config, server)
        connection = NatsConnection(own)
        await connection.connect()
        monitor = None
        if config.log.durability == "checked" and system is not None:
            monitor = NatsConnection(system)
            await monitor.connect()
        log = await JetStreamLog.open(
            connection,
            system=monitor,
            region=config.region.name,
            replicas=config.log.replicas,
            max_bytes=config.log.max_bytes,
            durability=config.log.durability,
        )
        return _OwnedLog(log, [item for item in (connection, monitor) if item is not None])

    return connect


class _OwnedLog:
    """A log that closes the connections that were opened for it."""

    def __init__(self, log: JetStreamLog, connections: list[NatsConnection]) -> None:
        self.append = log.append
        self.read = log.read
        self.bounds = log.bounds
        self.trim = log.trim
        self.durable = log.durable
        self._log = log
        self._connections = connections

    async def close(self) -> None:
        await self._log.close()
        for connection in self._connections:
            await connection.close()


def make_cold(config: Config) -> ColdColumns:
    """Return the reader of the warehouse. It imports PyIceberg, half a second, when it is first used."""
    return _LazyCold(config)


class _LazyCold:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._reader: Any = None
        self._lock = threading.Lock()

    def _open(self) -> Any:
        with self._lock:
            if self._reader is None:
                from orbit.chassis.iceberg.configured import warehouse_settings
                from orbit.chassis.iceberg.warehouse import Warehouse
                from services.storage.tiers.cold import ColdReader

                folder = Path(self._config.node.data_dir) / "cold-cache"
                self._reader = ColdReader(Warehouse(warehouse_settings(self._config)), folder, COLD_CACHE_BYTES)
            return self._reader

    def read_aligned(self, *arguments: Any, **named: Any) -> Any:
        return self._open().read_aligned(*arguments, **named)

    def read_rows(self, *arguments: Any) -> Any:
        return self._open().read_rows(*arguments)

    def files(self, ref: Any) -> tuple[int, int]:
        """Return (files, bytes) of a snapshot."""
        found: tuple[int, int] = self._open().files(ref)
        return found


def _isolation(config: Config) -> Isolation:
    level = config.transaction.default_isolation_level
    if level not in _ISOLATION:
        raise ValueError(f"transaction.default_isolation_level (DEFAULT_ISOLATION_LEVEL) = {level} is not supported")
    return _ISOLATION[level]


def storage_settings(config: Config) -> StorageSettings:
    tiers, rocksdb = config.storage.tiers, config.storage.rocksdb
    embedded = config.coordinator.store == "embedded"
    return StorageSettings(
        node=NodeSettings(
            node_id=config.node.id,
            address=config.node.advertise_address,
            shard=DEFAULT_SHARD,
            tick_interval_s=None if embedded else config.cluster.heartbeat_interval_ms / 1000,
        ),
        operations_address=config.monitoring.advertise_address,
        database=config.bootstrap.database,
        user=config.bootstrap.user,
        password=config.bootstrap.password.get_secret_value(),
        rocksdb_path=Path(rocksdb.path),
        block_cache_bytes=int(rocksdb.block_cache_size_gb * GIB),
        write_buffer_bytes=rocksdb.write_buffer_size,
        max_open_files=rocksdb.max_open_files,
        column_cache_bytes=int(rocksdb.block_cache_size_gb * GIB),
        maintenance=MaintenanceSettings(
            interval_s=1.0,
            checkpoint_interval_s=15.0,
            limits=HotLimits(
                retention_us=int(tiers.hot_retention_hours * HOUR_US), max_bytes=int(tiers.hot_max_size_gb * GIB)
            ),
            warm_point_reads=tiers.warm_point_reads,
        ),
        isolation=_isolation(config),
        max_transactions=config.transaction.max_concurrent,
        transaction_timeout_ms=config.transaction.timeout_ms,
        executor_threads=config.query.executor_threads,
        query_memory_bytes=4 * GIB,
        region=config.region.name,
        read_only=config.region.role == "replica",
    )


def make_storage(config: Config, coordination: Any, server: NatsServer | None) -> StorageService:
    """Return the storage node that the configuration describes, not started. `server` is a child NATS, if any."""
    if config.coordinator.store == "embedded" and config.region.role == "primary":
        # Nobody else speaks gRPC to a single node, but another region's cdc to that of a replica.
        host, port = "127.0.0.1", 0
    else:
        host, _, text = config.node.bind_address.rpartition(":")
        host, port = host.strip("[]"), int(text)
    rpc = RpcServer(host=host, port=port, tls=cluster_tls(config))
    return StorageService(storage_settings(config), coordination, open_log(config, server), rpc, make_cold(config))


def feed(metrics: Metrics, service: StorageService) -> None:
    """Feed the metrics that storage owns from what it counts and observes."""
    engine = service.engine
    metrics.feed(HOT_TIER_SIZE, service.hot_bytes)
    metrics.feed(WARM_TIER_SIZE, lambda: service.tier_bytes("warm"))
    metrics.feed(COLD_TIER_SIZE, lambda: service.tier_bytes("cold"))
    metrics.feed(TIER_MIGRATIONS, service.tier_migrations)
    metrics.feed(TRANSACTIONS_ACTIVE, lambda: len(engine.active))
    metrics.feed(TRANSACTIONS, lambda: engine.committed_total, status="committed")
    metrics.feed(TRANSACTIONS, lambda: engine.aborted_total, status="aborted")
    metrics.feed(TRANSACTION_CONFLICTS, lambda: engine.conflicts_total)
    metrics.feed(DEADLOCKS, lambda: engine.deadlocks_total)
    metrics.feed(QUERY_CACHE_HITS, service.plan_cache_hits)
    meters = engine.meters
    meters.query = metrics.histogram(QUERY_DURATION)
    meters.transaction = metrics.histogram(TRANSACTION_DURATION)
    metrics.feed(QUERY_ROWS_SCANNED, lambda: meters.rows_scanned)
    metrics.feed(SIMD_OPERATIONS, lambda: meters.batches)
    for tier in TIERS:
        meters.read_duration[tier] = metrics.histogram(STORAGE_OPERATION_DURATION, tier=tier, operation="read")
        meters.write_duration[tier] = metrics.histogram(STORAGE_OPERATION_DURATION, tier=tier, operation="write")
        metrics.feed(STORAGE_OPERATIONS, partial(meters.reads.__getitem__, tier), tier=tier, operation="read")
        metrics.feed(STORAGE_OPERATIONS, partial(service.rows_written, tier), tier=tier, operation="write")
