"""Hostile bytes: whatever arrives, the answer is a typed error or a closed connection, and the door stays open.

Seeds are printed by the parametrization; a failing one reproduces.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from struct import pack
from typing import Any

import pytest
import pytest_asyncio
import structlog

from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.listener import PostgresListener
from tests.integration.postgres_gateway.client import (
    FLUSH,
    SYNC,
    RawClient,
    bind,
    close,
    describe,
    execute,
    kinds,
    parse,
)
from tests.integration.postgres_gateway.conftest import Connect
from tests.integration.postgres_gateway.scripted import ScriptedBackend

SEEDS = range(12)
ROUNDS = 40


@pytest_asyncio.fixture(autouse=True)
async def nothing_unexpected() -> AsyncIterator[None]:
    """No exception escapes into the event loop, and nothing is logged that a person must look at."""
    escaped: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: escaped.append(context))
    with structlog.testing.capture_logs() as logs:
        yield
    assert escaped == []
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error", "critical")] == []


def conversation(chance: random.Random) -> list[bytes]:
    """Return messages that make sense one by one, in an order that may not."""
    name = chance.choice(["", "", "s", "t"])
    messages = [
        parse(
            name,
            chance.choice(["select value $1", "select rows 3", "update x", "", "begin", "rollback", "select error"]),
        ),
        bind(chance.choice(["", "p"]), name, tuple([b"1"] * chance.randrange(2)), tuple([1] * chance.randrange(3))),
        describe(chance.choice("SP"), name),
        execute(chance.choice(["", "p"]), chance.choice([0, 0, 1, 2])),
        close(chance.choice("SP"), name),
        wire.message(
            b"Q", chance.choice([b"select rows 2\0", b"copy t\0", b"copy t csv\0", b"begin\0", b"deallocate all\0"])
        ),
        wire.message(b"d", chance.choice([b"1\ta\t1\t2001-01-01 00:00:00\n", b"x", b"\n", b'"'])),
        wire.message(b"c", b""),
        wire.message(b"f", b"why\0"),
        FLUSH,
        SYNC,
    ]
    return [chance.choice(messages) for _ in range(chance.randrange(1, 12))]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, drop, insert or repeat some bytes."""
    changed = bytearray(data)
    for _ in range(chance.choice([0, 0, 1, 1, 2, 5])):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if at < len(changed):
                changed[at] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
            case 1:
                del changed[at : at + chance.randrange(1, 6)]
            case 2:
                changed[at:at] = chance.randbytes(chance.randrange(1, 6))
            case _:
                changed[at:at] = changed[at : at + 20]
    return bytes(changed)


async def send_in_pieces(client: RawClient, data: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(data):
        size = chance.choice([1, 3, 10, 1000])
        client.send(data[at : at + size])
        at += size
        await asyncio.sleep(0)


async def read_to_the_end(client: RawClient) -> str:
    """Return the kinds of all messages; every one must be whole and known. The server must close in time."""
    try:
        client.writer.write_eof()
    except OSError:
        return ""  # the server was faster
    messages = await asyncio.wait_for(client.closed(), 10)
    assert set(kinds(messages)) <= set("RSKZTDCEN123tnsIGv")
    return kinds(messages)


@pytest.mark.parametrize("seed", SEEDS)
async def test_before_login(connect: Connect, backend: ScriptedBackend, seed: int) -> None:
    chance = random.Random(seed)
    start = pack(">II", 0, wire.PROTOCOL_3_0) + b"user\0alice\0database\0orbit\0\0"
    start = pack(">I", len(start)) + start[4:]
    openings = [start, pack(">II", 8, wire.SSL_REQUEST), pack(">IIII", 16, wire.CANCEL_REQUEST, 1, 2)]
    proof = wire.message(b"p", b"SCRAM-SHA-256\0" + pack(">I", 20) + b"n,,n=,r=abcdefghijkl")
    for _ in range(ROUNDS):
        client = await connect()
        data = chance.choice([*openings, start + proof, start + proof + proof, chance.randbytes(30)])
        await send_in_pieces(client, mutated(data, chance), chance)
        await read_to_the_end(client)
    assert backend.sessions == []


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_login(connect: Connect, door: PostgresListener, backend: ScriptedBackend, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS // 4):
        client = await connect()
        await client.log_in()
        for _ in range(8):
            data = b"".join(conversation(chance))
            await send_in_pieces(client, mutated(data, chance), chance)
        await read_to_the_end(client)
    for session in backend.sessions:
        await asyncio.wait_for(session.closed.wait(), 10)
    survivor = await connect()
    await survivor.log_in()
    assert kinds(await survivor.query("select rows 1")) == "TDCZ"


@pytest.mark.parametrize("seed", SEEDS)
async def test_valid_messages_in_any_order_never_break_the_stream(connect: Connect, seed: int) -> None:
    """Without mutation the connection must live: after CopyFail and Sync it answers again."""
    chance = random.Random(seed)
    client = await connect()
    await client.log_in()
    for _ in range(ROUNDS):
        for message in conversation(chance):
            client.send(message)
        # Whatever is open now: end a COPY, end a skip, end a block; then ask something recognisable.
        client.send(wire.message(b"f", b"enough\0") + SYNC)
        client.send(wire.message(b"Q", b"rollback\0") + wire.message(b"Q", b"select rows 7\0"))
        seen = ""
        while not seen.endswith("TDDDDDDDCZ"):
            seen += (await client.read())[0]
