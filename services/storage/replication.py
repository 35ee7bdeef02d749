"""The replica region's side of replication: applies another region's commits, in order, exactly once.

Owns what a batch means here. One batch is one local transaction, whose log record carries the source's position
(`Transaction.origin`), so that the state itself knows how far it is. The catalog comes over as it is, ids included;
rows get row ids of this region, and a changed row is found by its primary key, or another unique key of the table, or
else by its whole image, which reads the table once for each source transaction that changes it.

A source transaction holds net effects: each row's image before and after it. So all of its rows are found first, and
changed then; the batch's earlier transactions are seen through the local transaction's own writes.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from orbit.kernel import records
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.limits import APPLY_TURN_S
from orbit.kernel.origin import Origin
from orbit.kernel.records import BulkInsert, Delete, Insert, Kind, Row, Update
from orbit.kernel.schema import Table
from orbit.kernel.types import Oid
from services.storage.engine import Engine
from services.storage.tiers.table import TableStore, UniqueIndex
from services.storage.txn.transaction import Isolation, Transaction

_log = structlog.get_logger(__name__)

OUT_OF_ORDER: Final = "55000"
"""SQLSTATE of a batch that does not follow what has been applied: the source must ask for the position."""
DIVERGED: Final = "XX001"
"""SQLSTATE of a change to a row that is not here."""

Part = records.Effect | list[records.Transaction]
"""A row change out of a large transaction's chunks, or, at last, the transactions."""
Change = Update | Delete


@dataclass(frozen=True, slots=True)
class Batch:
    """What the source committed after LSN `follows`, up to and including LSN `through`."""

    region: str
    timeline: int
    follows: int
    through: int


