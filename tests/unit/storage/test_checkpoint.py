"""Checkpoints on a real RocksDB: whatever happened, a start finds the state that the log tells."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orbit.kernel.errors import DiskFull
from services.storage.digest import state_digest
from services.storage.log.memory import MemoryLog
from services.storage.moves import SnapshotRef
from services.storage.tiers import table as table_module
from services.storage.tiers.cold_source import ColdSource
from services.storage.tiers.segment import Segment
from services.storage.tiers.table import TableStore
from services.storage.tiers.warm import WarmSource
from tests.fixtures.fix_storage import Cluster, StorageNode, until
from tests.unit.storage.test_digest_and_replay import replayed, traffic


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "SMALL_LOAD_ROWS", 2)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[StorageNode]:
    node = StorageNode(Cluster(), MemoryLog(), path=tmp_path / "rocksdb")
    await node.start()
    await node.lead()
    yield node
    await node.stop()


def checkpoint(node: StorageNode) -> None:
    capture = node.checkpointer.capture()
    if capture is not None:
        node.checkpointer.write(capture)


def stores(node: StorageNode) -> Iterator[TableStore]:
    yield from node.state.stores.values()


def demote(node: StorageNode, rng: random.Random, rows_too: bool) -> None:
    """Let some of the saved hot segments go to the warm tier."""
    assert node.warm is not None
    for store in stores(node):
        for segment in store.segments.values():
            if (
                segment.columns is not None
                and node.checkpointer.saved(store.storage_id, segment)
                and rng.random() < 0.5
            ):
                if rows_too:
                    node.warm.save_rows(store.storage_id, segment)
                segment.demote(WarmSource(node.warm, store.storage_id, segment.number, segment.schema))


async def restarted(node: StorageNode) -> StorageNode:
    """Crash, and load what the disk has, without replaying the log."""
    await node.crash()
    other = StorageNode(Cluster(), MemoryLog(node.log.stream), path=node.path)
    other.open_disk()
    return other


def catch_up(node: StorageNode) -> None:
    for entry in node.log.stream.entries:
        if entry.sequence > node.state.applied_sequence:
            node.state.replay(entry.sequence, entry.data)


@pytest.mark.parametrize("seed", range(4))
async def test_a_start_from_any_checkpoint_is_the_log_from_its_beginning(node: StorageNode, seed: int) -> None:
    rng = random.Random(seed)
    for turn in range(rng.randrange(2, 6)):
        await traffic(node, seed * 100 + turn, 40)
        for store in stores(node):
            if rng.random() < 0.7:
                store.seal(rng.choice([5, 1000]), node.state.oldest_snapshot(), lambda lsn: lsn)
            store.collect(node.state.oldest_snapshot())
        if rng.random() < 0.8:
            checkpoint(node)
            demote(node, rng, rows_too=rng.random() < 0.5)
    checkpoint(node)
    at_checkpoint = state_digest(node.state)
    saved = node.checkpointer.durable_sequence
    await traffic(node, seed + 999, 20)
    wanted = state_digest(replayed(node.log.stream))
    node = await restarted(node)
    assert node.state.applied_sequence == saved
    assert state_digest(node.state) == at_checkpoint, f"seed {seed}"
    catch_up(node)
    assert state_digest(node.state) == wanted, f"seed {seed}"
    checkpoint(node)
    node = await restarted(node)
    assert state_digest(node.state) == wanted, f"seed {seed}"
    node.release()


async def loaded(node: StorageNode, rows: int = 50) -> TableStore:
    client = node.client()
    await client.run("CREATE TABLE t (id bigint PRIMARY KEY, v text)")
    await client.copy("COPY t FROM STDIN", [(number, f"v{number}") for number in range(rows)])
    table = node.state.catalog.table("public", "t")
    assert table is not None
    return node.state.store(table)


@pytest.mark.parametrize("fails", ["blobs", "publish"])
async def test_a_checkpoint_that_fails_is_made_good_by_the_next(
    node: StorageNode, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Disk full in the middle: the last checkpoint stands, and nothing of what was captured is lost."""
    assert node.warm is not None
    store = await loaded(node)
    checkpoint(node)
    durable = node.checkpointer.durable_sequence
    node.warm.save_rows(store.storage_id, store.segments[0])
    store.segments[0].demote(WarmSource(node.warm, store.storage_id, 0, store.segments[0].schema))
    client = node.client()
    await client.run("DELETE FROM t WHERE id = 7; UPDATE t SET v = 'new' WHERE id = 8")
    await client.copy("COPY t FROM STDIN", [(number, "more") for number in range(1000, 1010)])

    def full(*_: Any, **__: Any) -> Any:
        raise DiskFull("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(type(node.warm), "save_columns" if fails == "blobs" else "publish", full)
        with pytest.raises(DiskFull):
            checkpoint(node)
    assert node.checkpointer.durable_sequence == durable
    assert not node.checkpointer.saved(store.storage_id, store.segments[1])
    checkpoint(node)
    wanted = state_digest(node.state)
    node = await restarted(node)
    assert state_digest(node.state) == wanted
    tiers = [segment.tier for store in stores(node) for segment in store.segments.values()]
    assert sorted(tiers) == ["hot", "warm"]
    node.release()


async def test_a_crash_between_blobs_and_publication_leaves_the_last_checkpoint(
    node: StorageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await loaded(node)
    checkpoint(node)
    before = state_digest(node.state)
    client = node.client()
    await client.copy("COPY t FROM STDIN", [(number, "x" * 500_000) for number in range(1000, 1020)])
    capture = node.checkpointer.capture()
    assert capture is not None and node.warm is not None
    for storage_id, segment in capture.blobs:
        node.warm.save_columns(storage_id, segment)
    assert store.segments[1].columns_bytes > 8 << 20, "several pieces a column"
    node = await restarted(node)
    assert state_digest(node.state) == before
    # The same segment number now gets other, shorter columns: nothing of the old ones may show through.
    table = node.state.catalog.table("public", "t")
    assert table is not None
    catch_up(node)
    checkpoint(node)
    wanted = state_digest(replayed(node.log.stream))
    node = await restarted(node)
    assert state_digest(node.state) == wanted
    node.release()


async def test_dropped_tables_and_shrunken_tails_leave_nothing_on_disk(node: StorageNode) -> None:
    client = node.client()
    await loaded(node, 200)
    await client.run("CREATE TABLE u (id int PRIMARY KEY)")
    await client.run("INSERT INTO u VALUES " + ", ".join(f"({number})" for number in range(300)))
    checkpoint(node)
    assert node.warm is not None
    assert list(node.warm.keys(b"t")) and list(node.warm.keys(b"s"))
    await client.run("DROP TABLE t; DELETE FROM u")
    checkpoint(node)
    assert not list(node.warm.keys(b"t")) and not list(node.warm.keys(b"s")) and not list(node.warm.keys(b"e"))
    assert not list(node.warm._columns.keys()) and not list(node.warm._rows.keys())


async def test_a_dead_segment_leaves_the_disk_once_no_scan_reads_it(node: StorageNode) -> None:
    store = await loaded(node)
    checkpoint(node)
    parts = store.scan(node.state.applied_lsn)
    assert node.warm is not None
    segment: Segment | None = store.segments[0]
    assert segment is not None
    segment.demote(WarmSource(node.warm, store.storage_id, 0, segment.schema))
    del segment
    client = node.client()
    await client.run("DELETE FROM t")
    store.collect(node.state.oldest_snapshot())
    assert not store.segments
    checkpoint(node)
    assert not list(node.warm.keys(b"s"))
    assert parts[0].load(store.table, [1, 2]).num_rows == 50, "a scan that began before still reads"
    del parts
    await client.run("INSERT INTO t VALUES (1, 'again')")
    checkpoint(node)
    assert not list(node.warm._columns.keys())


async def test_an_open_load_is_waited_for_and_an_abandoned_one_is_not(node: StorageNode) -> None:
    await loaded(node)
    checkpoint(node)
    one, other = node.client(), node.client()
    await one.run("BEGIN")
    await one.open_copy("COPY t FROM STDIN")
    await one.copy_rows([(5000, "open")])
    await other.run("CREATE TABLE other (id int)")
    assert node.checkpointer.capture() is None, "its chunks are in the log only"
    one.session.close()
    await until(lambda: not node.state.loads)
    checkpoint(node)
    wanted = state_digest(node.state)
    node = await restarted(node)
    assert state_digest(node.state) == wanted == state_digest(replayed(node.log.stream))
    node.release()


async def test_sealing_between_capture_and_write_is_harmless(node: StorageNode) -> None:
    client = node.client()
    store = await loaded(node)
    await client.run("INSERT INTO t VALUES (100, 'tail'), (101, 'tail')")
    capture = node.checkpointer.capture()
    assert capture is not None
    wanted = state_digest(node.state)
    assert store.seal(10, None, lambda lsn: 0) is not None
    await client.run("DELETE FROM t WHERE id < 10")
    node.checkpointer.write(capture)
    digest = state_digest(replayed(node.log.stream))
    node = await restarted(node)
    assert state_digest(node.state) == wanted
    catch_up(node)
    assert state_digest(node.state) == digest
    node.release()


async def test_an_old_snapshot_reads_its_own_version_from_warm_rows(node: StorageNode) -> None:
    """Two versions of one row, both in warm segments: each has a row copy of its own."""
    assert node.warm is not None
    store = await loaded(node, 5)
    old, client = node.client(), node.client()
    await old.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert (await old.run("SELECT v FROM t WHERE id = 1")).rows == [("v1",)]
    await client.run("UPDATE t SET v = 'new' WHERE id = 1")
    late = node.client()
    await late.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await late.run("SELECT v FROM t WHERE id = 1")
    assert store.seal(10, None, lambda lsn: 0) is not None
    checkpoint(node)
    for segment in store.segments.values():
        node.warm.save_rows(store.storage_id, segment)
        segment.demote(WarmSource(node.warm, store.storage_id, segment.number, segment.schema))
    assert (await old.run("SELECT v FROM t WHERE id = 1")).rows == [("v1",)]
    assert (await late.run("SELECT v FROM t WHERE id = 1")).rows == [("new",)]


class Warehouse:
    """A cold tier in memory: what was alive at the move."""

    def __init__(self, store: TableStore, segment: Segment) -> None:
        self.rows = {
            int(row_id): segment.row(at) for at, row_id in enumerate(segment.row_ids) if segment.end_view[at] > 1 << 62
        }
        self.store = store

    def read_aligned(self, table: Any, ref: Any, columns: Any, row_ids: Any, needed: Any = None) -> Any:
        import pyarrow as pa

        position = [table.position(number) for number in columns]
        found = [self.rows[int(r)] if n else None for r, n in zip(row_ids, needed, strict=True)]
        return pa.table(
            {
                str(n): [None if row is None else row[at] for row in found]
                for n, at in zip(columns, position, strict=True)
            }
        )

    def read_rows(self, table: Any, ref: Any, row_ids: Any) -> Any:
        return {row_id: self.rows[row_id] for row_id in row_ids if row_id in self.rows}

    def files(self, ref: Any) -> tuple[int, int]:
        return 1, 1


async def test_cold_segments_survive_a_restart_and_serve_snapshots_older_than_a_change(node: StorageNode) -> None:
    assert node.warm is not None
    store = await loaded(node, 6)
    client, old = node.client(), node.client()
    await client.run("DELETE FROM t WHERE id = 5")
    checkpoint(node)
    segment = store.segments[0]
    cold = Warehouse(store, segment)
    as_of = node.state.applied_lsn
    await old.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await old.run("SELECT v FROM t WHERE id = 0")
    await client.run("UPDATE t SET v = 'new' WHERE id = 0; DELETE FROM t WHERE id = 1")
    segment.demote(ColdSource(cold, node.warm, store, segment, SnapshotRef("m", 9), as_of))
    assert sorted((await old.run("SELECT id, v FROM t")).rows) == [(str(n), f"v{n}") for n in range(5)]
    assert sorted((await client.run("SELECT id, v FROM t")).rows) == [
        ("0", "new"), ("2", "v2"), ("3", "v3"), ("4", "v4")
    ]  # fmt: skip
    await old.run("COMMIT")
    checkpoint(node)
    digest = state_digest(node.state)
    await node.crash()
    from services.storage.checkpoint import Checkpointer

    other = StorageNode(Cluster(), MemoryLog(node.log.stream), path=node.path)
    with pytest.raises(RuntimeError, match="no cold tier"):
        other.open_disk()
    assert other.warm is not None
    other.state.stores.clear()
    other.checkpointer = Checkpointer(other.state, other.warm, cold)
    assert other.checkpointer.load()
    assert state_digest(other.state) == digest
    assert [one.tier for store in stores(other) for one in store.segments.values()] == ["cold"]
    other.release()


async def test_what_was_sealed_after_the_last_record_is_written_too(node: StorageNode) -> None:
    await node.client().run("CREATE TABLE t (id int PRIMARY KEY)")
    await node.client().run("INSERT INTO t VALUES (1), (2), (3)")
    checkpoint(node)
    assert node.checkpointer.capture() is None
    store = next(store for store in stores(node) if store.heads)
    segment = store.seal(10, None, node.state.time_us_of)
    assert segment is not None
    checkpoint(node)
    assert node.checkpointer.saved(store.storage_id, segment)
    assert node.checkpointer.capture() is None
