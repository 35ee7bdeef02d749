"""The REST door's listener: uvicorn in this process' event loop, on a socket of its own.

Owns the socket and the server's life. FastAPI, pydantic and uvicorn are imported by `start` (0.5 s, in a thread),
so that what only imports this module pays nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from orbit.kernel.clock import Clock
from services.gateway.authentication import Authenticator
from services.gateway.protocols.rest.limits import RestLimits
from services.gateway.protocols.rest.pool import SessionPool
from services.gateway.protocols.rest.tokens import TokenSigner
from services.storage.client import Backend

if TYPE_CHECKING:
    import uvicorn

log = structlog.get_logger()


class RestListener:
    """Serves REST clients on one port.

    `token_secret` signs bearer tokens (at least 32 bytes; the same for all gateways behind one address).
    `health` returns the body of GET /health: a mapping with `healthy`. With `tls` the port speaks TLS only.
    """

    def __init__(
        self,
        backend: Backend,
        authenticator: Authenticator,
        clock: Clock,
        *,
        host: str,
        port: int,
        database: str,
        token_secret: bytes,
        health: Callable[[], Mapping[str, Any]],
        tls: ssl.SSLContext | None = None,
        limits: RestLimits | None = None,
        version: str = "0",
    ) -> None:
        self.limits = limits or RestLimits()
        self.pool = SessionPool(backend, database, self.limits)
        self._authenticator = authenticator
        self._signer = TokenSigner(token_secret, clock, self.limits.token_lifetime_s)
        self._health = health
        self._host = host
        self._port = port
        self._tls = tls
        self._version = version
        self._socket: socket.socket | None = None
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the system's choice when 0 was asked for."""
        assert self._socket is not None
        port: int = self._socket.getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # asyncio sets TCP_NODELAY only on sockets that say which protocol they are; without it each reply takes 40 ms.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self._host, self._port))
            listening.listen(512)
            listening.setblocking(False)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        # In a thread: the imports take half a second, and the loop serves other doors meanwhile.
        await asyncio.to_thread(importlib.import_module, "services.gateway.protocols.rest.adapter")
        await asyncio.to_thread(importlib.import_module, "uvicorn")
        self._server = self._make_server()
        self._task = asyncio.get_running_loop().create_task(self._server.serve([listening]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the REST server ended while it started")
            await asyncio.sleep(0)
        log.info("rest listening", host=self._host, port=self.port, tls=self._tls is not None)

    async def stop(self) -> None:
        """Stop listening, let running requests end within `shutdown_timeout_s`, and close the sessions."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = self._task = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.pool.close()

    def _make_server(self) -> uvicorn.Server:
        import uvicorn

        from services.gateway.protocols.rest.adapter import Doors, build_app
        from services.gateway.protocols.rest.guard import Guard

        class Server(uvicorn.Server):
            """Leaves signals to the process that it is a part of."""

            @contextlib.contextmanager
            def capture_signals(self) -> Iterator[None]:
                yield

        doors = Doors(self._authenticator, self._signer, self.pool, self.limits, self._health)
        config = uvicorn.Config(
            Guard(build_app(doors, self._version), self.limits),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=self.limits.max_connections,
            timeout_keep_alive=self.limits.keep_alive_s,
            timeout_graceful_shutdown=self.limits.shutdown_timeout_s,
            h11_max_incomplete_event_size=self.limits.max_header_bytes,
        )
        config.load()
        if self._tls is not None:
            config.ssl = self._tls
        return Server(config)
