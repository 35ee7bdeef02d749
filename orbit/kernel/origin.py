"""Where a replicated transaction comes from: the region that committed it, and the position there.

Owns the text form that `records.Transaction.origin` carries. It stops loops, and makes replication exactly once: a
region knows from its own log how far it has applied another's.
"""

from __future__ import annotations

from typing import NamedTuple, Self


class Origin(NamedTuple):
    """A position in another region's log; `text` is `region/timeline/lsn`."""

    region: str
    timeline: int
    lsn: int

    @property
    def text(self) -> str:
        return f"{self.region}/{self.timeline}/{self.lsn}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError for a text that is no origin."""
        region, timeline, lsn = text.split("/")
        return cls(region, int(timeline), int(lsn))
