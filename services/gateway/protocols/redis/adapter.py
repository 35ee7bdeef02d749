"""One Redis client's connection: bytes to commands, commands to storage work, replies to bytes.

Owns the connection's state and the running of its commands, one after the other, in order. No task and no
future is made for a command: its work is a generator that is driven from the socket's and the session's
call-backs, and with a session that answers at once a whole pipeline runs in one call. What became ready in one
turn of the event loop goes out in one write.

Backpressure: a client that does not drain its replies has no more commands run, and a busy connection with
much unread input stops reading.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

import structlog

from orbit.kernel.errors import OrbitError
from services.gateway.conversation import Steps
from services.gateway.protocols.redis import errors, wire
from services.gateway.protocols.redis.commands.command import (
    Access,
    Call,
    Client,
    Command,
    Words,
    alone,
    together,
)
from services.gateway.protocols.redis.commands.server import COMPATIBLE_VERSION, checked_name
from services.gateway.protocols.redis.commands.strings import set_many
from services.gateway.protocols.redis.commands.table import find
from services.gateway.protocols.redis.driver import Driver
from services.gateway.protocols.redis.keyspace import Keyspace, RedisError
from services.gateway.protocols.redis.state import Event, State, after
from services.gateway.protocols.redis.wire import ProtocolError, RequestParser
from services.storage.client import Session, SessionOwner

if TYPE_CHECKING:
    from services.gateway.protocols.redis.listener import RedisListener

log = structlog.get_logger()

MAX_MERGED_SETS: Final = 128
"""Plain SETs of a pipeline that share one transaction, and so one append to the log."""
LARGE_REPLY_BYTES: Final = 64 * 1024
"""A reply past this is written at once, not gathered with others."""
_NOAUTH: Final = wire.error("NOAUTH Authentication required.")
_EXEC_NOAUTH: Final = wire.error("EXECABORT Transaction discarded because of: NOAUTH Authentication required.")
_HELLO_NOAUTH: Final = wire.error(
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> "
    "<pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
)
_WRONGPASS: Final = wire.error("WRONGPASS invalid username-password pair or user is disabled.")


class RedisConnection(asyncio.Protocol):
    """A connection, from accept to close."""

    def __init__(self, listener: RedisListener, client_id: int) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._client = Client(client_id, "")
        self._state = State.UNAUTHENTICATED
        self._parser = RequestParser(listener.limits)
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._held: Words | None = None
        """A command that was read ahead."""
        self._broken: ProtocolError | None = None
        """What reading ahead ran into."""
        self._waiting = False
        """Whether a command is under way: the next one must not start."""
        self._draining = False
        """Whether the client leaves its replies unread."""
        self._reading_paused = False
        self._turn_scheduled = False
        self._failed_auths = 0
        self._auth: asyncio.Task[None] | None = None
        self._auth_timeout: asyncio.TimerHandle | None = None
        self._queue: list[tuple[Command, Call]] = []
        self._queued_bytes = 0
        self._driver = Driver(self._open_session, self._finished, self._ended)

    # What the socket calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes)
        peer = transport.get_extra_info("peername")
        self._client.address = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "unix"
        if not self._listener.joined(self):
            self._out.append(wire.error("ERR max number of clients reached"))
            self._close()
            return
        self._auth_timeout = asyncio.get_running_loop().call_later(self._limits.auth_timeout_s, self._auth_timed_out)

    def data_received(self, data: bytes) -> None:
        self._parser.feed(data)
        if not self._waiting:
            self._work()
        elif self._parser.buffered_bytes > self._limits.pause_reading_bytes:
            self._pause_reading()

    def pause_writing(self) -> None:
        self._draining = True
        self._pause_reading()

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._draining = False
        if not self._waiting:
            self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        self._transport = None
        self._listener.left(self)

    def shut_down(self) -> None:
        """End the connection after the replies that are ready."""
        self._close()

    # Running commands.

    def _work(self) -> None:
        """Run what has been received, until a command must wait."""
        budget = self._limits.commands_per_turn
        while not self._waiting and not self._draining and self._state is not State.CLOSED:
            if not budget:
                self._schedule_turn()
                break
            budget -= 1
            try:
                words = self._next()
            except ProtocolError as error:
                self._out.append(wire.error(f"ERR Protocol error: {error.message}"))
                self._close()
                break
            if words is None:
                break
            self._listener.commands += 1
            try:
                self._dispatch(words)
            except RedisError as error:
                self._out.append(wire.error(error.message))
            if self._out and len(self._out[-1]) > LARGE_REPLY_BYTES:
                self._flush()  # the transport tells by `pause_writing` when it is too much
        self._flush()
        if self._reading_paused and not self._waiting and not self._draining and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

    def _next(self) -> Words | None:
        if self._held is not None:
            words, self._held = self._held, None
            return words
        if self._broken is not None:
            raise self._broken
        return self._parser.next()

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._turn_scheduled = False
        if not self._waiting:
            self._work()

    def _dispatch(self, words: Words) -> None:
        """Run or queue one command. Raises RedisError for its error reply."""
        queueing = self._state in (State.MULTI, State.MULTI_BROKEN)
        try:
            command = find(words)
        except RedisError:
            if queueing:
                self._state = after(self._state, Event.REFUSED)
            raise
        if self._state is State.UNAUTHENTICATED and "no_auth" not in command.flags:
            self._out.append(_EXEC_NOAUTH if command.name == "exec" else _NOAUTH)
        elif command.access is Access.SESSION:
            self._run_session_command(command, words)
        elif queueing:
            self._enqueue(command, words)
        elif command.name == "set" and len(words) == 3:
            self._run_sets(command, words)
        else:
            self._start(alone(command, self._call(words)))

    def _call(self, words: Words) -> Call:
        listener = self._listener
        return Call(words, self._client, listener.server, Keyspace(listener.clock.now_us()))

    def _run_sets(self, command: Command, words: Words) -> None:
        """Run a plain SET, together with those that directly follow it in the pipeline."""
        sets = [words]
        while len(sets) < MAX_MERGED_SETS:
            try:
                following = self._parser.next()
            except ProtocolError as error:
                self._broken = error  # raised when its turn comes
                break
            if following is None:
                break
            if len(following) != 3 or following[0].lower() != b"set":
                self._held = following
                break
            sets.append(following)
        call = self._call(words)
        if len(sets) == 1:
            self._start(alone(command, call))
        else:
            self._listener.commands += len(sets) - 1
            self._start(set_many(sets, call.now_us))

    def _enqueue(self, command: Command, words: Words) -> None:
        self._queued_bytes += sum(map(len, words))
        full = len(self._queue) >= self._limits.max_queued_commands
        if full or self._queued_bytes > self._limits.max_queued_bytes:
            self._state = after(self._state, Event.REFUSED)
            self._queue.clear()
            raise RedisError("ERR too many commands in one transaction")
        if self._state is State.MULTI:
            self._queue.append((command, self._call(words)))
        self._out.append(wire.QUEUED)

    # Commands that change the connection.

    def _run_session_command(self, command: Command, words: Words) -> None:
        name = command.name
        if self._state in (State.MULTI, State.MULTI_BROKEN) and name in ("auth", "hello"):
            self._state = after(self._state, Event.REFUSED)
            raise RedisError("ERR Command not allowed inside a transaction")
        if name == "auth":
            self._authenticate_command(words)
        elif name == "hello":
            self._hello(words)
        elif name == "quit":
            self._out.append(wire.OK)
            self._close()
        elif name == "multi":
            if self._state is not State.READY:
                raise RedisError("ERR MULTI calls can not be nested")
            self._state = after(self._state, Event.MULTI)
            self._out.append(wire.OK)
        elif name == "exec":
            self._exec()
        elif name == "discard":
            if self._state is State.READY:
                raise RedisError("ERR DISCARD without MULTI")
            self._leave_multi(Event.DISCARD)
            self._out.append(wire.OK)
        elif name == "watch" and self._state is not State.READY:
            raise RedisError("ERR WATCH inside MULTI is not allowed")
        else:
            raise RedisError(f"ERR {name.upper()} is not supported yet (SQLSTATE 0A000)")

    def _exec(self) -> None:
        if self._state is State.READY:
            raise RedisError("ERR EXEC without MULTI")
        broken = self._state is State.MULTI_BROKEN
        queue = self._leave_multi(Event.EXEC)
        if broken:
            raise RedisError("EXECABORT Transaction discarded because of previous errors.")
        self._start(together(queue, self._listener.clock.now_us()))

    def _leave_multi(self, event: Event) -> list[tuple[Command, Call]]:
        self._state = after(self._state, event)
        queue, self._queue = self._queue, []
        self._queued_bytes = 0
        return queue

    def _authenticate_command(self, words: Words) -> None:
        if len(words) > 3:
            raise RedisError("ERR syntax error")
        user = words[1] if len(words) == 3 else self._listener.default_user.encode()
        self._begin_authentication(user, words[-1], lambda: wire.OK)

    def _begin_authentication(self, user: bytes, password: bytes, then: Callable[[], bytes]) -> None:
        self._waiting = True
        self._auth = asyncio.get_running_loop().create_task(self._authenticate(user, password, then))

    async def _authenticate(self, user: bytes, password: bytes, then: Callable[[], bytes]) -> None:
        name = user.decode("utf-8", "replace")
        address = self._client.address.rpartition(":")[0]
        try:
            await self._listener.authenticator.authenticate(name, password.decode("utf-8", "replace"), address)
        except OrbitError as error:
            self._rejected(name, error)
        except Exception:
            log.exception("redis authentication failed unexpectedly", user=name)
            self._out.append(wire.error("ERR internal error (SQLSTATE XX000)"))
            self._close()
        else:
            self._accepted(name)
            self._out.append(then())
        self._waiting = False
        self._work()

    def _accepted(self, user: str) -> None:
        self._state = after(self._state, Event.AUTHENTICATED)
        self._parser.authenticated = True
        self._failed_auths = 0
        if self._auth_timeout is not None:
            self._auth_timeout.cancel()
            self._auth_timeout = None
        if user != self._client.user:
            self._driver.drop()
            self._client.user = user

    def _rejected(self, user: str, error: OrbitError) -> None:
        self._state = after(self._state, Event.REJECTED)
        self._parser.authenticated = False
        self._driver.drop()
        self._client.user = ""
        if error.sqlstate.startswith("28"):
            log.info("redis authentication failed", user=user, address=self._client.address)
            self._out.append(_WRONGPASS)
            self._failed_auths += 1
            if self._failed_auths >= self._limits.max_failed_auths:
                self._close()
        else:
            self._out.append(errors.reply(error))

    def _auth_timed_out(self) -> None:
        if self._state is State.UNAUTHENTICATED:
            log.info("redis client did not authenticate in time", address=self._client.address)
            self._close()

    def _hello(self, words: Words) -> None:
        version: int | None = None
        if len(words) > 1:
            version = wire.parse_int64(words[1])
            if version is None:
                raise RedisError("ERR Protocol version is not an integer or out of range")
            if version not in (2, 3):
                raise RedisError("NOPROTO unsupported protocol version")
        login: tuple[bytes, bytes] | None = None
        name: bytes | None = None
        at = 2
        while at < len(words):
            option = words[at].upper()
            if option == b"AUTH" and at + 2 < len(words):
                login = words[at + 1], words[at + 2]
                at += 3
            elif option == b"SETNAME" and at + 1 < len(words):
                name = checked_name(words[at + 1])
                at += 2
            else:
                shown = words[at].decode("utf-8", "surrogateescape")
                raise RedisError(f"ERR Syntax error in HELLO option '{shown}'")

        def finish() -> bytes:
            if name is not None:
                self._client.name = name
            if version is not None:
                self._client.resp = wire.RESP3 if version == 3 else wire.RESP2
            return self._greeting()

        if login is not None:
            self._begin_authentication(*login, finish)
        elif self._state is State.UNAUTHENTICATED:
            self._out.append(_HELLO_NOAUTH)
        else:
            self._out.append(finish())

    def _greeting(self) -> bytes:
        resp = self._client.resp
        facts: Sequence[tuple[bytes, bytes]] = (
            (b"server", wire.bulk(b"orbit")),
            (b"version", wire.bulk(COMPATIBLE_VERSION.encode())),
            (b"proto", wire.integer(resp.version)),
            (b"id", wire.integer(self._client.id)),
            (b"mode", wire.bulk(b"standalone")),
            (b"role", wire.bulk(b"master")),
            (b"modules", wire.EMPTY_ARRAY),
        )
        return resp.map([item for name, value in facts for item in (wire.bulk(name), value)])

    # Storage work.

    def _start(self, steps: Steps[bytes]) -> None:
        self._waiting = True
        reply = self._driver.start(steps)
        if reply is not None:
            self._waiting = False
            self._out.append(reply)

    def _finished(self, reply: bytes) -> None:
        """The driver's call: the command that had to wait is done."""
        self._waiting = False
        self._out.append(reply)
        self._work()

    def _ended(self, reply: bytes) -> None:
        """The driver's call: the session is gone, or of no more use."""
        if reply:
            self._out.append(reply)
        self._close()

    def _open_session(self, owner: SessionOwner) -> Session:
        listener = self._listener
        return listener.backend.open(self._client.user, listener.database, {"application_name": "redis"}, owner)

    # The end.

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out) if len(self._out) > 1 else self._out[0])
        self._out.clear()

    def _close(self) -> None:
        """Send what is ready and end."""
        self._flush()
        transport = self._transport
        self._end()
        if transport is not None:
            transport.close()

    def _end(self) -> None:
        self._state = after(self._state, Event.CLOSE)
        self._queue.clear()
        self._held = None
        if self._auth_timeout is not None:
            self._auth_timeout.cancel()
            self._auth_timeout = None
        if self._auth is not None and self._auth is not asyncio.current_task():
            self._auth.cancel()
        self._driver.drop()
