"""One NATS connection for the hot paths: publish without a task, subscribe with a callback, reconnect.

Owns the connection's life: login, TLS, liveness, reconnection, subscriptions that come back. Knows no JetStream;
`services.storage.log` speaks that over it. Nothing that was published is ever sent twice: what was on its way when
a connection broke is the business of who sent it, who learns of the break through `on_state`.

Other users, with rates of hundreds a second, take the full client from `open_client`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import msgspec
import structlog

from orbit.chassis import nats_wire as wire

if TYPE_CHECKING:
    from nats.aio.client import Client

log = structlog.get_logger(__name__)

DEFAULT_PORT: Final = 4222
CONNECT_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0
PING_INTERVAL_S: Final = 2.0
MAX_PINGS_OUT: Final = 2
"""A connection that answers none of these is dead: noticed after (MAX_PINGS_OUT + 1) * PING_INTERVAL_S."""
RECONNECT_FIRST_S: Final = 0.02
RECONNECT_LAST_S: Final = 1.0
MAX_UNSENT_BYTES: Final = 64 << 20
"""What may wait for a slow server; a publisher past it is refused."""
REQUEST_TIMEOUT_S: Final = 5.0

assert RECONNECT_FIRST_S < RECONNECT_LAST_S

Receiver = Callable[[bytes, bytes, bytes, bytes], None]
"""Called from the event loop with (subject, reply, headers, data); must not block."""


class NatsError(Exception):
    """What went wrong between us and the NATS servers."""


class NatsUnreachable(NatsError):
    """No server answered, or none let us in; the message names them."""


class NatsDisconnected(NatsError):
    """There is no connection now: nothing was sent."""


class NatsTimeout(NatsError):
    """No answer in time."""


class NoResponders(NatsError):
    """Nobody listens on the subject: the request reached no one."""


@dataclass(frozen=True, slots=True)
class NatsOptions:
    """How to reach the servers. `servers` are `host:port` or `nats://host:port`; `tls` set means TLS or nothing."""

    servers: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None
    name: str = "orbit"
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    ping_interval_s: float = PING_INTERVAL_S

    def __post_init__(self) -> None:
        if not self.servers:
            raise ValueError("no NATS servers given")

    def addresses(self) -> list[tuple[str, int]]:
        """Return (host, port) of each server. Raises ValueError for one that is not an address."""
        parsed = [urlsplit(server if "//" in server else f"//{server}") for server in self.servers]
        return [(one.hostname or "127.0.0.1", one.port or DEFAULT_PORT) for one in parsed]


class ServerInfo(msgspec.Struct, frozen=True):
    """What we read of the server's INFO."""

    server_name: str = ""
    version: str = ""
    max_payload: int = 1 << 20
    tls_required: bool = False
    tls_available: bool = False


