"""What every request passes before the application sees it: size and time of the body, and a last net for defects.

Owns no route. A body is read whole before the application starts, so that a limit is one clear answer.
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.gateway.protocols.rest.errors import plain_body
from services.gateway.protocols.rest.limits import RestLimits

log = structlog.get_logger()


class BodyTooLarge(Exception):
    """More bytes than `max_body_bytes`."""


class Guard:
    """ASGI middleware, the outermost one."""

    def __init__(self, app: ASGIApp, limits: RestLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limits.max_body_bytes
        try:
            declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
            async with asyncio.timeout(self._limits.body_timeout_s):
                body = await self._read(receive, int(declared))
        except BodyTooLarge:
            await _refuse(send, 413, "54000", f"the request's body is larger than {limit} bytes")
            return
        except TimeoutError:
            await _refuse(send, 408, "57014", f"the request's body took longer than {self._limits.body_timeout_s:g} s")
            return
        if body is not None:
            await self._run(scope, body, receive, send)

    async def _read(self, receive: Receive, declared: int) -> bytes | None:
        """Return the body; None when the client went away.

        A body that is too large is read and dropped up to twice the limit: a client sees the reply only if it
        could send all before the connection is closed.
        """
        limit = self._limits.max_body_bytes
        if declared > 2 * limit:
            raise BodyTooLarge
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part: bytes = message.get("body", b"")
            size += len(part)
            if size <= limit:
                parts.append(part)
            if size > 2 * limit or (size > limit and not message.get("more_body", False)):
                raise BodyTooLarge
            if not message.get("more_body", False):
                return b"".join(parts)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        given = False
        started = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, replay, watched)
        except Exception:
            log.exception("rest request failed unexpectedly", method=scope["method"], path=scope["path"])
            if not started:
                await _refuse(send, 500, "XX000", "internal error")


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    body = plain_body(code, message)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
