"""Simple and extended queries, pipelines, portals, errors, cancellation, backpressure."""

from __future__ import annotations

import asyncio
from struct import pack, unpack_from

import psycopg
import pytest
import structlog

from orbit.kernel.errors import OrbitError
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.listener import PostgresListener
from services.storage.client import FAILED, IDLE
from tests.integration.postgres_gateway.client import (
    FLUSH,
    SYNC,
    RawClient,
    bind,
    close,
    describe,
    error_of,
    execute,
    kinds,
    parse,
)
from tests.integration.postgres_gateway.conftest import Connect, in_thread
from tests.integration.postgres_gateway.scripted import ScriptedBackend
from tests.integration.postgres_gateway.test_start_up import dsn


def tag(messages: list[tuple[str, bytes]]) -> list[bytes]:
    return [body[:-1] for kind, body in messages if kind == "C"]


async def test_simple_query(client: RawClient) -> None:
    messages = await client.query("select rows 2; update x")
    assert kinds(messages) == "TDDCCZ" and tag(messages) == [b"SELECT 2", b"UPDATE"]
    assert messages[-1] == ("Z", b"I")
    assert kinds(await client.query("  ")) == "IZ"


async def test_error_has_all_fields_and_the_connection_goes_on(client: RawClient) -> None:
    messages = await client.query("select error")
    assert kinds(messages) == "EZ"
    assert error_of(messages) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "23505",
        "M": "duplicate key value violates unique constraint",
        "D": "Key (id)=(1) already exists.",
        "H": "a hint",
        "P": "3",
        "W": "somewhere",
        "s": "public",
        "t": "t",
        "c": "id",
        "n": "t_pkey",
    }
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_transaction_status(client: RawClient) -> None:
    assert (await client.query("begin"))[-1] == ("Z", b"T")
    assert (await client.query("select error"))[-1] == ("Z", b"E")
    messages = await client.query("select rows 1")
    assert error_of(messages)["C"] == "25P02" and messages[-1] == ("Z", b"E")
    assert (await client.query("rollback"))[-1] == ("Z", b"I")


async def test_pipeline_in_one_packet(client: RawClient, backend: ScriptedBackend) -> None:
    one = bind("", "s", (b"a",)) + describe("P") + execute() + SYNC
    client.send(parse("s", "select value $1") + describe("S", "s") + one + one)
    first, second = await client.until("Z"), await client.until("Z")
    assert kinds(first) == "1tT2TDCZ" and kinds(second) == "2TDCZ"
    assert first[1] == ("t", pack(">hI", 1, 25))
    assert backend.sessions[0].syncs == 0  # Sync behind Execute travels with it


async def test_sync_alone_reaches_the_session(client: RawClient, backend: ScriptedBackend) -> None:
    client.send(parse("", "update x") + bind() + execute() + FLUSH)
    assert kinds([await client.read() for _ in range(3)]) == "12C"
    client.send(SYNC)
    assert await client.read() == ("Z", b"I")
    assert backend.sessions[0].syncs == 1


async def test_error_skips_to_sync(client: RawClient, backend: ScriptedBackend) -> None:
    client.send(parse("", "select error") + bind() + execute() + bind() + execute() + describe("S") + SYNC)
    messages = await client.until("Z")
    assert kinds(messages) == "12EZ"
    assert backend.sessions[0].ran == ["select error"]
    client.send(parse("", "update x") + bind() + execute() + SYNC)
    assert kinds(await client.until("Z")) == "12CZ"


@pytest.mark.parametrize(
    ("request_", "state"),
    [
        (bind("", "missing"), "26000"),
        (execute("missing"), "34000"),
        (describe("P", "missing"), "34000"),
        (describe("S", "missing"), "26000"),
        (parse("", "select syntax error"), "42601"),
        (parse("s", "update x") + parse("s", "update x"), "42P05"),
        (parse("s", "update x") + bind("p", "s") + bind("p", "s"), "42P03"),
        (parse("s", "select value $1") + bind("", "s", ()), "08P01"),
        (parse("s", "select value $1") + bind("", "s", (b"1",), (0, 0)), "08P01"),
        (parse("s", "select value $1") + bind("", "s", (b"1",), (7,)), "22023"),
        (parse("s", "update x") + bind("", "s") + execute() + execute(), "55000"),
        (wire.message(b"B", b"\0\0\0"), "08P01"),
        (wire.message(b"B", b"\0\0\0\0\0\1\0\0\0\x7f\0\0"), "08P01"),
        (wire.message(b"P", b"s\0select"), "08P01"),
        (wire.message(b"E", b"\0"), "08P01"),
        (wire.message(b"D", b"X\0"), "08P01"),
        (wire.message(b"P", b"s\0\xff\xfe\0\0\0"), "22021"),
    ],
)
async def test_refused_messages_fail_the_block(
    client: RawClient, backend: ScriptedBackend, request_: bytes, state: str
) -> None:
    await client.query("begin")
    client.send(request_ + SYNC)
    messages = await client.until("Z")
    assert error_of(messages)["C"] == state
    assert messages[-1] == ("Z", b"E")
    assert backend.sessions[0].status == FAILED
    assert (await client.query("rollback"))[-1] == ("Z", b"I")


