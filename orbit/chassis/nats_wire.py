"""The NATS client protocol: bytes to frames and frames to bytes. No IO, no await.

Owns the framing alone; `orbit.chassis.nats` owns connections.

    server to client                                            client to server
    INFO {json}                                                 CONNECT {json}
    MSG  subject sid [reply] size CRLF payload                  PUB  subject [reply] size CRLF payload
    HMSG subject sid [reply] header-size total CRLF h payload   HPUB subject [reply] header-size total CRLF h payload
    PING   PONG   +OK   -ERR 'text'                             SUB subject [queue] sid   UNSUB sid   PING   PONG

Every line and every payload ends with CRLF. Headers are `NATS/1.0[ status text]`, `Name: value` lines, an empty line.
"""

from __future__ import annotations

from typing import Final

MAX_LINE_BYTES: Final = 1 << 20
"""INFO of a large cluster is the longest line; more than this is not NATS."""
COPY_LIMIT_BYTES: Final = 1 << 14
"""Smaller payloads are joined with their header line; larger ones are handed on as they are."""

PING: Final = b"PING\r\n"
PONG: Final = b"PONG\r\n"
NO_HEADERS: Final = b""

Message = tuple[bytes, bytes, bytes, bytes, bytes]
"""(sid, subject, reply, headers, data); reply and headers are empty where there are none."""
Frame = Message | bytes
"""A message, or the line of any other operation."""

_H: Final = 0x48
_MESSAGES: Final = b"HM"


class ProtocolViolation(Exception):
    """The other side does not speak NATS."""


class Parser:
    """Cuts a byte stream into frames. A message is handed out once it is whole."""

    __slots__ = ("_chunks", "_missing")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises ProtocolViolation."""
        chunks = self._chunks
        if chunks:
            chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:  # do not join megabytes again for each piece
                return []
            data = b"".join(chunks)
            chunks.clear()
        frames: list[Frame] = []
        at, length, missing = 0, len(data), 0
        while (end := data.find(b"\r\n", at)) >= 0:
            operation = data[at]
            if operation in _MESSAGES:
                words = data[at:end].split()
                try:
                    start = end + 2
                    stop = start + int(words[-1])
                    if stop + 2 > length:
                        missing = stop + 2 - length
                        break
                    if operation == _H:
                        _, subject, sid, *reply, header_size, _ = words
                        body = start + int(header_size)
                        frames.append((sid, subject, reply[0] if reply else b"", data[start:body], data[body:stop]))
                    else:
                        _, subject, sid, *reply, _ = words
                        frames.append((sid, subject, reply[0] if reply else b"", NO_HEADERS, data[start:stop]))
                except (ValueError, IndexError) as error:
                    raise ProtocolViolation(f"bad message line {data[at:end][:100]!r}") from error
                at = stop + 2
            else:
                frames.append(data[at:end])
                at = end + 2
        if at < length:
            if not missing and length - at > MAX_LINE_BYTES:
                raise ProtocolViolation(f"a line longer than {MAX_LINE_BYTES} bytes")
            chunks.append(data[at:] if at else data)
        self._missing = missing
        return frames


def publish(subject: bytes, payload: bytes, reply: bytes, headers: bytes) -> bytes:
    """Return one PUB or HPUB, whole."""
    return b"%b%b\r\n" % (publish_head(subject, len(payload), reply, headers), payload)


def publish_head(subject: bytes, size: int, reply: bytes, headers: bytes) -> bytes:
    """Return what goes before the payload and its CRLF."""
    if headers:
        return b"HPUB %b %b %d %d\r\n%b" % (subject, reply, len(headers), len(headers) + size, headers)
    return b"PUB %b %b %d\r\n" % (subject, reply, size)


def header_block(headers: dict[str, str]) -> bytes:
    """Return a header block of these fields. Raises ValueError for a name or value that would break the frame."""
    lines = ["NATS/1.0"]
    for name, value in headers.items():
        if not name or any(c in name for c in ":\r\n ") or "\r" in value or "\n" in value:
            raise ValueError(f"not a NATS header: {name!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode()


def parse_status(headers: bytes) -> tuple[int, str]:
    """Return the status and its text of a header block, (0, '') for one without: `NATS/1.0 503 No Responders`."""
    words = headers[: headers.find(b"\r\n")].split(None, 2)
    if len(words) < 2:
        return 0, ""
    return int(words[1]), words[2].decode() if len(words) > 2 else ""


def parse_headers(headers: bytes) -> dict[str, str]:
    """Return the fields of a header block; the last of several of one name."""
    fields: dict[str, str] = {}
    for line in headers.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields[name.decode()] = value.strip().decode()
    return fields
