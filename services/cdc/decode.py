"""From a committed transaction to change events. Pure.

Owns what an event says and the JSON form of values. The order of events in a transaction is that of its effects:
schema changes first, then loaded rows, then deletes, updates and inserts of each table. Positions count from 0.

| type                                      | in `before` and `after`                                            |
|-------------------------------------------|--------------------------------------------------------------------|
| boolean                                   | true, false                                                        |
| smallint .. bigint, oid                   | number (a reader must not squeeze bigint into a double)            |
| real, double precision                    | number; "NaN", "Infinity", "-Infinity" as text                     |
| numeric                                   | text, every digit of it                                            |
| date, time                                | text as PostgreSQL prints it: "2026-01-31", "12:00:00.5"           |
| timestamp, timestamptz                    | ISO 8601 text: "2026-01-31T12:00:00.5", "2026-01-31T12:00:00+00:00"|
| json, jsonb                               | text, so that NULL and JSON's null stay apart                      |
| bytea, interval, uuid, text and the like  | text as PostgreSQL prints it ("\\x00ff", "1 mon 2 days")           |
"""

from __future__ import annotations

import io
import math
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Literal

import msgspec
import pyarrow as pa

from orbit.kernel import records
from orbit.kernel.errors import LogCorrupt
from orbit.kernel.records import BulkInsert, Row, RowCodec
from orbit.kernel.schema import Catalog, Put, Table
from orbit.kernel.types import Oid, type_name
from orbit.kernel.values import format_text
from orbit.kernel.values.columns import python_values
from services.cdc.source import Commit
from services.storage.client import LogReader

Operation = Literal["insert", "update", "delete", "truncate", "schema"]
Image = dict[str, Any]


class Event(msgspec.Struct):
    """One change. `before` and `after` are row images by column name; of a schema event, table definitions."""

    operation: Operation
    schema: str
    table: str
    before: Image | None
    after: Image | None
    timeline: int
    lsn: int
    transaction: str
    position: int
    total: int
    """Events in the transaction: the one at position total - 1 is its last."""
    commit_time: str
    schema_version: int
    origin: str
    """'' or the `region/timeline/lsn` that the transaction was replicated from."""
    images_omitted: bool = False
    """The images would not fit a message: the reader must fetch the row itself."""


_format_instant = format_text(Oid.TIMESTAMPTZ)
_encode = msgspec.json.Encoder().encode


def encode(event: Event) -> bytes:
    """Return the event as JSON."""
    return _encode(event)


def event_count(commit: Commit) -> int:
    """Return how many events the transaction makes."""
    count = len(_catalog_changes(commit))
    tables = storages(commit.after)
    if commit.load is not None:
        count += sum(rows for storage_id, rows in commit.load.row_counts.items() if storage_id in tables)
    for effect in commit.transaction.effects:
        if isinstance(effect, (records.Update, records.Delete)):
            count += effect.storage_id in tables
        elif isinstance(effect, records.Insert):
            count += len(effect.rows) if effect.storage_id in tables else 0
        elif isinstance(effect, BulkInsert):
            count += effect.row_count if effect.storage_id in tables else 0
    return count


async def events(commit: Commit, log: LogReader) -> AsyncIterator[Event]:
    """Yield the transaction's events. Chunks that are not in memory are read from the log again."""
    maker = _Maker(commit)
    for effect in commit.transaction.effects:
        if isinstance(effect, records.ChunksCommitted):
            assert commit.load is not None, "the source has matched the chunks"
            async for change in commit.load.effects(log):
                for event in maker.effect(change):
                    yield event
        else:
            for event in maker.effect(effect):
                yield event


def storages(catalog: Catalog) -> dict[int, Table]:
    """Return the tables by storage id. Cached on the catalog's identity: most commits share one."""
    cached = _storages.get(id(catalog))
    if cached is None or cached[0] is not catalog:
        _storages.clear()
        cached = _storages[id(catalog)] = (catalog, {table.storage_id: table for table in catalog.tables()})
    return cached[1]


_storages: dict[int, tuple[Catalog, dict[int, Table]]] = {}


class _Maker:
    """Makes one transaction's events."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._tables = storages(commit.after)
        self._position = 0
        self._total = event_count(commit)
        self._transaction = commit.transaction.id.hex()
        self._time = iso_instant(_format_instant(commit.time_us).decode())

    def effect(self, effect: records.Effect) -> Iterator[Event]:
        if isinstance(effect, BulkInsert):
            yield from self.bulk(effect)
        elif isinstance(effect, records.CatalogChanged):
            for operation, changed, before, after in _catalog_changes(self._commit):
                yield self._event(operation, changed, before, after)
        elif isinstance(effect, (records.Insert, records.Update, records.Delete)):
            table = self._tables.get(effect.storage_id)
            if table is None:
                return  # The transaction dropped or truncated the table after it wrote these rows.
            image = _image_of(table)
            if isinstance(effect, records.Insert):
                for row in effect.rows:
                    yield self._event("insert", table, None, image(row))
            elif isinstance(effect, records.Update):
                yield self._event("update", table, image(effect.before), image(effect.after))
            else:
                yield self._event("delete", table, image(effect.before), None)

    def bulk(self, effect: BulkInsert) -> Iterator[Event]:
        table = self._tables.get(effect.storage_id)
        if table is None:
            return  # The transaction dropped or truncated the table after it loaded these rows.
        shape = _shape(table)
        for row in bulk_rows(effect, table):
            yield self._event("insert", table, None, shape(row))

    def _event(self, operation: Operation, table: Table, before: Image | None, after: Image | None) -> Event:
        commit = self._commit
        position = self._position
        self._position += 1
        return Event(
            operation,
            table.schema,
            table.name,
            before,
            after,
            commit.timeline,
            commit.lsn,
            self._transaction,
            position,
            self._total,
            self._time,
            commit.after.version,
            commit.transaction.origin,
        )


# Rows.


def bulk_rows(effect: BulkInsert, table: Table) -> Iterator[Row]:
    """Yield a bulk insert's rows. Raises LogCorrupt when they are not what the effect says."""
    with pa.ipc.open_stream(io.BytesIO(effect.arrow)) as reader:
        batches = list(reader)
    if len(batches) != 1 or batches[0].num_rows != effect.row_count:
        raise LogCorrupt("a bulk insert does not hold the rows that it names")
    for start in range(0, effect.row_count, ROWS_AT_ONCE):
        piece = batches[0].slice(start, ROWS_AT_ONCE)
        columns = [python_values(piece.column(at), column.type.oid) for at, column in enumerate(table.columns)]
        yield from zip(*columns, strict=True)


