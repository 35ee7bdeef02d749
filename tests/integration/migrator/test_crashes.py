"""A move that is cut off at any step goes on with fresh objects: no row is lost, none is there twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orbit.chassis.iceberg.warehouse import Warehouse, WarehouseSettings
from orbit.kernel.errors import StoreUnavailable
from orbit.kernel.ids import ROW_ID_COLUMN
from services.migrator.iceberg import Lake, LakeConflict
from services.migrator.service import Turn
from services.storage.client import MoveEnded
from services.storage.tiers.cold import ColdReader
from tests.fixtures.fix_moves import make_table
from tests.fixtures.fix_weed import BUCKET, Weed
from tests.integration.migrator.conftest import MakeWorld, World
from tests.integration.migrator.test_moves import foreign, simple_row

pytestmark = pytest.mark.integration


class Crash(BaseException):
    """The process is gone: nothing of it runs any more."""


class Fuse:
    """Blows at the n-th step; then every step does."""

    def __init__(self, blow_at: int) -> None:
        self.steps: list[str] = []
        self._blow_at = blow_at

    def step(self, name: str) -> None:
        self.steps.append(name)
        if len(self.steps) > self._blow_at:
            raise Crash(f"step {self._blow_at}: {self.steps[self._blow_at]}")


class Fused:
    """Wraps storage or the lake: each call is a step before and a step after it."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        fuse = self._fuse
        if name == "read":

            async def read(*arguments: Any) -> AsyncIterator[pa.RecordBatch]:
                async for batch in method(*arguments):
                    fuse.step("batch")
                    yield batch

            return read
        if asyncio.iscoroutinefunction(method):

            async def call(*arguments: Any) -> Any:
                fuse.step(f"before {name}")
                result = await method(*arguments)
                fuse.step(f"after {name}")
                return result

            return call

        def call_blocking(*arguments: Any) -> Any:
            fuse.step(f"before {name}")
            result = method(*arguments)
            fuse.step(f"after {name}")
            return result

        return call_blocking


async def _prepared(world: World) -> dict[int, Any]:
    """A table with cold rows, one of which has been updated since, and new rows that are due."""
    table = make_table()
    world.moves.create(table)
    ids = world.moves.insert(table, [simple_row(n) for n in range(30)], segment=1)
    world.age()
    await world.migrator().turn()
    world.moves.ended.clear()
    world.moves.insert(table, [simple_row(n) for n in range(100, 350)], segment=2)
    world.moves.update(table, ids[3], (3, "changed", Decimal(0)), segment=3)
    world.age()
    return world.moves.contents(table.storage_id, world.reader)


async def _run_until(world: World, fuse: Fuse) -> None:
    fused_moves, fused_lake = Fused(world.moves, fuse), Fused(Lake(world.warehouse), fuse)
    await world.migrator(moves=fused_moves, lake=fused_lake).turn()


async def _settled(world: World, name: str = "m1") -> Turn:
    """Take turns with a fresh migrator until nothing is left to do."""
    migrator = world.migrator(name)
    while (turn := await migrator.turn()).planned or turn.resumed:
        pass
    return turn


def _check(world: World, expected: dict[int, Any]) -> None:
    table = make_table()
    assert world.moves.contents(table.storage_id, world.reader) == expected
    assert world.moves.cold_rows(table.storage_id) >= len(expected)
    seen = foreign(world, table)
    row_ids = seen.column(ROW_ID_COLUMN).to_pylist()
    assert len(row_ids) == len(set(row_ids)), "a row is in the lake twice"
    assert dict(zip(row_ids, seen.column("id").to_pylist(), strict=True)) == {i: row[0] for i, row in expected.items()}


def _orphans(world: World) -> set[str]:
    """Return the data files that no snapshot names."""
    found = world.warehouse.table(("public", "t"))
    assert found is not None
    used = {file["file_path"] for file in found._table.inspect.all_files().to_pylist()}
    folder = Path(found.metadata.location.removeprefix("file://")) / "data"
    return {f"file://{path}" for path in folder.rglob("*.parquet")} - used


ORDER = (
    *("before open_moves", "after open_moves", "before statistics", "after statistics", "before probe", "after probe"),
    *("before begin", "after begin", "before target", "after target", "before copier", "after copier"),
    *("batch",) * 3,
    *("before publish", "after publish", "before commit", "after commit"),
)
"""Steps of an undisturbed turn; every one of them is cut off below."""


async def test_steps_of_an_undisturbed_turn(local_world: World) -> None:
    expected = await _prepared(local_world)
    fuse = Fuse(1000)
    await _run_until(local_world, fuse)
    _check(local_world, expected)
    assert tuple(fuse.steps) == ORDER


