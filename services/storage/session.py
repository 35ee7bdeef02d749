"""One client's conversation with the leader: transaction blocks, statements, waiting, COPY.

Owns the session's state and the order of things; what statements do is in `services.storage.sql`. Implements
`services.storage.client.Session` directly; `services.storage.server` puts it behind gRPC.

A request runs one statement, or a script of several (simple query). A statement that answers at once costs no task
and no future. One that waits leaves the request pending: a granted lock runs it again from the top, a finished scan
or commit completes it, and the owner is told from the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from orbit.kernel.errors import (
    LockNotAvailable,
    NotSupported,
    OrbitError,
    QueryCanceled,
)
from orbit.kernel.records import Row
from orbit.kernel.schema import Sequence as NumberSequence
from services.storage.client import FAILED, IDLE, ColumnDescription, CopyFormat, SessionOwner
from services.storage.engine import Engine
from services.storage.sql.answer import EncodeRow, row_description, row_encoder
from services.storage.sql.context import context_of
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.plan import Plan, decode_parameters
from services.storage.sql.prepared import PreparedStatement
from services.storage.sql.session_sequences import SessionSequences
from services.storage.sql.settings import Settings
from services.storage.transaction_block import TransactionBlock, in_failed_block
from services.storage.txn.sequences import ReservationNeeded
from services.storage.waiting import Waiting

if TYPE_CHECKING:
    from services.storage.sql.copy import CopyIn
    from services.storage.sql.planner import Planner, PlanSpace

Next = Callable[[bytes], bytes | None]
_log = structlog.get_logger(__name__)


class StorageSession(TransactionBlock):
    """See the module."""

    def __init__(
        self, engine: Engine, planner: Planner, owner: SessionOwner, user: str, database: str, settings: dict[str, str]
    ) -> None:
        super().__init__(engine, planner, Settings(user, settings))
        self.owner = owner
        self.user = user
        self.database = database
        self.space: PlanSpace | None = None
        self.query_rows: list[Row] | None = None
        """Rows that a query inside the current statement has returned (INSERT .. SELECT)."""
        self.copy: CopyIn | None = None
        self.abort_work: Callable[[], None] | None = None
        """Stops what a pending plan does outside the event loop; set by the plan that has taken over."""
        self.rows_held = False
        """The client does not drain: a plan that streams rows stops until `resume_rows` is called."""
        self.resume_rows: Callable[[], None] | None = None
        """Set by a streaming plan that has stopped; called once when the client drains again."""
        self._loop = asyncio.get_running_loop()
        self._source: Any = None
        """What the current plan was made from: a prepared statement, or an item of a script."""
        self._sql = ""
        self._deposed: OrbitError | None = None
        """This node stopped leading while a commit was in flight: the session ends with the commit's answer."""
        self._plan: Plan | None = None
        self._parameters: Sequence[Any] = ()
        self._formats: Sequence[int] = ()
        self._next: Next = _same
        self._pending = False
        self._committing = False
        self._sequences = SessionSequences(self)
        self._reserving: object | None = None
        self._statement_began = 0.0
        """When a pending statement began, in seconds of perf_counter; 0 for none."""
        self._started_us = engine.clock.now_us()
        self._waiting = Waiting(self._loop)
        self._script: list[Any] = []
        self._answers: list[bytes] = []
        self._closed = False
        self._traceparent = ""

    def trace(self, traceparent: str) -> None:
        self._traceparent = traceparent

    def prepare(self, sql: str, parameter_oids: Sequence[int]) -> PreparedStatement:
        try:
            plan, key = self.planner.plan_text(self, sql, tuple(parameter_oids))
        except Exception as error:
            raise self._refused(error) from error
        return PreparedStatement(sql, plan, key)

    def execute(
        self,
        statement: Any,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
        sync: bool,
    ) -> bytes | None:
        plan = statement.plan
        self._next = self._commit_implicit if sync else _same
        self._source = statement
        try:
            if statement.key is not self.planner.key_of(self):
                plan, statement.key = self.planner.replan(self, statement)
                statement.plan = plan
            if self.status == FAILED and not plan.in_failed_block:
                raise in_failed_block()
            values = decode_parameters(plan.parameter_types, parameters, parameter_formats, self.settings.zone)
            answer = self._run(plan, values, result_formats)
            return None if answer is None else self._next(answer)
        except Exception as error:
            raise self._refused(error) from error

    def sync(self) -> bytes | None:
        if self.status != IDLE or self.transaction is None:
            return b""
        self._next = _same
        try:
            return self._commit_implicit(b"")
        except Exception as error:
            raise self._refused(error) from error

    def simple(self, sql: str) -> bytes | None:
        try:
            self._answers = []
            self._sql = sql
            self._script = list(reversed(self.planner.script(self, sql)))
            if len(self._script) > 1 and self.status == IDLE:
                self._settings_mark = self.settings.mark()
            self._next = self._script_next
            return self._script_next(None)
        except Exception as error:
            raise self._refused(error) from error

    def copy_batch(self, encoded: bytes) -> bytes | None:
        return self._copy_step(lambda copy: copy.batch(encoded))

    def copy_done(self) -> bytes | None:
        return self._copy_step(lambda copy: copy.done())

    def copy_fail(self, reason: str) -> None:
        error = QueryCanceled(f"COPY from stdin failed: {reason}")
        self._loop.call_soon(lambda: None if self.copy is None else self._fail_pending(error))

    def fail(self) -> None:
        self._statement_failed()

    def hold_rows(self, held: bool) -> None:
        self.rows_held = held
        if not held and (resume := self.resume_rows) is not None:
            self.resume_rows = None
            resume()

    def cancel(self) -> None:
        self._interrupt(QueryCanceled("canceling statement due to user request"))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._waiting.stop()
        if self.abort_work is not None:
            self.abort_work()
        if not self._committing:
            self._abandon_copy()
            self.roll_back()
        self.planner.forget(self)

    # For plans.

    def encoder(self, columns: Sequence[ColumnDescription], formats: Sequence[int]) -> EncodeRow:
        return row_encoder(columns, formats, self.settings.zone)

    def evaluation_context(self) -> EvaluationContext:
        """Return what the current statement's expressions may know."""
        return context_of(self, self._started_us, self._sequences, self._set_config)

    def _set_config(self, name: str, value: str, local: bool) -> str:
        if local:
            raise NotSupported("set_config for one transaction is not supported")
        self.settings.set(name, value)
        return value

    def complete(self, outcome: bytes | OrbitError) -> None:
        """The plan that took over is done. Called from the event loop."""
        self.abort_work = None
        if self._closed or not self._pending:
            return
        if isinstance(outcome, OrbitError):
            self._fail_pending(outcome)
        else:
            self._go_on(outcome)

    def run_again(self) -> None:
        """Run the current plan again from the top: what it saw has changed meanwhile."""
        self.abort_work = None
        self._woken(None)

    def stream_rows(self, messages: bytes) -> None:
        """Send a part of a large answer, after what a script has answered so far."""
        if self._answers:
            messages = b"".join(self._answers) + messages
            self._answers = []
        self.owner.rows(messages)

    def enter_copy(self, copy: CopyIn, wanted: CopyFormat) -> None:
        self.copy = copy
        self._loop.call_soon(self.owner.copy_in, wanted)

    def copy_taken(self, outcome: OrbitError | None) -> None:
        """A batch of COPY is in the log, or could not be. Called from the event loop."""
        if self._closed or self.copy is None:
            return
        if outcome is not None:
            self._fail_pending(outcome)
        else:
            self.owner.replied(b"")

    def notice(self, message: str, sqlstate: str, severity: str = "NOTICE") -> None:
        """Send a notice ahead of the answer."""
        self._loop.call_soon(self.owner.notice, OrbitError(message, sqlstate=sqlstate, severity=severity))

    # Transaction control.

    def commit_block(self, answer: bytes, rolled_back: bytes) -> bytes | None:
        """COMMIT: end the block. A failed block rolls back and says so."""
        if self.status == FAILED:
            self.roll_back()
            return rolled_back
        self.savepoints = []
        return self._commit(answer)

    def transaction_expired(self) -> None:
        """The transaction is older than TRANSACTION_TIMEOUT_MS."""
        error = OrbitError("terminating transaction due to transaction timeout", sqlstate="25P04")
        if self._pending:
            self._interrupt(error)
        elif self.transaction is not None and self.status != IDLE:
            self.savepoints = []
            self._statement_failed()
        elif self.transaction is not None:
            # A pipeline that waits for its Sync: what comes next must not run as if nothing had been lost.
            self._terminate(error)

    def deposed(self, error: OrbitError) -> None:
        """This node no longer leads. A commit in flight is answered by its own callback, everything else ends now."""
        if self._committing:
            self._deposed = error
        else:
            self._terminate(error)

    def _terminate(self, error: OrbitError) -> None:
        if not self._closed:
            self.close()
            self._loop.call_soon(self.owner.terminated, error)

    # Running.

    def _run(self, plan: Plan, parameters: Sequence[Any], formats: Sequence[int]) -> bytes | None:
        again = plan is self._plan and self._pending
        self._sequences.start(again)
        if not again:
            self.query_rows = None
        self._plan, self._parameters, self._formats = plan, parameters, formats
        began = perf_counter()
        try:
            answer = plan.run(self, parameters, formats)
        except ReservationNeeded as needed:
            self._reserve(needed.sequence)
            answer = None
        if answer is None:
            self._statement_began = self._statement_began or began
            self._wait()
        else:
            self.engine.meters.query.observe(perf_counter() - (self._statement_began or began))
            self._statement_began = 0.0
            if self.settings.changed:
                self._tell_settings()
        return answer

    def _reserve(self, sequence: NumberSequence) -> None:
        """Wait until the sequence's next block is in hand, then run the statement again."""
        waiting = self._reserving = object()

        def done(outcome: int | OrbitError) -> None:
            if self._reserving is waiting:
                self._woken(outcome if isinstance(outcome, OrbitError) else None)

        # A statement that draws many values gets ever larger blocks, so that it starts again only a few times.
        self.engine.reserve(sequence, 2 * self._sequences.drawn, done)

    def _wait(self) -> None:
        if not self._pending:
            self._pending = True
            self._waiting.limit_statement(self.settings.milliseconds("statement_timeout"), self._timed_out)
        if self.transaction is not None and self.transaction.waiting_for is not None:
            self._waiting.limit_lock(self.settings.milliseconds("lock_timeout"), self._lock_timed_out)

    def _woken(self, error: OrbitError | None) -> None:
        self._waiting.wake(self._resume, error)

    def _resume(self, error: OrbitError | None) -> None:
        if self._closed or not self._pending or self._committing:
            return
        if error is not None:
            self._fail_pending(error)
            return
        assert self._plan is not None, "a waiting statement has a plan"
        try:
            space = self.space
            plan = self._plan if self.planner.key_of(self) is space else self._plan_again()
            answer = self._run(plan, self._parameters, self._formats)
        except Exception as failure:
            self._fail_pending(failure)
            return
        if answer is not None:
            self._go_on(answer)

    def _plan_again(self) -> Plan:
        """Plan the waiting statement anew: whoever it waited for has changed the catalog."""
        source = self._source
        if isinstance(source, PreparedStatement):
            source.plan, source.key = self.planner.replan(self, source)
            return source.plan
        item = self.planner.script(self, self._sql)[0] if isinstance(source, tuple) else source
        plan, self._parameters = self.planner.script_plan(self, item)
        return plan

    def _go_on(self, answer: bytes) -> None:
        """A pending statement has its answer: do what follows it, and tell the owner when all is done."""
        self._waiting.stop()
        self._pending = False
        if self._statement_began:
            self.engine.meters.query.observe(perf_counter() - self._statement_began)
            self._statement_began = 0.0
        if self.settings.changed:
            self._tell_settings()
        try:
            final = self._next(answer)
        except Exception as error:
            self._fail_pending(error)
            return
        if final is not None:
            self.owner.replied(final)

    def _fail_pending(self, error: Exception) -> None:
        if self._closed:
            return
        self._pending = False
        self.owner.failed(self._refused(error))

    def _refused(self, error: Exception) -> OrbitError:
        """Fail the current statement; return what the client is told."""
        if not isinstance(error, OrbitError):
            _log.error("a statement failed inside the engine", exc_info=error)
            error = OrbitError(f"internal error: {type(error).__name__}", sqlstate="XX000")
        self._statement_failed(error)
        return error

    def _script_next(self, answer: bytes | None) -> bytes | None:
        """Collect a statement's answer and run the rest of the script; at its end commit what is implicit."""
        if answer is not None:
            self._answers.append(answer)
        while self._script:
            self._source = self._script.pop()
            plan, parameters = self.planner.script_plan(self, self._source)
            if self.status == FAILED and not plan.in_failed_block:
                raise in_failed_block()
            if plan.columns is not None:
                self._answers.append(row_description(plan.columns))
            answer = self._run(plan, parameters, ())
            if answer is None:
                return None
            self._answers.append(answer)
        self._next = _same
        if self.status == IDLE and self.transaction is None:
            self._settings_mark = None
        answers, self._answers = b"".join(self._answers), []
        return self._commit_implicit(answers)

    def _commit_implicit(self, answer: bytes) -> bytes | None:
        if self.status != IDLE or self.transaction is None:
            return answer
        return self._commit(answer)

    def _commit(self, answer: bytes) -> bytes | None:
        transaction = self.transaction
        if transaction is None:
            self._ended()
            return answer
        transaction.traceparent = self._traceparent
        then = self._next

        def done(outcome: int | OrbitError) -> None:
            self._committing = False
            if isinstance(outcome, OrbitError):
                if self._settings_mark is not None:
                    self.settings.restore(self._settings_mark)
                self._ended()
                self._fail_pending(outcome)
            else:
                self._ended()
                self._next = then
                self.complete(answer)
            if self._deposed is not None:
                self._terminate(self._deposed)

        try:
            over = self.engine.commit(transaction, done)
        except OrbitError:
            self.roll_back()
            raise
        if over:
            self._ended()
            return answer
        self._committing = True
        self._pending = True
        return None

    def _abandon_copy(self) -> None:
        if self.copy is not None:
            self.copy.abandon()
            self.copy = None

    def _statement_failed(self, error: OrbitError | None = None) -> None:
        """PostgreSQL's rule: an error fails the block, or undoes the implicit transaction."""
        if error is not None:
            self.engine.count_failure(error)
        self._waiting.stop()
        self._reserving = None
        self._script, self._answers = [], []
        self._abandon_copy()
        if self._committing:
            return
        if self.status == IDLE:
            self.roll_back()
        else:
            self.status = FAILED
            if self.transaction is not None:
                self.transaction.stop_waiting()
                if not self.savepoints:
                    self.planner.roll_back(self.transaction)
                    self.transaction = None

    def _interrupt(self, error: OrbitError) -> None:
        if not self._pending or self._committing:
            return
        if self.abort_work is not None:
            self.abort_work()
            self.abort_work = None
        if self.transaction is not None:
            self.transaction.stop_waiting()
        self._fail_pending(error)

    def _timed_out(self) -> None:
        self._interrupt(QueryCanceled("canceling statement due to statement timeout"))

    def _lock_timed_out(self) -> None:
        if self.transaction is not None and self.transaction.waiting_for is not None:
            self._interrupt(LockNotAvailable("canceling statement due to lock timeout"))

    def _tell_settings(self) -> None:
        changed, self.settings.changed = self.settings.changed, []
        for name, value in changed:
            self._loop.call_soon(self.owner.parameter_changed, name, value)

    def _copy_step(self, step: Callable[[CopyIn], bytes | None]) -> bytes | None:
        if self.copy is None:
            raise OrbitError("there is no COPY in progress", sqlstate="08P01")
        try:
            answer = step(self.copy)
            if answer is None or answer == b"":
                return answer
            self.copy = None
            self._pending = False
            self._waiting.stop()
            return self._next(answer)
        except Exception as error:
            self._pending = False
            raise self._refused(error) from error


def _same(answer: bytes) -> bytes | None:
    return answer


__all__ = ["PreparedStatement", "StorageSession"]
