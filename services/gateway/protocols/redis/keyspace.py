"""Redis keys as rows: what a command sees of them, and the statements that read, lock and write them.

Owns the SQL over `redis.keys` and `redis.hash` (their shape: `orbit.kernel.redis_schema`) and the rule of each
access. Knows no command and no wire.

- A single read is one statement.
- Reads of several rows run in one REPEATABLE READ transaction: one state.
- Writes lock the rows of all their keys, in key order, before anything else. A key that is not there yet is
  locked by inserting a row of type `none`, which is gone or has become something when the transaction ends.
  Nothing else is locked first, so that Redis clients never deadlock among themselves, and READ COMMITTED shows
  the locked keys' newest state.

Commands change `Entry` objects in memory; `flush` writes what changed. All steps are generators (`Steps`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from struct import Struct
from typing import Final, TypeVar

from orbit.kernel.errors import OrbitError, SerializationFailure
from orbit.kernel.types import Oid
from services.gateway.conversation import BEGIN, BEGIN_SNAPSHOT, COMMIT, ROLLBACK, Query, Request, Result, Steps

T = TypeVar("T")

NONE: Final = b"none"
STRING: Final = b"string"
HASH: Final = b"hash"

MAX_ATTEMPTS: Final = 20
"""Times that a transaction is run before its conflict reaches the client."""
MAX_LOCK_ATTEMPTS: Final = 20
"""Times that a key may come and go between two statements of one lock."""
RETRYABLE: Final = frozenset({"40001", "40P01"})
SWEEP_KEYS: Final = 256
"""Expired keys that one transaction of the sweep deletes."""

_POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01 in microseconds since 1970: where binary timestamps count from."""
MAX_EXPIRY_US: Final = 9_223_371_331_200_000_000
"""The last timestamp of PostgreSQL, 294276-12-31, in microseconds since 1970."""
_INT8: Final = Struct(">q")

_KEY: Final = (Oid.BYTEA,)
_ROW: Final = (Oid.BYTEA, Oid.TEXT, Oid.BYTEA, Oid.INT8, Oid.TIMESTAMPTZ)
_FIELD: Final = (Oid.BYTEA, Oid.BYTEA)
_FIELD_VALUE: Final = (Oid.BYTEA, Oid.BYTEA, Oid.BYTEA)

GET: Final = Query("SELECT value, expires_at FROM redis.keys WHERE key = $1", _KEY)
READ: Final = Query("SELECT type, value, size, expires_at FROM redis.keys WHERE key = $1", _KEY)
LOCK: Final = Query("SELECT type, value, size, expires_at FROM redis.keys WHERE key = $1 FOR UPDATE", _KEY)
CLAIM: Final = Query(
    "INSERT INTO redis.keys (key, type, value, size, expires_at) VALUES ($1, 'none', NULL, 0, NULL)"
    " ON CONFLICT (key) DO NOTHING",
    _KEY,
)
INSERT: Final = Query("INSERT INTO redis.keys (key, type, value, size, expires_at) VALUES ($1, $2, $3, $4, $5)", _ROW)
ADD: Final = Query(INSERT.sql + " ON CONFLICT (key) DO NOTHING", _ROW)
PUT: Final = Query(
    INSERT.sql
    + " ON CONFLICT (key) DO UPDATE SET type = EXCLUDED.type, value = EXCLUDED.value, expires_at = EXCLUDED.expires_at"
    + " RETURNING size",
    _ROW,
)
"""Sets a string whatever was there. `size` keeps telling of a hash's fields that are still to be deleted."""
UPDATE: Final = Query("UPDATE redis.keys SET type = $2, value = $3, size = $4, expires_at = $5 WHERE key = $1", _ROW)
UPDATE_EXPIRY: Final = Query("UPDATE redis.keys SET expires_at = $2 WHERE key = $1", (Oid.BYTEA, Oid.TIMESTAMPTZ))
DELETE: Final = Query("DELETE FROM redis.keys WHERE key = $1", _KEY)

