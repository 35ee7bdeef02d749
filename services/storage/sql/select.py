"""Queries as plans: by key or without a table in Python, everything else as a scan plan in DuckDB.

Owns the choice. A point plan answers synchronously from a few rows; a scan plan hands Arrow data to the executor and
completes the session later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orbit.kernel.errors import NotSupported
from orbit.kernel.records import Row
from orbit.kernel.schema import Table
from orbit.kernel.types import SqlType
from services.storage.client import ColumnDescription
from services.storage.sql.answer import command_complete
from services.storage.sql.bind.tree import BoundQuery, Select, TableRelation
from services.storage.sql.dml.lookup import key_lookup
from services.storage.sql.dml.write import KeyFinder, make_finder
from services.storage.sql.evaluate import Evaluate, tuple_evaluator
from services.storage.sql.plan import Plan
from services.storage.sql.small import SmallQuery, small_query
from services.storage.txn.locks import Mode

if TYPE_CHECKING:
    from services.storage.session import StorageSession

_ONE = command_complete("SELECT 1")
_NONE = command_complete("SELECT 0")
_STRENGTHS = {
    "key share": Mode.KEY_SHARE,
    "share": Mode.SHARE,
    "no key update": Mode.NO_KEY_UPDATE,
    "update": Mode.UPDATE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLocking:
    """FOR UPDATE and its kin on the one relation of a point plan."""

    mode: Mode
    wait: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PointSelect:
    """SELECT of at most one row by a unique key."""

    table: Table
    finder: KeyFinder
    values: Evaluate
    columns: tuple[ColumnDescription, ...]
    parameter_types: tuple[SqlType, ...]
    locking: RowLocking | None = None
    in_failed_block: bool = False
    is_point: bool = True

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> bytes | None:
        found = self.rows(session, parameters)
        if found is None:
            return None
        if not found:
            return _NONE
        return session.encoder(self.columns, formats)(found[0]) + _ONE

    def rows(self, session: StorageSession, parameters: Sequence[Any]) -> list[Row] | None:
        """Return the result's rows; None when a lock must be waited for."""
        engine = session.engine
        engine.check_leading()
        session.planner.need_privilege(session, self.table, "SELECT")
        transaction = session.transaction if self.locking is None else session.transaction_for_write()
        store = engine.store(transaction, self.table)
        context = session.evaluation_context()
        found = self.finder.find(engine, transaction, store, parameters, context)
        engine.meters.rows_scanned += len(found)
        if not found:
            return []
        if self.locking is not None:
            assert transaction is not None
            session.planner.need_privilege(session, self.table, "UPDATE")
            skips, waits = self.locking.wait == "skip", self.locking.wait == "wait"
            if skips and not engine.lock_is_free(store, found[0][0], transaction, self.locking.mode):
                return []
            if not engine.lock_row(transaction, store, found[0][0], self.locking.mode, wait=waits):
                return None
        return [self.values((found[0][1],), parameters, context)]

    def fetch(self, session: StorageSession, parameters: Sequence[Any]) -> None:
        """Give the rows to the statement that this query is a part of."""
        session.query_rows = self.rows(session, parameters)
        session.run_again()


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallSelect:
    """A query that reads no table."""

    query: SmallQuery
    columns: tuple[ColumnDescription, ...]
    parameter_types: tuple[SqlType, ...]
    in_failed_block: bool = False

    def run(self, session: StorageSession, parameters: Sequence[Any], formats: Sequence[int]) -> bytes:
        rows = self.query.rows(parameters, session.evaluation_context())
        encode = session.encoder(self.columns, formats)
        return b"".join([encode(row) for row in rows]) + command_complete(f"SELECT {len(rows)}")

    def fetch(self, session: StorageSession, parameters: Sequence[Any]) -> None:
        session.query_rows = self.query.rows(parameters, session.evaluation_context())
        session.run_again()


def plan_in_python(bound: BoundQuery) -> Plan | None:
    """Return a plan that needs no executor, or None when the query needs one."""
    small = small_query(bound)
    if small is not None and not bound.locks:
        return SmallSelect(query=small, columns=bound.columns, parameter_types=bound.parameter_types)
    query = bound.query
    if not isinstance(query, Select) or not _is_plain(query):
        return None
    targets = [target.expression for target in query.targets if not target.hidden]
    if not all(can_evaluate_over(item, query) for item in targets):
        return None
    relation = query.source
    if not isinstance(relation, TableRelation) or relation.system:
        return None
    lookup = key_lookup(query.where, relation.number, relation.table)
    if lookup is None or not all(can_evaluate_over(part, query) for part in (*lookup.values, *lookup.rest)):
        return None
    finder = make_finder(lookup, query.where, relation.number)
    assert isinstance(finder, KeyFinder)
    locking = None
    if query.locks:
        lock = query.locks[0]
        locking = RowLocking(mode=_STRENGTHS[lock.strength.lower()], wait=lock.wait)
    return PointSelect(
        table=relation.table,
        finder=finder,
        values=tuple_evaluator(targets, (relation.number,)),
        columns=bound.columns,
        parameter_types=bound.parameter_types,
        locking=locking,
    )


def can_evaluate_over(expression: Any, query: Select) -> bool:
    """Return whether Python can compute an expression over the query's one relation."""
    numbers = (query.source.number,) if isinstance(query.source, TableRelation) else ()
    try:
        tuple_evaluator([expression], numbers)
    except (NotSupported, KeyError):
        return False
    return True


def _is_plain(query: Select) -> bool:
    """Return whether a query has at most one row and no clause that would need more than its row."""
    return not (
        query.group
        or query.aggregated
        or query.having is not None
        or query.distinct
        or query.distinct_on
        or query.ctes
        or query.limit is not None
        or query.offset is not None
        or query.grouping_sets
    )
