"""Commands on hashes.

Owns their replies and error texts, which are those of Redis 7.0.
"""

from __future__ import annotations

from typing import Final

from services.gateway.conversation import Steps
from services.gateway.protocols.redis import wire
from services.gateway.protocols.redis.commands.command import (
    MAX_INT64,
    MIN_INT64,
    Access,
    Call,
    Command,
    command,
    to_int,
    wrong_arguments,
)
from services.gateway.protocols.redis.keyspace import DELETE_FIELD, RedisError


def _put_fields(call: Call) -> Steps[int]:
    """Set the pairs behind the key; return how many fields are new."""
    if len(call.words) % 2:
        raise wrong_arguments(call.name)
    entry = call.keys[call.words[1]]
    entry.check_hash()
    pairs = dict(zip(call.words[2::2], call.words[3::2], strict=True))
    added = 0
    for name, value in pairs.items():
        if (yield from call.keys.put_field(entry, name, value)):
            added += 1
    return added


def _hset(call: Call) -> Steps[bytes]:
    return wire.integer((yield from _put_fields(call)))


def _hmset(call: Call) -> Steps[bytes]:
    yield from _put_fields(call)
    return wire.OK


def _hsetnx(call: Call) -> Steps[bytes]:
    _, key, name, value = call.words
    entry = call.keys[key]
    if (yield from call.keys.get_field(entry, name)) is not None:
        return wire.ZERO
    yield from call.keys.put_field(entry, name, value)
    return wire.ONE


def _hget(call: Call) -> Steps[bytes]:
    value = yield from call.keys.get_field(call.keys[call.words[1]], call.words[2])
    return call.resp.null if value is None else wire.bulk(value)


def _hmget(call: Call) -> Steps[bytes]:
    entry = call.keys[call.words[1]]
    replies: list[bytes] = []
    for name in call.words[2:]:
        value = yield from call.keys.get_field(entry, name)
        replies.append(call.resp.null if value is None else wire.bulk(value))
    return wire.array(replies)


def _hdel(call: Call) -> Steps[bytes]:
    entry = call.keys[call.words[1]]
    entry.check_hash()
    removed = 0
    for name in dict.fromkeys(call.words[2:]):
        if not entry.size:
            break
        result = yield DELETE_FIELD, (entry.key, name)
        if result.row_count:
            removed += 1
            entry.set_size(entry.size - 1)
    return wire.integer(removed)


def _hgetall(call: Call) -> Steps[bytes]:
    fields = yield from call.keys.get_fields(call.keys[call.words[1]])
    return call.resp.map([wire.bulk(item) for pair in fields for item in pair])


def _hkeys(call: Call) -> Steps[bytes]:
    fields = yield from call.keys.get_fields(call.keys[call.words[1]])
    return wire.bulks([name for name, _ in fields])


def _hvals(call: Call) -> Steps[bytes]:
    fields = yield from call.keys.get_fields(call.keys[call.words[1]])
    return wire.bulks([value for _, value in fields])


def _hlen(call: Call) -> bytes:
    entry = call.keys[call.words[1]]
    entry.check_hash()
    return wire.integer(entry.size)


def _hexists(call: Call) -> Steps[bytes]:
    value = yield from call.keys.get_field(call.keys[call.words[1]], call.words[2])
    return wire.ZERO if value is None else wire.ONE


def _hstrlen(call: Call) -> Steps[bytes]:
    value = yield from call.keys.get_field(call.keys[call.words[1]], call.words[2])
    return wire.integer(len(value or b""))


def _hincrby(call: Call) -> Steps[bytes]:
    _, key, name, word = call.words
    by = to_int(word)
    entry = call.keys[key]
    text = yield from call.keys.get_field(entry, name)
    old = 0 if text is None else wire.parse_int64(text)
    if old is None:
        raise RedisError("ERR hash value is not an integer")
    new = old + by
    if not MIN_INT64 <= new <= MAX_INT64:
        raise RedisError("ERR increment or decrement would overflow")
    yield from call.keys.put_field(entry, name, b"%d" % new)
    return wire.integer(new)


_R, _W = Access.READ, Access.WRITE
_ONE_KEY: Final = (1, 1, 1)

COMMANDS: Final[tuple[Command, ...]] = (
    command("hset", -4, _W, "Set fields of a hash", _hset, keys=_ONE_KEY, creates=True),
    command("hmset", -4, _W, "Set fields of a hash", _hmset, keys=_ONE_KEY, creates=True),
    command("hsetnx", 4, _W, "Set a field that does not exist", _hsetnx, keys=_ONE_KEY, creates=True),
    command("hget", 3, _R, "Get a field of a hash", _hget, keys=_ONE_KEY),
    command("hmget", -3, _R, "Get many fields of a hash", _hmget, keys=_ONE_KEY),
    command("hdel", -3, _W, "Delete fields of a hash", _hdel, keys=_ONE_KEY),
    command("hgetall", 2, _R, "Get all fields and values of a hash", _hgetall, keys=_ONE_KEY),
    command("hkeys", 2, _R, "Get all fields of a hash", _hkeys, keys=_ONE_KEY),
    command("hvals", 2, _R, "Get all values of a hash", _hvals, keys=_ONE_KEY),
    command("hlen", 2, _R, "Get the number of fields of a hash", _hlen, keys=_ONE_KEY),
    command("hexists", 3, _R, "Tell whether a hash has a field", _hexists, keys=_ONE_KEY),
    command("hstrlen", 3, _R, "Get the length of a field's value", _hstrlen, keys=_ONE_KEY),
    command("hincrby", 4, _W, "Add a number to a field of a hash", _hincrby, keys=_ONE_KEY, creates=True),
)
