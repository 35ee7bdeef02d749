"""Queries beyond a key: scan plans on the executor, and the choice between them and plans in Python.

Owns one node's executor, and the way of a result to the client: encoded in a worker thread, streamed batch by batch,
held back while the client does not drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.records import Row
from orbit.kernel.schema import Table
from orbit.kernel.types import SqlType
from orbit.kernel.values.data_rows import encode_data_rows
from services.storage.client import ColumnDescription
from services.storage.engine import Engine
from services.storage.sql.answer import command_complete, encodable_types
from services.storage.sql.bind.tree import BoundQuery
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.scan.executor import ScanExecutor, ScanResult
from services.storage.sql.select import plan_in_python
from services.storage.sql.settings import setting_names
from services.storage.sql.system_catalog.catalog import SystemCatalog
from services.storage.sql.table_source import CapturedSource, capture
from services.storage.tiers.segment import column_reader

if TYPE_CHECKING:
    from services.storage.session import StorageSession

INLINE_ROWS = 2_000
"""Results up to this many rows are encoded on the event loop; larger ones in a worker thread."""

Deliver = Callable[["StorageSession", ScanResult], None]


class QueryPlanner:
    """Plans queries for the sessions of one node."""

    def __init__(self, engine: Engine, *, threads: int, memory_bytes: int) -> None:
        self._engine = engine
        self.executor = ScanExecutor(
            threads=threads,
            memory_limit=f"{memory_bytes // (1 << 20)}MB",
            system_tables=SystemCatalog(settings=_settings),
        )

    def close(self) -> None:
        self.executor.close()

    def plan(self, bound: BoundQuery) -> Any:
        """Return a query's plan."""
        return plan_in_python(bound) or ScanPlan(self, bound)

    def system_tables(self, schema: str, name: str) -> Table | None:
        return SystemCatalog.table(schema, name)


def _settings(context: EvaluationContext) -> Iterator[dict[str, object]]:
    """Yield the rows of pg_settings."""
    for name in setting_names():
        yield {"name": name, "setting": context.setting(name)}


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """A query that DuckDB executes over Arrow."""

    planner: QueryPlanner
    bound: BoundQuery
    in_failed_block: bool = False

    @property
    def columns(self) -> tuple[ColumnDescription, ...]:
        return self.bound.columns

    @property
    def parameter_types(self) -> tuple[SqlType, ...]:
        return self.bound.parameter_types

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> None:
        def deliver(to: StorageSession, result: ScanResult) -> None:
            _answer(to, result, formats)

        self.start(session, parameters, deliver)

    def fetch(self, session: StorageSession, parameters: Sequence[Any]) -> None:
        """Give the rows to the statement that this query is a part of."""

        def deliver(to: StorageSession, result: ScanResult) -> None:
            to.query_rows = rows_of(result)
            to.run_again()

        self.start(session, parameters, deliver)

    def start(self, session: StorageSession, parameters: Sequence[Any], deliver: Deliver) -> None:
        """Capture what the statement sees and hand the query to the executor."""
        engine = session.engine
        engine.check_leading()
        if self.bound.locks:
            raise NotSupported(f"FOR {self.bound.locks[0].strength.upper()} without a unique key is not supported")
        transaction = session.transaction
        tables: dict[int, Table] = {}
        for relation in self.bound.tables:
            if not relation.system:
                session.planner.need_privilege(session, relation.table, "SELECT")
                tables[relation.table.id] = relation.table
        source = CapturedSource(capture(engine, transaction, table) for table in tables.values())

        def done(outcome: ScanResult | OrbitError) -> None:
            source.count(engine.meters)
            if session.abort_work is not handle.cancel:
                # Canceled or closed meanwhile: somebody else has answered.
                return
            if isinstance(outcome, OrbitError):
                session.complete(outcome)
            else:
                deliver(session, outcome)

        handle = _Handle(
            self.planner.executor.submit(self.bound, source, parameters, session.evaluation_context(), done)
        )
        session.abort_work = handle.cancel


class _Handle:
    """A submitted query, with a `cancel` of its own identity: a bound method would be a new object each time."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.cancel: Callable[[], None] = self._cancel

    def _cancel(self) -> None:
        self._handle.cancel()


def _answer(session: StorageSession, result: ScanResult, formats: Sequence[int]) -> None:
    try:
        types = encodable_types(result.columns, formats)
    except OrbitError as error:
        session.complete(error)
        return
    zone = session.settings.zone
    tag = command_complete(f"SELECT {result.row_count}")
    if result.row_count <= INLINE_ROWS:
        try:
            rows = b"".join([encode_data_rows(batch, types, formats, zone) for batch in result.batches])
        except OrbitError as error:
            session.complete(error)
            return
        session.complete(rows + tag)
        return
    messages = [partial(encode_data_rows, batch, types, formats, zone) for batch in result.batches]
    task = asyncio.get_running_loop().create_task(stream(session, messages, tag), name="stream-rows")
    session.abort_work = stopper(task)


def stopper(task: asyncio.Task[None]) -> Callable[[], None]:
    """Return what stops a stream of rows whose session has ended or was canceled."""

    def stop() -> None:
        task.cancel()

    return stop


async def stream(session: StorageSession, messages: Sequence[Callable[[], bytes]], tag: bytes) -> None:
    """Encode piece by piece in a worker thread and send each, as fast as the client drains."""
    loop = asyncio.get_running_loop()
    try:
        for encode in messages:
            encoded = await loop.run_in_executor(None, encode)
            while session.rows_held:
                drained: asyncio.Future[None] = loop.create_future()
                session.resume_rows = lambda drained=drained: drained.done() or drained.set_result(None)
                await drained
            session.stream_rows(encoded)
    except OrbitError as error:
        session.complete(error)
        return
    session.complete(tag)


def rows_of(result: ScanResult) -> list[Row]:
    """Return a result as rows of values."""
    rows: list[Row] = []
    for batch in result.batches:
        readers = [
            column_reader(_contiguous(batch.column(at)), column.type.oid) for at, column in enumerate(result.columns)
        ]
        rows.extend(tuple([read(offset) for read in readers]) for offset in range(batch.num_rows))
    return rows


def _contiguous(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
