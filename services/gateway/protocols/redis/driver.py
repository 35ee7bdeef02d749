"""Drives a command's storage work over one session, under call-backs.

Owns the connection's session, its prepared statements, and the one piece of work that is under way. Knows no
command: work is a generator of queries that returns a reply (`services.gateway.conversation.Steps`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from orbit.kernel.errors import NotSupported, OrbitError
from services.gateway import answers
from services.gateway.conversation import BINARY, ROLLBACK, Query, Result, Steps
from services.gateway.protocols.redis import errors, wire
from services.gateway.protocols.redis.keyspace import RedisError
from services.storage.client import IDLE, CopyFormat, Session, SessionOwner, Statement

log = structlog.get_logger()

_ROLLED_BACK: Final = b"C\x00\x00\x00\x0dROLLBACK\x00"
_INTERNAL_ERROR: Final = wire.error("ERR internal error (SQLSTATE XX000)")


class Driver:
    """The `SessionOwner` of a connection's session. The session is opened when the first work needs it."""

    __slots__ = ("_ended", "_finished", "_open", "_parts", "_preparing", "_session", "_statements", "_steps")

    def __init__(
        self,
        open_session: Callable[[SessionOwner], Session],
        finished: Callable[[bytes], None],
        ended: Callable[[bytes], None],
    ) -> None:
        """`finished` takes the reply of work that had to wait; `ended` the last reply (or b'') when all is over."""
        self._open = open_session
        self._finished = finished
        self._ended = ended
        self._session: Session | None = None
        self._statements: dict[Query, Statement] = {}
        self._steps: Steps[bytes] | None = None
        self._preparing: tuple[Query, tuple[bytes | None, ...]] | None = None
        self._parts: list[bytes] = []

    def start(self, steps: Steps[bytes]) -> bytes | None:
        """Begin work; return its reply at once, or None when `finished` (or `ended`) will be called."""
        assert self._steps is None, "one piece of work at a time"
        self._steps = steps
        return self._go_on(None, None)

    def drop(self) -> None:
        """Give up the work that is under way, and the session."""
        busy = self._steps is not None
        session, self._session = self._session, None
        self._steps = None
        self._preparing = None
        self._parts.clear()
        self._statements.clear()
        if session is not None:
            if busy:
                session.cancel()
            session.close()

    def _go_on(self, result: Result | None, failure: OrbitError | None) -> bytes | None:
        """Run the work as far as answers are there at once."""
        steps = self._steps
        assert steps is not None
        try:
            while True:
                if failure is not None:
                    query, parameters = steps.throw(failure)
                    failure = None
                elif result is None:
                    query, parameters = next(steps)
                else:
                    query, parameters = steps.send(result)
                try:
                    answer = self._issue(query, parameters)
                    if answer is None:
                        return None
                    result = self._result(answer)
                except OrbitError as error:
                    failure = error
        except StopIteration as stop:
            reply: bytes = stop.value
        except RedisError as refused:
            reply = wire.error(refused.message)
        except OrbitError as failed:
            if failed.sqlstate.startswith(("XX", "58")):
                log.error("redis command failed in the engine", sqlstate=failed.sqlstate, message=failed.message)
            reply = errors.reply(failed)
        except Exception:
            # A defect. What the session's transaction holds is unknown, so it must not be used again.
            log.exception("redis command failed unexpectedly")
            self._ended(_INTERNAL_ERROR)
            return None
        self._steps = None
        return reply

    def _issue(self, query: Query, parameters: tuple[bytes | None, ...]) -> bytes | None:
        session = self._session
        if session is None:
            session = self._session = self._open(self)
        if query is ROLLBACK and session.status == IDLE:
            return _ROLLED_BACK
        statement = self._statements.get(query)
        if statement is None:
            statement = session.prepare(query.sql, query.parameter_oids)
            if statement is None:
                self._preparing = query, parameters
                return None
            self._statements[query] = statement
        return session.execute(statement, parameters, BINARY, BINARY, True)

    def _result(self, answer: bytes) -> Result:
        if self._parts:
            answer = b"".join((*self._parts, answer))
            self._parts.clear()
        return Result((), *answers.decode(answer))

    def _resume(self, result: Result | None, failure: OrbitError | None) -> None:
        if self._steps is not None:
            reply = self._go_on(result, failure)
            if reply is not None:
                self._finished(reply)

    # What the session calls.

    def replied(self, answer: bytes) -> None:
        try:
            result = self._result(answer)
        except OrbitError as error:
            self._resume(None, error)
        else:
            self._resume(result, None)

    def prepared(self, statement: Statement) -> None:
        if self._preparing is None or self._session is None:
            return  # the work was given up in the meantime
        (query, parameters), self._preparing = self._preparing, None
        self._statements[query] = statement
        try:
            answer = self._session.execute(statement, parameters, BINARY, BINARY, True)
        except OrbitError as error:
            self._resume(None, error)
        else:
            if answer is not None:
                self.replied(answer)

    def failed(self, error: OrbitError) -> None:
        self._preparing = None
        self._parts.clear()
        self._resume(None, error)

    def rows(self, messages: bytes) -> None:
        self._parts.append(messages)

    def copy_in(self, copy: CopyFormat) -> None:
        raise NotSupported("COPY over the Redis protocol")

    def parameter_changed(self, name: str, value: str) -> None:
        """Redis clients are told of no settings."""

    def notice(self, error: OrbitError) -> None:
        """Redis has no notices."""

    def terminated(self, error: OrbitError) -> None:
        self._session = None
        self._ended(errors.reply(error) if self._steps is not None else b"")
