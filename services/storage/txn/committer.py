"""Group commit: turns what is ready into one record, appends it, applies it, and answers.

Owns the order in which the leader's records enter the log. One append is in flight at a time; what becomes ready
meanwhile travels with the next one. An append of unknown outcome is settled by winning its slot with a NOOP:
whichever record holds the slot decides, so nobody is told a false abort or a false success.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import structlog

from orbit.chassis.tracing import DISABLED, NO_SPAN, Span, Tracing
from orbit.kernel import records
from orbit.kernel.clock import Clock
from orbit.kernel.errors import (
    DiskFull,
    LogCorrupt,
    LogUnavailable,
    NotLeader,
    OrbitError,
    OutcomeUnknown,
    SerializationFailure,
)
from orbit.kernel.ids import pack
from orbit.kernel.limits import GROUP_MAX_TRANSACTIONS, LOG_MAX_PAYLOAD_BYTES, RECORD_TARGET_BYTES
from orbit.kernel.records import Kind, Record
from services.storage.log.interface import AppendRefused, AppendUnknown, Entry, Log, RecordsTrimmed, SlotTaken
from services.storage.meters import Observer, Unobserved
from services.storage.state import State
from services.storage.txn.large import LargeCommit, is_large
from services.storage.txn.transaction import Transaction

_log = structlog.get_logger(__name__)

Committed = Callable[[int | OrbitError], None]
"""Gets the LSN of the commit, or why it did not happen."""

SETTLE_RETRY_S = 0.2
REFUSED_RETRY_S = 0.1
REFUSED_PATIENCE_S = 12.0
"""How long commits wait for a log that takes no records: an election of its servers takes 5 to 8 s."""
ENVELOPE_RESERVE_BYTES = 16_384
"""What the log's own headers may add to a record."""


@dataclass(slots=True)
class _Item:
    """A transaction, or a record of its own (`kind` is not GROUP)."""

    kind: Kind
    transaction: Transaction | None
    body: Any
    done: Committed
    effects: list[records.Effect] | None = None
    """What a transaction's record holds when that is not simply its effects: the end of a large one."""


