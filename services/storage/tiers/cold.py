"""The cold tier's reading side: columns of rows by row id, out of the data files of one Iceberg snapshot.

Owns the plan of a read (which files, which row groups), the cache of plans and footers, and where bytes come from:
local files are read in place, S3 objects through `cold_cache`. Owns nothing of visibility: the caller knows which
versions are alive and asks for their row ids.

    read          rows of row id ranges, as they come
    read_aligned  columns in the order of given row ids: what a segment needs
    read_rows     a few rows as Python values: what a point read needs

Blocking and thread-safe: callers are worker threads. Decoding is pyarrow's: DuckDB over the same files was measured
slower for what a segment asks (see the decision record of the cold reader).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from orbit.chassis.iceberg.files import PlannedFile, plan_snapshot
from orbit.chassis.iceberg.schema import ROW_ID_FIELD, column_numbers, field_id, from_file
from orbit.chassis.iceberg.warehouse import Warehouse
from orbit.chassis.object_store import BlockingObjectStore, ObjectMissing, split_location
from orbit.kernel.errors import StoreUnavailable
from orbit.kernel.ids import ROW_ID_COLUMN
from orbit.kernel.records import Row
from orbit.kernel.schema import Column, Table
from orbit.kernel.types import arrow_type
from services.storage.moves import RowRange, SnapshotRef
from services.storage.tiers.cold_cache import BlockCache, CachedObject, Span
from services.storage.tiers.segment import column_reader

PLANS_KEPT: Final = 64
FOOTERS_KEPT: Final = 512
FOOTER_BYTES: Final = 256 << 10
"""First guess at a footer's size: one request in nearly all cases."""
_MAGIC_BYTES: Final = 8

RowIds = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A snapshot's files by first row id, with the bounds as vectors for pruning."""

    files: tuple[PlannedFile, ...]
    firsts: RowIds
    lasts: RowIds


@dataclass(frozen=True, slots=True)
class _Footer:
    """What is kept of a file: its parsed footer, column positions by field id, row id bounds of its row groups."""

    metadata: pq.FileMetaData
    positions: dict[int, int]
    names: dict[int, str]
    firsts: RowIds
    lasts: RowIds


