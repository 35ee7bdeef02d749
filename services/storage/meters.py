"""What the storage node measures of its own work, where the work is done.

Owns the cells; `wiring` connects them with the process's metrics. Without metrics every cell counts for nobody.
"""

from __future__ import annotations

from typing import Protocol

TIERS = ("hot", "warm", "cold")


class Observer(Protocol):
    def observe(self, value: float) -> None: ...


class Unobserved:
    """Stands where no metrics are."""

    def observe(self, value: float) -> None:
        return


class Meters:
    """Counts are plain integers that a scrape reads; durations go to histograms (seconds)."""

    __slots__ = (
        "batches",
        "query",
        "read_duration",
        "reads",
        "rows_scanned",
        "transaction",
        "write_duration",
    )

    def __init__(self, reads: dict[str, int] | None = None) -> None:
        self.query: Observer = Unobserved()
        self.transaction: Observer = Unobserved()
        self.read_duration: dict[str, Observer] = {tier: Unobserved() for tier in TIERS}
        self.write_duration: dict[str, Observer] = {tier: Unobserved() for tier in TIERS}
        self.reads = dict.fromkeys(TIERS, 0) if reads is None else reads
        self.rows_scanned = 0
        self.batches = 0
