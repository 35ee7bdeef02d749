"""Segments: sealed, immutable runs of row versions in Arrow columns, with their begin and end LSNs.

Owns one segment's vectors and how to read a row or a visible batch from it. The column data has a home: pinned
in memory (hot), or behind a `ColumnSource` (warm: RocksDB; cold: Iceberg files); a reader cannot tell which.

    offset    0   1   2  ..           row_ids, begins, ends: int64 vectors, always in memory
    columns   one Arrow array each    by column number, in storage types (`orbit.kernel.types.arrow_type`)

The columns never change. An update or delete of a row writes the end vector; `ends_version` counts those writes.
A segment of an uncommitted bulk load has begin LSN infinity, so no snapshot sees it until it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.records import Row
from orbit.kernel.schema import Column
from orbit.kernel.types import Oid, arrow_type

MAX_SEGMENT_ROWS = 65536
Lsns = npt.NDArray[np.int64]
Reader = Callable[[int], Any]


class ColumnSource(Protocol):
    """Where the columns of a segment that is not hot are read from. May block: callers use worker threads for scans."""

    tier: str

    def columns(self, numbers: Sequence[int]) -> dict[int, pa.Array]:
        """Return these columns, aligned with the segment's offsets."""
        ...

    def row(self, offset: int, row_id: int) -> Row:
        """Return one row, all columns in table order."""
        ...


class Segment:
    """One run of versions. `number` is unique within its table's storage and names the segment in key indexes."""

    __slots__ = (
        "__weakref__",
        "_cache",
        "_columns_bytes",
        "_readers",
        "begins",
        "columns",
        "count",
        "dead",
        "end_view",
        "ends",
        "ends_version",
        "first_row_id",
        "last_row_id",
        "max_begin",
        "newest_change_us",
        "number",
        "owner",
        "row_ids",
        "schema",
        "source",
        "stored_bytes",
    )

    def __init__(
        self,
        number: int,
        schema: Sequence[Column],
        columns: Mapping[int, pa.Array] | None,
        row_ids: Lsns,
        begins: Lsns,
        ends: Lsns | None = None,
        *,
        newest_change_us: int = 0,
        source: ColumnSource | None = None,
    ) -> None:
        self.number = number
        self.schema = tuple(schema)
        self.count = len(row_ids)
        self.columns: dict[int, pa.Array] | None = None if columns is None else dict(columns)
        self.row_ids = row_ids
        self.begins = begins
        self.ends: Lsns = np.full(self.count, INFINITY_LSN, np.int64) if ends is None else ends
        self.end_view: memoryview[int] = self.ends.data
        self.ends_version = 0
        self.dead = int((self.ends != INFINITY_LSN).sum())
        self.max_begin = int(begins.max()) if self.count else 0
        self.first_row_id = int(row_ids.min()) if self.count else 0
        self.last_row_id = int(row_ids.max()) if self.count else 0
        self.newest_change_us = newest_change_us
        self.source = source
        self.stored_bytes = 0
        """What the columns occupy on disk, once they are saved."""
        self.owner: bytes | None = None
        """The transaction whose uncommitted bulk load this is."""
        self._readers: list[Reader] | None = None
        self._columns_bytes: int | None = None
        self._cache: tuple[int, int, npt.NDArray[np.bool_]] | None = None

    @property
    def tier(self) -> str:
        return "hot" if self.columns is not None else self.source.tier if self.source is not None else "hot"

    @property
    def vectors_bytes(self) -> int:
        return int(self.row_ids.nbytes + self.begins.nbytes + self.ends.nbytes)

    @property
    def columns_bytes(self) -> int:
        """Bytes of column data that this process keeps in memory: 0 when the segment is not hot."""
        pinned = self.columns
        if pinned is None:
            return 0
        if self._columns_bytes is None:
            self._columns_bytes = sum(array.nbytes for array in pinned.values())
        return self._columns_bytes

    def visible_at(self, offset: int, snapshot: int) -> bool:
        return bool(self.begins[offset] <= snapshot < self.end_view[offset])

    def row(self, offset: int) -> Row:
        """Return one version's row, in table column order."""
        readers = self._readers
        if readers is None:
            pinned = self.columns
            if pinned is None:
                assert self.source is not None, "a segment without columns has a source"
                return self.source.row(offset, int(self.row_ids[offset]))
            readers = self._readers = [column_reader(pinned[c.number], c.type.oid) for c in self.schema]
        return tuple([read(offset) for read in readers])

    def publish(self, lsn: int, time_us: int) -> None:
        """Make a bulk load's rows visible from `lsn` on."""
        self.begins.fill(lsn)
        self.max_begin = lsn
        self.newest_change_us = time_us
        self.owner = None

    def end(self, offset: int, lsn: int) -> None:
        """End the version at `offset`."""
        self.end_view[offset] = lsn
        self.ends_version += 1
        self.dead += 1

    def visible_mask(self, snapshot: int) -> npt.NDArray[np.bool_] | None:
        """Return which versions a snapshot sees, or None when it sees all of them."""
        if not self.dead and self.max_begin <= snapshot:
            return None
        cached = self._cache
        if cached is not None and cached[0] == self.ends_version and cached[1] == snapshot:
            return cached[2]
        mask: npt.NDArray[np.bool_] = (self.begins <= snapshot) & (self.ends > snapshot)
        self._cache = (self.ends_version, snapshot, mask)
        return mask

    def load(self, numbers: Sequence[int]) -> dict[int, pa.Array]:
        """Return whole columns by number, from memory or from their source."""
        # Scans call this from their threads while the event loop may demote the segment.
        pinned = self.columns
        if pinned is not None:
            return {number: pinned[number] for number in numbers}
        assert self.source is not None, "a segment without columns has a source"
        return self.source.columns(numbers)

    def pin(self) -> None:
        """Make the segment hot: read all columns into memory."""
        if self.columns is None:
            self.columns = self.load([column.number for column in self.schema])

    def demote(self, source: ColumnSource) -> None:
        """Forget the columns in memory; they are read from `source` from now on."""
        self.source = source
        self.columns = None
        self._readers = None


