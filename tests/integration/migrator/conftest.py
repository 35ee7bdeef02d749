"""A migrator over the twin of storage and a real lake: SQLite catalog with a local folder, or with S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orbit.chassis.iceberg.warehouse import Warehouse, WarehouseSettings
from orbit.chassis.metrics import Counter
from services.migrator.iceberg import Lake
from services.migrator.policy import PolicySettings
from services.migrator.service import Migrator, MigratorSettings
from services.storage.tiers.cold import ColdReader
from tests.fixtures.fix_moves import HandClock, MovesTwin
from tests.fixtures.fix_weed import BUCKET, Weed

RETENTION_S = 10.0


@dataclass(slots=True)
class World:
    """One engine's cold tier: storage's twin, one warehouse, and migrators over them."""

    settings: WarehouseSettings
    clock: HandClock
    moves: MovesTwin
    warehouse: Warehouse
    reader: ColdReader
    tally: Counter

    def migrator(self, name: str = "m1", moves: object | None = None, lake: object | None = None) -> Migrator:
        """Return a fresh migrator, as a restarted process would make it."""
        policy = PolicySettings(warm_retention_days=RETENTION_S / 86400, batch_segments=1000)
        return Migrator(
            moves or self.moves,  # type: ignore[arg-type]
            lake or Lake(self.warehouse),  # type: ignore[arg-type]
            MigratorSettings(name, policy, interval_ms=10),
            self.clock,
            self.tally,
        )

    def age(self) -> None:
        """Let everything that is there now become due."""
        self.clock.advance(RETENTION_S * 2)


MakeWorld = Callable[..., World]


@pytest.fixture(params=["local", "s3"])
def lake_settings(request: pytest.FixtureRequest, tmp_path: Path) -> WarehouseSettings:
    catalog = f"sqlite:///{tmp_path / 'catalog' / 'catalog.db'}"
    if request.param == "local":
        return WarehouseSettings(str(tmp_path / "ware house"), "sqlite", catalog)
    server: Weed = request.getfixturevalue("weed")
    return WarehouseSettings(f"s3://{BUCKET}/{tmp_path.name}", "sqlite", catalog, s3=server.settings)


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    worlds: list[World] = []

    def make(settings: WarehouseSettings, **changes: object) -> World:
        settings = replace(settings, **changes)  # type: ignore[arg-type]
        clock = HandClock()
        warehouse = Warehouse(settings)
        reader = ColdReader(warehouse, tmp_path / f"cache{len(worlds)}", 64 << 20)
        worlds.append(World(settings, clock, MovesTwin(clock), warehouse, reader, Counter()))
        return worlds[-1]

    yield make
    for world in worlds:
        world.reader.close()
        world.warehouse.close()


@pytest.fixture
def world(make_world: MakeWorld, lake_settings: WarehouseSettings) -> World:
    return make_world(lake_settings)


@pytest.fixture
def local_world(make_world: MakeWorld, tmp_path: Path) -> World:
    """A world on a local folder only, for what does not depend on the store."""
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    return make_world(WarehouseSettings(str(tmp_path / "warehouse"), "sqlite", catalog))
