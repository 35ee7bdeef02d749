"""The RESP codec: any cut of the bytes gives the same commands, and what is no request is a typed error."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.protocols.redis import wire
from services.gateway.protocols.redis.limits import RedisLimits
from services.gateway.protocols.redis.wire import ProtocolError, RequestParser

LIMITS = RedisLimits()


def parser(limits: RedisLimits = LIMITS) -> RequestParser:
    made = RequestParser(limits)
    made.authenticated = True
    return made


def parse(*pieces: bytes) -> list[list[bytes]]:
    made = parser()
    commands = []
    for piece in pieces:
        made.feed(piece)
        while (words := made.next()) is not None:
            commands.append(words)
    return commands


COMMANDS = st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=5), max_size=5)


@given(COMMANDS, st.data())
def test_any_cut_gives_the_same_commands(commands: list[list[bytes]], data: st.DataObject) -> None:
    text = b"".join(wire.bulks(words) for words in commands)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert parse(*pieces) == commands


def test_byte_by_byte() -> None:
    text = b'*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\nPING "a b"\r\n*0\r\n*1\r\n$0\r\n\r\n'
    assert parse(*[text[at : at + 1] for at in range(len(text))]) == [[b"GET", b"\r\n"], [b"PING", b"a b"], [b""]]


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_random_bytes_end_in_commands_or_one_typed_error(pieces: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        assert all(parse(*pieces))


def test_a_large_value_arrives_in_pieces_without_being_copied_each_time() -> None:
    made = parser()
    piece = b"x" * 65_536
    made.feed(b"*2\r\n$4\r\nECHO\r\n$%d\r\n" % (64 * 65_536))
    for _ in range(64):
        made.feed(piece)
        assert made.next() is None
    assert len(made._chunks) >= 63, "the pieces are not joined before all of them are there"
    made.feed(b"\r\n")
    assert made.next() == [b"ECHO", piece * 64]
    assert made.buffered_bytes == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"*1\r\n$2\r\nabXY", "expected CRLF after a bulk string"),
        (b"*1\r\n$6\r\n", "invalid bulk length"),
        (b"*4\r\n", "invalid multibulk length"),
        (b"*3\r\n$5\r\naaaaa\r\n$5\r\naaaaa\r\n", "command is too big"),
        (b"x" * 1100, "too big inline request"),
        (b"*" + b"1" * 1100, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 1100, "too big bulk count string"),
    ],
)
def test_limits(text: bytes, message: str) -> None:
    limits = RedisLimits(
        max_bulk_bytes=5,
        max_command_bytes=9,
        max_arguments=3,
        max_inline_bytes=1024,
        max_bulk_bytes_before_auth=5,
    )
    made = parser(limits)
    made.feed(text)
    with pytest.raises(ProtocolError) as raised:
        made.next()
    assert raised.value.message == message


@given(st.integers(-(1 << 70), 1 << 70))
def test_integers(value: int) -> None:
    expected = value if -(1 << 63) <= value < 1 << 63 else None
    assert wire.parse_int64(b"%d" % value) == expected


@pytest.mark.parametrize(
    "text", [b"", b"-", b"+1", b"01", b"-0", b"-01", b" 1", b"1 ", b"1.0", b"1e3", "²".encode(), b"0x1"]
)
def test_what_is_no_integer(text: bytes) -> None:
    assert wire.parse_int64(text) is None


def test_replies() -> None:
    assert wire.error("ERR a\r\nb") == b"-ERR a  b\r\n"
    assert wire.array([wire.ONE, wire.bulk(b"x")]) == b"*2\r\n:1\r\n$1\r\nx\r\n"
    pair = [wire.bulk(b"k"), wire.ONE]
    assert wire.RESP2.map(pair) == b"*2\r\n$1\r\nk\r\n:1\r\n"
    assert wire.RESP3.map(pair) == b"%1\r\n$1\r\nk\r\n:1\r\n"
    assert (wire.RESP2.null, wire.RESP3.null) == (b"$-1\r\n", b"_\r\n")
    assert wire.RESP3.verbatim(b"hi") == b"=6\r\ntxt:hi\r\n"