GET_FIELD: Final = Query("SELECT value FROM redis.hash WHERE key = $1 AND field = $2", _FIELD)
GET_FIELDS: Final = Query("SELECT field, value FROM redis.hash WHERE key = $1", _KEY)
INSERT_FIELD: Final = Query("INSERT INTO redis.hash (key, field, value) VALUES ($1, $2, $3)", _FIELD_VALUE)
UPDATE_FIELD: Final = Query("UPDATE redis.hash SET value = $3 WHERE key = $1 AND field = $2", _FIELD_VALUE)
DELETE_FIELD: Final = Query("DELETE FROM redis.hash WHERE key = $1 AND field = $2", _FIELD)
FIELD_NAMES: Final = Query("SELECT field FROM redis.hash WHERE key = $1", _KEY)

COUNT: Final = Query(
    "SELECT count(*), count(expires_at) FROM redis.keys WHERE expires_at IS NULL OR expires_at > $1", (Oid.TIMESTAMPTZ,)
)
LIST: Final = Query(
    "SELECT key, type FROM redis.keys WHERE expires_at IS NULL OR expires_at > $1 ORDER BY key", (Oid.TIMESTAMPTZ,)
)
PAGE: Final = Query(
    "SELECT key, type FROM redis.keys WHERE key > $1 AND (expires_at IS NULL OR expires_at > $2) ORDER BY key LIMIT $3",
    (Oid.BYTEA, Oid.TIMESTAMPTZ, Oid.INT8),
)
CLEAR: Final = Query("DELETE FROM redis.keys RETURNING key, size")
STALE: Final = Query(
    "SELECT key FROM redis.keys WHERE expires_at <= $1 OR (type = 'string' AND size > 0) ORDER BY key LIMIT $2",
    (Oid.TIMESTAMPTZ, Oid.INT8),
)


class RedisError(Exception):
    """An error reply: `message` starts with its code. Raised before the command has changed anything."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def wrong_type() -> RedisError:
    return RedisError("WRONGTYPE Operation against a key holding the wrong kind of value")


@dataclass(slots=True)
class Entry:
    """One key as its transaction sees it: what is there now, and what has to be written."""

    key: bytes
    type: bytes = NONE
    value: bytes | None = None
    size: int = 0
    """Rows in `redis.hash`."""
    expires_at_us: int | None = None
    stored: bool = False
    """Whether `redis.keys` has a row for it."""
    changed: bool = False
    expiry_changed: bool = False

    @property
    def exists(self) -> bool:
        return self.type is not NONE

    def string(self) -> bytes | None:
        """Return the string, or None when there is no key. Raises RedisError when the key is no string."""
        if self.type is HASH:
            raise wrong_type()
        return self.value

    def check_hash(self) -> None:
        """Raise RedisError when the key is there and no hash."""
        if self.type is STRING:
            raise wrong_type()

    def set_string(self, value: bytes) -> None:
        """Make the key a string. A hash's fields must have been deleted before."""
        assert self.size == 0
        self.type = STRING
        self.value = value
        self.changed = True

    def set_expiry(self, expires_at_us: int | None) -> None:
        if self.expires_at_us != expires_at_us:
            self.expires_at_us = expires_at_us
            self.expiry_changed = True

    def set_size(self, size: int) -> None:
        """Make the key a hash of this many fields; of none, it is gone."""
        self.size = size
        self.changed = True
        if size:
            self.type = HASH
        else:
            self.forget()

    def forget(self) -> None:
        """Make the key be absent. A hash's fields must have been deleted before."""
        assert self.size == 0
        self.type = NONE
        self.value = None
        self.expires_at_us = None
        self.changed = True

    def row(self) -> tuple[bytes | None, ...]:
        return self.key, self.type, self.value, int8(self.size), timestamp(self.expires_at_us)


