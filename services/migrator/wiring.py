"""From the configuration to a migrator's parts. Owns that translation, for its own process and for a single node's."""

from __future__ import annotations

from orbit.chassis.config import Config
from orbit.chassis.metrics import TIER_MIGRATIONS, Metrics
from orbit.chassis.operations import Health
from orbit.kernel.clock import SystemClock
from services.migrator.policy import PolicySettings
from services.migrator.service import Migrator, MigratorSettings, ProbedLake
from services.storage.client import Moves

ROLE = "migrator"


def migrator_settings(config: Config) -> MigratorSettings:
    return MigratorSettings(
        name=config.node.id,
        policy=PolicySettings(config.storage.tiers.warm_retention_days, config.migration.batch_size),
        interval_ms=config.migration.interval_ms,
    )


def make_migrator(config: Config, moves: Moves, lake: ProbedLake, metrics: Metrics) -> Migrator:
    """Return the migrator that the configuration describes, not started."""
    return Migrator(moves, lake, migrator_settings(config), SystemClock(), metrics.counter(TIER_MIGRATIONS))


def health_of(migrator: Migrator) -> Health:
    """Return the document of a migrator's own process. Waiting for a store or a leader is not its illness."""
    own = migrator.health()
    waiting = own["waiting_for"]
    return Health(
        healthy=True, role=ROLE, reasons=[] if waiting is None else [f"waiting: {waiting}"], details={ROLE: own}
    )