_decode_info = msgspec.json.Decoder(ServerInfo).decode


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a request."""

    headers: bytes
    data: bytes


@dataclass(slots=True)
class _Subscription:
    subject: bytes
    receiver: Receiver


class NatsConnection:
    """A connection that is kept up. All methods belong to one event loop."""

    def __init__(self, options: NatsOptions) -> None:
        self.options = options
        self.server = ServerInfo()
        """The server that we are, or were last, connected to."""
        self._transport: asyncio.WriteTransport | None = None
        """Set only while connected, logged in and subscribed."""
        self._link: _Link | None = None
        self._subscriptions: dict[bytes, _Subscription] = {}
        self._next_sid = 0
        self._listeners: list[Callable[[bool], None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._inbox = b"_INBOX." + secrets.token_hex(11).encode() + b"."
        self._next_request = 0
        self._requests: dict[bytes, asyncio.Future[Reply]] = {}

    @property
    def connected(self) -> bool:
        return self._transport is not None

    async def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Connect to one of the servers, trying again until `timeout_s` has passed. Raises NatsUnreachable."""
        assert self._keeper is None, "connect once"
        self.subscribe(self._inbox + b"*", self._answered)
        deadline = asyncio.get_running_loop().time() + timeout_s
        link = await self._connect_any(deadline)
        self._keeper = asyncio.create_task(self._keep(link), name=f"nats {self.options.name}")

    async def close(self) -> None:
        """Disconnect for good; what was written is sent first."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        link = self._link
        if link is not None and link.transport is not None:
            link.transport.close()
            try:
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await link.closed.wait()
            except TimeoutError:
                link.abort("the server did not take the rest in time")
        self._lost()

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"", headers: bytes = b"") -> None:
        """Send one message, at most once. Raises NatsDisconnected when nothing was sent."""
        transport = self._transport
        if transport is None:
            raise NatsDisconnected(f"not connected to NATS ({', '.join(self.options.servers)})")
        if len(payload) < wire.COPY_LIMIT_BYTES:
            transport.write(wire.publish(subject, payload, reply, headers))
            return
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise NatsDisconnected("the NATS server does not keep up with what is sent to it")
        transport.writelines((wire.publish_head(subject, len(payload), reply, headers), payload, b"\r\n"))

    def subscribe(self, subject: bytes, receiver: Receiver) -> bytes:
        """Receive what is published to `subject`, now and after each reconnect. Returns the id to unsubscribe."""
        self._next_sid += 1
        sid = b"%d" % self._next_sid
        self._subscriptions[sid] = _Subscription(subject, receiver)
        if self._transport is not None:
            self._transport.write(b"SUB %b %b\r\n" % (subject, sid))
        return sid

    def unsubscribe(self, sid: bytes) -> None:
        """End a subscription; messages under way are dropped."""
        if self._subscriptions.pop(sid, None) is not None and self._transport is not None:
            self._transport.write(b"UNSUB %b\r\n" % sid)

    async def flush(self, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        """Return once the server has handled all that was sent. Raises NatsDisconnected or NatsTimeout."""
        link = self._link
        if link is None or self._transport is None:
            raise NatsDisconnected("not connected to NATS")
        try:
            async with asyncio.timeout(timeout_s):
                await link.ping()
        except TimeoutError:
            raise NatsTimeout(f"no answer to a ping within {timeout_s} s") from None

    def on_state(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call back at each loss (False) and return (True) of the connection. Returns the unsubscriber."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def request(
        self, subject: str, payload: bytes = b"", *, headers: bytes = b"", timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Reply:
        """Return the answer to one message. Raises NatsDisconnected, NoResponders or NatsTimeout."""
        self._next_request += 1
        inbox = self._inbox + b"%d" % self._next_request
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._requests[inbox] = answer
        try:
            self.publish(subject.encode(), payload, inbox, headers)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError:
            raise NatsTimeout(f"no answer on {subject} within {timeout_s} s") from None
        finally:
            del self._requests[inbox]

    def _answered(self, subject: bytes, _reply: bytes, headers: bytes, data: bytes) -> None:
        answer = self._requests.get(subject)
        if answer is None or answer.done():
            return
        if headers and not data and wire.parse_status(headers)[0] == 503:
            answer.set_exception(NoResponders("nobody answers on the subject"))
        else:
            answer.set_result(Reply(headers, data))

    async def _keep(self, link: _Link) -> None:
        """Wait for the connection to break and make a new one, until cancelled."""
        while True:
            await link.closed.wait()
            self._lost()
            log.warning("nats connection lost", server=self.server.server_name, reason=link.reason)
            link = await self._connect_any(None)
            log.info("nats connected again", server=self.server.server_name)

    async def _connect_any(self, deadline: float | None) -> _Link:
        """Try the servers in turn, from a random one, with growing pauses between rounds."""
        loop = asyncio.get_running_loop()
        pause = RECONNECT_FIRST_S
        addresses = self.options.addresses()
        random.shuffle(addresses)
        reported = ""
        while True:
            reasons = []
            for host, port in addresses:
                try:
                    return await self._connect(host, port)
                except (OSError, NatsError, wire.ProtocolViolation, ValueError) as error:
                    reasons.append(f"{host}:{port}: {error or type(error).__name__}")
            text = "; ".join(reasons)
            if deadline is not None and loop.time() + pause > deadline:
                raise NatsUnreachable(f"no NATS server lets us in: {text}")
            if text != reported:
                reported = text
                log.warning("no nats server lets us in, trying on", reason=text)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(2 * pause, RECONNECT_LAST_S)

    async def _connect(self, host: str, port: int) -> _Link:
        options = self.options
        loop = asyncio.get_running_loop()
        link = _Link(self._dispatch, options.ping_interval_s)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await loop.create_connection(lambda: link, host, port)
                info = await link.info
                if options.tls is not None or info.tls_required:
                    await link.start_tls(options.tls, info, host)
                login = {
                    "verbose": False,
                    "pedantic": False,
                    "lang": "python",
                    "version": "1",
                    "protocol": 1,
                    "headers": True,
                    "no_responders": True,
                    "name": options.name,
                }
                if options.user:
                    login |= {"user": options.user, "pass": options.password}
                assert link.transport is not None
                link.transport.write(b"CONNECT %b\r\n" % msgspec.json.encode(login))
                await link.ping()
        except BaseException as error:
            link.abort("no connection")
            if isinstance(error, TimeoutError):
                raise NatsTimeout(f"no welcome within {options.connect_timeout_s} s") from None
            raise
        self._entered(link, info)
        return link

    def _entered(self, link: _Link, info: ServerInfo) -> None:
        assert link.transport is not None
        self._link, self.server = link, info
        for sid, subscription in self._subscriptions.items():
            link.transport.write(b"SUB %b %b\r\n" % (subscription.subject, sid))
        link.start_pings()
        if link.closed.is_set():  # gone between welcome and here; the keeper sees it
            return
        self._transport = link.transport
        for listener in list(self._listeners):
            listener(True)

    def _lost(self) -> None:
        if self._transport is None:
            return
        self._transport = None
        for answer in self._requests.values():
            if not answer.done():
                answer.set_exception(NatsDisconnected("the connection to NATS was lost"))
        for listener in list(self._listeners):
            listener(False)

    def _dispatch(self, frame: wire.Message) -> None:
        subscription = self._subscriptions.get(frame[0])
        if subscription is not None:
            subscription.receiver(frame[1], frame[2], frame[3], frame[4])


class _Link(asyncio.Protocol):
    """One TCP connection, from the server's INFO to its end."""

    def __init__(self, deliver: Callable[[wire.Message], None], ping_interval_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.info: asyncio.Future[ServerInfo] = loop.create_future()
        self.closed = asyncio.Event()
        self.reason = ""
        self._deliver = deliver
        self._parser = wire.Parser()
        self._ping_interval_s = ping_interval_s
        self._pings_out = 0
        self._pongs: deque[asyncio.Future[None]] = deque()
        """Who waits for the answers to pings, in order; those of `_ping` have nobody waiting."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._parser.feed(data):
                if type(frame) is tuple:
                    self._deliver(frame)
                else:
                    self._control(cast(bytes, frame))
        except (wire.ProtocolViolation, msgspec.DecodeError) as error:
            self.abort(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self.reason = self.reason or str(exc or "closed by the server")
        if self._timer is not None:
            self._timer.cancel()
        waiters: list[asyncio.Future[Any]] = [self.info, *self._pongs]
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(NatsDisconnected(self.reason))
                waiter.exception()  # nobody may be waiting for this one
        self.closed.set()

    def abort(self, reason: str) -> None:
        self.reason = self.reason or reason
        if self.transport is not None:
            self.transport.abort()
        else:
            self.connection_lost(None)

    async def start_tls(self, context: ssl.SSLContext | None, info: ServerInfo, host: str) -> None:
        """Change to TLS, as the server offered in its INFO. Never falls back to plain text."""
        if context is None:
            raise NatsError("the server wants TLS, and none is configured")
        if not info.tls_required and not info.tls_available:
            raise NatsError("TLS is configured, and the server offers none")
        assert self.transport is not None
        loop = asyncio.get_running_loop()
        self.transport = await loop.start_tls(self.transport, self, context, server_hostname=host)

    def start_pings(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._ping_interval_s, self._ping)

    def _ping(self) -> None:
        if self._pings_out >= MAX_PINGS_OUT:
            self.abort(f"no answer to {self._pings_out} pings")
            return
        self._pings_out += 1
        self.ping()
        self.start_pings()

    def ping(self) -> asyncio.Future[None]:
        """Send a ping; the future ends with its answer, or NatsDisconnected."""
        assert self.transport is not None
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(answered)
        self.transport.write(wire.PING)
        return answered

    def _control(self, line: bytes) -> None:
        assert self.transport is not None
        if line == b"PONG":
            self._pings_out = 0
            if self._pongs and not (waiting := self._pongs.popleft()).done():
                waiting.set_result(None)
        elif line == b"PING":
            self.transport.write(wire.PONG)
        elif line.startswith(b"INFO "):
            if not self.info.done():
                self.info.set_result(_decode_info(line[5:]))
        elif line.startswith(b"-ERR"):
            text = line[5:].decode(errors="replace").strip("' ")
            if text.lower().startswith("permissions violation"):
                log.error("nats server refuses", reason=text)  # the connection stays up
            else:
                self.reason = text
        elif line != b"+OK":
            raise wire.ProtocolViolation(f"unknown operation {line[:40]!r}")


async def open_client(options: NatsOptions) -> Client:
    """Return a connected nats-py client with our login, TLS and logging. Raises NatsUnreachable.

    For JetStream publishers and consumers off the hot path. While disconnected it refuses to publish, because it
    would send later what its caller has long given up. What was published in the very moment of a break it may still
    send after the reconnect: give such messages a Nats-Msg-Id.
    """
    import nats.errors
    from nats.aio.client import Client

    async def failed(error: Exception) -> None:
        log.warning("nats client", client=options.name, reason=str(error) or type(error).__name__)

    async def lost() -> None:
        if not client.is_closed:
            log.warning("nats connection lost", client=options.name)

    async def returned() -> None:
        log.info("nats connected again", client=options.name)

    scheme = "tls" if options.tls else "nats"
    arguments: dict[str, Any] = {"tls": options.tls} if options.tls else {}
    if options.user:
        arguments |= {"user": options.user, "password": options.password}
    client = Client()
    try:
        async with asyncio.timeout(options.connect_timeout_s):
            await client.connect(
                [f"{scheme}://{host}:{port}" for host, port in options.addresses()],
                name=options.name,
                error_cb=failed,
                disconnected_cb=lost,
                reconnected_cb=returned,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                pending_size=0,
                **arguments,
            )
    except (TimeoutError, OSError, nats.errors.Error) as error:
        servers = ", ".join(options.servers)
        raise NatsUnreachable(f"no NATS server lets us in: {servers}: {error or type(error).__name__}") from error
    return client
