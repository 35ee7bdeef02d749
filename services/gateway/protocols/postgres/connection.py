"""One client's socket: framing, phases, the way to a session, and the end.

Owns the transport, the input buffer, what waits to be written, backpressure, TLS and authentication. What messages
do once a session is open is `adapter`'s. No task and no future is made for a message of an open session: replies
that became ready in one turn go out in one write.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import structlog

from orbit.kernel.errors import OrbitError
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.greeting import Greeting
from services.gateway.protocols.postgres.scram import AuthenticationFailed
from services.gateway.protocols.postgres.state import Event, Phase, after
from services.gateway.protocols.postgres.wire import ProtocolViolation, uint32_at
from services.storage.client import Session

if TYPE_CHECKING:
    from services.gateway.protocols.postgres.listener import PostgresListener

log = structlog.get_logger()

Self = TypeVar("Self", bound="Connection")
Handler = Callable[[Any, int, int], None]
"""Takes the connection and the bounds of a message's body in its buffer."""
Handlers = Mapping[int, Handler]

DRAIN_ON_CLOSE_S: Final = 10.0
"""How long a client may take to read its last messages."""
LARGE_MESSAGE_BYTES: Final = 64 * 1024
"""An incomplete message past this is collected in parts: joining it at each arrival would cost its square."""

MESSAGES_A_TURN: Final = 256
"""Answers gathered for one write, and so messages that a pipeline may run before others get their turn."""
LARGE_ANSWER_BYTES: Final = 64 * 1024
"""An answer past this is written at once, not gathered: what is gathered stays below a few megabytes."""

_SMALL: Final = frozenset(b"SHDCE")
_LOST: Final = "terminating connection because of an internal error"


