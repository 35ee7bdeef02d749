"""The copy of a move: batches in, data files out.

Owns the order of rows in files, when a file is full, and the set of row ids that went in. Holds one row group in
memory (one sort buffer, when files are sorted by key); no more, however large the move. Knows nothing of snapshots.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.chassis.iceberg.files import ROW_GROUP_ROWS, DataFile, DataFileWriter
from orbit.chassis.iceberg.schema import to_file
from orbit.kernel.errors import NotSupported
from orbit.kernel.ids import ROW_ID_COLUMN
from orbit.kernel.schema import Table

TARGET_FILE_BYTES: Final = 256 << 20
SORT_BUFFER_BYTES: Final = 256 << 20
"""Arrow bytes that are sorted by key at a time, and so what one file of a table in key order holds."""

ORDER_OPTION: Final = "cold_order"
ROW_ID_ORDER: Final = "row_id"
KEY_ORDER: Final = "key"

RowIds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy made: files that no snapshot names yet. `row_ids` are sorted."""

    files: tuple[DataFile, ...]
    row_ids: RowIds

    @property
    def rows(self) -> int:
        return len(self.row_ids)


class OpenFile(Protocol):
    """Opens the next data file under this name."""

    def __call__(self, name: str) -> DataFileWriter: ...


class Copier:
    """Writes one move's rows. Blocking, one thread at a time; ends with `finish` or `discard`."""

    def __init__(
        self, table: Table, schema: pa.Schema, open_file: OpenFile, *, target_bytes: int = TARGET_FILE_BYTES
    ) -> None:
        self._table = table
        self._schema = schema
        self._open_file = open_file
        self._target_bytes = target_bytes
        self._attempt = os.urandom(4).hex()
        self._sort: Callable[[pa.Table], pa.Table] = _sorter(table, schema)
        self._by_key = _order_of(table) == KEY_ORDER
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._writer: DataFileWriter | None = None
        self._files: list[DataFile] = []
        self._row_ids: list[RowIds] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Take one batch of `Moves.read`. Raises StoreUnavailable."""
        if not batch.num_rows:
            return
        self._row_ids.append(batch.column(ROW_ID_COLUMN).to_numpy())
        self.add_rows(to_file(batch, self._table, self._schema))

    def add_rows(self, rows: pa.Table) -> None:
        """Take rows that are in the files' schema already and are not the move's own."""
        self._pending.append(rows)
        self._pending_rows += rows.num_rows
        self._pending_bytes += rows.nbytes
        if self._by_key:
            if self._pending_bytes >= SORT_BUFFER_BYTES:
                self._write_sorted_file()
        elif self._pending_rows >= ROW_GROUP_ROWS:
            self._write_row_groups()

    def finish(self) -> Copied:
        """Write what is left and close the last file."""
        if self._pending_rows:
            if self._by_key:
                self._write_sorted_file()
            else:
                self._write(self._taken())
        self._close_file()
        row_ids = np.concatenate(self._row_ids) if self._row_ids else np.empty(0, np.int64)
        row_ids.sort()
        assert len(row_ids) < 2 or bool((row_ids[1:] > row_ids[:-1]).all()), "a move reads each row once"
        return Copied(tuple(self._files), row_ids)

    def discard(self, delete: Callable[[str], None]) -> None:
        """Give the copy up: delete its files. Raises StoreUnavailable when the store cannot be reached."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()
        for file in self._files:
            delete(file.file_path)
        self._files.clear()

    def _write_row_groups(self) -> None:
        rows = self._taken()
        whole = rows.num_rows - rows.num_rows % ROW_GROUP_ROWS
        self._write(rows.slice(0, whole))
        if rest := rows.num_rows - whole:
            left = rows.slice(whole)
            self._pending, self._pending_rows, self._pending_bytes = [left], rest, left.nbytes

    def _write_sorted_file(self) -> None:
        self._write(self._taken())
        self._close_file()

    def _taken(self) -> pa.Table:
        """Return the pending rows in order, and forget them."""
        rows = self._sort(pa.concat_tables(self._pending))
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
        return rows

    def _write(self, rows: pa.Table) -> None:
        if self._writer is None:
            self._writer = self._open_file(f"{self._attempt}-{len(self._files):05}.parquet")
        self._writer.write(rows)
        if self._writer.size_bytes >= self._target_bytes:
            self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            self._files.append(self._writer.finish())
            self._writer = None


def _order_of(table: Table) -> str:
    order = table.options.get(ORDER_OPTION, ROW_ID_ORDER)
    if order not in (ROW_ID_ORDER, KEY_ORDER):
        raise NotSupported(f"table option {ORDER_OPTION} = {order}: only {ROW_ID_ORDER} and {KEY_ORDER} exist")
    if order == KEY_ORDER and table.primary_key is None:
        raise NotSupported(f"table option {ORDER_OPTION} = {KEY_ORDER} on {table.name}, which has no primary key")
    return order


def _sorter(table: Table, schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """Return the function that puts rows in the table's file order."""
    row_id = schema.names[-1]
    if _order_of(table) == ROW_ID_ORDER:

        def by_row_id(rows: pa.Table) -> pa.Table:
            ids = rows.column(row_id).to_numpy()
            if bool((ids[1:] > ids[:-1]).all()):
                return rows
            return rows.take(pa.array(np.argsort(ids, kind="stable")))

        return by_row_id
    key = table.primary_key
    assert key is not None
    names = [(schema.names[table.position(number)], "ascending") for number in key.columns]
    return lambda rows: rows.sort_by(names)
