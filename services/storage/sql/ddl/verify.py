"""Rows that exist against constraints that are new: ALTER TABLE .. ADD, CREATE UNIQUE INDEX.

Owns the whole-table check, column by column: NULLs by Arrow's counts, unique keys by 32-bit fragments of their hashes,
of which only those that meet are compared. CHECK expressions are evaluated row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.kernel.errors import ConstraintViolation
from orbit.kernel.schema import Index, Table
from services.storage.sql.table_source import capture_parts
from services.storage.tiers.key_index import fragments_of
from services.storage.tiers.segment import column_reader
from services.storage.tiers.table import TableStore, UniqueIndex, batch_keys
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession

Keys = Sequence[Any] | npt.NDArray[np.int64]


def verify_rows(session: StorageSession, transaction: Transaction, old: Table, new: Table) -> None:
    """Raise what the rows that exist would raise against the constraints that are new. Reads the whole table."""
    engine = session.engine
    store = engine.store_to_define(transaction, old)
    _check_nulls(session, transaction, store, old, new)
    for index in new.indexes:
        if index.unique and index not in old.indexes:
            _check_unique(session, transaction, store, new, index)
    checks = session.planner.compile_checks(session, new, [check for check in new.checks if check not in old.checks])
    if not checks:
        return
    for batch in _batches(session, transaction, store, [column.number for column in old.columns]):
        readers = [
            column_reader(array, column.type.oid) for array, column in zip(batch.columns, old.columns, strict=True)
        ]
        for at in range(batch.num_rows):
            row = tuple([read(at) for read in readers])
            for check in checks:
                check(row)


def _batches(
    session: StorageSession, transaction: Transaction, store: TableStore, numbers: Sequence[int]
) -> Iterator[pa.RecordBatch]:
    # The newest rows, whatever the transaction's snapshot is: nobody else can change them now.
    for part in capture_parts(transaction, store, session.engine.state.applied_lsn):
        yield part.load(store.table, numbers)


def _check_nulls(session: StorageSession, transaction: Transaction, store: TableStore, old: Table, new: Table) -> None:
    required = [
        after for before, after in zip(old.columns, new.columns, strict=True) if before.nullable and not after.nullable
    ]
    if not required:
        return
    for batch in _batches(session, transaction, store, [column.number for column in required]):
        for at, column in enumerate(required):
            if batch.column(at).null_count:
                raise ConstraintViolation(
                    f'column "{column.name}" of relation "{new.name}" contains null values',
                    sqlstate="23502",
                    schema=new.schema,
                    table=new.name,
                    column=column.name,
                )


def _check_unique(
    session: StorageSession, transaction: Transaction, store: TableStore, new: Table, definition: Index
) -> None:
    index = UniqueIndex(definition, new)
    oids = [new.columns[at].type.oid for at in index.positions]
    batches = _batches(session, transaction, store, definition.columns)
    pieces: list[Keys] = [batch_keys(index, batch.columns, oids)[0] for batch in batches]
    if not pieces:
        return
    if all(isinstance(piece, np.ndarray) for piece in pieces):
        numbers = np.sort(np.concatenate([np.asarray(piece) for piece in pieces]))
        again = np.flatnonzero(numbers[1:] == numbers[:-1])
        if len(again):
            raise _duplicated(new, index, int(numbers[again[0]]))
        return
    fragments = np.concatenate([fragments_of(piece) for piece in pieces])
    if not len(fragments):
        return
    order = np.argsort(fragments, kind="stable")
    ordered = fragments[order]
    meets = ordered[1:] == ordered[:-1]
    suspects = order[np.append(meets, False) | np.append(False, meets)]
    ends = np.cumsum([len(piece) for piece in pieces])
    seen: set[Any] = set()
    for at in suspects.tolist():
        piece = int(np.searchsorted(ends, at, side="right"))
        found = pieces[piece][at - (int(ends[piece - 1]) if piece else 0)]
        key = int(found) if isinstance(found, np.integer) else found
        if key in seen:
            raise _duplicated(new, index, key)
        seen.add(key)


def _duplicated(table: Table, index: UniqueIndex, key: Any) -> ConstraintViolation:
    names = ", ".join(table.columns[at].name for at in index.positions)
    shown = key if isinstance(key, tuple) and len(index.positions) > 1 else (key,)
    return ConstraintViolation(
        f'could not create unique index "{index.definition.name}"',
        sqlstate="23505",
        detail=f"Key ({names})=({', '.join(map(str, shown))}) is duplicated.",
        schema=table.schema,
        table=table.name,
        constraint=index.definition.name,
    )
