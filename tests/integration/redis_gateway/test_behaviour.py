"""What a Redis user would notice: transactions, concurrency, expiry, authentication, rights, failures, clients."""

from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import replace

import psycopg
import pytest
import redis.asyncio
import redis.exceptions

from orbit.kernel.errors import LogUnavailable
from services.gateway.protocols.redis.expiry import ExpirySweeper
from services.gateway.protocols.redis.listener import RedisListener
from tests.fixtures.fix_pg_backend import PASSWORD, PgBackend
from tests.integration.redis_gateway.conftest import RawClient, encode, make_listener

pytestmark = pytest.mark.integration


class ManualClock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.offset_us = 0

    def now_us(self) -> int:
        return 1_900_000_000_000_000 + self.offset_us

    def monotonic(self) -> float:
        return self.offset_us / 1e6


async def test_keys_are_rows_in_sql(orbit: RawClient, postgres_dsn: str) -> None:
    await orbit.call("SET", "greeting", "hello")
    await orbit.call("HSET", "user:1", "name", "Ada", "year", 1815)
    with psycopg.connect(postgres_dsn) as connection:
        keys = connection.execute("SELECT convert_from(key,'UTF8'), type, value, size FROM redis.keys ORDER BY 1")
        assert keys.fetchall() == [("greeting", "string", b"hello", 0), ("user:1", "hash", None, 2)]
        fields = connection.execute("SELECT convert_from(field,'UTF8'), value FROM redis.hash ORDER BY 1").fetchall()
        assert fields == [("name", b"Ada"), ("year", b"1815")]


async def test_get_and_set_are_one_statement_each(orbit: RawClient, backend: PgBackend) -> None:
    await orbit.call("SET", "a", 1)
    (session,) = backend.sessions
    before = session.statements_run
    await orbit.call("SET", "a", 2, "EX", 100)
    await orbit.call("GET", "a")
    await orbit.call("SET", "new", 2, "NX")
    await orbit.call("TTL", "a")
    assert session.statements_run == before + 4


async def test_a_set_over_a_hash_leaves_no_fields(orbit: RawClient, postgres_dsn: str) -> None:
    await orbit.call("HSET", "h", "f", 1, "g", 2)
    await orbit.call("SET", "h", "text")
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM redis.hash").fetchone() == (0,)
        assert connection.execute("SELECT type, size FROM redis.keys").fetchone() == ("string", 0)


async def test_fields_left_by_a_crash_never_come_back(orbit: RawClient, backend: PgBackend, postgres_dsn: str) -> None:
    """The state between SET's statement and its cleaning, as a killed gateway leaves it."""
    await orbit.call("HSET", "h", "old", 1)
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("UPDATE redis.keys SET type = 'string', value = 'v'")
        assert await orbit.call("GET", "h") == b"$1\r\nv\r\n"
        assert (await orbit.call("HGET", "h", "old")).startswith(b"-WRONGTYPE")
        assert await orbit.call("DEL", "h") == b":1\r\n"
        assert await orbit.call("HSET", "h", "new", 1) == b":1\r\n"
        assert await orbit.call("HGETALL", "h") == b"*2\r\n$3\r\nnew\r\n$1\r\n1\r\n"
        connection.execute("UPDATE redis.keys SET type = 'string', value = 'v'")
        sweeper = ExpirySweeper(backend, ManualClock(), user="orbit", database="postgres")
        assert await sweeper.sweep() == 1
        assert connection.execute("SELECT count(*) FROM redis.hash").fetchone() == (0,)
        assert await orbit.call("GET", "h") == b"$1\r\nv\r\n"


