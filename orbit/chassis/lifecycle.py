"""How a process lives: start in order, run until told or until a part dies, stop in reverse order.

Owns the event loop (uvloop), signals, the deadline of a stop, and the garbage collector's tuning. Knows no service:
`__main__` adds components.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NoReturn, Protocol

import structlog
import uvloop

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S: Final = 30.0
"""Container platforms kill after 30 s by default; a stop that takes longer was not graceful anyway."""
GC_THRESHOLDS: Final = (100_000, 50, 1000)
"""With the default ones, full collections over millions of row versions stall the loop for hundreds of ms."""

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130


class Component(Protocol):
    """A part of the process. `start` returns when it serves; `stop` when it has let go of everything."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Steps:
    """A component made of two coroutine functions, for what has its own names for them."""

    on_start: Callable[[], Awaitable[object]]
    on_stop: Callable[[], Awaitable[object]]

    async def start(self) -> None:
        await self.on_start()

    async def stop(self) -> None:
        await self.on_stop()


Watch = Callable[[], Awaitable[object]]
"""Returns or raises when the component has died."""


class State(Enum):
    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    component: Component
    watch: Watch | None


class Process:
    """The components of one process, in the order of their start."""

    def __init__(self, name: str, *, stop_timeout_s: float = STOP_TIMEOUT_S) -> None:
        self.name = name
        self.state = State.NEW
        self._stop_timeout_s = stop_timeout_s
        self._parts: list[_Part] = []
        self._started: list[_Part] = []
        self._watchers: list[asyncio.Task[None]] = []
        self._told = asyncio.Event()
        self._reason = ""
        self._exit_code = EXIT_OK

    def add(self, name: str, component: Component, *, watch: Watch | None = None) -> None:
        """Append a component. `watch` ends when it dies, which stops the process."""
        assert self.state is State.NEW, "add components before run"
        self._parts.append(_Part(name, component, watch))

    def stop(self, reason: str, exit_code: int = EXIT_OK) -> None:
        """Ask the process to stop; the first reason counts."""
        if not self._told.is_set():
            self._reason, self._exit_code = reason, exit_code
            self._told.set()

    async def run(self, *, on_started: Callable[[], None] | None = None) -> int:
        """Start everything, wait for a signal, `stop` or a death, stop everything. Returns the exit status."""
        began = time.monotonic()
        self._handle_signals()
        self.state = State.STARTING
        try:
            if await self._start_all():
                self.state = State.RUNNING
                tune_gc()
                log.info("process started", process=self.name, seconds=round(time.monotonic() - began, 3))
                if on_started is not None:
                    on_started()
                await self._told.wait()
            level = log.info if self._exit_code == EXIT_OK else log.error
            level("process stops", process=self.name, reason=self._reason)
        finally:
            self.state = State.STOPPING
            await self._stop_all()
            self.state = State.ENDED
        log.info("process ended", process=self.name, exit_code=self._exit_code)
        return self._exit_code

    async def _start_all(self) -> bool:
        """Start the components; stop early when told to. Returns whether all run."""
        for part in self._parts:
            starting = asyncio.ensure_future(part.component.start())
            told = asyncio.ensure_future(self._told.wait())
            await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            self._started.append(part)  # also what started half: its stop must cope
            if not starting.done():
                starting.cancel()
                await asyncio.wait((starting,))
                return False
            error = starting.exception()
            if error is not None:
                log.error("component did not start", component=part.name, reason=_text(error), exc_info=_trace(error))
                self.stop(f"{part.name} did not start: {_text(error)}", EXIT_FAILED)
                return False
            log.debug("component started", component=part.name)
            if part.watch is not None:
                self._watchers.append(
                    asyncio.create_task(self._watch(part.name, part.watch), name=f"watch {part.name}")
                )
        return not self._told.is_set()

    async def _watch(self, name: str, watch: Watch) -> None:
        try:
            outcome = await watch()
        except Exception as error:
            log.error("component died", component=name, reason=_text(error), exc_info=_trace(error))
            self.stop(f"{name} died: {_text(error)}", EXIT_FAILED)
        else:
            self.stop(f"{name} ended by itself" + (f" ({outcome})" if outcome is not None else ""), EXIT_FAILED)

    async def _stop_all(self) -> None:
        """Stop in reverse order. What is left at the deadline is abandoned, by name."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        deadline = asyncio.get_running_loop().time() + self._stop_timeout_s
        for part in reversed(self._started):
            try:
                async with asyncio.timeout_at(deadline):
                    await part.component.stop()
            except TimeoutError:
                log.error("component did not stop in time", component=part.name, timeout_s=self._stop_timeout_s)
                self._exit_code = self._exit_code or EXIT_FAILED
            except Exception as error:
                log.error("component did not stop cleanly", component=part.name, reason=_text(error), exc_info=error)
                self._exit_code = self._exit_code or EXIT_FAILED
            else:
                log.debug("component stopped", component=part.name)
        self._started.clear()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()

        def receive(number: signal.Signals) -> None:
            if self._told.is_set() and number is signal.SIGINT:
                log.warning("second interrupt, leaving at once", process=self.name)
                os._exit(EXIT_INTERRUPTED)
            self.stop(f"signal {number.name}")

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, receive, number)


def run(main: Callable[[], Awaitable[int]]) -> NoReturn:
    """Run a process's main coroutine on uvloop and end the process with its exit status.

    The kernel frees at once what the interpreter would tear down row by row; and what `tune_gc` froze is out of the
    interpreter's reach at its end, which DuckDB's bindings report as leaks, line by line.
    """

    async def body() -> int:
        return await main()

    status = uvloop.run(body())
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def tune_gc() -> None:
    """Keep what is alive now out of every later collection, and make those rare."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _trace(error: BaseException) -> Any:
    """A typed refusal says all in its text; anything else is a defect, and its trace is wanted."""
    return None if isinstance(error, OSError) or type(error).__module__.startswith(("orbit.", "services.")) else error
