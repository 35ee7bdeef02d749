"""Reads a stream in order: catching up fast, and within a millisecond or so of the writer at the end.

Owns the push consumer behind one `Log.read`: its making, its flow control, and its replacement when a connection, a
server or the consumer itself goes. The server pushes and we acknowledge nothing; it stops when its flow-control
question is not answered, and we answer once everything before the question has been taken.

Order and completeness rest on the stream's own sequence numbers alone: after any doubt a new consumer starts at the
next number wanted.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

import structlog

from orbit.chassis import nats_wire as wire
from orbit.chassis.nats import NatsConnection, NatsDisconnected, NatsError
from orbit.kernel.errors import LogCorrupt
from services.storage.log.interface import Entry, RecordsTrimmed
from services.storage.log.stream import STREAM_NOT_FOUND, ApiFailed, call, is_transient, stream_info

log = structlog.get_logger(__name__)

HEARTBEAT_S: Final = 1.0
SILENCE_S: Final = 3.5
"""Without a record or heartbeat for so long, the consumer is taken for dead."""
RETRY_FIRST_S: Final = 0.05
RETRY_LAST_S: Final = 1.0
TRACE_HEADER: Final = b"traceparent:"

assert SILENCE_S > 3 * HEARTBEAT_S


class StreamReader:
    """One reading of one stream. The server's flow-control window (32 MB at most) bounds what waits here."""

    def __init__(self, connection: NatsConnection, stream: str, from_sequence: int) -> None:
        self._connection = connection
        self._stream = stream
        self._next_taken = from_sequence
        self._next_received = from_sequence
        self._waiting: deque[Entry | bytes] = deque()
        """Entries, and between them the reply subjects of flow-control questions."""
        self._consumer = ""
        self._sid = b""
        self._doubt = "not started"
        """Why the consumer must be replaced; empty while it is good."""
        self._skipped = 0
        self._gap_at = 0
        """The record that this consumer skipped, and the one before it; if both did, it is not there."""
        self._heard_at = 0.0
        self._counted = from_sequence
        self._connected = asyncio.Event()
        self._waiter: asyncio.Future[None] | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """Yield the records for ever. Raises RecordsTrimmed and LogCorrupt."""
        unwatch = self._connection.on_state(self._state_changed)
        waiting = self._waiting
        try:
            while True:
                while waiting:
                    item = waiting.popleft()
                    if type(item) is bytes:
                        self._go_on(item)
                    else:
                        assert isinstance(item, Entry)
                        self._next_taken = item.sequence + 1
                        yield item
                if self._doubt:
                    await self._restart()
                elif not waiting:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        finally:
            unwatch()
            self._drop_consumer()
            if self._watchdog is not None:
                self._watchdog.cancel()

    async def _restart(self) -> None:
        """Start a new consumer at the next record wanted; tries until it has one."""
        pause = RETRY_FIRST_S
        reason = self._doubt
        while True:
            self._connected.clear()
            try:
                await self._start()
            except (NatsError, ApiFailed) as error:
                if isinstance(error, ApiFailed) and error.error.err_code == STREAM_NOT_FOUND:
                    raise LogCorrupt(f"stream {self._stream} is gone") from error
                if not is_transient(error):
                    log.error("log cannot be read, trying on", stream=self._stream, reason=str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._connected.wait()
                pause = min(2 * pause, RETRY_LAST_S)
            else:
                log.debug("log reader started", stream=self._stream, at=self._next_taken, because=reason)
                return  # doubt may have come up again; what did arrive is taken first

    async def _start(self) -> None:
        self._drop_consumer()
        self._waiting.clear()
        wanted = self._next_received = self._next_taken
        first, _ = (await stream_info(self._connection, self._stream)).bounds()
        if wanted < first:
            raise RecordsTrimmed(first)
        if self._skipped and self._skipped == self._gap_at:
            raise LogCorrupt(f"stream {self._stream} has no record {wanted}")
        self._skipped, self._gap_at = 0, self._skipped
        token = secrets.token_hex(11)
        inbox = f"_INBOX.{token}"
        self._doubt = ""
        self._heard_at = asyncio.get_running_loop().time()
        self._sid = self._connection.subscribe(inbox.encode(), self._received)
        self._consumer = f"read_{token}"
        config = {
            "name": self._consumer,
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": wanted,
            "ack_policy": "none",
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT_S * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
        }
        request = {"stream_name": self._stream, "config": config, "action": "create"}
        await call(self._connection, f"CONSUMER.CREATE.{self._stream}.{self._consumer}", request, dict[str, Any])
        if self._watchdog is None:
            self._watch()

    def _received(self, _subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        if not reply.startswith(b"$JS.ACK."):
            self._told(reply, headers)
            return
        # $JS.ACK.<stream>.<consumer>.<delivered>.<sequence>.. or, later, with two words more before the stream
        words = reply.split(b".", 9)
        sequence = int(words[5] if len(words) == 9 else words[7])
        if sequence != self._next_received:
            if sequence > self._next_received and not self._doubt:
                self._skipped = self._next_received
                self._fail(f"record {sequence} came where {self._next_received} was due")
            return
        self._next_received = sequence + 1
        at = headers.find(TRACE_HEADER)
        trace = headers[at + len(TRACE_HEADER) : headers.find(b"\r", at)].strip().decode() if at >= 0 else ""
        self._waiting.append(Entry(sequence, data, trace))
        if self._waiter is not None:
            self._wake()

    def _told(self, reply: bytes, headers: bytes) -> None:
        """Handle a heartbeat, a flow-control question or the consumer's end."""
        status, text = wire.parse_status(headers)
        if status != 100:
            self._fail(f"{status} {text}")
            return
        self._heard_at = asyncio.get_running_loop().time()
        question = reply or wire.parse_headers(headers).get("Nats-Consumer-Stalled", "").encode()
        if question:
            self._waiting.append(question)
            self._wake()

    def _go_on(self, question: bytes) -> None:
        """Tell the server that everything before its question has been taken."""
        try:
            self._connection.publish(question, b"")
        except NatsDisconnected as error:
            self._fail(str(error))

    def _fail(self, reason: str) -> None:
        self._doubt = self._doubt or reason
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _state_changed(self, connected: bool) -> None:
        if connected:
            self._connected.set()
        else:
            self._fail("connection lost")

    def _watch(self) -> None:
        """Doubt a consumer that has been silent. Heartbeats come only between records, so both count."""
        loop = asyncio.get_running_loop()
        self._watchdog = loop.call_later(HEARTBEAT_S, self._watch)
        if self._waiting or self._next_received != self._counted:
            self._counted = self._next_received
            self._heard_at = loop.time()
        elif not self._doubt and loop.time() - self._heard_at > SILENCE_S:
            self._fail(f"nothing heard for {SILENCE_S} s")

    def _drop_consumer(self) -> None:
        """Unsubscribe, and ask for the consumer's end; if that is lost, the server ends it for want of interest."""
        if self._sid:
            self._connection.unsubscribe(self._sid)
            self._sid = b""
            if self._connection.connected:
                self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}".encode(), b"")
