"""COPY FROM STDIN through the door: the conversation, backpressure, failures, and that nothing is stored by halves."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime
from decimal import Decimal

import psycopg
import pytest

from orbit.kernel.limits import COPY_PIECE_BYTES
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.listener import PostgresListener
from tests.integration.postgres_gateway.client import SYNC, RawClient, bind, error_of, execute, kinds, parse
from tests.integration.postgres_gateway.conftest import in_thread
from tests.integration.postgres_gateway.scripted import ScriptedBackend
from tests.integration.postgres_gateway.test_start_up import dsn

ROW = b"1\ta\t1.50\t2001-02-03 04:05:06\n"
DONE = wire.message(b"c", b"")


def data(content: bytes) -> bytes:
    return wire.message(b"d", content)


def fail(reason: str) -> bytes:
    return wire.message(b"f", reason.encode() + b"\0")


async def begin_copy(client: RawClient, words: str = "") -> None:
    client.send(wire.message(b"Q", f"copy t {words}\0".encode()))
    assert await client.read() == ("G", b"\0\0\4" + b"\0\0" * 4)


async def test_rows_arrive_typed(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(data(ROW[:5]) + data(ROW[5:] + b"\\N\t\\N\t\\N\t\\N\n") + DONE)
    messages = await client.until("Z")
    assert kinds(messages) == "CZ" and messages[0][1] == b"COPY 2\0"
    moment = datetime(2001, 2, 3, 4, 5, 6)  # noqa: DTZ001
    assert backend.copied == [
        {"a": 1, "b": "a", "c": Decimal("1.50"), "d": moment},
        {"a": None, "b": None, "c": None, "d": None},
    ]
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_csv_with_header_and_quoted_newlines_in_many_blocks(
    client: RawClient, door: PostgresListener, backend: ScriptedBackend
) -> None:
    chance = random.Random(1)
    expected = []
    lines = ["a,b,c,d\n"]
    for number in range(20_000):
        word = chance.choice(["plain", 'with "quotes"', "two\nlines", "a,b", ""])
        expected.append((number, word))
        lines.append(f'{number},"{word.replace(chr(34), chr(34) * 2)}",{number % 100}.25,\n')
    await begin_copy(client, "csv header")
    content = "".join(lines).encode()
    at = 0
    while at < len(content):
        size = chance.choice([1, 100, 7000, 150_000])
        client.send(data(content[at : at + size]))
        at += size
    client.send(DONE)
    messages = await client.until("Z")
    assert kinds(messages) == "CZ", error_of(messages)
    assert [(row["a"], row["b"]) for row in backend.copied] == expected


async def test_an_error_names_line_and_column_across_blocks(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    good = 10_000
    client.send(data(ROW * good) + data(b"oops\ta\t1\t2001-02-03 04:05:06\n") + data(ROW * 100) + DONE)
    messages = await client.until("Z")
    error = error_of(messages)
    assert (error["C"], error["M"]) == ("22P02", 'invalid input syntax for type integer: "oops"')
    assert error["W"] == f'COPY t, line {good + 1}, column a: "oops"'
    assert backend.copied == []
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_data_behind_the_error_is_dropped(client: RawClient) -> None:
    """The error goes out while the client is still sending; what follows must not be taken for messages."""
    await begin_copy(client)
    client.send(data(b"oops\n" + ROW * 5000) + data(ROW * 5000))
    assert error_of(await client.until("Z"))["C"] == "22P02"
    client.send(data(ROW) + DONE + fail("too late"))
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_client_gives_up(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(data(ROW) + fail("changed my mind"))
    error = error_of(await client.until("Z"))
    assert (error["C"], error["M"]) == ("57014", "COPY from stdin failed: changed my mind")
    assert backend.copied == []


async def test_storage_refuses_a_row(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(data(ROW * 3 + ROW.replace(b"a", b"refuse")) + DONE)
    assert error_of(await client.until("Z"))["C"] == "23505"
    assert backend.copied == []
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_messages_that_do_not_belong(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(data(ROW) + wire.message(b"Q", b"select rows 1\0"))
    error = error_of(await client.until("Z"))
    assert (error["C"], error["M"]) == ("08P01", "unexpected message type 0x51 during COPY from stdin")
    assert backend.copied == []


async def test_extended_protocol(client: RawClient, backend: ScriptedBackend) -> None:
    client.send(parse("", "copy t") + bind() + execute() + SYNC)
    assert kinds(await client.until("G")) == "12G"
    client.send(data(ROW) + DONE + SYNC)
    assert kinds(await client.until("Z")) == "CZ"
    client.send(parse("", "copy t") + bind() + execute() + SYNC)
    await client.until("G")
    client.send(data(b"oops\n") + DONE + SYNC)
    assert kinds(await client.until("Z")) == "EZ"
    assert len(backend.copied) == 1
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_binary_is_refused_by_name(client: RawClient) -> None:
    messages = await client.query("copy t binary")
    error = error_of(messages)
    assert (error["C"], error["M"]) == ("0A000", "COPY FROM STDIN in binary format is not supported")


async def test_a_line_without_end(client: RawClient) -> None:
    await begin_copy(client)
    for _ in range(8):
        client.send(data(b"x" * 100_000))
    assert error_of(await client.until("Z"))["C"] == "54000"
    assert kinds(await client.query("select rows 1")) == "TDCZ"


async def test_end_of_data_marker(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(data(ROW + b"\\.\n" + b"garbage\n" * 50_000) + DONE)
    assert kinds(await client.until("Z")) == "CZ"
    assert len(backend.copied) == 1


async def test_an_empty_copy(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(DONE)
    assert (await client.until("Z"))[0] == ("C", b"COPY 0\0")


async def test_the_session_ends_in_the_middle(client: RawClient, backend: ScriptedBackend) -> None:
    await begin_copy(client)
    client.send(data(ROW * 100_000))
    await client.drain()
    await client.close()
    await asyncio.wait_for(backend.sessions[0].closed.wait(), 5)
    assert backend.copied == []


async def test_psycopg_copies(door: PostgresListener, backend: ScriptedBackend) -> None:
    rows = [(n, f"w\t{n}\\" if n % 7 else None, Decimal(n) / 4, datetime(2001, 1, 1)) for n in range(3000)]  # noqa: DTZ001

    def work() -> None:
        with psycopg.connect(dsn(door), autocommit=True) as connection:
            with connection.cursor().copy("copy t from stdin") as sink:
                for row in rows:
                    sink.write_row(row)
            with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="line 2, column a"):
                with connection.cursor().copy("copy t from stdin") as sink:
                    sink.write(ROW + b"x\n")

    await in_thread(work)
    assert [tuple(row.values()) for row in backend.copied] == rows


async def test_pieces_stay_below_their_limit(client: RawClient, backend: ScriptedBackend) -> None:
    chance = random.Random(3)
    sizes: list[int] = []
    session = backend.sessions[0]
    take = session.copy_batch

    def watched(encoded: bytes) -> bytes | None:
        sizes.append(len(encoded))
        return take(encoded)

    session.copy_batch = watched  # type: ignore[method-assign]
    await begin_copy(client)
    for _ in range(60):
        client.send(data(b"1\t" + chance.randbytes(50_000).hex().encode() + b"\t1\t2001-02-03 04:05:06\n"))
    client.send(DONE)
    assert kinds(await client.until("Z")) == "CZ"
    assert len(backend.copied) == 60 and max(sizes) <= COPY_PIECE_BYTES
