"""Arrow batches to COPY TO STDOUT messages: PostgreSQL's text and CSV formats, one CopyData a row.

Owns the encoding and the frames around it; an answer to COPY TO is `copy_out_response`, CopyData .., `COPY_DONE`
and a CommandComplete.

    CopyOutResponse  | 'H' | int32 length | int8 0 (text) | int16 columns | columns x int16 0 |
    CopyData         | 'd' | int32 length | a row and its newline                            |
    CopyDone         | 'c' | int32 4      |
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values.columns import text_column
from orbit.kernel.values.data_rows import ROWS_AT_ONCE, fixed_width

COPY_DONE = b"c\0\0\0\4"

_ESCAPES = (("\\", "\\\\"), ("\b", "\\b"), ("\f", "\\f"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\v", "\\v"))
_FREE_TEXT = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR, Oid.UNKNOWN, Oid.JSON, Oid.JSONB))


@dataclass(frozen=True, slots=True)
class CopyStyle:
    """How COPY writes a row. `null` is what stands for NULL; `quote` and `escape` are CSV's."""

    csv: bool = False
    delimiter: str = "\t"
    null: str = "\\N"
    quote: str = '"'
    escape: str = '"'


def copy_out_response(columns: int) -> bytes:
    return struct.pack(f">cIbH{columns}H", b"H", 7 + 2 * columns, 0, columns, *(0,) * columns)


def copy_header(names: Sequence[str], style: CopyStyle) -> bytes:
    """Return the HEADER line as one CopyData message."""
    row = pa.record_batch([pa.array([name]) for name in names], names=[str(at) for at in range(len(names))])
    return encode_copy_rows(row, [SqlType(Oid.TEXT)] * len(names), style)


def _escaped(text: Any, delimiter: str) -> Any:
    """Backslash what COPY's text format cannot hold as it is."""
    if not pc.any(pc.match_substring_regex(text, f"[\\x08-\\x0d\\\\{re.escape(delimiter)}]")).as_py():
        return text
    for plain, escaped in _ESCAPES:
        text = pc.replace_substring(text, plain, escaped)
    if delimiter not in "\b\f\n\r\t\v\\":
        text = pc.replace_substring(text, delimiter, "\\" + delimiter)
    return text


def _quoted(text: Any, style: CopyStyle, alone: bool) -> Any:
    """Quote the values that CSV needs quoted: special characters, what looks like NULL, and `\\.` in one column."""
    special = re.escape(style.delimiter) + re.escape(style.quote) + "\\n\\r"
    pattern = f"[{special}]|^{re.escape(style.null)}$" + ("|^\\\\\\.$" if alone else "")
    wrong = pc.match_substring_regex(text, pattern)
    if not pc.any(wrong).as_py():
        return text
    inner = text
    if style.escape != style.quote:
        inner = pc.replace_substring(inner, style.escape, style.escape * 2)
    inner = pc.replace_substring(inner, style.quote, style.escape + style.quote)
    return pc.if_else(wrong, pc.binary_join_element_wise(style.quote, inner, style.quote, ""), text)


def _needs_care(oid: int, delimiter: str) -> bool:
    """Return whether a type's text may hold a special character: always for free text, else by the delimiter."""
    return oid in _FREE_TEXT or oid == Oid.BYTEA or delimiter not in "\t|;,\x01" or oid == Oid.INTERVAL


def _joined(arrays: Sequence[Any], types: Sequence[SqlType], style: CopyStyle, zone: tzinfo) -> bytes:
    texts: list[Any] = []
    for array, sql_type in zip(arrays, types, strict=True):
        text = text_column(array, sql_type.oid, zone)
        if style.csv:
            text = _quoted(text, style, len(arrays) == 1)
        elif _needs_care(sql_type.oid, style.delimiter):
            text = _escaped(text, style.delimiter)
        texts.append(text)
    lines = pc.binary_join_element_wise(*texts, style.delimiter, null_handling="replace", null_replacement=style.null)
    lines = lines.cast(pa.binary())
    sizes = pc.binary_length(lines).to_numpy().astype(np.int64) + 5
    head = np.empty((len(lines), 5), np.uint8)
    head[:, 0] = 0x64
    head[:, 1:] = sizes.astype(">u4").view(np.uint8).reshape(-1, 4)
    joined = pc.binary_join_element_wise(fixed_width(head), lines, b"\n", b"")
    return memoryview(joined.buffers()[2])[: int(sizes.sum()) + len(lines)].tobytes()


def encode_copy_rows(batch: pa.RecordBatch, types: Sequence[SqlType], style: CopyStyle, zone: tzinfo = UTC) -> bytes:
    """Return the batch as CopyData messages, one for each row."""
    if not types:
        return b"d\0\0\0\5\n" * int(batch.num_rows)
    return b"".join(
        [
            _joined([column.slice(at, ROWS_AT_ONCE) for column in batch.columns], types, style, zone)
            for at in range(0, batch.num_rows, ROWS_AT_ONCE)
        ]
    )
