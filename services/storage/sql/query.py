"""Runs a bound query: in Python when it reads no table and Python has a meaning for all of it, on DuckDB otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orbit.kernel.schema import Table
from services.storage.sql.bind.tree import BoundQuery
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.scan.executor import OnDone, ScanExecutor, ScanHandle, ScanResult
from services.storage.sql.scan.source import TableSource
from services.storage.sql.small import SmallQuery, small_query
from services.storage.sql.system_catalog.catalog import SystemCatalog


class QueryRunner:
    """The one way to run queries. `system_tables` is what binding resolves pg_catalog names with."""

    def __init__(self, executor: ScanExecutor) -> None:
        self.executor = executor

    @staticmethod
    def system_tables(schema: str, name: str) -> Table | None:
        return SystemCatalog.table(schema, name)

    @staticmethod
    def small(query: BoundQuery) -> SmallQuery | None:
        """Return the query as a Python function of (parameters, context), or None when it needs a scan."""
        return small_query(query)

    def run(
        self, query: BoundQuery, source: TableSource, parameters: Sequence[Any], context: EvaluationContext
    ) -> ScanResult:
        """Run on the calling thread. Raises OrbitError."""
        small = small_query(query)
        if small is not None:
            batch = small.batch(parameters, context)
            return ScanResult(query.columns, [batch], batch.num_rows)
        return self.executor.run(query, source, parameters, context)

    def submit(
        self,
        query: BoundQuery,
        source: TableSource,
        parameters: Sequence[Any],
        context: EvaluationContext,
        on_done: OnDone,
        timeout_ms: int = 0,
    ) -> ScanHandle:
        """Run on a worker; see `ScanExecutor.submit`."""
        return self.executor.submit(query, source, parameters, context, on_done, timeout_ms)
