"""Commands on strings: GET, SET and their kin, counters.

Owns their options, replies and error texts, which are those of Redis 7.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from orbit.kernel.errors import OrbitError
from services.gateway.conversation import BEGIN, Steps
from services.gateway.protocols.redis import errors, wire
from services.gateway.protocols.redis.commands.command import (
    MAX_INT64,
    MIN_INT64,
    Access,
    Call,
    Command,
    Direct,
    Plain,
    Stepwise,
    Words,
    command,
    invalid_expire,
    not_an_integer,
    syntax_error,
    to_int,
    wrong_arguments,
)
from services.gateway.protocols.redis.keyspace import (
    ADD,
    GET,
    MAX_EXPIRY_US,
    STRING,
    RedisError,
    clean,
    int8,
    microseconds,
    put_string,
    timestamp,
    transaction,
    wrong_type,
)


@dataclass(slots=True)
class SetOptions:
    """SET's (and GETEX's) options. `expires_at_us` None: no expiry was given."""

    only_absent: bool = False
    only_present: bool = False
    keep_expiry: bool = False
    return_old: bool = False
    persist: bool = False
    expires_at_us: int | None = None


_UNITS: Final[dict[bytes, tuple[int, bool]]] = {
    b"EX": (1000, True),
    b"PX": (1, True),
    b"EXAT": (1000, False),
    b"PXAT": (1, False),
}
"""Milliseconds of the unit, and whether it counts from now."""


def expiry_us(word: bytes, unit_ms: int, relative: bool, call: Call) -> int:
    """Return when a positive expiry argument ends. Raises RedisError."""
    value = to_int(word)
    name = call.name
    if value <= 0 or value > MAX_INT64 // unit_ms:
        raise invalid_expire(name)
    at_us = (value * unit_ms + (call.now_ms if relative else 0)) * 1000
    if at_us > MAX_EXPIRY_US:
        raise invalid_expire(name)
    return at_us


def set_options(call: Call, start: int) -> SetOptions:
    """Return the options behind SET's value. Raises RedisError."""
    options = SetOptions()
    words = call.words
    expiry: tuple[bytes, int, bool] | None = None
    at = start
    while at < len(words):
        option = words[at].upper()
        if option == b"NX" and not options.only_present:
            options.only_absent = True
        elif option == b"XX" and not options.only_absent:
            options.only_present = True
        elif option == b"GET":
            options.return_old = True
        elif option == b"KEEPTTL" and expiry is None:
            options.keep_expiry = True
        elif option in _UNITS and expiry is None and not options.keep_expiry and at + 1 < len(words):
            at += 1
            expiry = (words[at], *_UNITS[option])
        else:
            raise syntax_error()
        at += 1
    if expiry is not None:
        options.expires_at_us = expiry_us(*expiry, call)
    return options


def _get(call: Call) -> bytes:
    value = call.keys[call.words[1]].string()
    return call.resp.null if value is None else wire.bulk(value)


def _get_directly(call: Call) -> Steps[bytes]:
    result = yield GET, (call.words[1],)
    if not result.rows:
        return call.resp.null
    value, expires = result.rows[0]
    expires_at_us = microseconds(expires)
    if expires_at_us is not None and expires_at_us <= call.now_us:
        return call.resp.null
    if value is None:
        raise wrong_type()
    return wire.bulk(value)


def _set(call: Call) -> Steps[bytes]:
    return (yield from _assign(call, call.words[1], call.words[2], set_options(call, 3)))


def _assign(call: Call, key: bytes, value: bytes, options: SetOptions) -> Steps[bytes]:
    entry = call.keys[key]
    null = call.resp.null
    reply = wire.OK
    if options.return_old:
        old = entry.string()
        reply = null if old is None else wire.bulk(old)
    if (options.only_absent and entry.exists) or (options.only_present and not entry.exists):
        return reply if options.return_old else null
    expires_at_us = entry.expires_at_us if options.keep_expiry else options.expires_at_us
    if entry.size:
        yield from call.keys.delete(entry)
    entry.set_string(value)
    entry.set_expiry(expires_at_us)
    return reply


