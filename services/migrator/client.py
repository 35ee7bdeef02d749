"""What other parts see of the migrator: a component for the process that runs several services in one.

Owns nothing; everything is loaded at first use, because PyIceberg takes a second to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orbit.chassis.config import Config
    from orbit.chassis.metrics import Metrics
    from services.migrator.service import Migrator
    from services.storage.client import Moves

__all__ = ["make_migrator"]


def make_migrator(config: Config, moves: Moves, metrics: Metrics) -> Migrator:
    """Return a migrator over storage in the same process, not started: `start`, `stop`, `ended`, `health`."""
    from orbit.chassis.iceberg.configured import warehouse_settings
    from orbit.chassis.iceberg.warehouse import Warehouse
    from services.migrator import wiring
    from services.migrator.iceberg import Lake

    return wiring.make_migrator(config, moves, Lake(Warehouse(warehouse_settings(config))), metrics)
