"""Sessions for requests: a few kept open for each user.

Owns their number and their reuse. A session that is not clean after a request (a transaction open, a statement
still running, settings changed) is closed, never reused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orbit.kernel.errors import QueryCanceled, TooManyTransactions
from services.gateway.conversation import Conversation
from services.gateway.protocols.rest.limits import RestLimits
from services.storage.client import Backend


class PooledConversation(Conversation):
    """A conversation that counts its requests. `tainted`: the request changed what the next one must not inherit."""

    requests = 0
    tainted = False


class SessionPool:
    """One for each listener."""

    def __init__(self, backend: Backend, database: str, limits: RestLimits) -> None:
        self._backend = backend
        self._database = database
        self._limits = limits
        self._idle: dict[str, deque[PooledConversation]] = {}
        self._idle_count = 0
        self._open = 0

    @property
    def sessions(self) -> int:
        """Sessions that are open now."""
        return self._open

    @asynccontextmanager
    async def session(self, user: str) -> AsyncIterator[PooledConversation]:
        """Lend a session for one request, for as long as the request may take. Raises OrbitError.

        Past the request's time the running statement is cancelled and QueryCanceled (57014) raised.
        """
        conversation = self.take(user)
        try:
            async with self.time_limit():
                yield conversation
        finally:
            self.give_back(user, conversation)

    @asynccontextmanager
    async def time_limit(self) -> AsyncIterator[None]:
        """Limit what is awaited inside to a request's time. Raises QueryCanceled."""
        seconds = self._limits.request_timeout_s
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise QueryCanceled(f"canceling statement: the request took longer than {seconds:g} s") from error

    def close(self) -> None:
        """Close the idle sessions."""
        for idle in self._idle.values():
            for conversation in idle:
                conversation.close()
                self._open -= 1
        self._idle.clear()
        self._idle_count = 0

    def take(self, user: str) -> PooledConversation:
        """Lend a session without a time limit; the caller gives it back. Raises OrbitError."""
        idle = self._idle.get(user)
        while idle:
            conversation = self._pop(user, idle)
            if conversation.usable:
                conversation.requests += 1
                return conversation
            self._drop(conversation)
        if self._open >= self._limits.max_sessions and not self._evict():
            raise TooManyTransactions("too many requests are running")
        conversation = PooledConversation(self._backend, user, self._database, {"application_name": "rest"})
        self._open += 1
        return conversation

    def give_back(self, user: str, conversation: PooledConversation) -> None:
        """Take a session back: keep it, or close it when it is not clean."""
        limits = self._limits
        idle = self._idle.setdefault(user, deque())
        if (
            not conversation.usable
            or conversation.tainted
            or conversation.requests >= limits.session_requests
            or len(idle) >= limits.sessions_per_user
            or (self._idle_count >= limits.max_idle_sessions and not self._evict())
        ):
            self._drop(conversation)
            if not idle:
                self._idle.pop(user, None)
            return
        # `_evict` may have emptied and forgotten this very queue.
        self._idle.setdefault(user, idle).append(conversation)
        self._idle_count += 1

    def _evict(self) -> bool:
        """Close one idle session of some user; return whether there was one."""
        for user, idle in self._idle.items():
            if idle:
                self._drop(self._pop(user, idle))
                return True
        return False

    def _pop(self, user: str, idle: deque[PooledConversation]) -> PooledConversation:
        conversation = idle.pop()
        self._idle_count -= 1
        if not idle:
            del self._idle[user]
        return conversation

    def _drop(self, conversation: PooledConversation) -> None:
        conversation.close()
        self._open -= 1
