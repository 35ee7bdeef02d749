"""Reads a storage session's answer: PostgreSQL backend messages to rows of bytes.

Owns decoding for the doors that do not speak PostgreSQL. It knows the three messages that an answer of
`Session.execute` is made of, and refuses any other.

    DataRow          | 'D' | int32 length | int16 columns | columns x (int32 length or -1, bytes) |
    CommandComplete  | 'C' | int32 length | tag, zero byte                                       |
    EmptyQuery       | 'I' | int32 4                                                             |

Source: https://www.postgresql.org/docs/15/protocol-message-formats.html
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from orbit.kernel.errors import NotSupported

Row = tuple[bytes | None, ...]

_DATA_ROW: Final = 0x44
_COMMAND_COMPLETE: Final = 0x43
_EMPTY_QUERY: Final = 0x49
_ROW_HEAD: Final = Struct(">BIh").unpack_from
_LENGTH: Final = Struct(">i").unpack_from


def decode(messages: bytes) -> tuple[list[Row], bytes]:
    """Return the rows, and the command tag (b'' when the messages are a part of an answer, or an empty query).

    Raises NotSupported for a message that no plain statement answers with, such as COPY's.
    """
    rows: list[Row] = []
    tag = b""
    at = 0
    end = len(messages)
    while at < end:
        kind = messages[at]
        if kind == _DATA_ROW:
            _, length, count = _ROW_HEAD(messages, at)
            value_at = at + 7
            row: list[bytes | None] = []
            for _ in range(count):
                (size,) = _LENGTH(messages, value_at)
                value_at += 4
                if size < 0:
                    row.append(None)
                else:
                    row.append(messages[value_at : value_at + size])
                    value_at += size
            rows.append(tuple(row))
        else:
            length = int.from_bytes(messages[at + 1 : at + 5], "big")
            if kind == _COMMAND_COMPLETE:
                tag = messages[at + 5 : at + length]
            elif kind != _EMPTY_QUERY:
                raise NotSupported(f"an answer with message {chr(kind)!r} over this protocol")
        at += 1 + length
    return rows, tag


def row_count(tag: bytes) -> int:
    """Return the number of rows in a command tag such as `INSERT 0 5`; 0 for a tag without one."""
    last = tag.rpartition(b" ")[2]
    return int(last) if last.isdigit() else 0


def check_form(messages: bytes) -> None:
    """Raise NotSupported when the answer does not begin as a plain statement's does."""
    if messages and messages[0] not in (_DATA_ROW, _COMMAND_COMPLETE, _EMPTY_QUERY):
        raise NotSupported(f"an answer with message {chr(messages[0])!r} over this protocol")


def tag_of(messages: bytes) -> bytes:
    """Return the command tag of a whole answer, without decoding its rows."""
    at = 0
    while at < len(messages):
        length = int.from_bytes(messages[at + 1 : at + 5], "big")
        if messages[at] == _COMMAND_COMPLETE:
            return messages[at + 5 : at + length]
        at += 1 + length
    return b""