async def test_expired_keys_are_gone_for_everyone_and_then_swept(
    backend: PgBackend, listener: RedisListener, postgres_dsn: str
) -> None:
    clock = ManualClock()
    listener.clock = clock
    client = await RawClient.connect(listener.port)
    await client.call("SET", "a", 1, "PX", 1500)
    await client.call("HSET", "h", "f", 1)
    await client.call("PEXPIRE", "h", 1500)
    await client.call("SET", "stays", 1)
    clock.offset_us = 1_499_000
    assert await client.call("PTTL", "a") == b":1\r\n"
    assert await client.call("TTL", "h") == b":0\r\n"
    clock.offset_us = 1_500_000
    assert await client.call("GET", "a") == b"$-1\r\n"
    assert await client.call("EXISTS", "a", "h", "stays") == b":1\r\n"
    assert await client.call("HGET", "h", "f") == b"$-1\r\n"
    assert await client.call("HLEN", "h") == b":0\r\n"
    assert await client.call("HGETALL", "h") == b"*0\r\n"
    assert await client.call("TYPE", "h") == b"+none\r\n"
    assert await client.call("DBSIZE") == b":1\r\n"
    assert await client.call("KEYS", "*") == b"*1\r\n$5\r\nstays\r\n"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM redis.keys").fetchone() == (3,)
        sweeper = ExpirySweeper(backend, clock, user="orbit", database="postgres")
        assert await sweeper.sweep() == 2
        assert connection.execute("SELECT count(*) FROM redis.keys").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM redis.hash").fetchone() == (0,)
    assert await client.call("INCR", "a") == b":1\r\n"
    assert await client.call("TTL", "a") == b":-1\r\n"
    await client.close()


async def test_the_sweep_runs_by_itself_and_survives_failures(pg_backend: PgBackend, postgres_dsn: str) -> None:
    clock = ManualClock()
    pg_backend.failures = [LogUnavailable("no log")]
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO redis.keys VALUES ('a', 'string', 'v', 0, '2001-01-01')")
        sweeper = ExpirySweeper(pg_backend, clock, user="orbit", database="postgres", interval_s=0.01)
        sweeper.start()
        async with asyncio.timeout(10):
            while connection.execute("SELECT count(*) FROM redis.keys").fetchone() != (0,):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await sweeper.stop()


async def test_scan_visits_every_key(orbit: RawClient, listener: RedisListener) -> None:
    keys = {b"key:%d" % n for n in range(2500)}
    await orbit.call("MSET", *[word for key in keys for word in (key, b"v")])
    seen: list[bytes] = []
    cursor = b"0"
    pages = 0
    while True:
        reply = await orbit.call("SCAN", cursor, "COUNT", 100)
        parts = reply.split(b"\r\n")
        cursor = parts[2]
        seen += parts[5::2]
        pages += 1
        if cursor == b"0":
            break
    assert sorted(key for key in seen if key) == sorted(keys)
    assert pages == 3
    assert (await orbit.call("SCAN", 999)).startswith(b"-ERR invalid cursor")


