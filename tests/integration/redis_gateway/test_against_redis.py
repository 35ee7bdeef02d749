"""The same commands on the Redis door and on a real Redis 7: the replies must be the same bytes."""

from __future__ import annotations

import pytest

from services.gateway.protocols.redis.listener import RedisListener
from tests.integration.redis_gateway.conftest import RawClient, Word, encode

pytestmark = pytest.mark.integration

Script = list[tuple[Word, ...]]

SCRIPTS: dict[str, Script] = {
    "connection": [
        ("PING",),
        ("ping", "hello"),
        ("PING", "a", "b"),
        ("ECHO", "x\r\ny"),
        ("ECHO",),
        ("SELECT", 0),
        ("SELECT", 99),
        ("SELECT", "abc"),
        ("CLIENT", "SETNAME", "me"),
        ("CLIENT", "GETNAME"),
        ("CLIENT", "SETNAME", "a b"),
        ("CLIENT", "SETNAME"),
        ("CLIENT", "NOSUCH"),
        ("CLIENT",),
        ("FOO",),
        ("foo", "a", "b" * 200, "c"),
        ("GET",),
        ("SET", "a"),
        ("AUTH",),
        ("AUTH", "a", "b", "c"),
        ("HELLO", "x"),
        ("HELLO", 4),
        ("HELLO", 2, "NOPE"),
    ],
    "strings": [
        ("GET", "a"),
        ("SET", "a", "1"),
        ("GET", "a"),
        ("SET", "", ""),
        ("GET", ""),
        ("SET", b"\x00\xff\r\n", b"\x00\x01\xfe"),
        ("GET", b"\x00\xff\r\n"),
        ("STRLEN", "a"),
        ("STRLEN", "none"),
        ("APPEND", "a", "234"),
        ("APPEND", "fresh", ""),
        ("EXISTS", "fresh"),
        ("GET", "a"),
        ("MSET", "x", 1, "y", 2, "x", 3),
        ("MSET", "x", 1, "y"),
        ("MGET", "x", "nope", "y", "x"),
        ("MSETNX", "x", 9, "z", 9),
        ("MSETNX", "z1", 9, "z2", 9),
        ("MGET", "x", "z", "z1", "z2"),
        ("SETNX", "a", "no"),
        ("SETNX", "b", "yes"),
        ("GETSET", "b", "newer"),
        ("GETSET", "b2", "newer"),
        ("GETDEL", "b"),
        ("GETDEL", "b"),
        ("DEL", "a", "nope", "x", "a"),
        ("UNLINK", "y"),
        ("EXISTS", "a", "z1", "z1", "z2"),
        ("TYPE", "z1"),
        ("TYPE", "a"),
        ("DBSIZE",),
    ],
    "set options": [
        ("SET", "k", "v", "NX"),
        ("SET", "k", "v2", "nx"),
        ("SET", "k", "v2", "XX"),
        ("SET", "k2", "v2", "XX"),
        ("SET", "k", "v3", "GET"),
        ("SET", "k3", "v3", "GET"),
        ("SET", "k", "v4", "NX", "GET"),
        ("SET", "k", "v4", "XX", "GET"),
        ("SET", "k", "v", "NX", "XX"),
        ("SET", "k", "v", "EX"),
        ("SET", "k", "v", "EX", "a"),
        ("SET", "k", "v", "EX", "0"),
        ("SET", "k", "v", "EX", "-1"),
        ("SET", "k", "v", "EX", "9223372036854775807"),
        ("SET", "k", "v", "PX", "9223372036854775807"),
        ("SET", "k", "v", "EX", "10", "PX", "10"),
        ("SET", "k", "v", "EX", "10", "KEEPTTL"),
        ("SET", "k", "v", "KEEPTTL", "EX", "10"),
        ("SET", "k", "v", "WHAT"),
        ("SET", "k", "v", "EX", "100"),
        ("TTL", "k"),
        ("SET", "k", "w", "KEEPTTL"),
        ("TTL", "k"),
        ("SET", "k", "w"),
        ("TTL", "k"),
        ("SET", "k", "w", "EXAT", "33177117420"),
        ("EXPIRETIME", "k"),
        ("SET", "k", "w", "PXAT", "33177117420123"),
        ("PEXPIRETIME", "k"),
        ("SETEX", "k", "100", "v"),
        ("TTL", "k"),
        ("PSETEX", "k", "100000", "v"),
        ("TTL", "k"),
        ("SETEX", "k", "0", "v"),
        ("PSETEX", "k", "-5", "v"),
        ("SETEX", "k", "x", "v"),
        ("SET", "gone", "v", "PXAT", "1"),
        ("GET", "gone"),
        ("SETNX", "gone", "again"),
        ("GET", "gone"),
    ],
    "numbers": [
        ("INCR", "n"),
        ("INCRBY", "n", 41),
        ("DECR", "n"),
        ("DECRBY", "n", 50),
        ("GET", "n"),
        ("INCRBY", "n", "9223372036854775807"),
        ("INCRBY", "n", "9223372036854775807"),
        ("DECRBY", "n", "-9223372036854775808"),
        ("INCRBY", "n", "9223372036854775808"),
        ("INCRBY", "n", "1.5"),
        ("INCRBY", "n", " 1"),
        ("INCRBY", "n", "+1"),
        ("INCRBY", "n", "01"),
        ("INCRBY", "n", "-0"),
        ("INCRBY", "n", ""),
        ("SET", "s", "abc"),
        ("INCR", "s"),
        ("SET", "s", "12 "),
        ("INCR", "s"),
        ("SET", "t", "5", "EX", "100"),
        ("INCR", "t"),
        ("TTL", "t"),
    ],
    "expiry": [
        ("TTL", "a"),
        ("PTTL", "a"),
        ("EXPIRE", "a", 100),
        ("SET", "a", 1),
        ("TTL", "a"),
        ("EXPIRE", "a", 100),
        ("TTL", "a"),
        ("EXPIRE", "a", 50, "NX"),
        ("EXPIRE", "a", 50, "GT"),
        ("EXPIRE", "a", 50, "LT"),
        ("TTL", "a"),
        ("EXPIRE", "a", 200, "XX"),
        ("EXPIRE", "a", 200, "NX", "XX"),
        ("EXPIRE", "a", 200, "GT", "LT"),
        ("EXPIRE", "a", 200, "BAD"),
        ("EXPIRE", "a", "x"),
        ("EXPIRE", "a", "9223372036854775807"),
        ("EXPIRE", "a", "-9223372036854775808"),
        ("PEXPIRE", "a", "9223372036854775807"),
        ("PERSIST", "a"),
        ("PERSIST", "a"),
        ("PERSIST", "none"),
        ("EXPIRE", "a", 50, "GT"),
        ("EXPIRE", "a", 50, "XX"),
        ("TTL", "a"),
        ("EXPIREAT", "a", "33177117420"),
        ("EXPIRETIME", "a"),
        ("PEXPIREAT", "a", "33177117420000"),
        ("PEXPIRETIME", "a"),
        ("EXPIRETIME", "none"),
        ("EXPIRE", "a", -1),
        ("EXISTS", "a"),
        ("SET", "b", 1),
        ("PEXPIREAT", "b", 1),
        ("GET", "b"),
        ("HSET", "h", "f", 1),
        ("EXPIRE", "h", 100),
        ("TTL", "h"),
        ("HSET", "h", "g", 1),
        ("TTL", "h"),
        ("EXPIRE", "h", 0),
        ("HGET", "h", "f"),
        ("HSET", "h", "new", 1),
        ("HGETALL", "h"),
    ],
    "hashes": [
        ("HGET", "h", "f"),
        ("HGETALL", "h"),
        ("HLEN", "h"),
        ("HSET", "h", "f", "v"),
        ("HSET", "h", "f", "w", "g", "x"),
        ("HSET", "h", "f"),
        ("HSET", "h", "f", "v", "g"),
        ("HMSET", "h", "f", "v", "g"),
        ("HMSET", "h", "f", "v"),
        ("HSET", "d", "f", "1", "f", "2"),
        ("HGET", "d", "f"),
        ("HGET", "h", "f"),
        ("HMGET", "h", "f", "nope", "g", "f"),
        ("HLEN", "h"),
        ("HEXISTS", "h", "f"),
        ("HEXISTS", "h", "nope"),
        ("HSTRLEN", "h", "f"),
        ("HSETNX", "h", "f", "no"),
        ("HSETNX", "h", "new", "yes"),
        ("HINCRBY", "h", "n", 5),
        ("HINCRBY", "h", "n", -7),
        ("HINCRBY", "h", "f", 1),
        ("HINCRBY", "h", "n", "x"),
        ("HINCRBY", "h", "n", "-9223372036854775808"),
        ("HGET", "h", "n"),
        ("HDEL", "h", "f", "f", "nope"),
        ("HDEL", "h", "g", "new", "n"),
        ("EXISTS", "h"),
        ("HDEL", "h", "x"),
        ("TYPE", "d"),
        ("HSET", "e", "", ""),
        ("HGETALL", "e"),
        ("HKEYS", "e"),
        ("HVALS", "e"),
    ],
    "one type per key": [
        ("HSET", "h", "f", "v"),
        ("GET", "h"),
        ("STRLEN", "h"),
        ("INCR", "h"),
        ("APPEND", "h", "x"),
        ("GETSET", "h", "x"),
        ("GETDEL", "h"),
        ("SET", "h", "x", "GET"),
        ("SETNX", "h", "x"),
        ("MGET", "h"),
        ("SET", "s", "v"),
        ("HGET", "s", "f"),
        ("HSET", "s", "f", "v"),
        ("HGETALL", "s"),
        ("HLEN", "s"),
        ("HDEL", "s", "f"),
        ("HINCRBY", "s", "f", 1),
        ("HEXISTS", "s", "f"),
        ("HKEYS", "s"),
        ("SET", "h", "now a string"),
        ("GET", "h"),
        ("HGET", "h", "f"),
        ("DEL", "h"),
        ("HSET", "h", "g", "w"),
        ("HGETALL", "h"),
        ("MSET", "h", "string again"),
        ("TYPE", "h"),
        ("DEL", "h"),
        ("HLEN", "h"),
        ("HSET", "h", "f", 1, "g", 2),
        ("SET", "h", "x", "XX"),
        ("DEL", "h"),
        ("HSET", "h", "i", 2),
        ("HGETALL", "h"),
    ],
    "transactions": [
        ("EXEC",),
        ("DISCARD",),
        ("MULTI",),
        ("MULTI",),
        ("SET", "a", 1),
        ("INCR", "a"),
        ("INCR", "absent"),
        ("HSET", "h", "f", "v"),
        ("GET", "a"),
        ("HGETALL", "h"),
        ("GET", "h"),
        ("PING",),
        ("DBSIZE",),
        ("DEL", "a"),
        ("GET", "a"),
        ("EXISTS", "a", "h"),
        ("SET", "a", "end"),
        ("SET", "a", "bad", "OPTION"),
        ("EXEC",),
        ("MGET", "a", "absent"),
        ("MULTI",),
        ("SET", "a", 2),
        ("DISCARD",),
        ("GET", "a"),
        ("MULTI",),
        ("SET", "a", 3),
        ("NOSUCH",),
        ("SET", "a"),
        ("GET", "a"),
        ("EXEC",),
        ("GET", "a"),
        ("MULTI",),
        ("EXEC",),
        ("MULTI",),
        ("PING",),
        ("ECHO", "x"),
        ("EXEC",),
        ("MULTI",),
        ("GET", "a"),
        ("TTL", "a"),
        ("HGET", "h", "f"),
        ("EXEC",),
        ("MULTI",),
        ("WATCH", "a"),
        ("EXEC",),
        ("MULTI",),
        ("SET", "t", 1, "EX", 100),
        ("TTL", "t"),
        ("PERSIST", "t"),
        ("TTL", "t"),
        ("EXPIRE", "t", -1),
        ("EXISTS", "t"),
        ("SET", "t", 2),
        ("DBSIZE",),
        ("FLUSHALL",),
        ("DBSIZE",),
        ("SET", "t", 3),
        ("EXEC",),
        ("GET", "t"),
        ("DBSIZE",),
    ],
    "listing": [
        ("KEYS", "*"),
        ("SCAN", 0),
        ("SET", "only", 1),
        ("KEYS", "*"),
        ("KEYS", "on?y"),
        ("KEYS", "on[^x]y"),
        ("KEYS", "on[k-m]y"),
        ("KEYS", "o\\nly"),
        ("KEYS", "nope*"),
        ("SCAN", 0),
        ("SCAN", 0, "MATCH", "o*", "COUNT", 10),
        ("SCAN", 0, "MATCH", "x*"),
        ("SCAN", 0, "TYPE", "string"),
        ("SCAN", 0, "TYPE", "hash"),
        ("SCAN", "x"),
        ("SCAN", 0, "COUNT", 0),
        ("SCAN", 0, "COUNT", "x"),
        ("SCAN", 0, "COUNT"),
        ("SCAN", 0, "WHAT", 1),
        ("FLUSHDB", "NOW"),
        ("FLUSHDB",),
        ("DBSIZE",),
    ],
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_replies_are_the_same_bytes(name: str, orbit: RawClient, reference: RawClient) -> None:
    for words in SCRIPTS[name]:
        expected = await reference.call(*words)
        assert await orbit.call(*words) == expected, words


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_pipeline_gives_the_same_bytes(name: str, orbit: RawClient, reference: RawClient) -> None:
    script = SCRIPTS[name]
    for client in (orbit, reference):
        client.send(b"".join(map(encode, script)))
    for words in script:
        assert await orbit.reply() == await reference.reply(), words


async def test_unordered_replies_hold_the_same(orbit: RawClient, reference: RawClient) -> None:
    def items(reply: bytes) -> list[bytes]:
        return sorted(reply.split(b"\r\n")[2::2])

    fields = [word for n in range(50) for word in (f"field{n}", f"value{n}")]
    for client in (orbit, reference):
        assert await client.call("HSET", "h", *fields) == b":50\r\n"
        await client.call("MSET", *[word for n in range(50) for word in (f"key:{n}", n)])
    for words in (("HGETALL", "h"), ("HKEYS", "h"), ("HVALS", "h"), ("KEYS", "*"), ("KEYS", "key:[1-3]?")):
        assert items(await orbit.call(*words)) == items(await reference.call(*words)), words


@pytest.mark.parametrize(
    "data",
    [
        b"PING\r\n",
        b"SET a 'b c'\r\nGET a\n",
        b'SET "a\\x00\\n" "b\\"c"\r\nGET "a\\x00\\n"\r\n',
        b"\r\n\r\nPING\r\n",
        b"*0\r\n*-1\r\nPING\r\n",
        b'SET "a b\r\nPING\r\n',
        b"SET 'a'b c\r\n",
        b"*1\r\n:1\r\n",
        b"*x\r\n",
        b"*3000000000\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*q\r\n",
    ],
)
async def test_raw_bytes_give_the_same_bytes(data: bytes, orbit: RawClient, reference: RawClient) -> None:
    answers = []
    for client in (orbit, reference):
        client.send(data + b"QUIT\r\n")
        answers.append(await client.rest())
    assert answers[0] == answers[1]


async def test_before_authentication(listener: RedisListener, redis_server: int) -> None:
    script: Script = [
        ("GET", "a"),
        ("PING",),
        ("NOSUCH",),
        ("SET", "a"),
        ("MULTI",),
        ("EXEC",),
        ("HELLO", 3),
        ("AUTH", "orbit", "wrong"),
        ("SET", "a", 1),
        ("HELLO", 2, "AUTH", "orbit", "wrong"),
        ("GET", "a"),
        ("AUTH", "correct horse"),
        ("PING",),
    ]
    ours = await RawClient.connect(listener.port, auth=False)
    theirs = await RawClient.connect(redis_server, auth=False)
    for words in script:
        assert await ours.call(*words) == await theirs.call(*words), words
    await ours.close()
    await theirs.close()


@pytest.mark.parametrize(
    "data",
    [b"*11\r\n", b"*1\r\n$16385\r\n", b"*2\r\n$3\r\nGET\r\n$20000\r\n"],
)
async def test_size_limits_before_authentication(data: bytes, listener: RedisListener, redis_server: int) -> None:
    answers = []
    for port in (listener.port, redis_server):
        client = await RawClient.connect(port, auth=False)
        client.send(data)
        answers.append(await client.rest())
        await client.close()
    assert answers[0] == answers[1]


async def test_resp3_replies_are_the_same_bytes(orbit: RawClient, reference: RawClient) -> None:
    for client in (orbit, reference):
        assert (await client.call("HELLO", 3)).startswith(b"%7\r\n$6\r\nserver")
    script: Script = [
        ("GET", "a"),
        ("HSET", "h", "f", "v"),
        ("HGETALL", "h"),
        ("HGETALL", "none"),
        ("MGET", "a", "b"),
        ("MULTI",),
        ("GET", "a"),
        ("HGETALL", "h"),
        ("EXEC",),
        ("HGET", "h", "nope"),
    ]
    for words in script:
        assert await orbit.call(*words) == await reference.call(*words), words
