"""COPY (query | table) TO STDOUT: a query whose answer travels as CopyData.

Owns the binding of its two forms to one query. The text is made by `orbit.kernel.values.copy_text`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import SqlType
from orbit.kernel.values.copy_text import COPY_DONE, CopyStyle, copy_header, copy_out_response, encode_copy_rows
from services.storage.client import CopyFormat
from services.storage.sql.answer import command_complete, encodable_types
from services.storage.sql.bind import BindContext, bind_select_statement
from services.storage.sql.copy import copy_format
from services.storage.sql.ddl.names import need_table
from services.storage.sql.parse import Kind, Statement, parse
from services.storage.sql.parse.statement import CopyCommand
from services.storage.sql.queries import ScanPlan, stopper, stream
from services.storage.sql.scan.executor import ScanResult

if TYPE_CHECKING:
    from services.storage.session import StorageSession
    from services.storage.sql.queries import QueryPlanner


@dataclass(frozen=True, slots=True)
class CopyOutPlan:
    """A scan plan whose rows are delivered as COPY text."""

    query: ScanPlan
    style: CopyStyle
    header: bool
    columns: None = None
    parameter_types: tuple[SqlType, ...] = ()
    in_failed_block: bool = False

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> None:
        self.query.start(session, parameters, self._deliver)

    def _deliver(self, session: StorageSession, result: ScanResult) -> None:
        types = encodable_types(result.columns, ())
        zone = session.settings.zone
        start = copy_out_response(len(types))
        if self.header:
            start += copy_header([column.name for column in result.columns], self.style)
        pieces: list[Callable[[], bytes]] = [lambda: start]
        pieces += [partial(encode_copy_rows, batch, types, self.style, zone) for batch in result.batches]
        end = COPY_DONE + command_complete(f"COPY {result.row_count}")
        task = asyncio.get_running_loop().create_task(stream(session, pieces, end), name="copy-out")
        session.abort_work = stopper(task)


def plan_copy_out(
    queries: QueryPlanner, session: StorageSession, context: BindContext, command: CopyCommand
) -> CopyOutPlan:
    """Return the plan of COPY .. TO STDOUT."""
    statement = command.query
    if statement is None:
        assert command.table is not None
        statement = _whole_table(session, context, command)
    if statement.kind is not Kind.SELECT:
        raise NotSupported(f"COPY of {statement.kind.value.upper()} is not supported")
    bound = bind_select_statement(statement, context)
    if bound.parameter_types:
        raise OrbitError("there is no parameter $1", sqlstate="42P02")
    wanted: CopyFormat = copy_format((), None, command.options)
    style = CopyStyle(
        csv=wanted.format == "csv",
        delimiter=wanted.delimiter,
        null=wanted.null,
        quote=wanted.quote,
        escape=wanted.escape,
    )
    return CopyOutPlan(ScanPlan(queries, bound), style, wanted.header)


def _whole_table(session: StorageSession, context: BindContext, command: CopyCommand) -> Statement:
    assert command.table is not None
    table = need_table(session, context.catalog, *command.table)
    names = command.columns or tuple(column.name for column in table.columns)
    listed = ", ".join(_quoted(name) for name in names)
    return parse(f"SELECT {listed} FROM {_quoted(table.schema)}.{_quoted(table.name)}")[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
