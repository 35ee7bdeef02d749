"""Which hot segments become warm: a pure function from statistics and limits to a list of moves.

Rows sink by age since their last change, and by pressure: past the hot tier's size the oldest sink early.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HotSegment:
    """A hot segment whose columns are already on disk."""

    storage_id: int
    number: int
    newest_change_us: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class HotLimits:
    """`HOT_TIER_RETENTION_HOURS` and `HOT_TIER_MAX_SIZE_GB`, in microseconds and bytes."""

    retention_us: int
    max_bytes: int


def plan_demotions(hot: Sequence[HotSegment], hot_bytes: int, limits: HotLimits, now_us: int) -> list[HotSegment]:
    """Return the segments to demote, oldest first. `hot_bytes` is the whole tier, tails included."""
    chosen: list[HotSegment] = []
    for segment in sorted(hot, key=lambda item: (item.newest_change_us, item.storage_id, item.number)):
        too_old = now_us - segment.newest_change_us > limits.retention_us
        if not too_old and hot_bytes <= limits.max_bytes:
            break
        chosen.append(segment)
        hot_bytes -= segment.size_bytes
    return chosen
