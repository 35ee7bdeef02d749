"""The leader's side of moves to the cold tier, and every node's eviction when a move has committed.

Owns the answers to the migrator (`services.storage.moves.Moves`) and the rule which segments a COLD_COMMIT lets go.
Claims and commits are log records; what they mean for rows is decided here from the state alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.kernel import records
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.ids import DEFAULT_SHARD, INFINITY_LSN
from orbit.kernel.records import Kind, Row
from orbit.kernel.schema import Table
from services.storage.engine import Engine
from services.storage.moves import (
    ROW_ID_COLUMN,
    Claim,
    ClaimRefused,
    MoveEnded,
    RowRange,
    SegmentStatistics,
    SnapshotRef,
    Tier,
)
from services.storage.state import OpenMove
from services.storage.tiers.segment import Segment, columns_of
from services.storage.tiers.table import TableStore

Saved = Callable[[int, Segment], bool]

BATCH_ROWS = 16_384


class LeaderMoves:
    """`Moves` on the node that leads. `saved` tells whether a segment is on this node's disk."""

    def __init__(self, engine: Engine, saved: Saved) -> None:
        self._engine = engine
        self._state = engine.state
        self._saved = saved

    async def statistics(self) -> list[SegmentStatistics]:
        self._engine.check_leading()
        found: list[SegmentStatistics] = []
        for table in self._state.catalog.tables():
            store = self._state.stores[table.storage_id]
            found.extend(
                self._describe(table, segment)
                for segment in store.segments.values()
                if segment.owner is None and self._saved(table.storage_id, segment)
            )
        return found

    async def begin(
        self, move_id: bytes, table_id: int, storage_id: int, ranges: Sequence[RowRange], changed_through: int
    ) -> Claim:
        if move_id not in self._state.moves:
            table = self._state.catalog.objects.get(table_id)
            if not isinstance(table, Table) or table.storage_id != storage_id:
                raise ClaimRefused(f"table {table_id} has no storage {storage_id} any more")
            for move in self._state.moves.values():
                if move.begin.table_id == table_id:
                    raise ClaimRefused(f"table {table.name} is already being moved by {move.begin.move_id.hex()}")
            body = records.MoveBegin(move_id, table_id, storage_id, list(ranges), changed_through)
            await self._append(Kind.MOVE_BEGIN, body)
            if move_id not in self._state.moves:
                raise ClaimRefused(f"another move of table {table_id} came first")
        return self._claim(self._state.moves[move_id])

    async def read(self, move_id: bytes) -> AsyncIterator[pa.RecordBatch]:
        move = self._open(move_id)
        store = self._state.stores[move.begin.storage_id]
        loop = asyncio.get_running_loop()
        table = store.table
        # Segments and tail are listed in one turn of the loop: rows that are sealed meanwhile are read once.
        segments = list(store.segments.values())
        rows = list(_claimed_tail(store, move))
        for segment in segments:
            if segment.owner is not None or segment.tier == Tier.COLD.value or segment.number in store.leaving:
                continue
            chosen = np.flatnonzero(_claimed(segment, move))
            for start in range(0, len(chosen), BATCH_ROWS):
                self._open(move_id)
                offsets = chosen[start : start + BATCH_ROWS]
                yield await loop.run_in_executor(None, _segment_batch, table, segment, offsets)
        for start in range(0, len(rows), BATCH_ROWS):
            self._open(move_id)
            yield _row_batch(table, rows[start : start + BATCH_ROWS])

    async def commit(self, move_id: bytes, as_of: int, snapshot_id: int, metadata_location: str) -> None:
        self._open(move_id)
        await self._append(Kind.COLD_COMMIT, records.ColdCommit(move_id, as_of, snapshot_id, metadata_location))

    async def abort(self, move_id: bytes, reason: str) -> None:
        if move_id in self._state.moves:
            await self._append(Kind.ABORT_MOVE, records.AbortMove(move_id, reason))

    async def open_moves(self) -> list[Claim]:
        self._engine.check_leading()
        return [self._claim(move) for move in self._state.moves.values()]

    def _open(self, move_id: bytes) -> OpenMove:
        self._engine.check_leading()
        move = self._state.moves.get(move_id)
        if move is None:
            raise MoveEnded(f"move {move_id.hex()} is not open")
        return move

    def _claim(self, move: OpenMove) -> Claim:
        begin = move.begin
        table = self._state.catalog.objects[begin.table_id]
        assert isinstance(table, Table), "a dropped table ends its moves"
        last = self._state.cold.get(begin.storage_id)
        return Claim(
            move_id=begin.move_id,
            shard=DEFAULT_SHARD,
            timeline=self._state.timeline,
            table=table,
            ranges=tuple((first, last_id) for first, last_id in begin.ranges),
            changed_through=begin.changed_through,
            as_of=move.as_of,
            begun_us=move.begun_us,
            cold=None if last is None else SnapshotRef(last.metadata_location, last.snapshot_id),
        )

    async def _append(self, kind: Kind, body: Any) -> None:
        committer = self._engine.committer
        if committer is None:
            raise NotLeader("this node does not lead the shard")
        outcome: asyncio.Future[int | OrbitError] = asyncio.get_running_loop().create_future()
        committer.append(kind, body, outcome.set_result)
        result = await outcome
        if isinstance(result, OrbitError):
            raise result

    def _describe(self, table: Table, segment: Segment) -> SegmentStatistics:
        alive = segment.ends == INFINITY_LSN
        newest = int(segment.begins[alive].max()) if alive.any() else 0
        return SegmentStatistics(
            table_id=table.id,
            storage_id=table.storage_id,
            schema_version=self._state.catalog.version,
            segment_id=segment.number,
            first_row_id=segment.first_row_id,
            last_row_id=segment.last_row_id,
            newest_lsn=newest,
            newest_change_us=segment.newest_change_us,
            rows_alive=int(alive.sum()),
            size_bytes=segment.columns_bytes or segment.stored_bytes,
            tier=Tier.COLD if segment.number in self._state.stores[table.storage_id].leaving else Tier(segment.tier),
        )


