"""The cdc service: one feed for the change stream, one for each target region, each at its own pace.

Owns their lives and what the operations port tells of them. Any number of cdc processes may run: the stream's and the
targets' own checks let one of them through at a time, and what another has sent already is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from orbit.chassis.operations import Health
from orbit.kernel.errors import LogUnavailable
from services.cdc.feed import Feed
from services.cdc.sinks.region import RegionSink
from services.cdc.sinks.stream import StreamSink
from services.storage.client import LogReader

log = structlog.get_logger(__name__)

LOG_END_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service runs, once it is connected; `close` lets go of the connections."""

    reader: LogReader
    feeds: Sequence[Feed]
    close: Callable[[], Awaitable[None]]


class CdcService:
    """A component of a process. `connect` connects to the log and makes the feeds."""

    def __init__(self, connect: Callable[[], Awaitable[Parts]]) -> None:
        self._connect = connect
        self._parts: Parts | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._log_end = 0
        self._trouble: str | None = None

    async def start(self) -> None:
        """Connect and start the feeds; they wait for storage, for room and for their targets by themselves.

        Raises NatsUnreachable.
        """
        self._parts = await self._connect()
        self._tasks = [asyncio.create_task(feed.run(), name=f"cdc {feed.sink.name}") for feed in self._parts.feeds]
        self._tasks.append(asyncio.create_task(self._watch_log(), name="cdc log end"))

    async def stop(self) -> None:
        """Stop where it is. What was sent and not acknowledged is sent again after the next start, if it is missing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        parts, self._parts = self._parts, None
        if parts is not None:
            for feed in parts.feeds:
                if isinstance(feed.sink, RegionSink):
                    await feed.sink.close()
            await parts.close()

    @property
    def feeds(self) -> Sequence[Feed]:
        return () if self._parts is None else self._parts.feeds

    @property
    def events_published(self) -> int:
        return sum(feed.sink.published for feed in self.feeds if isinstance(feed.sink, StreamSink))

    @property
    def transactions_shipped(self) -> int:
        return sum(feed.sink.shipped for feed in self.feeds if isinstance(feed.sink, RegionSink))

    def stream_lag_ms(self) -> int:
        return max((feed.lag_ms(self._log_end) for feed in self.feeds if isinstance(feed.sink, StreamSink)), default=0)

    def shipping_lag_ms(self) -> int:
        """Return the worst region's: what would be lost with this region now."""
        return max((feed.lag_ms(self._log_end) for feed in self.feeds if isinstance(feed.sink, RegionSink)), default=0)

    def health(self) -> dict[str, Any]:
        """Return what `/health` tells about cdc: `ok`, `waiting` for something named, or `failed`."""
        feeds = {feed.sink.name: feed.health(self._log_end) for feed in self.feeds}
        states = {document["status"] for document in feeds.values()}
        if self._trouble is not None:
            states.add("waiting")
        status = next((name for name in ("failed", "waiting") if name in states), "ok")
        return {"status": status, "waiting_for": self._trouble, "feeds": feeds}

    def process_health(self) -> Health:
        """Return the health of a process that runs cdc alone. It takes no requests, so it is always ready."""
        document = self.health()
        reasons = [
            f"{name}: {feed['waiting_for']}" for name, feed in document["feeds"].items() if feed["status"] != "ok"
        ]
        if self._trouble is not None:
            reasons.append(self._trouble)
        return Health(
            healthy=document["status"] == "ok",
            role="cdc",
            replication_lag_ms=self.shipping_lag_ms(),
            reasons=reasons,
            details={"cdc": document},
        )

    async def _watch_log(self) -> None:
        assert self._parts is not None
        while True:
            try:
                _, self._log_end = await self._parts.reader.bounds()
                self._trouble = None
            except LogUnavailable as error:
                if self._trouble != error.message:
                    log.warning("cdc waits for the log", reason=error.message)
                self._trouble = error.message
            await asyncio.sleep(LOG_END_INTERVAL_S)
