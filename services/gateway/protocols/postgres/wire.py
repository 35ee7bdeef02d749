"""PostgreSQL's frontend/backend protocol 3: bytes to messages and back. No IO, no await, no state.

    first packet   | int32 length | int32 code, body                         |   code: 3.x, or a request code
    message        | type | int32 length (of itself and the body) | body     |

    Bind      'B'  | portal\\0 | statement\\0 | int16 n, n formats | int16 n, n x (int32 length or -1, bytes) |
                   | int16 n, n result formats |
    Parse     'P'  | statement\\0 | query\\0 | int16 n, n type OIDs |
    Execute   'E'  | portal\\0 | int32 maximum of rows, 0 for all |
    Describe  'D', Close 'C'   | 'S' or 'P' | name\\0 |

Parsers take a buffer and the body's bounds in it, and raise ProtocolViolation (08P01) for whatever does not fit.
Source: https://www.postgresql.org/docs/15/protocol-message-formats.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct, error, pack, unpack_from
from typing import Final

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import type_size
from orbit.kernel.values.strings import decode_text
from services.storage.client import FAILED, IDLE, IN_TRANSACTION, ColumnDescription


class ProtocolViolation(OrbitError):
    """Bytes that the protocol does not allow. Severity FATAL when the stream cannot be followed any further."""

    default_sqlstate = "08P01"


PROTOCOL_3_0: Final = 3 << 16
PROTOCOL_3_2: Final = PROTOCOL_3_0 | 2
SSL_REQUEST: Final = 80877103
GSS_REQUEST: Final = 80877104
CANCEL_REQUEST: Final = 80877102

NO_ENCRYPTION: Final = b"N"
ENCRYPTION: Final = b"S"
PARSE_COMPLETE: Final = b"1\0\0\0\4"
BIND_COMPLETE: Final = b"2\0\0\0\4"
CLOSE_COMPLETE: Final = b"3\0\0\0\4"
NO_DATA: Final = b"n\0\0\0\4"
EMPTY_QUERY: Final = b"I\0\0\0\4"
PORTAL_SUSPENDED: Final = b"s\0\0\0\4"
AUTHENTICATION_OK: Final = b"R\0\0\0\x08\0\0\0\0"
READY: Final = {status: b"Z\0\0\0\5%c" % status for status in (IDLE, IN_TRANSACTION, FAILED)}
SYNC: Final = b"S\0\0\0\4"

int16_at: Final = Struct(">h").unpack_from
int32_at: Final = Struct(">i").unpack_from
uint32_at: Final = Struct(">I").unpack_from

_MALFORMED = "invalid message format"


def message(kind: bytes, body: bytes) -> bytes:
    """Return a whole message."""
    return kind + pack(">I", len(body) + 4) + body


# -- start-up -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Startup:
    """A start-up message: the protocol asked for, and the parameters."""

    protocol: int
    parameters: Mapping[str, str]


def parse_startup(protocol: int, body: bytes) -> Startup:
    """Read a start-up message's body, after the version."""
    words = body.split(b"\0")
    if len(words) < 2 or words[-1] or words[-2] or len(words) % 2:
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte", severity="FATAL")
    text = [decode_text(word) for word in words[:-2]]
    names = text[::2]
    if len(set(names)) != len(names) or "" in names:
        raise ProtocolViolation("invalid startup packet layout: names must be given once", severity="FATAL")
    return Startup(protocol, dict(zip(names, text[1::2], strict=True)))


def startup_options(options: str) -> dict[str, str]:
    """Return the settings of a start-up `options` value: '-c name=value' and '--name=value', backslash escapes."""
    words: list[str] = []
    word, escaped, open_ = "", False, False
    for character in options:
        if escaped or (character != "\\" and not character.isspace()):
            word, escaped, open_ = word + character, False, True
        elif character == "\\":
            escaped = True
        elif open_:
            words.append(word)
            word, open_ = "", False
    if open_:
        words.append(word)
    settings: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        pair = next(rest, "") if word == "-c" else word.removeprefix("--") if word.startswith("--") else word[2:]
        name, equals, value = pair.partition("=")
        if not word.startswith(("-c", "--")) or not equals or not name:
            raise OrbitError(f"invalid command-line argument for server process: {word}", sqlstate="42601")
        settings[name.replace("-", "_")] = value
    return settings


