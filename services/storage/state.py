"""The shard's state: the catalog, every table's rows, sequences, moves; and how one log record changes it.

Owns `apply`: one synchronous function of (state, record). No clock, no randomness, no IO. Leader and followers
run the same code: the leader applies the record that it has just appended, followers what they read.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, cast

import msgspec
import pyarrow as pa

from orbit.kernel import records
from orbit.kernel.errors import LogCorrupt
from orbit.kernel.ids import FIRST_TIMELINE, pack, sequence_of
from orbit.kernel.limits import MAX_RECORD_ROWS, REMEMBERED_TRANSACTIONS
from orbit.kernel.origin import Origin
from orbit.kernel.records import Kind, Record, Row
from orbit.kernel.schema import Catalog, Table
from services.storage.tiers.table import TableStore

KNOWN_TIMES = 131_072
"""Points of (sequence, time) kept: the newest half a second apart, 18 hours and more of them."""

_ROW_CHANGES = (records.Insert, records.Update, records.Delete, records.BulkInsert)


class OpenLoad:
    """The CHUNK records of one transaction that has not committed yet."""

    __slots__ = ("count", "digest", "effects", "first_sequence")

    def __init__(self, first_sequence: int) -> None:
        self.first_sequence = first_sequence
        self.count = 0
        self.digest = blake2b(digest_size=16)
        self.effects: list[tuple[int, int, records.Effect, bool]] = []
        """(sequence, ordinal of its first row, effect, decoded) of what takes effect at the commit only.

        Bulk inserts into known tables are not here: they are segments that nobody sees yet.
        """


class OpenMove(msgspec.Struct, array_like=True, frozen=True):
    """A claim whose rows are being copied: the MOVE_BEGIN record, its LSN and its time."""

    begin: records.MoveBegin
    as_of: int
    begun_us: int


class State:
    """Everything that the log has said so far."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.stores: dict[int, TableStore] = {}
        self.sequences: dict[int, int] = {}
        self.tier_reads = {"hot": 0, "warm": 0, "cold": 0}
        """Rows that were read, by the tier that served them."""
        self.rows_written = 0
        """Row effects that this node has applied."""
        self.timeline = FIRST_TIMELINE
        self.applied_sequence = 0
        self.applied_lsn = 0
        self.applied_time_us = 0
        self.last_hash = records.GENESIS_HASH
        self.epoch = 0
        self.leader_node = ""
        self.cursors: dict[str, int] = {}
        self.origins: dict[str, Origin] = {}
        """How far this region has applied the log of each region that it replicates."""
        self.horizon = 0
        self.trimmed_through = 0
        self.moves: dict[bytes, OpenMove] = {}
        self.cold: dict[int, records.ColdCommit] = {}
        """The last ColdCommit of each storage id."""
        self.loads: dict[bytes, OpenLoad] = {}
        self.committed: OrderedDict[bytes, int] = OrderedDict()
        """Ids of the latest transactions, with their LSNs: answers what became of a commit whose reply was lost."""
        self.snapshots: dict[int, int] = {}
        """LSNs that this node's open snapshots read at, with how many read there."""
        self.on_cold_commit: Callable[[TableStore, OpenMove, records.ColdCommit], None] | None = None
        self.times: list[tuple[int, int]] = []
        """(sequence, time) of the log, at most one a second, and of ages past fewer and fewer."""
        self.broken: str | None = None
        """Why this state must not be used any more: a record could not be applied."""

    # Reading.

    def store(self, table: Table) -> TableStore:
        return self.stores[table.storage_id]

    def oldest_snapshot(self) -> int | None:
        """Return the oldest LSN that an open snapshot reads at, None when nobody reads the past."""
        return min(self.snapshots) if self.snapshots else None

    def time_us_of(self, lsn: int) -> int:
        """Return the commit time at or shortly before an LSN, in microseconds since 1970; 0 when it is not known."""
        at = bisect_right(self.times, (sequence_of(lsn), 1 << 62)) - 1
        return self.times[at][1] if at >= 0 else 0

    def lsn_at(self, time_us: int) -> int:
        """Return an LSN at or before that time, of recent times at most a second before; 0 when none is known."""
        if self.applied_time_us <= time_us:
            # An idle shard samples no further times, and all that it holds is older than this one.
            return self.applied_lsn
        at = bisect_right(self.times, time_us, key=lambda item: item[1]) - 1
        return pack(self.times[at][0], 0) if at >= 0 else 0

    # Applying.

    def replay(self, sequence: int, data: bytes) -> Record:
        """Check and apply a record read from the log. Raises LogCorrupt on a gap or a broken chain."""
        if sequence != self.applied_sequence + 1:
            raise LogCorrupt(f"expected record {self.applied_sequence + 1} and found {sequence}")
        record = records.decode(data)
        if record.timeline != self.timeline:
            raise LogCorrupt(f"record {sequence} is of timeline {record.timeline}, not {self.timeline}")
        if record.previous_hash != self.last_hash:
            raise LogCorrupt(f"record {sequence} does not follow the record before it")
        self.apply(sequence, record, records.record_hash(data), decoded=True)
        return record

    def apply(self, sequence: int, record: Record, digest: bytes, *, decoded: bool) -> None:
        """Apply the record at `sequence`. `decoded` rows are lists of record values, the leader's own are tuples.

        Raises LogCorrupt when that fails: the record may have been applied in part, and nothing may be built on that.
        """
        if self.broken is not None:
            raise LogCorrupt(self.broken)
        if record.epoch >= self.epoch:
            handler = _HANDLERS.get(record.kind)
            if handler is not None:
                try:
                    handler(self, sequence, record, decoded)
                except Exception as error:
                    self.broken = f"record {sequence} cannot be applied: {error!r}"
                    raise LogCorrupt(self.broken) from error
        # A stale leader's record still has its place in the chain; it only has no effect.
        self.applied_sequence = sequence
        if self.applied_lsn < pack(sequence, 0):
            self.applied_lsn = pack(sequence, 0)
        self.applied_time_us = record.time_us
        self.last_hash = digest
        if not self.times or record.time_us - self.times[-1][1] >= 1_000_000:
            self.times.append((sequence, record.time_us))
            if len(self.times) > KNOWN_TIMES:
                half = KNOWN_TIMES // 2
                self.times[:half] = self.times[:half:2]

    def _apply_epoch(self, sequence: int, record: Record, decoded: bool) -> None:
        body: records.EpochBody = record.body
        self.epoch = body.epoch
        self.leader_node = body.node
        # Chunks without their COMMIT are void at the next epoch.
        for owner in list(self.loads):
            self._drop_load(owner)

    def _apply_group(self, sequence: int, record: Record, decoded: bool) -> None:
        ordinal = 0
        for index, transaction in enumerate(record.body):
            lsn = pack(sequence, index)
            if transaction.id in self.committed:
                continue
            ordinal = self._apply_transaction(transaction, lsn, ordinal, record.time_us + index, decoded)
            self.applied_lsn = lsn
            if transaction.origin:
                origin = Origin.parse(transaction.origin)
                self.origins[origin.region] = origin
            self.committed[transaction.id] = lsn
            if len(self.committed) > REMEMBERED_TRANSACTIONS:
                self.committed.popitem(last=False)

    def _apply_transaction(
        self, transaction: records.Transaction, lsn: int, ordinal: int, time_us: int, decoded: bool
    ) -> int:
        sequence = sequence_of(lsn)
        for effect in transaction.effects:
            if isinstance(effect, records.CatalogChanged):
                self._change_catalog(effect)
            elif isinstance(effect, records.SequenceReserved):
                self.sequences[effect.sequence_id] = effect.through
            elif isinstance(effect, records.ChunksCommitted):
                self._publish_load(transaction.id, effect, lsn, time_us)
            else:
                ordinal = self._change_rows(effect, sequence, ordinal, lsn, time_us, decoded)
        return ordinal

    def _change_rows(
        self, effect: records.Effect, sequence: int, ordinal: int, lsn: int, time_us: int, decoded: bool
    ) -> int:
        keep = bool(self.snapshots)
        if isinstance(effect, records.Update):
            self.rows_written += 1
            store = self.stores[effect.storage_id]
            store.update(
                effect.row_id, store.codec.unpack(effect.after) if decoded else cast(Row, effect.after), lsn, keep
            )
        elif isinstance(effect, records.Insert):
            store = self.stores[effect.storage_id]
            unpack = store.codec.unpack if decoded else None
            self.rows_written += len(effect.rows)
            for row in effect.rows:
                store.insert(pack(sequence, ordinal), cast(Row, row) if unpack is None else unpack(row), lsn)
                ordinal += 1
        elif isinstance(effect, records.Delete):
            self.rows_written += 1
            self.stores[effect.storage_id].delete(effect.row_id, lsn, keep)
        elif isinstance(effect, records.BulkInsert):
            first = _first_row_id(sequence, ordinal, effect)
            self.stores[effect.storage_id].add_bulk(None, bulk_batch(effect), first, lsn, time_us)
            ordinal += effect.row_count
            self.rows_written += effect.row_count
        else:
            raise LogCorrupt(f"an effect of kind {type(effect).__name__} does not change rows")
        return ordinal

    def _change_catalog(self, effect: records.CatalogChanged) -> None:
        old = self.catalog
        self.catalog = old.apply(effect.changes)
        alive: set[int] = set()
        for table in self.catalog.tables():
            alive.add(table.storage_id)
            store = self.stores.get(table.storage_id)
            if store is None:
                self.stores[table.storage_id] = TableStore(table, self.tier_reads)
            elif store.table is not table:
                store.define(table)
        for storage_id in list(self.stores):
            if storage_id not in alive:
                del self.stores[storage_id]
                self.cold.pop(storage_id, None)
        for move_id, move in list(self.moves.items()):
            if move.begin.storage_id not in alive:
                self._end_move(move_id)
        for sequence_id in list(self.sequences):
            if sequence_id not in self.catalog.objects:
                del self.sequences[sequence_id]

    def _apply_chunk(self, sequence: int, record: Record, decoded: bool) -> None:
        body: records.ChunkBody = record.body
        load = self.loads.get(body.transaction_id)
        if body.number == records.CHUNK_ABORT:
            if load is not None:
                self._drop_load(body.transaction_id)
            return
        if load is None:
            load = self.loads[body.transaction_id] = OpenLoad(sequence)
        if body.number != load.count:
            raise LogCorrupt(f"chunk {body.number} of a transaction follows its chunk {load.count - 1}")
        load.count += 1
        ordinal = 0
        for effect in body.effects:
            load.digest.update(records.digested(effect))
            if isinstance(effect, records.BulkInsert) and (store := self.stores.get(effect.storage_id)) is not None:
                first = _first_row_id(sequence, ordinal, effect)
                store.add_bulk(body.transaction_id, bulk_batch(effect), first, 0, record.time_us)
            else:
                load.effects.append((sequence, ordinal, effect, decoded))
            if isinstance(effect, records.BulkInsert):
                ordinal += effect.row_count
            elif isinstance(effect, records.Insert):
                ordinal += len(effect.rows)

    def _publish_load(self, owner: bytes, effect: records.ChunksCommitted, lsn: int, time_us: int) -> None:
        load = self.loads.pop(owner, None)
        if load is None or load.count != effect.count or load.digest.digest() != effect.digest:
            raise LogCorrupt("a transaction's chunks are not those that its commit names")
        for store in self.stores.values():
            store.publish_bulk(owner, lsn, time_us)
        for sequence, ordinal, change, decoded in load.effects:
            assert isinstance(change, _ROW_CHANGES), "chunks change rows and nothing else"
            # A table that the transaction itself has dropped or truncated after loading it has no such storage.
            if change.storage_id in self.stores:
                self._change_rows(change, sequence, ordinal, lsn, time_us, decoded)

    def _drop_load(self, owner: bytes) -> None:
        del self.loads[owner]
        for store in self.stores.values():
            store.drop_bulk(owner)

    def _apply_cursor(self, sequence: int, record: Record, decoded: bool) -> None:
        body: records.CursorBody = record.body
        if body.lsn < 0:
            self.cursors.pop(body.name, None)
        else:
            self.cursors[body.name] = body.lsn

    def _apply_trim(self, sequence: int, record: Record, decoded: bool) -> None:
        self.trimmed_through = max(self.trimmed_through, record.body.through_sequence)

    def _apply_horizon(self, sequence: int, record: Record, decoded: bool) -> None:
        self.horizon = max(self.horizon, record.body.lsn)

    def _apply_move_begin(self, sequence: int, record: Record, decoded: bool) -> None:
        body: records.MoveBegin = record.body
        store = self.stores.get(body.storage_id)
        if store is None or any(move.begin.table_id == body.table_id for move in self.moves.values()):
            return
        as_of = pack(sequence, 0)
        self.moves[body.move_id] = OpenMove(body, as_of, record.time_us)
        # While the claim is open its rows stay readable as they were.
        self.hold_snapshot(as_of)

    def _apply_cold_commit(self, sequence: int, record: Record, decoded: bool) -> None:
        body: records.ColdCommit = record.body
        move = self._end_move(body.move_id)
        store = None if move is None else self.stores.get(move.begin.storage_id)
        if move is None or store is None:
            return
        self.cold[move.begin.storage_id] = body
        if self.on_cold_commit is not None:
            self.on_cold_commit(store, move, body)

    def _apply_abort_move(self, sequence: int, record: Record, decoded: bool) -> None:
        self._end_move(record.body.move_id)

    def _end_move(self, move_id: bytes) -> OpenMove | None:
        move = self.moves.pop(move_id, None)
        if move is not None:
            self.release_snapshot(move.as_of)
        return move

    def hold_snapshot(self, lsn: int) -> None:
        """Keep what this LSN sees until it is released."""
        self.snapshots[lsn] = self.snapshots.get(lsn, 0) + 1

    def release_snapshot(self, lsn: int) -> None:
        left = self.snapshots[lsn] - 1
        if left:
            self.snapshots[lsn] = left
        else:
            del self.snapshots[lsn]


