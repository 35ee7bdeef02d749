"""COPY .. FROM STDIN on the storage side: whole Arrow batches into the log as CHUNK records.

Owns the checks of a batch (not null, checks, unique keys) and its way into the log. The gateway has parsed the text;
its bytes are appended as they are when they name all columns in order. The table is locked against other writers, so
what a batch was checked against stays so until the transaction ends.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from orbit.kernel import records
from orbit.kernel.errors import ConstraintViolation, NotLeader, NotSupported, OrbitError
from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.records import Kind
from orbit.kernel.schema import Column, Table
from orbit.kernel.types import arrow_type
from services.storage.client import ColumnDescription, CopyFormat
from services.storage.sql.answer import command_complete
from services.storage.sql.ddl.names import need_table
from services.storage.sql.parse.statement import CopyCommand
from services.storage.sql.plan import ControlPlan
from services.storage.tiers.key_index import fragments_of
from services.storage.tiers.segment import column_array, column_reader
from services.storage.tiers.table import OFFSET_MASK, TableStore, UniqueIndex, batch_keys
from services.storage.txn.locks import Mode
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession

_OPTIONS = {"format", "delimiter", "null", "header", "quote", "escape", "freeze", "encoding"}


def plan_copy_in(command: CopyCommand) -> ControlPlan:
    """Return the plan of COPY table FROM STDIN."""
    assert command.table is not None, "COPY FROM names a table"
    unknown = set(command.options) - _OPTIONS
    if unknown:
        raise NotSupported(f"COPY option {min(unknown).upper()} is not supported")
    named, name = command.table

    def run(session: StorageSession) -> bytes | None:
        transaction = session.transaction_for_write()
        table = need_table(session, session.engine.catalog(transaction), named, name)
        session.planner.need_privilege(session, table, "INSERT")
        store = session.engine.store(transaction, table)
        if not session.engine.enter(transaction, store, Mode.TABLE_BULK):
            return None
        columns = _columns(table, command.columns)
        session.enter_copy(
            CopyIn(session, transaction, store, table, columns), copy_format(columns, table, command.options)
        )
        return None

    return ControlPlan(run)


def _columns(table: Table, names: Sequence[str]) -> list[Column]:
    if not names:
        return list(table.columns)
    columns: list[Column] = []
    for name in names:
        column = table.column(name)
        if column is None:
            raise OrbitError(f'column "{name}" of relation "{table.name}" does not exist', sqlstate="42703")
        if column in columns:
            raise OrbitError(f'column "{name}" specified more than once', sqlstate="42701")
        columns.append(column)
    return columns


def copy_format(columns: Sequence[Column], table: Table | None, options: dict[str, str]) -> CopyFormat:
    """Return the options with PostgreSQL's defaults. Raises 22023 and 0A000."""
    form = options.get("format", "text").lower()
    if form == "binary":
        raise NotSupported("COPY in binary format is not supported")
    if form not in ("text", "csv"):
        raise OrbitError(f'COPY format "{form}" not recognized', sqlstate="22023")
    csv = form == "csv"
    if not csv and ("quote" in options or "escape" in options):
        raise OrbitError("COPY quote available only in CSV mode", sqlstate="0A000")
    delimiter = options.get("delimiter", "," if csv else "\t")
    quote = options.get("quote", '"')
    for what, value in (("delimiter", delimiter), ("quote", quote), ("escape", options.get("escape", quote))):
        if len(value.encode()) != 1:
            raise OrbitError(f"COPY {what} must be a single one-byte character", sqlstate="0A000")
    return CopyFormat(
        format=form,
        columns=tuple(
            ColumnDescription(column.name, column.type, 0 if table is None else table.id, column.number)
            for column in columns
        ),
        delimiter=delimiter,
        null=options.get("null", "" if csv else "\\N"),
        header=options.get("header", "false").lower() in ("true", "on", "1", "match"),
        quote=quote,
        escape=options.get("escape", quote),
        table="" if table is None else table.name,
    )


