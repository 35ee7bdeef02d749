"""The sweep that deletes expired Redis keys.

Owns its pace and its session. What it deletes is in `keyspace`; nobody sees an expired key, swept or not.
"""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from orbit.kernel.clock import Clock
from orbit.kernel.errors import OrbitError
from services.gateway.conversation import Conversation
from services.gateway.protocols.redis.keyspace import SWEEP_KEYS, sweep
from services.storage.client import Backend

log = structlog.get_logger()


class ExpirySweeper:
    """Deletes expired Redis keys in the background, through SQL, so that the log and change feeds see it.

    Any number of them may run: a key is locked and looked at again before it is deleted. `user` needs SELECT,
    UPDATE and DELETE on the tables of schema `redis`.
    """

    def __init__(self, backend: Backend, clock: Clock, *, user: str, database: str, interval_s: float = 1.0) -> None:
        self._backend = backend
        self._clock = clock
        self._user = user
        self._database = database
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self.swept = 0
        """Keys looked at since the start."""

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def sweep(self) -> int:
        """Delete all that has expired by now. Returns how many keys were looked at. Raises OrbitError."""
        conversation = Conversation(self._backend, self._user, self._database, {"application_name": "redis expiry"})
        total = 0
        try:
            while True:
                count = await conversation.drive(sweep(self._clock.now_us()))
                total += count
                self.swept += count
                if count < SWEEP_KEYS:
                    return total
        finally:
            conversation.close()

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                await asyncio.sleep(self._interval_s)
                await self.sweep()
                failing = False
            except OrbitError as error:
                # Nobody sees an expired key, so a sweep can wait; one line for a series of failures.
                if not failing:
                    log.info("redis expiry sweep postponed", sqlstate=error.sqlstate, message=error.message)
                failing = True
            except Exception:
                log.exception("redis expiry sweep failed unexpectedly")
