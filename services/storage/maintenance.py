"""What a node does beside serving: seal tails, drop dead versions, demote segments, write checkpoints.

Owns the loop and its pace. Each step on the event loop is short; disk writes run in one worker thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from orbit.kernel.clock import Clock
from orbit.kernel.errors import OrbitError
from orbit.kernel.limits import SEAL_AT_ROWS, SEAL_ROWS
from orbit.kernel.records import ColdCommit
from services.storage.checkpoint import Checkpointer
from services.storage.mover import evictable
from services.storage.moves import SnapshotRef
from services.storage.state import OpenMove, State
from services.storage.tiers.cold_source import ColdColumns, ColdSource
from services.storage.tiers.demotion import HotLimits, HotSegment, plan_demotions
from services.storage.tiers.segment import Segment
from services.storage.tiers.table import TableStore
from services.storage.tiers.warm import WarmSource, WarmStore

_log = structlog.get_logger(__name__)

TAIL_ROW_BYTES = 300
"""What a row in the tail is counted as for memory pressure, beside its values: version, dictionary entries, tuple."""


AGED_SEALS = 16
"""Segments that the rows coming of age are sealed to, at most, in one retention period."""


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    interval_s: float
    checkpoint_interval_s: float
    limits: HotLimits
    warm_point_reads: bool = True


class Maintenance:
    """The loop over one node's state."""

    def __init__(
        self,
        state: State,
        warm: WarmStore,
        checkpointer: Checkpointer,
        clock: Clock,
        settings: MaintenanceSettings,
        cold: ColdColumns | None = None,
    ) -> None:
        self._state = state
        self._cold = cold
        self._warm = warm
        self._checkpointer = checkpointer
        self._clock = clock
        self._settings = settings
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="maintenance")
        self._task: asyncio.Task[None] | None = None
        self._next_checkpoint = 0.0
        self.migrations_total = 0
        self.rows_moved = {"warm": 0, "cold": 0}
        self._cold_moves: list[tuple[TableStore, Segment, SnapshotRef, int]] = []
        state.on_cold_commit = self._cold_committed
        self.failing: str | None = None
        """Why the last turn failed, None while turns succeed."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="maintenance")

    async def stop(self) -> None:
        """Stop the loop and write a last checkpoint."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.checkpoint()
        except OrbitError as error:
            _log.error("the last checkpoint failed, start-up will replay more of the log", reason=error.message)
        except Exception:
            _log.exception("the last checkpoint failed, start-up will replay more of the log")
        self._worker.shutdown()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval_s)
            try:
                await self.turn()
                self.failing = None
            except OrbitError as error:
                if self.failing is None:
                    _log.error("maintenance failed, it will try again", reason=error.message, sqlstate=error.sqlstate)
                self.failing = error.message
            except Exception as error:
                if self.failing is None:
                    _log.exception("maintenance failed, it will try again")
                self.failing = f"internal error: {error!r}"

    async def turn(self) -> None:
        """One round of everything that is due."""
        retention_us = self._settings.limits.retention_us
        now_us = self._clock.now_us()
        aged = self._state.lsn_at(now_us - retention_us)
        # Rows that have just come of age wait for others: a segment each second would be a million of them soon.
        overdue = self._state.lsn_at(now_us - retention_us - retention_us // AGED_SEALS)
        for store in list(self._state.stores.values()):
            store.collect(self._state.oldest_snapshot())
            await self._seal(store, aged, overdue)
        loop = asyncio.get_running_loop()
        if loop.time() >= self._next_checkpoint:
            await self.checkpoint()
            self._next_checkpoint = loop.time() + self._settings.checkpoint_interval_s
        await self._demote()
        self._let_go()

    def _cold_committed(self, store: TableStore, move: OpenMove, commit: ColdCommit) -> None:
        ref = SnapshotRef(commit.metadata_location, commit.snapshot_id)
        for segment in evictable(store, move):
            store.leaving.add(segment.number)
            self._cold_moves.append((store, segment, ref, move.as_of))

    def _let_go(self) -> None:
        """Let committed cold segments go, once they are saved and no reader needs what was dead before the move."""
        waiting = []
        for store, segment, ref, as_of in self._cold_moves:
            oldest = self._state.oldest_snapshot()
            if self._cold is None or self._state.stores.get(store.storage_id) is not store:
                continue
            if not self._checkpointer.saved(store.storage_id, segment) or (oldest is not None and oldest < as_of):
                waiting.append((store, segment, ref, as_of))
                continue
            store.leaving.discard(segment.number)
            segment.demote(ColdSource(self._cold, self._warm, store, segment, ref, as_of))
            self.rows_moved["cold"] += segment.count - segment.dead
            self.migrations_total += 1
        self._cold_moves = waiting

    async def checkpoint(self) -> None:
        """Write a checkpoint of the state as it is now."""
        capture = self._checkpointer.capture()
        if capture is not None:
            await asyncio.get_running_loop().run_in_executor(self._worker, self._checkpointer.write, capture)

    async def _seal(self, store: TableStore, aged: int, overdue: int) -> None:
        state = self._state
        while len(store.heads) >= SEAL_AT_ROWS:
            if store.seal(SEAL_ROWS, state.oldest_snapshot(), state.time_us_of, at_least=SEAL_ROWS // 4) is None:
                break
            await asyncio.sleep(0)
        while overdue and store.heads:
            if store.seal(SEAL_ROWS, state.oldest_snapshot(), state.time_us_of, aged, overdue=overdue) is None:
                break
            await asyncio.sleep(0)

    async def _demote(self) -> None:
        moves = plan_demotions(
            [hot for _, _, hot in self._hot_segments()], self.hot_bytes(), self._settings.limits, self._clock.now_us()
        )
        chosen = {(move.storage_id, move.number) for move in moves}
        for store, segment, hot in list(self._hot_segments()):
            if (hot.storage_id, hot.number) not in chosen:
                continue
            if self._settings.warm_point_reads:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._worker, self._warm.save_rows, store.storage_id, segment)
            segment.demote(WarmSource(self._warm, store.storage_id, segment.number, segment.schema))
            self.rows_moved["warm"] += segment.count - segment.dead
            self.migrations_total += 1

    def _hot_segments(self) -> Iterator[tuple[TableStore, Segment, HotSegment]]:
        for store in self._state.stores.values():
            for segment in store.segments.values():
                if segment.columns is not None and self._checkpointer.saved(store.storage_id, segment):
                    size = segment.columns_bytes
                    yield store, segment, HotSegment(store.storage_id, segment.number, segment.newest_change_us, size)

    def hot_bytes(self) -> int:
        """Return the bytes of the hot tier: columns in memory, vectors, and tails."""
        total = 0
        for store in self._state.stores.values():
            total += len(store.heads) * TAIL_ROW_BYTES
            total += sum(segment.columns_bytes + segment.vectors_bytes for segment in store.segments.values())
        return total
