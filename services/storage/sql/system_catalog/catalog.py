"""The system catalog as a source of tables: Arrow rows, computed once for each version of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pyarrow as pa

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Table
from orbit.kernel.types import Oid
from services.storage.sql.evaluate import EvaluationContext
from services.storage.sql.scan.arrow_values import carrier, to_arrow
from services.storage.sql.system_catalog import functions
from services.storage.sql.system_catalog.information_schema import INFORMATION_ROWS
from services.storage.sql.system_catalog.rows import ROWS, Row
from services.storage.sql.system_catalog.tables import EMPTY, system_table

_REGISTERED: Final = functions
"""The module that fills the evaluator's registry when it is imported."""
_ZERO: Final[dict[int, Any]] = {
    Oid.BOOL: False, Oid.OID: 0, Oid.INT2: 0, Oid.INT4: 0, Oid.INT8: 0, Oid.FLOAT4: 0.0, Oid.CHAR: "",
    Oid.NAME: "", 24: 0,
}  # fmt: skip
MAX_CACHED: Final = 256

Dynamic = Callable[[EvaluationContext], Iterable[Row]]


def _nothing(context: EvaluationContext) -> Iterator[Row]:
    return iter(())


class SystemCatalog:
    """`activity` and `settings` give the rows of pg_stat_activity and pg_settings, as dictionaries by column."""

    def __init__(self, activity: Dynamic = _nothing, settings: Dynamic = _nothing) -> None:
        self._dynamic: dict[str, Dynamic] = {"pg_stat_activity": activity, "pg_settings": settings}
        self._cache: dict[tuple[str, str, int, int, str], pa.Table] = {}

    @staticmethod
    def table(schema: str, name: str) -> Table | None:
        """Return the table of a system relation, for binding."""
        return system_table(schema, name)

    def rows(self, table: Table, context: EvaluationContext) -> pa.Table:
        """Return all columns of a system relation."""
        if table.schema == "pg_catalog" and table.name in self._dynamic:
            return _arrow(table, self._dynamic[table.name](context))
        key = (table.schema, table.name, id(context.catalog), context.catalog.version, context.database)
        cached = self._cache.get(key)
        if cached is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            cached = self._cache[key] = _arrow(table, self._compute(table, context))
        return cached

    @staticmethod
    def _compute(table: Table, context: EvaluationContext) -> Iterable[Row]:
        source = INFORMATION_ROWS if table.schema == "information_schema" else ROWS
        compute = source.get(table.name)
        if compute is not None:
            return compute(context)
        if table.name in EMPTY:
            return ()
        raise OrbitError(f'relation "{table.schema}.{table.name}" is not supported', sqlstate="0A000")


def _arrow(table: Table, rows: Iterable[Row]) -> pa.Table:
    found = list(rows)
    names = {column.name for column in table.columns}
    assert not found or set(found[0]) <= names, set(found[0]) - names
    standard = table.schema == "information_schema"
    arrays = []
    for column in table.columns:
        # In information_schema an absent value is NULL; in pg_catalog it is the type's zero, or NULL where it has none.
        empty = None if standard else _ZERO.get(column.type.oid)
        values = [row.get(column.name, empty) for row in found]
        arrays.append(to_arrow(values, column.type.oid) if values else pa.array([], carrier(column.type.oid)))
    return pa.table(arrays, names=[column.name for column in table.columns])
