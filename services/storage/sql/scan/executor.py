"""Runs bound queries on DuckDB: a pool of niced worker threads over one in-memory database without outside access.

A query is registered, generated and executed on one worker; its answer goes back to the event loop. Cancellation and
the statement timeout interrupt DuckDB (57014). Numbers past DuckDB's 38 digits make the query run once more with
numerics as text.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

import duckdb
import pyarrow as pa
import structlog

from orbit.kernel.errors import OrbitError, QueryCanceled
from orbit.kernel.schema import Table
from orbit.kernel.types import Oid
from services.storage.client import ColumnDescription
from services.storage.sql.bind.tree import BoundQuery, TableRelation
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.parse.errors import too_complex
from services.storage.sql.scan.errors import DecimalTooSmall, translate
from services.storage.sql.scan.generator import Generator
from services.storage.sql.scan.pieces import Piece
from services.storage.sql.scan.pruning import bounds_of
from services.storage.sql.scan.python_functions import PythonFunctions, Running, register_numeric_key
from services.storage.sql.scan.queries import emit_query
from services.storage.sql.scan.results import deliverable, finished, registered
from services.storage.sql.scan.source import TableSource

log = structlog.get_logger()

BATCH_ROWS: Final = 65_536
NICENESS: Final = 10
"""Priority of worker threads below the event loop's: point plans come first."""


class SystemTables(Protocol):
    """Gives the rows of a system catalog table as Arrow."""

    def rows(self, table: Table, context: EvaluationContext) -> pa.Table: ...


class NoSystemTables:
    def rows(self, table: Table, context: EvaluationContext) -> pa.Table:
        raise OrbitError(f'relation "{table.name}" does not exist', sqlstate="42P01")


@dataclass(frozen=True, slots=True)
class ScanResult:
    """A query's rows, in the result's types: see `results` for what carries each type."""

    columns: tuple[ColumnDescription, ...]
    batches: list[pa.RecordBatch]
    row_count: int


OnDone = Callable[["ScanResult | OrbitError"], None]


