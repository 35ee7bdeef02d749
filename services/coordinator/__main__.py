"""`python -m services.coordinator`: one coordinator process. Wiring only."""

from __future__ import annotations

import asyncio
import signal
import sys

from orbit.chassis.config import Config, ConfigError, load
from services.coordinator.client import NodeIdTaken
from services.coordinator.planner import Goals
from services.coordinator.service import CoordinatorService
from services.coordinator.wiring import etcd_settings


def make_service(config: Config) -> CoordinatorService:
    """Return the service that the configuration describes, not started."""
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


async def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT. Raises OSError when etcd cannot be reached, NodeIdTaken."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    service = make_service(config)
    await service.start()
    try:
        await stopping.wait()
    finally:
        await service.stop()


def main() -> int:
    try:
        asyncio.run(run(load().config))
    except (ConfigError, NodeIdTaken, OSError, ValueError) as error:
        sys.stderr.write(f"coordinator: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
