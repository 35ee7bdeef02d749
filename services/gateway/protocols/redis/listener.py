"""The Redis door: its listening socket and what its connections share.

Owns accepting, the set of connections and the facts that INFO tells. A connection's life is in `adapter`.
"""

from __future__ import annotations

import asyncio
import os
import ssl

import structlog

from orbit.kernel.clock import Clock
from services.gateway.authentication import Authenticator
from services.gateway.protocols.redis.adapter import RedisConnection
from services.gateway.protocols.redis.commands.command import Server
from services.gateway.protocols.redis.expiry import ExpirySweeper
from services.gateway.protocols.redis.limits import RedisLimits
from services.storage.client import Backend

log = structlog.get_logger()


class RedisListener:
    """Serves Redis clients on one port.

    `default_user` is who `AUTH password` means. `database` is where sessions are opened. With `tls` the port
    speaks TLS only. `version` is the engine's, for INFO. While it listens it deletes expired keys as `default_user`,
    every `sweep_interval_s` (None: never).
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
        default_user: str = "orbit",
        tls: ssl.SSLContext | None = None,
        limits: RedisLimits | None = None,
        version: str = "",
        sweep_interval_s: float | None = 5.0,
    ) -> None:
        self.backend = backend
        self.authenticator = authenticator
        self.clock = clock
        self.database = database
        self.default_user = default_user
        self.limits = limits or RedisLimits()
        self.server = Server(self.limits, self._facts)
        self.commands = 0
        """Commands received since the start."""
        self._host = host
        self._port = port
        self._tls = tls
        self._version = version
        self._started = clock.monotonic()
        self._connections: set[RedisConnection] = set()
        self._accepted = 0
        self._listener: asyncio.Server | None = None
        self._sweeper: ExpirySweeper | None = None
        if sweep_interval_s is not None:
            self._sweeper = ExpirySweeper(
                backend, clock, user=default_user, database=database, interval_s=sweep_interval_s
            )

    @property
    def port(self) -> int:
        """The port that is listened on; the system's choice when 0 was asked for."""
        assert self._listener is not None
        port: int = self._listener.sockets[0].getsockname()[1]
        return port

    @property
    def connections(self) -> int:
        """Clients that are connected now."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._accept, self._host, self._port, ssl=self._tls, backlog=512)
        if self._sweeper is not None:
            self._sweeper.start()
        log.info("redis listening", host=self._host, port=self.port, tls=self._tls is not None)

    async def stop(self) -> None:
        """Stop listening, end every connection and the sweep."""
        if self._sweeper is not None:
            await self._sweeper.stop()
        if self._listener is not None:
            self._listener.close()
            for connection in list(self._connections):
                connection.shut_down()
            await self._listener.wait_closed()
            self._listener = None

    def _accept(self) -> RedisConnection:
        self._accepted += 1
        return RedisConnection(self, self._accepted)

    def joined(self, connection: RedisConnection) -> bool:
        """Count a connection; return False when there is no room for it."""
        if len(self._connections) >= self.limits.max_connections:
            log.warning("redis client refused: too many connections", limit=self.limits.max_connections)
            return False
        self._connections.add(connection)
        return True

    def left(self, connection: RedisConnection) -> None:
        self._connections.discard(connection)

    def _facts(self) -> dict[str, str]:
        return {
            "orbit_version": self._version,
            "process_id": str(os.getpid()),
            "tcp_port": str(self.port),
            "uptime_in_seconds": str(int(self.clock.monotonic() - self._started)),
            "total_connections_received": str(self._accepted),
            "total_commands_processed": str(self.commands),
            "connected_clients": str(self.connections),
        }
