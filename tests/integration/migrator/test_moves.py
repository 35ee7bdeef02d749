"""Whole moves over a real lake: rows sink, queries and foreign readers see the same rows."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import duckdb
import msgspec
import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from orbit.chassis.iceberg.schema import ROW_ID_FIELD
from orbit.kernel.errors import StoreUnavailable
from orbit.kernel.ids import ROW_ID_COLUMN
from orbit.kernel.records import Row
from orbit.kernel.schema import Column, Table
from orbit.kernel.types import Oid, SqlType
from services.migrator.iceberg import AS_OF, MOVE_ID
from services.storage.client import SegmentStatistics, Tier
from tests.fixtures.fix_moves import MovesTwin, all_types_row, all_types_table, extreme_rows, make_table
from tests.fixtures.fix_weed import BUCKET
from tests.integration.migrator.conftest import World

pytestmark = pytest.mark.integration


def simple_row(number: int) -> Row:
    return number, f"name {number}", Decimal(number) / 100


def foreign(world: World, table: Table) -> pa.Table:
    """Read a table as somebody who knows nothing of the engine: PyIceberg and its own file IO."""
    s3 = world.settings.s3
    properties = {"uri": world.settings.catalog_uri, "warehouse": world.warehouse.location}
    if s3 is not None:
        properties |= {
            "s3.endpoint": s3.endpoint,
            "s3.access-key-id": s3.access_key,
            "s3.secret-access-key": s3.secret_key,
            "s3.region": "us-east-1",
        }
    catalog = SqlCatalog("orbit", **properties)
    try:
        return catalog.load_table((table.schema, table.name)).scan().to_arrow()
    finally:
        catalog.close()


async def test_rows_sink_and_every_reader_sees_them(world: World) -> None:
    table = all_types_table()
    world.moves.create(table)
    world.moves.insert(table, [all_types_row(n) for n in range(250)], segment=1)
    world.moves.insert(table, [*[all_types_row(n) for n in range(250, 300)], *extreme_rows(1000)], segment=2)
    before = world.moves.contents(table.storage_id, world.reader)

    idle = await world.migrator().turn()
    world.age()
    done = await world.migrator().turn()

    assert (idle.planned, done.committed, done.rows) == (0, 1, 303)
    assert world.moves.cold_rows(table.storage_id) == 303
    assert world.tally.value == 1
    assert world.moves.contents(table.storage_id, world.reader) == before
    seen = foreign(world, table)
    assert seen.num_rows == 303
    assert sorted(seen.column("id").to_pylist()) == sorted(row[0] for row in before.values())
    assert dict(zip(seen.column(ROW_ID_COLUMN).to_pylist(), seen.column("price").to_pylist(), strict=True)) == {
        row_id: row[7] for row_id, row in before.items()
    }


async def test_duckdb_reads_the_data_files(local_world: World) -> None:
    world, table = local_world, make_table()
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(100)], segment=1)
    world.age()
    await world.migrator().turn()

    found = world.warehouse.table(("public", "t"))
    assert found is not None
    folder = found.metadata.location.removeprefix("file://")
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT count(*), sum(amount), min(name), count(DISTINCT {ROW_ID_COLUMN}) "
            f"FROM read_parquet('{folder}/data/*/*.parquet')"
        ).fetchone()
    assert rows == (100, Decimal("49.50"), "name 0", 100)


async def test_snapshot_and_schema_say_where_rows_come_from(local_world: World) -> None:
    world, table = local_world, make_table()
    world.moves.create(table)
    world.moves.insert(table, [simple_row(1)], segment=1)
    world.age()
    await world.migrator().turn()

    found = world.warehouse.table(("public", "t"))
    assert found is not None
    (note,) = found.history()
    assert bytes.fromhex(note.properties[MOVE_ID]) in world.moves.ended
    assert int(note.properties[AS_OF]) > 0
    fields = {field.name: field for field in found.schema.fields}
    assert {name: field.field_id for name, field in fields.items()} == {
        "id": 1,
        "name": 2,
        "amount": 4,
        ROW_ID_COLUMN: ROW_ID_FIELD,
    }
    assert str(fields["amount"].field_type) == "decimal(12, 2)"
    assert [fields[name].required for name in ("id", "name", ROW_ID_COLUMN)] == [True, False, True]
    assert found.schema.identifier_field_ids == [1]


async def test_updates_and_deletes_of_cold_rows(world: World) -> None:
    """An updated row comes back warm, and its next move leaves one image of it in the lake."""
    table = make_table()
    world.moves.create(table)
    ids = world.moves.insert(table, [simple_row(n) for n in range(200)], segment=1)
    world.age()
    await world.migrator().turn()
    assert world.moves.cold_rows(table.storage_id) == 200

    for n in (3, 77, 199):
        world.moves.update(table, ids[n], (n, "changed", Decimal("9.99")), segment=2)
    world.moves.delete(table, ids[10])
    expected = world.moves.contents(table.storage_id, world.reader)
    assert len(expected) == 199
    world.age()
    await world.migrator().turn()

    assert world.moves.contents(table.storage_id, world.reader) == expected
    seen = foreign(world, table)
    row_ids = seen.column(ROW_ID_COLUMN).to_pylist()
    assert len(row_ids) == len(set(row_ids)) == 200, "deleted rows stay until a fold; none is there twice"
    names = dict(zip(row_ids, seen.column("name").to_pylist(), strict=True))
    assert {row_id: names[row_id] for row_id in expected} == {row_id: row[1] for row_id, row in expected.items()}


async def test_young_versions_stay_where_they_are(local_world: World) -> None:
    """An updated row keeps its id: the old segment's move must not drag the new version along."""
    world, table = local_world, make_table()
    world.moves.create(table)
    ids = world.moves.insert(table, [simple_row(n) for n in range(50)], segment=1)
    world.age()
    world.moves.update(table, ids[7], (7, "young", Decimal(0)), segment=2)
    world.moves.insert(table, [simple_row(100)], segment=2)
    expected = world.moves.contents(table.storage_id, world.reader)
    done = await world.migrator().turn()

    assert done.rows == 49
    assert world.moves.contents(table.storage_id, world.reader) == expected
    assert "young" not in foreign(world, table).column("name").to_pylist()


