"""One transaction in the leader's memory: its snapshot, its own writes, its locks.

Owns what the transaction has done so far and how a savepoint takes it back. Nothing here is visible to others:
writes become effects of a log record at commit (`effects`), and the record's application makes them visible.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from orbit.kernel import records
from orbit.kernel.errors import OrbitError
from orbit.kernel.ids import new_transaction_id
from orbit.kernel.records import Row
from orbit.kernel.schema import Catalog, CatalogChange
from services.storage.txn.locks import LockTable, Mode

if TYPE_CHECKING:
    from services.storage.tiers.table import TableStore


class Isolation(Enum):
    """READ UNCOMMITTED is READ COMMITTED, as in PostgreSQL."""

    READ_COMMITTED = "read committed"
    REPEATABLE_READ = "repeatable read"
    SERIALIZABLE = "serializable"


Waker = Callable[[OrbitError | None], None]
"""Resumes the blocked statement (None), or fails it."""


class Transaction:
    """A read-write transaction. Own rows are keyed by row id; rows that it inserts have provisional ids below 0."""

    __slots__ = (
        "_id",
        "_next_private",
        "_next_provisional",
        "_undo",
        "bulk",
        "catalog",
        "catalog_changes",
        "chunk_digest",
        "chunks",
        "entered",
        "isolation",
        "keys",
        "locks",
        "origin",
        "private_stores",
        "read_only",
        "sequences",
        "snapshot",
        "started_order",
        "started_us",
        "traceparent",
        "waiting_for",
        "wake",
        "writes",
    )

    def __init__(self, started_order: int, isolation: Isolation, started_us: int, wake: Waker) -> None:
        self._id: bytes | None = None
        self.started_order = started_order
        self.started_us = started_us
        self.isolation = isolation
        self.read_only = False
        self.snapshot: int | None = None
        """The LSN that a REPEATABLE READ or SERIALIZABLE transaction reads at; None: each statement the newest."""
        self.writes: dict[TableStore, dict[int, list[Row | None]]] = {}
        """Per table: row id to [image before this transaction or None, image now or None]."""
        self.keys: dict[tuple[TableStore, int, Any], int] = {}
        """(table, index id, key) of rows that this transaction has inserted or given a new key, to row id."""
        self.locks: list[tuple[LockTable, Hashable]] = []
        self.waiting_for: tuple[LockTable, Hashable] | None = None
        self.wake = wake
        self.catalog: Catalog | None = None
        """The catalog as this transaction has changed it; None until it does."""
        self.catalog_changes: list[CatalogChange] = []
        self.sequences: dict[int, int] = {}
        self.chunks = 0
        """How many CHUNK records this transaction has in the log."""
        self.chunk_digest = blake2b(digest_size=16)
        self.bulk: dict[TableStore, int] = {}
        """Rows that this transaction has bulk loaded, per table."""
        self.entered: dict[TableStore, Mode] = {}
        """Table locks held, so that a statement asks only once."""
        self.traceparent = ""
        """The span that commits it; '' when that is not traced."""
        self.origin = ""
        """The position in another region's log up to which this transaction replicates; '' for a local one."""
        self.private_stores: dict[int, TableStore] = {}
        """Rows of tables whose storage only this transaction's catalog knows."""
        self._next_provisional = -1
        self._next_private = 1
        self._undo: list[Callable[[], None]] | None = None

    @property
    def id(self) -> bytes:
        if self._id is None:
            self._id = new_transaction_id()
        return self._id

    @property
    def wrote(self) -> bool:
        return bool(self.writes or self.catalog_changes or self.chunks or self.sequences or self.origin)

    def new_row_id(self) -> int:
        """Return a provisional row id; the record that carries the row gives it its real one."""
        provisional = self._next_provisional
        self._next_provisional = provisional - 1
        return provisional

    def private_row_id(self, count: int) -> int:
        """Return the first of `count` row ids for a load that only this transaction's private store holds.

        They are positive like loaded rows' real ids, ascending, and mean nothing outside: a private store's rows reach
        the log as the load itself.
        """
        first = self._next_private
        self._next_private += count
        return first

    def write(self, store: TableStore, row_id: int, before: Row | None, after: Row | None) -> None:
        """Set a row's image. `before` is the committed image, None for a row that this transaction inserts."""
        rows = self.writes.get(store)
        if rows is None:
            rows = self.writes[store] = {}
        own = rows.get(row_id)
        if self._undo is not None:
            previous = None if own is None else own[1]
            self._undo.append(lambda: self._restore(rows, row_id, own is not None, previous))
        if own is None:
            rows[row_id] = [before, after]
        else:
            own[1] = after

    def own_key(self, store: TableStore, index_id: int, key: Any, row_id: int) -> None:
        """Remember that a key of a unique index now leads to one of this transaction's rows."""
        slot = (store, index_id, key)
        if self._undo is not None:
            old = self.keys.get(slot)
            self._undo.append(lambda: self._restore_key(slot, old))
        self.keys[slot] = row_id

    def change_catalog(self, base: Catalog, changes: list[CatalogChange]) -> Catalog:
        """Apply catalog changes in this transaction only; return its catalog."""
        old, length = self.catalog, len(self.catalog_changes)
        if self._undo is not None:
            self._undo.append(lambda: self._restore_catalog(old, length))
        self.catalog = (old or base).apply(changes)
        self.catalog_changes.extend(changes)
        return self.catalog

    def savepoint(self) -> int:
        """Start to remember how to undo; return the mark to roll back to."""
        if self._undo is None:
            self._undo = []
        return len(self._undo)

    def rollback_to(self, mark: int) -> None:
        """Undo what was done since `savepoint` returned `mark`. Locks stay until the transaction ends."""
        assert self._undo is not None, "a mark came from savepoint()"
        while len(self._undo) > mark:
            self._undo.pop()()

    def effects(self) -> Iterator[records.Effect]:
        """Yield the effects to log, schema changes first, and only what differs from before.

        An inserted row's place among the record's inserts decides its row id. Rows of a table that this transaction
        has dropped or truncated afterwards are not there any more.
        """
        alive: set[int] | None = None
        if self.catalog_changes:
            assert self.catalog is not None, "changes make a catalog"
            alive = {table.storage_id for table in self.catalog.tables()}
            yield records.CatalogChanged(self.catalog_changes)
        if self.chunks:
            yield records.ChunksCommitted(self.chunks, self.chunk_digest.digest())
        for store, rows in self.writes.items():
            if alive is not None and store.storage_id not in alive:
                continue
            inserted: list[Row] = []
            for row_id, (before, after) in rows.items():
                if row_id < 0:
                    if after is not None:
                        inserted.append(after)
                elif before is not None and after is None:
                    yield records.Delete(store.storage_id, row_id, before)
                elif before is not None and after is not None and after is not before:
                    yield records.Update(store.storage_id, row_id, before, after)
            if inserted:
                yield records.Insert(store.storage_id, inserted)
        for sequence_id, through in self.sequences.items():
            yield records.SequenceReserved(sequence_id, through)

    def granted(self) -> None:
        """A lock that this transaction waited for is now held."""
        self.waiting_for = None
        self.wake(None)

    def wait_failed(self, error: OrbitError) -> None:
        """The wait ended without the lock; the lock table has already forgotten it."""
        self.waiting_for = None
        self.wake(error)

    def stop_waiting(self) -> None:
        """Leave the queue that this transaction waits in, if any."""
        if self.waiting_for is not None:
            table, resource = self.waiting_for
            table.forget_waiter(self, resource)

    def release_locks(self) -> None:
        locks = self.locks
        self.locks = []
        for table, resource in locks:
            table.release(self, resource)

    @staticmethod
    def _restore(rows: dict[int, list[Row | None]], row_id: int, existed: bool, previous: Row | None) -> None:
        if existed:
            rows[row_id][1] = previous
        else:
            del rows[row_id]

    def _restore_key(self, slot: tuple[TableStore, int, Any], old: int | None) -> None:
        if old is None:
            del self.keys[slot]
        else:
            self.keys[slot] = old

    def _restore_catalog(self, old: Catalog | None, length: int) -> None:
        self.catalog = old
        del self.catalog_changes[length:]
