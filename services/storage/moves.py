"""Moves to the cold tier, as the migrator sees the storage leader.

Owns the contract: statistics, claims, the copy's source, commit and abort. The leader implements `Moves`;
`moves_rpc` carries it over gRPC; the migrator gets it through `services.storage.client`. Knows nothing of Iceberg.

What is claimed, in terms of the log alone, so that every replica agrees whatever its segments look like:

    a version is *claimed* by a move  <=>  its row id lies in one of the claim's ranges
                                           and begin_lsn <= changed_through
                                           and it is alive at as_of (begin_lsn <= as_of < end_lsn)

`as_of` is the LSN of the MOVE_BEGIN record: pack(sequence, 0). It never changes, so a resumed copy reads the same rows.

COLD_COMMIT (effective only while the claim is open) says: every claimed version is in the Iceberg snapshot that it
names, and so is every version that the table's previous COLD_COMMIT found there and that is alive at as_of. A segment
whose versions alive at as_of are all claimed or cold already may then give up its non-key columns. A segment of which
only a part is claimed stays local as a whole; its copied rows are harmless, the next move replaces them by row id.

At most one move per table is open at a time. So the order of a table's COLD_COMMITs in the log is the order of its
Iceberg snapshots, and a snapshot that no COLD_COMMIT names is known to be an orphan when the next move begins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from enum import Enum
from typing import Protocol

import msgspec
import pyarrow as pa

from orbit.kernel import ids
from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Table

ROW_ID_COLUMN = ids.ROW_ID_COLUMN
"""The hidden column that ties a cold row to its segment: int64, never NULL."""

RowRange = tuple[int, int]
"""Row ids from first to last, both included."""


class ClaimRefused(OrbitError):
    """Another move of this table is open, or the table has no such rows any more (dropped, truncated, rewritten)."""

    default_sqlstate = "55006"


class MoveEnded(OrbitError):
    """The move is not open: committed, aborted or cancelled. Which, `Claim.cold` of the table's next move tells."""

    default_sqlstate = "55000"


class Tier(Enum):
    """Where a segment's non-key columns are served from."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


class SegmentStatistics(msgspec.Struct, frozen=True, array_like=True):
    """One sealed segment. Its row id span may overlap that of others: an updated row keeps its id in a newer segment.

    `newest_lsn` is the largest begin LSN of its alive versions and `newest_change_us` that transaction's commit time.
    `size_bytes` is what it occupies in its tier. Claimed segments are listed too. `tier` is COLD from the COLD_COMMIT
    on, even while local copies wait for readers of the past: such a segment must not be moved again.
    """

    table_id: int
    storage_id: int
    schema_version: int
    segment_id: int
    first_row_id: int
    last_row_id: int
    newest_lsn: int
    newest_change_us: int
    rows_alive: int
    size_bytes: int
    tier: Tier


class SnapshotRef(msgspec.Struct, frozen=True, array_like=True):
    """One Iceberg snapshot of one table, readable without any catalog."""

    metadata_location: str
    snapshot_id: int


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """An open move.

    `table` is the table's definition at `as_of`; its `storage_id` names the claimed rows. `cold` is the snapshot that
    the last COLD_COMMIT of this storage id names, None before the first. `begun_us` is the MOVE_BEGIN record's time.
    """

    move_id: bytes
    shard: int
    timeline: int
    table: Table
    ranges: tuple[RowRange, ...]
    changed_through: int
    as_of: int
    begun_us: int
    cold: SnapshotRef | None


class Moves(Protocol):
    """The storage leader's side of moves. Every method may raise NotLeader or LogUnavailable; then try again later."""

    async def statistics(self) -> list[SegmentStatistics]:
        """Return every sealed segment of the shard, as of now."""
        ...

    async def begin(
        self, move_id: bytes, table_id: int, storage_id: int, ranges: Sequence[RowRange], changed_through: int
    ) -> Claim:
        """Append MOVE_BEGIN and return once it is applied. `ranges` are sorted and disjoint.

        Called again with the id of an open move it returns that move's claim (the first answer may have been lost).
        Raises ClaimRefused.
        """
        ...

    def read(self, move_id: bytes) -> AsyncIterator[pa.RecordBatch]:
        """Yield the claimed versions that are not cold yet, each exactly once, in batches of at most 65,536 rows.

        Columns: ROW_ID_COLUMN (int64) first, then the columns of `Claim.table` by name and in order, in their storage
        types (a dictionary or a view of the type will do). Order of rows: by segment, else free. Reads again from the
        start when called again; while the move is open the horizon stays at or below its as_of. Raises MoveEnded.
        """
        ...

    async def commit(self, move_id: bytes, as_of: int, snapshot_id: int, metadata_location: str) -> None:
        """Append COLD_COMMIT and return once it is applied. Raises MoveEnded when the claim is not open."""
        ...

    async def abort(self, move_id: bytes, reason: str) -> None:
        """Append ABORT_MOVE; does nothing when the claim is not open."""
        ...

    async def open_moves(self) -> list[Claim]:
        """Return the open moves of the shard, whoever began them."""
        ...
