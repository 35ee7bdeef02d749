"""One move, from claim to eviction: a state machine that survives a crash at any step.

    CLAIMED ──copied──> COPIED ──published──> PUBLISHED ──committed──> COMMITTED
       │                   │                      │
       ├──found────────────┼────────────────> PUBLISHED   an earlier attempt had published the snapshot
       ├──empty────────────┼──────────────────────┼────> ABORTED     nothing is left to move
       ├──hopeless─────────┴──────────────────────┴────> ABORTED     the lake is not what the log says
       └──gone─────────────┴──────────────────────┴────> ENDED       cancelled, or finished by somebody else

What survives a crash is the claim, which is in the log, and the snapshot, whose properties name the move. So a resumed
move starts in CLAIMED and looks for its snapshot first. Files of a crashed attempt that no snapshot names are swept
once the move's snapshot stands. A snapshot of an aborted or cancelled move is rewound by the table's next move.

Owns the order of steps and nothing of how they are done. `StoreUnavailable`, `NotLeader` and `LogUnavailable` pass
through and leave the claim open: the move waits and goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from enum import Enum
from typing import Any, Final, Protocol, TypeVar, cast

import structlog

from orbit.kernel.errors import NotSupported, StoreUnavailable
from services.migrator.copy import Copied, Copier
from services.migrator.iceberg import LakeConflict, Target
from services.storage.client import Claim, MoveEnded, Moves, SnapshotRef

log = structlog.get_logger()
T = TypeVar("T")


class State(Enum):
    CLAIMED = "claimed"
    COPIED = "copied"
    PUBLISHED = "published"
    COMMITTED = "committed"
    ABORTED = "aborted"
    ENDED = "ended"


class Event(Enum):
    COPIED = "copied"
    FOUND = "found"
    PUBLISHED = "published"
    COMMITTED = "committed"
    EMPTY = "empty"
    HOPELESS = "hopeless"
    GONE = "gone"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.CLAIMED, Event.FOUND): State.PUBLISHED,
    (State.CLAIMED, Event.COPIED): State.COPIED,
    (State.CLAIMED, Event.EMPTY): State.ABORTED,
    (State.CLAIMED, Event.HOPELESS): State.ABORTED,
    (State.CLAIMED, Event.GONE): State.ENDED,
    (State.COPIED, Event.PUBLISHED): State.PUBLISHED,
    (State.COPIED, Event.HOPELESS): State.ABORTED,
    (State.COPIED, Event.GONE): State.ENDED,
    (State.PUBLISHED, Event.COMMITTED): State.COMMITTED,
    (State.PUBLISHED, Event.HOPELESS): State.ABORTED,
    (State.PUBLISHED, Event.GONE): State.ENDED,
}
FINAL: Final = frozenset({State.COMMITTED, State.ABORTED, State.ENDED})

assert all(state not in FINAL for state, _ in TRANSITIONS), "nothing follows a final state"


class LakeOfMove(Protocol):
    """What a cutover needs of `services.migrator.iceberg.Lake`. Blocking."""

    def published(self, claim: Claim) -> SnapshotRef | None: ...

    def target(self, claim: Claim) -> Target: ...

    def copier(self, claim: Claim, target: Target) -> Copier: ...

    def publish(self, claim: Claim, copied: Copied) -> SnapshotRef: ...

    def delete(self, location: str) -> None: ...

    def sweep(self, claim: Claim, ref: SnapshotRef) -> int: ...


class Cutover:
    """Carries one open move to a final state. `resumed` says that somebody may have worked on it before."""

    def __init__(self, moves: Moves, lake: LakeOfMove, claim: Claim, *, resumed: bool) -> None:
        self.state = State.CLAIMED
        self.rows = 0
        self.conflict: LakeConflict | NotSupported | None = None
        """Why the move was hopeless."""
        self._moves = moves
        self._lake = lake
        self._claim = claim
        self._resumed = resumed
        self._copied: Copied | None = None
        self._ref: SnapshotRef | None = None
        self._log = log.bind(move=claim.move_id.hex(), table=f"{claim.table.schema}.{claim.table.name}")

    async def run(self) -> State:
        """Run to a final state and return it. Raises StoreUnavailable, NotLeader, LogUnavailable: run anew later."""
        steps = {State.CLAIMED: self._copy, State.COPIED: self._publish, State.PUBLISHED: self._commit}
        while self.state not in FINAL:
            try:
                event = await steps[self.state]()
            except MoveEnded:
                event = Event.GONE
            except (LakeConflict, NotSupported) as conflict:
                event = await self._give_up(conflict)
            self._advance(event)
        if self.state is not State.COMMITTED:
            await self._discard()
        elif self._resumed and self._ref is not None:
            swept = await blocking(self._lake.sweep, self._claim, self._ref)
            self._log.info("left-over files of earlier attempts swept", count=swept)
        return self.state

    def _advance(self, event: Event) -> None:
        try:
            new = TRANSITIONS[self.state, event]
        except KeyError:
            raise AssertionError(f"{event} in {self.state}") from None
        self._log.debug("move advanced", old=self.state.value, new=new.value, because=event.value)
        self.state = new

    async def _copy(self) -> Event:
        claim, lake = self._claim, self._lake
        if self._resumed:
            self._ref = await blocking(lake.published, claim)
            if self._ref is not None:
                return Event.FOUND
        target = await blocking(lake.target, claim)
        copier = lake.copier(claim, target)
        try:
            async with aclosing(cast(Any, self._moves.read(claim.move_id))) as batches:
                async for batch in batches:
                    await blocking(copier.add, batch)
            copied = await blocking(copier.finish)
        except BaseException:
            # What cannot be deleted now is swept when the move is resumed.
            with suppress(StoreUnavailable):
                await blocking(copier.discard, lake.delete)
            raise
        self.rows = copied.rows
        if not copied.rows:
            await self._moves.abort(claim.move_id, "every claimed row has been deleted or is cold already")
            return Event.EMPTY
        self._copied = copied
        return Event.COPIED

    async def _publish(self) -> Event:
        assert self._copied is not None
        self._ref = await blocking(self._lake.publish, self._claim, self._copied)
        return Event.PUBLISHED

    async def _commit(self) -> Event:
        claim, ref = self._claim, self._ref
        assert ref is not None
        await self._moves.commit(claim.move_id, claim.as_of, ref.snapshot_id, ref.metadata_location)
        return Event.COMMITTED

    async def _give_up(self, conflict: LakeConflict | NotSupported) -> Event:
        if all(other.move_id != self._claim.move_id for other in await self._moves.open_moves()):
            return Event.GONE
        self.conflict = conflict
        await self._moves.abort(self._claim.move_id, conflict.message)
        return Event.HOPELESS

    async def _discard(self) -> None:
        """Delete the copy of a move that published nothing. The files of a published one are its snapshot's."""
        if self._copied is None or self._ref is not None:
            return
        for file in self._copied.files:
            await blocking(self._lake.delete, file.file_path)


async def blocking(call: Callable[..., T], *arguments: Any) -> T:
    """Run a call in a worker thread.

    A thread cannot be cancelled: when the caller is, wait for the thread, so that the clean-up never runs beside it.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait([thread])
        if (error := None if thread.cancelled() else thread.exception()) is not None:
            log.info("call ended with an error after it was cancelled", error=str(error))
        raise