class ScanHandle:
    """A query on its way. `cancel` may be called at any time, from any thread."""

    __slots__ = ("_cursor", "_lock", "reason")

    def __init__(self) -> None:
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()
        self.reason: str | None = None

    def cancel(self, reason: str = "canceling statement due to user request") -> None:
        with self._lock:
            if self.reason is None:
                self.reason = reason
            if self._cursor is not None:
                self._cursor.interrupt()

    def started(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Let `cancel` reach this cursor. Raises QueryCanceled when it came first."""
        with self._lock:
            self.check()
            self._cursor = cursor

    def ended(self) -> None:
        with self._lock:
            self._cursor = None

    def check(self) -> None:
        if self.reason is not None:
            raise QueryCanceled(self.reason)


class ScanExecutor:
    """`threads` are DuckDB's for one query, `workers` how many queries run at once."""

    def __init__(
        self,
        *,
        threads: int,
        workers: int = 2,
        memory_limit: str = "1GB",
        temp_directory: str | None = None,
        system_tables: SystemTables | None = None,
    ) -> None:
        before = _thread_ids()
        self._database = duckdb.connect(":memory:", config={"threads": max(threads, 1)})
        for statement in _settings(memory_limit, temp_directory):
            self._database.execute(statement).fetchall()
        self._database.sql("SELECT count(*) FROM range(1)").fetchall()
        # DuckDB has started its own threads: they run queries too.
        for thread in _thread_ids() - before:
            _lower_priority(thread)
        self._functions = PythonFunctions(self._database)
        register_numeric_key(self._functions)
        self._system = system_tables or NoSystemTables()
        self._local = threading.local()
        self._pool = ThreadPoolExecutor(workers, "scan", initializer=lambda: _lower_priority(threading.get_native_id()))

    def submit(
        self,
        query: BoundQuery,
        source: TableSource,
        parameters: Sequence[Any],
        context: EvaluationContext,
        on_done: OnDone,
        timeout_ms: int = 0,
    ) -> ScanHandle:
        """Run a query; `on_done` is called on this event loop with the result or the error. 0 is no timeout."""
        loop = asyncio.get_running_loop()
        handle = ScanHandle()
        timer = (
            loop.call_later(timeout_ms / 1000, handle.cancel, "canceling statement due to statement timeout")
            if timeout_ms > 0
            else None
        )

        def finish(outcome: ScanResult | OrbitError) -> None:
            if timer is not None:
                timer.cancel()
            on_done(outcome)

        def work() -> None:
            outcome: ScanResult | OrbitError
            try:
                outcome = self.run(query, source, parameters, context, handle)
            except OrbitError as error:
                outcome = error
            except Exception as error:
                log.exception("scan plan failed", error=str(error))
                outcome = OrbitError("internal error in the scan executor", detail=str(error))
            loop.call_soon_threadsafe(finish, outcome)

        self._pool.submit(work)
        return handle

    def run(
        self,
        query: BoundQuery,
        source: TableSource,
        parameters: Sequence[Any],
        context: EvaluationContext,
        handle: ScanHandle | None = None,
    ) -> ScanResult:
        """Run a query on the calling thread. Raises OrbitError."""
        handle = handle or ScanHandle()
        batches = list(self.stream(query, source, parameters, context, handle))
        return ScanResult(query.columns, batches, sum(batch.num_rows for batch in batches))

    def stream(
        self,
        query: BoundQuery,
        source: TableSource,
        parameters: Sequence[Any],
        context: EvaluationContext,
        handle: ScanHandle,
    ) -> Iterator[pa.RecordBatch]:
        """Yield a query's batches as they are made, on the calling thread. Raises OrbitError."""
        try:
            yield from self._attempt(query, source, parameters, context, handle, wide=False)
        except DecimalTooSmall:
            # Nothing has been yielded that could differ: see `_attempt`.
            yield from self._attempt(query, source, parameters, context, handle, wide=True)

    def _attempt(
        self,
        query: BoundQuery,
        source: TableSource,
        parameters: Sequence[Any],
        context: EvaluationContext,
        handle: ScanHandle,
        wide: bool,
    ) -> Iterator[pa.RecordBatch]:
        cursor = self._cursor()
        running = self._functions.start(context, parameters)
        names: list[str] = []
        try:
            handle.started(cursor)
            generator = Generator(self._functions, running, wide)
            self._register(cursor, query, source, generator, names)
            text, pieces = emit_query(generator, query.query)
            text = _delivered(generator, text, pieces, query)
            handle.check()
            reader = cursor.sql(text).to_arrow_reader(BATCH_ROWS)
            # A wide number may turn up in any batch, and then all is done again: hold the batches until the end.
            batches = list(reader)
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            raise self._error(error, running, handle) from error
        except RecursionError:
            raise too_complex("stack depth limit exceeded") from None
        finally:
            handle.ended()
            self._functions.stop(running)
            _unregister(cursor, names)
        for batch in batches:
            yield finished(batch, query.columns)

    def _error(self, error: Exception, running: Running, handle: ScanHandle) -> Exception:
        if handle.reason is not None:
            return QueryCanceled(handle.reason)
        if running.error is not None:
            return running.error
        return translate(error)

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        cursor: duckdb.DuckDBPyConnection | None = getattr(self._local, "cursor", None)
        if cursor is None:
            cursor = self._local.cursor = self._database.cursor()
        return cursor

    def _register(
        self,
        cursor: duckdb.DuckDBPyConnection,
        query: BoundQuery,
        source: TableSource,
        generator: Generator,
        names: list[str],
    ) -> None:
        """Make each table of the query known to DuckDB under a name of its own."""
        for relation in query.tables:
            used = query.columns_used[relation.number] or (0,)
            name = f"t{relation.number}"
            rows = self._rows(relation, used, query, source, generator)
            cursor.register(name, registered(rows, used, [relation.table.columns[at].type.oid for at in used]))
            names.append(name)
            generator.tables[relation.number] = (name, used)

    def _rows(
        self,
        relation: TableRelation,
        used: Sequence[int],
        query: BoundQuery,
        source: TableSource,
        generator: Generator,
    ) -> Any:
        if relation.system:
            return self._system.rows(relation.table, generator.context).select(list(used))
        return source.scan(relation.table, used, bounds_of(query, relation.number, generator.folded))

    def close(self) -> None:
        """Stop the workers; running queries are interrupted by the end of their connection."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._database.close()


def _unregister(cursor: duckdb.DuckDBPyConnection, names: Sequence[str]) -> None:
    for name in names:
        try:
            cursor.unregister(name)
        except duckdb.InterruptException:
            # A cancellation that came as the query ended hits the next statement instead.
            cursor.unregister(name)


def _settings(memory_limit: str, temp_directory: str | None) -> Iterator[str]:
    yield f"SET memory_limit = '{memory_limit}'"
    yield f"SET temp_directory = '{(temp_directory or '').replace(chr(39), chr(39) * 2)}'"
    yield "SET TimeZone = 'UTC'"
    yield "SET preserve_insertion_order = true"
    yield "SET autoload_known_extensions = false"
    yield "SET autoinstall_known_extensions = false"
    yield "SET python_enable_replacements = false"
    yield "SET enable_external_access = false"
    yield "SET lock_configuration = true"


def _delivered(generator: Generator, text: str, pieces: Sequence[Piece], query: BoundQuery) -> str:
    """Wrap the query so that each column leaves DuckDB in the form that `finished` expects."""
    columns = [
        deliverable(generator, piece if piece.type.oid == Oid.NUMERIC else Piece(piece.sql, column.type))
        for piece, column in zip(pieces, query.columns, strict=True)
    ]
    if all(column == piece.sql for column, piece in zip(columns, pieces, strict=True)):
        return text
    listed = ", ".join(f"{column} AS {piece.sql}" for column, piece in zip(columns, pieces, strict=True))
    return f"SELECT {listed or '1 AS nothing'} FROM ({text}) z"


def _thread_ids() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def _lower_priority(thread: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
    except OSError as error:
        log.warning("cannot lower the priority of a scan thread", thread=thread, error=str(error))
