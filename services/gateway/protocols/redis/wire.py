"""The Redis protocol's bytes: requests in, replies out. RESP2, and RESP3 where a reply differs.

Owns the codec and nothing else: no IO, no await, no knowledge of commands.

A request is an array of bulk strings, or one line of words (an inline command):

    *<count>\\r\\n  then count times  $<length>\\r\\n<length bytes>\\r\\n
    word "quoted word" 'quoted word'\\r\\n

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from services.gateway.protocols.redis.limits import RedisLimits

CRLF: Final = b"\r\n"
_ASTERISK: Final = 0x2A
_DOLLAR: Final = 0x24


class ProtocolError(Exception):
    """The bytes are no request. The connection must end after the error reply."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestParser:
    """Turns received bytes into commands, one at a time, so that AUTH can change what the next may cost."""

    __slots__ = (
        "_at",
        "_chunks",
        "_chunks_bytes",
        "_command_bytes",
        "_data",
        "_left",
        "_limits",
        "_need",
        "_words",
        "authenticated",
    )

    def __init__(self, limits: RedisLimits) -> None:
        self._limits = limits
        self._data = b""
        self._at = 0
        self._chunks: list[bytes] = []
        self._chunks_bytes = 0
        self._need = 0
        """Bytes from `_at` without which nothing more can be parsed; 0 when unknown."""
        self._words: list[bytes] = []
        self._left = 0
        """Arguments of the command in `_words` that are still to come."""
        self._command_bytes = 0
        self.authenticated = False

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet parsed."""
        return len(self._data) - self._at + self._chunks_bytes

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._at == len(self._data) and not self._chunks:
            self._data = data
            self._at = 0
        else:
            self._chunks.append(data)
            self._chunks_bytes += len(data)

    def next(self) -> list[bytes] | None:
        """Return the next command's words (at least one), or None when more bytes are needed.

        Raises ProtocolError; the parser is then of no more use.
        """
        if self._chunks:
            if self.buffered_bytes < self._need:
                return None
            self._data = b"".join((self._data[self._at :], *self._chunks))
            self._at = 0
            self._chunks.clear()
            self._chunks_bytes = 0
        self._need = 0
        data = self._data
        while self._left == 0:
            if self._at == len(data):
                return None
            if data[self._at] != _ASTERISK:
                words = self._inline()
                if words is None or words:
                    return words
            elif not self._array_header():
                return None
        return self._arguments()

    def _array_header(self) -> bool:
        data = self._data
        end = data.find(CRLF, self._at)
        if end < 0:
            if len(data) - self._at > self._limits.max_inline_bytes:
                raise ProtocolError("too big mbulk count string")
            return False
        count = _parse_integer(data[self._at + 1 : end])
        if count is None or count > self._limits.max_arguments:
            raise ProtocolError("invalid multibulk length")
        if count > self._limits.max_arguments_before_auth and not self.authenticated:
            raise ProtocolError("unauthenticated multibulk length")
        self._at = end + 2
        if count > 0:
            self._left = count
            self._words = []
            self._command_bytes = 0
        return True

    def _arguments(self) -> list[bytes] | None:
        data = self._data
        size = len(data)
        at = self._at
        left = self._left
        words = self._words
        limits = self._limits
        max_bulk = limits.max_bulk_bytes if self.authenticated else limits.max_bulk_bytes_before_auth
        while left:
            end = data.find(CRLF, at)
            if end < 0:
                if size - at > limits.max_inline_bytes:
                    raise ProtocolError("too big bulk count string")
                break
            if data[at] != _DOLLAR:
                raise ProtocolError(f"expected '$', got '{chr(data[at])}'")
            digits = data[at + 1 : end]
            length = int(digits) if digits.isdigit() and len(digits) < 12 else -1
            if not 0 <= length <= max_bulk:
                if 0 <= length <= limits.max_bulk_bytes:
                    raise ProtocolError("unauthenticated bulk length")
                raise ProtocolError("invalid bulk length")
            start = end + 2
            stop = start + length
            if stop + 2 > size:
                self._need = stop + 2 - at
                break
            if data[stop : stop + 2] != CRLF:
                raise ProtocolError("expected CRLF after a bulk string")
            words.append(data[start:stop])
            at = stop + 2
            left -= 1
            self._command_bytes += length
            if self._command_bytes > limits.max_command_bytes:
                raise ProtocolError("command is too big")
        self._at = at
        self._left = left
        return None if left else words

    def _inline(self) -> list[bytes] | None:
        """Return the words of one line; empty for an empty line, None when the line is not complete."""
        data = self._data
        end = data.find(b"\n", self._at)
        length = (len(data) if end < 0 else end) - self._at
        if length > self._limits.max_inline_bytes:
            raise ProtocolError("too big inline request")
        if end < 0:
            return None
        line = data[self._at : end].removesuffix(b"\r")
        self._at = end + 1
        words = split_words(line)
        if words is None:
            raise ProtocolError("unbalanced quotes in request")
        return words


_WHITESPACE: Final = b" \t\n\v\f\r\0"
_ESCAPES: Final = {ord("n"): b"\n", ord("r"): b"\r", ord("t"): b"\t", ord("b"): b"\b", ord("a"): b"\a"}


def split_words(line: bytes) -> list[bytes] | None:
    """Return an inline command's words, or None when its quotes are not balanced."""
    words: list[bytes] = []
    at = 0
    size = len(line)
    while True:
        while at < size and line[at] in _WHITESPACE:
            at += 1
        if at == size:
            return words
        word = bytearray()
        while at < size and line[at] not in _WHITESPACE:
            if line[at] in b"\"'":
                closed = _quoted(line, at, word)
                if closed is None:
                    return None
                at = closed
                if at < size and line[at] not in _WHITESPACE:
                    return None
            else:
                word.append(line[at])
                at += 1
        words.append(bytes(word))


