"""A streamed answer: rows go out as they come, no faster than the client takes them.

Owns the three forms of POST /sql's answer (JSON, NDJSON, CSV) and their sending. An error behind the first byte
cannot become a status any more: the connection is cut, so that no client takes half an answer for a whole one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orbit.kernel.errors import OrbitError, QueryCanceled
from services.gateway import answers
from services.gateway.conversation import Stream
from services.gateway.protocols.rest import wire
from services.gateway.protocols.rest.limits import RestLimits

log = structlog.get_logger()

MEDIA_TYPES: Final = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}


class StreamedAnswer(Response):
    """The answer of one running statement. `finished` is called once, with whether all was sent."""

    def __init__(self, stream: Stream, form: str, limits: RestLimits, finished: Callable[[], None]) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"content-type": MEDIA_TYPES[form]})
        self._stream = stream
        self._form = form
        self._limits = limits
        self._finished = finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    if gone.done():
                        return
                    async with asyncio.timeout(self._limits.stall_timeout_s):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            log.info("rest client left its answer unread", stall_timeout_s=self._limits.stall_timeout_s)
        except OrbitError as error:
            log.warning("rest answer cut off by an error", sqlstate=error.sqlstate, message=error.message)
        finally:
            gone.cancel()
            self._finished()

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer in parts of about `response_part_bytes`."""
        size = 0
        pending: list[bytes] = []
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                pending.append(piece)
                size += len(piece)
                if size >= self._limits.response_part_bytes:
                    yield b"".join(pending)
                    pending.clear()
                    size = 0
        if pending:
            yield b"".join(pending)

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        columns = self._stream.columns
        if self._form == "json":
            yield b'{"columns":' + wire.columns_json(columns) + b',"rows":['
            write = wire.arrays(columns)
        elif self._form == "ndjson":
            write = wire.objects(columns)
        else:
            write = wire.csv_line
            if self._stream.returns_rows:
                yield wire.csv_line([column.name.encode() for column in columns])
        separator = b""
        async with aclosing(self._stream.parts()) as parts:
            async for rows in _timed(parts, self._limits.request_timeout_s):
                for row in rows:
                    yield separator + write(row)
                    if self._form == "json":
                        separator = b","
                    elif self._form == "ndjson":
                        separator = b"\n"
        if self._form == "json":
            tag = self._stream.tag
            count = answers.row_count(tag)
            yield b'],"tag":' + wire.string_json(tag.decode()) + b',"row_count":%d}' % count
        elif self._form == "ndjson" and separator:
            yield b"\n"


async def _timed(parts: AsyncIterator[list[answers.Row]], timeout_s: float) -> AsyncIterator[list[answers.Row]]:
    """Yield the parts, each of which must come in time. Raises QueryCanceled."""
    while True:
        try:
            async with asyncio.timeout(timeout_s):
                rows = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise QueryCanceled(f"canceling statement: no rows came for {timeout_s:g} s") from error
        yield rows


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
