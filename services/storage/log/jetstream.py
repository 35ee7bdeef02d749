"""The shard log in a JetStream stream.

Owns appends: one callback each, no task, no future. Their fate is told exactly once, and never guessed: only answers
that surely mean "not taken" become AppendRefused; silence, a broken connection or an answer that we do not know is
AppendUnknown. Whoever appends settles such a slot by winning it.

SlotTaken means that the stream's leader counted another record at the expected position. On a replicated stream
that record may still be on its way, or be lost with the leader: read it before believing in it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Final, Literal

import msgspec
import structlog

from orbit.chassis import nats_wire as wire
from orbit.chassis.nats import NatsConnection, NatsDisconnected, NatsError
from orbit.kernel.errors import LogUnavailable
from orbit.kernel.ids import DEFAULT_SHARD
from services.storage.log.durability import RELAXED, DurabilityMonitor
from services.storage.log.interface import AppendRefused, AppendUnknown, Done, Entry, SlotTaken
from services.storage.log.reader import StreamReader
from services.storage.log.stream import ApiError, ApiFailed, LogStream, ensure_stream, purge_through, stream_info

log = structlog.get_logger(__name__)

Durability = Literal["checked", "relaxed"]

APPEND_TIMEOUT_S: Final = 5.0
OPEN_TIMEOUT_S: Final = 30.0
FULL_CHECK_INTERVAL_S: Final = 1.0
FRAME_OVERHEAD_BYTES: Final = 512
"""Headers count towards the server's max_payload; ours are far smaller than this."""

WRONG_LAST_SEQUENCE: Final = (10071, 10164)
STORE_FAILED: Final = 10077
STREAM_IS_FULL: Final = "maximum bytes exceeded"
"""STORE_FAILED with any other text is a failed write, which may be on some disk."""
NO_ROOM: Final = (10002, 10023, 10047)
"""The account or the server is past its storage limit. A replicated stream may say so after replicating the record."""
SURELY_NOT_TAKEN: Final = (10008, 10009, 10039, 10054, 10109)
"""JetStream unavailable, not the leader, disabled for the account, too large, stream sealed."""
ELECTING: Final = (10008, 10009)
NO_RESPONDERS: Final = 503

_LAST_SEQUENCE: Final = re.compile(r"\d+$")


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: ApiError | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


