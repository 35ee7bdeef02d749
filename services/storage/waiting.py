"""What may end a statement's wait: its timeouts, and the wake-up by a granted lock.

Owns the handles of one session's current wait, so that none of them outlives the statement that it belongs to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orbit.kernel.errors import OrbitError

Resume = Callable[[OrbitError | None], None]


class Waiting:
    """One session's current wait. Costs nothing while nobody waits."""

    __slots__ = ("_lock_timer", "_loop", "_statement_timer", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._statement_timer: asyncio.TimerHandle | None = None
        self._lock_timer: asyncio.TimerHandle | None = None
        self._wake: asyncio.Handle | None = None

    def limit_statement(self, limit_ms: int, expire: Callable[[], None]) -> None:
        """Limit the whole statement; 0 is no limit."""
        if limit_ms > 0:
            self._statement_timer = self._loop.call_later(limit_ms / 1000, expire)

    def limit_lock(self, limit_ms: int, expire: Callable[[], None]) -> None:
        """Limit the wait for one lock, anew for each; 0 is no limit."""
        self._drop_lock_timer()
        if limit_ms > 0:
            self._lock_timer = self._loop.call_later(limit_ms / 1000, expire)

    def wake(self, resume: Resume, error: OrbitError | None) -> None:
        """Resume in the next turn of the event loop, unless the wait is over by then."""
        if self._wake is not None:
            self._wake.cancel()
        self._wake = self._loop.call_soon(self._woken, resume, error)

    def stop(self) -> None:
        """The statement is over: nothing of this may reach the next one."""
        self._drop_lock_timer()
        if self._statement_timer is not None:
            self._statement_timer.cancel()
            self._statement_timer = None
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _woken(self, resume: Resume, error: OrbitError | None) -> None:
        self._wake = None
        self._drop_lock_timer()
        resume(error)

    def _drop_lock_timer(self) -> None:
        if self._lock_timer is not None:
            self._lock_timer.cancel()
            self._lock_timer = None
