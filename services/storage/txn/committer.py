"""Group commit: turns what is ready into one record, appends it, applies it, and answers.

Owns the order in which the leader's records enter the log. One append is in flight at a time; what becomes ready
meanwhile travels with the next one. An append of unknown outcome is settled by winning its slot with a NOOP:
whichever record holds the slot decides, so nobody is told a false abort or a false success.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from orbit.kernel import records
from orbit.kernel.clock import Clock
from orbit.kernel.errors import DiskFull, LogUnavailable, OrbitError, SerializationFailure
from orbit.kernel.ids import pack
from orbit.kernel.limits import GROUP_MAX_TRANSACTIONS, RECORD_TARGET_BYTES
from orbit.kernel.records import Kind, Record
from services.storage.log.interface import AppendRefused, AppendUnknown, Log, SlotTaken
from services.storage.state import State
from services.storage.txn.transaction import Transaction

_log = structlog.get_logger(__name__)

Committed = Callable[[int | OrbitError], None]
"""Gets the LSN of the commit, or why it did not happen."""

SETTLE_RETRY_S = 0.2


@dataclass(slots=True)
class _Item:
    """A transaction, or a record of its own (`kind` is not GROUP)."""

    kind: Kind
    transaction: Transaction | None
    body: Any
    done: Committed


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
        self._idle = asyncio.Event()
        self._idle.set()
        self.groups = 0
        self.transactions = 0

    def commit(self, transaction: Transaction, done: Committed) -> None:
        """Enqueue a transaction's effects. `done` is called from the event loop, after they are applied or refused."""
        self._enqueue(_Item(Kind.GROUP, transaction, None, done))

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
        if self._in_flight or not self._queue:
            return
        items = self._take(GROUP_MAX_TRANSACTIONS)
        record, data = self._build(items)
        while len(data) > RECORD_TARGET_BYTES and len(items) > 1:
            # Rare: many large transactions at once. Give the second half back and try again.
            half = len(items) // 2
            self._queue.extendleft(reversed(items[half:]))
            items = items[:half]
            record, data = self._build(items)
        self._in_flight, self._record, self._data = items, record, data
        self._idle.clear()
        self._log.append(data, self._state.applied_sequence, self._appended)

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
                body.append(records.Transaction(transaction.id, list(transaction.effects()), transaction.origin))
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
        self._last_time_us = record.time_us + len(items)
        state.apply(sequence, record, records.record_hash(self._data), decoded=False)
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
            error = DiskFull(f"the log is full: {outcome.reason}") if outcome.full else LogUnavailable(outcome.reason)
            _log.error("the log refused an append", reason=outcome.reason)
        else:
            error = LogUnavailable(f"the log failed: {outcome}")
            _log.error("the log failed an append", error=repr(outcome))
        for item in items:
            item.done(error)

    # Settling.

    def _settle(self) -> None:
        record, data = self._envelope(Kind.NOOP, None)

        def settled(outcome: int | BaseException) -> None:
            if isinstance(outcome, int):
                items, self._in_flight, self._record = self._in_flight, [], None
                self._last_time_us = record.time_us
                self._state.apply(outcome, record, records.record_hash(data), decoded=False)
                error = SerializationFailure("the commit did not reach the log, try again")
                for item in items:
                    item.done(error)
                self._go_on()
            elif isinstance(outcome, SlotTaken):
                self._loop.create_task(self._read_slot(), name="settle-read-slot")
            else:
                self._loop.call_later(SETTLE_RETRY_S, self._settle)

        self._log.append(data, self._state.applied_sequence, settled)

    async def _read_slot(self) -> None:
        """The slot is taken, by our own record or by another leader's: read which."""
        wanted = self._state.applied_sequence + 1
        reader = self._log.read(wanted)
        entry = await anext(aiter(reader))
        items, record = self._in_flight, self._record
        assert record is not None
        self._in_flight, self._record = [], None
        if entry.sequence == wanted and entry.data == self._data:
            self._applied(items, record, wanted)
        else:
            self._refused(items, SlotTaken(wanted))
        self._go_on()
