"""One feed: the log, from where a sink stands, to that sink.

Owns the cursor: reading on, its bookmark on disk, starting again, and when to give up. A bookmark saves replaying
the log from its first record to learn the catalog; without a usable one the feed does exactly that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from orbit.chassis.nats import NatsError
from orbit.kernel.clock import Clock
from orbit.kernel.errors import LogCorrupt, OrbitError
from services.cdc.sinks.interface import Diverged, Sink, StartAgain
from services.cdc.source import Fold, Source
from services.cdc.turns import Turns
from services.storage.client import LogReader, RecordsTrimmed

log = structlog.get_logger(__name__)

BOOKMARK_INTERVAL_S: Final = 30.0
RETRY_S: Final = 1.0


class _Bookmark(msgspec.Struct, array_like=True):
    """A fold, and what had arrived at the sink when it was noted: everything that the fold has seen."""

    arrived: int
    fold: bytes


class Feed:
    """Runs until cancelled, or until `failure` says why it cannot go on without a person."""

    def __init__(
        self,
        sink: Sink,
        reader: LogReader,
        clock: Clock,
        bookmark: Path | None,
        bookmark_interval_s: float = BOOKMARK_INTERVAL_S,
        *,
        rest_s: float = 0.0,
    ) -> None:
        """`rest_s` is what the feed leaves to others between its turns on the event loop."""
        self.sink = sink
        self.failure: str | None = None
        self.trouble: str | None = "not started"
        self._reader = reader
        self._clock = clock
        self._path = bookmark
        self._interval_s = bookmark_interval_s
        self._rest_s = rest_s
        self._fold = Fold()
        self._began = False
        self._level_us = clock.now_us()
        """When the sink was last seen level with the log; before that, when this process began to try."""

    async def run(self) -> None:
        while True:
            try:
                await self._run_once()
            except (LogCorrupt, RecordsTrimmed, Diverged) as error:
                self.failure = str(error)
                log.error("change feed ends", sink=self.sink.name, reason=self.failure)
                return
            except (StartAgain, OrbitError, NatsError, OSError) as error:
                if self.trouble != str(error):
                    log.warning("change feed starts again", sink=self.sink.name, reason=str(error))
                self.trouble = str(error)
                await asyncio.sleep(RETRY_S)

    def lag_ms(self, log_end: int) -> int:
        """Return how far the sink is behind the log, whose last record is `log_end`.

        While the sink has not told where it stands: since when nothing is known to have arrived.
        """
        oldest = self.sink.oldest_us
        if oldest is None:
            if self._began and self._fold.sequence >= log_end:
                self._level_us = self._clock.now_us()
                return 0
            oldest = self._fold.time_us if self._began and self._fold.time_us else self._level_us
        return max(0, (self._clock.now_us() - oldest) // 1000)

    def health(self, log_end: int) -> dict[str, Any]:
        """Return what `/health` tells of this feed."""
        waiting_for = self.failure or self.sink.trouble or self.trouble
        return {
            "status": "failed" if self.failure else "waiting" if waiting_for else "ok",
            "waiting_for": waiting_for,
            "arrived_lsn": self.sink.arrived,
            "read_sequence": self._fold.sequence,
            "log_end_sequence": log_end,
            "lag_ms": self.lag_ms(log_end),
        }

    async def _run_once(self) -> None:
        self._began = False
        bookmark = await asyncio.to_thread(self._load)
        arrived = await self.sink.begin(0 if bookmark is None else bookmark.arrived)
        self._fold = Fold()
        if bookmark is not None and bookmark.arrived <= arrived:
            self._fold = Fold.restore(bookmark.fold)
        log.info("change feed starts", sink=self.sink.name, arrived_lsn=arrived, sequence=self._fold.sequence)
        # Waits here while storage has not made the log yet.
        await self._reader.bounds()
        self.trouble = None
        self._began = True
        await _both(self._read(Source(self._reader, self._fold)), self.sink.deliver())

    async def _read(self, source: Source) -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(self._rest_s)
        note_at = loop.time() + self._interval_s
        async for commits in source.groups():
            for commit in commits:
                await self.sink.accept(commit, self._reader, turns)
                await turns.next()
            if self._path is not None and loop.time() >= note_at and await self._note():
                note_at = loop.time() + self._interval_s
            await turns.next()

    async def _note(self) -> bool:
        """Write the bookmark. False while a load is open."""
        data = self._fold.snapshot()
        if data is None:
            return False
        await self.sink.drained()
        await asyncio.to_thread(self._save, _Bookmark(self.sink.arrived, data))
        return True

    def _load(self) -> _Bookmark | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            found = msgspec.msgpack.decode(self._path.read_bytes(), type=_Bookmark)
            Fold.restore(found.fold)
        except (msgspec.DecodeError, ValueError, OSError) as error:
            log.warning("bookmark is not used", path=str(self._path), reason=str(error))
            return None
        return found

    def _save(self, bookmark: _Bookmark) -> None:
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        with open(temporary, "wb") as file:
            file.write(msgspec.msgpack.encode(bookmark))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self._path)


async def _both(*parts: Coroutine[Any, Any, None]) -> None:
    """Run both until one ends or fails; then cancel the other and raise what ended the first."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
