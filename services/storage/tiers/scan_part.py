"""A part of a table as one snapshot sees it: visible rows of one segment, or rows of the tail.

Owns the loading of its columns, which may block on the warm and cold tiers; what it holds never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.kernel.records import Row
from orbit.kernel.schema import Table
from services.storage.tiers.segment import Segment, column_array


@dataclass(frozen=True, slots=True)
class ScanPart:
    """A part of a table as one snapshot sees it. `load` may block: call it from a worker thread."""

    rows: int
    segment: Segment | None
    mask: npt.NDArray[np.bool_] | None
    tail_rows: Sequence[Row] = ()

    def load(self, table: Table, numbers: Sequence[int]) -> pa.RecordBatch:
        """Return the visible rows' columns, named as in the table, in the order of `numbers`."""
        by_number = {column.number: column for column in table.columns}
        names = [by_number[number].name for number in numbers]
        if self.segment is None:
            arrays = [
                column_array([row[table.position(number)] for row in self.tail_rows], by_number[number])
                for number in numbers
            ]
        else:
            loaded = self.segment.load(numbers)
            mask = None if self.mask is None else pa.array(self.mask)
            arrays = [loaded[number] if mask is None else loaded[number].filter(mask) for number in numbers]
        if not arrays:
            return pa.RecordBatch.from_struct_array(pa.array([{}] * self.rows, pa.struct([])))
        return pa.RecordBatch.from_arrays(arrays, names)