def _primitive(array: pa.Array, code: Any) -> Reader:
    values = memoryview(array.buffers()[1]).cast(code)[array.offset : array.offset + len(array)]
    return _with_nulls(array, values.__getitem__)


def _with_nulls(array: pa.Array, read: Reader) -> Reader:
    if not array.null_count:
        return read
    valid = np.asarray(array.is_valid()).astype(np.uint8).data
    return lambda at: read(at) if valid[at] else None


def _variable(array: pa.Array, decode: Callable[[memoryview], Any]) -> Reader:
    _, offsets_buffer, data = array.buffers()
    offsets = memoryview(offsets_buffer).cast("i")[array.offset : array.offset + len(array) + 1]
    content = memoryview(data) if data is not None else memoryview(b"")
    return _with_nulls(array, lambda at: decode(content[offsets[at] : offsets[at + 1]]))


def _text(view: memoryview) -> str:
    return str(view, "utf-8")


def _plain(array: pa.Array) -> Reader:
    return lambda at: array[at].as_py()


def _interval(array: pa.Array) -> Reader:
    def read(at: int) -> tuple[int, int, int] | None:
        value = array[at].as_py()
        return None if value is None else (value.months, value.days, value.nanoseconds // 1000)

    return read


_PRIMITIVE_CODES: dict[int, str] = {
    Oid.INT2: "h",
    Oid.INT4: "i",
    Oid.INT8: "q",
    Oid.OID: "q",
    Oid.FLOAT4: "f",
    Oid.FLOAT8: "d",
    Oid.DATE: "i",
    Oid.TIME: "q",
    Oid.TIMESTAMP: "q",
    Oid.TIMESTAMPTZ: "q",
}


def column_reader(array: pa.Array, oid: int) -> Reader:
    """Return a function from offset to the row value of one column (the value forms of `orbit.kernel.types`)."""
    if (code := _PRIMITIVE_CODES.get(oid)) is not None:
        return _primitive(array, code)
    if oid == Oid.INTERVAL:
        return _interval(array)
    if oid == Oid.NUMERIC and pa.types.is_string(array.type):
        return _variable(array, lambda view: Decimal(str(view, "utf-8")))
    if pa.types.is_string(array.type):
        return _variable(array, _text)
    if pa.types.is_binary(array.type):
        return _variable(array, bytes)
    return _plain(array)


def column_array(values: Sequence[Any], column: Column) -> pa.Array:
    """Return one column's row values as Arrow storage."""
    storage = arrow_type(column.type)
    if column.type.oid == Oid.NUMERIC and pa.types.is_string(storage):
        values = [
            None if value is None else format(value, "f") if value.is_finite() else str(value) for value in values
        ]
    elif column.type.oid == Oid.INTERVAL:
        values = [None if value is None else pa.MonthDayNano([value[0], value[1], value[2] * 1000]) for value in values]
    return pa.array(values, storage)


def columns_of(rows: Sequence[Row], schema: Sequence[Column]) -> dict[int, pa.Array]:
    """Return rows (in table column order) as columns by number."""
    if not rows:
        return {column.number: pa.array([], arrow_type(column.type)) for column in schema}
    return {
        column.number: column_array(values, column)
        for column, values in zip(schema, zip(*rows, strict=True), strict=True)
    }
