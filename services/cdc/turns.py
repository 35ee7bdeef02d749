"""Whose turn it is on the event loop: cdc works in short turns, and rests between them where it shares a process."""

from __future__ import annotations

import asyncio
from typing import Final

TURN_S: Final = 0.001
REST_S: Final = 0.001
"""Between turns in a process that also answers clients: catching up then takes half of the loop at most."""


class Turns:
    """`await turns.next()` at every step; it returns at once until the turn is over."""

    def __init__(self, rest_s: float = 0.0) -> None:
        self._rest_s = rest_s
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + TURN_S

    async def next(self) -> None:
        if self._loop.time() >= self._ends:
            await asyncio.sleep(self._rest_s)
            self._ends = self._loop.time() + TURN_S
