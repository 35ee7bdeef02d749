"""The PostgreSQL door in front of a scripted backend, and a client that speaks bytes."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.protocols.postgres.limits import PostgresLimits
from services.gateway.protocols.postgres.listener import PostgresListener
from tests.integration.postgres_gateway.client import RawClient
from tests.integration.postgres_gateway.scripted import DATABASE, ScriptedBackend

Connect = Callable[..., Awaitable[RawClient]]


@pytest.fixture(params=[False, True], ids=["at-once", "deferred"])
def backend(request: pytest.FixtureRequest) -> ScriptedBackend:
    return ScriptedBackend(deferred=request.param)


@pytest_asyncio.fixture
async def door(backend: ScriptedBackend) -> AsyncIterator[PostgresListener]:
    limits = PostgresLimits(copy_block_bytes=64 * 1024, max_copy_row_bytes=256 * 1024, authentication_timeout_s=5)
    listener = PostgresListener(backend, host="127.0.0.1", port=0, database=DATABASE, limits=limits, version="0.1.0")
    await listener.start()
    yield listener
    await listener.stop()


@pytest_asyncio.fixture
async def connect(door: PostgresListener) -> AsyncIterator[Connect]:
    """A function that connects one more raw client."""
    clients: list[RawClient] = []

    async def connect_one(port: int = 0) -> RawClient:
        clients.append(await RawClient.connect(port or door.port))
        return clients[-1]

    yield connect_one
    for client in clients:
        await client.close()


@pytest_asyncio.fixture
async def client(connect: Connect) -> RawClient:
    """A raw client that is logged in."""
    raw = await connect()
    await raw.log_in()
    return raw


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key in one file."""
    folder = tmp_path_factory.mktemp("tls")
    pem = folder / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", str(pem), "-out", str(folder / "c.pem")),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    with pem.open("a") as both:
        both.write((folder / "c.pem").read_text())
    return pem


@pytest.fixture
def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run a blocking client beside the door's event loop."""
    return await asyncio.wait_for(asyncio.to_thread(work), 20)
