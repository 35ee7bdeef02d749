"""The operations port: health, metrics and cluster state over HTTP, for probes, Prometheus and people.

Owns the small HTTP server (h11 for the protocol, GET and HEAD only) and the documents' common shape. What it tells
comes from callables that the service injects. Not the REST gateway: no users, no data. It answers from the service's
own event loop, so that an answer to /health/live proves that the loop runs.

A web framework takes half a second to import, a sixth of the engine's start; this module takes 30 ms.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import h11
import msgspec
import structlog

from orbit.chassis.metrics import CONTENT_TYPE

log = structlog.get_logger(__name__)

IDLE_TIMEOUT_S: Final = 60.0
REQUEST_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 128
MAX_HEAD_BYTES: Final = 16 << 10
READ_BYTES: Final = 4096

Document = Callable[[], object | Awaitable[object]]
"""Returns what is shown as JSON, at once or awaited."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The document of /health. The first five fields are the deployment guide's."""

    healthy: bool
    role: str
    """leader, follower, candidate; the service's name for services that neither lead nor follow."""
    term: int = 0
    peers: list[str] = []
    replication_lag_ms: int = 0
    ready: bool = True
    """Whether it takes requests now: a healthy follower is ready, a node that still replays its log is not."""
    durability: str = "checked"
    """checked, relaxed, or why acknowledged commits may not be durable."""
    reasons: list[str] = []
    """Why it is not healthy or not ready."""
    details: dict[str, Any] = {}


class HealthSource(Protocol):
    """Tells how the process is, from what it observes; cheap, and called from the event loop."""

    def __call__(self) -> Health: ...


class OperationsServer:
    """Serves /health, /health/live, /health/ready, /metrics and the documents given, until stopped."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        health: HealthSource,
        metrics: Callable[[], bytes] | None = None,
        documents: Mapping[str, Document] | None = None,
    ) -> None:
        """`port` 0 takes a free one. `metrics` None: disabled by configuration, /metrics is not found.

        `documents` maps further paths, such as /cluster/status, /cluster/replication and /tiers.
        """
        self.host = host
        self.port = port
        self._health = health
        self._metrics = metrics
        self._documents = dict(documents or {})
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=MAX_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("operations port open", host=self.host, port=self.port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) <= MAX_CONNECTIONS:
                await _Conversation(reader, writer, self._answer).run()
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            log.debug("operations connection ended", reason=str(error) or type(error).__name__)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, path: str) -> tuple[int, str, bytes]:
        """Return (status, content type, body) of a path."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._document(path)
        except TimeoutError:
            log.warning("operations document took too long", path=path, timeout_s=ANSWER_TIMEOUT_S)
            return _json(503, {"error": f"no answer within {ANSWER_TIMEOUT_S:g} s"})
        except Exception as error:
            log.exception("operations document failed", path=path)
            return _json(500, {"error": f"internal error: {type(error).__name__}"})

    async def _document(self, path: str) -> tuple[int, str, bytes]:
        if path == "/health":
            health = self._health()
            return _json(200 if health.healthy else 503, health)
        if path == "/health/live":
            return _json(200, {"live": True})
        if path == "/health/ready":
            health = self._health()
            return _json(200 if health.ready else 503, {"ready": health.ready, "reasons": health.reasons})
        if path == "/metrics" and self._metrics is not None:
            return 200, CONTENT_TYPE, self._metrics()
        if path in self._documents:
            document = self._documents[path]()
            return _json(200, await document if inspect.isawaitable(document) else document)
        known = ["/health", "/health/live", "/health/ready", *(["/metrics"] if self._metrics else []), *self._documents]
        return _json(404, {"error": f"no {path} here", "paths": known})


class _Conversation:
    """One client's connection: requests one after another."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answer: Callable[[str], Awaitable[tuple[int, str, bytes]]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answer = answer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def run(self) -> None:
        """Serve until the client goes, idles or breaks the protocol."""
        while True:
            try:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    request = await self._next(h11.Request)
                if request is None:
                    return
                assert isinstance(request, h11.Request)
                async with asyncio.timeout(REQUEST_TIMEOUT_S):
                    await self._next(h11.EndOfMessage)
            except h11.RemoteProtocolError as error:
                if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    await self._send(*_json(error.error_status_hint, {"error": str(error)}), head=False, close=True)
                raise
            await self._respond(request)
            if self._http.our_state is not h11.DONE:  # one side wants the connection closed
                return
            self._http.start_next_cycle()

    async def _respond(self, request: h11.Request) -> None:
        if request.method not in (b"GET", b"HEAD"):
            refusal = _json(405, {"error": f"{request.method.decode()} is not allowed here"})
            await self._send(*refusal, head=False, extra=[("Allow", "GET, HEAD")])
            return
        path = request.target.decode("ascii", "replace").partition("?")[0]
        status, content_type, body = await self._answer(path)
        await self._send(status, content_type, body, head=request.method == b"HEAD")

    async def _next(self, wanted: type[h11.Event]) -> h11.Event | None:
        """Return the next event of the wanted kind; None when the client is gone. Bodies are read and dropped."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._reader.read(READ_BYTES))
            elif isinstance(event, wanted):
                return event
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return None

    async def _send(
        self,
        status: int,
        content_type: str,
        body: bytes,
        *,
        head: bool,
        close: bool = False,
        extra: list[tuple[str, str]] | None = None,
    ) -> None:
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        headers += extra or []
        if close:
            headers.append(("Connection", "close"))
        parts = [self._http.send(h11.Response(status_code=status, headers=headers))]
        if not head:
            parts.append(self._http.send(h11.Data(data=body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            await self._writer.drain()


def _json(status: int, document: object) -> tuple[int, str, bytes]:
    return status, "application/json", msgspec.json.encode(document, enc_hook=str) + b"\n"