def _first_row_id(sequence: int, ordinal: int, effect: records.BulkInsert) -> int:
    if ordinal + effect.row_count > MAX_RECORD_ROWS:
        raise LogCorrupt(f"a record inserts more than {MAX_RECORD_ROWS} rows")
    return pack(sequence, ordinal)


def bulk_batch(effect: records.BulkInsert) -> pa.RecordBatch:
    """Return the rows of a bulk insert. Raises LogCorrupt when they are not what the effect says."""
    with pa.ipc.open_stream(io.BytesIO(effect.arrow)) as reader:
        batches = list(reader)
    if len(batches) != 1 or batches[0].num_rows != effect.row_count:
        raise LogCorrupt("a bulk insert does not hold the rows that it names")
    return batches[0]


_Handler = Callable[[State, int, Record, bool], Any]
_HANDLERS: dict[int, _Handler] = {
    Kind.EPOCH: State._apply_epoch,
    Kind.GROUP: State._apply_group,
    Kind.CHUNK: State._apply_chunk,
    Kind.CURSOR: State._apply_cursor,
    Kind.TRIM: State._apply_trim,
    Kind.HORIZON: State._apply_horizon,
    Kind.MOVE_BEGIN: State._apply_move_begin,
    Kind.COLD_COMMIT: State._apply_cold_commit,
    Kind.ABORT_MOVE: State._apply_abort_move,
}

__all__ = ["OpenLoad", "State", "bulk_batch"]
