"""Tables as Arrow at one statement's snapshot: what scan plans read.

Owns the capture, on the event loop, of what the statement sees (segments, visibility masks, tail rows, the
transaction's own changes), and the loading of its columns on a worker thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from orbit.kernel.schema import Table
from orbit.kernel.types import arrow_type
from services.storage.engine import Engine
from services.storage.meters import Meters
from services.storage.sql.scan.source import ColumnBound
from services.storage.tiers.table import ScanPart, TableStore
from services.storage.txn.transaction import Transaction


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """One table as the statement sees it."""

    table: Table
    parts: tuple[ScanPart, ...]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def capture(engine: Engine, transaction: Transaction | None, table: Table) -> CapturedTable:
    """Capture a table for the statement that runs now."""
    store = engine.store(transaction, table)
    return CapturedTable(table, tuple(capture_parts(transaction, store, engine.snapshot(transaction))))


def capture_parts(transaction: Transaction | None, store: TableStore, snapshot: int) -> list[ScanPart]:
    """Return what a snapshot sees of some rows, with the transaction's own changes on top."""
    own = None if transaction is None else transaction.writes.get(store)
    hidden = None if not own else {row_id for row_id in own if row_id >= 0}
    bulk_of = transaction.id if transaction is not None and transaction.chunks else None
    parts = store.scan(snapshot, hidden, bulk_of)
    if own:
        rows = [after for _, after in own.values() if after is not None]
        if rows:
            parts.append(ScanPart(len(rows), None, None, rows))
    return parts


class CapturedSource:
    """`TableSource` over captured tables."""

    def __init__(self, tables: Iterable[CapturedTable]) -> None:
        self._tables = {item.table.id: item for item in tables}
        self._scanned: list[tuple[str, int, float]] = []
        """(tier, rows, seconds) of each part that was read."""
        self._columns = 0

    def count(self, meters: Meters) -> None:
        """Add what was read to the node's meters. Called on the event loop, when the query is done."""
        for tier, rows, seconds in self._scanned:
            meters.reads[tier] += rows
            meters.rows_scanned += rows
            meters.read_duration[tier].observe(seconds)
        meters.batches += self._columns

    def scan(self, table: Table, columns: Sequence[int], bounds: Sequence[ColumnBound]) -> pa.Table:
        """Return the rows with these columns (positions). Blocks on warm and cold reads."""
        captured = self._tables[table.id]
        chosen = [table.columns[at] for at in columns]
        numbers = [column.number for column in chosen]
        schema = pa.schema([(column.name, arrow_type(column.type)) for column in chosen])
        if not numbers:
            # Only the number of rows matters, and Arrow keeps it for a table with a column.
            return pa.table({"": pa.nulls(captured.rows)})
        self._columns += len(numbers) * len(captured.parts)
        batches = []
        for part in captured.parts:
            began = time.perf_counter()
            batches.append(part.load(captured.table, numbers))
            tier = "hot" if part.segment is None else part.segment.tier
            self._scanned.append((tier, part.rows, time.perf_counter() - began))
        return pa.Table.from_batches([batch.cast(schema) for batch in batches], schema)