class JetStreamLog:
    """One shard's log; made by `open`. The connections stay their owner's: close the log first, then them."""

    def __init__(
        self,
        connection: NatsConnection,
        stream: LogStream,
        monitor: DurabilityMonitor | None,
        append_timeout_s: float,
        full: Callable[[], str | None] | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._monitor = monitor
        self._append_timeout_s = append_timeout_s
        self._loop = asyncio.get_running_loop()
        self._subject = stream.subject.encode()
        self._inbox = b"_INBOX." + secrets.token_hex(11).encode() + b"."
        self._sid = connection.subscribe(self._inbox + b"*", self._answered)
        self._unwatch = connection.on_state(self._state_changed)
        self._next_token = 0
        self._pending: dict[bytes, tuple[Done, int, float]] = {}
        """By reply subject: whom to tell, the expected sequence, when to give up. In the order of sending."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._full = full
        self._full_reason: str | None = None
        self._full_timer: asyncio.TimerHandle | None = None
        if full is not None:
            self._check_full()

    @classmethod
    async def open(
        cls,
        connection: NatsConnection,
        *,
        system: NatsConnection | None,
        region: str,
        shard: int = DEFAULT_SHARD,
        replicas: int = 1,
        max_bytes: int | None = None,
        durability: Durability = "checked",
        append_timeout_s: float = APPEND_TIMEOUT_S,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        full: Callable[[], str | None] | None = None,
    ) -> JetStreamLog:
        """Create or verify the stream, check durability once, and return the log.

        `connection` is of the application's account; `system` of the system account, and needed unless `durability`
        is relaxed. Raises LogUnavailable when the stream cannot be had in time or is not set up as a log. A failed
        durability check does not raise: `durable` tells, and appends are refused until it passes. `full` is asked each
        second, and while it returns a reason appends are refused as full: `NatsServer.full` where we run the server.
        """
        stream = LogStream(region, shard, replicas, max_bytes)
        await ensure_stream(connection, stream, open_timeout_s)
        monitor = None
        if durability == "relaxed":
            log.warning("durability is relaxed: acknowledged commits may be lost with a host", stream=stream.name)
        elif system is None:
            raise ValueError("checked durability needs a connection of the system account")
        else:
            monitor = DurabilityMonitor(connection, system, stream.name)
            await monitor.start()
        return cls(connection, stream, monitor, append_timeout_s, full)

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._stream.name

    def append(self, data: bytes, expected_sequence: int, done: Done, traceparent: str = "") -> None:
        monitor = self._monitor
        if monitor is not None and monitor.reason is not None:
            self._refuse(done, f"log is not known to be durable: {monitor.reason}", passing=not monitor.certain)
            return
        if self._full_reason is not None:
            self._refuse(done, f"log is full: {self._full_reason}", full=True)
            return
        if len(data) + FRAME_OVERHEAD_BYTES > self._connection.server.max_payload:
            limit = self._connection.server.max_payload
            self._refuse(done, f"record of {len(data)} bytes does not fit the server's max_payload of {limit}")
            return
        self._next_token += 1
        reply = self._inbox + b"%d" % self._next_token
        if traceparent:
            headers = b"NATS/1.0\r\nNats-Expected-Last-Sequence: %d\r\ntraceparent: %b\r\n\r\n" % (
                expected_sequence,
                traceparent.encode(),
            )
        else:
            headers = b"NATS/1.0\r\nNats-Expected-Last-Sequence: %d\r\n\r\n" % expected_sequence
        try:
            self._connection.publish(self._subject, data, reply, headers)
        except NatsDisconnected as error:
            self._refuse(done, str(error), passing=True)
            return
        self._pending[reply] = (done, expected_sequence, self._loop.time() + self._append_timeout_s)
        if self._timer is None:
            self._timer = self._loop.call_later(self._append_timeout_s, self._give_up)

    def read(self, from_sequence: int) -> AsyncIterator[Entry]:
        return StreamReader(self._connection, self._stream.name, from_sequence).entries()

    async def bounds(self) -> tuple[int, int]:
        try:
            return (await stream_info(self._connection, self._stream.name)).bounds()
        except (ApiFailed, NatsError) as error:
            raise LogUnavailable(f"log stream {self._stream.name}: {error}") from error

    async def trim(self, through_sequence: int) -> None:
        first, last = await self.bounds()
        if through_sequence > last:
            raise ValueError(f"log ends at {last}, cannot be trimmed through {through_sequence}")
        if through_sequence < first:
            return
        try:
            await purge_through(self._connection, self._stream.name, through_sequence)
        except (ApiFailed, NatsError) as error:
            raise LogUnavailable(f"log stream {self._stream.name} cannot be trimmed: {error}") from error

    def durable(self) -> str | None:
        return RELAXED if self._monitor is None else self._monitor.reason

    async def close(self) -> None:
        """Tell every pending append that its fate is unknown, and let go of the connections."""
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        self._connection.unsubscribe(self._sid)
        for timer in (self._timer, self._full_timer):
            if timer is not None:
                timer.cancel()
        self._fail_pending("the log was closed")
        if self._monitor is not None:
            await self._monitor.stop()

    def _answered(self, subject: bytes, _reply: bytes, headers: bytes, data: bytes) -> None:
        pending = self._pending.pop(subject, None)
        if pending is None:  # an answer after the timeout: its fate was told as unknown
            return
        done, expected, _ = pending
        if headers and not data and wire.parse_status(headers)[0] == NO_RESPONDERS:
            done(AppendRefused(f"no server takes records of log stream {self._stream.name} now", passing=True))
            return
        try:
            ack = _decode_ack(data)
        except msgspec.DecodeError as error:
            log.error("log answers in an unknown way", stream=self._stream.name, reason=str(error))
            done(AppendUnknown("answer not understood"))
            return
        if ack.error is not None:
            done(_failure(ack.error, expected, self._stream.replicas > 1))
        elif ack.seq != expected + 1 or ack.stream != self._stream.name:
            log.error("record landed elsewhere", stream=ack.stream, sequence=ack.seq, expected=expected + 1)
            done(AppendUnknown(f"record landed at {ack.seq} of {ack.stream}, not at {expected + 1}"))
        elif self._monitor is not None and self._monitor.reason is not None:
            done(AppendUnknown(f"acknowledged while not known to be durable: {self._monitor.reason}"))
        else:
            done(ack.seq)

    def _refuse(self, done: Done, reason: str, *, full: bool = False, passing: bool = False) -> None:
        self._loop.call_soon(done, AppendRefused(reason, full=full, passing=passing))

    def _check_full(self) -> None:
        assert self._full is not None
        reason = self._full()
        if (reason is None) != (self._full_reason is None):
            if reason is None:
                log.info("log takes records again", stream=self._stream.name)
            else:
                log.error("log is full, appends are refused", stream=self._stream.name, reason=reason)
        self._full_reason = reason
        self._full_timer = self._loop.call_later(FULL_CHECK_INTERVAL_S, self._check_full)

    def _state_changed(self, connected: bool) -> None:
        if not connected:
            self._fail_pending("the connection to NATS was lost before the answer")

    def _fail_pending(self, reason: str) -> None:
        pending, self._pending = self._pending, {}
        for done, _, _ in pending.values():
            done(AppendUnknown(reason))

    def _give_up(self) -> None:
        """Tell the appends whose time is over; sleep until the next one's is."""
        self._timer = None
        now = self._loop.time()
        while self._pending:
            reply, (done, _, deadline) = next(iter(self._pending.items()))
            if deadline > now:
                self._timer = self._loop.call_later(deadline - now, self._give_up)
                return
            del self._pending[reply]
            done(AppendUnknown(f"no answer within {self._append_timeout_s} s"))


def _failure(error: ApiError, expected: int, replicated: bool) -> Exception:
    """Return what an error answer says of the append."""
    if error.err_code in WRONG_LAST_SEQUENCE:
        found = _LAST_SEQUENCE.search(error.description)
        return SlotTaken(int(found.group()) if found else expected + 1)
    is_full = error.err_code == STORE_FAILED and error.description == STREAM_IS_FULL
    if is_full or (error.err_code in NO_ROOM and not replicated):
        return AppendRefused(f"log is full: {error.description}", full=True)
    if error.err_code in SURELY_NOT_TAKEN:
        return AppendRefused(f"log takes no records: {error.description}", passing=error.err_code in ELECTING)
    return AppendUnknown(f"{error.description} ({error.err_code})")
