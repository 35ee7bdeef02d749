"""The warm tier: segments in RocksDB, as column blobs for scans and as rows by row id for point reads.

Owns the database under the node's data directory: the only home of rocksdict. Knows segments, not tables or the log.

    family    key                                        value
    default   b"m" name                                  checkpoint metadata (`services.storage.checkpoint`)
    default   b"s" storage id, segment                   the segment's manifest
    default   b"e" storage id, segment                   its end vector at the last checkpoint
    default   b"t" storage id, piece                     the table's tail at the last checkpoint
    columns   storage id, segment, column, piece         a piece (at most 4 MB) of one Arrow IPC column
    rows      storage id, segment, offset                one row, msgpack (segments that are not hot)

RocksDB's own WAL stays on: without it column families tear apart at a crash.
"""

from __future__ import annotations

import io
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from orbit.kernel.errors import DiskFull, OrbitError
from orbit.kernel.limits import ROCKSDB_PIECE_BYTES
from orbit.kernel.records import Row, RowCodec
from orbit.kernel.schema import Column
from services.storage.tiers.segment import Segment

ROW_IDS = -1
BEGINS = -2

_SEGMENT_KEY = struct.Struct(">QI")
_segment_key = _SEGMENT_KEY.pack
_column_key = struct.Struct(">QIiH").pack
_row_key = struct.Struct(">QII").pack
_encode = msgspec.msgpack.Encoder(decimal_format="string").encode
_decode_row = msgspec.msgpack.Decoder(list).decode


