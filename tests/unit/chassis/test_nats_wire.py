"""The NATS framing: whatever the cuts between packets, and whatever does not belong there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit.chassis import nats_wire as wire

HEADERS = b"NATS/1.0\r\nA: 1\r\n\r\n"
STREAM = (
    b'INFO {"server_name":"n1"}\r\n'
    b"PING\r\n"
    b"MSG a.b 7 5\r\nhello\r\n"
    b"MSG a.b 7 _INBOX.x 0\r\n\r\n"
    b"HMSG a.c 8 18 23\r\n" + HEADERS + b"\r\n\r\nx\r\n"
    b"HMSG a.c 8 r 18 18\r\n" + HEADERS + b"\r\n"
    b"-ERR 'Stale Connection'\r\n"
)  # fmt: skip
FRAMES: list[wire.Frame] = [
    b'INFO {"server_name":"n1"}',
    b"PING",
    (b"7", b"a.b", b"", b"", b"hello"),
    (b"7", b"a.b", b"_INBOX.x", b"", b""),
    (b"8", b"a.c", b"", HEADERS, b"\r\n\r\nx"),
    (b"8", b"a.c", b"r", HEADERS, b""),
    b"-ERR 'Stale Connection'",
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_frames_do_not_depend_on_packets(cuts: list[int]) -> None:
    parser = wire.Parser()
    frames: list[wire.Frame] = []
    at = 0
    for cut in [*sorted(cuts), len(STREAM)]:
        frames += parser.feed(STREAM[at:cut])
        at = cut
    assert frames == FRAMES


@given(st.binary(max_size=2000), st.booleans())
def test_what_is_published_is_parsed_again(payload: bytes, with_headers: bool) -> None:
    headers = HEADERS if with_headers else b""
    sent = wire.publish(b"a.b", payload, b"reply", headers)
    delivered = (
        sent.replace(b"HPUB a.b", b"HMSG a.b 1", 1) if with_headers else sent.replace(b"PUB a.b", b"MSG a.b 1", 1)
    )
    assert wire.Parser().feed(delivered) == [(b"1", b"a.b", b"reply", headers, payload)]


@pytest.mark.parametrize("line", [b"MSG a.b\r\n", b"MSG a.b 1 x\r\n", b"HMSG a 1 5\r\n", b"MSG\r\n"])
def test_a_bad_message_line_is_a_violation(line: bytes) -> None:
    with pytest.raises(wire.ProtocolViolation):
        wire.Parser().feed(line + b"12345678\r\n")


def test_an_endless_line_is_a_violation() -> None:
    with pytest.raises(wire.ProtocolViolation):
        wire.Parser().feed(b"x" * (wire.MAX_LINE_BYTES + 1))


def test_a_header_block_is_read_as_it_was_written() -> None:
    block = wire.header_block({"Nats-Msg-Id": "7", "traceparent": "00-ab"})
    assert wire.parse_headers(block) == {"Nats-Msg-Id": "7", "traceparent": "00-ab"}
    assert wire.parse_status(block) == (0, "")
    assert wire.parse_status(b"NATS/1.0 503 No Responders\r\n\r\n") == (503, "No Responders")


@pytest.mark.parametrize(("name", "value"), [("a", "b\r\nc: d"), ("a b", "c"), ("", "c"), ("a:", "c")])
def test_a_header_cannot_smuggle_another(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="not a NATS header"):
        wire.header_block({name: value})
