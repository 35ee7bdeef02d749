"""Transactions on the leader: begin, read, lock, write, commit, roll back.

Owns the transactions in progress and the rules by which they see and change rows. Plans call it synchronously;
an operation that must wait for a lock returns False (`BLOCKED`), and the statement runs again from the top when
the lock is granted, which is exactly READ COMMITTED's re-evaluation. So a statement first takes all its locks,
then writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from orbit.chassis.tracing import DISABLED, Tracing
from orbit.kernel import records
from orbit.kernel.clock import Clock
from orbit.kernel.errors import (
    ConstraintViolation,
    DeadlockDetected,
    NotLeader,
    NotSupported,
    OrbitError,
    SerializationFailure,
    TooManyTransactions,
)
from orbit.kernel.records import Kind, Row
from orbit.kernel.schema import Catalog, Sequence, Table
from services.storage.meters import Meters
from services.storage.state import State
from services.storage.tiers.table import TableStore, UniqueIndex
from services.storage.txn.committer import Committed, Committer
from services.storage.txn.locks import COMMON, CONFLICTS, Contention, LockTable, Mode
from services.storage.txn.sequences import SequenceValues
from services.storage.txn.transaction import Isolation, Transaction, Waker

VOID_LOAD_RETRY_S = 1.0


class Engine:
    """The leader's transactions. `committer` is None while this node does not lead."""

    def __init__(self, state: State, clock: Clock, *, max_concurrent: int) -> None:
        self.state = state
        self.clock = clock
        self.max_concurrent = max_concurrent
        self.committer: Committer | None = None
        self.tracing: Tracing = DISABLED
        self.lease_valid: Callable[[], bool] = lambda: True
        self.active: set[Transaction] = set()
        self.catalog_lock = LockTable("the catalog")
        self.committed_total = 0
        self.aborted_total = 0
        self.conflicts_total = 0
        self.deadlocks_total = 0
        self.meters = Meters(state.tier_reads)
        self.sequences = SequenceValues(state)
        self._order = 0

    # Life of a transaction.

    def begin(self, isolation: Isolation, wake: Waker) -> Transaction:
        """Start a transaction. Raises TooManyTransactions (53300) past the limit, NotLeader (57P03)."""
        self.check_leading()
        if len(self.active) >= self.max_concurrent:
            raise TooManyTransactions(f"too many transactions in progress: the limit is {self.max_concurrent}")
        self._order += 1
        transaction = Transaction(self._order, isolation, self.clock.now_us(), wake)
        self.active.add(transaction)
        return transaction

    def check_leading(self) -> None:
        """Raise NotLeader unless this node leads and its lease surely holds: then a read here is linearizable."""
        if self.committer is None or not self.lease_valid():
            raise NotLeader("this node does not lead the shard")

    def catalog(self, transaction: Transaction | None) -> Catalog:
        """Return the catalog as this transaction sees it."""
        if transaction is not None and transaction.catalog is not None:
            return transaction.catalog
        return self.state.catalog

    def snapshot(self, transaction: Transaction | None) -> int:
        """Return the LSN that the transaction's next statement reads at; fixes it for the snapshot isolations."""
        if transaction is None or transaction.isolation is Isolation.READ_COMMITTED:
            return self.state.applied_lsn
        if transaction.snapshot is None:
            transaction.snapshot = self.state.applied_lsn
            self.state.hold_snapshot(transaction.snapshot)
        return transaction.snapshot

    def commit(self, transaction: Transaction, done: Committed) -> bool:
        """Commit. True: it wrote nothing and is over, `done` is not called. False: `done` will be called once."""
        if not transaction.wrote:
            self._finish(transaction)
            self.committed_total += 1
            return True
        if self.committer is None:
            raise NotLeader("this node does not lead the shard")

        def finished(outcome: int | OrbitError) -> None:
            self._finish(transaction)
            if isinstance(outcome, OrbitError):
                self.aborted_total += 1
                self.conflicts_total += isinstance(outcome, SerializationFailure)
                if transaction.chunks:
                    self._void_load(transaction.id)
            else:
                self.committed_total += 1
            done(outcome)

        self.committer.commit(transaction, finished)
        return False

    def reserve(self, sequence: Sequence, at_least: int, done: Committed) -> None:
        """Log the next block of a sequence, of at least so many values; `done` tells when it is in hand, or why not."""
        through, taken = self.sequences.reserve(sequence, at_least)
        transaction = self.begin(Isolation.READ_COMMITTED, lambda error: None)
        transaction.sequences[sequence.id] = through

        def reserved(outcome: int | OrbitError) -> None:
            if not isinstance(outcome, OrbitError):
                taken()
            done(outcome)

        self.commit(transaction, reserved)

    def rollback(self, transaction: Transaction) -> None:
        """Forget a transaction that has not been handed to `commit`."""
        transaction.stop_waiting()
        if transaction.chunks:
            self._void_load(transaction.id)
        self._finish(transaction)
        self.aborted_total += 1

    def _void_load(self, transaction_id: bytes) -> None:
        """Tell the log that a load will never commit. Tried until the log takes it, or the reign ends and voids it."""
        committer = self.committer
        if committer is None:
            return

        def told(outcome: int | OrbitError) -> None:
            if isinstance(outcome, OrbitError) and self.committer is committer:
                asyncio.get_running_loop().call_later(VOID_LOAD_RETRY_S, self._void_load, transaction_id)

        committer.append(Kind.CHUNK, records.ChunkBody(transaction_id, records.CHUNK_ABORT, []), told)

    def count_failure(self, error: OrbitError) -> None:
        """Count a statement that failed for what other transactions do."""
        if isinstance(error, DeadlockDetected):
            self.deadlocks_total += 1
        elif isinstance(error, SerializationFailure):
            self.conflicts_total += 1

    def _finish(self, transaction: Transaction) -> None:
        transaction.release_locks()
        self.active.discard(transaction)
        self.meters.transaction.observe((self.clock.now_us() - transaction.started_us) / 1e6)
        if transaction.snapshot is not None:
            self.state.release_snapshot(transaction.snapshot)
            transaction.snapshot = None

    # Stores.

    def store(self, transaction: Transaction | None, table: Table) -> TableStore:
        """Return the rows of a table; of one that this transaction has created or truncated, its private ones.

        Raises 42P01 for a table that is gone, NotSupported for one that this transaction has given a unique index:
        nothing looks keys up in an index before it is committed.
        """
        store = self.state.stores.get(table.storage_id)
        if store is None:
            return self._private_store(transaction, table)
        if store.table is not table and any(index.unique and index.id not in store.indexes for index in table.indexes):
            raise NotSupported(
                f'using table "{table.name}" in the transaction that has given it a unique index is not supported'
            )
        return store

    def store_to_define(self, transaction: Transaction, table: Table) -> TableStore:
        """Return a table's rows for a statement that changes its definition, whatever that is by now."""
        return self.state.stores.get(table.storage_id) or self._private_store(transaction, table)

    def _private_store(self, transaction: Transaction | None, table: Table) -> TableStore:
        catalog = None if transaction is None else transaction.catalog
        known = None if catalog is None else catalog.objects.get(table.id)
        if transaction is None or not isinstance(known, Table) or known.storage_id != table.storage_id:
            raise OrbitError(f'relation "{table.name}" does not exist', sqlstate="42P01")
        store = transaction.private_stores.get(table.storage_id)
        if store is None or store.table.id != table.id:
            # A rolled back CREATE TABLE gives its numbers to the next one.
            store = transaction.private_stores[table.storage_id] = TableStore(table)
        elif store.table is not table:
            store.define(table)
        return store

    # Reading rows.

    def find(
        self, transaction: Transaction | None, store: TableStore, index: UniqueIndex, key: Any
    ) -> tuple[int, Row] | None:
        """Return (row id, row) of the row with this key as the transaction sees it."""
        if transaction is None:
            return store.find(index, key)
        own = transaction.writes.get(store)
        if own is not None:
            row_id = transaction.keys.get((store, index.definition.id, key))
            if row_id is not None:
                row = own[row_id][1]
                if row is not None and index.key_of(row) == key:
                    return row_id, row
        if transaction.isolation is Isolation.READ_COMMITTED:
            found = store.find(index, key)
        else:
            found = store.find_at(index, key, self.snapshot(transaction))
        if found is None and transaction.chunks:
            found = store.find_loaded(index, key, transaction.id)
        if found is None or own is None:
            return found
        mine = own.get(found[0])
        if mine is None:
            return found
        row = mine[1]
        return (found[0], row) if row is not None and index.key_of(row) == key else None

    def rows(self, transaction: Transaction | None, store: TableStore) -> Iterator[tuple[int, Row]]:
        """Yield (row id, row) of all rows that the transaction's next statement sees."""
        own = None if transaction is None else transaction.writes.get(store)
        for row_id, row in store.rows_at(self.snapshot(transaction), None if transaction is None else transaction.id):
            if own is None or row_id not in own:
                yield row_id, row
        for row_id, (_, after) in (own or {}).items():
            if after is not None:
                yield row_id, after

    # Changing rows.

    def enter(self, transaction: Transaction, store: TableStore, mode: Mode = Mode.TABLE_WRITE) -> bool:
        """Take the table lock that a statement needs, once a transaction. False: queued, run the statement again."""
        held = transaction.entered.get(store)
        if held is not None and held >= mode:
            return True
        if transaction.read_only:
            raise OrbitError("cannot write in a read-only transaction", sqlstate="25006")
        if not store.table_lock.acquire(transaction, 0, mode):
            return False
        transaction.entered[store] = mode
        return True

    def lock_row(
        self, transaction: Transaction, store: TableStore, row_id: int, mode: Mode = COMMON, *, wait: bool = True
    ) -> bool:
        """Lock a row. False: queued, run the statement again.

        Raises SerializationFailure (40001) when the row has changed since a REPEATABLE READ or SERIALIZABLE
        transaction's snapshot; LockNotAvailable (55P03) when `wait` is false and it is held.
        """
        if row_id < 0:
            return True
        if not store.row_locks.acquire(transaction, row_id, mode, wait=wait):
            return False
        if (
            transaction.snapshot is not None
            and store.changed_since(row_id, transaction.snapshot)
            and not (transaction.chunks and store.loaded_row(row_id, transaction.id) is not None)
        ):
            raise SerializationFailure("could not serialize access due to concurrent update")
        return True

    @staticmethod
    def lock_is_free(store: TableStore, row_id: int, transaction: Transaction, mode: Mode) -> bool:
        """Return whether a row's lock could be had without waiting (SKIP LOCKED)."""
        entry = store.row_locks.held.get(row_id)
        if entry is None or entry is transaction:
            return True
        if isinstance(entry, Contention):
            return entry.admits(transaction, mode) and not entry.waiters
        return COMMON not in CONFLICTS[mode]

    def lock_key(self, transaction: Transaction, index: UniqueIndex, key: Any) -> bool:
        """Lock a unique-key value, present or not. False: queued."""
        return not index.indexes(key) or index.locks.acquire(transaction, key)

    def check_unique(
        self, transaction: Transaction, store: TableStore, index: UniqueIndex, key: Any, row_id: int | None
    ) -> None:
        """Raise ConstraintViolation (23505) when another row has this key. The caller holds the key's lock."""
        if not index.indexes(key):
            return
        found = self.find_newest(transaction, store, index, key)
        if found is not None and found[0] != row_id:
            table = store.table
            names = ", ".join(table.columns[at].name for at in index.positions)
            shown = key if isinstance(key, tuple) and len(index.positions) > 1 else (key,)
            raise ConstraintViolation(
                f'duplicate key value violates unique constraint "{index.definition.name}"',
                sqlstate="23505",
                detail=f"Key ({names})=({', '.join(str(part) for part in shown)}) already exists.",
                schema=table.schema,
                table=table.name,
                constraint=index.definition.name,
            )

    def find_newest(
        self, transaction: Transaction, store: TableStore, index: UniqueIndex, key: Any
    ) -> tuple[int, Row] | None:
        """Return the row with this key among own writes and the newest committed rows, whatever the snapshot."""
        own = transaction.writes.get(store)
        if own is not None:
            row_id = transaction.keys.get((store, index.definition.id, key))
            if row_id is not None:
                row = own[row_id][1]
                if row is not None and index.key_of(row) == key:
                    return row_id, row
        found = store.find(index, key)
        if found is None and transaction.chunks:
            found = store.find_loaded(index, key, transaction.id)
        if found is None or own is None or found[0] not in own:
            return found
        row = own[found[0]][1]
        return (found[0], row) if row is not None and index.key_of(row) == key else None

    def insert(self, transaction: Transaction, store: TableStore, row: Row) -> int:
        """Insert a row whose key locks are held and checked; return its provisional row id."""
        row_id = transaction.new_row_id()
        transaction.write(store, row_id, None, row)
        for index in store.indexes.values():
            transaction.own_key(store, index.definition.id, index.key_of(row), row_id)
        return row_id

    def update(self, transaction: Transaction, store: TableStore, row_id: int, before: Row, after: Row) -> None:
        """Replace a locked row's image; locks and checks of changed keys are the caller's (`changed_keys`)."""
        _refuse_private(transaction, store, row_id)
        transaction.write(store, row_id, before, after)
        for index in store.indexes.values():
            key = index.key_of(after)
            if key != index.key_of(before):
                transaction.own_key(store, index.definition.id, key, row_id)

    def delete(self, transaction: Transaction, store: TableStore, row_id: int, before: Row) -> None:
        """Delete a locked row."""
        _refuse_private(transaction, store, row_id)
        transaction.write(store, row_id, before, None)

    @staticmethod
    def changed_keys(store: TableStore, before: Row, after: Row) -> list[tuple[UniqueIndex, Any, Any]]:
        """Return (index, old key, new key) of every unique key that an update changes."""
        changed: list[tuple[UniqueIndex, Any, Any]] = []
        for index in store.indexes.values():
            old, new = index.key_of(before), index.key_of(after)
            if old != new:
                changed.append((index, old, new))
        return changed


def _refuse_private(transaction: Transaction, store: TableStore, row_id: int) -> None:
    if row_id > 0 and store.storage_id in transaction.private_stores:
        raise NotSupported(
            "changing rows that COPY loaded in the transaction that created their table is not supported"
        )
