"""What a command is, and how one becomes storage work.

Owns the `Command` record, the `Call` that a command sees, and the choice of access: no storage, one statement,
a snapshot, or a transaction over locked keys. Knows no particular command.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial
from typing import Final, cast

from services.gateway.conversation import BEGIN, BEGIN_SNAPSHOT, Steps
from services.gateway.protocols.redis import wire
from services.gateway.protocols.redis.keyspace import Keyspace, RedisError, locked, snapshot, transaction
from services.gateway.protocols.redis.limits import RedisLimits
from services.gateway.protocols.redis.wire import Resp

Words = list[bytes]
"""A command as received: its name and its arguments."""

MAX_INT64: Final = (1 << 63) - 1
MIN_INT64: Final = -(1 << 63)


class Access(Enum):
    """What a command does to storage."""

    SESSION = auto()
    """Nothing; it changes the connection, which handles it itself."""
    LOCAL = auto()
    """Nothing."""
    READ = auto()
    WRITE = auto()


@dataclass(slots=True)
class Client:
    """The connection, as commands may know it."""

    id: int
    address: str
    user: str = ""
    name: bytes = b""
    library: dict[bytes, bytes] = field(default_factory=dict)
    resp: Resp = wire.RESP2


class Server:
    """The listener, as commands may know it: limits, facts, and the open SCAN positions."""

    def __init__(self, limits: RedisLimits, facts: Callable[[], dict[str, str]]) -> None:
        self.limits = limits
        self.facts = facts
        """Lines of INFO's section `server` and `clients`, by name."""
        self._cursors: OrderedDict[int, bytes] = OrderedDict()
        self._last_cursor = 0

    def open_cursor(self, last_key: bytes) -> int:
        """Return a number that stands for the position behind this key."""
        self._last_cursor += 1
        self._cursors[self._last_cursor] = last_key
        if len(self._cursors) > self.limits.max_scan_cursors:
            self._cursors.popitem(last=False)
        return self._last_cursor

    def cursor(self, number: int) -> bytes | None:
        """Return the key behind which the cursor goes on, or None when it is not known (any more)."""
        return self._cursors.get(number)


@dataclass(slots=True)
class Call:
    """One command with all that it may look at."""

    words: Words
    client: Client
    server: Server
    keys: Keyspace

    @property
    def resp(self) -> Resp:
        return self.client.resp

    @property
    def now_us(self) -> int:
        return self.keys.now_us

    @property
    def now_ms(self) -> int:
        return self.keys.now_us // 1000

    @property
    def name(self) -> str:
        return self.words[0].decode("ascii", "replace").lower()


Plain = Callable[[Call], bytes]
Stepwise = Callable[[Call], Steps[bytes]]
Direct = Callable[[Call], "Steps[bytes] | None"]


@dataclass(frozen=True, slots=True)
class Command:
    """One command, described as Redis' own COMMAND describes it."""

    name: str
    arity: int
    """Words with the name; negative: at least so many."""
    access: Access
    summary: str
    flags: tuple[str, ...]
    first_key: int
    last_key: int
    step: int
    creates: bool
    """Whether it can make a key that was not there, so that an absent key must be locked too."""
    run: Stepwise | None
    statements: int
    """1 when it needs statements of its own beyond its loaded keys."""
    direct: Direct | None
    """A shorter way for a call that stands alone; it may say None."""

    def key_words(self, words: Words) -> Sequence[bytes]:
        """Return the keys among the words."""
        if self.first_key == 0:
            return ()
        last = self.last_key if self.last_key > 0 else len(words) + self.last_key
        return words[self.first_key : last + 1 : self.step]

    def accepts(self, count: int) -> bool:
        """Return whether a call may have this many words."""
        return count == self.arity if self.arity > 0 else count >= -self.arity


def command(
    name: str,
    arity: int,
    access: Access,
    summary: str,
    body: Plain | Stepwise | None,
    *,
    keys: tuple[int, int, int] = (0, 0, 0),
    creates: bool = False,
    direct: Direct | None = None,
    flags: tuple[str, ...] = (),
) -> Command:
    """Return the record of a command. `keys` are the positions of its first and last key and the step between."""
    own = {Access.READ: ("readonly",), Access.WRITE: ("write",)}.get(access, ())
    stepwise = inspect.isgeneratorfunction(body)
    run: Stepwise | None
    if body is None or stepwise:
        run = cast("Stepwise | None", body)
    else:
        run = partial(_plain, cast(Plain, body))
    return Command(name, arity, access, summary, (*own, *flags), *keys, creates, run, 1 if stepwise else 0, direct)


def _plain(body: Plain, call: Call) -> Steps[bytes]:
    yield from ()
    return body(call)


def alone(cmd: Command, call: Call) -> Steps[bytes]:
    """Return the work of a command that stands outside MULTI."""
    run = cmd.run
    assert run is not None
    if cmd.direct is not None:
        steps = cmd.direct(call)
        if steps is not None:
            return steps
    if cmd.access is Access.LOCAL:
        return run(call)
    keys = dict.fromkeys(cmd.key_words(call.words))
    if cmd.access is Access.WRITE:
        return locked(call.now_us, keys, cmd.creates, partial(_with_keys, run, call))
    if len(keys) + cmd.statements > 1:
        return snapshot(call.now_us, keys, partial(_with_keys, run, call))
    return _read_one(run, call, tuple(keys))


def _read_one(run: Stepwise, call: Call, keys: Sequence[bytes]) -> Steps[bytes]:
    yield from call.keys.read(keys)
    return (yield from run(call))


def _with_keys(run: Stepwise, call: Call, keys: Keyspace) -> Steps[bytes]:
    call.keys = keys
    return (yield from run(call))


def together(queue: Sequence[tuple[Command, Call]], now_us: int) -> Steps[bytes]:
    """Return the work of EXEC: all commands in one transaction, on one state of their keys."""
    writes = any(cmd.access is Access.WRITE for cmd, _ in queue)
    keys = dict.fromkeys(key for cmd, call in queue for key in cmd.key_words(call.words))

    def attempt() -> Steps[bytes]:
        keyspace = Keyspace(now_us)
        if writes:
            yield from keyspace.lock(keys, create=True)
        else:
            yield from keyspace.read(keys)
        replies: list[bytes] = []
        for cmd, call in queue:
            call.keys = keyspace
            assert cmd.run is not None
            try:
                replies.append((yield from cmd.run(call)))
            except RedisError as error:
                replies.append(wire.error(error.message))
        yield from keyspace.flush()
        return wire.array(replies)

    if all(cmd.access is Access.LOCAL for cmd, _ in queue):
        return attempt()
    return transaction(BEGIN if writes else BEGIN_SNAPSHOT, attempt)


def syntax_error() -> RedisError:
    return RedisError("ERR syntax error")


def not_an_integer() -> RedisError:
    return RedisError("ERR value is not an integer or out of range")


def wrong_arguments(name: str) -> RedisError:
    return RedisError(f"ERR wrong number of arguments for '{name}' command")


def invalid_expire(name: str) -> RedisError:
    return RedisError(f"ERR invalid expire time in '{name}' command")


def to_int(word: bytes) -> int:
    """Return a 64-bit integer argument. Raises RedisError."""
    value = wire.parse_int64(word)
    if value is None:
        raise not_an_integer()
    return value