def _quoted(line: bytes, at: int, word: bytearray) -> int | None:
    """Append the quoted text that opens at `at`; return the position behind its closing quote."""
    quote = line[at]
    at += 1
    while at < len(line):
        char = line[at]
        if char == quote:
            return at + 1
        if char == 0x5C and at + 1 < len(line):  # backslash
            after = line[at + 1]
            if quote == 0x22:
                digits = line[at + 2 : at + 4]
                if after == 0x78 and len(digits) == 2 and all(d in b"0123456789abcdefABCDEF" for d in digits):
                    word.append(int(digits, 16))
                    at += 4
                else:
                    word += _ESCAPES.get(after, bytes((after,)))
                    at += 2
                continue
            if after == quote:
                word.append(quote)
                at += 2
                continue
        word.append(char)
        at += 1
    return None


def _parse_integer(digits: bytes) -> int | None:
    """Return a count as Redis reads one: an optional minus and digits without leading zeros."""
    if len(digits) > 20:
        return None
    return parse_int64(digits)


def parse_int64(text: bytes) -> int | None:
    """Return the signed 64-bit integer that `text` spells in its one canonical form, or None."""
    body = text.removeprefix(b"-")
    if not body.isdigit() or len(body) > 19 or (body[0] == 0x30 and text != b"0"):
        return None
    value = int(text)
    return value if -(1 << 63) <= value < 1 << 63 else None


# Replies. A reply is its bytes from the start: it is built once, in the place that knows it.

OK: Final = b"+OK\r\n"
QUEUED: Final = b"+QUEUED\r\n"
PONG: Final = b"+PONG\r\n"
ZERO: Final = b":0\r\n"
ONE: Final = b":1\r\n"
EMPTY_ARRAY: Final = b"*0\r\n"


def simple(text: bytes) -> bytes:
    """Return a simple string. `text` holds no line break."""
    return b"+%b\r\n" % text


def error(text: str) -> bytes:
    """Return an error reply: a code in capitals, a blank, a message. Line breaks become blanks, as in Redis."""
    return b"-%b\r\n" % text.replace("\r", " ").replace("\n", " ").encode("utf-8", "surrogateescape")


def integer(value: int) -> bytes:
    return b":%d\r\n" % value


def bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def array(items: Sequence[bytes]) -> bytes:
    """Return an array of replies that are already encoded."""
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def bulks(values: Iterable[bytes]) -> bytes:
    """Return an array of bulk strings."""
    return array([bulk(value) for value in values])


class Resp:
    """The replies that RESP2 and RESP3 write differently."""

    __slots__ = ("null", "null_array", "version")

    def __init__(self, version: int) -> None:
        self.version = version
        self.null = b"_\r\n" if version == 3 else b"$-1\r\n"
        self.null_array = b"_\r\n" if version == 3 else b"*-1\r\n"

    def map(self, items: Sequence[bytes]) -> bytes:
        """Return a map from encoded keys and values in turn: in RESP2 a flat array."""
        if self.version == 3:
            return b"%%%d\r\n%b" % (len(items) // 2, b"".join(items))
        return array(items)

    def set(self, items: Sequence[bytes]) -> bytes:
        return b"~%d\r\n%b" % (len(items), b"".join(items)) if self.version == 3 else array(items)

    def verbatim(self, text: bytes) -> bytes:
        """Return text for people."""
        return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if self.version == 3 else bulk(text)


RESP2: Final = Resp(2)
RESP3: Final = Resp(3)
