"""The shard log as storage sees it: append, read, seal, trim.

Owns the contract. `jetstream` is the real one; `memory` is its twin for simulation and tests; one conformance
suite runs on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol


class SlotTaken(Exception):
    """Another record holds the expected position: somebody else appended. Carries the log's last sequence."""

    def __init__(self, last_sequence: int) -> None:
        super().__init__(f"log already ends at {last_sequence}")
        self.last_sequence = last_sequence


class AppendUnknown(Exception):
    """The append was sent and never answered: it may be in the log now, later, or never."""


class AppendRefused(Exception):
    """The log surely did not take the record: full, unreachable before sending, or not durable (`reason` says).

    `passing`: it is worth a wait; the log's servers are electing a leader, or being restarted.
    """

    def __init__(self, reason: str, *, full: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.full = full
        self.passing = passing


class RecordsTrimmed(Exception):
    """The records to be read are gone: the log now begins at `first_sequence`."""

    def __init__(self, first_sequence: int) -> None:
        super().__init__(f"log begins at {first_sequence}")
        self.first_sequence = first_sequence


@dataclass(frozen=True, slots=True)
class Entry:
    """One record as read back, and the W3C trace context that it was appended under, if any."""

    sequence: int
    data: bytes
    traceparent: str = ""


Done = Callable[[int | BaseException], None]
"""Called once from the event loop with the new sequence, or SlotTaken, AppendUnknown or AppendRefused."""


class Log(Protocol):
    """One shard's log. Sequences start at 1 and have no gaps."""

    def append(self, data: bytes, expected_sequence: int, done: Done, traceparent: str = "") -> None:
        """Append one record if the log ends at `expected_sequence`; it is then durable at expected_sequence + 1.

        `done` is never called from within this call.
        """
        ...

    def read(self, from_sequence: int) -> AsyncIterator[Entry]:
        """Yield every record from `from_sequence` on, in order, for ever; waits at the end of the log.

        Raises RecordsTrimmed when they are gone, and LogCorrupt when the log has a gap or is gone itself.
        """
        ...

    async def bounds(self) -> tuple[int, int]:
        """Return (first, last) sequence; (n + 1, n) for an empty or fully trimmed log. A hint: never proves absence.

        Raises LogUnavailable.
        """
        ...

    async def trim(self, through_sequence: int) -> None:
        """Forget records up to and including `through_sequence`. Raises ValueError past the end, LogUnavailable."""
        ...

    def durable(self) -> str | None:
        """Return None while every server of the log is known to fsync each append, else the reason it is not known.

        For health reports: `append` itself refuses while it must. Where durability is relaxed by configuration,
        this says so and appends go on.
        """
        ...

    async def close(self) -> None: ...
