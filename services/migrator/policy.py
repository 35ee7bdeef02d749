"""Which rows move to the cold tier, and in how large steps: pure functions of statistics, settings and the clock.

A segment is due when its newest change is older than the warm retention. What is due moves in whole segments, oldest
change first, at most `batch_segments` (`TIER_MIGRATION_BATCH_SIZE`: a segment holds up to 65,536 rows), `MAX_MOVE_ROWS`
and `MAX_MOVE_BYTES` in one move, and one move per table at a time. A small lot waits for company until its oldest
segment is overdue by a quarter of the retention: a table that trickles gets few files instead of thousands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from services.storage.client import RowRange, SegmentStatistics, Tier

MAX_MOVE_ROWS: Final = 16 << 20
"""Bounds the row ids that a copy keeps in memory: 128 MB."""

MAX_MOVE_BYTES: Final = 2 << 30
"""Bounds the work that a crash repeats, and how long a claim holds the horizon."""

SMALL_LOT_BYTES: Final = 64 << 20
PATIENCE: Final = 0.25
"""How long a small lot waits, as a fraction of the retention."""

MICROSECONDS_A_DAY: Final = 86_400_000_000


SegmentKey = tuple[int, int, int]
"""(storage id, segment id, newest LSN): the same segment with newer versions in it is another one."""


def key_of(segment: SegmentStatistics) -> SegmentKey:
    return segment.storage_id, segment.segment_id, segment.newest_lsn


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """`warm_retention_days` counts from a segment's newest change; fractions are allowed."""

    warm_retention_days: float
    batch_segments: int

    def __post_init__(self) -> None:
        if self.batch_segments < 1 or self.warm_retention_days < 0:
            raise ValueError("a move takes at least one segment, and a retention is not negative")


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """One move to begin. `rows` and `size_bytes` are estimates from statistics; `segments` are those it is made for."""

    table_id: int
    storage_id: int
    segments: tuple[SegmentKey, ...]
    ranges: tuple[RowRange, ...]
    changed_through: int
    rows: int
    size_bytes: int


def plan(
    statistics: Iterable[SegmentStatistics],
    settings: PolicySettings,
    now_us: int,
    busy_tables: Collection[int] = (),
) -> list[PlannedMove]:
    """Return the moves to begin now, at most one per table, most overdue first.

    `busy_tables` have an open move, or are not to be tried yet.
    """
    retention_us = settings.warm_retention_days * MICROSECONDS_A_DAY
    due = [
        segment
        for segment in statistics
        if segment.tier is Tier.WARM
        and segment.rows_alive
        and segment.table_id not in busy_tables
        and now_us - segment.newest_change_us >= retention_us
    ]
    due.sort(key=lambda s: (s.table_id, s.storage_id, s.newest_lsn, s.segment_id))
    lots = [list(lot) for _, lot in groupby(due, key=lambda s: (s.table_id, s.storage_id))]
    patience_us = retention_us * (1 + PATIENCE)
    ready = [lot for lot in lots if _is_worth_it(lot, settings) or now_us - lot[0].newest_change_us >= patience_us]
    ready.sort(key=lambda lot: lot[0].newest_change_us)
    return [_move(_within_limits(lot, settings)) for lot in ready]


def _is_worth_it(lot: Sequence[SegmentStatistics], settings: PolicySettings) -> bool:
    return len(lot) >= settings.batch_segments or sum(s.size_bytes for s in lot) >= SMALL_LOT_BYTES


def _within_limits(lot: Sequence[SegmentStatistics], settings: PolicySettings) -> Sequence[SegmentStatistics]:
    """Return the oldest segments that fit one move; at least one."""
    rows = size_bytes = count = 0
    for segment in lot[: settings.batch_segments]:
        rows += segment.rows_alive
        size_bytes += segment.size_bytes
        if count and (rows > MAX_MOVE_ROWS or size_bytes > MAX_MOVE_BYTES):
            break
        count += 1
    return lot[:count]


def _move(lot: Sequence[SegmentStatistics]) -> PlannedMove:
    return PlannedMove(
        lot[0].table_id,
        lot[0].storage_id,
        tuple(key_of(segment) for segment in lot),
        merged((segment.first_row_id, segment.last_row_id) for segment in lot),
        max(segment.newest_lsn for segment in lot),
        sum(segment.rows_alive for segment in lot),
        sum(segment.size_bytes for segment in lot),
    )


def merged(ranges: Iterable[RowRange]) -> tuple[RowRange, ...]:
    """Return the union of row id ranges, sorted and disjoint."""
    result: list[RowRange] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)
