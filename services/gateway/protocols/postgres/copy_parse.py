"""A block of COPY input to pieces of Arrow IPC, in storage column types. Pure; runs in a worker thread.

Owns the fast way (pyarrow's CSV reader, checked afterwards) and the encoding. The fast way is taken only where its
outcome is PostgreSQL's to the value; anything doubtful, and every error, goes to `copy_rows`, which is exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from orbit.kernel.errors import OrbitError
from orbit.kernel.limits import COPY_PIECE_BYTES
from orbit.kernel.types import Oid, SqlType, arrow_type
from orbit.kernel.values.columns import storage_column
from services.gateway.protocols.postgres.copy_rows import CopySpec, read_rows, unescape

_TRUE: Final = ["t", "true", "TRUE", "True", "T", "y", "yes", "on", "1"]
_FALSE: Final = ["f", "false", "FALSE", "False", "F", "n", "no", "off", "0"]
_INTEGERS: Final = frozenset((Oid.INT2, Oid.INT4, Oid.INT8))
_FLOATS: Final = frozenset((Oid.FLOAT4, Oid.FLOAT8))
_PLAIN_NUMERIC: Final = r"^(-?[1-9]\d{0,99}(\.\d{1,99})?|0(\.\d{1,99})?|-0\.\d{0,99}[1-9]\d{0,99})$"
_PLAIN_TIMESTAMP: Final = r"^[1-9]\d{3}-\d\d-\d\d[ T]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?$"
_PLAIN_UUID: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_FIRST_DAY: Final = -719_162
_MAY_UNDERFLOW = re.compile(rb"[eE]-0*(?:[3-9][0-9]|[0-9]{3,})")
_IPC_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="zstd")


class Doubtful(Exception):
    """The fast way cannot vouch for this block."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed block: its pieces, each one Arrow IPC stream of one batch, in order."""

    pieces: list[bytes]
    rows: int
    lines: int
    ended: bool = False
    """Whether the end-of-data marker was met: nothing behind it counts."""


def parse_block(data: bytes, spec: CopySpec, newline: str, skip_header: bool) -> Parsed:
    """Parse whole rows, whose lines end in `newline`. Raises CopyDataError with the line within this block."""
    ended = False
    try:
        batch, lines = _fast(data, spec, newline, skip_header)
    except (Doubtful, pa.ArrowInvalid, OrbitError):
        block = read_rows(data, spec, newline, skip_header)
        arrays = [storage_column(values, kind) for values, kind in zip(block.columns, spec.types, strict=True)]
        batch, lines, ended = _batch(arrays, spec), block.lines, block.ended
    return Parsed(encode_pieces(batch) if batch.num_rows else [], batch.num_rows, lines, ended)


