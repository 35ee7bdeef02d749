"""The operations port as probes, Prometheus, people and strangers meet it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from orbit.chassis import operations
from orbit.chassis.metrics import TRANSACTIONS, Metrics
from orbit.chassis.operations import Health, OperationsServer

pytestmark = pytest.mark.integration


@dataclass
class World:
    """What the service would observe."""

    health: Health = field(default_factory=lambda: Health(healthy=True, role="leader", term=5))

    def __call__(self) -> Health:
        return self.health


async def slow() -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def replication() -> dict[str, Any]:
    return {"members": []}


def broken() -> dict[str, Any]:
    raise ZeroDivisionError("secret detail")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def server(world: World) -> AsyncIterator[OperationsServer]:
    metrics = Metrics({"storage"})
    metrics.counter(TRANSACTIONS, status="committed").value += 2
    server = OperationsServer(
        host="127.0.0.1",
        port=0,
        health=world,
        metrics=metrics.exposition,
        documents={
            "/cluster/status": lambda: {"leader": "n1"},
            "/cluster/replication": replication,
            "/slow": slow,
            "/broken": broken,
        },
    )
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: OperationsServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client:
        yield client


async def test_health_has_the_guides_shape(client: httpx.AsyncClient, world: World) -> None:
    world.health = Health(
        healthy=True, role="leader", term=5, peers=["node-2:7000", "node-3:7000"], replication_lag_ms=10
    )
    response = await client.get("/health")
    assert response.status_code == 200
    guide = {
        "healthy": True,
        "role": "leader",
        "term": 5,
        "peers": ["node-2:7000", "node-3:7000"],
        "replication_lag_ms": 10,
    }
    assert guide.items() <= response.json().items()
    assert response.json()["durability"] == "checked"


async def test_an_unhealthy_process_says_why(client: httpx.AsyncClient, world: World) -> None:
    reason = "log is not known to be durable"
    world.health = Health(healthy=False, ready=False, role="leader", reasons=[reason])
    response = await client.get("/health")
    assert (response.status_code, response.json()["reasons"]) == (503, [reason])
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False, "reasons": [reason]})
    assert (await client.get("/health/live")).json() == {"live": True}


async def test_prometheus_reads_the_metrics(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'orbit_transactions_total{status="committed"} 2.0' in response.text


async def test_documents_are_shown(client: httpx.AsyncClient) -> None:
    assert (await client.get("/cluster/status?pretty=1")).json() == {"leader": "n1"}
    assert (await client.get("/cluster/replication")).json() == {"members": []}


async def test_unknown_paths_and_methods_are_refused_properly(client: httpx.AsyncClient) -> None:
    response = await client.get("/tiers")
    assert response.status_code == 404
    assert "/cluster/status" in response.json()["paths"]
    response = await client.post("/health", content=b"x" * 100_000)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD"
    assert (await client.get("/health")).status_code == 200


async def test_head_answers_without_a_body(client: httpx.AsyncClient) -> None:
    response = await client.head("/metrics")
    assert response.status_code == 200 and int(response.headers["content-length"]) > 0 and not response.content


async def test_a_document_that_fails_or_hangs_does_not_hurt_the_rest(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "ANSWER_TIMEOUT_S", 0.05)
    response = await client.get("/broken")
    assert response.status_code == 500 and "secret" not in response.text
    assert (await client.get("/slow")).status_code == 503
    assert (await client.get("/health")).status_code == 200


async def test_metrics_disabled_are_not_found() -> None:
    server = OperationsServer(host="127.0.0.1", port=0, health=World())
    await server.start()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/metrics")).status_code == 404
    await server.stop()


async def test_a_taken_port_is_an_error_at_start(server: OperationsServer) -> None:
    second = OperationsServer(host="127.0.0.1", port=server.port, health=World())
    with pytest.raises(OSError, match="address already in use"):
        await second.start()


async def exchange(server: OperationsServer, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),  # TLS to a plain port
        (b"GET /health\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 70_000, b"431"),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", b"4"),
    ],
)
async def test_what_is_not_http_is_refused_and_serving_goes_on(
    server: OperationsServer, client: httpx.AsyncClient, sent: bytes, status: bytes
) -> None:
    answer = await exchange(server, sent)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert (await client.get("/health")).status_code == 200


async def test_two_requests_in_one_packet_get_two_answers(server: OperationsServer) -> None:
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await exchange(server, request * 2)
    assert answer.count(b'{"live":true}') == 2


async def test_too_many_connections_are_closed_at_once(
    server: OperationsServer, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "MAX_CONNECTIONS", 1)
    assert (await client.get("/health")).status_code == 200  # and is kept open
    assert await exchange(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert (await client.get("/health")).status_code == 200
