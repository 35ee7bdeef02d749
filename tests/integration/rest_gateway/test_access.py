"""Who may do what over REST, and what anyone may send without harm."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from orbit.kernel.errors import LogUnavailable
from services.gateway.protocols.rest.listener import RestListener
from services.gateway.protocols.rest.tokens import TokenSigner
from tests.fixtures.fix_pg_backend import PASSWORD, PgBackend
from tests.integration.rest_gateway.conftest import SECRET, TurnedClock
from tests.integration.rest_gateway.test_tables_and_rows import code_of

pytestmark = pytest.mark.integration


@pytest.fixture
def backend(pg_backend: PgBackend, empty_public: None) -> PgBackend:
    """Call-backs only: access does not depend on how a session answers."""
    return pg_backend


async def test_health_and_openapi_are_open_and_nothing_else(anonymous: httpx.AsyncClient, backend: PgBackend) -> None:
    assert (await anonymous.get("/health")).json() == {"healthy": True, "role": "gateway"}
    described = (await anonymous.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        for method in methods:
            if path == "/health":
                continue
            url = path.replace("{name}", "redis.keys").replace("{key}", "x")
            response = await anonymous.request(method, url)
            assert code_of(response) == (401, "28000"), (method, path)
            assert "Basic" in response.headers["www-authenticate"]
    assert backend.opened == 0


async def test_passwords_and_tokens(anonymous: httpx.AsyncClient, clock: TurnedClock) -> None:
    assert code_of(await anonymous.get("/tables", auth=("orbit", "wrong"))) == (401, "28P01")
    assert code_of(await anonymous.get("/tables", auth=("nobody", PASSWORD))) == (401, "28P01")
    assert code_of(await anonymous.post("/auth/token", auth=("orbit", "wrong"))) == (401, "28P01")
    made = (await anonymous.post("/auth/token", auth=("orbit", PASSWORD))).json()
    assert made["token_type"] == "bearer" and made["expires_in"] == 3600
    headers = {"authorization": f"Bearer {made['access_token']}"}
    assert (await anonymous.get("/tables", headers=headers)).status_code == 200
    assert code_of(await anonymous.post("/auth/token", headers=headers)) == (401, "28000")
    clock.ahead_s = 3601
    assert code_of(await anonymous.get("/tables", headers=headers)) == (401, "28000")


async def test_forged_tokens(anonymous: httpx.AsyncClient, clock: TurnedClock, backend: PgBackend) -> None:
    token = (await anonymous.post("/auth/token", auth=("orbit", PASSWORD))).json()["access_token"]
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))

    def encoded(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    other_secret = TokenSigner(b"x" * 32, clock, 3600).make("orbit", backend.verifiers["orbit"])
    forged = [
        f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{payload}.",
        f"{header}.{encoded({**claims, 'sub': 'postgres'})}.{signature}",
        f"{header}.{payload}.{signature[:-2]}AA",
        f"{header}.{payload}",
        other_secret,
        "x" * 10_000,
        "a.b.c",
        "é",
    ]
    for bad in forged:
        headers = {b"authorization": f"Bearer {bad}".encode()}
        assert code_of(await anonymous.get("/tables", headers=headers)) == (401, "28000"), bad


async def test_a_changed_password_ends_its_tokens(
    anonymous: httpx.AsyncClient, backend: PgBackend, clock: TurnedClock
) -> None:
    token = TokenSigner(SECRET, clock, 3600).make("orbit", backend.verifiers["orbit"])
    headers = {"authorization": f"Bearer {token}"}
    assert (await anonymous.get("/tables", headers=headers)).status_code == 200
    backend.verifiers["orbit"] = backend.verifiers["reader"]
    clock.ahead_s = 31  # past the memory of roles
    assert code_of(await anonymous.get("/tables", headers=headers)) == (401, "28000")


async def test_rights_hold(client: httpx.AsyncClient, airlines: None) -> None:
    reader = ("reader", PASSWORD)
    assert code_of(await client.get("/tables/airlines/rows", auth=reader)) == (403, "42501")
    assert code_of(await client.post("/sql", json={"sql": "SELECT * FROM redis.keys"}, auth=reader)) == (403, "42501")
    assert code_of(await client.delete("/tables/airlines", auth=reader)) == (403, "42501")
    await client.post("/sql", json={"sql": "GRANT SELECT ON airlines TO reader"})
    assert (await client.get("/tables/airlines/rows", auth=reader)).status_code == 200
    assert (await client.get("/tables/airlines/rows/AA", auth=reader)).json()["name"] == "American"
    assert code_of(await client.patch("/tables/airlines/rows/AA", json={"fleet": 1}, auth=reader)) == (403, "42501")


async def test_unavailable_storage_is_503(client: httpx.AsyncClient, backend: PgBackend) -> None:
    assert (await client.get("/tables")).status_code == 200
    backend.failures = [LogUnavailable("the shard has no leader")]
    failing = await client.get("/tables", auth=("reader", PASSWORD))
    assert code_of(failing) == (503, "57P03")
    assert failing.json()["error"]["message"] == "the shard has no leader"


BAD_BODIES = [
    (b"", (400, "22023")),
    (b"{", (400, "22032")),
    (b"nope", (400, "22032")),
    (b'{"sql": 1}', (400, "22023")),
    (b'{"sql": "SELECT 1", "more": 1}', (400, "22023")),
    (b'{"sql": "SELECT 1", "params": {}}', (400, "22023")),
    (b"[" * 100_000, (413, "54001")),
    (b'{"sql": "SELECT 1", "params": [' + b"[" * 70 + b"]" * 70 + b"]}", (413, "54001")),
    (b'{"sql": "SELECT $1::text", "params": ["\\ud800"]}', (400, "22032")),
    (b"\xff\xfe", (400, "22032")),
]


async def test_bad_bodies(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    for content, expected in BAD_BODIES:
        assert code_of(await client.post("/sql", content=content, headers=headers)) == expected, content[:50]


async def test_unknown_paths_and_methods(client: httpx.AsyncClient) -> None:
    assert code_of(await client.get("/nope")) == (404, "42704")
    assert code_of(await client.put("/sql")) == (405, "0A000")
    assert code_of(await client.get("/tables/%00/rows")) == (400, "42602")
    assert code_of(await client.get("/tables/" + "x" * 100 + "/rows")) == (400, "42622")


async def test_random_requests_get_typed_answers(client: httpx.AsyncClient, airlines: None) -> None:
    rng = random.Random(5)
    pieces = [
        "airlines",
        '"',
        "'",
        ";",
        "--",
        "%00",
        "eq.",
        "in.(",
        ")",
        ",",
        ".",
        "is.",
        "\\",
        "é",
        "$1",
        "/",
        "{",
        "select",
        "*",
    ]
    for _ in range(150):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 6)))
        kind = rng.randrange(4)
        if kind == 0:
            response = await client.get("/tables/airlines/rows", params={text: "eq.1"})
        elif kind == 1:
            response = await client.get("/tables/airlines/rows", params={"carrier": text, "order": text})
        elif kind == 2:
            response = await client.get(f"/tables/airlines/rows/{text}".replace("#", ""))
        else:
            response = await client.post("/sql", json={"sql": text})
        if response.status_code != 200:
            status, _ = code_of(response)
            assert 400 <= status < 500 or status == 501, (text, response.text)


async def test_broken_http_never_breaks_the_door(listener: RestListener, client: httpx.AsyncClient) -> None:
    rng = random.Random(9)
    pieces = [
        b"GET ",
        b"POST /sql",
        b" HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"\r\n",
        b"\x00",
        b"Content-Length: ",
        b"-1",
        b"99999999999999",
    ]
    pieces += [
        b"Transfer-Encoding: chunked\r\n",
        b"zz\r\n",
        b"Authorization: Basic ",
        b"!!!\r\n",
        b"Bearer \r\n",
        b"x" * 20_000,
    ]
    for _ in range(100):
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"".join(rng.choices(pieces, k=rng.randrange(1, 10))))
        writer.write_eof()
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert b"Traceback" not in answer and not answer.startswith(b"HTTP/1.1 5"), answer[:200]
        writer.close()
    assert (await client.get("/tables")).status_code == 200


async def test_the_schema_describes_what_is_sent(client: httpx.AsyncClient, airlines: None) -> None:
    described = (await client.get("/openapi.json")).json()
    assert set(described["components"]["securitySchemes"]) == {"HTTPBasic", "HTTPBearer"}
    page = described["components"]["schemas"]["Page"]
    answer = (await client.get("/tables/airlines/rows")).json()
    assert set(page["required"]) == set(answer)
    table = described["components"]["schemas"]["Table"]
    assert set(table["required"]) == set((await client.get("/tables/airlines")).json())
    assert described["components"]["schemas"]["SqlStatement"]["properties"]["sql"]["examples"]


def test_importing_the_listener_does_not_import_fastapi() -> None:
    root = Path(__file__).parents[3]
    program = "import sys, services.gateway.protocols.rest.listener; print('fastapi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


async def test_no_secret_is_logged(
    anonymous: httpx.AsyncClient, capsys: pytest.CaptureFixture[str], postgres_dsn: str
) -> None:
    await anonymous.get("/tables", auth=("orbit", "wr0ng-secret"))
    await anonymous.get("/tables", auth=("orbit", PASSWORD))
    output = "".join(capsys.readouterr())
    assert "rest authentication failed" in output
    assert "wr0ng-secret" not in output and PASSWORD not in output
