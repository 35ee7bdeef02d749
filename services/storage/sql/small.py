"""Queries that read no table (SELECT 1, SELECT version(), VALUES) as Python functions, without DuckDB's millisecond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from orbit.kernel.errors import NotSupported
from orbit.kernel.records import Row
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values.columns import storage_column
from services.storage.client import ColumnDescription
from services.storage.sql.bind.tree import BoundQuery, Cast, ColumnRef, Expression, Select, Values
from services.storage.sql.bind.type_catalog import ELEMENT_OF, REG_TYPES, TEXT, VOID
from services.storage.sql.evaluate import Evaluate, EvaluationContext, tuple_evaluator

MAX_ROWS = 1000


class SmallQuery:
    """A query whose rows do not depend on any table. `rows` are row values in the result's types."""

    __slots__ = ("_evaluate", "columns")

    def __init__(self, columns: tuple[ColumnDescription, ...], evaluate: Callable[..., list[Row]]) -> None:
        self.columns = columns
        self._evaluate = evaluate

    def rows(self, parameters: Sequence[Any], context: EvaluationContext) -> list[Row]:
        """Return the rows; arrays, reg* and void are text already. Raises OrbitError."""
        return self._evaluate(parameters, context)

    def batch(self, parameters: Sequence[Any], context: EvaluationContext) -> pa.RecordBatch:
        """Return the rows as Arrow, as a scan would."""
        rows = self.rows(parameters, context)
        if not self.columns:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
        arrays = [
            storage_column([row[at] for row in rows], _carried(column.type)) for at, column in enumerate(self.columns)
        ]
        return pa.record_batch(arrays, names=[f"c{at}" for at in range(len(arrays))])


def _carried(sql_type: SqlType) -> SqlType:
    """Return the type whose storage carries a result column."""
    if sql_type.oid in REG_TYPES or sql_type.oid in ELEMENT_OF or sql_type.oid == VOID:
        return TEXT
    return SqlType(sql_type.oid) if sql_type.oid == Oid.NUMERIC else sql_type


def _shown(expression: Expression) -> Expression:
    """Return the expression with what no encoder knows as text."""
    oid = expression.type.oid
    return Cast(TEXT, expression, True) if oid in REG_TYPES or oid in ELEMENT_OF else expression


def small_query(query: BoundQuery) -> SmallQuery | None:
    """Compile a query to Python; None when it reads a relation or does what Python has no meaning for."""
    if query.tables:
        return None
    top = query.query
    if top.ctes or top.order or top.limit is not None or top.offset is not None or top.with_ties:
        return None
    try:
        if isinstance(top, Select):
            return _select(query, top)
        if isinstance(top, Values) and len(top.rows) <= MAX_ROWS:
            return _values(query, top)
    except (NotSupported, KeyError):
        return None
    return None


def _select(query: BoundQuery, top: Select) -> SmallQuery | None:
    if top.source is not None or top.aggregated or top.distinct_on or any(target.hidden for target in top.targets):
        return None
    evaluate = tuple_evaluator([_shown(target.expression) for target in top.targets])
    where = None if top.where is None else tuple_evaluator([top.where])

    def rows(parameters: Sequence[Any], context: EvaluationContext) -> list[Row]:
        if where is not None and where((), parameters, context)[0] is not True:
            return []
        return [evaluate((), parameters, context)]

    return SmallQuery(query.columns, rows)


def _values(query: BoundQuery, top: Values) -> SmallQuery | None:
    if any(not isinstance(target.expression, ColumnRef) for target in top.targets):
        return None
    compiled: list[Evaluate] = [tuple_evaluator([_shown(item) for item in row]) for row in top.rows]

    def rows(parameters: Sequence[Any], context: EvaluationContext) -> list[Row]:
        return [evaluate((), parameters, context) for evaluate in compiled]

    return SmallQuery(query.columns, rows)
