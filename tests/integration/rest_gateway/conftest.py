"""A REST door over the reference PostgreSQL, served by a real uvicorn, and an HTTP client for it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest

from orbit.kernel.clock import SystemClock
from services.gateway.authentication import AuthenticationLimits, Authenticator
from services.gateway.protocols.rest.limits import RestLimits
from services.gateway.protocols.rest.listener import RestListener
from tests.fixtures.fix_pg_backend import PASSWORD, PgBackend

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Given to clients that speak plain HTTP, because making their own takes longer than a test."""
SECRET = b"0123456789abcdef0123456789abcdef"


class TurnedClock(SystemClock):
    """The machine's clock, moved by the test."""

    ahead_s = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_s * 1_000_000

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def limits() -> RestLimits:
    return RestLimits()


@pytest.fixture
def empty_public(postgres_dsn: str) -> None:
    """Schema public, empty and orbit's own."""
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public AUTHORIZATION orbit")
        connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")


@pytest.fixture(params=["call-backs", "at once"])
def backend(request: pytest.FixtureRequest, pg_backend: PgBackend, empty_public: None) -> PgBackend:
    """The backend in both ways of answering."""
    pg_backend.blocking = request.param == "at once"
    return pg_backend


@pytest.fixture
async def listener(backend: PgBackend, clock: TurnedClock, limits: RestLimits) -> AsyncIterator[RestListener]:
    authenticator = Authenticator(backend, clock, AuthenticationLimits(first_delay_s=0.01, max_delay_s=0.05))
    door = RestListener(
        backend,
        authenticator,
        clock,
        host="127.0.0.1",
        port=0,
        database="postgres",
        token_secret=SECRET,
        health=lambda: {"healthy": True, "role": "gateway"},
        limits=limits,
        version="0.1.0",
    )
    await door.start()
    yield door
    await door.stop()


@pytest.fixture
async def anonymous(listener: RestListener) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listener.port}", timeout=20, verify=NO_TLS) as client:
        yield client


@pytest.fixture
async def client(listener: RestListener) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{listener.port}", timeout=20, verify=NO_TLS, auth=("orbit", PASSWORD)
    ) as client:
        yield client


@pytest.fixture
async def airlines(client: httpx.AsyncClient) -> None:
    """Table `airlines` with three rows."""
    body = {
        "name": "airlines",
        "columns": [
            {"name": "carrier", "type": "varchar(2)"},
            {"name": "name", "type": "text", "nullable": False},
            {"name": "fleet", "type": "integer"},
            {"name": "active", "type": "boolean", "default": True},
        ],
        "primary_key": ["carrier"],
    }
    assert (await client.post("/tables", json=body)).status_code == 201
    rows = [
        {"carrier": "AA", "name": "American", "fleet": 900},
        {"carrier": "B6", "name": "JetBlue", "fleet": 200},
        {"carrier": "ZZ", "name": 'Zed\'s "Air"', "fleet": None, "active": False},
    ]
    assert (await client.post("/tables/airlines/rows", json=rows)).status_code == 201