class Replicator:
    """The leader's replication target. `accepts` is false in a region that takes its own writes."""

    def __init__(self, engine: Engine, region: str, *, accepts: bool) -> None:
        self.region = region
        self.applied_batches = 0
        self._engine = engine
        self._accepts = accepts
        self._lock = asyncio.Lock()
        self._committing: set[asyncio.Task[None]] = set()

    async def position(self, source: str) -> Origin:
        """Return how far the source's log has been applied here; waits for a batch that is under way.

        Raises NotLeader, and 55000 where this region cannot replicate from the source.
        """
        async with self._lock:
            return self._position(source)

    def _position(self, source: str) -> Origin:
        self._engine.check_leading()
        if not self._accepts:
            raise OrbitError(
                f"region {self.region} is no replica and applies no other region's commits", sqlstate="55000"
            )
        state = self._engine.state
        found = state.origins.get(source)
        if found is not None:
            return found
        if state.origins:
            raise OrbitError(
                f"region {self.region} replicates {', '.join(state.origins)}, not {source}", sqlstate=OUT_OF_ORDER
            )
        if state.catalog.objects:
            raise OrbitError(
                f"region {self.region} has data that does not come from {source}",
                sqlstate=OUT_OF_ORDER,
                hint="A replica region starts empty.",
            )
        return Origin(source, 0, 0)

    async def apply(self, batch: Batch, parts: AsyncIterator[Part]) -> None:
        """Apply a batch whose last part is its transactions. Raises OrbitError; nothing of the batch is kept then.

        When this is cancelled while the commit is under way, the commit goes on, and `position` waits for it.
        """
        await self._lock.acquire()
        transaction: Transaction | None = None
        try:
            self._check(batch)
            transaction = self._engine.begin(Isolation.READ_COMMITTED, _never_waits)
            transaction.origin = Origin(batch.region, batch.timeline, batch.through).text
            await self._gather(transaction, parts)
        except BaseException:
            if transaction is not None:
                self._engine.rollback(transaction)
            self._lock.release()
            raise
        committing = asyncio.create_task(self._commit(transaction), name="replication-commit")
        self._committing.add(committing)
        committing.add_done_callback(self._committing.discard)
        await asyncio.shield(committing)

    def _check(self, batch: Batch) -> None:
        """Raise 55000 unless the batch follows what has been applied."""
        known = self._position(batch.region)
        follows = known.lsn == batch.follows and known.timeline in (0, batch.timeline)
        if not follows or batch.through <= batch.follows:
            raise OrbitError(
                f"a batch after {batch.timeline}/{batch.follows} does not follow {known.timeline}/{known.lsn}",
                sqlstate=OUT_OF_ORDER,
            )

    async def _gather(self, transaction: Transaction, parts: AsyncIterator[Part]) -> None:
        """Put the batch's effects into the transaction; its loads go into the log at once."""
        complete = False
        chunked: list[records.Effect] = []
        async for part in parts:
            if isinstance(part, BulkInsert):
                await self._load(transaction, part)
                continue
            if not isinstance(part, list):
                # All rows of a source transaction are found before any is changed, so its changes come together.
                chunked.append(part)
                continue
            complete = True
            if chunked:
                if len(part) != 1:
                    raise OrbitError("chunks belong to one transaction, which travels alone", sqlstate="08P01")
                part[0].effects = [*part[0].effects, *chunked]
            loop = asyncio.get_running_loop()
            turn_ends = loop.time() + APPLY_TURN_S
            for source in part:
                _SourceTransaction(self._engine, transaction).apply(source)
                if loop.time() >= turn_ends:
                    await asyncio.sleep(0)
                    turn_ends = loop.time() + APPLY_TURN_S
        if not complete:
            raise OrbitError("a batch came without its transactions", sqlstate="08P01")

    async def _load(self, transaction: Transaction, effect: BulkInsert) -> None:
        committer = self._engine.committer
        if committer is None:
            raise NotLeader("this node no longer leads the shard")
        body = records.ChunkBody(transaction.id, transaction.chunks, [effect])
        transaction.chunks += 1
        transaction.chunk_digest.update(effect.arrow)
        outcome: asyncio.Future[int | OrbitError] = asyncio.get_running_loop().create_future()
        committer.append(Kind.CHUNK, body, _resolver(outcome))
        _raise(await outcome)

    async def _commit(self, transaction: Transaction) -> None:
        try:
            outcome: asyncio.Future[int | OrbitError] = asyncio.get_running_loop().create_future()
            try:
                self._engine.commit(transaction, _resolver(outcome))
            except OrbitError:
                self._engine.rollback(transaction)
                raise
            _raise(await outcome)
            self.applied_batches += 1
        finally:
            self._lock.release()


