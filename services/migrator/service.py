"""The migrator's loop: finish what is open, then begin what is due.

Owns pacing, waiting for a store or a leader that is away, back-off of tables that fail, and what `/health` says. Any
number of migrators may run: the log refuses a second move of a table, and a move that another migrator has begun is
left to it until it is `takeover_after_s` old. Two at work on one move are safe (one snapshot wins), only wasteful.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol

import structlog

from orbit.kernel.clock import Clock
from orbit.kernel.errors import LogUnavailable, NotLeader, OrbitError, StoreUnavailable
from services.migrator.cutover import Cutover, LakeOfMove, State, blocking
from services.migrator.policy import PlannedMove, PolicySettings, SegmentKey, key_of, plan
from services.storage.client import Claim, ClaimRefused, Moves, SegmentStatistics, Tier

log = structlog.get_logger()

FIRST_BACKOFF_S: Final = 60.0
LAST_BACKOFF_S: Final = 3600.0
WAIT_POLL_S: Final = 1.0
"""How soon a waiting migrator looks again, if its interval is longer."""
WAIT_ERRORS: Final = (StoreUnavailable, NotLeader, LogUnavailable)
"""What goes away by itself: claims stay open, the loop tries again at its next turn."""


class MoveCounter(Protocol):
    """What the service needs of a metric: `orbit.chassis.metrics.Counter` is one."""

    value: float


class ProbedLake(LakeOfMove, Protocol):
    def probe(self) -> None: ...


@dataclass(frozen=True, slots=True)
class MigratorSettings:
    """`name` tells this migrator from others across restarts (the node id). `interval_ms` is the pause when idle."""

    name: str
    policy: PolicySettings
    interval_ms: int = 60_000
    takeover_after_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did."""

    resumed: int = 0
    committed: int = 0
    aborted: int = 0
    rows: int = 0
    planned: int = 0

    @property
    def progressed(self) -> bool:
        return self.committed > 0


