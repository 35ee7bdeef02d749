"""`python -m services`: several roles in one process, as `make up` and the guide's topology run them. Wiring only.

`ORBIT_ROLES` names the roles. A single node starts its own NATS server as a child, and its gateway calls storage
directly; otherwise the roles find each other as separate processes would.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from orbit.chassis.config import Config, ConfigError, load
from orbit.chassis.lifecycle import EXIT_FAILED, Process, Steps
from orbit.chassis.lifecycle import run as run_process
from orbit.chassis.metrics import TIER_MIGRATIONS, Metrics
from orbit.chassis.nats_server import NatsServer, NatsServerFailed
from orbit.chassis.operations import Document, Health, OperationsServer
from orbit.chassis.telemetry import configure_logging
from orbit.chassis.tracing import Tracing, make_tracing
from services.coordinator import wiring as coordination_wiring

_log = structlog.get_logger(__name__)


class Assembly:
    """The components of one process, made from the configuration."""

    def __init__(self, config: Config, roles: tuple[str, ...]) -> None:
        self.config = config
        self.roles = roles
        self.metrics = Metrics(roles)
        self.process = Process("+".join(roles))
        self.coordination: Any = coordination_wiring.make(config)
        self.storage: Any = None
        self.gateway: Any = None
        self.migrator: Any = None
        self.cdc: Any = None
        self.coordinator: Any = None
        self.server: NatsServer | None = None
        monitoring = config.monitoring
        self.tracing: Tracing = make_tracing(
            enabled=monitoring.tracing_enabled,
            service="+".join(roles),
            node=config.node.id,
            endpoint=str(monitoring.tracing_endpoint),
            sample_ratio=monitoring.tracing_sample_ratio,
        )

    def build(self) -> Process:
        config, process = self.config, self.process
        if self.tracing.enabled:
            # Added first, so that it is stopped last and sends what the others still have to say.
            process.add("tracing", Steps(_nothing, self.tracing.stop))
        if not config.log.urls and ("storage" in self.roles or "cdc" in self.roles):
            self.server = NatsServer(
                Path(config.node.data_dir) / "nats",
                port=config.log.embedded_port,
                sync_always=config.log.durability == "checked",
            )
        process.add("operations", self._operations())
        if self.server is not None:
            process.add("nats", self.server, watch=self.server.wait)
        process.add("coordination", self.coordination)
        if "storage" in self.roles:
            self._add_storage()
        if "coordinator" in self.roles:
            self._add_coordinator()
        if "gateway" in self.roles:
            self._add_gateway()
        if "migrator" in self.roles:
            self._add_migrator()
        if "cdc" in self.roles and config.cdc.enabled:
            self._add_cdc()
        return process

    def _add_storage(self) -> None:
        from services.storage import wiring

        self.storage = wiring.make_storage(self.config, self.coordination, self.server)
        self.storage.engine.tracing = self.tracing
        wiring.feed(self.metrics, self.storage)
        coordination_wiring.feed(self.metrics, self.coordination)
        self.process.add("storage", self.storage, watch=self.storage.ended)

    def _add_coordinator(self) -> None:
        from services.coordinator.__main__ import make_service

        self.coordinator = make_service(self.config)
        self.process.add("coordinator", self.coordinator, watch=self.coordinator.ended)

    def _add_gateway(self) -> None:
        from services.gateway.wiring import make_gateway

        backend: Any = None
        if self.storage is not None and self.config.coordinator.store == "embedded":
            from services.storage.service import DirectBackend

            backend = DirectBackend(self.storage)
        self.gateway = make_gateway(self.config, self.coordination, backend, self.tracing)
        self.process.add("gateway", self.gateway)

    def _add_migrator(self) -> None:
        direct = self.storage is not None and self.config.coordinator.store == "embedded"
        local: Any = _LocalMoves(self.storage) if direct else None
        counter = self.metrics.counter(TIER_MIGRATIONS) if self.storage is None else _Uncounted()

        def make() -> Any:
            from services.migrator.wiring import MigratorService

            return MigratorService(self.config, self.coordination, counter, local)

        # PyIceberg takes a second to import; nothing is due to move in the first seconds.
        self.migrator = _Deferred("migrator", make)
        self.process.add("migrator", self.migrator)

    def _add_cdc(self) -> None:
        from services.cdc.wiring import make_cdc

        self.cdc = make_cdc(self.config, self.server, self.metrics)
        self.process.add("cdc", self.cdc)

    def _operations(self) -> OperationsServer:
        config = self.config
        documents: dict[str, Document] = {
            "/cluster/status": self._cluster_status,
            "/cluster/replication": self._replication,
        }
        if "storage" in self.roles:
            documents["/tiers"] = self._tiers
        return OperationsServer(
            host=config.monitoring.bind_address,
            port=config.monitoring.metrics_port,
            health=self._health,
            metrics=self.metrics.exposition if config.monitoring.metrics_enabled else None,
            documents=documents,
        )

    def _cluster_status(self) -> object:
        return (self.coordinator or self.coordination).cluster_status()

    def _replication(self) -> object:
        return (self.coordinator or self.coordination).cluster_replication()

    async def _tiers(self) -> object:
        return await self.storage.tiers()

    def _health(self) -> Health:
        """The storage node's health where there is one; what the other roles lack is added to it."""
        if self.process.state.value != "running":
            return Health(
                healthy=False, ready=False, role=self.roles[0], reasons=[f"process is {self.process.state.value}"]
            )
        if self.roles == ("cdc",) and self.cdc is not None:
            alone: Health = self.cdc.process_health()
            return alone
        parts = [part.health() for part in (self.storage, self.gateway) if part is not None]
        first = parts[0] if parts else Health(healthy=True, role=self.roles[0])
        details = dict(first.details)
        if self.migrator is not None:
            details["migrator"] = self.migrator.health()
        if self.cdc is not None:
            details["cdc"] = self.cdc.health()
        failed = [
            f"{name}: {detail.get('reason') or detail.get('waiting_for')}"
            for name, detail in details.items()
            if isinstance(detail, dict) and detail.get("status") == "failed"
        ]
        return Health(
            healthy=not failed and all(part.healthy for part in parts),
            ready=all(part.ready for part in parts),
            role=first.role,
            term=first.term,
            peers=first.peers,
            replication_lag_ms=first.replication_lag_ms,
            durability=first.durability,
            reasons=[*(reason for part in parts for reason in part.reasons), *failed],
            details=details,
        )