async def test_a_segment_that_a_node_has_not_let_go_of_yet_is_not_moved_again(local_world: World) -> None:
    """Between COLD_COMMIT and eviction the leader may still call the segment warm."""

    class Slow(MovesTwin):
        async def statistics(self) -> list[SegmentStatistics]:
            return [msgspec.structs.replace(segment, tier=Tier.WARM) for segment in await super().statistics()]

    world, table = local_world, make_table()
    world.moves = Slow(world.clock)
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(10)], segment=1)
    world.age()
    migrator = world.migrator()
    assert (await migrator.turn()).committed == 1
    assert (await migrator.turn()).planned == 0
    world.moves.insert(table, [simple_row(11)], segment=2)
    world.age()
    assert (await migrator.turn()).rows == 1


async def test_columns_change_under_cold_rows(local_world: World) -> None:
    world, table = local_world, make_table()
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(20)], segment=1)
    world.age()
    await world.migrator().turn()

    renamed = (table.columns[0], replace_column(table.columns[1], name="label"))
    added = Column(number=5, name="extra", type=SqlType(Oid.INT4), nullable=False)
    altered = msgspec.structs.replace(table, columns=(*renamed, added))
    world.moves.alter(altered)
    new_ids = world.moves.insert(altered, [(n, f"new {n}", n) for n in range(20, 30)], segment=2)
    world.age()
    await world.migrator().turn()

    stored = world.moves.stored[table.storage_id]
    assert stored.cold is not None
    old = world.reader.read(altered, stored.cold, ["id", "label", "extra"], [(0, new_ids[0] - 1)])
    assert sorted(zip(*old.drop_columns([ROW_ID_COLUMN]).to_pydict().values(), strict=True)) == sorted(
        (n, f"name {n}", None) for n in range(20)
    )
    assert world.reader.read_rows(altered, stored.cold, new_ids[:1]) == {new_ids[0]: (20, "new 20", 20)}
    assert foreign(world, altered).column_names == ["id", "label", "extra", ROW_ID_COLUMN]


def replace_column(column: Column, **changes: object) -> Column:
    return msgspec.structs.replace(column, **changes)


