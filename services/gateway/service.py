"""The gateway as a component: the three doors over one way to the storage leader.

Owns which doors are open and the order of their start. The REST door's web framework is imported when it starts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from orbit.chassis.config import Config
from orbit.chassis.operations import Health
from orbit.chassis.rpc import open_channel
from orbit.chassis.tls import server_context, tls_files
from orbit.chassis.tracing import DISABLED, Tracing
from orbit.kernel.clock import SystemClock
from services.gateway.authentication import Authenticator
from services.gateway.protocols.postgres.listener import PostgresListener
from services.gateway.protocols.redis.listener import RedisListener
from services.storage.client import Backend, RemoteBackend, traced_backend

ENGINE_VERSION = "0.1.0"


@dataclass(frozen=True, slots=True)
class Secrets:
    """What all gateways behind one address share: derived from the administrator's password, which they know."""

    token: bytes
    mock: bytes


class GatewayService:
    """Serves clients over `backend`, or over the network when there is none in this process."""

    def __init__(
        self, config: Config, coordination: Any, secrets: Secrets, backend: Backend | None, tracing: Tracing = DISABLED
    ) -> None:
        self._config = config
        self._coordination = coordination
        self._secrets = secrets
        self._backend = backend
        self._tracing = tracing
        self._remote: Any = None
        self._doors: list[Any] = []

    async def start(self) -> None:
        """Open the doors. Raises OSError when a port is taken."""
        backend = self._backend
        if backend is None:
            tls = tls_files(*self._certificates())
            self._remote = backend = RemoteBackend(lambda address: open_channel(address, tls=tls))
            self._coordination.watch_leader(
                0, lambda leader: self._remote.leader_changed(None if leader is None else leader.address)
            )
        if self._tracing.enabled:
            backend = traced_backend(backend, self._tracing)
        for door in self._make_doors(backend):
            await door.start()
            self._doors.append(door)
        self._rest = asyncio.create_task(self._open_rest(backend), name="rest-door")

    async def stop(self) -> None:
        self._rest.cancel()
        await asyncio.gather(self._rest, return_exceptions=True)
        for door in reversed(self._doors):
            await door.stop()
        if self._remote is not None:
            await self._remote.stop()

    def health(self) -> Health:
        """Return the gateway's health: it needs a leader to be of use."""
        reasons = []
        if self._remote is not None and not self._remote.connected:
            reasons.append("no connection to a storage leader")
        rest = getattr(self, "_rest", None)
        if rest is None or not rest.done():
            reasons.append("the REST door is starting")
        elif rest.exception() is not None:
            reasons.append(f"the REST door failed: {rest.exception()}")
        return Health(healthy=not reasons, ready=not reasons, role="gateway", reasons=reasons)

    def _certificates(self) -> tuple[str, str, str]:
        tls = self._config.security.tls
        return tls.cert_path, tls.key_path, tls.ca_cert_path

    def _make_doors(self, backend: Backend) -> list[Any]:
        config, gateway = self._config, self._config.gateway
        files = tls_files(gateway.tls.cert_path, gateway.tls.key_path)
        self._tls = None if files is None else server_context(files)
        self._authenticator = Authenticator(backend, SystemClock())
        host, database = gateway.bind_address, config.bootstrap.database
        return [
            PostgresListener(
                backend,
                host=host,
                port=gateway.postgres.port,
                database=database,
                tls=self._tls,
                version=ENGINE_VERSION,
                mock_secret=self._secrets.mock,
            ),
            RedisListener(
                backend,
                self._authenticator,
                SystemClock(),
                host=host,
                port=gateway.redis.port,
                database=database,
                default_user=config.bootstrap.user,
                tls=self._tls,
                version=ENGINE_VERSION,
            ),
        ]

    async def _open_rest(self, backend: Backend) -> None:
        """The web framework takes half a second to import: in a thread, while the other doors already serve."""
        await asyncio.to_thread(__import__, "services.gateway.protocols.rest.listener")
        from services.gateway.protocols.rest.listener import RestListener

        config = self._config
        door = RestListener(
            backend,
            self._authenticator,
            SystemClock(),
            host=config.gateway.bind_address,
            port=config.gateway.rest.port,
            database=config.bootstrap.database,
            token_secret=self._secrets.token,
            health=self._rest_health,
            tls=self._tls,
            version=ENGINE_VERSION,
        )
        await door.start()
        self._doors.append(door)

    def _rest_health(self) -> dict[str, Any]:
        connected = self._remote is None or self._remote.connected
        return {"healthy": connected, "role": "gateway"}
