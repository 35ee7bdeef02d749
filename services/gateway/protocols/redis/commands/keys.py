"""Commands on keys of any type: existence, deletion, expiry, listing.

Owns their options, replies and error texts, which are those of Redis 7.0, and the glob patterns of KEYS and SCAN.
"""

from __future__ import annotations

import re
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
    invalid_expire,
    syntax_error,
    to_int,
)
from services.gateway.protocols.redis.keyspace import (
    COUNT,
    LIST,
    MAX_EXPIRY_US,
    PAGE,
    RedisError,
    from_int8,
    int8,
    timestamp,
)


def _del(call: Call) -> Steps[bytes]:
    removed = 0
    for key in call.words[1:]:
        entry = call.keys[key]
        if entry.exists:
            removed += 1
            yield from call.keys.delete(entry)
    return wire.integer(removed)


def _exists(call: Call) -> bytes:
    return wire.integer(sum(call.keys[key].exists for key in call.words[1:]))


def _type(call: Call) -> bytes:
    return wire.simple(call.keys[call.words[1]].type)


_EXPIRE_UNITS: Final[dict[str, tuple[int, bool]]] = {
    "expire": (1000, True),
    "pexpire": (1, True),
    "expireat": (1000, False),
    "pexpireat": (1, False),
}


def _expire(call: Call) -> Steps[bytes]:
    conditions = _expire_conditions(call.words[3:])
    value = to_int(call.words[2])
    unit_ms, relative = _EXPIRE_UNITS[call.name]
    base_ms = call.now_ms if relative else 0
    if not MIN_INT64 // unit_ms <= value <= MAX_INT64 // unit_ms or value * unit_ms > MAX_INT64 - base_ms:
        raise invalid_expire(call.name)
    at_us = (value * unit_ms + base_ms) * 1000
    if at_us > MAX_EXPIRY_US:
        raise invalid_expire(call.name)
    entry = call.keys[call.words[1]]
    if not entry.exists or not _may_expire(conditions, entry.expires_at_us, at_us):
        return wire.ZERO
    if at_us <= call.now_us:
        yield from call.keys.delete(entry)
    else:
        entry.set_expiry(at_us)
    return wire.ONE


def _expire_conditions(words: list[bytes]) -> set[bytes]:
    conditions: set[bytes] = set()
    for word in words:
        option = word.upper()
        if option not in (b"NX", b"XX", b"GT", b"LT"):
            raise RedisError(f"ERR Unsupported option {word.decode('utf-8', 'surrogateescape')}")
        conditions.add(option)
    if b"NX" in conditions and len(conditions) > 1:
        raise RedisError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= conditions:
        raise RedisError("ERR GT and LT options at the same time are not compatible")
    return conditions


def _may_expire(conditions: set[bytes], current_us: int | None, new_us: int) -> bool:
    if b"NX" in conditions and current_us is not None:
        return False
    if b"XX" in conditions and current_us is None:
        return False
    if b"GT" in conditions and (current_us is None or new_us <= current_us):
        return False
    return not (b"LT" in conditions and current_us is not None and new_us >= current_us)


def _persist(call: Call) -> bytes:
    entry = call.keys[call.words[1]]
    if entry.expires_at_us is None:
        return wire.ZERO
    entry.set_expiry(None)
    return wire.ONE