async def test_portal_in_parts(client: RawClient, backend: ScriptedBackend) -> None:
    client.send(parse("", "select rows 5") + bind("p") + execute("p", 2) + execute("p", 2) + execute("p", 2) + FLUSH)
    messages = await client.until("C")
    assert kinds(messages) == "12DDsDDsDC"
    assert tag(messages) == [b"SELECT 1"]
    client.send(execute("p", 2) + SYNC)
    assert kinds(await client.until("Z")) == "CZ"
    assert backend.sessions[0].ran == ["select rows 5"]
    client.send(execute("p") + SYNC)  # Sync outside a block has dropped it
    assert error_of(await client.until("Z"))["C"] == "34000"


async def test_portal_in_parts_of_streamed_rows(client: RawClient) -> None:
    await client.query("begin")
    client.send(parse("", "select stream 2") + bind("p") + execute("p", 1500) + SYNC)
    assert kinds(await client.until("Z")) == "12" + "D" * 1500 + "sZ"
    client.send(execute("p", 0) + SYNC)
    messages = await client.until("Z")
    assert kinds(messages) == "D" * 500 + "CZ" and tag(messages) == [b"SELECT 500"]


async def test_binary_results_are_described_as_such(client: RawClient) -> None:
    client.send(parse("", "select rows 1") + bind("", "", (), (1, 0)) + describe("P") + execute() + SYNC)
    messages = await client.until("Z")
    description = next(body for kind, body in messages if kind == "T")
    assert unpack_from(">h", description, 2 + len(b"n\0") + 16) == (1,)
    row = next(body for kind, body in messages if kind == "D")
    assert row == b"\0\2" + pack(">iq", 8, 0) + pack(">i", 2) + b"w0"


async def test_empty_query_and_statements_without_rows(client: RawClient) -> None:
    client.send(parse("", "") + bind() + describe("P") + execute() + SYNC)
    assert kinds(await client.until("Z")) == "12nIZ"
    client.send(parse("s", "update x") + describe("S", "s") + close("S", "s") + close("P", "x") + SYNC)
    assert kinds(await client.until("Z")) == "1tn33Z"


@pytest.mark.parametrize("sql", ['deallocate "S1"', "DEALLOCATE PREPARE all", "discard all;"])
async def test_statements_are_dropped_by_sql(client: RawClient, sql: str) -> None:
    client.send(parse("S1", "update x") + SYNC)
    await client.until("Z")
    assert kinds(await client.query(sql)) == "CZ"
    client.send(bind("", "S1") + SYNC)
    assert error_of(await client.until("Z"))["C"] == "26000"
    assert error_of(await client.query('deallocate "S1"'))["C"] == "26000"


async def test_notices_and_settings_reach_the_client(client: RawClient) -> None:
    await client.query("warn")
    await client.query("set timezone to 'Europe/Berlin'")
    messages = await client.query("select rows 1")
    messages = [*messages, *await client.query("select rows 1")]
    assert ("S", b"TimeZone\0Europe/Berlin\0") in messages or b"TimeZone" in b"".join(b for _, b in messages)


async def test_cancel(connect: Connect, client: RawClient, door: PostgresListener, backend: ScriptedBackend) -> None:
    session = backend.sessions[0]
    client.send(wire.message(b"Q", b"select wait\0"))
    await asyncio.wait_for(session.waiting.wait(), 5)
    for key in (client.key[:4] + b"nope", b"\0" * 8, client.key):
        other = await connect(door.port)
        other.send(pack(">II", 8 + len(key), wire.CANCEL_REQUEST) + key)
        assert await other.closed() == []
    messages = await client.until("Z")
    assert error_of(messages)["C"] == "57014" and session.cancels == 1
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_psycopg_cancels(door: PostgresListener, backend: ScriptedBackend) -> None:
    async with await psycopg.AsyncConnection.connect(dsn(door)) as connection:
        running = asyncio.create_task(connection.execute("select wait"))
        await asyncio.wait_for(backend.sessions[0].waiting.wait(), 5)
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await running


