"""Storage work for doors that await: one session, one statement at a time.

Owns the step from the callback contract of `services.storage.client` to `await`, and the two words that the
doors share for storage work: a `Query` (a statement that is prepared once a session) and `Steps` (a generator
that yields queries and receives results, so that the same work runs under callbacks and under `await`).
Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from orbit.kernel.errors import NotSupported, OrbitError
from services.gateway import answers
from services.gateway.answers import Row
from services.storage.client import IDLE, Backend, ColumnDescription, CopyFormat, Session, Statement

T = TypeVar("T")

BINARY = (1,)
"""Every parameter, or every result column, in binary."""


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """A statement known when the program is written. Parameters and results are binary."""

    sql: str
    parameter_oids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A statement's answer. Values are text, or binary for a `Query`; None is NULL."""

    columns: Sequence[ColumnDescription]
    rows: list[Row]
    tag: bytes

    @property
    def row_count(self) -> int:
        """The number in the tag: rows returned or changed."""
        return answers.row_count(self.tag)


Request = tuple[Query, tuple[bytes | None, ...]]
Steps = Generator[Request, Result, T]
"""Storage work. An `OrbitError` of a query is thrown into the generator at its `yield`."""

HOLD_BYTES: Final = 1024 * 1024
"""Parts of a streamed answer that wait for their reader before the session is asked to hold."""

BEGIN = Query("BEGIN")
BEGIN_SNAPSHOT = Query("BEGIN ISOLATION LEVEL REPEATABLE READ")
COMMIT = Query("COMMIT")
ROLLBACK = Query("ROLLBACK")


class Conversation:
    """One session that answers to `await`. The `SessionOwner` of its own session.

    Not for two tasks at once. After a cancelled or failed wait the session may still be busy: see `usable`.
    """

    def __init__(self, backend: Backend, user: str, database: str, settings: dict[str, str]) -> None:
        """Open the session. Raises OrbitError when the backend refuses it."""
        self._pending: asyncio.Future[bytes | Statement] | None = None
        self._parts: deque[bytes] = deque()
        self._parts_bytes = 0
        self._arrived = asyncio.Event()
        self._streaming = False
        self._held = False
        self._refused_copy = False
        self._ended: OrbitError | None = None
        self._closed = False
        self._statements: dict[Query, Statement] = {}
        self._session: Session = backend.open(user, database, settings, self)

    @property
    def usable(self) -> bool:
        """Whether another statement can be run: open, no answer outstanding, no transaction open."""
        return not self._closed and self._ended is None and self._pending is None and self._session.status == IDLE

    @property
    def in_transaction(self) -> bool:
        return self._session.status != IDLE

    async def run(self, sql: str, parameters: Sequence[bytes | None] = (), oids: Sequence[int] = ()) -> Result:
        """Run one statement with text parameters. Raises the statement's OrbitError."""
        return await self.execute(await self.prepare(sql, oids), parameters)

    async def prepare(self, sql: str, oids: Sequence[int] = ()) -> Statement:
        """Prepare a statement for `execute` and `stream`. Raises its OrbitError."""
        self._check_open()
        statement = self._session.prepare(sql, oids)
        if statement is not None:
            return statement
        prepared = await self._wait()
        assert not isinstance(prepared, bytes)
        return prepared

    async def execute(self, statement: Statement, parameters: Sequence[bytes | None] = ()) -> Result:
        """Run a prepared statement with text parameters. Raises its OrbitError."""
        self._check_open()
        answer = await self._answer(self._session.execute(statement, parameters, (), (), True))
        rows, tag = answers.decode(answer)
        return Result(statement.columns or (), rows, tag)

    async def stream(self, statement: Statement, parameters: Sequence[bytes | None] = ()) -> Stream:
        """Run a statement whose rows are taken part by part; returns when the first part is there."""
        self._check_open()
        self._streaming = True
        try:
            answer = self._session.execute(statement, parameters, (), (), True)
        except BaseException:
            self._streaming = False
            raise
        stream = Stream(self, statement.columns or (), statement.columns is not None, answer)
        await stream.begin()
        return stream

    async def drive(self, steps: Steps[T]) -> T:
        """Run a generator's queries until it returns."""
        try:
            query, parameters = next(steps)
            while True:
                try:
                    result = await self._query(query, parameters)
                except OrbitError as error:
                    query, parameters = steps.throw(error)
                else:
                    query, parameters = steps.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def begin(self) -> None:
        await self.run("BEGIN")

    async def commit(self) -> None:
        await self.run("COMMIT")

    async def rollback(self) -> None:
        """Roll back the open transaction, if there is one."""
        if self.in_transaction:
            await self.run("ROLLBACK")

    def cancel(self) -> None:
        self._session.cancel()

    def close(self) -> None:
        """End the session; an open transaction rolls back. May be called again."""
        if not self._closed:
            self._closed = True
            if self._pending is not None:
                self._session.cancel()
            self._session.close()

    async def _query(self, query: Query, parameters: tuple[bytes | None, ...]) -> Result:
        if query is ROLLBACK and not self.in_transaction:
            return Result((), [], b"ROLLBACK")
        statement = self._statements.get(query)
        if statement is None:
            statement = self._statements[query] = await self.prepare(query.sql, query.parameter_oids)
        answer = await self._answer(self._session.execute(statement, parameters, BINARY, BINARY, True))
        return Result((), *answers.decode(answer))

    async def _answer(self, answer: bytes | None) -> bytes:
        if answer is None:
            later = await self._wait()
            assert isinstance(later, bytes)
            answer = later
        if self._parts:
            answer = b"".join((*self._parts, answer))
            self._parts.clear()
            self._parts_bytes = 0
        return answer

    async def _wait(self) -> bytes | Statement:
        """Wait for the session's call-back. A cancelled wait cancels the statement and spoils the conversation."""
        self._pending = asyncio.get_running_loop().create_future()
        try:
            answer = await self._pending
        except asyncio.CancelledError:
            if self._pending is not None and not self._closed:
                self._session.cancel()
            raise
        return answer

    def _check_open(self) -> None:
        if self._ended is not None:
            raise self._ended
        assert not self._closed, "the conversation is closed"
        assert self._pending is None, "one statement at a time"

    def _settle(self, outcome: bytes | Statement | OrbitError) -> None:
        pending, self._pending = self._pending, None
        if pending is None or pending.done():
            return
        if isinstance(outcome, OrbitError):
            pending.set_exception(outcome)
        else:
            pending.set_result(outcome)
        self._arrived.set()

    # What the session calls.

    def replied(self, answer: bytes) -> None:
        self._settle(answer)

    def prepared(self, statement: Statement) -> None:
        self._settle(statement)

    def failed(self, error: OrbitError) -> None:
        self._parts.clear()
        if self._refused_copy:
            self._refused_copy = False
            error = NotSupported("COPY FROM STDIN over this protocol")
        self._settle(error)

    def rows(self, messages: bytes) -> None:
        self._parts.append(messages)
        self._parts_bytes += len(messages)
        self._arrived.set()
        if self._streaming and not self._held and self._parts_bytes > HOLD_BYTES:
            self._held = True
            self._session.hold_rows(True)

    def copy_in(self, copy: CopyFormat) -> None:
        self._refused_copy = True
        self._session.copy_fail("this protocol takes no COPY data")

    def parameter_changed(self, name: str, value: str) -> None:
        """Settings are the session's own business here."""

    def notice(self, error: OrbitError) -> None:
        """Notices have no place in these protocols' answers."""

    def terminated(self, error: OrbitError) -> None:
        self._ended = error
        self._settle(error)