class Connection(asyncio.Protocol):
    """See the module. Subclasses give `ready_handlers` and take the session over in `session_opened`."""

    def __init__(self, listener: PostgresListener) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._loop = asyncio.get_running_loop()
        self._phase = Phase.STARTUP
        self._greeting = Greeting(listener.mock_secret)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._handlers: Handlers = {}
        self._buffer = b""
        self._at = 0
        self._parts: list[bytes] = []
        self._missing = 0
        """Bytes that the large message in `_parts` still lacks."""
        self._intercept: Callable[[bytes], bytes] | None = None
        """Takes input before it is buffered, while a large message arrives in parts; returns what is left of it."""
        self._out: list[bytes] = []
        self._waiting = False
        """A message is under way: the next one must not start."""
        self._draining = False
        """The client leaves its answers unread."""
        self._reading = True
        self._encrypted = False
        self._asked: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._process_id = 0
        self._session: Session = cast("Session", None)

    # For subclasses.

    def session_opened(self) -> Handlers:
        """Return the handlers of an open session's messages."""
        raise NotImplementedError

    def session_closed(self) -> None:
        """The connection is ending: drop what belongs to the session."""

    def refused(self, kind: int, error: OrbitError) -> None:
        """A message of type `kind` of an open session raised."""
        raise NotImplementedError

    def part_of_message(self, kind: int, data: bytes) -> bool:
        """Take the first part of an incomplete message. False when it must be whole."""
        return False

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._listener.opened(cast("Any", self)):
            log.warning("postgres connection dropped", reason="far past the connection limit")
            self._transport.abort()
            return
        if (raw := transport.get_extra_info("socket")) is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes)
        self._deadline = self._loop.call_later(self._limits.authentication_timeout_s, self._too_slow)

    def connection_lost(self, error: Exception | None) -> None:
        self._end()
        self._listener.closed(cast("Any", self))

    def eof_received(self) -> bool:
        return False

    def data_received(self, data: bytes) -> None:
        if self._intercept is not None:
            data = self._intercept(data)
            if not data:
                return
        if self._at < len(self._buffer):
            self._buffer, self._at = self._buffer[self._at :] + data, 0
        else:
            self._buffer, self._at = data, 0
        if not self._waiting and not self._draining:
            self._process()
        elif len(self._buffer) - self._at > self._limits.pause_reading_bytes:
            self._read(False)

    def _rest_of_message(self, data: bytes) -> bytes:
        """Collect a large message; return it once it is whole."""
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return b""
        whole = b"".join(self._parts)
        self._parts, self._intercept = [], None
        return whole

    def pause_writing(self) -> None:
        self._draining = True
        self._read(False)

    def resume_writing(self) -> None:
        self._draining = False
        self._resume()

    # Buffers.

    def _read(self, wanted: bool) -> None:
        if wanted != self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _resume(self) -> None:
        """What was waited for is here: go on with the buffer, and with reading once it is empty."""
        if self._phase is Phase.CLOSED:
            return
        if not self._waiting and not self._draining:
            self._process()
        elif self._out:
            self._flush()
        if not self._reading and not self._waiting and not self._draining:
            self._read(True)

    def _flush(self) -> None:
        out = self._out
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._transport.write(data)

    def _send(self, message: bytes) -> None:
        """Write a message that belongs to no answer."""
        self._out.append(message)
        self._flush()

    def _process(self) -> None:
        """Run the messages of the buffer until one must wait, then write what they answered."""
        if self._phase is Phase.STARTUP and not self._first_packets():
            return
        buffer, at = self._buffer, self._at
        size = len(buffer)
        while size - at >= 5 and not self._waiting and not self._draining:
            kind = buffer[at]
            end = at + 1 + uint32_at(buffer, at + 1)[0]
            handler = self._handlers.get(kind)
            if handler is None or end > size or end - at < 5:
                self._incomplete(kind, at, end, handler)
                break
            self._at = end
            try:
                handler(self, at + 5, end)
            except OrbitError as error:
                self._failed(kind, error)
            except Exception:
                # A defect, here or in the session: what state it left behind is not known.
                log.exception("postgres message failed", kind=chr(kind))
                self.fatal(OrbitError(_LOST))
            at = self._at
            if len(self._out) > MESSAGES_A_TURN:
                self._yield_turn()
        if self._out:
            self._flush()

    def _yield_turn(self) -> None:
        """A long pipeline: send what there is, and let other connections have the event loop."""
        self._flush()
        if not self._waiting:
            self._waiting = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._waiting = False
        self._resume()

    def _incomplete(self, kind: int, at: int, end: int, handler: Handler | None) -> None:
        """A message that is not whole yet, or never will be."""
        length = end - at - 1
        if self._phase is Phase.CLOSED:
            return
        if handler is None:
            self.fatal(ProtocolViolation(f"invalid frontend message type {kind}"))
        elif length < 4 or length > self._longest(kind):
            self.fatal(ProtocolViolation("invalid message length"))
        elif self.part_of_message(kind, self._buffer[at + 5 :]):
            self._at = len(self._buffer)
        elif length > LARGE_MESSAGE_BYTES:
            rest = self._buffer[at:]
            self._parts, self._missing = [rest], length + 1 - len(rest)
            self._buffer, self._at = b"", 0
            self._intercept = self._rest_of_message

    def _longest(self, kind: int) -> int:
        if self._phase is Phase.PROVING or self._phase is Phase.IDENTIFYING:
            return self._limits.max_authentication_bytes
        return self._limits.max_small_message_bytes if kind in _SMALL else self._limits.max_message_bytes

    def _failed(self, kind: int, error: OrbitError) -> None:
        if self._phase is Phase.PROVING or error.severity == "FATAL":
            self._reject(error)
        else:
            self.refused(kind, error)

    # The end.

    def _move(self, event: Event) -> None:
        self._phase = after(self._phase, event)

    def fatal(self, error: OrbitError) -> None:
        """Tell the client why, and end the connection."""
        if self._phase is Phase.CLOSED:
            return
        error.severity = "FATAL"
        self._out.append(wire.error_response(error))
        if not self._transport.is_closing():
            self._flush()
        log.info("postgres connection ended", sqlstate=error.sqlstate, reason=error.message, user=self._greeting.user)
        self._close()

    def _close(self) -> None:
        """End the connection after what is written already."""
        self._end()
        if not self._transport.is_closing():
            self._transport.close()
            self._deadline = self._loop.call_later(DRAIN_ON_CLOSE_S, self._transport.abort)

    def _end(self) -> None:
        """Drop everything but the transport. From any phase, any number of times."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self._phase is Phase.CLOSED:
            return
        self._move(Event.CLOSE)
        self._handlers = {}
        self._buffer, self._at, self._parts, self._intercept = b"", 0, [], None
        self._out.clear()
        if self._process_id:
            self._listener.cancel_keys.forget(self._process_id)
        self.session_closed()
        session = cast("Session | None", self._session)
        if session is not None:
            session.close()
        if self._task is not None and self._task is not _current_task():
            self._task.cancel()

    def _too_slow(self) -> None:
        self.fatal(OrbitError("canceling authentication due to timeout", sqlstate="57014"))

    # The first packets.

    def _first_packets(self) -> bool:
        """Read packets without a type. Returns whether typed messages may follow in the buffer now."""
        while self._phase is Phase.STARTUP:
            waiting = len(self._buffer) - self._at
            if waiting < 8:
                return False
            (length,) = uint32_at(self._buffer, self._at)
            (code,) = uint32_at(self._buffer, self._at + 4)
            if not 8 <= length <= self._limits.max_startup_bytes:
                # No PostgreSQL client: it would not understand an answer either.
                self.fatal(ProtocolViolation("invalid length of startup packet"))
                return False
            if waiting < length:
                return False
            body = self._buffer[self._at + 8 : self._at + length]
            self._at += length
            try:
                self._first_packet(code, body)
            except OrbitError as error:
                self._reject(error)
                return False
        return not self._waiting and self._phase is not Phase.CLOSED

    def _first_packet(self, code: int, body: bytes) -> None:
        if code in (wire.SSL_REQUEST, wire.GSS_REQUEST):
            self._encryption_asked(code, body)
        elif code == wire.CANCEL_REQUEST:
            if len(body) >= 8 and not self._listener.cancel_keys.cancel(uint32_at(body)[0], body[4:]):
                log.info("cancel request refused", reason="wrong key")
            self._close()
        else:
            startup = wire.parse_startup(code, body)
            self._move(Event.STARTED)
            if self._listener.is_full():
                raise OrbitError("sorry, too many clients already", sqlstate="53300")
            if self._listener.require_tls and not self._encrypted:
                raise OrbitError("connection requires encryption: use sslmode=require", sqlstate="28000")
            if negotiation := self._greeting.start(startup):
                self._send(negotiation)
            self._in_background(self._identify())

    def _encryption_asked(self, code: int, body: bytes) -> None:
        if body or code in self._asked:
            raise ProtocolViolation("invalid request for encryption")
        self._asked.add(code)
        tls = self._listener.tls
        if code == wire.GSS_REQUEST or tls is None or self._encrypted:
            self._move(Event.TLS_REFUSED)
            self._send(wire.NO_ENCRYPTION)
            return
        if self._at < len(self._buffer):
            # Bytes sent ahead in the clear could pass for encrypted ones later.
            raise ProtocolViolation("received unencrypted data after SSL request")
        self._move(Event.TLS_WANTED)
        self._send(wire.ENCRYPTION)
        self._in_background(self._encrypt())

    def _in_background(self, step: Coroutine[Any, Any, None]) -> None:
        self._waiting = True
        self._task = self._loop.create_task(self._guarded(step))

    async def _guarded(self, step: Coroutine[Any, Any, None]) -> None:
        """Run one awaited step of the start-up, and go on with the buffer."""
        try:
            await step
        except OrbitError as error:
            self._reject(error)
            return
        except (OSError, ConnectionError) as error:
            log.info("postgres connection lost in start-up", reason=str(error))
            self._end()
            self._transport.abort()
            return
        except Exception:
            log.exception("postgres start-up failed")
            self._reject(OrbitError(_LOST))
            return
        self._task = None
        self._waiting = False
        self._resume()

    async def _encrypt(self) -> None:
        assert self._listener.tls is not None
        upgraded = await self._loop.start_tls(
            self._transport,
            self,
            self._listener.tls,
            server_side=True,
            ssl_handshake_timeout=self._limits.authentication_timeout_s,
        )
        if upgraded is None:
            raise ConnectionError("closed in the TLS handshake")
        self._transport = upgraded
        self._transport.set_write_buffer_limits(high=self._limits.write_buffer_bytes)
        self._encrypted = True
        self._move(Event.TLS_DONE)

    # Authentication.

    async def _identify(self) -> None:
        credentials = await self._listener.backend.credentials(self._greeting.user)
        if self._phase is Phase.CLOSED:
            return
        self._move(Event.IDENTIFIED)
        self._handlers = _FIRST_PROOF
        self._send(self._greeting.identify(credentials))

    def _on_first_proof(self, at: int, end: int) -> None:
        mechanism, data = wire.parse_sasl_initial(self._buffer, at, end)
        self._out.append(self._greeting.begin_proof(mechanism, data))
        self._handlers = _LAST_PROOF

    def _on_last_proof(self, at: int, end: int) -> None:
        greeting = self._greeting
        self._out.append(greeting.end_proof(self._buffer[at:end]))
        if greeting.database != self._listener.database:
            raise OrbitError(f'database "{greeting.database}" does not exist', sqlstate="3D000")
        self._session = self._listener.backend.open(
            greeting.user, greeting.database, greeting.settings, cast("Any", self)
        )
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._move(Event.PROVEN)
        self._handlers = self.session_opened()
        self._process_id, secret = self._listener.cancel_keys.register(cast("Any", self), long=greeting.long_key)
        self._out += [
            greeting.welcome(self._listener.version),
            wire.backend_key(self._process_id, secret),
            wire.READY[self._session.status],
        ]

    def _reject(self, error: OrbitError) -> None:
        """The client may not come in."""
        if isinstance(error, AuthenticationFailed):
            self._listener.metrics.authentication_failed()
        self.fatal(error)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _on_early_end(connection: Connection, at: int, end: int) -> None:
    connection._close()


_TERMINATE: Final = ord("X")
_FIRST_PROOF: Final[Handlers] = {ord("p"): Connection._on_first_proof, _TERMINATE: _on_early_end}
_LAST_PROOF: Final[Handlers] = {ord("p"): Connection._on_last_proof, _TERMINATE: _on_early_end}
