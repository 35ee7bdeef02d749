"""From the configuration to a running migrator. Owns that translation, for its own process and for a single node's."""

from __future__ import annotations

from typing import Any

from orbit.chassis.config import Config
from orbit.chassis.iceberg.configured import warehouse_settings
from orbit.chassis.iceberg.warehouse import Warehouse
from orbit.chassis.rpc import open_channel
from orbit.chassis.tls import tls_files
from orbit.kernel.clock import SystemClock
from orbit.kernel.ids import DEFAULT_SHARD
from services.coordinator.client import Coordination
from services.migrator.iceberg import Lake
from services.migrator.leader import LeaderMoves
from services.migrator.policy import PolicySettings
from services.migrator.service import Migrator, MigratorSettings, MoveCounter
from services.storage.client import Moves


def migrator_settings(config: Config) -> MigratorSettings:
    return MigratorSettings(
        name=config.node.id,
        policy=PolicySettings(config.storage.tiers.warm_retention_days, config.migration.batch_size),
        interval_ms=config.migration.interval_ms,
    )


class MigratorService:
    """The migrator as a component of a process.

    `local` is storage in the same process; without it the shard's leader is followed through `coordination`, which
    is started before and stopped after this. Raises TlsMisconfigured, NotSupported for its settings.
    """

    def __init__(
        self, config: Config, coordination: Coordination, migrations: MoveCounter, local: Moves | None = None
    ) -> None:
        security = config.security.tls
        tls = tls_files(security.cert_path, security.key_path, security.ca_cert_path)
        self._leader: LeaderMoves | None = None
        if local is None:
            self._leader = LeaderMoves(coordination, DEFAULT_SHARD, lambda address: open_channel(address, tls=tls))
        moves: Moves | None = local or self._leader
        assert moves is not None
        self._warehouse = Warehouse(warehouse_settings(config))
        self.migrator = Migrator(moves, Lake(self._warehouse), migrator_settings(config), SystemClock(), migrations)

    async def start(self) -> None:
        if self._leader is not None:
            await self._leader.start()
        await self.migrator.start()

    async def stop(self) -> None:
        """Stop where it is; the open move, if any, goes on after the next start."""
        await self.migrator.stop()
        if self._leader is not None:
            await self._leader.stop()
        self._warehouse.close()

    async def ended(self) -> None:
        await self.migrator.ended()

    def health(self) -> dict[str, Any]:
        return self.migrator.health()