class Stream:
    """The rows of one running statement, in parts. The conversation is busy until `finished`."""

    def __init__(
        self, conversation: Conversation, columns: Sequence[ColumnDescription], returns_rows: bool, answer: bytes | None
    ) -> None:
        self.columns = columns
        self.returns_rows = returns_rows
        self.tag = b""
        self.finished = False
        self._conversation = conversation
        self._ready = answer
        self._last: asyncio.Future[bytes | Statement] | None = None
        if answer is None:
            self._last = conversation._pending = asyncio.get_running_loop().create_future()

    async def begin(self) -> None:
        """Wait for the first part, or for the failure, so that an error can still become a proper reply."""
        while self._last is not None and not self._last.done() and not self._conversation._parts:
            await self._more()
        try:
            if self._conversation._parts:
                answers.check_form(self._conversation._parts[0])
            elif self._last is None or self._last.done():
                answers.check_form(self._whole())
        except OrbitError:
            self._end()
            raise

    @property
    def complete(self) -> bytes | None:
        """The tag, once the whole answer is there; None while the statement runs."""
        if self._last is not None and (not self._last.done() or self._last.exception() is not None):
            return None
        return answers.tag_of(self._whole())

    async def parts(self) -> AsyncGenerator[list[Row], None]:
        """Yield rows as they come. Raises the statement's OrbitError, also in the middle."""
        conversation = self._conversation
        try:
            while True:
                while conversation._parts:
                    part = conversation._parts.popleft()
                    conversation._parts_bytes -= len(part)
                    yield answers.decode(part)[0]
                self._let_go()
                if self._last is None or self._last.done():
                    break
                await self._more()
            rows, self.tag = answers.decode(self._whole())
            self._ready = None
            self.finished = True
            if rows:
                yield rows
        finally:
            self._end()

    def _whole(self) -> bytes:
        """Return the last part of the answer, which is there. Raises the statement's OrbitError."""
        answer: bytes | Statement | None = self._ready if self._last is None else self._last.result()
        assert isinstance(answer, bytes)
        return answer

    async def _more(self) -> None:
        conversation = self._conversation
        conversation._arrived.clear()
        await conversation._arrived.wait()

    def _let_go(self) -> None:
        conversation = self._conversation
        if conversation._held and not conversation._closed:
            conversation._held = False
            conversation._session.hold_rows(False)

    def _end(self) -> None:
        conversation = self._conversation
        conversation._streaming = False
        conversation._parts.clear()
        conversation._parts_bytes = 0
        if conversation._pending is not None and not conversation._closed:
            conversation._session.cancel()
            self._let_go()
        if self._last is not None:
            # What becomes of a statement that nobody waits for any more is nobody's concern.
            self._last.add_done_callback(_look_at)


def _look_at(outcome: asyncio.Future[bytes | Statement]) -> None:
    if not outcome.cancelled():
        outcome.exception()
