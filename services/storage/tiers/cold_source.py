"""A cold segment's columns: keys from the local RocksDB, everything else from the Iceberg snapshot it moved to.

Owns the joining of the two. A segment keeps the snapshot that its move committed: data files never change, and the
end vector shadows what has been updated or deleted since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.kernel.errors import StoreUnavailable
from orbit.kernel.records import Row
from orbit.kernel.schema import Table
from services.storage.moves import SnapshotRef
from services.storage.tiers.segment import Segment
from services.storage.tiers.warm import WarmStore

if TYPE_CHECKING:
    from services.storage.tiers.table import TableStore


class ColdColumns(Protocol):
    """What is read from the warehouse: `services.storage.tiers.cold.ColdReader`, or a twin in tests."""

    def read_aligned(
        self,
        table: Table,
        ref: SnapshotRef,
        columns: Sequence[str | int],
        row_ids: npt.NDArray[np.int64],
        needed: npt.NDArray[np.bool_] | None = None,
    ) -> pa.Table: ...

    def read_rows(self, table: Table, ref: SnapshotRef, row_ids: Sequence[int]) -> dict[int, Row]: ...

    def files(self, ref: SnapshotRef) -> tuple[int, int]:
        """Return (data files, bytes) of a snapshot."""
        ...


def key_columns(table: Table) -> set[int]:
    """Return the numbers of the columns that some key needs: they stay local for ever."""
    return {number for index in table.indexes for number in index.columns}


class ColdSource:
    """One cold segment's `ColumnSource`."""

    __slots__ = ("_cold", "_segment", "_store", "_warm", "as_of", "ref")

    tier = "cold"

    def __init__(
        self, cold: ColdColumns, warm: WarmStore, store: TableStore, segment: Segment, ref: SnapshotRef, as_of: int
    ) -> None:
        self._cold = cold
        self._warm = warm
        self._store = store
        self._segment = segment
        self.ref = ref
        self.as_of = as_of
        """The LSN of the move that copied the segment: what was dead then is not in the files."""

    def columns(self, numbers: Sequence[int]) -> dict[int, pa.Array]:
        store, segment = self._store, self._segment
        local = key_columns(store.table)
        found = {
            number: self._warm.load_column(store.storage_id, segment.number, number)
            for number in numbers
            if number in local
        }
        remote = [number for number in numbers if number not in local]
        cached = {number: self._warm.cached(store.storage_id, segment.number, number) for number in remote}
        missing = [number for number, array in cached.items() if array is None]
        if missing:
            # Versions that were dead before the move are not in the files, and nobody can see them any more. Those
            # that have ended since are there, and an older snapshot may still see them.
            needed = segment.ends > self.as_of
            table = self._cold.read_aligned(store.table, self.ref, missing, segment.row_ids, needed)
            for at, number in enumerate(missing):
                array = table.column(at).combine_chunks()
                array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
                self._warm.keep_cached(store.storage_id, segment.number, number, array)
                cached[number] = array
        found.update({number: array for number, array in cached.items() if array is not None})
        return found

    def row(self, offset: int, row_id: int) -> Row:
        rows = self._cold.read_rows(self._store.table, self.ref, [row_id])
        if row_id not in rows:
            raise StoreUnavailable(f"snapshot {self.ref.snapshot_id} lacks row {row_id} of {self._store.table.name}")
        return rows[row_id]
