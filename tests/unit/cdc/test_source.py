"""The fold over the log: what commits, in which order, with which schema, and what has no effect."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import pytest

from orbit.kernel import records
from orbit.kernel.errors import LogCorrupt
from orbit.kernel.records import Kind, Record
from orbit.kernel.schema import Put
from services.cdc import source
from services.cdc.backlog import Backlog
from services.cdc.decode import Event, events
from services.cdc.source import Commit, Fold
from services.storage.log.memory import MemoryLog
from tests.fixtures.fix_shard import Shard, make_table, to_arrow

TABLE = make_table(1, "t")
ROWS = [(n, f"n{n}", Decimal(n)) for n in range(10)]


class Chain:
    """Makes records that follow each other."""

    def __init__(self) -> None:
        self.hash = records.GENESIS_HASH
        self.sequence = 0

    def record(self, kind: Kind, body: Any, epoch: int = 1) -> tuple[int, bytes]:
        self.sequence += 1
        data = records.encode(Record(records.FORMAT, kind, 1, epoch, 0, self.sequence, self.hash, body))
        self.hash = records.record_hash(data)
        return self.sequence, data

    def epoch(self, number: int) -> tuple[int, bytes]:
        return self.record(Kind.EPOCH, records.EpochBody(number, "n"), number)

    def group(self, *transactions: records.Transaction, epoch: int = 1) -> tuple[int, bytes]:
        return self.record(Kind.GROUP, list(transactions), epoch)


def insert(name: bytes, number: int) -> records.Transaction:
    return records.Transaction(name, [records.Insert(TABLE.storage_id, [[number, "x", "1.00"]])])


def create() -> records.Transaction:
    return records.Transaction(b"create", [records.CatalogChanged([Put(TABLE)])])


def chunk(owner: bytes, number: int, rows: list[Any]) -> tuple[records.ChunkBody, bytes]:
    arrow = to_arrow(rows, TABLE)
    return records.ChunkBody(owner, number, [records.BulkInsert(TABLE.storage_id, len(rows), arrow)]), arrow


def digest(*parts: bytes) -> bytes:
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.digest()


async def all_events(commit: Commit, log: Any = None) -> list[Event]:
    return [event async for event in events(commit, log)]


def test_transactions_come_in_order_with_the_catalog_before_and_after() -> None:
    chain, fold = Chain(), Fold()
    assert fold.take(*chain.epoch(1)) == []
    first, second = fold.take(*chain.group(create(), insert(b"a", 1)))
    assert first.before.table("public", "t") is None and first.after.table("public", "t") == TABLE
    assert second.before is second.after is fold.catalog
    assert (first.lsn, second.lsn) == (2 << 20, (2 << 20) + 1)
    assert second.time_us == first.time_us + 1


def test_a_transaction_that_was_committed_before_has_no_effect() -> None:
    chain, fold = Chain(), Fold()
    fold.take(*chain.group(create(), insert(b"a", 1)))
    assert [commit.transaction.id for commit in fold.take(*chain.group(insert(b"a", 1), insert(b"b", 2)))] == [b"b"]


def test_a_record_of_a_stale_epoch_keeps_its_place_and_has_no_effect() -> None:
    chain, fold = Chain(), Fold()
    fold.take(*chain.epoch(2))
    assert fold.take(*chain.group(create(), epoch=1)) == []
    assert fold.catalog.tables() == []
    assert len(fold.take(*chain.group(create(), epoch=2))) == 1


def test_a_gap_and_a_foreign_record_stop_the_fold() -> None:
    chain, fold = Chain(), Fold()
    fold.take(*chain.epoch(1))
    chain.group(create())
    with pytest.raises(LogCorrupt, match="expected record 2"):
        fold.take(*chain.group(insert(b"a", 1)))
    stranger = Chain()
    stranger.sequence = 1
    with pytest.raises(LogCorrupt, match="does not follow"):
        fold.take(*stranger.group(create()))


@pytest.mark.parametrize("limit", [1 << 20, 0])
async def test_chunks_become_rows_when_their_transaction_commits(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no memory for chunks they are read from the log again, to the same effect."""
    monkeypatch.setattr(source, "HELD_CHUNK_BYTES", limit)
    log = MemoryLog()
    shard = Shard(log)
    await shard.start()
    await shard.run(shard.create(TABLE))
    loading = shard.begin()
    await shard.load(loading, "t", ROWS[:5], pieces=2)
    await shard.run(shard.insert("t", (100, "between", None)))
    await shard.load(loading, "t", ROWS[5:], pieces=3)
    last = await shard.commit(loading)
    fold, commits = Fold(), []
    async with aclosing(log.read(1)) as entries:
        async for entry in entries:
            commits += fold.take(entry.sequence, entry.data)
            if commits and commits[-1].lsn == last:
                break
    found = await all_events(commits[-1], log)
    assert [event.after and event.after["id"] for event in found] == list(range(10))
    assert [(event.position, event.total) for event in found] == [(n, 10) for n in range(10)]
    assert fold.snapshot() is not None


