"""Getting in, and being kept out."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from struct import pack

import psycopg
import pytest

from orbit.kernel.errors import LogUnavailable
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.limits import PostgresLimits
from services.gateway.protocols.postgres.listener import PostgresListener
from tests.integration.postgres_gateway.client import RawClient, error_of, kinds
from tests.integration.postgres_gateway.conftest import Connect, in_thread
from tests.integration.postgres_gateway.scripted import DATABASE, PASSWORD, USER, ScriptedBackend


def dsn(door: PostgresListener, **changes: str) -> str:
    words = {"host": "127.0.0.1", "port": str(door.port), "user": USER, "password": f"'{PASSWORD}'", "dbname": DATABASE}
    return " ".join(f"{name}={value}" for name, value in {**words, **changes}.items())


async def test_psycopg_logs_in(door: PostgresListener, backend: ScriptedBackend) -> None:
    def work() -> tuple[int, str, str]:
        with psycopg.connect(dsn(door, application_name="tests", options="'-c search_path=a\\\\ b'")) as connection:
            info = connection.info
            row = connection.execute("select value %s", ("hello",)).fetchone()
            assert row is not None
            return info.server_version, info.parameter_status("orbit_version") or "", row[0]

    assert await in_thread(work) == (150018, "0.1.0", "hello")
    (session,) = backend.sessions
    assert (session.user, session.settings["application_name"], session.settings["search_path"]) == (
        USER,
        "tests",
        "a b",
    )
    assert session.closed.is_set()


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"password": "wrong"}, "28P01"),
        ({"user": "nobody"}, "28P01"),
        ({"user": "nopassword"}, "28P01"),
        ({"user": "guest"}, "28000"),
        ({"dbname": "elsewhere"}, "3D000"),
        ({"options": "'-c search_path=refuse'"}, "22023"),
        ({"options": "'nonsense'"}, "42601"),
        ({"client_encoding": "latin1"}, "22023"),
        ({"replication": "database"}, "0A000"),
    ],
)
async def test_refusals(
    connect: Connect, door: PostgresListener, backend: ScriptedBackend, changes: dict[str, str], state: str
) -> None:
    raw = await connect(door.port)
    names = {"dbname": "database"}
    parameters = {names.get(k, k): v.strip("'") for k, v in changes.items() if k != "password"}
    messages = await raw.log_in(changes.get("password", PASSWORD), **parameters)
    error = error_of(messages)
    assert (error["S"], error["C"]) == ("FATAL", state)
    assert await raw.closed() == []
    assert backend.sessions == []

    def work() -> None:
        with pytest.raises(psycopg.OperationalError, match="FATAL"):
            psycopg.connect(dsn(door, **changes))

    await in_thread(work)


async def test_nothing_runs_after_a_failed_login(connect: Connect, backend: ScriptedBackend) -> None:
    raw = await connect()
    raw.start()
    await raw.read()
    query = wire.message(b"Q", b"select value\0")
    first = b"n,,n=,r=abcdefghijkl"
    raw.send(wire.message(b"p", b"SCRAM-SHA-256\0" + pack(">I", len(first)) + first) + query * 3)
    messages = await raw.closed()
    assert kinds(messages) == "RE" and error_of(messages)["C"] == "08P01"
    assert backend.sessions == []


async def test_a_stranger_learns_nothing_from_the_salt(connect: Connect, door: PostgresListener) -> None:
    salts = []
    for user in ("nobody", "nobody", USER):
        raw = await connect(door.port)
        raw.start(user=user)
        await raw.read()
        first = b"n,,n=,r=abcdefghijkl"
        raw.send(wire.message(b"p", b"SCRAM-SHA-256\0" + pack(">I", len(first)) + first))
        _, body = await raw.read()
        salts.append(body[4:].split(b",")[1])
        assert body.endswith(b",i=4096")
    assert salts[0] == salts[1] != salts[2] and len(salts[0]) == len(salts[2])


async def test_backend_down(connect: Connect, door: PostgresListener, backend: ScriptedBackend) -> None:
    backend.unavailable = LogUnavailable("the log does not answer")
    raw = await connect(door.port)
    error = error_of(await raw.log_in())
    assert (error["C"], error["M"]) == ("57P03", "the log does not answer")


async def test_tls(connect: Connect, backend: ScriptedBackend, server_tls: ssl.SSLContext, certificate: Path) -> None:
    door = PostgresListener(
        backend, host="127.0.0.1", port=0, database=DATABASE, tls=server_tls, require_tls=True, version="0.1.0"
    )
    await door.start()
    try:

        def work() -> str:
            verified = {"sslmode": "verify-full", "sslrootcert": str(certificate)}
            with psycopg.connect(dsn(door, **verified)) as connection:
                assert connection.pgconn.ssl_in_use
                (value,) = connection.execute("select value %s", ("x" * 100_000,)).fetchone() or ("",)
                return str(value)

        assert await in_thread(work) == "x" * 100_000

        def plain() -> None:
            with pytest.raises(psycopg.OperationalError, match="requires encryption"):
                psycopg.connect(dsn(door, sslmode="disable"))

        await in_thread(plain)
        raw = await connect(door.port)
        raw.send(pack(">II", 8, wire.SSL_REQUEST) + pack(">II", 8, wire.SSL_REQUEST))
        error = error_of(await raw.closed())
        assert error["M"] == "received unencrypted data after SSL request"
    finally:
        await door.stop()


async def test_encryption_is_declined_without_a_certificate(connect: Connect, door: PostgresListener) -> None:
    raw = await connect(door.port)
    raw.send(pack(">II", 8, wire.GSS_REQUEST))
    assert await raw.reader.readexactly(1) == b"N"
    raw.send(pack(">II", 8, wire.SSL_REQUEST))
    assert await raw.reader.readexactly(1) == b"N"
    assert kinds(await raw.log_in())[-2:] == "KZ"


@pytest.mark.parametrize(
    ("version", "options", "newest", "key_bytes"),
    [
        (wire.PROTOCOL_3_2, {}, None, 32),
        (wire.PROTOCOL_3_0 + 9999, {"_pq_.test": "1"}, wire.PROTOCOL_3_2, 32),
        (wire.PROTOCOL_3_0 + 1, {}, wire.PROTOCOL_3_0, 4),
        (wire.PROTOCOL_3_0, {"_pq_.test": "1"}, wire.PROTOCOL_3_0, 4),
    ],
)
async def test_version_negotiation(
    connect: Connect, door: PostgresListener, version: int, options: dict[str, str], newest: int | None, key_bytes: int
) -> None:
    raw = await connect(door.port)
    raw.start(version, **options)
    if newest is not None:
        kind, body = await raw.read()
        names = b"".join(name.encode() + b"\0" for name in options)
        assert (kind, body) == ("v", pack(">II", newest, len(options)) + names)
    await raw.prove(PASSWORD)
    assert len(raw.key) == 4 + key_bytes


async def test_protocol_2_is_refused(connect: Connect, door: PostgresListener) -> None:
    raw = await connect(door.port)
    raw.start(2 << 16)
    assert error_of(await raw.closed())["C"] == "0A000"


async def test_what_drivers_need_to_know(client: RawClient) -> None:
    told = client.parameters
    assert told["server_version"] == "15.18" and told["server_encoding"] == told["client_encoding"] == "UTF8"
    assert told["standard_conforming_strings"] == told["integer_datetimes"] == "on"
    assert told["DateStyle"] == "ISO, MDY" and told["TimeZone"] == "UTC" and told["session_authorization"] == USER


async def test_too_many_clients(connect: Connect, backend: ScriptedBackend) -> None:
    limits = PostgresLimits(max_connections=1, max_unanswered_connections=1)
    door = PostgresListener(backend, host="127.0.0.1", port=0, database=DATABASE, limits=limits)
    await door.start()
    try:
        inside = await connect(door.port)
        await inside.log_in()
        late = await connect(door.port)
        later = await connect(door.port)
        assert await later.closed() == []  # not even told
        assert error_of(await late.log_in())["C"] == "53300"
        await inside.close()
        await asyncio.wait_for(backend.sessions[0].closed.wait(), 5)
        assert kinds(await (await connect(door.port)).log_in())[-1] == "Z"
    finally:
        await door.stop()


async def test_slow_strangers_are_shown_out(connect: Connect, backend: ScriptedBackend) -> None:
    limits = PostgresLimits(authentication_timeout_s=0.05)
    door = PostgresListener(backend, host="127.0.0.1", port=0, database=DATABASE, limits=limits)
    await door.start()
    try:
        raw = await connect(door.port)
        raw.start()
        assert error_of(await raw.closed())["M"] == "canceling authentication due to timeout"
    finally:
        await door.stop()


async def test_stopping_tells_the_clients(connect: Connect, backend: ScriptedBackend) -> None:
    door = PostgresListener(backend, host="127.0.0.1", port=0, database=DATABASE)
    await door.start()
    raw = await connect(door.port)
    await raw.log_in()
    await door.stop()
    assert error_of(await raw.closed())["C"] == "57P01"
    assert backend.sessions[0].closed.is_set()
