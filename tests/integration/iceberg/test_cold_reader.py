"""What a cold read costs and what it does when the store is not as the manifests say."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orbit.chassis.iceberg.files import ROW_GROUP_ROWS, plan_snapshot
from orbit.chassis.iceberg.warehouse import Warehouse, WarehouseSettings
from orbit.kernel.errors import StoreUnavailable
from orbit.kernel.ids import ROW_ID_COLUMN
from services.migrator.iceberg import Lake
from services.storage.client import Claim, SnapshotRef
from services.storage.tiers.cold import ColdReader
from tests.fixtures.fix_moves import make_table
from tests.fixtures.fix_weed import BUCKET, Weed

pytestmark = pytest.mark.integration

GROUPS = 6
ROWS = GROUPS * ROW_GROUP_ROWS
FIRST = 1 << 30
TABLE = make_table("wide")
Written = tuple[Warehouse, SnapshotRef]


def write(settings: WarehouseSettings, target_bytes: int = 1 << 30) -> Written:
    """Write one move's rows: random text, so that columns have a size."""
    warehouse = Warehouse(settings)
    lake = Lake(warehouse, target_bytes=target_bytes)
    claim = Claim(
        move_id=b"m" * 16,
        shard=0,
        timeline=1,
        table=TABLE,
        ranges=((0, 1 << 62),),
        changed_through=1 << 62,
        as_of=1,
        begun_us=0,
        cold=None,
    )
    copier = lake.copier(claim, lake.target(claim))
    random = np.random.default_rng(7)
    for group in range(GROUPS):
        first = FIRST + group * ROW_GROUP_ROWS
        numbers = np.arange(first, first + ROW_GROUP_ROWS)
        noise = random.integers(0, 1 << 62, ROW_GROUP_ROWS)
        names = pa.array(noise).cast(pa.string())
        amounts = pa.array(numbers % 1000, pa.int64()).cast(pa.decimal128(19)).cast(pa.decimal128(12, 2), safe=False)
        copier.add(
            pa.RecordBatch.from_arrays(
                [pa.array(numbers), pa.array(numbers), names, amounts], [ROW_ID_COLUMN, "id", "name", "amount"]
            )
        )
    return warehouse, lake.publish(claim, copier.finish())


@pytest.fixture
def on_s3(weed: Weed, tmp_path: Path) -> Written:
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    return write(WarehouseSettings(f"s3://{BUCKET}/{tmp_path.name}", "sqlite", catalog, s3=weed.settings))


@pytest.fixture
def locally(tmp_path: Path) -> Callable[[int], Written]:
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    return lambda size: write(WarehouseSettings(str(tmp_path / "w"), "sqlite", catalog), size)


def test_a_segment_fetches_a_fraction_of_the_file_once(on_s3: Written, tmp_path: Path) -> None:
    warehouse, ref = on_s3
    reader = ColdReader(warehouse, tmp_path / "cache", 1 << 30)
    assert reader.rows(ref) == ROWS
    count, size = reader.files(ref)
    assert count == 1
    segment = np.arange(FIRST + 2 * ROW_GROUP_ROWS, FIRST + 3 * ROW_GROUP_ROWS)
    found = reader.read_aligned(TABLE, ref, ["id"], segment)
    assert found.column("id").to_numpy().tolist() == segment.tolist()
    first = reader.cache_bytes
    assert first < size / 3
    reader.read_aligned(TABLE, ref, ["id"], segment)
    assert reader.cache_bytes == first
    assert reader.read_rows(TABLE, ref, [FIRST, FIRST + ROWS - 1, 5]).keys() == {FIRST, FIRST + ROWS - 1}
    reader.close()
    warehouse.close()


def test_many_threads_with_a_small_cache(on_s3: Written, tmp_path: Path) -> None:
    warehouse, ref = on_s3
    reader = ColdReader(warehouse, tmp_path / "cache", 1 << 20)

    def work(seed: int) -> None:
        for step in range(4):
            first = FIRST + (seed * 31 + step * 17) * 4001 % (ROWS - 100)
            ids = np.arange(first, first + 100)
            assert reader.read_aligned(TABLE, ref, [1, "name"], ids).column("id").to_pylist() == ids.tolist()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    reader.close()
    warehouse.close()


def test_files_are_cut_and_pruned_by_row_id(locally: Callable[[int], Written], tmp_path: Path) -> None:
    warehouse, ref = locally(1 << 20)
    files = plan_snapshot(warehouse, ref.metadata_location, ref.snapshot_id)
    assert len(files) == GROUPS
    spans = sorted((file.first_row_id, file.last_row_id) for file in files)
    assert spans[0] == (FIRST, FIRST + ROW_GROUP_ROWS - 1)
    for file in files:
        if file.first_row_id != FIRST:
            Path(file.location.removeprefix("file://")).unlink()
    reader = ColdReader(warehouse, tmp_path / "cache", 0)
    got = reader.read(TABLE, ref, ["id"], [(5, 9), (FIRST + 10, FIRST + 12), (FIRST + 20, FIRST + 20)])
    assert got.column(ROW_ID_COLUMN).to_pylist() == [FIRST + n for n in (10, 11, 12, 20)], "no other file was opened"
    with pytest.raises(StoreUnavailable, match=r"parquet"):
        reader.read(TABLE, ref, ["id"], [(FIRST + ROW_GROUP_ROWS, FIRST + ROW_GROUP_ROWS)])
    assert reader.read(TABLE, ref, ["name"], []).num_rows == 0
    with pytest.raises(KeyError):
        reader.read(TABLE, ref, ["nope"], [(1, 2)])
    reader.close()
    warehouse.close()


def test_rotten_bytes_are_noticed(locally: Callable[[int], Written], tmp_path: Path) -> None:
    """A flipped bit in a page is an error, never a wrong value."""
    warehouse, ref = locally(1 << 30)
    (file,) = plan_snapshot(warehouse, ref.metadata_location, ref.snapshot_id)
    path = Path(file.location.removeprefix("file://"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    reader = ColdReader(warehouse, tmp_path / "cache", 0)
    with pytest.raises(StoreUnavailable):
        reader.read(TABLE, ref, ["id", "name", "amount"], [(0, 1 << 62)])
    reader.close()
    warehouse.close()


def test_an_expired_snapshot_is_named(locally: Callable[[int], Written], tmp_path: Path) -> None:
    warehouse, ref = locally(1 << 30)
    reader = ColdReader(warehouse, tmp_path / "cache", 0)
    with pytest.raises(StoreUnavailable, match="snapshot 12345"):
        reader.read_rows(TABLE, SnapshotRef(ref.metadata_location, 12345), [FIRST])
    with pytest.raises(StoreUnavailable):
        reader.read_rows(TABLE, SnapshotRef("file:///nowhere/metadata.json", 1), [FIRST])
    reader.close()
    warehouse.close()
