"""Spans around the requests of sessions, for the gateway's end and for the leader's.

Owns when a span begins and ends: with the request, and with its answer. It wraps sessions and their owners, so that
without tracing nothing of it is on any path. What a request does inside (the append) names the span as its parent
through `Session.trace`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orbit.chassis.tracing import Span, Tracing
from orbit.kernel.errors import OrbitError
from services.storage.client import Backend, Credentials, Session, SessionOwner

StartSpan = Callable[[str, str], Span]
"""Gets the request's kind and the parent's traceparent."""


class TracedBackend:
    """A gateway's backend: each request begins a trace, or is not sampled."""

    def __init__(self, backend: Backend, tracing: Tracing) -> None:
        self._backend = backend
        self._tracing = tracing

    async def credentials(self, user: str) -> Credentials | None:
        return await self._backend.credentials(user)

    def open(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> Session:
        def start(kind: str, parent: str) -> Span:
            return self._tracing.root("gateway request", {"orbit.request": kind, "db.user": user})

        traced = _TracedOwner(owner)
        return _TracedSession(self._backend.open(user, database, settings, traced), traced, start)


def traced_leader(open_session: Callable[[SessionOwner], Session], owner: SessionOwner, tracing: Tracing) -> Any:
    """Return the leader's session for `owner`, with a span for each request under the gateway's."""

    def start(kind: str, parent: str) -> Span:
        return tracing.child("storage request", parent, {"orbit.request": kind})

    traced = _TracedOwner(owner)
    return _TracedSession(open_session(traced), traced, start)


class _TracedOwner:
    """Passes everything on; what answers a request also ends its span."""

    def __init__(self, owner: SessionOwner) -> None:
        self._owner = owner
        self.span: Span | None = None

    def end(self, error: OrbitError | None = None) -> None:
        span, self.span = self.span, None
        if span is not None:
            span.end(error)

    def replied(self, answer: bytes) -> None:
        self.end()
        self._owner.replied(answer)

    def failed(self, error: OrbitError) -> None:
        self.end(error)
        self._owner.failed(error)

    def terminated(self, error: OrbitError) -> None:
        self.end(error)
        self._owner.terminated(error)

    def copy_in(self, wanted: Any) -> None:
        # What follows is the client's pace; the end of the COPY has a span of its own.
        self.end()
        self._owner.copy_in(wanted)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


class _TracedSession:
    """A session whose requests have spans. Everything else is the inner session's."""

    def __init__(self, session: Session, owner: _TracedOwner, start: StartSpan) -> None:
        self._session = session
        self._owner = owner
        self._start = start
        self._parent = ""

    def trace(self, traceparent: str) -> None:
        self._parent = traceparent

    def execute(
        self,
        statement: Any,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
        sync: bool,
    ) -> bytes | None:
        return self._request(
            "execute", lambda: self._session.execute(statement, parameters, parameter_formats, result_formats, sync)
        )

    def simple(self, sql: str) -> bytes | None:
        return self._request("simple", lambda: self._session.simple(sql))

    def sync(self) -> bytes | None:
        return self._request("sync", self._session.sync)

    def copy_done(self) -> bytes | None:
        return self._request("copy", self._session.copy_done)

    def close(self) -> None:
        self._owner.end()
        self._session.close()

    def _request(self, kind: str, run: Callable[[], bytes | None]) -> bytes | None:
        span = self._start(kind, self._parent)
        self._session.trace(span.traceparent)
        self._owner.span = span
        try:
            answer = run()
        except OrbitError as error:
            self._owner.end(error)
            raise
        if answer is not None:
            self._owner.end()
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)