def negotiate_version(newest: int, unknown_options: Sequence[str]) -> bytes:
    """NegotiateProtocolVersion: the newest version that is spoken, and options that are not known."""
    names = b"".join(option.encode() + b"\0" for option in unknown_options)
    return message(b"v", pack(">II", newest, len(unknown_options)) + names)


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    return message(b"R", pack(">I", 10) + b"".join(name.encode() + b"\0" for name in mechanisms) + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return message(b"R", pack(">I", 11) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    return message(b"R", pack(">I", 12) + data)


def parse_sasl_initial(buffer: bytes, at: int, end: int) -> tuple[str, bytes]:
    """Return (mechanism, the client's first SCRAM message)."""
    name, at = _name(buffer, at, end)
    if end - at < 4:
        raise ProtocolViolation(_MALFORMED)
    (length,) = int32_at(buffer, at)
    at += 4
    if length < 0 or at + length != end:
        raise ProtocolViolation(_MALFORMED)
    return decode_text(name), buffer[at:end]


def parameter_status(name: str, value: str) -> bytes:
    return message(b"S", _text(name) + _text(value))


def backend_key(process: int, secret: bytes) -> bytes:
    return message(b"K", pack(">I", process) + secret)


# -- requests -----------------------------------------------------------------------------------------------


def _name(buffer: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Return a zero-terminated string and the position behind it."""
    stop = buffer.find(b"\0", at, end)
    if stop < 0:
        raise ProtocolViolation("invalid string in message")
    return buffer[at:stop], stop + 1


def parse_query(buffer: bytes, at: int, end: int) -> str:
    query, behind = _name(buffer, at, end)
    if behind != end:
        raise ProtocolViolation(_MALFORMED)
    return decode_text(query)


def parse_parse(buffer: bytes, at: int, end: int) -> tuple[bytes, str, tuple[int, ...]]:
    """Return (statement name, query, parameter type OIDs)."""
    name, at = _name(buffer, at, end)
    query, at = _name(buffer, at, end)
    if end - at < 2:
        raise ProtocolViolation(_MALFORMED)
    (count,) = int16_at(buffer, at)
    if count < 0 or at + 2 + 4 * count != end:
        raise ProtocolViolation(_MALFORMED)
    return name, decode_text(query), unpack_from(f">{count}I", buffer, at + 2)


Bound = tuple[bytes, bytes, tuple[int, ...], list[bytes | None], tuple[int, ...]]
"""(portal, statement, parameter formats, parameters, result formats)"""


def parse_bind(buffer: bytes, at: int, end: int) -> Bound:
    # One pass without checks: the buffer may hold more messages behind this one, so that a length that lies can
    # read into those, but then the position at the end is not `end`.
    try:
        stop = buffer.index(b"\0", at, end)
        portal = buffer[at:stop]
        at = stop + 1
        stop = buffer.index(b"\0", at, end)
        statement = buffer[at:stop]
        at = stop + 1
        (count,) = int16_at(buffer, at)
        at += 2
        formats: tuple[int, ...] = ()
        if count:
            formats = unpack_from(f">{count}h", buffer, at)
            at += 2 * count
        (count,) = int16_at(buffer, at)
        at += 2
        parameters: list[bytes | None] = []
        for _ in range(count):
            (size,) = int32_at(buffer, at)
            at += 4
            if size >= 0:
                parameters.append(buffer[at : at + size])
                at += size
            elif size == -1:
                parameters.append(None)
            else:
                raise ProtocolViolation(_MALFORMED)
        (count,) = int16_at(buffer, at)
        at += 2
        result_formats: tuple[int, ...] = ()
        if count:
            result_formats = unpack_from(f">{count}h", buffer, at)
            at += 2 * count
    except (ValueError, error):
        raise ProtocolViolation(_MALFORMED) from None
    if at != end:
        raise ProtocolViolation(_MALFORMED)
    return portal, statement, formats, parameters, result_formats


_ALL_OF_UNNAMED: Final = b"\0\0\0\0\0"


def parse_execute(buffer: bytes, at: int, end: int) -> tuple[bytes, int]:
    """Return (portal, maximum of rows; 0 for all)."""
    if buffer[at:end] == _ALL_OF_UNNAMED:
        return b"", 0
    name, at = _name(buffer, at, end)
    if at + 4 != end:
        raise ProtocolViolation(_MALFORMED)
    (maximum,) = int32_at(buffer, at)
    return name, max(maximum, 0)


def parse_target(buffer: bytes, at: int, end: int) -> tuple[bool, bytes]:
    """Read Describe's or Close's body: (whether a portal is meant, its name)."""
    if buffer[at:end] == b"P\0":
        return True, b""
    kind = buffer[at : at + 1] if at < end else b""
    name, behind = _name(buffer, at + 1, end)
    if behind != end or kind not in (b"S", b"P"):
        raise ProtocolViolation(_MALFORMED)
    return kind == b"P", name


# -- answers ------------------------------------------------------------------------------------------------


def _text(value: str) -> bytes:
    return value.replace("\0", "").encode("utf-8", "replace") + b"\0"


def parameter_description(oids: Sequence[int]) -> bytes:
    return message(b"t", pack(f">H{len(oids)}I", len(oids), *oids))


def row_description(columns: Sequence[ColumnDescription], formats: Sequence[int]) -> bytes:
    """RowDescription; `formats` has one entry a column."""
    parts = [pack(">H", len(columns))]
    for column, wire_format in zip(columns, formats, strict=True):
        oid, modifier = column.type.oid, column.type.modifier
        place = pack(">IhIhih", column.table_oid, column.column_number, oid, type_size(oid), modifier, wire_format)
        parts += [_text(column.name), place]
    return message(b"T", b"".join(parts))


def error_fields(problem: OrbitError) -> bytes:
    """Return the fields of an ErrorResponse or NoticeResponse."""
    parts = [b"S", _text(problem.severity), b"V", _text(problem.severity)]
    parts += [b"C", _text(problem.sqlstate), b"M", _text(problem.message)]
    for code, value in (
        (b"D", problem.detail),
        (b"H", problem.hint),
        (b"P", None if problem.position is None else str(problem.position)),
        (b"W", problem.context),
        (b"s", problem.schema),
        (b"t", problem.table),
        (b"c", problem.column),
        (b"n", problem.constraint),
    ):
        if value is not None:
            parts += [code, _text(value)]
    parts.append(b"\0")
    return b"".join(parts)


def error_response(problem: OrbitError) -> bytes:
    return message(b"E", error_fields(problem))


def notice_response(problem: OrbitError) -> bytes:
    return message(b"N", error_fields(problem))


def command_complete(tag: str) -> bytes:
    return message(b"C", _text(tag))


def copy_in_response(columns: int) -> bytes:
    """CopyInResponse: text, for all columns."""
    return message(b"G", pack(f">bH{columns}H", 0, columns, *(0,) * columns))


def take_rows(answer: bytes, at: int, maximum: int) -> int:
    """Return the position behind at most `maximum` DataRow messages from `at` on; -1 takes all."""
    end = len(answer)
    while maximum and at < end and answer[at] == 0x44:
        at += 1 + uint32_at(answer, at + 1)[0]
        maximum -= 1
    return at


def count_rows(answer: bytes) -> int:
    """Return the number of DataRow messages at the beginning of an answer."""
    at, end, rows = 0, len(answer), 0
    while at < end and answer[at] == 0x44:
        at += 1 + uint32_at(answer, at + 1)[0]
        rows += 1
    return rows