class ColdReader:
    """Reads one warehouse. `cache_folder` is this object's own; it is used for remote stores only."""

    def __init__(self, warehouse: Warehouse, cache_folder: Path, cache_limit_bytes: int) -> None:
        self._warehouse = warehouse
        self._plans: _Kept[SnapshotRef, _Plan] = _Kept(PLANS_KEPT)
        self._footers: _Kept[str, _Footer] = _Kept(FOOTERS_KEPT)
        self._stores: dict[str, BlockingObjectStore] = {}
        self._lock = threading.Lock()
        self._cache = BlockCache(cache_folder, cache_limit_bytes, self._fetch)

    def close(self) -> None:
        """Release connections and the cache. No read may be under way."""
        with self._lock:
            for store in self._stores.values():
                store.close()
            self._stores.clear()
        self._cache.close()

    @property
    def cache_bytes(self) -> int:
        """Bytes of remote objects held on the local disk."""
        return self._cache.bytes_held

    def files(self, ref: SnapshotRef) -> tuple[int, int]:
        """Return (files, bytes) of a snapshot, from manifests alone."""
        files = self._plan(ref).files
        return len(files), sum(file.size_bytes for file in files)

    def rows(self, ref: SnapshotRef) -> int:
        """Return how many rows a snapshot holds, tombstoned ones included, from manifests alone."""
        return sum(file.rows for file in self._plan(ref).files)

    def read(
        self, table: Table, ref: SnapshotRef, columns: Sequence[str | int], row_id_ranges: Sequence[RowRange]
    ) -> pa.Table:
        """Return ROW_ID_COLUMN and the named columns, in storage types, of the rows in the ranges (sorted, disjoint).

        Rows come in file order. A column that a file does not have, because it was added later, is NULL there.
        Raises StoreUnavailable, DiskFull; KeyError for a column that the table has not.
        """
        wanted = column_numbers(table, columns)
        starts = np.array([first for first, _ in row_id_ranges], np.int64)
        ends = np.array([last for _, last in row_id_ranges], np.int64)
        plan = self._plan(ref)
        parts: list[pa.Table] = []
        for at in np.flatnonzero(_touches(plan.firsts, plan.lasts, starts, ends)):
            parts.extend(self._read_file(plan.files[at], wanted, starts, ends))
        if not parts:
            fields = [(ROW_ID_COLUMN, pa.int64()), *((c.name, arrow_type(c.type)) for c in wanted)]
            return pa.schema(fields).empty_table()
        return pa.concat_tables(parts)

    def read_aligned(
        self, table: Table, ref: SnapshotRef, columns: Sequence[str | int], row_ids: RowIds, needed: Mask | None = None
    ) -> pa.Table:
        """Return the named columns, one chunk each, in the order of `row_ids`, without the row id column.

        A row that the snapshot has not (a dead version of the segment) is NULL. Raises StoreUnavailable when a row
        that `needed` marks (None: every row) is missing: then the snapshot is not the one that the log means.
        """
        found = self.read(table, ref, columns, _runs(row_ids))
        have = found.column(ROW_ID_COLUMN).to_numpy()
        if len(have) == len(row_ids) and bool((have == row_ids).all()):
            return found.drop_columns([ROW_ID_COLUMN]).combine_chunks()
        order = np.argsort(have, kind="stable")
        sorted_ids = have[order]
        at = np.searchsorted(sorted_ids, row_ids)
        present = at < len(sorted_ids)
        present[present] = sorted_ids[at[present]] == row_ids[present]
        if not bool((present if needed is None else present | ~needed).all()):
            raise StoreUnavailable(
                f"{self._warehouse.shown}: snapshot {ref.snapshot_id} of {table.schema}.{table.name} lacks "
                f"{int((~present if needed is None else needed & ~present).sum())} rows that were moved there"
            )
        take = np.zeros(len(row_ids), np.int64)
        take[present] = order[at[present]]
        return found.drop_columns([ROW_ID_COLUMN]).take(pa.array(take, mask=~present)).combine_chunks()

    def read_rows(self, table: Table, ref: SnapshotRef, row_ids: Sequence[int]) -> dict[int, Row]:
        """Return whole rows by row id, in the value forms of `orbit.kernel.types`; absent ids are left out."""
        ids = np.unique(np.asarray(row_ids, np.int64))
        found = self.read(table, ref, [c.number for c in table.columns], _runs(ids)).combine_chunks()
        if not found.num_rows:
            return {}
        values = [column.chunk(0) for column in found.itercolumns()][1:]
        readers = [column_reader(array, c.type.oid) for array, c in zip(values, table.columns, strict=True)]
        return {
            row_id: tuple([read(offset) for read in readers])
            for offset, row_id in enumerate(found.column(ROW_ID_COLUMN).to_pylist())
        }

    def _plan(self, ref: SnapshotRef) -> _Plan:
        return self._plans.get(ref, lambda: self._make_plan(ref))

    def _make_plan(self, ref: SnapshotRef) -> _Plan:
        files = plan_snapshot(self._warehouse, ref.metadata_location, ref.snapshot_id)
        files.sort(key=lambda file: file.first_row_id)
        return _Plan(
            tuple(files),
            np.array([file.first_row_id for file in files], np.int64),
            np.array([file.last_row_id for file in files], np.int64),
        )

    def _read_file(
        self, file: PlannedFile, wanted: Sequence[Column], starts: RowIds, ends: RowIds
    ) -> Iterator[pa.Table]:
        """Yield the asked-for rows of one file: row ids first, the other columns only where a row group has hits."""
        with self._opened(file) as source:
            footer = self._footers.get(file.location, lambda: source.footer(file))
            groups = np.flatnonzero(_touches(footer.firsts, footer.lasts, starts, ends)).tolist()
            fields = [ROW_ID_FIELD, *(column.number for column in wanted if column.number in footer.positions)]
            for group in groups:
                rows = source.read(footer, group, fields)
                row_ids = rows.column(footer.names[ROW_ID_FIELD])
                hits = _within(row_ids.to_numpy(), starts, ends)
                if not hits.any():
                    continue
                arrays = [row_ids]
                for column in wanted:
                    if column.number in footer.positions:
                        arrays.append(from_file(rows.column(footer.names[column.number]), column))
                    else:
                        arrays.append(pa.chunked_array([pa.nulls(rows.num_rows, arrow_type(column.type))]))
                made = pa.Table.from_arrays(arrays, names=[ROW_ID_COLUMN, *(column.name for column in wanted)])
                yield made if hits.all() else made.filter(pa.array(hits))

    @contextmanager
    def _opened(self, file: PlannedFile) -> Iterator[_Source]:
        scheme, _, path = file.location.rpartition("://")
        with self._warehouse.failures():
            if scheme in ("", "file"):
                yield _Source(Path(path), None)
                return
            with self._cache.pinned(file.location, file.size_bytes) as cached:
                yield _Source(cached.path, cached)

    def _fetch(self, location: str, spans: Sequence[Span]) -> list[bytes]:
        if self._warehouse.settings.s3 is not None and location.startswith("s3"):
            bucket, key = split_location(location)
            try:
                return self._store(bucket).get_ranges(key, spans)
            except ObjectMissing as error:
                raise StoreUnavailable(f"cold data file is missing: {error.message}") from error
        with self._warehouse.failures(), self._warehouse.io.new_input(location).open() as stream:
            parts = []
            for offset, length in spans:
                stream.seek(offset)
                parts.append(stream.read(length))
            return parts

    def _store(self, bucket: str) -> BlockingObjectStore:
        settings = self._warehouse.settings.s3
        assert settings is not None
        with self._lock:
            if bucket not in self._stores:
                self._stores[bucket] = BlockingObjectStore(settings, bucket)
            return self._stores[bucket]