def _set_directly(call: Call) -> Steps[bytes] | None:
    words = call.words
    if len(words) == 3:
        return _put(call, words[1], words[2], None)
    options = set_options(call, 3)
    if options.only_present or options.keep_expiry or options.return_old:
        return None
    if options.only_absent:
        return _add(call, words[1], words[2], options)
    return _put(call, words[1], words[2], options.expires_at_us)


def _put(call: Call, key: bytes, value: bytes, expires_at_us: int | None) -> Steps[bytes]:
    """SET in one statement."""
    left_behind = yield from put_string(key, value, expires_at_us)
    if left_behind:
        yield from clean(call.now_us, key)
    return wire.OK


def _add(call: Call, key: bytes, value: bytes, options: SetOptions) -> Steps[bytes]:
    """SET NX in one statement, unless a row is there: it may have expired, so look under a lock."""
    result = yield ADD, (key, STRING, value, int8(0), timestamp(options.expires_at_us))
    if result.row_count:
        return wire.OK
    return (yield from _under_lock(call, key, value, options))


def _under_lock(call: Call, key: bytes, value: bytes, options: SetOptions) -> Steps[bytes]:
    def attempt() -> Steps[bytes]:
        call.keys.entries.clear()
        yield from call.keys.lock((key,), create=True)
        reply = yield from _assign(call, key, value, options)
        yield from call.keys.flush()
        return reply

    return (yield from transaction(BEGIN, attempt))


def _setnx(call: Call) -> Steps[bytes]:
    reply = yield from _assign(call, call.words[1], call.words[2], SetOptions(only_absent=True))
    return wire.ONE if reply == wire.OK else wire.ZERO


def _setnx_directly(call: Call) -> Steps[bytes]:
    reply = yield from _add(call, call.words[1], call.words[2], SetOptions(only_absent=True))
    return wire.ONE if reply == wire.OK else wire.ZERO


def _setex(call: Call) -> Steps[bytes]:
    _, key, _, value = call.words
    return (yield from _assign(call, key, value, SetOptions(expires_at_us=_setex_expiry(call))))


def _setex_directly(call: Call) -> Steps[bytes]:
    return _put(call, call.words[1], call.words[3], _setex_expiry(call))


def _setex_expiry(call: Call) -> int:
    return expiry_us(call.words[2], 1000 if call.name == "setex" else 1, True, call)


def _getset(call: Call) -> Steps[bytes]:
    return (yield from _assign(call, call.words[1], call.words[2], SetOptions(return_old=True)))


def _getdel(call: Call) -> Steps[bytes]:
    entry = call.keys[call.words[1]]
    value = entry.string()
    if value is None:
        return call.resp.null
    yield from call.keys.delete(entry)
    return wire.bulk(value)


def _mget(call: Call) -> bytes:
    entries = [call.keys[key] for key in call.words[1:]]
    return wire.array([wire.bulk(e.value) if e.value is not None else call.resp.null for e in entries])


def _pairs(call: Call) -> dict[bytes, bytes]:
    """Return MSET's pairs; the last value of a key counts. Raises RedisError."""
    if len(call.words) % 2 == 0:
        raise wrong_arguments(call.name)
    return dict(zip(call.words[1::2], call.words[2::2], strict=True))


def _mset(call: Call) -> Steps[bytes]:
    for key, value in _pairs(call).items():
        yield from _assign(call, key, value, SetOptions())
    return wire.OK


def _mset_directly(call: Call) -> Steps[bytes]:
    yield from put_all(_pairs(call), call.now_us)
    return wire.OK


def put_all(pairs: dict[bytes, bytes], now_us: int) -> Steps[None]:
    """Set many strings in one transaction, in key order, so that two of them never wait for each other."""

    def attempt() -> Steps[list[bytes]]:
        left: list[bytes] = []
        for key in sorted(pairs):
            left_behind = yield from put_string(key, pairs[key], None)
            if left_behind:
                left.append(key)
        return left

    for key in (yield from transaction(BEGIN, attempt)):
        yield from clean(now_us, key)


