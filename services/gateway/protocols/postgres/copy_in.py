"""COPY FROM STDIN: input blocks to worker threads, their pieces to storage, in order and bounded.

Owns the pipeline of one COPY: what has arrived, the blocks being parsed, the piece that storage works on. Reading
from the client stops while enough is under way. The one task per COPY lives here; the data's meaning is in
`copy_parse` and `copy_rows`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.values import time_zone
from services.gateway.protocols.postgres.copy_parse import Parsed, parse_block
from services.gateway.protocols.postgres.copy_rows import CopyDataError, CopySpec, cut, newline_of
from services.gateway.protocols.postgres.limits import PostgresLimits
from services.storage.client import CopyFormat, Session

log = structlog.get_logger()


class CopyOwner(Protocol):
    """The connection that a COPY serves."""

    @property
    def time_zone(self) -> str: ...

    def copy_ready(self, wanted: bool) -> None: ...

    def copy_ended(self, answer: bytes | None) -> None: ...

    def copy_failed(self, error: OrbitError) -> None: ...

    def copy_refused(self, error: OrbitError) -> None: ...


class CopyIn:
    """One COPY FROM STDIN. Raises NotSupported for a format that is not text or CSV."""

    def __init__(
        self, owner: CopyOwner, session: Session, copy: CopyFormat, threads: ThreadPoolExecutor, limits: PostgresLimits
    ) -> None:
        if copy.format not in ("text", "csv"):
            raise NotSupported(f"COPY FROM STDIN in {copy.format} format is not supported")
        self._owner = owner
        self._session = session
        self._spec = CopySpec(copy, time_zone(owner.time_zone))
        self._threads = threads
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._size = 0
        self._fresh = 0
        """Bytes since the last cut: a row longer than a block is not looked through at each arrival."""
        self._skip_header = copy.header
        self._newline = ""
        """How lines end; known with the first block."""
        self._blocks: deque[asyncio.Future[Parsed]] = deque()
        self._all_in = False
        self._ended = False
        """The end-of-data marker was met."""
        self._stopped: OrbitError | None = None
        self._closed = False
        self._wake = asyncio.Event()
        self._reply: asyncio.Future[bytes] | None = None
        self._task = self._loop.create_task(self._run())

    def feed(self, data: bytes) -> None:
        """Take input, in whatever pieces it comes."""
        if self._stopped is not None or self._all_in or self._ended:
            return
        self._parts.append(data)
        self._size += len(data)
        self._fresh += len(data)
        if self._fresh >= self._limits.copy_block_bytes:
            self._fresh = 0
            self._cut()

    def end(self) -> None:
        """The client has sent everything."""
        if self._stopped is None and not self._all_in:
            if self._size and not self._ended:
                self._parse(b"".join(self._parts))
            self._all_in = True
            self._parts = []
            self._wake.set()

    def stop(self, error: OrbitError) -> None:
        """Give up, for this reason, as soon as storage is done with the piece that it has."""
        if self._stopped is None:
            self._stopped = error
            self._parts = []
            self._wake.set()
            self._owner.copy_ready(True)

    def taken(self, answer: bytes) -> None:
        """Storage has answered `copy_batch`."""
        if self._reply is not None and not self._reply.done():
            self._reply.set_result(answer)

    def close(self) -> None:
        """The COPY is over, however: drop everything."""
        self._closed = True
        self._task.cancel()
        for block in self._blocks:
            block.cancel()
        self._parts = []

    def _cut(self) -> None:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        end = cut(data, self._spec)
        rest = data[end:]
        self._parts, self._size = [rest], len(rest)
        if len(rest) > self._limits.max_copy_row_bytes:
            self.stop(OrbitError(f"a line of COPY exceeds {self._limits.max_copy_row_bytes} bytes", sqlstate="54000"))
        elif end:
            self._parse(data[:end])

    def _parse(self, block: bytes) -> None:
        self._newline = self._newline or newline_of(block, self._spec)
        parsed = self._loop.run_in_executor(
            self._threads, parse_block, block, self._spec, self._newline, self._skip_header
        )
        self._blocks.append(parsed)
        self._skip_header = False
        self._wake.set()
        if len(self._blocks) >= self._limits.copy_blocks_in_flight:
            self._owner.copy_ready(False)

    async def _run(self) -> None:
        lines = 0
        try:
            while (block := await self._next_block()) is not None:
                try:
                    parsed = await block
                except CopyDataError as error:
                    self._fail(error.located(self._spec.copy.table, lines))
                    return
                except OrbitError as error:
                    self._fail(error)
                    return
                lines += parsed.lines
                self._blocks.popleft()
                if len(self._blocks) < self._limits.copy_blocks_in_flight:
                    self._owner.copy_ready(True)
                await self._store(parsed.pieces)
                if parsed.ended:
                    self._ignore_rest()
            if self._stopped is not None:
                self._fail(self._stopped)
            else:
                self._owner.copy_ended(self._session.copy_done())
        except OrbitError as error:
            self._owner.copy_refused(error)
        except Exception:
            log.exception("copy failed")
            self._fail(OrbitError("COPY failed because of an internal error"))

    async def _next_block(self) -> asyncio.Future[Parsed] | None:
        """Return the oldest block, when there is one; None at the end of the data or when stopped."""
        while self._stopped is None:
            if self._blocks:
                return self._blocks[0]
            if self._all_in:
                return None
            self._wake.clear()
            await self._wake.wait()
        return None

    def _ignore_rest(self) -> None:
        """The end-of-data marker was met: what follows it is dropped, and CopyDone is waited for."""
        for block in self._blocks:
            block.cancel()
        self._blocks.clear()
        self._ended = True
        self._owner.copy_ready(True)

    async def _store(self, pieces: list[bytes]) -> None:
        """Hand pieces to storage, each when the one before is taken. Raises what storage raises."""
        for piece in pieces:
            if self._stopped is not None:
                return
            self._reply = self._loop.create_future()
            if self._session.copy_batch(piece) is None:
                await self._reply

    def _fail(self, error: OrbitError) -> None:
        self._stopped = self._stopped or error
        self._parts = []
        self._owner.copy_ready(True)
        if not self._closed:
            self._owner.copy_failed(error)