def _ttl(call: Call) -> bytes:
    entry = call.keys[call.words[1]]
    if not entry.exists:
        return wire.integer(-2)
    if entry.expires_at_us is None:
        return wire.integer(-1)
    at_ms = entry.expires_at_us // 1000
    left_ms = at_ms if call.name.endswith("expiretime") else at_ms - call.now_ms
    return wire.integer(left_ms if call.name.startswith("p") else (left_ms + 500) // 1000)


def _dbsize(call: Call) -> Steps[bytes]:
    keys, _ = yield from count_keys(call)
    return wire.integer(keys)


def count_keys(call: Call) -> Steps[tuple[int, int]]:
    """Return how many keys there are, and how many of them expire."""
    yield from call.keys.flush()
    result = yield COUNT, (timestamp(call.now_us),)
    keys, expiring = result.rows[0]
    assert keys is not None and expiring is not None
    return from_int8(keys), from_int8(expiring)


def _keys(call: Call) -> Steps[bytes]:
    matches = glob(call.words[1]).fullmatch
    yield from call.keys.flush()
    result = yield LIST, (timestamp(call.now_us),)
    return wire.bulks([key for key, _ in result.rows if key is not None and matches(key)])


def _scan(call: Call) -> Steps[bytes]:
    after = _scan_start(call)
    matches, wanted, count = _scan_options(call)
    yield from call.keys.flush()
    page = max(count, call.server.limits.scan_page_keys)
    result = yield PAGE, (after, timestamp(call.now_us), int8(page))
    found = [
        key
        for key, kind in result.rows
        if key is not None and (matches is None or matches.fullmatch(key)) and wanted in (None, kind)
    ]
    cursor = 0
    if len(result.rows) == page:
        last = result.rows[-1][0]
        assert last is not None
        cursor = call.server.open_cursor(last)
    return wire.array([wire.bulk(b"%d" % cursor), wire.bulks(found)])


def _scan_start(call: Call) -> bytes:
    """Return the key behind which the cursor's page starts. Raises RedisError."""
    word = call.words[1]
    if not word.isdigit() or len(word) > 20 or int(word) >= 1 << 64:
        raise RedisError("ERR invalid cursor")
    if int(word) == 0:
        return b""
    after = call.server.cursor(int(word))
    if after is None:
        raise RedisError("ERR invalid cursor: it was opened at another gateway, or too many were opened since")
    return after


def _scan_options(call: Call) -> tuple[re.Pattern[bytes] | None, bytes | None, int]:
    """Return SCAN's pattern, type and count. Raises RedisError."""
    pattern: re.Pattern[bytes] | None = None
    wanted: bytes | None = None
    count = 10
    words = call.words[2:]
    for at in range(0, len(words), 2):
        if at + 1 == len(words):
            raise syntax_error()
        option, value = words[at].upper(), words[at + 1]
        if option == b"COUNT":
            count = to_int(value)
            if count < 1:
                raise syntax_error()
        elif option == b"MATCH":
            pattern = glob(value)
        elif option == b"TYPE":
            wanted = value.lower()
        else:
            raise syntax_error()
    return pattern, wanted, min(count, call.server.limits.max_arguments)


def _flush(call: Call) -> Steps[bytes]:
    if len(call.words) > 2 or (len(call.words) == 2 and call.words[1].upper() not in (b"SYNC", b"ASYNC")):
        raise syntax_error()
    yield from call.keys.clear()
    return wire.OK


def glob(pattern: bytes) -> re.Pattern[bytes]:
    r"""Return a Redis pattern as a regular expression: `*`, `?`, `[abc]`, `[^a-c]`, and `\` before any of them."""
    parts: list[bytes] = []
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            if not parts or parts[-1] != b".*":
                parts.append(b".*")
        elif char == b"?":
            parts.append(b".")
        elif char == b"[":
            at = _glob_class(pattern, at, parts)
        else:
            if char == b"\\" and at < len(pattern):
                char = pattern[at : at + 1]
                at += 1
            parts.append(re.escape(char))
    return re.compile(b"".join(parts), re.DOTALL)


def _glob_class(pattern: bytes, at: int, parts: list[bytes]) -> int:
    """Append the class that starts at `at`, behind its bracket; return where the pattern goes on."""
    size = len(pattern)
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < size and pattern[at] != 0x5D:  # ]
        if pattern[at] == 0x5C and at + 1 < size:  # backslash
            members.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < size:
            low, high = sorted((pattern[at], pattern[at + 2]))
            members.update(range(low, high + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    if members:
        body = b"".join(b"\\x%02x" % member for member in sorted(members))
        parts.append(b"[" + (b"^" if negated else b"") + body + b"]")
    else:
        parts.append(b"." if negated else b"(?!)")
    return at + 1


_R, _W = Access.READ, Access.WRITE
_ONE_KEY: Final = (1, 1, 1)
_ALL_KEYS: Final = (1, -1, 1)

COMMANDS: Final[tuple[Command, ...]] = (
    command("del", -2, _W, "Delete keys", _del, keys=_ALL_KEYS),
    command("unlink", -2, _W, "Delete keys", _del, keys=_ALL_KEYS),
    command("exists", -2, _R, "Count the keys that exist", _exists, keys=_ALL_KEYS),
    command("type", 2, _R, "Get the type of a key", _type, keys=_ONE_KEY),
    command("expire", -3, _W, "Set a key's time to live in seconds", _expire, keys=_ONE_KEY),
    command("pexpire", -3, _W, "Set a key's time to live in milliseconds", _expire, keys=_ONE_KEY),
    command("expireat", -3, _W, "Set a key's expiry as a Unix time", _expire, keys=_ONE_KEY),
    command("pexpireat", -3, _W, "Set a key's expiry as a Unix time in milliseconds", _expire, keys=_ONE_KEY),
    command("persist", 2, _W, "Remove a key's expiry", _persist, keys=_ONE_KEY),
    command("ttl", 2, _R, "Get a key's time to live in seconds", _ttl, keys=_ONE_KEY),
    command("pttl", 2, _R, "Get a key's time to live in milliseconds", _ttl, keys=_ONE_KEY),
    command("expiretime", 2, _R, "Get a key's expiry as a Unix time", _ttl, keys=_ONE_KEY),
    command("pexpiretime", 2, _R, "Get a key's expiry as a Unix time in milliseconds", _ttl, keys=_ONE_KEY),
    command("dbsize", 1, _R, "Count the keys", _dbsize),
    command("keys", 2, _R, "List the keys that match a pattern", _keys),
    command("scan", -2, _R, "List keys in pages", _scan),
    command("flushdb", -1, _W, "Delete all keys", _flush),
    command("flushall", -1, _W, "Delete all keys", _flush),
)
