"""Statements and transactions over REST: forms, streaming, atomicity, limits of time and size."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import httpx
import psycopg
import pytest

from services.gateway.protocols.rest.limits import RestLimits
from services.gateway.protocols.rest.listener import RestListener
from tests.fixtures.fix_pg_backend import PgBackend
from tests.integration.rest_gateway.test_tables_and_rows import code_of

pytestmark = pytest.mark.integration


async def sql(
    client: httpx.AsyncClient, text: str, params: list[object] | None = None, **more: object
) -> httpx.Response:
    return await client.post("/sql", json={"sql": text, "params": params or [], **more})


async def test_a_statement_with_parameters(client: httpx.AsyncClient, airlines: None) -> None:
    answer = await sql(client, "SELECT carrier, fleet, active FROM airlines WHERE fleet > $1 ORDER BY 1", [100])
    assert answer.json() == {
        "columns": [
            {"name": "carrier", "type": "character varying(2)"},
            {"name": "fleet", "type": "integer"},
            {"name": "active", "type": "boolean"},
        ],
        "rows": [["AA", 900, True], ["B6", 200, True]],
        "tag": "SELECT 2",
        "row_count": 2,
    }
    changed = (await sql(client, "UPDATE airlines SET fleet = fleet + 1 WHERE fleet IS NOT NULL")).json()
    assert changed == {"columns": [], "rows": [], "tag": "UPDATE 2", "row_count": 2}
    assert (await sql(client, "SELECT $1::jsonb AS j", [{"a": [1]}])).json()["rows"] == [[{"a": [1]}]]
    assert (await sql(client, "SELECT $1::numeric AS n", [1.10])).json()["rows"] == [["1.1"]]


async def test_other_forms(client: httpx.AsyncClient, airlines: None) -> None:
    query = "SELECT carrier, name, fleet FROM airlines ORDER BY 1"
    lines = await sql(client, query, format="ndjson")
    assert lines.headers["content-type"] == "application/x-ndjson"
    assert json.loads(lines.text.splitlines()[0]) == {
        "carrier": "AA",
        "name": "American",
        "fleet": 900,
    }
    assert lines.text.endswith("}\n")
    csv = await sql(client, query, format="csv")
    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert csv.text == 'carrier,name,fleet\r\nAA,American,900\r\nB6,JetBlue,200\r\nZZ,"Zed\'s ""Air""",\r\n'
    assert code_of(await sql(client, query, format="arrow")) == (501, "0A000")
    assert code_of(await sql(client, query, format="xml")) == (400, "22023")
    assert (await sql(client, "SELECT 1 WHERE false", format="ndjson")).text == ""


ERRORS: list[tuple[str, list[object], tuple[int, str]]] = [
    ("SELEC 1", [], (400, "42601")),
    ("SELECT 1/0", [], (400, "22012")),
    ("SELECT * FROM nope", [], (404, "42P01")),
    ("SELECT 1; SELECT 2", [], (400, "42601")),
    ("SELECT $1::int", [], (400, "08P01")),
    ("SELECT $1::int", ["x"], (400, "22P02")),
    ("SELECT $1::int", [[1]], (501, "0A000")),
    ("BEGIN", [], (501, "0A000")),
    ("COPY airlines TO STDOUT", [], (501, "0A000")),
    ("INSERT INTO airlines VALUES ('AA', 'again')", [], (409, "23505")),
    ("INSERT INTO airlines VALUES ('QQ', 'q', 99999999999)", [], (400, "22003")),
]


async def test_errors_have_their_sqlstate(client: httpx.AsyncClient, airlines: None) -> None:
    for text, params, expected in ERRORS:
        assert code_of(await sql(client, text, params)) == expected, text
    assert (await sql(client, "SELECT count(*) FROM airlines")).json()["rows"] == [[3]]


async def test_nothing_of_a_request_reaches_the_next(client: httpx.AsyncClient, backend: PgBackend) -> None:
    await sql(client, "SELECT 1")
    opened = backend.opened
    await sql(client, "SELECT 2")
    assert backend.opened == opened, "a clean session is used again"
    for change in ("SET statement_timeout = 77", "SELECT set_config('statement_timeout', '77', false)"):
        assert (await sql(client, change)).status_code == 200
        assert (await sql(client, "SHOW statement_timeout")).json()["rows"] == [["0"]]
    await sql(client, "BEGIN")
    assert (await sql(client, "SELECT 1")).status_code == 200


async def test_transactions(client: httpx.AsyncClient, airlines: None) -> None:
    statements = [
        {"sql": "UPDATE airlines SET fleet = fleet - $1 WHERE carrier = $2", "params": [10, "AA"]},
        {"sql": "SELECT fleet FROM airlines WHERE carrier = 'AA'"},
    ]
    done = await client.post("/transactions", json={"statements": statements, "isolation": "repeatable read"})
    assert [result["tag"] for result in done.json()["results"]] == ["UPDATE 1", "SELECT 1"]
    assert done.json()["results"][1]["rows"] == [[890]]
    failing = await client.post("/transactions", json={"statements": [*statements, {"sql": "SELECT 1/0"}]})
    assert code_of(failing) == (400, "22012")
    assert failing.json()["error"]["detail"] == "statement 3 of 3"
    assert (await client.get("/tables/airlines/rows/AA")).json()["fleet"] == 890
    for control in ("COMMIT", "ROLLBACK"):
        broken = await client.post("/transactions", json={"statements": [{"sql": control}]})
        assert code_of(broken) == (501, "0A000")
    bad = await client.post("/transactions", json={"statements": statements, "isolation": "none; DROP TABLE airlines"})
    assert code_of(bad) == (400, "22023")
    assert code_of(await client.post("/transactions", json={"statements": []})) == (400, "22023")


