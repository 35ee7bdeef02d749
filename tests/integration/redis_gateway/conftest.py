"""A Redis door over the reference PostgreSQL, a real redis-server beside it, and a raw client for both."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from orbit.kernel.clock import SystemClock
from services.gateway.authentication import AuthenticationLimits, Authenticator
from services.gateway.protocols.redis.listener import RedisListener
from tests.fixtures.fix_pg_backend import PASSWORD, PgBackend

Word = bytes | str | int


def encode(words: tuple[Word, ...]) -> bytes:
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class RawClient:
    """Sends commands and returns the reply's exact bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int, *, auth: bool = True, limit: int = 1 << 27) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
        client = cls(reader, writer)
        if auth:
            assert await client.call("AUTH", "orbit", PASSWORD) == b"+OK\r\n"
        return client

    async def call(self, *words: Word) -> bytes:
        self.send(encode(words))
        return await self.reply()

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def reply(self) -> bytes:
        """Return one whole reply."""
        async with asyncio.timeout(20):
            line = await self._reader.readuntil(b"\r\n")
            kind = line[:1]
            if kind in b"$=" and int(line[1:]) >= 0:
                return line + await self._reader.readexactly(int(line[1:]) + 2)
            if kind in b"*~%" and int(line[1:]) > 0:
                count = int(line[1:]) * (2 if kind == b"%" else 1)
                return line + b"".join([await self.reply() for _ in range(count)])
            return line

    async def at_end(self) -> bool:
        async with asyncio.timeout(20):
            return await self._reader.read() == b""

    async def rest(self) -> bytes:
        """Return everything until the server closes."""
        async with asyncio.timeout(20):
            return await self._reader.read()

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


@pytest.fixture(params=["call-backs", "at once"])
def backend(request: pytest.FixtureRequest, pg_backend: PgBackend) -> PgBackend:
    """The backend in both ways of answering."""
    pg_backend.blocking = request.param == "at once"
    return pg_backend


def make_listener(backend: PgBackend) -> RedisListener:
    clock = SystemClock()
    limits = AuthenticationLimits(first_delay_s=0.01, max_delay_s=0.05)
    authenticator = Authenticator(backend, clock, limits)
    return RedisListener(
        backend,
        authenticator,
        clock,
        host="127.0.0.1",
        port=0,
        database="postgres",
        version="0.1.0",
        sweep_interval_s=None,
    )


@pytest.fixture
async def listener(backend: PgBackend) -> AsyncIterator[RedisListener]:
    door = make_listener(backend)
    await door.start()
    yield door
    await door.stop()


@pytest.fixture
async def orbit(listener: RedisListener) -> AsyncIterator[RawClient]:
    client = await RawClient.connect(listener.port)
    yield client
    await client.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[int]:
    """Yield the port of a real Redis with the same user and password."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("Redis 7 is not installed: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="orbit-reference-redis-") as folder:
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder)
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        try:
            _prepare(port)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def _prepare(port: int) -> None:
    """Wait until the server answers; make its user and switch the password-less one off."""
    for _ in range(200):
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            break
        except ConnectionRefusedError:
            time.sleep(0.025)  # there is no event to await before a process has bound its port
    else:
        pytest.fail("redis-server did not start")
    with connection:
        connection.sendall(encode(("ACL", "SETUSER", "orbit", "on", f">{PASSWORD}", "~*", "&*", "+@all")))
        assert connection.recv(100) == b"+OK\r\n"
        connection.sendall(encode(("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}")))
        assert connection.recv(100) == b"+OK\r\n"


@pytest.fixture
async def reference(redis_server: int) -> AsyncIterator[RawClient]:
    """An authenticated client of the real Redis, emptied."""
    client = await RawClient.connect(redis_server)
    assert await client.call("FLUSHALL") == b"+OK\r\n"
    yield client
    await client.close()