class _SourceTransaction:
    """One source transaction on its way into the local one."""

    def __init__(self, engine: Engine, transaction: Transaction) -> None:
        self._engine = engine
        self._transaction = transaction
        self._taken: set[tuple[int, int]] = set()

    def apply(self, source: records.Transaction) -> None:
        engine, transaction = self._engine, self._transaction
        for effect in source.effects:
            if isinstance(effect, records.CatalogChanged):
                transaction.change_catalog(engine.state.catalog, effect.changes)
        tables = {table.storage_id: table for table in engine.catalog(transaction).tables()}
        changes: dict[int, list[Change]] = defaultdict(list)
        inserts: list[Insert] = []
        for effect in source.effects:
            if isinstance(effect, records.SequenceReserved):
                transaction.sequences[effect.sequence_id] = effect.through
            elif isinstance(effect, (Update, Delete)) and effect.storage_id in tables:
                changes[effect.storage_id].append(effect)
            elif isinstance(effect, Insert) and effect.storage_id in tables:
                inserts.append(effect)
        found = [
            (self._store(tables[storage_id]), wanted, self._find(self._store(tables[storage_id]), wanted))
            for storage_id, wanted in changes.items()
        ]
        for store, wanted, row_ids in found:
            self._change(store, wanted, row_ids)
        for insert in inserts:
            store = self._store(tables[insert.storage_id])
            unpack = store.codec.unpack
            for row in insert.rows:
                engine.insert(transaction, store, unpack(row))

    def _store(self, table: Table) -> TableStore:
        return self._engine.store(self._transaction, table)

    def _change(self, store: TableStore, wanted: list[Change], found: list[tuple[int, Row]]) -> None:
        unpack = store.codec.unpack
        for effect, (row_id, row) in zip(wanted, found, strict=True):
            if isinstance(effect, Update):
                self._engine.update(self._transaction, store, row_id, row, unpack(effect.after))
            else:
                self._engine.delete(self._transaction, store, row_id, row)

    def _find(self, store: TableStore, wanted: list[Change]) -> list[tuple[int, Row]]:
        """Return (row id, row) of the row that each change replaces. Raises XX001 when one is not here."""
        before = [store.codec.unpack(effect.before) for effect in wanted]
        indexes = sorted(store.indexes.values(), key=lambda index: index is not store.primary)
        found = [self._find_by_key(store, indexes, row) for row in before]
        missing = [at for at, item in enumerate(found) if item is None]
        if missing:
            self._find_by_image(store, [before[at] for at in missing], missing, found)
        return [item for item in found if item is not None]

    def _find_by_key(self, store: TableStore, indexes: list[UniqueIndex], before: Row) -> tuple[int, Row] | None:
        engine, transaction = self._engine, self._transaction
        for index in indexes:
            key = index.key_of(before)
            if not index.indexes(key):
                continue
            candidates = [engine.find(transaction, store, index, key)]
            if transaction.chunks:
                # A load may bring a key back that the same transaction deletes: the images tell them apart.
                candidates.append(store.find_loaded(index, key, transaction.id))
                image = image_key(store.table)
                candidates = [item for item in candidates if item is not None and image(item[1]) == image(before)]
            for candidate in candidates:
                if candidate is not None and (store.storage_id, candidate[0]) not in self._taken:
                    self._taken.add((store.storage_id, candidate[0]))
                    return candidate
            return None
        return None

    def _find_by_image(
        self, store: TableStore, wanted: list[Row], places: list[int], found: list[tuple[int, Row] | None]
    ) -> None:
        """Find rows equal to the wanted ones in one reading of the table. Raises XX001 when one is not here."""
        image = image_key(store.table)
        open_places: dict[bytes, list[int]] = defaultdict(list)
        for row, place in zip(wanted, places, strict=True):
            open_places[image(row)].append(place)
        for row_id, row in self._engine.rows(self._transaction, store):
            key = image(row)
            places_of_key = open_places.get(key)
            if places_of_key and (store.storage_id, row_id) not in self._taken:
                self._taken.add((store.storage_id, row_id))
                found[places_of_key.pop()] = (row_id, row)
                if not places_of_key:
                    del open_places[key]
                    if not open_places:
                        return
        table = store.table
        _log.error("regions have diverged", table=table.name, rows=sum(map(len, open_places.values())))
        raise OrbitError(
            f"a row to be changed is not in table {table.schema}.{table.name} of this region", sqlstate=DIVERGED
        )


_encode_image = msgspec.msgpack.Encoder(decimal_format="string").encode


def image_key(table: Table) -> Callable[[Row], bytes]:
    """Return what maps rows to bytes that are equal when the rows are, NaN and -0 included.

    A numeric of fixed scale may have lost its trailing zeros on the way through a segment, or gained them.
    """
    scaled = [
        at
        for at, column in enumerate(table.columns)
        if column.type.oid == Oid.NUMERIC and column.type.precision_and_scale is not None
    ]
    if not scaled:
        return _encode_image

    def image(row: Row) -> bytes:
        values: list[Any] = list(row)
        for at in scaled:
            if values[at] is not None:
                values[at] = values[at].normalize()
        return _encode_image(values)

    return image


def _never_waits(error: OrbitError | None) -> None:
    raise AssertionError("replication takes no locks: nobody else writes in a replica region")


def _resolver(outcome: asyncio.Future[int | OrbitError]) -> Callable[[int | OrbitError], None]:
    return lambda result: None if outcome.done() else outcome.set_result(result)


def _raise(result: int | OrbitError) -> None:
    if isinstance(result, OrbitError):
        raise result