async def test_a_conflict_is_told_as_one(
    client: httpx.AsyncClient, airlines: None, backend: PgBackend, postgres_dsn: str
) -> None:
    if backend.blocking:
        return  # two transactions at once need call-backs
    wait = "SELECT pg_advisory_lock(1) IS NULL, pg_advisory_unlock(1)"
    update = "UPDATE airlines SET fleet = 1 WHERE carrier = 'AA'"
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as other:
        await other.execute("SELECT pg_advisory_lock(1)")
        statements = [{"sql": "SELECT count(*) FROM airlines"}, {"sql": wait}, {"sql": update}]
        body = {"statements": statements, "isolation": "repeatable read"}
        request = asyncio.create_task(client.post("/transactions", json=body))
        async with asyncio.timeout(10):
            while (  # noqa: ASYNC110 - only the database knows that the request waits
                await (await other.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")).fetchone() == (0,)
            ):
                await asyncio.sleep(0.01)
        await other.execute("UPDATE public.airlines SET fleet = 2 WHERE carrier = 'AA'")
        await other.execute("SELECT pg_advisory_unlock(1)")
        assert code_of(await request) == (409, "40001")


async def test_a_large_answer_streams(client: httpx.AsyncClient, backend: PgBackend, listener: RestListener) -> None:
    backend.part_bytes = 0 if backend.blocking else 50_000
    query = "SELECT n, repeat('x', 100) AS pad FROM generate_series(1, 50000) n"
    answer = (await sql(client, query)).json()
    assert answer["row_count"] == 50_000 == len(answer["rows"])
    assert answer["rows"][49_999] == [50_000, "x" * 100]
    lines = (await sql(client, query, format="ndjson")).text.splitlines()
    assert len(lines) == 50_000 and json.loads(lines[-1])["n"] == 50_000
    assert listener.pool.sessions == 1


class TestWithCallBacks:
    """What needs a session that does not answer at once."""

    @pytest.fixture
    def limits(self) -> RestLimits:
        return RestLimits(request_timeout_s=0.5, stall_timeout_s=1.0, max_body_bytes=10_000, body_timeout_s=0.5)

    @pytest.fixture
    def backend(self, pg_backend: PgBackend, empty_public: None) -> PgBackend:
        pg_backend.part_bytes = 50_000
        return pg_backend

    async def test_an_error_in_the_middle_cuts_the_connection(
        self, client: httpx.AsyncClient, listener: RestListener
    ) -> None:
        query = "SELECT 1 / (40000 - n) AS v, repeat('x', 50) FROM generate_series(1, 50000) n"
        with pytest.raises(httpx.RemoteProtocolError):
            await sql(client, query)
        assert (await sql(client, "SELECT 1")).status_code == 200
        assert listener.pool.sessions == 1

    async def test_copy_from_the_client_is_refused(self, client: httpx.AsyncClient, airlines: None) -> None:
        assert code_of(await sql(client, "COPY airlines FROM STDIN")) == (501, "0A000")
        assert (await sql(client, "SELECT count(*) FROM airlines")).json()["rows"] == [[3]]

    async def test_a_slow_statement_is_cancelled(self, client: httpx.AsyncClient, postgres_dsn: str) -> None:
        assert code_of(await sql(client, "SELECT pg_sleep(30)")) == (504, "57014")
        slow = await client.post("/transactions", json={"statements": [{"sql": "SELECT pg_sleep(30)"}]})
        assert code_of(slow) == (504, "57014")
        async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as other:
            running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
            async with asyncio.timeout(10):
                while await (await other.execute(running)).fetchone() != (0,):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    async def test_a_client_that_stops_reading_holds_the_session_and_is_cut(
        self, listener: RestListener, backend: PgBackend
    ) -> None:
        body = json.dumps({"sql": "SELECT repeat('x', 1000) FROM generate_series(1, 100000)", "format": "csv"})
        head = (
            f"POST /sql HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Authorization: Basic b3JiaXQ6Y29ycmVjdCBob3JzZQ==\r\n\r\n"
        )
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.connect(("127.0.0.1", listener.port))
            client.sendall((head + body).encode())
            held = False
            async with asyncio.timeout(15):
                while not held or listener.pool.sessions:
                    held = held or any(session.held for session in backend.sessions)
                    await asyncio.sleep(0.01)
            assert held

    async def test_a_client_that_leaves_ends_its_statement(
        self, client: httpx.AsyncClient, listener: RestListener
    ) -> None:
        query = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)"
        async with client.stream("POST", "/sql", json={"sql": query}) as answer:
            async for _ in answer.aiter_bytes():
                break
        async with asyncio.timeout(10):
            while listener.pool.sessions:  # noqa: ASYNC110 - nobody is told of a closed session
                await asyncio.sleep(0.01)

    async def test_a_body_has_limits(self, client: httpx.AsyncClient, listener: RestListener) -> None:
        assert code_of(await sql(client, "SELECT '" + "x" * 10_000 + "'")) == (413, "54000")

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(15):
                yield b" " * 1000

        assert code_of(await client.post("/sql", content=chunks())) == (413, "54000")
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"POST /sql HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nslow")
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()
        await writer.wait_closed()
