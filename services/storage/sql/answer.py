"""Answers as PostgreSQL backend messages: RowDescription, DataRow, CommandComplete.

Owns the encoding of rows that are Python values, one generated function per result shape, because every point read
goes through it. Arrow results are encoded in bulk by `orbit.kernel.values`.

    RowDescription  'T' int32 length, int16 fields, per field: name NUL, int32 table, int16 column, int32 type,
                    int16 size, int32 modifier, int16 format
    DataRow         'D' int32 length, int16 fields, per field: int32 length or -1 for NULL, bytes
    CommandComplete 'C' int32 length, tag NUL
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import tzinfo
from functools import lru_cache
from typing import Any

from orbit.kernel.errors import NotSupported
from orbit.kernel.records import Row
from orbit.kernel.types import SqlType, type_size
from orbit.kernel.values import format_binary, format_text
from services.storage.client import ColumnDescription
from services.storage.sql.bind.type_catalog import ELEMENT_OF, REG_TYPES, VOID, display_name
from services.storage.sql.scan.results import encoding_types

EncodeRow = Callable[[Row], bytes]
TEXT_ONLY = frozenset((*REG_TYPES, *ELEMENT_OF, VOID))
"""Result types that arrive here as their text: arrays, reg*, void."""


def encodable_types(columns: Sequence[ColumnDescription], formats: Sequence[int]) -> list[SqlType]:
    """Return the types to encode result columns as. Raises 0A000 for a type that has no binary form here."""
    for at, column in enumerate(columns):
        if column.type.oid in TEXT_ONLY and _format_at(formats, at) and column.type.oid != VOID:
            raise NotSupported(f"binary output of type {display_name(column.type)} is not supported")
    return encoding_types(columns)


def command_complete(tag: str) -> bytes:
    body = tag.encode() + b"\0"
    return struct.pack(">cI", b"C", 4 + len(body)) + body


def row_description(columns: Sequence[ColumnDescription], formats: Sequence[int] = ()) -> bytes:
    """Return the RowDescription. `formats` are empty (all text), one for all, or one each."""
    parts = [struct.pack(">H", len(columns))]
    for at, column in enumerate(columns):
        parts.append(column.name.encode() + b"\0")
        parts.append(
            struct.pack(
                ">IHIhiH",
                column.table_oid,
                column.column_number,
                column.type.oid,
                type_size(column.type.oid),
                column.type.modifier,
                _format_at(formats, at),
            )
        )
    body = b"".join(parts)
    return struct.pack(">cI", b"T", 4 + len(body)) + body


def row_encoder(columns: Sequence[ColumnDescription], formats: Sequence[int], zone: tzinfo) -> EncodeRow:
    """Return a function from a row of values to its DataRow message."""
    oids = tuple([column.type.oid for column in columns])
    if not TEXT_ONLY.isdisjoint(oids):
        oids = tuple(kind.oid for kind in encodable_types(columns, formats))
    return _row_encoder(oids, tuple(formats), zone)


@lru_cache(maxsize=4096)
def _row_encoder(oids: tuple[int, ...], formats: tuple[int, ...], zone: tzinfo) -> EncodeRow:
    scope: dict[str, Any] = {"length": struct.Struct(">I").pack, "NULL": b"\xff\xff\xff\xff"}
    for at, oid in enumerate(oids):
        scope[f"format{at}"] = format_binary(oid) if _format_at(formats, at) else format_text(oid, zone)
    lines = ["def encode(row):"]
    if oids:
        lines.append("    " + "".join(f"v{at}, " for at in range(len(oids))) + "= row")
    for at in range(len(oids)):
        lines.append(f"    if v{at} is None: v{at} = NULL")
        lines.append(f"    else: v{at} = format{at}(v{at}); v{at} = length(len(v{at})) + v{at}")
    body = " + ".join(f"v{at}" for at in range(len(oids))) or "b''"
    lines.append(f"    body = {body}")
    lines.append("    return head(b'D', 6 + len(body), fields) + body")
    scope["head"] = struct.Struct(">cIH").pack
    scope["fields"] = len(oids)
    exec("\n".join(lines), scope)  # noqa: S102 - the source is made of positions only
    encode: EncodeRow = scope["encode"]
    return encode


def _format_at(formats: Sequence[int], at: int) -> int:
    if not formats:
        return 0
    return formats[0] if len(formats) == 1 else formats[at]