class _Deferred:
    """A component that is imported, made and started beside the serving process."""

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self._name = name
        self._make = make
        self._component: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._start(), name=f"start-{self._name}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._component is not None:
            await self._component.stop()

    def health(self) -> dict[str, Any]:
        if self._task is not None and self._task.done() and self._task.exception() is not None:
            return {"status": "failed", "reason": str(self._task.exception())}
        return {"status": "starting"} if self._component is None else self._component.health()

    async def _start(self) -> None:
        try:
            component = await asyncio.to_thread(self._make)
            await component.start()
            self._component = component
        except Exception as error:
            _log.error("component did not start", component=self._name, reason=str(error))
            raise


async def _nothing() -> None:
    """A component that needs no start."""


class _LocalMoves:
    """The storage node's own `Moves`, once it is there."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage.moves, name)


class _Uncounted:
    """Where storage is in the same process it counts every move itself."""

    value = 0.0


def main(roles: tuple[str, ...] | None = None) -> int:
    """Run the roles given, or those of the configuration."""
    try:
        config = load().config
        chosen = roles or tuple(config.node.roles)
        monitoring = config.monitoring
        configure_logging(
            service="+".join(chosen), node=config.node.id, level=monitoring.log_level, log_format=monitoring.log_format
        )

        async def run() -> int:
            return await Assembly(config, chosen).build().run()

        return run_process(run)
    except (ConfigError, NatsServerFailed, OSError, ValueError) as error:
        sys.stderr.write(f"orbit: {error}\n")
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