@pytest.mark.parametrize("blow_at", range(len(ORDER)))
async def test_crash_at_every_step(make_world: MakeWorld, tmp_path: Path, blow_at: int) -> None:
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    settings = WarehouseSettings(str(tmp_path / "warehouse"), "sqlite", catalog)
    world = make_world(settings)
    expected = await _prepared(world)
    with pytest.raises(Crash):
        await _run_until(world, Fuse(blow_at))
    assert world.moves.contents(make_table().storage_id, world.reader) == expected, "while the migrator is away"

    world.warehouse.close()
    world.warehouse = Warehouse(settings)
    world.reader.close()
    world.reader = ColdReader(world.warehouse, tmp_path / "cache again", 1 << 20)
    await _settled(world)

    _check(world, expected)
    assert not world.moves.open
    assert not _orphans(world)


async def test_crash_after_crash(local_world: World) -> None:
    """The same move is cut off again and again, one step further each time."""
    expected = await _prepared(local_world)
    for blow_at in range(2, len(ORDER) + 4):
        try:
            await _run_until(local_world, Fuse(blow_at))
        except Crash:
            continue
    await _settled(local_world)
    _check(local_world, expected)


async def test_snapshot_of_an_aborted_move_is_rewound(local_world: World) -> None:
    """Published, then aborted: the rows stay local, and the next move does not leave them twice in the lake."""
    world = local_world
    expected = await _prepared(world)
    with pytest.raises(Crash):
        await _run_until(world, Fuse(_step_number("after publish")))
    (move_id,) = world.moves.open
    await world.moves.abort(move_id, "cancelled by DROP")
    assert foreign(world, make_table()).num_rows == 280, "the orphan is there"

    await _settled(world)
    _check(world, expected)


def _step_number(name: str) -> int:
    return ORDER.index(name)


async def test_publishing_twice_gives_one_snapshot(local_world: World) -> None:
    world = local_world
    await _prepared(world)
    (planned,) = [s for s in await world.moves.statistics() if s.segment_id == 2]
    claim = await world.moves.begin(
        b"x" * 16, planned.table_id, planned.storage_id, [(planned.first_row_id, planned.last_row_id)], 1 << 62
    )
    refs = []
    for _ in range(2):
        lake = Lake(world.warehouse)
        copier = lake.copier(claim, lake.target(claim))
        async for batch in world.moves.read(claim.move_id):
            copier.add(batch)
        refs.append(lake.publish(claim, copier.finish()))
    assert refs[0].snapshot_id == refs[1].snapshot_id
    assert foreign(world, claim.table).num_rows == 280
    assert Lake(world.warehouse).sweep(claim, refs[1]) == 1
    assert not _orphans(world)


async def test_two_at_work_on_one_move_give_one_snapshot(local_world: World) -> None:
    """Both have copied before either commits: the catalog lets one win, the other finds its snapshot."""
    world = local_world
    await _prepared(world)
    claim = await world.moves.begin(b"x" * 16, 16400, 20001, [(0, 1 << 62)], 1 << 62)
    copies = []
    for _ in range(2):
        lake = Lake(world.warehouse)
        copier = lake.copier(claim, lake.target(claim))
        async for batch in world.moves.read(claim.move_id):
            copier.add(batch)
        copies.append((lake, copier.finish()))
    refs = await asyncio.gather(*(asyncio.to_thread(lake.publish, claim, copied) for lake, copied in copies))
    assert refs[0].snapshot_id == refs[1].snapshot_id
    found = world.warehouse.table(("public", "t"))
    assert found is not None and len(found.history()) == 2


async def test_overtaken_migrator_changes_nothing(local_world: World) -> None:
    """A process that slept through the abort of its move and the whole of the next one must not rewind that."""
    world = local_world
    expected = await _prepared(world)
    claim = await world.moves.begin(b"old" + bytes(13), 16400, 20001, [(0, 1 << 62)], 1 << 62)
    sleeper = Lake(world.warehouse)
    copier = sleeper.copier(claim, sleeper.target(claim))
    async for batch in world.moves.read(claim.move_id):
        copier.add(batch)
    copied = copier.finish()
    await world.moves.abort(claim.move_id, "taken for dead")
    await _settled(world)

    with pytest.raises(LakeConflict, match="later"):
        sleeper.publish(claim, copied)
    with pytest.raises(MoveEnded):
        await world.moves.commit(claim.move_id, claim.as_of, 1, "")
    _check(world, expected)


async def test_second_migrator_leaves_open_moves_alone_until_they_are_old(local_world: World) -> None:
    world = local_world
    expected = await _prepared(world)
    with pytest.raises(Crash):
        await _run_until(world, Fuse(_step_number("before publish")))

    other = await world.migrator("m2").turn()
    assert (other.resumed, other.planned, len(world.moves.open)) == (0, 0, 1)
    world.clock.advance(601)
    taken = await world.migrator("m2").turn()
    assert (taken.resumed, taken.committed) == (1, 1)
    await _settled(world)
    _check(world, expected)


