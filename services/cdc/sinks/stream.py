"""Change events to JetStream: one message an event, in commit order, on a subject for each table.

Owns subjects, headers, and being the only publisher in effect. Every batch is stored by compare-and-set on the
stream's last sequence, so that two cdc processes cannot interleave or double anything: whoever loses reads where the
stream ends now and goes on behind it. A full stream takes nothing new, and the feed waits.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import structlog

from orbit.chassis.nats import NatsError
from orbit.kernel.ids import MAX_SEQUENCE
from services.cdc.backlog import Backlog
from services.cdc.decode import Event, encode, events
from services.cdc.sinks.interface import Diverged, StartAgain
from services.cdc.sinks.jetstream import (
    BATCH_MAX_MESSAGES,
    LSN,
    POSITION,
    TIMELINE,
    TOTAL,
    End,
    EventStream,
    JetStreamError,
    Message,
    Overtaken,
    StreamFull,
)
from services.cdc.source import Commit
from services.cdc.turns import Turns
from services.storage.client import LogReader

log = structlog.get_logger(__name__)

BACKLOG_BYTES: Final = 16 << 20
BATCH_BYTES: Final = 4 << 20
RETRY_S: Final = 0.2
RIVAL_PAUSE_S: Final = 1.0
"""Before a publisher that was overtaken tries again: the other one goes on meanwhile."""
FULL_RETRY_S: Final = 1.0
MESSAGE_OVERHEAD_BYTES: Final = 400

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")


def subject(root: str, schema: str, table: str) -> bytes:
    """Return `<root>.<schema>.<table>`; bytes of a name that are not letters, digits, _ or - become %XX."""
    return f"{root}.{_token(schema)}.{_token(table)}".encode()


def _token(name: str) -> str:
    if _PLAIN.fullmatch(name):
        return name
    return "".join(chr(byte) if _PLAIN.fullmatch(chr(byte)) else f"%{byte:02X}" for byte in name.encode())


def headers(event: Event) -> bytes:
    """Return the header lines by which a consumer removes duplicates and finds its place."""
    name = f"{event.timeline}-{event.lsn}-{event.position}"
    return (
        f"Nats-Msg-Id: {name}\r\n{TIMELINE}: {event.timeline}\r\n{LSN}: {event.lsn}\r\n"
        f"{POSITION}: {event.position}\r\n{TOTAL}: {event.total}\r\n"
    ).encode()


class StreamSink:
    """Implements `Sink` over an `EventStream`."""

    def __init__(self, stream: EventStream) -> None:
        self.name = "stream"
        self.trouble: str | None = None
        self.published = 0
        """Events that this process has published."""
        self._stream = stream
        self._backlog: Backlog[Message] = Backlog(BACKLOG_BYTES)
        self._end = End(0)
        self._arrived = (0, -1)
        """(lsn, position) of the last event in the stream."""

    async def begin(self, bookmark_lsn: int) -> int:
        self._backlog = Backlog(BACKLOG_BYTES)
        try:
            await self._stream.ensure()
            self._end = await self._stream.end()
        except JetStreamError as error:
            raise NatsError(str(error)) from error
        if self._end.position is not None:
            self._arrived = self._end.position
        elif self._end.sequence and bookmark_lsn:
            # All of its messages have aged out or were purged.
            self._arrived = (bookmark_lsn, MAX_SEQUENCE)
        else:
            self._arrived = (0, -1)
        return self.arrived

    @property
    def arrived(self) -> int:
        return self._arrived[0] if self._end.whole else self._arrived[0] - 1

    async def accept(self, commit: Commit, log: LogReader, turns: Turns) -> None:
        if commit.lsn < self._arrived[0]:
            return
        if self._end.timeline not in (0, commit.timeline):
            raise Diverged(
                f"stream {self._stream.settings.name} holds events of timeline {self._end.timeline}, "
                f"the log is timeline {commit.timeline}"
            )
        async for event in events(commit, log):
            if (event.lsn, event.position) > self._arrived:
                message = self._message(event, commit.time_us)
                await self._backlog.put(message, len(message.body) + MESSAGE_OVERHEAD_BYTES)
            await turns.next()

    async def deliver(self) -> None:
        while True:
            batch = await self._backlog.peek(BATCH_MAX_MESSAGES, BATCH_BYTES)
            try:
                await self._stream.publish(batch, self._end.sequence)
            except StreamFull as error:
                self._wait_for(f"change stream {self._stream.settings.name} is full: {error.description}")
                await asyncio.sleep(FULL_RETRY_S)
            except Overtaken as error:
                log.info("change stream ends elsewhere", stream=self._stream.settings.name, reason=str(error))
                await asyncio.sleep(RIVAL_PAUSE_S)
                await self._find_end()
            except (NatsError, JetStreamError) as error:
                self._wait_for(f"change stream {self._stream.settings.name}: {error}")
                await asyncio.sleep(RETRY_S)
                await self._find_end()
            else:
                last = batch[-1]
                self._arrived = (last.lsn, last.position)
                whole = last.position + 1 == last.total
                self._end = End(self._end.sequence + len(batch), last.timeline, self._arrived, whole)
                self.published += len(batch)
                self._backlog.done(len(batch))
                self._go_on()

    async def drained(self) -> None:
        await self._backlog.drained()

    @property
    def oldest_us(self) -> int | None:
        oldest = self._backlog.oldest
        return None if oldest is None else oldest.time_us

    async def _find_end(self) -> None:
        """Learn, after any doubt, what is in the stream by now. Raises StartAgain when it has lost messages."""
        while True:
            try:
                end = await self._stream.end()
                break
            except (NatsError, JetStreamError) as error:
                self._wait_for(f"change stream {self._stream.settings.name}: {error}")
                if isinstance(error, JetStreamError):
                    raise StartAgain(self.trouble) from error
                await asyncio.sleep(RETRY_S)
        if end.sequence < self._end.sequence:
            raise StartAgain(f"stream {self._stream.settings.name} has lost its last messages")
        if end.sequence > self._end.sequence:
            if end.position is None:
                raise StartAgain(f"messages of stream {self._stream.settings.name} are gone before they were seen")
            if end.position < self._arrived:
                raise Diverged(f"stream {self._stream.settings.name} goes back to an older position")
            self._end, self._arrived = end, end.position
            self._backlog.discard_while(lambda message: (message.lsn, message.position) <= self._arrived)
        self._go_on()

    def _message(self, event: Event, time_us: int) -> Message:
        body = encode(event)
        if len(body) > self._stream.max_body_bytes:
            log.warning(
                "change event too large, published without its images",
                schema=event.schema,
                table=event.table,
                lsn=event.lsn,
                position=event.position,
                size_bytes=len(body),
            )
            event.before = event.after = None
            event.images_omitted = True
            body = encode(event)
        return Message(
            subject(self._stream.settings.subject_root, event.schema, event.table),
            headers(event),
            body,
            event.timeline,
            event.lsn,
            event.position,
            event.total,
            time_us,
        )

    def _wait_for(self, reason: str) -> None:
        if self.trouble != reason:
            log.warning("change feed waits", sink=self.name, reason=reason)
        self.trouble = reason

    def _go_on(self) -> None:
        if self.trouble is not None:
            log.info("change feed goes on", sink=self.name, waited_for=self.trouble)
            self.trouble = None