def set_many(sets: Sequence[Words], now_us: int) -> Steps[bytes]:
    """Run plain SETs of one pipeline in one transaction; when it fails, one by one, so that each has its own reply."""
    try:
        yield from put_all({key: value for _, key, value in sets}, now_us)
    except OrbitError as error:
        if error.sqlstate.startswith(("08", "57")):
            return errors.reply(error) * len(sets)
    else:
        return wire.OK * len(sets)
    replies: list[bytes] = []
    for _, key, value in sets:
        try:
            left_behind = yield from put_string(key, value, None)
            if left_behind:
                yield from clean(now_us, key)
            replies.append(wire.OK)
        except OrbitError as error:
            replies.append(errors.reply(error))
    return b"".join(replies)


def _msetnx(call: Call) -> Steps[bytes]:
    pairs = _pairs(call)
    if any(call.keys[key].exists for key in pairs):
        return wire.ZERO
    for key, value in pairs.items():
        yield from _assign(call, key, value, SetOptions())
    return wire.ONE


def _add_number(call: Call, by: int) -> bytes:
    entry = call.keys[call.words[1]]
    text = entry.string()
    old = 0 if text is None else wire.parse_int64(text)
    if old is None:
        raise not_an_integer()
    new = old + by
    if not MIN_INT64 <= new <= MAX_INT64:
        raise RedisError("ERR increment or decrement would overflow")
    entry.set_string(b"%d" % new)
    return wire.integer(new)


def _decrby(call: Call) -> bytes:
    by = to_int(call.words[2])
    if by == MIN_INT64:
        raise RedisError("ERR decrement would overflow")
    return _add_number(call, -by)


def _append(call: Call) -> bytes:
    entry = call.keys[call.words[1]]
    value = (entry.string() or b"") + call.words[2]
    limit = call.server.limits.max_bulk_bytes
    if len(value) > limit:
        raise RedisError("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    entry.set_string(value)
    return wire.integer(len(value))


def _strlen(call: Call) -> bytes:
    return wire.integer(len(call.keys[call.words[1]].string() or b""))


_R, _W = Access.READ, Access.WRITE
_ONE_KEY: Final = (1, 1, 1)


def _setter(name: str, arity: int, summary: str, body: Stepwise | Plain, direct: Direct | None = None) -> Command:
    """Return a command that sets one key, present or not."""
    return command(name, arity, _W, summary, body, keys=_ONE_KEY, creates=True, direct=direct)


COMMANDS: Final[tuple[Command, ...]] = (
    command("get", 2, _R, "Get the value of a key", _get, keys=_ONE_KEY, direct=_get_directly, flags=("fast",)),
    _setter("set", -3, "Set the string value of a key", _set, _set_directly),
    _setter("setnx", 3, "Set a key that does not exist", _setnx, _setnx_directly),
    _setter("setex", 4, "Set a key and its expiry in seconds", _setex, _setex_directly),
    _setter("psetex", 4, "Set a key and its expiry in milliseconds", _setex, _setex_directly),
    _setter("getset", 3, "Set a key and return its old value", _getset),
    command("getdel", 2, _W, "Get the value of a key and delete it", _getdel, keys=_ONE_KEY),
    command("mget", -2, _R, "Get the values of many keys", _mget, keys=(1, -1, 1), flags=("fast",)),
    command("mset", -3, _W, "Set many keys", _mset, keys=(1, -1, 2), creates=True, direct=_mset_directly),
    command("msetnx", -3, _W, "Set many keys if none exists", _msetnx, keys=(1, -1, 2), creates=True),
    _setter("incr", 2, "Add one", lambda call: _add_number(call, 1)),
    _setter("decr", 2, "Subtract one", lambda call: _add_number(call, -1)),
    _setter("incrby", 3, "Add a number", lambda call: _add_number(call, to_int(call.words[2]))),
    _setter("decrby", 3, "Subtract a number", _decrby),
    _setter("append", 3, "Append to a value", _append),
    command("strlen", 2, _R, "Get the length of a value", _strlen, keys=_ONE_KEY, flags=("fast",)),
)
