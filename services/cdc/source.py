"""The shard's log as committed transactions: checked, in order, each with the catalogs before and after it.

Owns the fold: the same rules by which storage's state reads the log (the chain, epochs, duplicates, chunks), kept to
what a change feed needs. `Fold` is pure; `Source` reads the log through it. What becomes of a transaction is `sinks`'.

    records ──> Fold: chain and epoch checks ──> catalog, open loads, known ids ──> Commit, Commit, ..
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import msgspec

from orbit.kernel import records
from orbit.kernel.errors import LogCorrupt
from orbit.kernel.ids import FIRST_TIMELINE, pack
from orbit.kernel.limits import REMEMBERED_TRANSACTIONS
from orbit.kernel.records import BulkInsert, Kind, Record
from orbit.kernel.schema import Catalog, CatalogObject
from services.storage.client import LogReader

SNAPSHOT_FORMAT: Final = 1
HELD_CHUNK_BYTES: Final = 64 << 20
"""Chunks of open loads kept in memory; what comes past it is read from the log again when its load commits."""


ROW_CHANGES = (BulkInsert, records.Insert, records.Update, records.Delete)


def changed_rows(effect: BulkInsert | records.Insert | records.Update | records.Delete) -> int:
    """Return how many rows an effect changes."""
    if isinstance(effect, BulkInsert):
        return effect.row_count
    return len(effect.rows) if isinstance(effect, records.Insert) else 1


@dataclass(slots=True)
class Load:
    """The chunks of one transaction. `held` has None where the chunk was left in the log."""

    sequences: list[int] = field(default_factory=list)
    held: list[list[records.Effect] | None] = field(default_factory=list)
    row_counts: Counter[int] = field(default_factory=Counter)
    """Changed rows by storage id."""
    size_bytes: int = 0
    digest: Any = field(default_factory=lambda: blake2b(digest_size=16))

    async def effects(self, log: LogReader) -> AsyncIterator[records.Effect]:
        """Yield the changes in order; what is not held comes from the log."""
        at = 0
        while at < len(self.held) and (held := self.held[at]) is not None:
            for effect in held:
                yield effect
            at += 1
        if at == len(self.held):
            return
        wanted = self.sequences[at:]
        reader = log.read(wanted[0])
        async for entry in reader:
            if entry.sequence == wanted[0]:
                for effect in records.decode(entry.data).body.effects:
                    yield effect
                del wanted[0]
                if not wanted:
                    return


@dataclass(frozen=True, slots=True)
class Commit:
    """One committed transaction."""

    timeline: int
    lsn: int
    time_us: int
    transaction: records.Transaction
    before: Catalog
    after: Catalog
    load: Load | None


class _Snapshot(msgspec.Struct, array_like=True):
    """A fold between two records, without open loads."""

    format: int
    timeline: int
    sequence: int
    time_us: int
    last_hash: bytes
    epoch: int
    catalog: list[CatalogObject]
    catalog_version: int
    next_id: int
    known: list[bytes]


class Fold:
    """What the log has said so far, as far as a change feed must know it."""

    def __init__(self) -> None:
        self.catalog = Catalog({}, 0)
        self.timeline = FIRST_TIMELINE
        self.sequence = 0
        """The last record taken."""
        self.time_us = 0
        self._last_hash = records.GENESIS_HASH
        self._epoch = 0
        self._loads: dict[bytes, Load] = {}
        self._held_bytes = 0
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def take(self, sequence: int, data: bytes) -> list[Commit]:
        """Return the transactions that the next record commits. Raises LogCorrupt on a gap or a broken chain."""
        if sequence != self.sequence + 1:
            raise LogCorrupt(f"expected record {self.sequence + 1} and found {sequence}")
        record = records.decode(data)
        if record.previous_hash != self._last_hash:
            raise LogCorrupt(f"record {sequence} does not follow the record before it")
        commits: list[Commit] = []
        if record.epoch >= self._epoch:
            if record.kind == Kind.GROUP:
                commits = self._group(sequence, record)
            elif record.kind == Kind.CHUNK:
                self._chunk(sequence, record.body)
            elif record.kind == Kind.EPOCH:
                self._epoch = record.body.epoch
                for owner in list(self._loads):
                    self._drop(owner)
        # A stale leader's record still has its place in the chain; it only has no effect.
        self.sequence, self.time_us, self.timeline = sequence, record.time_us, record.timeline
        self._last_hash = records.record_hash(data)
        return commits

    def _group(self, sequence: int, record: Record) -> list[Commit]:
        commits: list[Commit] = []
        for index, transaction in enumerate(record.body):
            if transaction.id in self._known:
                continue
            self._known[transaction.id] = None
            if len(self._known) > REMEMBERED_TRANSACTIONS:
                self._known.popitem(last=False)
            before, load = self.catalog, None
            for effect in transaction.effects:
                if isinstance(effect, records.CatalogChanged):
                    self.catalog = self.catalog.apply(effect.changes)
                elif isinstance(effect, records.ChunksCommitted):
                    load = self._close(transaction.id, effect)
            lsn = pack(sequence, index)
            time_us = record.time_us + index
            commits.append(Commit(record.timeline, lsn, time_us, transaction, before, self.catalog, load))
        return commits

    def _chunk(self, sequence: int, body: records.ChunkBody) -> None:
        if body.number == records.CHUNK_ABORT:
            if body.transaction_id in self._loads:
                self._drop(body.transaction_id)
            return
        load = self._loads.setdefault(body.transaction_id, Load())
        if body.number != len(load.sequences):
            raise LogCorrupt(f"chunk {body.number} of a transaction follows its chunk {len(load.sequences) - 1}")
        effects, size = list(body.effects), 0
        for effect in effects:
            assert isinstance(effect, ROW_CHANGES), "chunks change rows and nothing else"
            data = records.digested(effect)
            load.digest.update(data)
            size += len(data)
            load.row_counts[effect.storage_id] += changed_rows(effect)
        load.sequences.append(sequence)
        # Once one is left in the log, so are all behind it: they are read again in one pass.
        left = bool(load.held) and load.held[-1] is None
        if left or self._held_bytes + size > HELD_CHUNK_BYTES:
            load.held.append(None)
        else:
            load.held.append(effects)
            load.size_bytes += size
            self._held_bytes += size

    def _close(self, owner: bytes, effect: records.ChunksCommitted) -> Load:
        load = self._loads.get(owner)
        if load is None or len(load.sequences) != effect.count or load.digest.digest() != effect.digest:
            raise LogCorrupt("a transaction's chunks are not those that its commit names")
        self._drop(owner)
        return load

    def _drop(self, owner: bytes) -> None:
        self._held_bytes -= self._loads.pop(owner).size_bytes

    def snapshot(self) -> bytes | None:
        """Return the fold as bytes; None while a load is open, whose chunks would have to be read again."""
        if self._loads:
            return None
        catalog = self.catalog
        return msgspec.msgpack.encode(
            _Snapshot(
                SNAPSHOT_FORMAT,
                self.timeline,
                self.sequence,
                self.time_us,
                self._last_hash,
                self._epoch,
                list(catalog.objects.values()),
                catalog.version,
                catalog.next_id,
                list(self._known),
            )
        )

    @classmethod
    def restore(cls, data: bytes) -> Fold:
        """Return the fold that `snapshot` saved. Raises ValueError for bytes that are none, or of another format."""
        try:
            saved = msgspec.msgpack.decode(data, type=_Snapshot)
        except msgspec.DecodeError as error:
            raise ValueError(f"snapshot does not decode: {error}") from error
        if saved.format != SNAPSHOT_FORMAT:
            raise ValueError(f"snapshot has format {saved.format}, this version reads {SNAPSHOT_FORMAT}")
        fold = cls()
        fold.catalog = Catalog({item.id: item for item in saved.catalog}, saved.catalog_version, saved.next_id)
        fold.timeline, fold.sequence, fold.time_us = saved.timeline, saved.sequence, saved.time_us
        fold._last_hash, fold._epoch = saved.last_hash, saved.epoch
        fold._known = OrderedDict.fromkeys(saved.known)
        return fold


class Source:
    """One reading of the log, from where its fold stands."""

    def __init__(self, log: LogReader, fold: Fold) -> None:
        self.log = log
        self.fold = fold

    async def groups(self) -> AsyncIterator[Sequence[Commit]]:
        """Yield what each record commits (nothing, for most kinds), for ever. Raises RecordsTrimmed, LogCorrupt."""
        fold = self.fold
        async for entry in self.log.read(fold.sequence + 1):
            yield fold.take(entry.sequence, entry.data)
