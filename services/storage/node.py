"""One storage node's part in one shard: follow the log, campaign, lead, step down.

Owns the role. Coordination only nominates; the log decides: a nominated node replays to the tail and appends
EPOCH(highest + 1) by compare-and-set, and only then leads. Whatever ends the reign, the node follows again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from enum import Enum
from typing import cast

import structlog

from orbit.kernel import records
from orbit.kernel.clock import Clock
from orbit.kernel.errors import LogCorrupt, NotLeader, OrbitError
from orbit.kernel.ids import ShardId
from orbit.kernel.limits import APPLY_TURN_S, CATCH_UP_RETRY_S
from orbit.kernel.records import Kind, Record
from services.coordinator.client import Coordination, Leader
from services.storage.engine import Engine
from services.storage.log.interface import Entry, Log, RecordsTrimmed, SlotTaken
from services.storage.txn.committer import Committer

_log = structlog.get_logger(__name__)

STOP_WAIT_S = 5.0
"""How long a node that stops waits for the log to decide its last append."""


class Role(Enum):
    STARTING = "starting"
    FOLLOWER = "follower"
    LEADER = "leader"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    node_id: str
    address: str
    shard: ShardId
    tick_interval_s: float | None
    """How often an idle leader appends a TICK; None on a node that nobody follows."""


class Node:
    """The role of this node over one shard. `bootstrap` fills an empty database, once, as its first leader."""

    def __init__(
        self,
        settings: NodeSettings,
        engine: Engine,
        log: Log,
        coordination: Coordination,
        clock: Clock,
        bootstrap: Callable[[], Awaitable[None]],
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.role = Role.STARTING
        self.failure: str | None = None
        self.leader_changes = 0
        self.on_deposed: list[Callable[[OrbitError], None]] = []
        """Called when this node stops leading: sessions end here."""
        self._state = engine.state
        self._log = log
        self._coordination = coordination
        self._clock = clock
        self._bootstrap = bootstrap
        self._deposed = asyncio.Event()
        self._reason = ""
        self._refusal = ""
        """Why the log last refused to be sealed: told once."""
        self._committer: Committer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start following and campaigning."""
        self.engine.lease_valid = self._coordination.lease_valid
        self._coordination.on_lease_lost(lambda: self._depose("the lease was lost"))
        self._task = asyncio.create_task(self._run(), name="storage-node")

    async def stop(self) -> None:
        """Step down and stop following."""
        self._depose("the node is stopping")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await asyncio.wait_for(self._end_reign(), STOP_WAIT_S)
        except TimeoutError:
            _log.warning("an append in flight is undecided, the next leader will find what became of it")

    async def ended(self) -> None:
        """Wait until the node's loop has ended; raises what ended it. It never ends by itself while all is well."""
        if self._task is not None:
            await asyncio.shield(self._task)

    @property
    def leading(self) -> bool:
        return self.role is Role.LEADER

    async def _run(self) -> None:
        try:
            while True:
                await self._follow_until_nominated()
                try:
                    if await self._seal():
                        await self._lead()
                except OrbitError as error:
                    # The log does not answer: give the nomination back, somebody else may reach it.
                    _log.warning("could not win the log", reason=error.message)
                    await self._end_reign()
                    await self._coordination.resign(self.settings.shard)
                    await asyncio.sleep(CATCH_UP_RETRY_S)
                if self._state.broken is not None:
                    raise LogCorrupt(self._state.broken)
        except (LogCorrupt, RecordsTrimmed) as error:
            # A person must look; until then somebody else may lead.
            self.role, self.failure = Role.FAILED, str(error)
            _log.error("this node stops serving", reason=str(error), sequence=self._state.applied_sequence)
            await self._end_reign()
            await self._coordination.resign(self.settings.shard)

    async def _follow_until_nominated(self) -> None:
        nomination = asyncio.create_task(self._coordination.campaign(self.settings.shard), name="campaign")
        following = asyncio.create_task(self._follow(None), name="follow")
        self.role = Role.FOLLOWER
        try:
            await asyncio.wait({nomination, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
            nomination.result()
        finally:
            for task in (nomination, following):
                task.cancel()
            await asyncio.gather(nomination, following, return_exceptions=True)

    async def _follow(self, until: int | None) -> None:
        """Apply records as they come; return after record `until`."""
        state, loop = self._state, asyncio.get_running_loop()
        if until is not None and state.applied_sequence >= until:
            return
        turn_ends = loop.time() + APPLY_TURN_S
        async with aclosing(cast(AsyncGenerator[Entry, None], self._log.read(state.applied_sequence + 1))) as entries:
            async for entry in entries:
                state.replay(entry.sequence, entry.data)
                self._coordination.report(state.applied_sequence)
                if until is not None and entry.sequence >= until:
                    return
                if loop.time() >= turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = loop.time() + APPLY_TURN_S

    async def _seal(self) -> bool:
        """Win the log: catch up, append the next EPOCH. False when the nomination was lost on the way."""
        self._deposed.clear()
        state = self._state
        _, last = await self._log.bounds()
        await self._catch_up(last)
        while not self._deposed.is_set():
            epoch = state.epoch + 1
            record = Record(
                records.FORMAT,
                Kind.EPOCH,
                state.timeline,
                epoch,
                state.catalog.version,
                max(self._clock.now_us(), state.applied_time_us + 1),
                state.last_hash,
                records.EpochBody(epoch, self.settings.node_id),
            )
            data = records.encode(record)
            outcome = await self._append(data, state.applied_sequence)
            if isinstance(outcome, int):
                state.apply(outcome, record, records.record_hash(data), decoded=False)
                return True
            if isinstance(outcome, SlotTaken):
                await self._catch_up(max(outcome.last_sequence, state.applied_sequence + 1))
                continue
            if str(outcome) != self._refusal:
                self._refusal = str(outcome)
                _log.warning("could not seal the log, trying again", reason=self._refusal)
            await asyncio.sleep(CATCH_UP_RETRY_S)
        return False

    async def _catch_up(self, until: int) -> None:
        """Follow up to a record, which may take long; returns early when the nomination is lost."""
        following = asyncio.create_task(self._follow(until), name="catch-up")
        deposed = asyncio.create_task(self._deposed.wait(), name="catch-up-deposed")
        try:
            await asyncio.wait({following, deposed}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                following.result()
        finally:
            for task in (following, deposed):
                task.cancel()
            await asyncio.gather(following, deposed, return_exceptions=True)

    async def _append(self, data: bytes, expected: int) -> int | BaseException:
        outcome: asyncio.Future[int | BaseException] = asyncio.get_running_loop().create_future()
        self._log.append(data, expected, lambda result: None if outcome.done() else outcome.set_result(result))
        return await outcome

    async def _lead(self) -> None:
        state, settings = self._state, self.settings
        if self._deposed.is_set():
            return
        self._committer = Committer(state, self._log, self._clock, asyncio.get_running_loop(), self._depose)
        self._committer.tracing = self.engine.tracing
        self._committer.write_duration = self.engine.meters.write_duration["hot"]
        self.engine.committer = self._committer
        try:
            if not state.catalog.objects:
                await self._bootstrap()
            await self._coordination.announce(Leader(settings.shard, settings.node_id, settings.address, state.epoch))
            self.role = Role.LEADER
            self.leader_changes += 1
            _log.info("leads the shard", epoch=state.epoch, sequence=state.applied_sequence)
            await self._reign()
        except (RuntimeError, OrbitError) as error:
            self._depose(str(error))
        _log.warning("steps down", reason=self._reason, epoch=state.epoch)
        await self._end_reign()
        await self._coordination.resign(settings.shard)

    async def _reign(self) -> None:
        """Wait until deposed; append a TICK for each interval without any other record."""
        while not self._deposed.is_set():
            seen = self._state.applied_sequence
            try:
                # Not wait_for: in Python 3.11 it loses a cancellation that comes with the event, and `stop` hangs.
                async with asyncio.timeout(self.settings.tick_interval_s):
                    await self._deposed.wait()
            except TimeoutError:
                committer = self.engine.committer
                if committer is not None and self._state.applied_sequence == seen and not committer.backlog:
                    committer.append(Kind.TICK, None, lambda _: None)
            self._coordination.report(self._state.applied_sequence)

    def _depose(self, reason: str) -> None:
        """Stop serving now: when this returns, a successor may be nominated. What is in flight is decided later."""
        if self._deposed.is_set():
            return
        self._reason = reason
        self._deposed.set()
        committer, self.engine.committer = self.engine.committer, None
        if self.role is Role.LEADER:
            self.role = Role.FOLLOWER
        if committer is not None:
            error = NotLeader(f"this node no longer leads the shard: {reason}")
            committer.stop(error)
            for callback in self.on_deposed:
                callback(error)

    async def _end_reign(self) -> None:
        """Wait until the last append is decided, so that following starts from a settled state."""
        self._depose(self._reason or self.failure or "the reign ended")
        committer, self._committer = self._committer, None
        if committer is not None:
            await committer.idle()
