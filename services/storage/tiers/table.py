"""One table's rows: the tail of newest versions over sealed segments, and the unique indexes over both.

Owns where each version of each row is and which one a snapshot sees. Apply methods are called only by
`services.storage.state` with committed effects, in log order; they do no IO.

    row id ──> heads: newest versions, as Python rows, chained to the older ones that a snapshot may still need
           └─> segments: sealed versions; a row that changes after it was sealed gets a head again
    key ────> tail keys (dict) ──> row id          (every version in the tail)
           └─> sealed keys (KeyIndex) ──> position (every version in a segment; verified against its columns)
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.records import Row, RowCodec
from orbit.kernel.schema import Table
from services.storage.tiers.key_index import KeyIndex, fragments_of, positions_of
from services.storage.tiers.scan_part import ScanPart
from services.storage.tiers.segment import MAX_SEGMENT_ROWS, Segment, columns_of
from services.storage.tiers.unique_index import UniqueIndex, batch_keys, segment_keys
from services.storage.txn.locks import LockTable

OFFSET_MASK = 0xFFFF
SMALL_LOAD_ROWS = 1024
"""A load of fewer rows goes to the tail: segment numbers are not for every little COPY."""


class Version:
    """One image of one row, alive over [begin, end)."""

    __slots__ = ("begin", "end", "previous", "row")

    def __init__(self, row: Row, begin: int, previous: Version | None) -> None:
        self.row = row
        self.begin = begin
        self.end: int = INFINITY_LSN
        self.previous = previous


class TableStore:
    """The rows under one storage id."""

    __slots__ = (
        "_garbage",
        "_home_firsts",
        "_home_numbers",
        "_next_segment",
        "_relocated",
        "_stale",
        "bulk",
        "codec",
        "data_version",
        "heads",
        "indexes",
        "leaving",
        "primary",
        "reads",
        "row_locks",
        "segments",
        "storage_id",
        "table",
        "table_lock",
    )

    def __init__(self, table: Table, reads: dict[str, int] | None = None) -> None:
        """`reads` counts point reads by the tier that served them; the stores of one node share it."""
        self.reads = {"hot": 0, "warm": 0, "cold": 0} if reads is None else reads
        self.storage_id = table.storage_id
        self.heads: dict[int, Version] = {}
        self.segments: dict[int, Segment] = {}
        self.bulk: dict[bytes, list[Segment]] = {}
        """Segments of uncommitted bulk loads, per transaction."""
        self.leaving: set[int] = set()
        """Segments that a COLD_COMMIT has let go and that still wait to give up their columns."""
        self.row_locks = LockTable(f'row in relation "{table.name}"')
        self.table_lock = LockTable(f'relation "{table.name}"')
        self.data_version = 0
        """Grows with every change of what a newest snapshot sees."""
        self.indexes: dict[int, UniqueIndex] = {}
        self._next_segment = 0
        self._home_firsts: list[int] = []
        self._home_numbers: list[int] = []
        self._relocated = KeyIndex()
        self._garbage: list[tuple[int, int]] = []
        self._stale = 0
        self.define(table)

    def define(self, table: Table) -> None:
        """Take a new definition of the same storage: build the indexes that are new, drop those that are gone."""
        self.table = table
        self.codec = RowCodec(table.columns)
        wanted = {index.id: index for index in table.indexes if index.unique}
        for index_id in list(self.indexes):
            if index_id not in wanted:
                del self.indexes[index_id]
        for index_id, definition in wanted.items():
            if index_id not in self.indexes:
                self.indexes[index_id] = self._build(UniqueIndex(definition, table))
            else:
                self.indexes[index_id].definition = definition
        key = table.primary_key
        self.primary: UniqueIndex | None = None if key is None else self.indexes[key.id]

    # Reading.

    def newest(self, row_id: int) -> Row | None:
        """Return the newest committed image of a row, None when it is deleted or unknown."""
        head = self.heads.get(row_id)
        if head is not None:
            return head.row if head.end == INFINITY_LSN else None
        for segment, offset in self._sealed_versions(row_id):
            if segment.end_view[offset] == INFINITY_LSN and segment.owner is None:
                return segment.row(offset)
        return None

    def at(self, row_id: int, snapshot: int) -> Row | None:
        """Return the image of a row that a snapshot sees."""
        version = self.heads.get(row_id)
        while version is not None:
            if version.begin <= snapshot:
                if snapshot < version.end:
                    return version.row
                break
            version = version.previous
        for segment, offset in self._sealed_versions(row_id):
            if segment.visible_at(offset, snapshot):
                return segment.row(offset)
        return None

    def changed_since(self, row_id: int, snapshot: int) -> bool:
        """Return whether a row has a committed change that a snapshot does not see."""
        head = self.heads.get(row_id)
        if head is not None:
            return head.begin > snapshot or head.end != INFINITY_LSN
        for segment, offset in self._sealed_versions(row_id):
            if segment.end_view[offset] == INFINITY_LSN and segment.owner is None:
                return bool(segment.begins[offset] > snapshot)
        return True

    def find(self, index: UniqueIndex, key: Any) -> tuple[int, Row] | None:
        """Return (row id, row) of the newest committed row with this key."""
        entry = index.tail.get(key)
        if entry is not None:
            for row_id in (entry,) if isinstance(entry, int) else entry:
                head = self.heads.get(row_id)
                if head is not None and head.end == INFINITY_LSN and index.key_of(head.row) == key:
                    self.reads["hot"] += 1
                    return row_id, head.row
        for position in index.sealed.find(key):
            segment = self.segments.get(position >> 16)
            offset = position & OFFSET_MASK
            if segment is not None and segment.end_view[offset] == INFINITY_LSN and segment.owner is None:
                row = segment.row(offset)
                if index.key_of(row) == key:
                    self.reads[segment.tier] += 1
                    return int(segment.row_ids[offset]), row
        return None

    def find_at(self, index: UniqueIndex, key: Any, snapshot: int) -> tuple[int, Row] | None:
        """Return (row id, row) of the row with this key that a snapshot sees."""
        entry = index.tail.get(key)
        if entry is not None:
            for row_id in (entry,) if isinstance(entry, int) else entry:
                row = self.at(row_id, snapshot)
                if row is not None and index.key_of(row) == key:
                    return row_id, row
        for position in index.sealed.find(key):
            segment = self.segments.get(position >> 16)
            offset = position & OFFSET_MASK
            if segment is not None and segment.visible_at(offset, snapshot):
                row = segment.row(offset)
                if index.key_of(row) == key:
                    return int(segment.row_ids[offset]), row
        return None

    def find_loaded(self, index: UniqueIndex, key: Any, owner: bytes) -> tuple[int, Row] | None:
        """Return the row with this key in a transaction's own uncommitted bulk load."""
        for position in index.sealed.find(key):
            segment = self.segments.get(position >> 16)
            if segment is not None and segment.owner == owner:
                row = segment.row(position & OFFSET_MASK)
                if index.key_of(row) == key:
                    return int(segment.row_ids[position & OFFSET_MASK]), row
        return None

    def loaded_row(self, row_id: int, owner: bytes) -> Row | None:
        """Return a row of a transaction's own uncommitted bulk load by its id."""
        for segment, offset in self._sealed_versions(row_id):
            if segment.owner == owner:
                return segment.row(offset)
        return None

    def scan(self, snapshot: int, hidden: set[int] | None = None, bulk_of: bytes | None = None) -> list[ScanPart]:
        """Return the rows that a snapshot sees, in parts; rows in `hidden` (the reader's own changes) left out.

        `bulk_of` adds the uncommitted bulk load of that transaction. What the parts hold stays as it is now,
        whatever is applied later.
        """
        parts: list[ScanPart] = []
        hidden_ids = None if not hidden else np.fromiter(hidden, np.int64, len(hidden))
        for segment in self.segments.values():
            own = bulk_of is not None and segment.owner == bulk_of
            if segment.owner is not None and not own:
                continue
            mask = segment.ends == INFINITY_LSN if own else segment.visible_mask(snapshot)
            if hidden_ids is not None:
                shown = ~np.isin(segment.row_ids, hidden_ids)
                mask = shown if mask is None else mask & shown
            count = segment.count if mask is None else int(mask.sum())
            if count:
                parts.append(ScanPart(count, segment, mask))
        rows = [row for row_id, row in self._tail_rows(snapshot) if hidden is None or row_id not in hidden]
        if rows:
            parts.append(ScanPart(len(rows), None, None, rows))
        return parts

    def rows_at(self, snapshot: int, bulk_of: bytes | None = None) -> Iterator[tuple[int, Row]]:
        """Yield (row id, row) of everything a snapshot sees. Blocks on warm reads: for small tables and checks."""
        for segment in self.segments.values():
            own = segment.owner is not None and segment.owner == bulk_of
            for offset in range(segment.count):
                if segment.end_view[offset] == INFINITY_LSN if own else segment.visible_at(offset, snapshot):
                    yield int(segment.row_ids[offset]), segment.row(offset)
        yield from self._tail_rows(snapshot)

    def row_count(self) -> int:
        """Return the number of rows that the newest snapshot sees."""
        sealed = sum(segment.count - segment.dead for segment in self.segments.values() if segment.owner is None)
        return sealed + sum(1 for head in self.heads.values() if head.end == INFINITY_LSN)

    def tier_report(self) -> dict[str, dict[str, int]]:
        """Return rows, bytes and segments by tier; the tail counts as hot."""
        report = {name: {"rows": 0, "bytes": 0, "segments": 0, "files": 0} for name in ("hot", "warm", "cold")}
        report["hot"]["rows"] = sum(1 for head in self.heads.values() if head.end == INFINITY_LSN)
        for segment in self.segments.values():
            if segment.owner is None:
                tier = report[segment.tier]
                tier["rows"] += segment.count - segment.dead
                tier["bytes"] += segment.columns_bytes or segment.stored_bytes
                tier["segments"] += 1
        return report

    # Applying committed effects. `keep` tells whether some snapshot may still read what ends here.

    def insert(self, row_id: int, row: Row, lsn: int) -> None:
        self.heads[row_id] = Version(row, lsn, None)
        for index in self.indexes.values():
            index.add(index.key_of(row), row_id)
        self.data_version += 1

    def update(self, row_id: int, row: Row, lsn: int, keep: bool) -> None:
        head = self.heads.get(row_id)
        if head is None:
            self._end_sealed(row_id, lsn)
            for index in self.indexes.values():
                index.add(index.key_of(row), row_id)
            self.heads[row_id] = Version(row, lsn, None)
        else:
            head.end = lsn
            self.heads[row_id] = latest = Version(row, lsn, head if keep else None)
            for index in self.indexes.values():
                old, new = index.key_of(head.row), index.key_of(row)
                if old != new:
                    if not keep:
                        index.remove(old, row_id)
                    index.add(new, row_id)
            if keep:
                self._garbage.append((lsn, row_id))
            elif head.previous is not None:
                self._drop_keys(row_id, latest, head.previous)
        self.data_version += 1

    def delete(self, row_id: int, lsn: int, keep: bool) -> None:
        head = self.heads.get(row_id)
        if head is None:
            self._end_sealed(row_id, lsn)
        elif keep:
            head.end = lsn
            self._garbage.append((lsn, row_id))
        else:
            self._forget(row_id, head)
        self.data_version += 1

    def add_bulk(self, owner: bytes | None, batch: pa.RecordBatch, first_row_id: int, begin: int, time_us: int) -> None:
        """Add a bulk load's rows as segments: visible from `begin`, or at `publish_bulk` when they have an owner."""
        for start in range(0, batch.num_rows, MAX_SEGMENT_ROWS):
            piece = batch.slice(start, MAX_SEGMENT_ROWS)
            row_ids = np.arange(first_row_id + start, first_row_id + start + piece.num_rows, dtype=np.int64)
            columns = {column.number: piece.column(at) for at, column in enumerate(self.table.columns)}
            begins = np.full(piece.num_rows, INFINITY_LSN if owner else begin, np.int64)
            segment = Segment(
                self._next_segment, self.table.columns, columns, row_ids, begins, newest_change_us=time_us
            )
            segment.owner = owner
            self.add_segment(segment)
            if owner is not None:
                self.bulk.setdefault(owner, []).append(segment)
        self.data_version += 1

    def publish_bulk(self, owner: bytes, lsn: int, time_us: int) -> int:
        """Make a transaction's bulk load visible; return its rows."""
        segments = self.bulk.pop(owner, [])
        for segment in segments:
            segment.publish(lsn, time_us)
            if segment.count < SMALL_LOAD_ROWS:
                self._remove_segment(segment)
                for offset in range(segment.count):
                    self.insert(int(segment.row_ids[offset]), segment.row(offset), lsn)
        self.data_version += 1
        return sum(segment.count for segment in segments)

    def drop_bulk(self, owner: bytes) -> None:
        """Forget a bulk load that will never commit. Its index entries fail verification from now on."""
        for segment in self.bulk.pop(owner, []):
            self._remove_segment(segment)

    # Segments.

    def add_segment(self, segment: Segment) -> None:
        """Take a sealed segment and index its rows."""
        self.segments[segment.number] = segment
        self._next_segment = max(self._next_segment, segment.number + 1)
        ordered = not self._home_firsts or segment.first_row_id > self.segments[self._home_numbers[-1]].last_row_id
        if ordered and bool((np.diff(segment.row_ids) > 0).all()):
            self._home_firsts.append(segment.first_row_id)
            self._home_numbers.append(segment.number)
        else:
            self._relocated.add_many(
                fragments_of(segment.row_ids), positions_of(segment.number, np.arange(segment.count))
            )
        for index in self.indexes.values():
            self._index_segment(index, segment)

    def seal(
        self,
        limit: int,
        oldest_snapshot: int | None,
        time_us_of: Callable[[int], int],
        through: int = INFINITY_LSN,
        *,
        overdue: int = INFINITY_LSN,
        at_least: int = 1,
    ) -> Segment | None:
        """Move up to `limit` of the longest unchanged rows, changed at or before `through`, from the tail to a segment.

        Rows with older versions that a snapshot still needs stay. None when fewer than `at_least` rows could go, or
        when none of them has been unchanged since `overdue`: a segment is not for a handful of rows.
        """
        calm = [
            (head.begin, row_id)
            for row_id, head in self.heads.items()
            if head.end == INFINITY_LSN
            and head.begin <= through
            and head.previous is None
            and (oldest_snapshot is None or head.begin <= oldest_snapshot)
        ]
        if len(calm) < at_least or not calm:
            return None
        calm.sort()
        if calm[0][0] > overdue:
            return None
        chosen = sorted(row_id for _, row_id in calm[:limit])
        heads = [self.heads[row_id] for row_id in chosen]
        segment = Segment(
            self._next_segment,
            self.table.columns,
            columns_of([head.row for head in heads], self.table.columns),
            np.array(chosen, np.int64),
            np.array([head.begin for head in heads], np.int64),
            newest_change_us=time_us_of(max(head.begin for head in heads)),
        )
        self.add_segment(segment)
        for row_id, head in zip(chosen, heads, strict=True):
            self._forget(row_id, head)
        return segment

    def collect(self, oldest_snapshot: int | None) -> None:
        """Drop versions that ended at or before the oldest snapshot; None: nobody reads the past.

        A segment goes when all of its versions do.
        """
        kept: list[tuple[int, int]] = []
        for lsn, row_id in self._garbage:
            if oldest_snapshot is not None and lsn > oldest_snapshot:
                kept.append((lsn, row_id))
                continue
            head = self.heads.get(row_id)
            if head is None:
                continue
            if head.end <= lsn:
                self._forget(row_id, head)
            else:
                self._cut(row_id, head, lsn)
        self._garbage = kept
        for segment in list(self.segments.values()):
            if segment.dead == segment.count and segment.owner is None:
                if oldest_snapshot is None or int(segment.ends.max()) <= oldest_snapshot:
                    self._remove_segment(segment)

    def _cut(self, row_id: int, head: Version, lsn: int) -> None:
        """Drop the versions of a row that ended at or before `lsn`, and the keys that only they had."""
        version: Version = head
        while version.previous is not None and version.previous.end > lsn:
            version = version.previous
        dropped = version.previous
        version.previous = None
        if dropped is not None:
            self._drop_keys(row_id, head, dropped)

    def _drop_keys(self, row_id: int, head: Version, dropped: Version | None) -> None:
        """Take the keys out of the tail that only the dropped versions of a row had."""
        alive = []
        walk: Version | None = head
        while walk is not None:
            alive.append(walk.row)
            walk = walk.previous
        while dropped is not None:
            for index in self.indexes.values():
                key = index.key_of(dropped.row)
                if all(index.key_of(row) != key for row in alive):
                    index.remove(key, row_id)
            dropped = dropped.previous

    def _forget(self, row_id: int, head: Version) -> None:
        del self.heads[row_id]
        version: Version | None = head
        while version is not None:
            for index in self.indexes.values():
                index.remove(index.key_of(version.row), row_id)
            version = version.previous

    def _tail_rows(self, snapshot: int) -> Iterator[tuple[int, Row]]:
        for row_id, _, row in self.tail_versions(snapshot):
            yield row_id, row

    def tail_versions(self, snapshot: int) -> Iterator[tuple[int, int, Row]]:
        """Yield (row id, begin LSN, row) of the tail's versions that a snapshot sees."""
        for row_id, head in self.heads.items():
            version: Version | None = head
            while version is not None and version.begin > snapshot:
                version = version.previous
            if version is not None and snapshot < version.end:
                yield row_id, version.begin, version.row

    def _sealed_versions(self, row_id: int) -> Iterator[tuple[Segment, int]]:
        at = bisect_right(self._home_firsts, row_id) - 1
        if at >= 0:
            segment = self.segments.get(self._home_numbers[at])
            if segment is not None and row_id <= segment.last_row_id:
                offset = int(np.searchsorted(segment.row_ids, row_id))
                if offset < segment.count and segment.row_ids[offset] == row_id:
                    yield segment, offset
        if self._relocated.count:
            for position in self._relocated.find(row_id):
                segment = self.segments.get(position >> 16)
                if segment is not None and segment.row_ids[position & OFFSET_MASK] == row_id:
                    yield segment, position & OFFSET_MASK

    def _end_sealed(self, row_id: int, lsn: int) -> None:
        for segment, offset in self._sealed_versions(row_id):
            if segment.end_view[offset] == INFINITY_LSN:
                segment.end(offset, lsn)
                return
        raise AssertionError(f"row {row_id} of {self.table.name} is nowhere")

    def _remove_segment(self, segment: Segment) -> None:
        del self.segments[segment.number]
        if segment.number in self._home_numbers:
            at = self._home_numbers.index(segment.number)
            del self._home_numbers[at], self._home_firsts[at]
        # Its index entries fail verification; they go once they outnumber the others.
        self._stale += segment.count
        if self._stale > max(MAX_SEGMENT_ROWS, sum(each.count for each in self.segments.values())):
            self._stale = 0
            for index in (self._relocated, *(index.sealed for index in self.indexes.values())):
                index.rebuild(lambda positions: np.isin(positions >> 16, list(self.segments)))

    def _build(self, index: UniqueIndex) -> UniqueIndex:
        for row_id, head in self.heads.items():
            version: Version | None = head
            while version is not None:
                index.add(index.key_of(version.row), row_id)
                version = version.previous
        for segment in self.segments.values():
            self._index_segment(index, segment)
        return index

    def _index_segment(self, index: UniqueIndex, segment: Segment) -> None:
        keys, offsets = segment_keys(index, segment)
        index.sealed.add_many(fragments_of(keys), positions_of(segment.number, offsets))


__all__ = ["OFFSET_MASK", "ScanPart", "TableStore", "UniqueIndex", "Version", "batch_keys"]