class Committer:
    """The leader's only way into the log, for one reign. `lost` is called once when the reign is over."""

    def __init__(
        self,
        state: State,
        log: Log,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        lost: Callable[[str], None],
    ) -> None:
        self._state = state
        self._log = log
        self._clock = clock
        self._loop = loop
        self._lost = lost
        self._queue: deque[_Item] = deque()
        self._in_flight: list[_Item] = []
        self._record: Record | None = None
        self._data = b""
        self._scheduled = False
        self._failure: OrbitError | None = None
        self._last_time_us = state.applied_time_us
        self.tracing: Tracing = DISABLED
        self._span: Span = NO_SPAN
        self._refused_since: float | None = None
        self._refusal_told = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.write_duration: Observer = Unobserved()
        """Seconds to apply each record, once it is in the log."""
        self.groups = 0
        self.transactions = 0

    def commit(self, transaction: Transaction, done: Committed) -> None:
        """Enqueue a transaction's effects. `done` is called from the event loop, after they are applied or refused."""
        if is_large(transaction):
            LargeCommit(self, transaction, done).start()
            return
        self._enqueue(_Item(Kind.GROUP, transaction, None, done))

    def commit_effects(self, transaction: Transaction, effects: list[records.Effect], done: Committed) -> None:
        """Enqueue the record that ends a large transaction."""
        self._enqueue(_Item(Kind.GROUP, transaction, None, done, effects))

    def append(self, kind: Kind, body: Any, done: Committed) -> None:
        """Enqueue a record of its own, in order with the transactions."""
        self._enqueue(_Item(kind, None, body, done))

    def stop(self, reason: OrbitError) -> None:
        """End the reign: everything queued fails. What is in flight is decided by its log callback."""
        if self._failure is None:
            self._failure = reason
            queued, self._queue = self._queue, deque()
            for item in queued:
                item.done(reason)

    async def idle(self) -> None:
        """Wait until no append is in flight or being settled."""
        await self._idle.wait()

    @property
    def backlog(self) -> int:
        return len(self._queue) + len(self._in_flight)

    def _enqueue(self, item: _Item) -> None:
        if self._failure is not None:
            self._loop.call_soon(item.done, self._failure)
            return
        self._queue.append(item)
        if not self._scheduled and not self._in_flight:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._in_flight:
            return
        if not self._queue:
            self._idle.set()
            return
        items = self._take(GROUP_MAX_TRANSACTIONS)
        try:
            record, data = self._build(items)
        except Exception as error:
            # What a statement has accepted and the log cannot carry: it must not take its whole group along.
            _log.exception("transactions cannot be encoded", transactions=len(items))
            self._give_up(items, error)
            return
        while len(data) > RECORD_TARGET_BYTES and len(items) > 1:
            # Rare: many large transactions at once. Give the second half back and try again.
            half = len(items) // 2
            self._queue.extendleft(reversed(items[half:]))
            items = items[:half]
            record, data = self._build(items)
        if len(data) > RECORD_TARGET_BYTES and self._too_large(items[0], len(data)):
            self._go_on()
            return
        self._in_flight, self._record, self._data = items, record, data
        self._idle.clear()
        if self.tracing.enabled:
            self._span = self._append_span(items)
        self._log.append(data, self._state.applied_sequence, self._appended, self._span.traceparent)

    def _append_span(self, items: list[_Item]) -> Span:
        """Start the append's span, under the first of its transactions that is traced: a span has one parent."""
        parents = [item.transaction.traceparent for item in items if item.transaction is not None]
        parent = next(filter(None, parents), "")
        return self.tracing.child("log append", parent, {"orbit.transactions": len(items)})

    def _too_large(self, item: _Item, size: int) -> bool:
        """Take a record out of the way that is too large: a transaction goes in pieces. False: it just fits."""
        if size <= LOG_MAX_PAYLOAD_BYTES - ENVELOPE_RESERVE_BYTES:
            return False
        if item.transaction is not None and item.effects is None:
            LargeCommit(self, item.transaction, item.done).start()
        else:
            error = OrbitError(f"a log record of {size} bytes exceeds the limit", sqlstate="54000")
            self._loop.call_soon(item.done, error)
        return True

    def _give_up(self, items: list[_Item], error: Exception) -> None:
        """Answer items that cannot be encoded; those that can travel alone."""
        for item in items:
            if len(items) == 1:
                message = f"the transaction cannot be logged: {error}"
                self._loop.call_soon(item.done, OrbitError(message, sqlstate="XX000"))
                continue
            try:
                self._build([item])
            except Exception as own:
                message = f"the transaction cannot be logged: {own}"
                self._loop.call_soon(item.done, OrbitError(message, sqlstate="XX000"))
            else:
                self._queue.append(item)
        self._go_on()

    def _take(self, limit: int) -> list[_Item]:
        queue = self._queue
        if queue[0].kind is not Kind.GROUP:
            return [queue.popleft()]
        items: list[_Item] = []
        while queue and len(items) < limit and queue[0].kind is Kind.GROUP:
            items.append(queue.popleft())
        return items

    def _build(self, items: list[_Item]) -> tuple[Record, bytes]:
        first = items[0]
        body = first.body
        if first.kind is Kind.GROUP:
            body = []
            for item in items:
                transaction = item.transaction
                assert transaction is not None, "group items are transactions"
                effects = list(transaction.effects()) if item.effects is None else item.effects
                body.append(records.Transaction(transaction.id, effects, transaction.origin))
        return self._envelope(first.kind, body)

    def _envelope(self, kind: Kind, body: Any) -> tuple[Record, bytes]:
        state = self._state
        time_us = max(self._clock.now_us(), self._last_time_us + 1)
        record = Record(
            records.FORMAT, kind, state.timeline, state.epoch, state.catalog.version, time_us, state.last_hash, body
        )
        return record, records.encode(record)

    def _appended(self, outcome: int | BaseException) -> None:
        items, record = self._in_flight, self._record
        assert record is not None, "an append was in flight"
        if self.tracing.enabled:
            span, self._span = self._span, NO_SPAN
            span.end(outcome if isinstance(outcome, BaseException) else None)
        if isinstance(outcome, int):
            self._in_flight, self._record = [], None
            self._applied(items, record, outcome)
        elif isinstance(outcome, AppendUnknown):
            _log.warning("append outcome unknown, settling the slot", sequence=self._state.applied_sequence + 1)
            self._settle()
            return
        else:
            self._in_flight, self._record = [], None
            self._refused(items, outcome)
        self._go_on()

    def _go_on(self) -> None:
        """The slot is decided: start the next append, or be idle."""
        if self._queue and self._failure is None:
            if not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._flush)
        else:
            self._idle.set()

    def _applied(self, items: list[_Item], record: Record, sequence: int) -> None:
        state = self._state
        assert sequence == state.applied_sequence + 1, "the log gave a sequence that was not expected"
        self._taken_again()
        self._last_time_us = record.time_us + len(items)
        began = perf_counter()
        applied = self._apply(sequence, record, self._data)
        self.write_duration.observe(perf_counter() - began)
        if not applied:
            for item in items:
                item.done(OutcomeUnknown("the commit is in the log and this node could not apply it"))
            return
        self.groups += 1
        if record.kind == Kind.GROUP:
            self.transactions += len(items)
            for item in items:
                assert item.transaction is not None
                item.transaction.release_locks()
        for index, item in enumerate(items):
            item.done(pack(sequence, index))

    def _refused(self, items: list[_Item], outcome: BaseException) -> None:
        error: OrbitError
        if isinstance(outcome, SlotTaken):
            error = SerializationFailure("the shard has a new leader, try again")
            _log.warning(
                "another record holds the slot: this node no longer leads", last_sequence=outcome.last_sequence
            )
            self.stop(error)
            self._lost("another leader appended to the log")
        elif isinstance(outcome, AppendRefused):
            if self._wait_for_log(items, outcome):
                return
            error = DiskFull(f"the log is full: {outcome.reason}") if outcome.full else LogUnavailable(outcome.reason)
        else:
            error = LogUnavailable(f"the log failed: {outcome}")
            _log.error("the log failed an append", error=repr(outcome))
        for item in items:
            item.done(error)

    def _wait_for_log(self, items: list[_Item], outcome: AppendRefused) -> bool:
        """Give the items back to the queue, to be tried again soon. False: it has lasted too long, or cannot help."""
        now = self._loop.time()
        if self._refused_since is None:
            self._refused_since = now
            _log.warning("the log takes no record", reason=outcome.reason)
        if not outcome.passing or now - self._refused_since > REFUSED_PATIENCE_S:
            if not self._refusal_told:
                self._refusal_told = True
                _log.error("the log takes no record, commits fail", reason=outcome.reason)
            return False
        if self._failure is not None:
            return False
        self._queue.extendleft(reversed(items))
        self._scheduled = True
        self._loop.call_later(REFUSED_RETRY_S, self._flush)
        return True

    def _taken_again(self) -> None:
        if self._refused_since is not None:
            seconds = round(self._loop.time() - self._refused_since, 3)
            _log.info("the log takes records again", seconds=seconds)
            self._refused_since, self._refusal_told = None, False

    def _apply(self, sequence: int, record: Record, data: bytes) -> bool:
        """Apply an appended record. False: the state is broken now, and the reign over."""
        try:
            self._state.apply(sequence, record, records.record_hash(data), decoded=False)
        except LogCorrupt as error:
            _log.exception("the leader cannot apply its own record", sequence=sequence)
            self.stop(NotLeader(str(error)))
            self._lost(str(error))
            return False
        return True

    # Settling.

    def _settle(self, noop: tuple[Record, bytes] | None = None) -> None:
        """Try to win the slot. The NOOP is the same at each attempt: an earlier one may have landed meanwhile."""
        noop = noop or self._envelope(Kind.NOOP, None)
        record, data = noop

        def settled(outcome: int | BaseException) -> None:
            if isinstance(outcome, int):
                self._settled_by_noop(outcome, record, data)
            elif isinstance(outcome, SlotTaken):
                self._reading = self._loop.create_task(self._read_slot(record, data), name="settle-read-slot")
            else:
                self._loop.call_later(SETTLE_RETRY_S, self._settle, noop)

        self._log.append(data, self._state.applied_sequence, settled)

    def _settled_by_noop(self, sequence: int, record: Record, data: bytes) -> None:
        items, self._in_flight, self._record = self._in_flight, [], None
        self._last_time_us = record.time_us
        self._taken_again()
        self._apply(sequence, record, data)
        error = SerializationFailure("the commit did not reach the log, try again")
        for item in items:
            item.done(error)
        self._go_on()

    async def _read_slot(self, noop: Record, noop_data: bytes) -> None:
        """The slot is taken, by our own record, by our NOOP, or by another leader's record: read which."""
        wanted = self._state.applied_sequence + 1
        while True:
            try:
                async with aclosing(cast(AsyncGenerator[Entry, None], self._log.read(wanted))) as reader:
                    entry = await anext(reader)
                break
            except (OrbitError, LogCorrupt, RecordsTrimmed) as error:
                _log.warning("cannot read the slot to be settled, trying again", sequence=wanted, reason=str(error))
                await asyncio.sleep(SETTLE_RETRY_S)
        if entry.data == noop_data:
            self._settled_by_noop(wanted, noop, noop_data)
            return
        items, record = self._in_flight, self._record
        assert record is not None and entry.sequence == wanted, "the log gives what was asked for"
        self._in_flight, self._record = [], None
        if entry.data == self._data:
            self._applied(items, record, wanted)
        else:
            self._refused(items, SlotTaken(wanted))
        self._go_on()