class CopyIn:
    """One COPY FROM STDIN in progress."""

    def __init__(
        self,
        session: StorageSession,
        transaction: Transaction,
        store: TableStore,
        table: Table,
        columns: Sequence[Column],
    ) -> None:
        self._session = session
        self._transaction = transaction
        self._store = store
        self._table = table
        self._columns = columns
        self._rows = 0
        self._abandoned = False
        self._complete = [column.number for column in columns] == [column.number for column in table.columns]
        self._checks = session.planner.compile_checks(session, table, table.checks)
        self._private = session.engine.state.stores.get(store.storage_id) is not store

    def batch(self, encoded: bytes) -> bytes | None:
        """Check one batch and append it. Answers through `session.copy_taken`."""
        batch = _decode(encoded)
        if [field.type for field in batch.schema] != [arrow_type(column.type) for column in self._columns]:
            raise OrbitError("COPY batch does not have the columns that were asked for", sqlstate="08P01")
        if not self._complete:
            batch = self._with_defaults(batch)
            encoded = encode_batch(batch)
        self._check(batch)
        committer = self._session.engine.committer
        if committer is None:
            raise NotLeader("this node no longer leads the shard")
        transaction = self._transaction
        effect = records.BulkInsert(self._store.storage_id, batch.num_rows, encoded)
        body = records.ChunkBody(transaction.id, transaction.chunks, [effect])
        transaction.chunks += 1
        transaction.chunk_digest.update(encoded)
        self._rows += batch.num_rows

        def done(outcome: int | OrbitError) -> None:
            if self._abandoned:
                return
            if isinstance(outcome, OrbitError):
                self._session.copy_taken(outcome)
                return
            if self._private:
                # The shard's state does not know this table yet: the transaction reads its own copy.
                self._store.add_bulk(None, batch, transaction.private_row_id(batch.num_rows), 0, 0)
            self._session.copy_taken(None)

        committer.append(Kind.CHUNK, body, done)
        return None

    def done(self) -> bytes:
        return command_complete(f"COPY {self._rows}")

    def abandon(self) -> None:
        self._abandoned = True

    def _with_defaults(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        given = {column.number: batch.column(at) for at, column in enumerate(self._columns)}
        arrays = []
        for column in self._table.columns:
            array = given.get(column.number)
            if array is None:
                value = self._session.planner.default_value(self._session, self._table, column)
                array = column_array([value] * batch.num_rows, column)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, [column.name for column in self._table.columns])

    def _check(self, batch: pa.RecordBatch) -> None:
        table = self._table
        for at, column in enumerate(table.columns):
            if not column.nullable and batch.column(at).null_count:
                raise ConstraintViolation(
                    f'null value in column "{column.name}" of relation "{table.name}" violates not-null constraint',
                    sqlstate="23502",
                    schema=table.schema,
                    table=table.name,
                    column=column.name,
                )
        if self._checks:
            readers = [column_reader(batch.column(at), column.type.oid) for at, column in enumerate(table.columns)]
            for offset in range(batch.num_rows):
                row = tuple([read(offset) for read in readers])
                for check in self._checks:
                    check(row)
        for index in self._store.indexes.values():
            self._check_unique(index, batch)

    def _check_unique(self, index: UniqueIndex, batch: pa.RecordBatch) -> None:
        arrays = [batch.column(at) for at in index.positions]
        oids = [self._table.columns[at].type.oid for at in index.positions]
        keys, _ = batch_keys(index, arrays, oids)
        fragments = fragments_of(keys)
        if len(np.unique(fragments)) < len(fragments):
            seen: set[Any] = set()
            for key in keys.tolist() if isinstance(keys, np.ndarray) else keys:
                if key in seen:
                    raise self._duplicate(index, key)
                seen.add(key)
        own = self._transaction.id
        candidates, positions = index.sealed.probe_many(fragments)
        for at, position in zip(candidates.tolist(), positions.tolist(), strict=True):
            segment = self._store.segments.get(position >> 16)
            offset = position & OFFSET_MASK
            if segment is None or segment.end_view[offset] != INFINITY_LSN or segment.owner not in (None, own):
                continue
            key = int(keys[at]) if isinstance(keys, np.ndarray) else keys[at]
            if index.key_of(segment.row(offset)) == key:
                self._session.engine.check_unique(self._transaction, self._store, index, key, None)
        if index.tail or self._transaction.writes.get(self._store):
            for key in keys.tolist() if isinstance(keys, np.ndarray) else keys:
                if key in index.tail or (self._store, index.definition.id, key) in self._transaction.keys:
                    self._session.engine.check_unique(self._transaction, self._store, index, key, None)

    def _duplicate(self, index: UniqueIndex, key: Any) -> ConstraintViolation:
        names = ", ".join(self._table.columns[at].name for at in index.positions)
        shown = key if isinstance(key, tuple) and len(index.positions) > 1 else (key,)
        return ConstraintViolation(
            f'duplicate key value violates unique constraint "{index.definition.name}"',
            sqlstate="23505",
            detail=f"Key ({names})=({', '.join(map(str, shown))}) already exists.",
            schema=self._table.schema,
            table=self._table.name,
            constraint=index.definition.name,
        )


def _decode(encoded: bytes) -> pa.RecordBatch:
    try:
        with pa.ipc.open_stream(io.BytesIO(encoded)) as reader:
            batches = list(reader)
        if len(batches) != 1:
            raise OrbitError("COPY data must hold one batch", sqlstate="08P01")
        batches[0].validate(full=True)
    except pa.ArrowInvalid as error:
        raise OrbitError(f"COPY data does not decode: {error}", sqlstate="08P01") from error
    return batches[0]


def encode_batch(batch: pa.RecordBatch) -> bytes:
    """Return a batch as the zstd-compressed Arrow IPC stream that bulk records carry."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


__all__ = ["CopyIn", "copy_format", "encode_batch", "plan_copy_in"]