def test_aborted_chunks_and_those_of_an_earlier_epoch_are_void() -> None:
    chain, fold = Chain(), Fold()
    fold.take(*chain.group(create()))
    body, _ = chunk(b"a", 0, ROWS)
    fold.take(*chain.record(Kind.CHUNK, body))
    assert fold.snapshot() is None
    fold.take(*chain.record(Kind.CHUNK, records.ChunkBody(b"a", records.CHUNK_ABORT, [])))
    assert fold.snapshot() is not None
    body, arrow = chunk(b"b", 0, ROWS)
    fold.take(*chain.record(Kind.CHUNK, body))
    fold.take(*chain.epoch(2))
    commit = records.Transaction(b"b", [records.ChunksCommitted(1, digest(arrow))])
    with pytest.raises(LogCorrupt, match="chunks"):
        fold.take(*chain.group(commit, epoch=2))


def test_chunks_other_than_those_committed_stop_the_fold() -> None:
    chain, fold = Chain(), Fold()
    fold.take(*chain.group(create()))
    body, _ = chunk(b"a", 0, ROWS)
    fold.take(*chain.record(Kind.CHUNK, body))
    with pytest.raises(LogCorrupt, match="chunks"):
        fold.take(*chain.group(records.Transaction(b"a", [records.ChunksCommitted(1, digest(b"other"))])))


def test_a_fold_restored_from_its_snapshot_goes_on_as_the_first() -> None:
    chain, fold = Chain(), Fold()
    fold.take(*chain.epoch(1))
    fold.take(*chain.group(create(), insert(b"a", 1)))
    saved = fold.snapshot()
    assert saved is not None
    other = Fold.restore(saved)
    following = chain.group(insert(b"a", 1), insert(b"b", 2))
    one, two = fold.take(*following), other.take(*following)
    assert [commit.transaction for commit in one] == [commit.transaction for commit in two]
    assert other.catalog.table("public", "t") == TABLE and other.catalog.version == fold.catalog.version
    with pytest.raises(ValueError, match="does not decode"):
        Fold.restore(b"nonsense")


async def test_the_backlog_gives_room_as_items_arrive_and_batches_in_order() -> None:
    backlog: Backlog[int] = Backlog(100)
    await backlog.put(1, 60)
    await backlog.put(2, 40)
    third = asyncio.create_task(backlog.put(3, 10))
    await asyncio.sleep(0)
    assert not third.done() and await backlog.peek(10, 1000) == [1, 2]
    backlog.done(1)
    await third
    assert await backlog.peek(10, 1000) == [2, 3] and await backlog.peek(1, 1000) == [2]
    assert await backlog.peek(10, 45) == [2]
    backlog.discard_while(lambda item: item <= 2)
    assert backlog.oldest == 3
    drained = asyncio.create_task(backlog.drained())
    await asyncio.sleep(0)
    assert not drained.done()
    backlog.done(1)
    await drained
