"""Our side: a statement parsed, bound and run over in-memory Arrow tables, its answer as the client's text."""

from __future__ import annotations

from typing import Any

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values.columns import text_column
from services.storage.sql.bind import BindContext, bind_select_statement
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.parse import parse
from services.storage.sql.query import QueryRunner
from services.storage.sql.scan.executor import ScanExecutor
from services.storage.sql.scan.results import encoding_types
from services.storage.sql.system_catalog.catalog import SystemCatalog
from tests.conformance.sql.reference import Answer, MemoryTables

NOW_US = 1_700_000_000_000_000
_VIEWED = Oid.TEXT


class Engine:
    def __init__(self, tables: MemoryTables) -> None:
        self.tables = tables
        self.executor = ScanExecutor(threads=2, system_tables=SystemCatalog())
        self.runner = QueryRunner(self.executor)
        self.context = EvaluationContext(
            now_us=NOW_US, user="postgres", session_user="postgres", database="postgres", catalog=tables.catalog,
            setting={"server_version": "15.18", "search_path": "public", "TimeZone": "UTC"}.get,
        )  # fmt: skip

    def ask(self, sql: str, parameters: tuple[Any, ...] = ()) -> Answer:
        try:
            statement = parse(sql)[0]
            bind_context = BindContext(self.tables.catalog, system_tables=self.runner.system_tables)
            bound = bind_select_statement(statement, bind_context)
            result = self.runner.run(bound, self.tables, parameters, self.context)
        except OrbitError as error:
            return Answer([], [], error.sqlstate, error.message, error.position)
        columns = [(column.name, column.type.oid, column.type.modifier) for column in result.columns]
        types: list[SqlType] = encoding_types(result.columns)
        rows: list[tuple[str | None, ...]] = []
        for batch in result.batches:
            if not columns:
                rows.extend([()] * batch.num_rows)
                continue
            texts = [text_column(array, kind.oid).to_pylist() for array, kind in zip(batch.columns, types, strict=True)]
            rows.extend(zip(*texts, strict=True))
        return Answer(columns, rows)

    def close(self) -> None:
        self.executor.close()