class WarmStore:
    """One node's RocksDB. Reads and writes may block; RocksDB itself is safe to use from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        block_cache_bytes: int,
        write_buffer_bytes: int,
        max_open_files: int,
        column_cache_bytes: int,
    ) -> None:
        path.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_write_buffer_size(write_buffer_bytes)
        options.set_max_open_files(max_open_files)
        options.set_keep_log_file_num(4)
        table = BlockBasedOptions()
        table.set_block_cache(Cache(block_cache_bytes))
        table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        blobs = Options(raw_mode=True)
        blobs.set_write_buffer_size(write_buffer_bytes)
        blobs.set_compression_type(DBCompressionType.none())
        self._path = path
        try:
            self._db = Rdict(str(path), options, column_families={"columns": blobs, "rows": options})
        except Exception as error:
            raise OrbitError(f"cannot open RocksDB in {path}: {error}", sqlstate="58030") from error
        self._columns = self._db.get_column_family("columns")
        self._rows = self._db.get_column_family("rows")
        self._columns_family = self._db.get_column_family_handle("columns")
        self._rows_family = self._db.get_column_family_handle("rows")
        self._cache = ColumnCache(column_cache_bytes)

    def close(self) -> None:
        # RocksDB keeps its lock while any handle lives.
        del self._columns_family, self._rows_family
        self._columns.close()
        self._rows.close()
        self._db.close()

    # Checkpoints.

    def read(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield (key without prefix, value) of the default family, in key order."""
        options = ReadOptions()
        iterator = self._db.iter(options)
        iterator.seek(prefix)
        while iterator.valid():
            key = iterator.key()
            if not key.startswith(prefix):
                break
            yield key[len(prefix) :], iterator.value()
            iterator.next()

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Yield the keys of the default family without the prefix, in order; values are not read."""
        iterator = self._db.iter(ReadOptions())
        iterator.seek(prefix)
        while iterator.valid() and (key := iterator.key()).startswith(prefix):
            yield key[len(prefix) :]
            iterator.next()

    def publish(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes]) -> None:
        """Write one batch over the default family, synced: what it says is durable when this returns."""
        batch = WriteBatch(raw_mode=True)
        for key in deletes:
            batch.delete(key)
        for key, value in puts:
            batch.put(key, value)
        options = WriteOptions()
        options.sync = True
        try:
            self._db.write(batch, options)
        except Exception as error:
            raise _write_error(error) from error

    # Segments.

    def save_columns(self, storage_id: int, segment: Segment) -> int:
        """Write a hot segment's columns and vectors; return their bytes. Not visible before a manifest names them."""
        assert segment.columns is not None, "only a hot segment has columns to save"
        total = 0
        # An interrupted checkpoint may have left longer columns under this number.
        self.drop_segment(storage_id, segment.number)
        vectors = {ROW_IDS: pa.array(segment.row_ids), BEGINS: pa.array(segment.begins)}
        for number, array in (vectors | segment.columns).items():
            data = _column_bytes(array)
            total += len(data)
            for piece, start in enumerate(range(0, max(len(data), 1), ROCKSDB_PIECE_BYTES)):
                key = _column_key(storage_id, segment.number, number, piece)
                try:
                    self._columns.put(key, data[start : start + ROCKSDB_PIECE_BYTES])
                except Exception as error:
                    raise _write_error(error) from error
        return total

    def save_rows(self, storage_id: int, segment: Segment) -> None:
        """Write the row-form copy of a segment's rows, for point reads once it is no longer hot."""
        batch, size = WriteBatch(raw_mode=True), 0
        for offset in range(segment.count):
            row = _encode(segment.row(offset))
            batch.put(_row_key(storage_id, segment.number, offset), row, self._rows_family)
            size += len(row)
            if size >= ROCKSDB_PIECE_BYTES:
                self._write_rows(batch)
                batch, size = WriteBatch(raw_mode=True), 0
        self._write_rows(batch)

    def _write_rows(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch)
        except Exception as error:
            raise _write_error(error) from error

    def load_column(self, storage_id: int, segment_number: int, number: int) -> pa.Array:
        """Return one column of a saved segment, through the cache of decoded columns."""
        cache_key = (storage_id, segment_number, number)
        array = self._cache.get(cache_key)
        if array is None:
            pieces: list[bytes] = []
            while (
                piece := self._columns.get(_column_key(storage_id, segment_number, number, len(pieces)))
            ) is not None:
                pieces.append(piece)
            if not pieces:
                raise OrbitError(
                    f"column {number} of segment {segment_number} is missing in {self._path}", sqlstate="XX001"
                )
            array = _column_array(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if number >= 0:
                self._cache.put(cache_key, array)
        return array

    def cached(self, storage_id: int, segment_number: int, number: int) -> pa.Array | None:
        """Return a decoded column if the cache has it: cold columns share the cache of warm ones."""
        return self._cache.get((storage_id, segment_number, number))

    def keep_cached(self, storage_id: int, segment_number: int, number: int, array: pa.Array) -> None:
        self._cache.put((storage_id, segment_number, number), array)

    def load_vector(self, storage_id: int, segment_number: int, number: int) -> npt.NDArray[np.int64]:
        """Return a writable copy of ROW_IDS or BEGINS."""
        return np.array(self.load_column(storage_id, segment_number, number), dtype=np.int64)

    def load_row(self, storage_id: int, segment_number: int, offset: int) -> list[object] | None:
        data = self._rows.get(_row_key(storage_id, segment_number, offset))
        return None if data is None else _decode_row(data)

    def drop_storage(self, storage_id: int) -> None:
        """Delete every blob and row of a table that is gone."""
        start, end = struct.pack(">Q", storage_id), struct.pack(">Q", storage_id + 1)
        self._columns.delete_range(start, end)
        self._rows.delete_range(start, end)
        self._cache.drop(lambda key: key[0] == storage_id)

    def drop_segment(self, storage_id: int, segment_number: int) -> None:
        """Delete every blob and row of one segment."""
        start, end = _segment_key(storage_id, segment_number), _segment_key(storage_id, segment_number + 1)
        try:
            self._columns.delete_range(start, end)
            self._rows.delete_range(start, end)
        except Exception as error:
            raise _write_error(error) from error
        self._cache.drop(lambda key: key[:2] == (storage_id, segment_number))

    def drop_columns(self, storage_id: int, segment_number: int, numbers: Iterable[int]) -> None:
        """Delete some columns of one segment, and its rows: they have another home now."""
        self._rows.delete_range(_segment_key(storage_id, segment_number), _segment_key(storage_id, segment_number + 1))
        for number in numbers:
            self._columns.delete_range(
                _column_key(storage_id, segment_number, number, 0),
                _column_key(storage_id, segment_number, number, 0xFFFF),
            )

    def disk_bytes(self) -> int:
        """Return the bytes of the live SST files, what RocksDB itself counts."""
        total = 0
        for family in (self._db, self._columns, self._rows):
            total += int(family.property_int_value("rocksdb.live-sst-files-size") or 0)
            total += int(family.property_int_value("rocksdb.cur-size-all-mem-tables") or 0)
        return total


class WarmSource:
    """A warm segment's columns, read from RocksDB when asked for."""

    __slots__ = ("_codec", "_count", "_numbers", "_oids", "_segment", "_storage_id", "_store")

    tier = "warm"

    def __init__(self, store: WarmStore, storage_id: int, segment_number: int, schema: Sequence[Column]) -> None:
        self._store = store
        self._storage_id = storage_id
        self._segment = segment_number
        self._codec = RowCodec(schema)
        self._numbers = [column.number for column in schema]
        self._oids = [column.type.oid for column in schema]

    def columns(self, numbers: Sequence[int]) -> dict[int, pa.Array]:
        return {number: self._store.load_column(self._storage_id, self._segment, number) for number in numbers}

    def row(self, offset: int, row_id: int) -> Row:
        values = self._store.load_row(self._storage_id, self._segment, offset)
        if values is not None:
            return self._codec.unpack(values)
        from services.storage.tiers.segment import column_reader

        columns = self.columns(self._numbers)
        return tuple(
            column_reader(columns[number], oid)(offset) for number, oid in zip(self._numbers, self._oids, strict=True)
        )


class ColumnCache:
    """Decoded columns, least recently used first out, bounded in bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._arrays: OrderedDict[tuple[int, int, int], pa.Array] = OrderedDict()
        self._lock = Lock()
        self.size_bytes = 0

    def get(self, key: tuple[int, int, int]) -> pa.Array | None:
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
            return array

    def put(self, key: tuple[int, int, int], array: pa.Array) -> None:
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = array
                self.size_bytes += array.nbytes
                while self.size_bytes > self._limit and self._arrays:
                    _, old = self._arrays.popitem(last=False)
                    self.size_bytes -= old.nbytes

    def drop(self, chosen: Callable[[tuple[int, int, int]], bool]) -> None:
        with self._lock:
            for key in [key for key in self._arrays if chosen(key)]:
                self.size_bytes -= self._arrays.pop(key).nbytes


def segment_key(storage_id: int, number: int) -> bytes:
    return _segment_key(storage_id, number)


def unpack_segment_key(key: bytes) -> tuple[int, int]:
    storage_id, number = _SEGMENT_KEY.unpack(key)
    return storage_id, number


def _column_bytes(array: pa.Array) -> bytes:
    batch = pa.record_batch([array], ["c"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _column_array(data: bytes) -> pa.Array:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch().column(0)


def _write_error(error: Exception) -> OrbitError:
    text = str(error)
    if "No space left" in text:
        return DiskFull(f"RocksDB has no space left: {text}")
    return OrbitError(f"RocksDB failed to write: {text}", sqlstate="58030")
