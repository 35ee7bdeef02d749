"""Frames of the session stream: many small messages of many sessions in one msgpack bytes field.

Owns their shape. A frame is (acknowledges, messages): `acknowledges` says that the other side's last frame has been
taken in, so it may send its next one; each side has one frame on its way at a time, and what becomes ready meanwhile
travels together in the next.

    gateway to storage   (session, op, ..)        storage to gateway   (session, event, status, ..)
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from orbit.kernel.errors import NotLeader, NotSupported, OrbitError


class Op(IntEnum):
    """Requests. Arguments follow the session's number."""

    OPEN = 0
    PREPARE = 1
    EXECUTE = 2
    SYNC = 3
    SIMPLE = 4
    COPY_BATCH = 5
    COPY_DONE = 6
    COPY_FAIL = 7
    FAIL = 8
    HOLD_ROWS = 9
    CANCEL = 10
    CLOSE = 11
    FORGET = 12
    TRACE = 13


class Event(IntEnum):
    """Answers and what comes by itself."""

    REPLIED = 0
    PREPARED = 1
    FAILED = 2
    ROWS = 3
    COPY_IN = 4
    PARAMETER = 5
    NOTICE = 6
    TERMINATED = 7
    SETTINGS = 8


Message = tuple[Any, ...]

encode_frame = msgspec.msgpack.Encoder().encode
decode_frame = msgspec.msgpack.Decoder(tuple[bool, list[list[Any]]]).decode

_FIELDS = (
    "message",
    "sqlstate",
    "detail",
    "hint",
    "position",
    "schema",
    "table",
    "column",
    "constraint",
    "context",
    "severity",
)
_KINDS: dict[str, type[OrbitError]] = {"NotLeader": NotLeader, "NotSupported": NotSupported}


def pack_error(error: OrbitError) -> list[Any]:
    """Return an error as its kind and fields."""
    return [type(error).__name__, *(getattr(error, name) for name in _FIELDS)]


def unpack_error(packed: list[Any]) -> OrbitError:
    fields = dict(zip(_FIELDS, packed[1:], strict=True))
    kind = _KINDS.get(packed[0], OrbitError)
    return kind(fields.pop("message"), **fields)
