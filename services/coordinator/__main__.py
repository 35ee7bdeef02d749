"""`python -m services.coordinator`: one coordinator process. Wiring only."""

from __future__ import annotations

import sys

from orbit.chassis.config import Config, ConfigError, load
from orbit.chassis.lifecycle import EXIT_FAILED, Process
from orbit.chassis.lifecycle import run as run_process
from orbit.chassis.metrics import Metrics
from orbit.chassis.operations import Health, OperationsServer
from orbit.chassis.telemetry import configure_logging
from services.coordinator.planner import Goals
from services.coordinator.service import CoordinatorService
from services.coordinator.wiring import etcd_settings, feed


def make_service(config: Config) -> CoordinatorService:
    """Return the service that the configuration describes, not started. Raises OSError, ValueError for its settings."""
    return CoordinatorService(
        etcd_settings(config),
        region=config.region.name,
        root=config.coordinator.prefix,
        instance_id=config.node.id,
        operations_address=config.monitoring.advertise_address,
        goals=Goals(replication_factor=config.cluster.replication_factor),
        election_timeout_ms=config.cluster.election_timeout_ms,
        heartbeat_interval_ms=config.cluster.heartbeat_interval_ms,
    )


def make_operations(config: Config, service: CoordinatorService) -> OperationsServer:
    """Return the operations port over the service's own view."""
    metrics = Metrics(["coordinator"])
    feed(metrics, service)

    def health() -> Health:
        own, cluster = service.health(), service.cluster_status()
        return Health(
            healthy=own["healthy"],
            ready=own["healthy"],
            role=cluster["role"],
            term=cluster["term"],
            peers=cluster["peers"],
            replication_lag_ms=cluster["replication_lag_ms"],
            reasons=[] if own["reason"] is None else [own["reason"]],
            details={name: cluster[name] for name in ("leader", "coordinator", "nodes", "reason", "degraded")},
        )

    return OperationsServer(
        host=config.monitoring.bind_address,
        port=config.monitoring.metrics_port,
        health=health,
        metrics=metrics.exposition if config.monitoring.metrics_enabled else None,
        documents={"/cluster/status": service.cluster_status, "/cluster/replication": service.cluster_replication},
    )


async def run(config: Config) -> int:
    service = make_service(config)
    process = Process("coordinator")
    process.add("operations", make_operations(config, service))
    process.add("coordinator", service, watch=service.ended)
    return await process.run()


def main() -> int:
    try:
        config = load().config
        monitoring = config.monitoring
        configure_logging(
            service="coordinator", node=config.node.id, level=monitoring.log_level, log_format=monitoring.log_format
        )
        return run_process(lambda: run(config))
    except (ConfigError, OSError, ValueError) as error:
        sys.stderr.write(f"coordinator: {error}\n")
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
