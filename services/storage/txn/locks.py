"""Locks: fair queues over rows, unique-key values and whole tables; deadlock detection at the moment of waiting.

Owns who holds and who waits for what. Lives in the leader's memory only: a lock is never logged.

Row and key modes are PostgreSQL's four row-lock strengths. Table modes are the three that the engine needs:
writing rows (shared among writers), bulk loading (alone among writers), and defining (alone).
A table of locks maps a resource to its holder when one transaction holds it in the common mode, and to a
`Contention` otherwise, so that the uncontended case is one dictionary entry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from enum import IntEnum
from typing import TYPE_CHECKING

from orbit.kernel.errors import DeadlockDetected, LockNotAvailable

if TYPE_CHECKING:
    from services.storage.txn.transaction import Transaction


class Mode(IntEnum):
    """Lock strengths. A mode conflicts with the modes in `CONFLICTS[mode]`."""

    KEY_SHARE = 0
    SHARE = 1
    NO_KEY_UPDATE = 2
    UPDATE = 3
    TABLE_WRITE = 4
    TABLE_BULK = 5
    TABLE_DEFINE = 6


CONFLICTS: dict[Mode, frozenset[Mode]] = {
    Mode.KEY_SHARE: frozenset({Mode.UPDATE}),
    Mode.SHARE: frozenset({Mode.NO_KEY_UPDATE, Mode.UPDATE}),
    Mode.NO_KEY_UPDATE: frozenset({Mode.SHARE, Mode.NO_KEY_UPDATE, Mode.UPDATE}),
    Mode.UPDATE: frozenset({Mode.KEY_SHARE, Mode.SHARE, Mode.NO_KEY_UPDATE, Mode.UPDATE}),
    Mode.TABLE_WRITE: frozenset({Mode.TABLE_BULK, Mode.TABLE_DEFINE}),
    Mode.TABLE_BULK: frozenset({Mode.TABLE_WRITE, Mode.TABLE_BULK, Mode.TABLE_DEFINE}),
    Mode.TABLE_DEFINE: frozenset({Mode.TABLE_WRITE, Mode.TABLE_BULK, Mode.TABLE_DEFINE}),
}
COMMON = Mode.NO_KEY_UPDATE
"""The mode that a plain `Transaction` entry stands for."""


class Contention:
    """One resource with several holders, an uncommon mode, or waiters."""

    __slots__ = ("holders", "waiters")

    def __init__(self) -> None:
        self.holders: dict[Transaction, Mode] = {}
        self.waiters: deque[tuple[Transaction, Mode]] = deque()

    def admits(self, transaction: Transaction, mode: Mode) -> bool:
        conflicts = CONFLICTS[mode]
        return all(held not in conflicts for holder, held in self.holders.items() if holder is not transaction)


class LockTable:
    """Locks on the resources of one kind: one table's rows, one unique index's keys, or tables."""

    __slots__ = ("held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[Hashable, Transaction | Contention] = {}

    def acquire(self, transaction: Transaction, resource: Hashable, mode: Mode = COMMON, *, wait: bool = True) -> bool:
        """Return True when the lock is held now; False when the transaction was queued and will be resumed.

        Raises LockNotAvailable (55P03) instead of queueing when `wait` is false, DeadlockDetected (40P01) when
        this transaction is the victim of a cycle that waiting would close.
        """
        entry = self.held.get(resource)
        if entry is None:
            if mode is COMMON:
                self.held[resource] = transaction
            else:
                contention = self.held[resource] = Contention()
                contention.holders[transaction] = mode
            transaction.locks.append((self, resource))
            return True
        if entry is transaction:
            if mode <= COMMON:
                return True
            contention = self._contend(resource, entry)
            contention.holders[transaction] = mode
            return True
        contention = entry if isinstance(entry, Contention) else self._contend(resource, entry)
        held = contention.holders.get(transaction)
        if held is not None and (held >= mode):
            return True
        # An upgrade does not wait behind the queue; everybody else does, so that nobody starves.
        if contention.admits(transaction, mode) and (held is not None or not contention.waiters):
            if held is None:
                transaction.locks.append((self, resource))
            contention.holders[transaction] = mode
            return True
        if not wait:
            raise LockNotAvailable(f"could not obtain lock on {self.name}")
        if held is None:
            contention.waiters.append((transaction, mode))
        else:
            # Whoever waits for this holder cannot go first: behind them, an upgrade would be a deadlock.
            contention.waiters.appendleft((transaction, mode))
        transaction.waiting_for = (self, resource)
        break_deadlock(transaction)
        return False

    def release(self, transaction: Transaction, resource: Hashable) -> None:
        """Give one lock back and grant what becomes possible, in queue order."""
        entry = self.held.get(resource)
        if entry is transaction:
            del self.held[resource]
        elif isinstance(entry, Contention):
            entry.holders.pop(transaction, None)
            self._grant(resource, entry)

    def forget_waiter(self, transaction: Transaction, resource: Hashable) -> None:
        """Take a waiter out of the queue: canceled, timed out, or a deadlock's victim."""
        entry = self.held.get(resource)
        transaction.waiting_for = None
        if isinstance(entry, Contention):
            entry.waiters = deque(item for item in entry.waiters if item[0] is not transaction)
            self._grant(resource, entry)

    def _contend(self, resource: Hashable, holder: Transaction) -> Contention:
        contention = Contention()
        contention.holders[holder] = COMMON
        self.held[resource] = contention
        return contention

    def _grant(self, resource: Hashable, contention: Contention) -> None:
        while contention.waiters:
            transaction, mode = contention.waiters[0]
            if not contention.admits(transaction, mode):
                return
            contention.waiters.popleft()
            if transaction not in contention.holders:
                transaction.locks.append((self, resource))
            contention.holders[transaction] = mode
            transaction.granted()
        if not contention.holders:
            del self.held[resource]


def break_deadlock(start: Transaction) -> None:
    """Abort the youngest transaction of each cycle that `start` has closed by waiting.

    Raises DeadlockDetected when that is `start` itself.
    """
    while cycle := _find_cycle(start):
        victim = max(cycle, key=lambda transaction: transaction.started_order)
        assert victim.waiting_for is not None, "everybody in a cycle waits"
        table, resource = victim.waiting_for
        table.forget_waiter(victim, resource)
        error = DeadlockDetected("deadlock detected")
        if victim is start:
            raise error
        victim.wait_failed(error)
        if start.waiting_for is None:
            return


def _find_cycle(start: Transaction) -> list[Transaction] | None:
    path: list[Transaction] = [start]
    pending: list[list[Transaction]] = [_blockers(start)]
    seen = {start}
    while pending:
        if not pending[-1]:
            pending.pop()
            path.pop()
            continue
        blocker = pending[-1].pop()
        if blocker is start:
            return path
        if blocker in seen:
            continue
        seen.add(blocker)
        path.append(blocker)
        pending.append(_blockers(blocker))
    return None


def _blockers(transaction: Transaction) -> list[Transaction]:
    """Return whom a transaction waits for: conflicting holders and those queued ahead of it."""
    if transaction.waiting_for is None:
        return []
    table, resource = transaction.waiting_for
    entry = table.held[resource]
    assert isinstance(entry, Contention), "somebody waits for it"
    blockers: list[Transaction] = []
    for waiter, mode in entry.waiters:
        if waiter is transaction:
            conflicts = CONFLICTS[mode]
            blockers += [holder for holder, held in entry.holders.items() if holder is not waiter and held in conflicts]
            break
        blockers.append(waiter)
    return blockers