class _Source:
    """One data file on the local disk, whole (`cached` is None) or in parts."""

    def __init__(self, path: Path, cached: CachedObject | None) -> None:
        self._path = path
        self._cached = cached

    def footer(self, file: PlannedFile) -> _Footer:
        if self._cached is not None:
            tail = min(file.size_bytes, FOOTER_BYTES)
            self._cached.ensure([(file.size_bytes - tail, tail)])
            with self._path.open("rb") as stream:
                stream.seek(file.size_bytes - _MAGIC_BYTES)
                length = int.from_bytes(stream.read(4), "little") + _MAGIC_BYTES
            self._cached.ensure([(file.size_bytes - length, length)])
        metadata = pq.read_metadata(self._path)
        schema = metadata.schema.to_arrow_schema()
        positions = {field_id(field): at for at, field in enumerate(schema)}
        names = {field_id(field): field.name for field in schema}
        if ROW_ID_FIELD not in positions:
            raise StoreUnavailable(f"cold data file {file.location} has no row id column")
        firsts, lasts = _group_bounds(metadata, positions[ROW_ID_FIELD])
        return _Footer(metadata, positions, names, firsts, lasts)

    def read(self, footer: _Footer, group: int, fields: Sequence[int]) -> pa.Table:
        if self._cached is not None:
            chunks = footer.metadata.row_group(group)
            self._cached.ensure([_chunk_span(chunks.column(footer.positions[field])) for field in fields])
        with pq.ParquetFile(
            self._path, metadata=footer.metadata, memory_map=True, page_checksum_verification=True
        ) as source:
            return source.read_row_group(group, columns=[footer.names[field] for field in fields])


class _Kept(Generic[K, V]):
    """The most recently used values of a function. Two threads may compute the same one; the first stays."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()
        with self._lock:
            value = self._values.setdefault(key, made)
            while len(self._values) > self._limit:
                self._values.popitem(last=False)
        return value


def _group_bounds(metadata: pq.FileMetaData, position: int) -> tuple[RowIds, RowIds]:
    """Return the row id bounds of each row group; the widest where a foreign writer left none."""
    firsts, lasts = [], []
    for group in range(metadata.num_row_groups):
        statistics = metadata.row_group(group).column(position).statistics
        known = statistics is not None and statistics.has_min_max
        firsts.append(statistics.min if known else 0)
        lasts.append(statistics.max if known else (1 << 63) - 1)
    return np.array(firsts, np.int64), np.array(lasts, np.int64)


def _chunk_span(chunk: pq.ColumnChunkMetaData) -> Span:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, chunk.total_compressed_size


def _touches(firsts: RowIds, lasts: RowIds, starts: RowIds, ends: RowIds) -> Mask:
    """Return which spans [first, last] meet any of the sorted, disjoint ranges [start, end]."""
    if not len(starts):
        return np.zeros(len(firsts), np.bool_)
    at = np.searchsorted(ends, firsts)
    inside = np.minimum(at, len(starts) - 1)
    mask: Mask = (at < len(starts)) & (starts[inside] <= lasts)
    return mask


def _within(row_ids: RowIds, starts: RowIds, ends: RowIds) -> Mask:
    """Return which row ids lie in any of the sorted, disjoint ranges."""
    return _touches(row_ids, row_ids, starts, ends)


def _runs(row_ids: RowIds) -> list[RowRange]:
    """Return ranges that hold exactly these row ids (in any order)."""
    if not len(row_ids):
        return []
    ids = row_ids if bool((row_ids[1:] > row_ids[:-1]).all()) else np.unique(row_ids)
    breaks = np.flatnonzero(np.diff(ids) != 1)
    firsts = ids[np.concatenate(([0], breaks + 1))]
    lasts = ids[np.concatenate((breaks, [len(ids) - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