class Migrator:
    """Runs moves one after the other. `migrations` counts committed moves (orbit_storage_tier_migration_total)."""

    def __init__(
        self, moves: Moves, lake: ProbedLake, settings: MigratorSettings, clock: Clock, migrations: MoveCounter
    ) -> None:
        self._moves = moves
        self._lake = lake
        self._settings = settings
        self._clock = clock
        self._migrations = migrations
        self._owner = blake2b(settings.name.encode(), digest_size=8).digest()
        self._backoff: dict[int, tuple[float, float]] = {}
        """Table id to (monotonic time before which it is not tried, length of the wait)."""
        self._moved: set[SegmentKey] = set()
        self._trouble: str | None = None
        self._working_on: str | None = None
        self._last_turn_us: int | None = None
        self._moves_done = 0
        self._rows_done = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to take turns, in a task of this loop."""
        self._task = asyncio.get_running_loop().create_task(self.run(), name="migrator")

    async def stop(self) -> None:
        """Stop where we are: the claim stays open, and whoever runs next goes on from there."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def ended(self) -> None:
        """Return when the loop has ended, which it does only when it is stopped or broken."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def run(self) -> None:
        """Take turns until cancelled. A turn that moved something is followed by the next at once."""
        while True:
            progressed = await self._guarded_turn()
            if not progressed:
                interval_s = self._settings.interval_ms / 1000
                await asyncio.sleep(min(interval_s, WAIT_POLL_S) if self._trouble is not None else interval_s)

    def health(self) -> dict[str, Any]:
        """Return what `/health` tells about the migrator. Waiting for a store is no illness of this process."""
        return {
            "status": "waiting" if self._trouble else "ok",
            "waiting_for": self._trouble,
            "working_on": self._working_on,
            "last_turn_us": self._last_turn_us,
            "moves_committed": self._moves_done,
            "rows_moved": self._rows_done,
        }

    async def turn(self) -> Turn:
        """Finish open moves, then carry out what the policy plans. Raises one of WAIT_ERRORS."""
        open_moves = await self._moves.open_moves()
        resumable = [claim for claim in open_moves if self._is_ours_to_resume(claim)]
        outcomes = [await self._carry_out(claim, resumed=True) for claim in resumable]
        busy = {claim.table.id for claim in open_moves} | self._backed_off()
        planned = plan(await self._unmoved(), self._settings.policy, self._clock.now_us(), busy)
        if planned:
            # A store that is down gets no claims: an open claim holds the horizon.
            await blocking(self._lake.probe)
        for move in planned:
            begun = await self._begin(move)
            if begun is not None:
                outcomes.append(await self._carry_out(begun, resumed=False))
                if outcomes[-1][0] is State.COMMITTED:
                    self._moved.update(move.segments)
        states = [state for state, _ in outcomes]
        return Turn(
            resumed=len(resumable),
            committed=states.count(State.COMMITTED),
            aborted=states.count(State.ABORTED),
            rows=sum(rows for _, rows in outcomes),
            planned=len(planned),
        )

    async def _guarded_turn(self) -> bool:
        try:
            done = await self.turn()
        except WAIT_ERRORS as error:
            if self._trouble != error.message:
                # Every start and every change of leaders has a moment without one.
                tell = log.info if isinstance(error, NotLeader) else log.warning
                tell("migrator waits", reason=error.message, sqlstate=error.sqlstate)
            self._trouble = error.message
            return False
        except Exception:
            log.exception("migrator turn failed")
            return False
        finally:
            self._last_turn_us = self._clock.now_us()
        if self._trouble is not None:
            log.info("migrator goes on", waited_for=self._trouble)
            self._trouble = None
        if done.planned or done.resumed:
            log.info(
                "migrator turn done",
                planned=done.planned,
                resumed=done.resumed,
                committed=done.committed,
                aborted=done.aborted,
                rows=done.rows,
            )
        return done.progressed

    async def _unmoved(self) -> list[SegmentStatistics]:
        """Return the segments without those that this process has just moved and that the leader still lists as warm.

        A node lets go of a segment some time after its COLD_COMMIT; to copy it again would be harmless and useless.
        """
        segments = await self._moves.statistics()
        self._moved &= {key_of(segment) for segment in segments if segment.tier is Tier.WARM}
        return [segment for segment in segments if key_of(segment) not in self._moved]

    async def _begin(self, move: PlannedMove) -> Claim | None:
        try:
            return await self._moves.begin(
                self._owner + os.urandom(8), move.table_id, move.storage_id, move.ranges, move.changed_through
            )
        except ClaimRefused as refused:
            log.info("claim refused", table_id=move.table_id, reason=refused.message)
            return None

    async def _carry_out(self, claim: Claim, *, resumed: bool) -> tuple[State, int]:
        """Run one move. Only errors that mean waiting come out; any other aborts the move and backs the table off."""
        table = f"{claim.table.schema}.{claim.table.name}"
        cutover = Cutover(self._moves, self._lake, claim, resumed=resumed)
        self._working_on = table
        try:
            state = await cutover.run()
        except WAIT_ERRORS:
            raise
        except Exception as error:
            log.exception("move failed", move=claim.move_id.hex(), table=table)
            reason = error.message if isinstance(error, OrbitError) else type(error).__name__
            await self._moves.abort(claim.move_id, f"the migrator failed: {reason}")
            self._back_off(claim.table.id)
            return State.ABORTED, 0
        finally:
            self._working_on = None
        if state is State.COMMITTED:
            self._backoff.pop(claim.table.id, None)
            self._moves_done += 1
            self._rows_done += cutover.rows
            self._migrations.value += 1
            return state, cutover.rows
        if cutover.conflict is not None:
            log.error("move given up", table=table, reason=cutover.conflict.message, hint=cutover.conflict.hint)
        self._back_off(claim.table.id)
        return state, 0

    def _is_ours_to_resume(self, claim: Claim) -> bool:
        if claim.move_id.startswith(self._owner):
            return True
        return self._clock.now_us() - claim.begun_us >= self._settings.takeover_after_s * 1_000_000

    def _back_off(self, table_id: int) -> None:
        _, wait_s = self._backoff.get(table_id, (0.0, FIRST_BACKOFF_S / 2))
        wait_s = min(wait_s * 2, LAST_BACKOFF_S)
        self._backoff[table_id] = (self._clock.monotonic() + wait_s, wait_s)

    def _backed_off(self) -> set[int]:
        now = self._clock.monotonic()
        return {table_id for table_id, (until, _) in self._backoff.items() if now < until}
