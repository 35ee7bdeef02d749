"""What waits between the log and a sink: bounded by bytes, in order, for one producer and one consumer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Backlog(Generic[T]):
    """A queue that gives batches. Items stay in it until `done`, so that nothing is forgotten before it has arrived."""

    def __init__(self, max_bytes: int) -> None:
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> T | None:
        return self._items[0][0] if self._items else None

    async def put(self, item: T, size_bytes: int) -> None:
        """Append an item once there is room; an item larger than everything waits for an empty backlog."""
        while self._items and self._bytes + size_bytes > self._max_bytes:
            await self._change()
        self._items.append((item, size_bytes))
        self._bytes += size_bytes
        self._changed.set()

    async def peek(self, max_items: int, max_bytes: int, linger_s: float = 0.0) -> list[T]:
        """Return the next batch, at least one item. Waits `linger_s` after the first for the batch to fill."""
        while not self._items:
            await self._change()
        if linger_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(linger_s):
                    while len(self._items) < max_items and self._bytes < min(max_bytes, self._max_bytes):
                        await self._change()
        batch: list[T] = []
        size = 0
        for item, item_bytes in self._items:
            size += item_bytes
            if batch and (len(batch) >= max_items or size > max_bytes):
                break
            batch.append(item)
        return batch

    def done(self, count: int) -> None:
        """Forget the first `count` items: they have arrived."""
        for _ in range(count):
            self._bytes -= self._items.popleft()[1]
        self._changed.set()

    async def drained(self) -> None:
        """Wait until nothing waits."""
        while self._items:
            await self._change()

    def discard_while(self, arrived: Callable[[T], bool]) -> None:
        """Forget the leading items that have arrived already."""
        while self._items and arrived(self._items[0][0]):
            self._bytes -= self._items.popleft()[1]
        self._changed.set()

    async def _change(self) -> None:
        """Wait for the next change. Every waiter looks anew, so that it does not matter who clears."""
        self._changed.clear()
        await self._changed.wait()
