"""The migrator's policy, as the pure function that it is."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.migrator import policy
from services.migrator.policy import MICROSECONDS_A_DAY, PolicySettings, merged, plan
from services.storage.client import SegmentStatistics, Tier

NOW = 1_000 * MICROSECONDS_A_DAY
SETTINGS = PolicySettings(warm_retention_days=30, batch_segments=10)


def segment(number: int, age_days: float, **changes: object) -> SegmentStatistics:
    values: dict[str, object] = {
        "table_id": 1,
        "storage_id": 100,
        "schema_version": 1,
        "segment_id": number,
        "first_row_id": number * 1000,
        "last_row_id": number * 1000 + 999,
        "newest_lsn": number * 10,
        "newest_change_us": int(NOW - age_days * MICROSECONDS_A_DAY),
        "rows_alive": 1000,
        "size_bytes": 100_000_000,
        "tier": Tier.WARM,
        **changes,
    }
    return SegmentStatistics(**values)  # type: ignore[arg-type]


def test_only_warm_segments_past_the_retention_move() -> None:
    statistics = [
        segment(1, 31),
        segment(2, 29.9),
        segment(3, 40, tier=Tier.HOT),
        segment(4, 40, tier=Tier.COLD),
        segment(5, 40, rows_alive=0),
    ]
    (move,) = plan(statistics, SETTINGS, NOW)
    assert move.ranges == ((1000, 1999),)
    assert (move.table_id, move.storage_id, move.changed_through, move.rows) == (1, 100, 10, 1000)


def test_changed_through_leaves_younger_versions_alone() -> None:
    """Segment 3 holds updates of rows of segment 1: its span overlaps, its versions are newer."""
    statistics = [segment(1, 50), segment(3, 1, first_row_id=1500, last_row_id=3999)]
    (move,) = plan(statistics, SETTINGS, NOW)
    assert move.changed_through == 10 < statistics[1].newest_lsn


def test_oldest_change_first_and_no_more_than_a_batch() -> None:
    statistics = [segment(n, 100 - n) for n in range(25)]
    (move,) = plan(reversed(statistics), SETTINGS, NOW)
    assert move.ranges == ((0, 9999),)
    assert move.changed_through == 90


def test_a_move_is_bounded_in_rows_and_bytes_but_takes_at_least_one_segment() -> None:
    large = [segment(n, 50, rows_alive=policy.MAX_MOVE_ROWS // 2) for n in range(5)]
    assert plan(large, SETTINGS, NOW)[0].rows == policy.MAX_MOVE_ROWS
    huge = [segment(n, 50, size_bytes=policy.MAX_MOVE_BYTES * 2) for n in range(5)]
    assert len(plan(huge, SETTINGS, NOW)[0].ranges) == 1


def test_small_lots_wait_for_company_but_not_for_ever() -> None:
    small = [segment(n, 31, size_bytes=1000) for n in range(3)]
    assert plan(small, SETTINGS, NOW) == []
    assert plan(small, SETTINGS, NOW + 8 * MICROSECONDS_A_DAY)[0].rows == 3000
    full_batch = [segment(n, 31, size_bytes=1000) for n in range(10)]
    assert plan(full_batch, SETTINGS, NOW)[0].rows == 10_000


def test_one_move_per_table_most_overdue_first_busy_tables_left_out() -> None:
    statistics = [segment(n, 40 + n, table_id=n, storage_id=n * 100) for n in (1, 2, 3)]
    assert [move.table_id for move in plan(statistics, SETTINGS, NOW, busy_tables={2})] == [3, 1]


def test_zero_retention_moves_at_once() -> None:
    settings = PolicySettings(warm_retention_days=0, batch_segments=1000)
    assert plan([segment(1, 0, size_bytes=1)], settings, NOW)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 15)).map(lambda pair: (pair[0], sum(pair)))))
def test_merged_ranges_hold_the_same_ids_sorted_and_apart(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    assert {i for first, last in result for i in range(first, last + 1)} == {
        i for first, last in ranges for i in range(first, last + 1)
    }
    assert all(left[1] + 1 < right[0] for left, right in pairwise(result))