async def test_renamed_table_takes_its_history_along(local_world: World) -> None:
    world, table = local_world, make_table("old")
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(5)], segment=1)
    world.age()
    await world.migrator().turn()
    renamed = msgspec.structs.replace(table, name="new")
    world.moves.alter(renamed)
    world.moves.insert(renamed, [simple_row(n) for n in range(5, 9)], segment=2)
    world.age()
    await world.migrator().turn()

    assert len(world.moves.contents(table.storage_id, world.reader)) == 9
    assert foreign(world, renamed).num_rows == 9
    assert world.warehouse.identifiers() == [("public", "new")]


async def test_truncated_table_starts_anew_and_nothing_is_destroyed(local_world: World) -> None:
    world, table = local_world, make_table()
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(5)], segment=1)
    world.age()
    await world.migrator().turn()
    emptied = msgspec.structs.replace(table, storage_id=20002)
    world.moves.truncate(table, emptied)
    world.moves.insert(emptied, [simple_row(n) for n in range(100, 103)], segment=1)
    world.age()
    await world.migrator().turn()

    assert sorted(foreign(world, emptied).column("id").to_pylist()) == [100, 101, 102]
    assert len(world.moves.contents(20002, world.reader)) == 3
    assert len(world.warehouse.identifiers()) == 2, "the old table is set aside"


def lose_catalog(world: World) -> None:
    world.warehouse.close()
    Path(urlsplit(world.settings.catalog_uri).path[1:]).unlink()


async def test_lost_catalog_is_written_again_from_the_log(local_world: World) -> None:
    world, table = local_world, make_table()
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(5)], segment=1)
    world.age()
    await world.migrator().turn()
    lose_catalog(world)
    world.moves.insert(table, [simple_row(n) for n in range(5, 8)], segment=2)
    world.age()
    await world.migrator().turn()

    assert len(world.moves.contents(table.storage_id, world.reader)) == 8
    assert foreign(world, table).num_rows == 8


async def test_key_order_when_the_table_asks_for_it(local_world: World) -> None:
    world = local_world
    table = msgspec.structs.replace(make_table(), options={"cold_order": "key"})
    world.moves.create(table)
    world.moves.insert(table, [simple_row((n * 37) % 101) for n in range(101)], segment=1)
    expected = world.moves.contents(table.storage_id, world.reader)
    world.age()
    await world.migrator().turn()

    assert foreign(world, table).column("id").to_pylist() == list(range(101))
    assert world.moves.contents(table.storage_id, world.reader) == expected


async def test_aligned_columns_of_a_segment(world: World) -> None:
    table = make_table()
    world.moves.create(table)
    ids = world.moves.insert(table, [simple_row(n) for n in range(1000)], segment=1)
    world.moves.delete(table, ids[500])
    world.age()
    await world.migrator().turn()
    ref = world.moves.stored[table.storage_id].cold
    assert ref is not None

    wanted = pa.array(ids).to_numpy()[::-1].copy()
    needed = wanted != ids[500]
    found = world.reader.read_aligned(table, ref, ["name", 1], wanted, needed)
    assert found.column_names == ["name", "id"]
    assert found.column("id").to_pylist() == [None if n == 500 else n for n in reversed(range(1000))]
    with pytest.raises(StoreUnavailable, match="lacks 1 rows"):
        world.reader.read_aligned(table, ref, ["id"], wanted)


async def test_encrypted_writes_reach_the_store(make_world, weed, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Server-side encryption is asked for on every object: data, manifests and metadata."""
    from orbit.chassis.iceberg.warehouse import WarehouseSettings
    from orbit.chassis.object_store import ObjectStore

    settings = WarehouseSettings(
        f"s3://{BUCKET}/{tmp_path.name}",
        "sqlite",
        f"sqlite:///{tmp_path / 'catalog.db'}",
        s3=replace(weed.settings, server_side_encryption="AES256"),
    )
    world = make_world(settings)
    table = make_table()
    world.moves.create(table)
    world.moves.insert(table, [simple_row(n) for n in range(10)], segment=1)
    expected = world.moves.contents(table.storage_id, world.reader)
    world.age()
    await world.migrator().turn()

    assert world.moves.contents(table.storage_id, world.reader) == expected
    store = ObjectStore(weed.settings, BUCKET)
    await store.start()
    try:
        objects = [item.key async for item in store.list(f"{tmp_path.name}/")]
        assert len(objects) >= 4
        for key in objects:
            assert await store.encryption_of(key) == "AES256", key
    finally:
        await store.stop()