async def test_many_migrators_at_once(local_world: World) -> None:
    """Same work, several hands: each row moves once."""
    world = local_world
    expected = await _prepared(world)
    await asyncio.gather(*(world.migrator(f"m{n}").turn() for n in range(3)))
    await _settled(world)
    _check(world, expected)
    assert [how for how in world.moves.ended.values() if how != "committed"] == []


async def test_cancelled_claim_ends_the_move(local_world: World) -> None:
    """TRUNCATE in the middle of a copy: the migrator goes on with other work and the files are gone."""
    world, table = local_world, make_table()
    await _prepared(world)
    emptied = replace_storage(table)

    class TruncatingMoves(Fused):
        def __getattr__(self, name: str) -> Any:
            if name != "read":
                return getattr(self._inner, name)

            async def read(move_id: bytes) -> AsyncIterator[pa.RecordBatch]:
                async for batch in self._inner.read(move_id):
                    if table.storage_id in self._inner.stored:
                        self._inner.truncate(table, emptied)
                    yield batch

            return read

    turn = await world.migrator(moves=TruncatingMoves(world.moves, Fuse(0))).turn()
    assert (turn.planned, turn.committed, turn.aborted) == (1, 0, 0)
    assert list(world.moves.ended.values()) == ["cancelled"]
    assert not _orphans(world)


def replace_storage(table: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(table, storage_id=20002)


async def test_foreign_change_stops_the_table_and_is_not_overwritten(local_world: World) -> None:
    world = local_world
    await _prepared(world)
    await _settled(world)
    found = world.warehouse.table(("public", "t"))
    assert found is not None
    found._table.delete("id < 10")
    theirs = world.warehouse.table(("public", "t"))
    world.moves.insert(make_table(), [simple_row(n) for n in range(900, 910)], segment=9)
    world.age()
    turn = await world.migrator().turn()

    assert (turn.planned, turn.aborted, turn.committed) == (1, 1, 0)
    assert any("not this engine's" in how for how in world.moves.ended.values())
    now = world.warehouse.table(("public", "t"))
    assert now is not None and theirs is not None and now.snapshot_id == theirs.snapshot_id
    assert len(world.moves.contents(20001, world.reader)) == 290, "queries read the snapshot that the log names"


@pytest.mark.parametrize("down", ["before the move", "in the middle"])
async def test_store_that_is_down_is_waited_for(
    make_world: MakeWorld, start_weed: Callable[[], Weed], tmp_path: Path, down: str
) -> None:
    server = start_weed()
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    world = make_world(WarehouseSettings(f"s3://{BUCKET}/w", "sqlite", catalog, s3=server.settings))
    expected = await _prepared(world)
    if down == "in the middle":
        with pytest.raises(Crash):
            await _run_until(world, Fuse(_step_number("before publish")))
    server.kill()

    migrator = world.migrator()
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
        await migrator.turn()
    assert len(world.moves.open) == (1 if down == "in the middle" else 0), "a store that is down gets no new claims"
    assert world.moves.contents(20001, world.reader) == expected

    await asyncio.to_thread(server.start)
    while True:
        try:
            await migrator.turn()
            break
        except StoreUnavailable:
            # The server answers before it has found its volumes again; the loop would wait for its next turn.
            await asyncio.sleep(0.1)
    _check(world, expected)

    server.kill()
    fresh = ColdReader(world.warehouse, tmp_path / "fresh", 1 << 20)
    with pytest.raises(StoreUnavailable):
        world.moves.contents(20001, fresh)
    fresh.close()


async def test_loop_waits_and_goes_on(local_world: World) -> None:
    """The running service reports what it waits for, and recovers by itself."""
    world = local_world
    expected = await _prepared(world)

    class Away(Lake):
        away = True
        asked = asyncio.Event()

        def probe(self) -> None:
            if self.away:
                loop.call_soon_threadsafe(self.asked.set)
                raise StoreUnavailable("the store is on holiday")
            super().probe()

    class Watched(Fused):
        recovered = asyncio.Event()

        def __getattr__(self, name: str) -> Any:
            if name == "statistics" and migrator.health()["moves_committed"]:
                self.recovered.set()
            return getattr(self._inner, name)

    loop = asyncio.get_running_loop()
    lake = Away(world.warehouse)
    moves = Watched(world.moves, Fuse(0))
    migrator = world.migrator(moves=moves, lake=lake)
    task = asyncio.create_task(migrator.run())
    await lake.asked.wait()
    lake.asked.clear()
    await lake.asked.wait()
    assert migrator.health()["waiting_for"] == "the store is on holiday"
    lake.away = False
    await moves.recovered.wait()
    assert migrator.health()["status"] == "ok"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _check(world, expected)