class TestConcurrency:
    """Several clients at once: call-backs only, as a backend that blocks cannot wait for a lock."""

    @pytest.fixture
    def backend(self, pg_backend: PgBackend) -> PgBackend:
        return pg_backend

    async def test_no_increment_is_lost(self, listener: RedisListener) -> None:
        async def run(client: RawClient) -> None:
            for _ in range(25):
                assert (await client.call("INCR", "n"))[:1] == b":"
                assert (await client.call("HINCRBY", "h", "f", 2))[:1] == b":"

        clients = [await RawClient.connect(listener.port) for _ in range(6)]
        await asyncio.gather(*map(run, clients))
        assert await clients[0].call("GET", "n") == b"$3\r\n150\r\n"
        assert await clients[0].call("HGET", "h", "f") == b"$3\r\n300\r\n"
        await asyncio.gather(*(client.close() for client in clients))

    async def test_one_of_many_gets_the_lock(self, listener: RedisListener) -> None:
        clients = [await RawClient.connect(listener.port) for _ in range(6)]
        for round_ in range(10):
            replies = await asyncio.gather(*(c.call("SET", f"lock{round_}", "me", "NX", "EX", 10) for c in clients))
            assert sorted(replies) == [b"$-1\r\n"] * 5 + [b"+OK\r\n"]
        await asyncio.gather(*(client.close() for client in clients))

    async def test_transactions_are_atomic_and_isolated(self, listener: RedisListener) -> None:
        """Money moves between accounts, some absent, in any order; every EXEC sees one total."""
        accounts = [f"acc{n}" for n in range(5)]
        rng = random.Random(7)
        clients = [await RawClient.connect(listener.port) for _ in range(5)]
        assert await clients[0].call("SET", accounts[0], 1000) == b"+OK\r\n"

        async def move(client: RawClient) -> None:
            for _ in range(15):
                source, target = rng.sample(accounts, 2)
                amount = rng.randrange(1, 20)
                client.send(
                    encode(("MULTI",)) + encode(("DECRBY", source, amount)) + encode(("INCRBY", target, amount))
                )
                client.send(encode(("EXEC",)))
                replies = [await client.reply() for _ in range(4)]
                assert replies[3].startswith(b"*2\r\n:"), replies

        async def watch(client: RawClient) -> None:
            for turn in range(20):
                if turn % 2:
                    reply = await client.call("MGET", *accounts)
                else:
                    client.send(encode(("MULTI",)) + b"".join(encode(("GET", a)) for a in accounts) + encode(("EXEC",)))
                    for _ in range(len(accounts) + 1):
                        await client.reply()
                    reply = await client.reply()
                values = [int(part) for part in reply.split(b"\r\n")[1:] if part and part[:1] not in b"$*"]
                assert sum(values) == 1000, reply

        await asyncio.gather(*map(move, clients[:4]), watch(clients[4]))
        await asyncio.gather(*(client.close() for client in clients))

    async def test_no_deadlock_among_clients(self, listener: RedisListener) -> None:
        keys = [f"k{n}" for n in range(6)]
        rng = random.Random(3)

        async def run(client: RawClient) -> None:
            for _ in range(20):
                rng.shuffle(keys)
                some = keys[:4]
                choice = rng.randrange(4)
                if choice == 0:
                    reply = await client.call("MSET", *[word for key in some for word in (key, "v")])
                elif choice == 1:
                    reply = await client.call("DEL", *some)
                elif choice == 2:
                    client.send(b"".join(encode(("SET", key, "w")) for key in some))
                    for _ in some:
                        reply = await client.reply()
                else:
                    client.send(encode(("MULTI",)) + b"".join(encode(("HSET", k, "f", 1)) for k in some))
                    client.send(encode(("EXEC",)))
                    for _ in range(len(some) + 2):
                        reply = await client.reply()
                assert not reply.startswith((b"-TRYAGAIN", b"-ERR")), reply

        clients = [await RawClient.connect(listener.port) for _ in range(6)]
        await asyncio.gather(*map(run, clients))
        await asyncio.gather(*(client.close() for client in clients))

    async def test_a_reader_never_sees_half_a_hash(self, listener: RedisListener) -> None:
        writer = await RawClient.connect(listener.port)
        reader = await RawClient.connect(listener.port)
        done = False

        async def write() -> None:
            nonlocal done
            for _ in range(30):
                await writer.call("HSET", "h", "a", 1, "b", 1)
                await writer.call("DEL", "h")
                await writer.call("SET", "h", "text")
                await writer.call("DEL", "h")
            done = True

        async def read() -> None:
            while not done:
                reply = await reader.call("HGETALL", "h")
                assert reply.startswith((b"*4\r\n", b"*0\r\n", b"-WRONGTYPE")), reply

        await asyncio.gather(write(), read())
        await writer.close()
        await reader.close()

    async def test_a_lost_client_leaves_no_transaction_open(
        self, listener: RedisListener, pg_backend: PgBackend
    ) -> None:
        client = await RawClient.connect(listener.port)
        client.send(b"".join(encode(("INCR", "n")) for _ in range(50)))
        await client.reply()
        await client.close()
        other = await RawClient.connect(listener.port)
        assert (await other.call("INCR", "n"))[:1] == b":"
        async with asyncio.timeout(10):
            while len(pg_backend.sessions) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await other.close()

    async def test_a_client_that_does_not_read_is_not_served_ahead(self, listener: RedisListener) -> None:
        client = await RawClient.connect(listener.port, limit=1 << 18)
        value = b"x" * 200_000
        await client.call("SET", "big", value)
        before = listener.commands
        client.send(encode(("GET", "big")) * 500)
        async with asyncio.timeout(20):
            last = -1
            while listener.commands != last:
                last = listener.commands
                await asyncio.sleep(0.3)
        assert listener.commands - before < 200
        expected = b"$200000\r\n" + value + b"\r\n"
        for _ in range(500):
            assert await client.reply() == expected
        await client.close()

    async def test_a_session_that_ends_ends_its_connection_only(
        self, listener: RedisListener, postgres_dsn: str
    ) -> None:
        client = await RawClient.connect(listener.port)
        await client.call("SET", "a", 1)
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'redis'"
            )
        assert await client.at_end()
        await client.close()
        again = await RawClient.connect(listener.port)
        assert await again.call("GET", "a") == b"$1\r\n1\r\n"
        await again.close()