class Keyspace:
    """The keys of one transaction (or of one single read), loaded before its commands run."""

    __slots__ = ("entries", "now_us")

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us
        self.entries: dict[bytes, Entry] = {}

    def __getitem__(self, key: bytes) -> Entry:
        """Return a loaded key."""
        return self.entries[key]

    def read(self, keys: Collection[bytes]) -> Steps[None]:
        """Load keys without a lock."""
        for key in keys:
            if key not in self.entries:
                result = yield READ, (key,)
                entry = self.entries[key] = self._visible(key, result)
                if entry.type is not HASH:
                    entry.size = 0  # fields that are still to be deleted are a writer's business

    def lock(self, keys: Collection[bytes], create: bool) -> Steps[None]:
        """Lock keys and load them; `create` also locks those that are not there."""
        for key in sorted(set(keys)):
            entry = yield from self._lock(key, create)
            self.entries[key] = entry
            if entry.size and entry.type is not HASH:
                yield from delete_fields(key)
                entry.size = 0

    def _lock(self, key: bytes, create: bool) -> Steps[Entry]:
        for _ in range(MAX_LOCK_ATTEMPTS):
            result = yield LOCK, (key,)
            if result.rows or not create:
                return self._visible(key, result)
            claimed = yield CLAIM, (key,)
            if claimed.row_count:
                return Entry(key, stored=True, changed=True)
        raise SerializationFailure("a key came and went too often to lock it")

    def _visible(self, key: bytes, result: Result) -> Entry:
        """Return the entry of a row. What has expired, or was left behind, is absent and waits to be deleted."""
        if not result.rows:
            return Entry(key)
        kind, value, size, expires = result.rows[0]
        assert kind is not None and size is not None
        expires_at_us = microseconds(expires)
        owned = from_int8(size)
        if expires_at_us is not None and expires_at_us <= self.now_us:
            return Entry(key, size=owned, stored=True, changed=True)
        if kind == STRING:
            return Entry(key, STRING, value, owned, expires_at_us, stored=True, changed=owned > 0)
        if kind == HASH:
            return Entry(key, HASH, None, owned, expires_at_us, stored=True)
        raise OrbitError(
            f"redis.keys holds a key of unknown type {kind.decode('utf-8', 'replace')!r}", sqlstate="XX001"
        )

    def flush(self) -> Steps[None]:
        """Write what the commands changed in the loaded keys."""
        for entry in self.entries.values():
            if not (entry.changed or entry.expiry_changed):
                continue
            if entry.type is NONE:
                if entry.stored:
                    yield DELETE, (entry.key,)
                    entry.stored = False
            elif not entry.stored:
                yield INSERT, entry.row()
                entry.stored = True
            elif entry.changed:
                yield UPDATE, entry.row()
            else:
                yield UPDATE_EXPIRY, (entry.key, timestamp(entry.expires_at_us))
            entry.changed = entry.expiry_changed = False

    def delete(self, entry: Entry) -> Steps[None]:
        """Delete a locked key and what it holds."""
        if entry.size:
            yield from delete_fields(entry.key)
            entry.size = 0
        entry.forget()

    def get_field(self, entry: Entry, field: bytes) -> Steps[bytes | None]:
        """Return a hash's field, or None. Raises RedisError when the key is no hash."""
        entry.check_hash()
        if not entry.size:
            return None
        result = yield GET_FIELD, (entry.key, field)
        return result.rows[0][0] if result.rows else None

    def put_field(self, entry: Entry, field: bytes, value: bytes) -> Steps[bool]:
        """Set a field of a locked hash; return whether it is new. The caller has checked the type."""
        if entry.size:
            result = yield UPDATE_FIELD, (entry.key, field, value)
            if result.row_count:
                return False
        yield INSERT_FIELD, (entry.key, field, value)
        entry.set_size(entry.size + 1)
        return True

    def get_fields(self, entry: Entry) -> Steps[list[tuple[bytes, bytes]]]:
        """Return a hash's fields and values. Raises RedisError when the key is no hash."""
        entry.check_hash()
        if not entry.size:
            return []
        result = yield GET_FIELDS, (entry.key,)
        return [(field, value) for field, value in result.rows if field is not None and value is not None]

    def clear(self) -> Steps[None]:
        """Delete all keys. Loaded entries become absent."""
        result = yield CLEAR, ()
        for key, size in result.rows:
            if key is not None and size is not None and from_int8(size):
                yield from delete_fields(key)
        for entry in self.entries.values():
            entry.size = 0
            entry.forget()
            entry.stored = False


