"""Arrow batches to DataRow messages in bulk: one C call a column, never a Python loop over rows of common types.

Owns `encode_data_rows`. Each message is joined by one Arrow kernel from a head, and a length and a payload for
each column; lengths are computed with numpy.

    DataRow  | 'D' | int32 length | int16 columns | columns x (int32 length, -1 for NULL; payload) |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values import calendar as cal
from orbit.kernel.values import format_binary
from orbit.kernel.values.columns import python_values, text_column

ROWS_AT_ONCE = 16_384
"""Rows joined by one call: what fits the processor's cache, and keeps a call's output far below 2 GB."""

_EMPTY = pa.scalar(b"", pa.binary())


def fixed_width(values: Any) -> Any:
    """Return a pa.binary() array whose n-th value is the n-th row's bytes of a two-dimensional uint8 array."""
    rows, width = values.shape
    offsets = np.arange(0, width * (rows + 1), width, dtype=np.int32)
    return pa.Array.from_buffers(pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(values)])


def _big_endian(values: Any, code: str) -> Any:
    return values.astype(code).view(np.uint8).reshape(len(values), -1)


def _integers(arrow_type: Any, code: str) -> Callable[[Any], Any]:
    def encode(array: Any) -> Any:
        array = array if array.type == arrow_type else array.cast(arrow_type)
        return fixed_width(_big_endian(array.fill_null(0).to_numpy(zero_copy_only=False), code))

    return encode


def _since_2000(storage: Any, wide: Any, code: str, shift: int, ends: tuple[int, int]) -> Callable[[Any], Any]:
    def encode(array: Any) -> Any:
        array = array if array.type == storage else array.cast(storage)
        values = array.view(wide).fill_null(0).to_numpy()
        with np.errstate(over="ignore"):
            return fixed_width(_big_endian(np.where(np.isin(values, ends), values, values - shift), code))

    return encode


_TIMESTAMP_ENDS = (cal.TIMESTAMP_MINUS_INFINITY, cal.TIMESTAMP_INFINITY)
_BINARY: dict[int, Callable[[Any], Any]] = {
    Oid.INT2: _integers(pa.int16(), ">i2"),
    Oid.INT4: _integers(pa.int32(), ">i4"),
    Oid.INT8: _integers(pa.int64(), ">i8"),
    Oid.OID: _integers(pa.uint32(), ">u4"),
    Oid.FLOAT4: _integers(pa.float32(), ">f4"),
    Oid.FLOAT8: _integers(pa.float64(), ">f8"),
    Oid.DATE: _since_2000(
        pa.date32(), pa.int32(), ">i4", cal.POSTGRES_EPOCH_DAYS, (cal.DATE_MINUS_INFINITY, cal.DATE_INFINITY)
    ),
    Oid.TIME: _since_2000(pa.time64("us"), pa.int64(), ">i8", 0, (0, 0)),
    Oid.TIMESTAMP: _since_2000(pa.timestamp("us"), pa.int64(), ">i8", cal.POSTGRES_EPOCH_MICROS, _TIMESTAMP_ENDS),
    Oid.TIMESTAMPTZ: _since_2000(
        pa.timestamp("us", tz="UTC"), pa.int64(), ">i8", cal.POSTGRES_EPOCH_MICROS, _TIMESTAMP_ENDS
    ),
}
_SAME_AS_TEXT = frozenset((Oid.TEXT, Oid.UNKNOWN, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR, Oid.JSON))


def _binary_column(array: Any, oid: int) -> Any:
    """Return the payloads in the binary format, as pa.binary(); what stands for NULLs is not looked at."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if (encode := _BINARY.get(oid)) is not None and not pa.types.is_null(array.type):
        return encode(array)
    if oid in _SAME_AS_TEXT:
        return array.cast(pa.binary())
    write = format_binary(oid)
    return pa.array([None if v is None else write(v) for v in python_values(array, oid)], pa.binary())


def _joined(arrays: Sequence[Any], types: Sequence[SqlType], formats: Sequence[int], zone: tzinfo) -> bytes:
    """Encode columns of at most ROWS_AT_ONCE rows."""
    rows, width = len(arrays[0]), len(arrays)
    parts: list[Any] = []
    total = np.full(rows, 6 + 4 * width, np.int64)
    for array, sql_type, wire_format in zip(arrays, types, formats, strict=True):
        if wire_format:
            payload = _binary_column(array, sql_type.oid)
        else:
            payload = text_column(array, sql_type.oid, zone).cast(pa.binary())
        nulls = array.null_count > 0
        if nulls:
            payload = pc.if_else(array.is_valid(), payload, _EMPTY)
        sizes = pc.binary_length(payload).to_numpy(zero_copy_only=False)
        total += sizes
        if nulls:
            sizes = np.where(array.is_valid().to_numpy(zero_copy_only=False), sizes, -1)
        parts += [fixed_width(_big_endian(sizes, ">i4")), payload]
    head = np.empty((rows, 7), np.uint8)
    head[:, 0] = 0x44
    head[:, 1:5] = _big_endian(total, ">u4")
    head[:, 5:] = (width >> 8, width & 0xFF)
    joined = pc.binary_join_element_wise(fixed_width(head), *parts, _EMPTY)
    return memoryview(joined.buffers()[2])[: int(total.sum()) + rows].tobytes()


def result_formats(formats: Sequence[int], width: int) -> Sequence[int]:
    """Return one format for each column from Bind's list: none (all text), one for all, or one each."""
    if len(formats) == width:
        return formats
    return (formats[0] if formats else 0,) * width


def encode_data_rows(
    batch: pa.RecordBatch, types: Sequence[SqlType], formats: Sequence[int] = (), zone: tzinfo = UTC
) -> bytes:
    """Return the batch as DataRow messages. `types` has one entry a column; `formats` is as in Bind."""
    if batch.num_rows == 0:
        return b""
    if not types:
        return b"D\x00\x00\x00\x06\x00\x00" * int(batch.num_rows)
    formats = result_formats(formats, len(types))
    return b"".join(
        [
            _joined([column.slice(at, ROWS_AT_ONCE) for column in batch.columns], types, formats, zone)
            for at in range(0, batch.num_rows, ROWS_AT_ONCE)
        ]
    )