async def test_a_client_that_does_not_read_stops_the_rows(
    door: PostgresListener, backend: ScriptedBackend, client: RawClient
) -> None:
    session = backend.sessions[0]
    parts = 1500
    client.send(wire.message(b"Q", f"select stream {parts}\0".encode()))
    await asyncio.wait_for(session.holding.wait(), 10)
    before = session.streamed_parts
    await asyncio.sleep(0.1)
    assert session.streamed_parts == before < parts
    received: list[bytes] = []
    while not received or not received[-1].endswith(wire.READY[IDLE]):
        received.append(await asyncio.wait_for(client.reader.read(1 << 20), 10))
    assert wire.count_rows(b"".join(received)) == parts * 1000 and session.held[-1] is False


async def test_answers_to_a_pipeline_do_not_pile_up(client: RawClient, backend: ScriptedBackend) -> None:
    """A client that asks much in one packet and reads nothing is not answered beyond what it may leave unread."""
    client.send(parse("s", "select rows 5000") + (bind("", "s") + execute()) * 600 + SYNC)
    session = backend.sessions[0]
    ran = -1
    while len(session.ran) > ran:  # until it stands still
        ran = len(session.ran)
        await asyncio.sleep(0.05)
    assert 0 < ran < 400
    received = 0
    tail = b""
    while not tail.endswith(wire.READY[IDLE]):
        chunk = await asyncio.wait_for(client.reader.read(1 << 20), 10)
        received += len(chunk)
        tail = (tail + chunk)[-6:]
    assert len(session.ran) == 600 and received > 600 * 5000 * 17


async def test_a_long_pipeline_lets_others_have_their_turn(client: RawClient, connect: Connect) -> None:
    other = await connect()
    await other.log_in()
    client.send(parse("s", "update x") + (bind("", "s") + execute()) * 5000 + SYNC)
    await client.drain()
    assert kinds(await other.query("select rows 1")) == "TDCZ"
    assert kinds(await client.until("Z")) == "1" + "2C" * 5000 + "Z"


async def test_a_client_that_goes_away_ends_its_session(client: RawClient, backend: ScriptedBackend) -> None:
    await client.query("begin")
    await client.close()
    await asyncio.wait_for(backend.sessions[0].closed.wait(), 5)


async def test_terminate(client: RawClient, backend: ScriptedBackend) -> None:
    client.send(wire.message(b"X", b""))
    assert await client.closed() == []
    assert backend.sessions[0].closed.is_set()


async def test_large_messages_in_small_packets(client: RawClient) -> None:
    value = b"v" * 3_000_000
    client.send(parse("", "select value $1") + bind("", "", (value,)) + execute() + SYNC)
    messages = await client.until("Z")
    assert kinds(messages) == "12DCZ" and messages[2][1][6:] == value


@pytest.mark.parametrize(
    "broken",
    [b"\0\0\0\0\5", b"Z\0\0\0\4", b"Q\0\0\0\0", b"Q\xff\xff\xff\xff", b"S\0\1\0\0", b"S\0\0\0\5x", b"p\0\0\0\4"],
)
async def test_a_stream_that_cannot_be_followed_ends(client: RawClient, broken: bytes) -> None:
    client.send(broken)
    error = error_of(await client.closed())
    assert (error["S"], error["C"]) == ("FATAL", "08P01")


async def test_psycopg_pipeline_and_server_side_parameters(door: PostgresListener) -> None:
    def work() -> list[str]:
        with psycopg.connect(dsn(door), autocommit=True) as connection, connection.pipeline():
            cursors = [connection.execute("select value %s", (str(n),)) for n in range(50)]
            return [row[0] for cursor in cursors if (row := cursor.fetchone())]

    assert await in_thread(work) == [str(n) for n in range(50)]


@pytest.mark.parametrize("backend", [ScriptedBackend()], ids=["at-once"])
async def test_a_defect_ends_one_connection_and_is_logged(connect: Connect, backend: ScriptedBackend) -> None:
    client = await connect()
    await client.log_in()
    with structlog.testing.capture_logs() as logs:
        client.send(wire.message(b"Q", b"select defect\0"))
        error = error_of(await client.closed())
    assert (error["S"], error["C"]) == ("FATAL", "XX000") and "defect" not in error["M"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["postgres message failed"]
    survivor = await connect()
    await survivor.log_in()
    assert kinds(await survivor.query("select rows 1")) == "TDCZ"


async def test_answers_that_come_after_the_end_are_dropped(client: RawClient, backend: ScriptedBackend) -> None:
    session = backend.sessions[0]
    await client.close()
    await asyncio.wait_for(session.closed.wait(), 5)
    session.owner.replied(b"late")
    session.owner.rows(b"late")
    session.owner.failed(OrbitError("late"))
    session.owner.notice(OrbitError("late", severity="NOTICE"))
    session.owner.parameter_changed("TimeZone", "UTC")
    session.owner.terminated(OrbitError("late"))