def evictable(store: TableStore, move: OpenMove) -> list[Segment]:
    """Return the segments whose versions alive at the move's LSN are all in its snapshot."""
    chosen: list[Segment] = []
    for segment in store.segments.values():
        if segment.owner is not None or segment.tier == Tier.COLD.value or segment.number in store.leaving:
            continue
        alive = (segment.begins <= move.as_of) & (segment.ends > move.as_of)
        if alive.any() and bool((_claimed(segment, move) == alive).all()):
            chosen.append(segment)
    return chosen


def _claimed(segment: Segment, move: OpenMove) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = (segment.begins <= min(move.begin.changed_through, move.as_of)) & (
        segment.ends > move.as_of
    )
    inside = np.zeros(segment.count, np.bool_)
    for first, last in move.begin.ranges:
        inside |= (segment.row_ids >= first) & (segment.row_ids <= last)
    return mask & inside


def _claimed_tail(store: TableStore, move: OpenMove) -> Iterator[tuple[int, Row]]:
    limit = move.begin.changed_through
    for row_id, begin, row in store.tail_versions(move.as_of):
        if begin <= limit and any(first <= row_id <= last for first, last in move.begin.ranges):
            yield row_id, row


def _segment_batch(table: Table, segment: Segment, offsets: npt.NDArray[np.int64]) -> pa.RecordBatch:
    numbers = [column.number for column in table.columns]
    columns = segment.load(numbers)
    take = pa.array(offsets)
    arrays = [pa.array(segment.row_ids[offsets]), *(columns[number].take(take) for number in numbers)]
    return pa.RecordBatch.from_arrays(arrays, [ROW_ID_COLUMN, *(column.name for column in table.columns)])


def _row_batch(table: Table, rows: Sequence[tuple[int, Row]]) -> pa.RecordBatch:
    columns = columns_of([row for _, row in rows], table.columns)
    arrays = [pa.array([row_id for row_id, _ in rows], pa.int64()), *columns.values()]
    return pa.RecordBatch.from_arrays(arrays, [ROW_ID_COLUMN, *(column.name for column in table.columns)])
