"""What a scan plan asks of the storage: the rows of a table, as Arrow, at the statement's snapshot.

The snapshot, the transaction's own writes and the pruning of segments are the storage's business. So is the order of
rows, of which nothing is promised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from orbit.kernel.schema import Table


@dataclass(frozen=True, slots=True)
class ColumnBound:
    """A condition that every row of the result meets, for pruning by min/max: `column operator value`.

    `column` is a position in the table's columns, `operator` one of = < <= > >=, `value` a row value. A source may
    return more rows than these; it must not return fewer.
    """

    column: int
    operator: str
    value: Any


class TableSource(Protocol):
    """Gives tables as Arrow."""

    def scan(
        self, table: Table, columns: Sequence[int], bounds: Sequence[ColumnBound]
    ) -> pa.Table | pa.RecordBatchReader | list[pa.RecordBatch]:
        """Return the table's rows with these columns, in this order and in their storage types.

        Called on a worker thread, once for each table of a statement, before its execution starts. A Table may be
        read more than once and by several threads; a reader is read once.
        """
        ...
