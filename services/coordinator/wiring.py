"""From the configuration to coordination's plain constructor arguments.

Owns that translation, for the coordinator's own process and for every other service that is tied to the cluster.
"""

from __future__ import annotations

from pathlib import Path

from orbit.chassis.config import Config
from orbit.chassis.etcd_nouns import EtcdSettings
from orbit.chassis.metrics import CLUSTER_NODES, HEARTBEAT_FAILURES, LEADER_CHANGES, REPLICATION_LAG, Metrics
from services.coordinator.client import ClusterReport, EmbeddedCoordination, EtcdCoordination

HTTPS = "https://"
HTTP = "http://"


def etcd_settings(config: Config) -> EtcdSettings:
    """Return how to reach etcd. Endpoints named https:// use TLS, with the cluster's certificates where set."""
    coordinator, tls = config.coordinator, config.security.tls
    secured = {endpoint.startswith(HTTPS) for endpoint in coordinator.endpoints}
    if len(secured) > 1:
        raise ValueError("coordinator.endpoints (ORBIT_ETCD_ENDPOINTS) mixes https:// with unencrypted endpoints")
    secure = secured == {True}
    return EtcdSettings(
        tuple(endpoint.removeprefix(HTTPS).removeprefix(HTTP).rstrip("/") for endpoint in coordinator.endpoints),
        tls=secure,
        user=coordinator.user or None,
        password=coordinator.password.get_secret_value() or None,
        ca_certificate=_pem(tls.ca_cert_path) if secure else None,
        certificate=_pem(tls.cert_path) if secure else None,
        private_key=_pem(tls.key_path) if secure else None,
    )


def make(config: Config) -> EmbeddedCoordination | EtcdCoordination:
    """Return the coordination that `coordinator.store` names, not started."""
    if config.coordinator.store == "embedded":
        return EmbeddedCoordination()
    return EtcdCoordination(
        etcd_settings(config),
        region=config.region.name,
        root=config.coordinator.prefix,
        election_timeout_ms=config.cluster.election_timeout_ms,
        heartbeat_interval_ms=config.cluster.heartbeat_interval_ms,
    )


def feed(metrics: Metrics, report: ClusterReport) -> None:
    """Feed the cluster's metrics, which storage nodes and coordinators own, from the report."""
    metrics.feed(CLUSTER_NODES, lambda: report.nodes_total)
    metrics.feed(LEADER_CHANGES, lambda: report.leader_changes_total)
    metrics.feed(HEARTBEAT_FAILURES, lambda: report.heartbeat_failures_total)
    metrics.feed(REPLICATION_LAG, lambda: report.replication_lag_ms)


def _pem(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