def _batch(arrays: list[Any], spec: CopySpec) -> Any:
    fields = [pa.field(name, arrow_type(sql_type)) for name, sql_type in zip(spec.names, spec.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


# -- the fast way -------------------------------------------------------------------------------------------


def _doubtful_block(data: bytes, spec: CopySpec, newline: str) -> bool:
    """Whether the block holds a form that the two readers take differently."""
    copy = spec.copy
    # Looking for one byte costs a tenth of looking for two: first see whether the rarer one is there at all.
    if b"\0" in data or data[:1] in b"\r\n" or b"\n\n" in data:
        return True
    if newline != "\n" or b"\r" in data:
        if b"\n\r" in data:
            return True
        pairs = data.count(b"\r\n")
        if newline != "\r\n" or pairs != data.count(b"\r") or pairs != data.count(b"\n"):
            return True
        if spec.csv and copy.quote.encode() in data:
            return True
    if spec.csv:
        quote = copy.quote.encode()
        if quote in data and (copy.escape != copy.quote or data.count(quote) % 2):
            return True
        if b"\\" in data and b"\\." in data:
            return True
    elif b"\\" in data and any(b"\\" + mark in data for mark in (b"\n", b"\r", b".", copy.delimiter.encode())):
        return True
    oids = {sql_type.oid for sql_type in spec.types}
    if oids & _INTEGERS and _has_hexadecimal(data):
        return True
    return bool(oids & _FLOATS and _MAY_UNDERFLOW.search(data))


def _has_hexadecimal(data: bytes) -> bool:
    """Whether '0x' or '0X' is anywhere: the reader takes such integers, PostgreSQL does not."""
    if b"x" not in data and b"X" not in data:
        return False
    values = np.frombuffer(data, np.uint8)
    marks = np.flatnonzero(values | 0x20 == 0x78)
    return bool((values[marks - 1] == 0x30).any())


def _direct_type(sql_type: SqlType) -> Any:
    """Return the Arrow type that the reader may convert to by itself; string for what is converted afterwards."""
    if sql_type.oid in _INTEGERS or sql_type.oid in _FLOATS or sql_type.oid in (Oid.BOOL, Oid.DATE):
        return arrow_type(sql_type)
    kind = arrow_type(sql_type)
    return kind if sql_type.oid == Oid.NUMERIC and pa.types.is_decimal(kind) else pa.string()


def _fast(data: bytes, spec: CopySpec, newline: str, skip_header: bool) -> tuple[Any, int]:
    if not data or _doubtful_block(data, spec, newline):
        raise Doubtful
    copy = spec.copy
    quoted = spec.csv and copy.quote.encode() in data
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    body = data
    if skip_header:
        end = data.find(b"\n") + 1
        if not end or copy.quote.encode() in data[:end]:
            raise Doubtful
        body = data[end:]
        if not body:
            raise Doubtful
    numbered = [str(at) for at in range(len(spec.types))]  # names may repeat no less than columns do
    table = pa_csv.read_csv(
        pa.BufferReader(body),
        read_options=pa_csv.ReadOptions(
            column_names=numbered, use_threads=False, block_size=min(len(body) + 1, 1 << 30)
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=copy.delimiter,
            quote_char=copy.quote if quoted else False,
            double_quote=True,
            escape_char=False,
            newlines_in_values=quoted,
            ignore_empty_lines=False,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types={name: _direct_type(sql_type) for name, sql_type in zip(numbered, spec.types, strict=True)},
            null_values=[copy.null],
            true_values=_TRUE,
            false_values=_FALSE,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    # Where backslashes or quotes are left in strings the readers may have parted ways.
    escaped = not spec.csv and b"\\" in body
    arrays: list[Any] = []
    for column, sql_type, parse in zip(table.columns, spec.types, spec.parsers, strict=True):
        array = column.combine_chunks()
        if pa.types.is_string(array.type):
            if quoted and pc.any(pc.match_substring(array, copy.quote)).as_py():
                raise Doubtful
            if escaped:
                array = _unescaped(array)
        arrays.append(_storage(array, sql_type, parse))
    return _batch(arrays, spec), lines


def _unescaped(array: Any) -> Any:
    mask = pc.match_substring(array, "\\").fill_null(False)
    if not pc.any(mask).as_py():
        return array
    values = [unescape(value) for value in array.filter(mask).to_pylist()]
    return pc.replace_with_mask(array, mask, pa.array(values, pa.string()))


def _storage(array: Any, sql_type: SqlType, parse: Callable[[str], Any]) -> Any:
    """Return the column in its storage type, with what PostgreSQL's input function would have checked or changed."""
    oid = sql_type.oid
    if oid in _INTEGERS or oid == Oid.BOOL or oid in (Oid.TEXT, Oid.UNKNOWN):
        return array
    if oid in _FLOATS:
        if pc.any(pc.is_inf(array)).as_py():
            raise Doubtful
        return array
    if oid == Oid.DATE:
        if (pc.min(array.view(pa.int32())).as_py() or 0) < _FIRST_DAY:
            raise Doubtful
        return array
    if oid in (Oid.VARCHAR, Oid.BPCHAR):
        return _limited(array, sql_type)
    if pa.types.is_decimal(array.type):
        return _in_precision(array)
    if oid == Oid.UUID and _all_match(array, _PLAIN_UUID):
        return array
    if oid == Oid.NUMERIC and pa.types.is_string(arrow_type(sql_type)) and _all_match(array, _PLAIN_NUMERIC):
        return array
    if oid == Oid.TIMESTAMP and sql_type.modifier < 0 and _all_match(array, _PLAIN_TIMESTAMP):
        return array.cast(pa.timestamp("us"))
    values = [None if value is None else parse(value) for value in array.to_pylist()]
    return storage_column(values, sql_type)


def _all_match(array: Any, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(array, pattern)).as_py() is not False


def _limited(array: Any, sql_type: SqlType) -> Any:
    length = sql_type.length
    if length is None:
        return array
    if (pc.max(pc.utf8_length(array)).as_py() or 0) > length:
        raise Doubtful  # spaces past the end are cut, anything else is an error
    return pc.utf8_rpad(array, length) if sql_type.oid == Oid.BPCHAR else array


def _in_precision(array: Any) -> Any:
    # The reader checks the digits as written, not as scaled: 1234.5 passes for decimal(5, 2).
    ends = pc.min_max(array).as_py()
    bound = 10 ** (array.type.precision - array.type.scale)
    if any(end is not None and abs(end) >= bound for end in ends.values()):
        raise Doubtful
    return array


# -- encoding -----------------------------------------------------------------------------------------------


def _encode(batch: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_IPC_OPTIONS) as writer:
        writer.write_batch(batch)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def encode_pieces(batch: Any) -> list[bytes]:
    """Return the batch as zstd-compressed Arrow IPC streams of at most COPY_PIECE_BYTES each.

    Raises OrbitError 54000 for a single row that does not fit.
    """
    pieces: list[bytes] = []
    at, rows = 0, batch.num_rows
    size = max(batch.nbytes, 1)
    # Compressed data is smaller, but how much so is known only from the piece before.
    step = max(1, rows * COPY_PIECE_BYTES // size)
    while at < rows:
        encoded = _encode(batch.slice(at, step))
        if len(encoded) > COPY_PIECE_BYTES:
            if step == 1:
                raise OrbitError(
                    f"row is too large: {len(encoded)} bytes, compressed, exceed {COPY_PIECE_BYTES}", sqlstate="54000"
                )
            step = max(1, step * COPY_PIECE_BYTES * 9 // (10 * len(encoded)))
            continue
        pieces.append(encoded)
        at += step
        step = max(1, min(step * COPY_PIECE_BYTES * 9 // (10 * len(encoded)), step * 4))
    return pieces
