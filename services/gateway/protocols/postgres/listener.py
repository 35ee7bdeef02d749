"""The PostgreSQL door: its listening socket and what its connections share.

Owns accepting, the limit of connections, cancel keys and the threads that parse COPY. A connection's life is in
`adapter`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog

from orbit.kernel.errors import OrbitError
from services.gateway.protocols.postgres.adapter import PostgresConnection
from services.gateway.protocols.postgres.cancel import CancelKeys
from services.gateway.protocols.postgres.limits import PostgresLimits
from services.storage.client import Backend

log = structlog.get_logger()


class PostgresMetrics(Protocol):
    """What the door counts. Called from the event loop; nothing is counted for a statement, storage does that."""

    def connection_opened(self) -> None: ...

    def connection_closed(self) -> None: ...

    def authentication_failed(self) -> None: ...


class NoMetrics:
    """Counts nothing."""

    def connection_opened(self) -> None:
        return

    def connection_closed(self) -> None:
        return

    def authentication_failed(self) -> None:
        return


class PostgresListener:
    """Serves PostgreSQL clients on one port.

    `database` is the only one there is. With `tls`, a client may ask for encryption; with `require_tls` it must.
    `version` is the engine's own. `mock_secret` makes the salts of roles that do not exist: gateways behind one load
    balancer should share it.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        host: str,
        port: int,
        database: str,
        tls: ssl.SSLContext | None = None,
        require_tls: bool = False,
        limits: PostgresLimits | None = None,
        metrics: PostgresMetrics | None = None,
        version: str = "",
        mock_secret: bytes | None = None,
    ) -> None:
        self.backend = backend
        self.database = database
        self.tls = tls
        self.require_tls = require_tls
        self.limits = limits or PostgresLimits()
        self.metrics: PostgresMetrics = metrics or NoMetrics()
        self.version = version
        self.mock_secret = os.urandom(32) if mock_secret is None else mock_secret
        self.cancel_keys = CancelKeys()
        self.parsers = ThreadPoolExecutor(self.limits.copy_threads, "copy-parser")
        self._host = host
        self._port = port
        self._connections: set[PostgresConnection] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; the system's choice when 0 was asked for."""
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: PostgresConnection(self), self._host, self._port, backlog=512)
        log.info("postgres listening", host=self._host, port=self.port, tls=self.tls is not None)

    async def stop(self) -> None:
        """Stop listening and end every connection (57P01)."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                reason = "terminating connection due to administrator command"
                connection.terminated(OrbitError(reason, sqlstate="57P01"))
            await self._server.wait_closed()
            self._server = None
        self.parsers.shutdown(wait=False, cancel_futures=True)

    # For connections.

    def opened(self, connection: PostgresConnection) -> bool:
        """Take a new connection in. False when there are so many that it cannot even be told."""
        if len(self._connections) >= self.limits.max_connections + self.limits.max_unanswered_connections:
            return False
        self._connections.add(connection)
        self.metrics.connection_opened()
        return True

    def is_full(self) -> bool:
        """Whether the newest connection is one too many."""
        return len(self._connections) > self.limits.max_connections

    def closed(self, connection: PostgresConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self.metrics.connection_closed()
