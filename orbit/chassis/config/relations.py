"""What settings must say together.

Owns the checks that need more than one setting. Each refusal names the keys at fault, in both spellings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orbit.chassis.config.values import split_host_port

if TYPE_CHECKING:
    from orbit.chassis.config.sections import Config

_HOURS_PER_DAY = 24


def broken(config: Config) -> list[str]:
    """Return one sentence for each relation that does not hold."""
    return [
        *_time_limits(config),
        *_cluster(config),
        *_ports(config),
        *_cold_tier(config),
        *_certificates(config),
    ]


def _time_limits(config: Config) -> Iterator[str]:
    cluster, tiers = config.cluster, config.storage.tiers
    heartbeat, election = cluster.heartbeat_interval_ms, cluster.election_timeout_ms
    if heartbeat >= election:
        yield (
            f"cluster.heartbeat_interval_ms (RAFT_HEARTBEAT_INTERVAL_MS) = {heartbeat} must be below "
            f"cluster.election_timeout_ms (RAFT_ELECTION_TIMEOUT_MS) = {election}"
        )
    if tiers.warm_retention_days * _HOURS_PER_DAY < tiers.hot_retention_hours:
        yield (
            f"storage.tiers.warm_retention_days (WARM_TIER_RETENTION_DAYS) = {tiers.warm_retention_days:g} is less "
            f"than storage.tiers.hot_retention_hours (HOT_TIER_RETENTION_HOURS) = {tiers.hot_retention_hours:g}: both "
            "count from a row's last change"
        )


def _cluster(config: Config) -> Iterator[str]:
    cluster, coordinator, roles = config.cluster, config.coordinator, config.node.roles
    if cluster.peers and cluster.replication_factor > len(cluster.peers):
        yield (
            f"cluster.replication_factor (REPLICATION_FACTOR) = {cluster.replication_factor} is more than the "
            f"{len(cluster.peers)} nodes of cluster.peers (CLUSTER_PEERS)"
        )
    if coordinator.store == "etcd":
        if not coordinator.endpoints:
            yield "coordinator.endpoints (ORBIT_ETCD_ENDPOINTS) is empty, but coordinator.store is etcd"
        if not config.log.urls:
            yield (
                "log.urls (ORBIT_NATS_URLS) is empty, but coordinator.store is etcd: nodes of a cluster share one log, "
                "so none can run a server of its own"
            )
        return
    if len(cluster.peers) > 1 or cluster.replication_factor > 1:
        yield (
            f"coordinator.store (ORBIT_COORDINATOR_STORE) = embedded serves a single node, but cluster.peers "
            f"(CLUSTER_PEERS) names {len(cluster.peers)} and cluster.replication_factor (REPLICATION_FACTOR) is "
            f"{cluster.replication_factor}: name all peers, or etcd's endpoints (ORBIT_ETCD_ENDPOINTS)"
        )
    if "storage" not in roles or "coordinator" in roles:
        yield (
            f"node.roles (ORBIT_ROLES) = {','.join(roles)} needs coordinator.store (ORBIT_COORDINATOR_STORE) = etcd: "
            "embedded serves a process that has the storage role itself, and no coordinator"
        )
    if config.log.replicas > cluster.replication_factor and not config.log.urls:
        yield (
            f"log.replicas (ORBIT_LOG_REPLICAS) = {config.log.replicas}, but log.urls (ORBIT_NATS_URLS) is empty: the "
            "engine's own server is a single one"
        )


def _ports(config: Config) -> Iterator[str]:
    gateway, monitoring = config.gateway, config.monitoring
    # Two listeners on one port are refused even where their addresses differ: a wildcard takes both.
    ports = {"monitoring.metrics_port (METRICS_PORT)": monitoring.metrics_port}
    if "gateway" in config.node.roles:
        ports["gateway.postgres.port (ORBIT_POSTGRES_PORT)"] = gateway.postgres.port
        ports["gateway.redis.port (ORBIT_REDIS_PORT)"] = gateway.redis.port
        ports["gateway.rest.port (ORBIT_REST_PORT)"] = gateway.rest.port
    if "storage" in config.node.roles and config.coordinator.store == "etcd":
        ports["node.bind_address (ORBIT_NODE_BIND_ADDRESS)"] = split_host_port(config.node.bind_address)[1]
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port in seen:
            yield f"{name} = {port} is the port of {seen[port]} too"
        seen[port] = name


def _cold_tier(config: Config) -> Iterator[str]:
    storage, iceberg = config.storage, config.iceberg
    needed: dict[str, str] = {}
    match storage.backend:
        case "s3":
            needed["storage.s3.bucket (S3_BUCKET)"] = storage.s3.bucket
        case "azure":
            needed["storage.azure.account (AZURE_ACCOUNT)"] = storage.azure.account
            needed["storage.azure.container (AZURE_CONTAINER)"] = storage.azure.container
        case "minio":
            needed["storage.minio.endpoint (MINIO_ENDPOINT)"] = storage.minio.endpoint or storage.s3.endpoint
            needed["storage.minio.bucket (MINIO_BUCKET)"] = storage.minio.bucket or storage.s3.bucket
    for name, value in needed.items():
        if not value:
            yield f"{name} is empty, but storage.backend is {storage.backend}"
    for section, access_key, secret_key in (
        ("s3", storage.s3.access_key, storage.s3.secret_key),
        ("minio", storage.minio.access_key, storage.minio.secret_key),
    ):
        if bool(access_key.get_secret_value()) != bool(secret_key.get_secret_value()):
            yield f"storage.{section}.access_key and storage.{section}.secret_key must be given together"
    if iceberg.catalog != "sqlite" and not iceberg.uri:
        yield f"iceberg.uri (ORBIT_ICEBERG_URI) is empty, but iceberg.catalog is {iceberg.catalog}"


def _certificates(config: Config) -> Iterator[str]:
    for section, tls in (("gateway.tls", config.gateway.tls), ("security.tls", config.security.tls)):
        if bool(tls.cert_path) != bool(tls.key_path):
            yield f"{section}.cert_path and {section}.key_path must be given together"
    if config.security.tls.ca_cert_path and not config.security.tls.cert_path:
        yield "security.tls.ca_cert_path (ORBIT_TLS_CA_CERT_PATH) needs security.tls.cert_path (ORBIT_TLS_CERT_PATH)"
