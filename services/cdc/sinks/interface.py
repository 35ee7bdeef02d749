"""What a feed needs of a sink: where it stands, and a place to put the next transaction."""

from __future__ import annotations

from typing import Protocol

from services.cdc.source import Commit
from services.cdc.turns import Turns
from services.storage.client import LogReader


class StartAgain(Exception):
    """The other side has less than it had acknowledged: the feed must read the log again from where that is now."""


class Diverged(Exception):
    """The other side holds what this log cannot be continued from: a person must look, and nothing is sent."""


class Sink(Protocol):
    """One consumer of the log. Errors that pass by themselves are retried inside; `trouble` tells of them."""

    name: str
    trouble: str | None

    @property
    def arrived(self) -> int:
        """The LSN up to which whole transactions have arrived."""
        ...

    async def begin(self, bookmark_lsn: int) -> int:
        """Forget what was accepted, ask the other side where it stands, and return `arrived`.

        `bookmark_lsn` is what had arrived when this process last noted it. Raises Diverged, OrbitError, NatsError.
        """
        ...

    async def accept(self, commit: Commit, log: LogReader, turns: Turns) -> None:
        """Take the next transaction, once there is room. What has arrived already is dropped here."""
        ...

    async def deliver(self) -> None:
        """Send what was accepted, in order, for ever. Raises StartAgain, Diverged."""
        ...

    async def drained(self) -> None:
        """Wait until all that was accepted has arrived."""
        ...

    @property
    def oldest_us(self) -> int | None:
        """The commit time of the oldest transaction that has been accepted and has not arrived."""
        ...
