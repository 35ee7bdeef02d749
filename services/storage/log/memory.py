"""The shard log in memory: the twin of `jetstream` for tests and simulation, with every fate an append can have.

Owns no durability. Several `MemoryLog` handles (one a node) share one `MemoryStream` (the log itself). Randomness and
time come from whoever simulates, through `fate` and `schedule`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from enum import Enum

from orbit.kernel.errors import LogUnavailable
from services.storage.log.interface import AppendRefused, AppendUnknown, Done, Entry, RecordsTrimmed, SlotTaken

Outcome = int | BaseException


class Fate(Enum):
    """What becomes of one append."""

    ANSWERED = 1
    """It is tried, and its outcome told."""
    REFUSED = 2
    """It never leaves: AppendRefused."""
    LOST = 3
    """It is never tried, and nobody knows: AppendUnknown."""
    ANSWER_LOST = 4
    """It is tried, and nobody knows: AppendUnknown."""
    LATE = 5
    """AppendUnknown now; it is tried when `MemoryStream.land_late` is called."""


class MemoryStream:
    """The records themselves, shared by all handles."""

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self.first = 1
        self.entries: deque[Entry] = deque()
        self.size_bytes = 0
        self.max_bytes = max_bytes
        self._late: list[Callable[[], object]] = []
        self._readers: set[asyncio.Future[None]] = set()

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    def try_append(self, data: bytes, expected_sequence: int, traceparent: str) -> Outcome:
        """Append by compare-and-set. Returns the new sequence, SlotTaken or AppendRefused."""
        if expected_sequence != self.last:
            return SlotTaken(self.last)
        if self.max_bytes is not None and self.size_bytes + len(data) > self.max_bytes:
            return AppendRefused("log is full: maximum bytes exceeded", full=True)
        self.entries.append(Entry(expected_sequence + 1, data, traceparent))
        self.size_bytes += len(data)
        self.wake_readers()
        return expected_sequence + 1

    def trim(self, through_sequence: int) -> None:
        if through_sequence > self.last:
            raise ValueError(f"log ends at {self.last}, cannot be trimmed through {through_sequence}")
        while self.first <= through_sequence:
            self.size_bytes -= len(self.entries.popleft().data)
            self.first += 1

    def put_off(self, attempt: Callable[[], object]) -> None:
        """Keep an append for `land_late`."""
        self._late.append(attempt)

    def land_late(self) -> None:
        """Try the appends of fate LATE now, in order; each lands only if its position is still free."""
        late, self._late = self._late, []
        for attempt in late:
            attempt()

    def wake_readers(self) -> None:
        readers, self._readers = self._readers, set()
        for reader in readers:
            if not reader.done():
                reader.set_result(None)

    async def changed(self) -> None:
        """Wait until `wake_readers`."""
        waiter = asyncio.get_running_loop().create_future()
        self._readers.add(waiter)
        try:
            await waiter
        finally:
            self._readers.discard(waiter)


class MemoryLog:
    """One node's handle on the log. `reachable` False is a partition: appends are refused, reading waits."""

    def __init__(
        self,
        stream: MemoryStream | None = None,
        *,
        fate: Callable[[bytes], Fate] | None = None,
        schedule: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        """`fate` decides for each record (default: ANSWERED); `schedule` runs a step later (default: the loop)."""
        self.stream = stream or MemoryStream()
        self.fate = fate
        self.not_durable: str | None = None
        """Set to make `durable` say so and appends be refused."""
        self._reachable = True
        self._schedule = schedule or (lambda step: asyncio.get_running_loop().call_soon(step))
        self._pending: dict[int, Done] = {}
        self._next_token = 0

    @property
    def reachable(self) -> bool:
        return self._reachable

    @reachable.setter
    def reachable(self, value: bool) -> None:
        self._reachable = value
        self.stream.wake_readers()

    def append(self, data: bytes, expected_sequence: int, done: Done, traceparent: str = "") -> None:
        self._next_token += 1
        token = self._next_token
        self._pending[token] = done
        fate = self.fate(data) if self.fate is not None else Fate.ANSWERED

        def attempt() -> Outcome:
            return self.stream.try_append(data, expected_sequence, traceparent)

        def step() -> None:
            outcome: Outcome = AppendUnknown("no answer")
            if fate is Fate.REFUSED or not self.reachable:
                outcome = AppendRefused("not connected to the log")
            elif self.not_durable is not None:
                outcome = AppendRefused(f"log is not known to be durable: {self.not_durable}")
            elif fate is Fate.ANSWERED:
                outcome = attempt()
            elif fate is Fate.ANSWER_LOST:
                attempt()
            elif fate is Fate.LATE:
                self.stream.put_off(attempt)
            self._tell(token, outcome)

        self._schedule(step)

    async def read(self, from_sequence: int) -> AsyncGenerator[Entry, None]:
        stream, at = self.stream, from_sequence
        while True:
            while at > stream.last or not self.reachable:
                await stream.changed()
            if at < stream.first:
                raise RecordsTrimmed(stream.first)
            yield stream.entries[at - stream.first]
            at += 1

    async def bounds(self) -> tuple[int, int]:
        self._check_reachable()
        return self.stream.first, self.stream.last

    async def trim(self, through_sequence: int) -> None:
        self._check_reachable()
        self.stream.trim(through_sequence)

    def durable(self) -> str | None:
        return self.not_durable

    async def close(self) -> None:
        for token in list(self._pending):
            self._tell(token, AppendUnknown("the log was closed"))

    def _tell(self, token: int, outcome: Outcome) -> None:
        done = self._pending.pop(token, None)
        if done is not None:
            done(outcome)

    def _check_reachable(self) -> None:
        if not self.reachable:
            raise LogUnavailable("not connected to the log")