class TestAuthentication:
    async def test_wrong_password_ends_what_was_allowed(self, listener: RedisListener) -> None:
        client = await RawClient.connect(listener.port)
        client.send(encode(("SET", "a", 1)) + encode(("AUTH", "orbit", "wrong")) + encode(("SET", "a", 2)))
        assert await client.reply() == b"+OK\r\n"
        assert (await client.reply()).startswith(b"-WRONGPASS")
        assert (await client.reply()).startswith(b"-NOAUTH")
        assert await client.call("AUTH", PASSWORD) == b"+OK\r\n"
        assert await client.call("GET", "a") == b"$1\r\n1\r\n"
        await client.close()

    async def test_the_connection_ends_after_too_many_wrong_passwords(self, listener: RedisListener) -> None:
        client = await RawClient.connect(listener.port, auth=False)
        client.send(encode(("AUTH", "nobody", "x")) * 4 + encode(("SET", "a", 1)))
        assert (await client.rest()).count(b"-WRONGPASS") == 3
        await client.close()

    async def test_an_unreachable_leader_is_not_a_wrong_password(
        self, listener: RedisListener, backend: PgBackend
    ) -> None:
        client = await RawClient.connect(listener.port, auth=False)
        backend.failures = [LogUnavailable("no leader")]
        assert (await client.call("AUTH", PASSWORD)).startswith(b"-CLUSTERDOWN no leader")
        assert await client.call("AUTH", PASSWORD) == b"+OK\r\n"
        await client.close()

    async def test_rights_hold(self, listener: RedisListener) -> None:
        client = await RawClient.connect(listener.port, auth=False)
        assert await client.call("AUTH", "reader", PASSWORD) == b"+OK\r\n"
        assert (await client.call("GET", "a")).startswith(b"-NOPERM")
        assert (await client.call("SET", "a", 1)).startswith(b"-NOPERM")
        assert (await client.call("DEL", "a")).startswith(b"-NOPERM")
        assert await client.call("PING") == b"+PONG\r\n"
        assert await client.call("AUTH", "orbit", PASSWORD) == b"+OK\r\n"
        assert await client.call("SET", "a", 1) == b"+OK\r\n"
        await client.close()

    async def test_silent_clients_are_sent_away(self, pg_backend: PgBackend) -> None:
        door = make_listener(pg_backend)
        door.limits = replace(door.limits, auth_timeout_s=0.05, max_connections=1)
        await door.start()
        client = await RawClient.connect(door.port, auth=False)
        second = await RawClient.connect(door.port, auth=False)
        assert await second.rest() == b"-ERR max number of clients reached\r\n"
        assert await client.at_end()
        await client.close()
        await second.close()
        await door.stop()