ROWS_AT_ONCE: Final = 512
"""Rows of a load that are turned into Python values in one go: bounds how long that holds the event loop."""

_images: dict[int, tuple[Table, Callable[[Any], Image]]] = {}
_shapes: dict[int, tuple[Table, Callable[[Row], Image]]] = {}
_CACHED_TABLES: Final = 4096


def _image_of(table: Table) -> Callable[[Any], Image]:
    """Return what turns a record's row values into an image."""
    cached = _images.get(table.storage_id)
    if cached is None or cached[0] is not table:
        unpack, shape = RowCodec(table.columns).unpack, _shape(table)
        if len(_images) >= _CACHED_TABLES:
            _images.clear()
        cached = _images[table.storage_id] = (table, lambda values: shape(unpack(values)))
    return cached[1]


def _shape(table: Table) -> Callable[[Row], Image]:
    cached = _shapes.get(table.storage_id)
    if cached is None or cached[0] is not table:
        if len(_shapes) >= _CACHED_TABLES:
            _shapes.clear()
        cached = _shapes[table.storage_id] = (table, row_shape(table))
    return cached[1]


def row_shape(table: Table) -> Callable[[Row], Image]:
    """Return what turns a row into its image: column names to JSON values."""
    names = tuple(column.name for column in table.columns)
    fixes = [(column.name, fix) for column in table.columns if (fix := json_value(column.type.oid)) is not None]

    def shape(row: Row) -> Image:
        image = dict(zip(names, row, strict=True))
        for name, fix in fixes:
            value = image[name]
            if value is not None:
                image[name] = fix(value)
        return image

    return shape


def json_value(oid: int) -> Callable[[Any], Any] | None:
    """Return what makes a type's value JSON; None for values that are JSON as they are."""
    if oid in _AS_THEY_ARE:
        return None
    print_ = format_text(oid)
    if oid in (Oid.FLOAT4, Oid.FLOAT8):
        return lambda value: value if math.isfinite(value) else print_(value).decode()
    if oid == Oid.TIMESTAMP:
        return lambda value: print_(value).decode().replace(" ", "T", 1)
    if oid == Oid.TIMESTAMPTZ:
        return lambda value: iso_instant(print_(value).decode())
    return lambda value: print_(value).decode()


_AS_THEY_ARE: Final = frozenset(
    (
        Oid.BOOL, Oid.INT2, Oid.INT4, Oid.INT8, Oid.OID, Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME, Oid.CHAR,
        Oid.UNKNOWN, Oid.JSON, Oid.JSONB, Oid.UUID,
    )
)  # fmt: skip


def iso_instant(text: str) -> str:
    """Return PostgreSQL's text of a timestamptz in UTC as ISO 8601: its zone `+00` is too short for most readers."""
    return text.replace(" ", "T", 1).replace("+00", "+00:00", 1) if "+" in text else text


# Schema changes.

CatalogEvent = tuple[Operation, Table, Image | None, Image | None]


def _catalog_changes(commit: Commit) -> list[CatalogEvent]:
    """Return what the transaction did to tables: one truncate and one schema event for each at most."""
    if commit.before is commit.after:
        return []
    found: list[CatalogEvent] = []
    seen: set[int] = set()
    for effect in commit.transaction.effects:
        if not isinstance(effect, records.CatalogChanged):
            continue
        for change in effect.changes:
            object_id = change.object.id if isinstance(change, Put) else change.id
            if object_id not in seen:
                seen.add(object_id)
                found.extend(_table_change(commit.before.objects.get(object_id), commit.after.objects.get(object_id)))
    return found


def _table_change(old: Any, new: Any) -> Iterator[CatalogEvent]:
    before = definition(old) if isinstance(old, Table) else None
    after = definition(new) if isinstance(new, Table) else None
    if isinstance(old, Table) and isinstance(new, Table) and old.storage_id != new.storage_id:
        # All rows went at once. A rewrite inserts them again in the same transaction.
        yield "truncate", old, None, None
    if before != after:
        yield "schema", new if isinstance(new, Table) else old, before, after


def definition(table: Table) -> Image:
    """Return what a schema event tells of a table."""
    key = table.primary_key
    return {
        "schema": table.schema,
        "name": table.name,
        "columns": [
            {
                "name": column.name,
                "type": type_name(column.type),
                "nullable": column.nullable,
                "default": column.default,
            }
            for column in table.columns
        ],
        "primary_key": [] if key is None else [table.columns[table.position(number)].name for number in key.columns],
    }