def delete_fields(key: bytes) -> Steps[None]:
    """Delete all fields of a locked key: each by its own key, as a DELETE by a part of one looks at every row."""
    result = yield FIELD_NAMES, (key,)
    for row in result.rows:
        yield DELETE_FIELD, (key, row[0])


def put_string(key: bytes, value: bytes, expires_at_us: int | None) -> Steps[bool]:
    """Set a string whatever was there, in one statement. Returns whether a hash's fields were left behind."""
    result = yield PUT, (key, STRING, value, _ZERO, timestamp(expires_at_us))
    return result.rows[0][0] != _ZERO


def transaction(begin: Query, body: Callable[[], Steps[T]]) -> Steps[T]:
    """Run a body in a transaction, again when it met a conflict. Nothing has been answered before it returns."""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            return (yield from _once(begin, body))
        except OrbitError as error:
            if error.sqlstate not in RETRYABLE or attempt == MAX_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _once(begin: Query, body: Callable[[], Steps[T]]) -> Steps[T]:
    yield begin, ()
    try:
        value = yield from body()
        yield COMMIT, ()
    except (OrbitError, RedisError):
        yield ROLLBACK, ()
        raise
    return value


def snapshot(now_us: int, keys: Collection[bytes], body: Callable[[Keyspace], Steps[T]]) -> Steps[T]:
    """Run a reading body on one state of all keys."""

    def attempt() -> Steps[T]:
        keyspace = Keyspace(now_us)
        yield from keyspace.read(keys)
        return (yield from body(keyspace))

    return transaction(BEGIN_SNAPSHOT, attempt)


def locked(now_us: int, keys: Collection[bytes], create: bool, body: Callable[[Keyspace], Steps[T]]) -> Steps[T]:
    """Run a writing body with all its keys locked, and write what it changed."""

    def attempt() -> Steps[T]:
        keyspace = Keyspace(now_us)
        yield from keyspace.lock(keys, create)
        value = yield from body(keyspace)
        yield from keyspace.flush()
        return value

    return transaction(BEGIN, attempt)


def sweep(now_us: int) -> Steps[int]:
    """Delete some keys that have expired, and fields that were left behind. Returns how many keys were looked at."""
    result = yield STALE, (timestamp(now_us), int8(SWEEP_KEYS))
    keys = [row[0] for row in result.rows if row[0] is not None]
    if keys:
        yield from locked(now_us, keys, False, _nothing)
    return len(keys)


def clean(now_us: int, key: bytes) -> Steps[None]:
    """Delete the fields that a SET over a hash left behind."""
    return locked(now_us, (key,), False, _nothing)


def _nothing(keyspace: Keyspace) -> Generator[Request, Result, None]:
    """Locking alone finds what has expired, and `flush` deletes it."""
    yield from ()


def int8(value: int) -> bytes:
    return _INT8.pack(value)


def from_int8(data: bytes) -> int:
    value: int = _INT8.unpack(data)[0]
    return value


_ZERO: Final = int8(0)


def timestamp(time_us: int | None) -> bytes | None:
    """Return a timestamptz in binary."""
    return None if time_us is None else _INT8.pack(time_us - _POSTGRES_EPOCH_US)


def microseconds(data: bytes | None) -> int | None:
    """Return a binary timestamptz as microseconds since 1970."""
    return None if data is None else from_int8(data) + _POSTGRES_EPOCH_US