async def test_storage_that_cannot_be_reached_is_a_typed_error(orbit: RawClient, backend: PgBackend) -> None:
    backend.failures = [LogUnavailable("the shard has no leader")]
    assert await orbit.call("GET", "a") == b"-CLUSTERDOWN the shard has no leader (SQLSTATE 57P03)\r\n"
    assert await orbit.call("GET", "a") == b"$-1\r\n"


async def test_watch_says_that_it_is_not_there(orbit: RawClient) -> None:
    assert await orbit.call("WATCH", "a") == b"-ERR WATCH is not supported yet (SQLSTATE 0A000)\r\n"


async def test_the_redis_library(listener: RedisListener) -> None:
    client = redis.asyncio.Redis(port=listener.port, username="orbit", password=PASSWORD, decode_responses=True)
    assert await client.ping()
    assert await client.set("a", "1", ex=100)
    assert await client.get("a") == "1"
    assert 99 <= await client.ttl("a") <= 100
    assert await client.hset("h", mapping={"x": "1", "y": "2"}) == 2
    assert await client.hgetall("h") == {"x": "1", "y": "2"}
    async with client.pipeline(transaction=True) as pipe:
        pipe.incr("a")
        pipe.hget("h", "y")
        assert await pipe.execute() == [2, "2"]
    assert sorted([key async for key in client.scan_iter("*")]) == ["a", "h"]
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        await client.incr("h")
    info = await client.info()
    assert info["connected_clients"] == 1 and info["db0"] == {"keys": 2, "expires": 1}
    assert await client.command_count() > 40
    await client.aclose()


async def test_redis_cli(listener: RedisListener) -> None:
    program = shutil.which("redis-cli")
    assert program is not None, "redis-cli is not installed: apt-get install redis-tools"

    async def cli(*words: str, script: bytes = b"") -> bytes:
        options = ("-p", str(listener.port), "--user", "orbit", "--pass", PASSWORD, "--no-auth-warning")
        process = await asyncio.create_subprocess_exec(
            program, *options, *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate(script)
        assert process.returncode == 0
        return output

    assert await cli("SET", "a", "hello") == b"OK\n"
    assert await cli(script=b"MULTI\nAPPEND a !\nGET a\nEXEC\n") == b"OK\nQUEUED\nQUEUED\n6\nhello!\n"
    assert await cli("-3", "HSET", "h", "f", "v") == b"1\n"
    assert b"redis_version:7" in await cli("INFO")
    assert await cli("--scan") == b"a\nh\n"


async def test_random_bytes_never_break_the_door(listener: RedisListener, orbit: RawClient) -> None:
    rng = random.Random(11)
    pieces = [
        b"*",
        b"$",
        b"\r\n",
        b"-1",
        b"3",
        b"GET",
        b"SET",
        b"\x00",
        b'"',
        b"'",
        b"*2\r\n$3\r\nGET\r\n",
        b"$1\r\na\r\n",
        b"MULTI\r\n",
    ]
    pieces += [b"EXEC\r\n", b"QUIT", b"99999999", b"HELLO 3\r\n", b"\\x", b"\n", encode(("SET", "a", "1"))]
    for _ in range(150):
        client = await RawClient.connect(listener.port, auth=rng.random() < 0.8)
        for _ in range(rng.randrange(1, 4)):
            client.send(b"".join(rng.choices(pieces, k=rng.randrange(1, 12))))
        client._writer.write_eof()
        await client.rest()
        await client.close()
    assert await orbit.call("PING") == b"+PONG\r\n"
    assert await orbit.call("SET", "a", "still here") == b"+OK\r\n"
