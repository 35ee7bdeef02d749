"""Unique indexes: from key values to rows, and the keys of many Arrow rows at once.

Owns one index's entries for the tail (a dictionary) and for sealed rows (`KeyIndex`), and the locks on its key values.
Entries are candidates: whoever looks a key up verifies it against the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from orbit.kernel.records import Row
from orbit.kernel.schema import Index, Table
from orbit.kernel.types import Oid
from services.storage.tiers.key_index import KeyIndex
from services.storage.tiers.segment import Segment, column_reader
from services.storage.txn.locks import LockTable


class UniqueIndex:
    """One unique index: key to rows, and the locks on its key values, present or not."""

    __slots__ = ("definition", "key_of", "locks", "nulls_distinct", "positions", "sealed", "tail")

    def __init__(self, definition: Index, table: Table) -> None:
        self.definition = definition
        self.positions = tuple(table.position(number) for number in definition.columns)
        self.key_of: Callable[[Row], Any] = itemgetter(*self.positions)
        self.nulls_distinct = definition.nulls_distinct
        self.tail: dict[Any, int | list[int]] = {}
        self.sealed = KeyIndex()
        self.locks = LockTable(f'index "{definition.name}"')

    def indexes(self, key: Any) -> bool:
        """Return whether rows with this key are in the index: a NULL keeps a row out while nulls are distinct."""
        if not self.nulls_distinct:
            return True
        return key is not None if len(self.positions) == 1 else None not in key

    def add(self, key: Any, row_id: int) -> None:
        if not self.indexes(key):
            return
        entry = self.tail.get(key)
        if entry is None:
            self.tail[key] = row_id
        elif isinstance(entry, int):
            if entry != row_id:
                self.tail[key] = [entry, row_id]
        elif row_id not in entry:
            entry.append(row_id)

    def remove(self, key: Any, row_id: int) -> None:
        entry = self.tail.get(key)
        if entry == row_id:
            del self.tail[key]
        elif isinstance(entry, list) and row_id in entry:
            entry.remove(row_id)
            if len(entry) == 1:
                self.tail[key] = entry[0]


def segment_keys(
    index: UniqueIndex, segment: Segment
) -> tuple[Sequence[Any] | npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the keys of a segment's rows that belong in the index, and their offsets."""
    columns = segment.load(index.definition.columns)
    arrays = [columns[number] for number in index.definition.columns]
    return batch_keys(index, arrays, [segment.schema[at].type.oid for at in index.positions])


def batch_keys(
    index: UniqueIndex, arrays: Sequence[pa.Array], oids: Sequence[int]
) -> tuple[Sequence[Any] | npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the keys of Arrow rows that belong in the index, and their offsets; integers stay a numpy array."""
    count = len(arrays[0]) if arrays else 0
    if len(arrays) == 1 and pa.types.is_integer(arrays[0].type) and not arrays[0].null_count:
        return arrays[0].to_numpy().astype(np.int64), np.arange(count)
    values: list[Iterable[Any]] = []
    for array, oid in zip(arrays, oids, strict=True):
        if pa.types.is_integer(array.type) and not array.null_count:
            values.append(array.to_numpy().tolist())
        elif pa.types.is_string(array.type) and oid != Oid.NUMERIC:
            values.append(array.to_numpy(zero_copy_only=False).tolist())
        else:
            read = column_reader(array, oid)
            values.append([read(at) for at in range(count)])
    keys: list[Any] = list(values[0]) if len(values) == 1 else list(zip(*values, strict=True))
    if not index.nulls_distinct or not any(array.null_count for array in arrays):
        return keys, np.arange(count)
    kept = [at for at, key in enumerate(keys) if index.indexes(key)]
    return [keys[at] for at in kept], np.array(kept, np.int64)
