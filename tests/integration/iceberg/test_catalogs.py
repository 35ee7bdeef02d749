"""One suite over every catalog: SQLite, PostgreSQL, and a REST catalog that is not ours."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from orbit.chassis.iceberg.schema import iceberg_schema
from orbit.chassis.iceberg.table import CommitConflict
from orbit.chassis.iceberg.warehouse import Warehouse, WarehouseSettings
from orbit.kernel.errors import StoreUnavailable
from services.migrator.iceberg import Lake
from services.storage.client import Claim, SnapshotRef
from services.storage.tiers.cold import ColdReader
from tests.fixtures.fix_moves import HandClock, MovesTwin, all_types_row, all_types_table, extreme_rows
from tests.fixtures.fix_weed import BUCKET, TABLE_BUCKET, Weed

pytestmark = pytest.mark.integration


@pytest.fixture(params=["sqlite", "postgresql", "rest"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> WarehouseSettings:
    if request.param == "sqlite":
        return WarehouseSettings(str(tmp_path / "w"), "sqlite", f"sqlite:///{tmp_path / 'deep' / 'er' / 'catalog.db'}")
    if request.param == "postgresql":
        dsn = dict(part.split("=") for part in request.getfixturevalue("postgres_dsn").split())
        uri = f"postgresql://{dsn['user']}:unused@127.0.0.1:{dsn['port']}/{dsn['dbname']}"
        return WarehouseSettings(str(tmp_path / "w"), "postgresql", uri)
    weed: Weed = request.getfixturevalue("weed")
    credential = f"{weed.access_key}:{weed.secret_key}"
    return WarehouseSettings(f"s3://{TABLE_BUCKET}", "rest", weed.catalog_url, credential=credential, s3=weed.settings)


@pytest.fixture
def warehouse(settings: WarehouseSettings) -> Iterator[Warehouse]:
    made = Warehouse(settings)
    deadline = time.monotonic() + 30
    while True:
        try:
            made.probe()
            break
        except StoreUnavailable:
            # The test's REST catalog makes its warehouse a moment after it answers.
            if settings.catalog != "rest" or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    yield made
    made.close()


async def move(warehouse: Warehouse, moves: MovesTwin, claim: Claim) -> SnapshotRef:
    lake = Lake(warehouse)
    copier = lake.copier(claim, lake.target(claim))
    async for batch in moves.read(claim.move_id):
        copier.add(batch)
    ref = lake.publish(claim, copier.finish())
    await moves.commit(claim.move_id, claim.as_of, ref.snapshot_id, ref.metadata_location)
    return ref


async def test_two_moves_and_a_reader_without_catalog(warehouse: Warehouse, tmp_path: Path) -> None:
    table = all_types_table()
    table = msgspec.structs.replace(table, name=f"t_{tmp_path.name}"[:60].lower())
    moves = MovesTwin(HandClock())
    moves.create(table)
    ids = moves.insert(table, [all_types_row(n) for n in range(150)], segment=1)
    claim = await moves.begin(b"first" + bytes(11), table.id, table.storage_id, [(0, ids[-1])], 1 << 62)
    before = moves.stored[table.storage_id].versions
    expected = {version.row_id: version.values for version in before}
    first = await move(warehouse, moves, claim)

    more = moves.insert(table, extreme_rows(500), segment=2)
    moves.update(table, ids[5], all_types_row(7777), segment=2)
    expected |= {v.row_id: v.values for v in moves.stored[table.storage_id].versions if v.segment == 2}
    claim = await moves.begin(b"second" + bytes(10), table.id, table.storage_id, [(0, more[-1])], 1 << 62)
    second = await move(warehouse, moves, claim)

    reader = ColdReader(Warehouse(warehouse.settings), tmp_path / "cache", 1 << 20)
    assert moves.contents(table.storage_id, reader) == expected
    old = reader.read_rows(table, first, [ids[5]])
    assert old == {ids[5]: all_types_row(5)}, "an older snapshot stays as it was"
    assert reader.rows(first) == 150
    assert reader.rows(second) == 153
    reader.close()


def test_a_commit_on_an_old_parent_is_a_conflict(warehouse: Warehouse, tmp_path: Path) -> None:
    table = msgspec.structs.replace(all_types_table(), name=f"c_{tmp_path.name}"[:60].lower())
    identifier = (table.schema, table.name)
    made = warehouse.create(identifier, iceberg_schema(table), f"public/{table.name}", {})
    assert made is not None
    second = warehouse.create(identifier, iceberg_schema(table), f"public/{table.name}", {})
    assert second is None or second.metadata.table_uuid == made.metadata.table_uuid
    stale = warehouse.table(identifier)
    assert stale is not None
    made.replace([], [], {"orbit.move-id": "00"})
    with pytest.raises(CommitConflict):
        stale.replace([], [], {"orbit.move-id": "01"})
    with pytest.raises(CommitConflict):
        stale.rewind(None)
    now = warehouse.table(identifier)
    assert now is not None
    assert [note.properties["orbit.move-id"] for note in now.history()] == ["00"]
    now.rewind(None)
    again = warehouse.table(identifier)
    assert again is not None and again.snapshot_id is None
    assert "commit.retry.num-retries" not in again.properties


def test_a_catalog_that_is_away_is_named(settings: WarehouseSettings) -> None:
    """A refused connection is StoreUnavailable with the name of what refused it, and without its password."""
    if settings.catalog == "sqlite":
        settings = replace(settings, catalog_uri="sqlite:////proc/nowhere/catalog.db")
    else:
        scheme = settings.catalog_uri.split(":")[0]
        settings = replace(settings, catalog_uri=f"{scheme}://me:secret@127.0.0.1:9/x")
    warehouse = Warehouse(settings)
    with pytest.raises(StoreUnavailable) as error:
        warehouse.probe()
    assert "secret" not in error.value.message
    assert "127.0.0.1:9" in error.value.message or "/proc/nowhere" in error.value.message
    warehouse.close()


def test_wrong_credentials_of_the_store(weed: Weed, tmp_path: Path) -> None:
    s3 = replace(weed.settings, secret_key="wrong")
    warehouse = Warehouse(WarehouseSettings(f"s3://{BUCKET}/x", "sqlite", f"sqlite:///{tmp_path / 'c.db'}", s3=s3))
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1") as error:
        warehouse.probe()
    assert "wrong" not in error.value.message
    warehouse.close()
