"""The planner of queries: which are answered in Python, which by the scan executor; COPY .. TO STDOUT.

Owns the executor of one node and the Arrow view of its tables that scan plans read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orbit.kernel.errors import NotSupported
from orbit.kernel.schema import Table
from services.storage.engine import Engine
from services.storage.sql.bind.tree import BoundQuery
from services.storage.sql.parse.statement import CopyCommand
from services.storage.sql.plan import Plan
from services.storage.sql.select import plan_in_python

if TYPE_CHECKING:
    from services.storage.session import StorageSession


class QueryPlanner:
    """Plans queries for the sessions of one node."""

    def __init__(self, engine: Engine, *, threads: int, memory_bytes: int) -> None:
        self._engine = engine

    def close(self) -> None: ...

    def plan(self, bound: BoundQuery) -> Any:
        plan = plan_in_python(bound)
        if plan is None:
            raise NotSupported("scan plans are not supported")
        return plan

    def system_tables(self, schema: str, name: str) -> Table | None:
        return None

    def plan_copy_out(self, session: StorageSession, planner: Any, command: CopyCommand) -> Plan:
        raise NotSupported("COPY TO is not supported")
