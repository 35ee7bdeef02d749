"""Is an acknowledged append really on disk? Asked of every server of the stream, again and again.

A JetStream acknowledgement means fsync only where the server runs with `sync_interval: always`, and a client can see
that only through the system account (VARZ). Owns the question, its repetition and the verdict; what follows from it
is `jetstream`'s.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from orbit.chassis.nats import NatsConnection, NatsError
from services.storage.log.stream import ApiFailed, StreamInfo, stream_info

log = structlog.get_logger(__name__)

CHECK_INTERVAL_S: Final = 30.0
RETRY_INTERVAL_S: Final = 2.0
"""Between checks while a server of the stream has not been heard of."""
REFUSING_INTERVAL_S: Final = 0.2
"""Between checks while appends are refused for want of an answer."""
ANSWER_TIMEOUT_S: Final = 2.0
UNANSWERED_CHECKS: Final = 3
"""A stream known to be durable stops being so after this many checks in a row that nobody answered."""
OLDEST_VERSION: Final = (2, 12, 3)
"""Older servers lose acknowledged writes even with fsync."""

RELAXED: Final = "not checked, because durability is relaxed by configuration"
NOT_CHECKED_YET: Final = "not checked yet since the connection was made"

assert ANSWER_TIMEOUT_S <= RETRY_INTERVAL_S < CHECK_INTERVAL_S


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What one server says of itself."""

    name: str
    version: str
    sync_always: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` None: durable. `certain` False: for want of answers, so another try may change it."""

    reason: str | None
    certain: bool = True
    missing: tuple[str, ...] = ()


def judge(info: StreamInfo, answers: Mapping[str, ServerAnswer], verified: AbstractSet[str]) -> Verdict:
    """Decide from the stream's servers and their answers. `verified` are the names that passed an earlier check.

    A server that is down acknowledges nothing, so it does not matter until it is back: one that the stream's leader
    has not heard of, or that passed before and is silent now. But a majority must answer, as an append needs one.
    """
    if info.config.persist_mode == "async":
        return Verdict(f"stream {info.config.name} has persist_mode async")
    servers = info.servers()
    for name in sorted(servers.keys() & answers.keys()):
        answer = answers[name]
        if parse_version(answer.version) < OLDEST_VERSION:
            oldest = ".".join(map(str, OLDEST_VERSION))
            return Verdict(f"NATS server {name} is {answer.version}; {oldest} or later keeps what it acknowledged")
        if not answer.sync_always:
            return Verdict(f"NATS server {name} does not fsync each append (set jetstream sync_interval: always)")
    missing = tuple(sorted(servers.keys() - answers.keys()))
    if 2 * (len(servers) - len(missing)) <= len(servers):
        return Verdict(f"no majority of the servers answers ({', '.join(missing) or 'none known'})", False, missing)
    strangers = [name for name in missing if not servers[name] and name not in verified]
    if strangers:
        return Verdict(f"NATS server {strangers[0]} does not answer", False, missing)
    return Verdict(None, True, missing)


def parse_version(text: str) -> tuple[int, ...]:
    """Return (major, minor, patch); zeros for what is not a number."""
    core = text.lstrip("v").split("-")[0].split("+")[0]
    return tuple(int(part) if part.isdigit() else 0 for part in core.split(".")[:3])


class DurabilityMonitor:
    """Keeps `reason` true for one stream. `system` is a connection of the system account."""

    def __init__(self, connection: NatsConnection, system: NatsConnection, stream: str) -> None:
        self.reason: str | None = NOT_CHECKED_YET
        self.certain = False
        """Whether `reason` is what the servers said, and not that they could not be asked."""
        self._connection = connection
        self._system = system
        self._stream = stream
        self._verified: set[str] = set()
        self._missing: tuple[str, ...] = ()
        self._unanswered = 0
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unwatch: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Check once, then keep checking until `stop`."""
        self._unwatch = [self._connection.on_state(self._state_changed), self._system.on_state(self._system_changed)]
        pause = await self.check()
        self._task = asyncio.create_task(self._keep_checking(pause), name=f"durability {self._stream}")

    async def stop(self) -> None:
        for unwatch in self._unwatch:
            unwatch()
        self._unwatch = []
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def check(self) -> float:
        """Ask every server once, set `reason`, and return the seconds until the next check."""
        self._wake.clear()
        try:
            info = await stream_info(self._connection, self._stream, ANSWER_TIMEOUT_S)
            answers = await ask_servers(self._system, frozenset(info.servers()))
        except (NatsError, ApiFailed) as error:
            verdict = Verdict(f"the servers cannot be asked: {error}", certain=False)
        else:
            verdict = judge(info, answers, self._verified)
            if verdict.reason is None:
                self._verified |= answers.keys()
        if self._wake.is_set():  # a connection changed meanwhile: the answers may be another server's
            return 0.0
        self._conclude(verdict)
        if not verdict.certain and self.reason is not None:
            return REFUSING_INTERVAL_S
        return RETRY_INTERVAL_S if verdict.missing or not verdict.certain else CHECK_INTERVAL_S

    def _conclude(self, verdict: Verdict) -> None:
        if verdict.missing != self._missing:
            self._missing = verdict.missing
            log.warning("servers of the log that do not answer", stream=self._stream, missing=verdict.missing)
        if verdict.certain:
            self._unanswered = 0
        else:
            self._unanswered += 1
            if self.reason is None and self._unanswered < UNANSWERED_CHECKS:
                log.warning("log durability check unanswered", stream=self._stream, reason=verdict.reason)
                return
        self.certain = verdict.certain
        if verdict.reason == self.reason:
            return
        self.reason = verdict.reason
        if verdict.reason is None:
            log.info("log is durable", stream=self._stream)
        elif not verdict.certain:
            log.warning("log is not known to be durable, appends are refused", stream=self._stream, reason=self.reason)
        else:
            log.error("log is not known to be durable, appends are refused", stream=self._stream, reason=self.reason)

    def _state_changed(self, connected: bool) -> None:
        """What is behind a new connection may be another server, or the same with another configuration."""
        self.reason, self.certain = NOT_CHECKED_YET, False
        if connected:
            self._wake.set()

    def _system_changed(self, connected: bool) -> None:
        if connected:
            self._wake.set()

    async def _keep_checking(self, pause: float) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            pause = await self.check()


class _VarzServer(msgspec.Struct):
    name: str = ""
    ver: str = ""


class _VarzStore(msgspec.Struct):
    sync_always: bool = False


class _VarzJetStream(msgspec.Struct):
    config: _VarzStore | None = None


class _VarzData(msgspec.Struct):
    jetstream: _VarzJetStream | None = None


class _Varz(msgspec.Struct):
    server: _VarzServer
    data: _VarzData = msgspec.field(default_factory=_VarzData)


_decode_varz = msgspec.json.Decoder(_Varz).decode


async def ask_servers(system: NatsConnection, names: frozenset[str]) -> dict[str, ServerAnswer]:
    """Return the answers of the named servers, all of them or those that came within ANSWER_TIMEOUT_S."""
    answers: dict[str, ServerAnswer] = {}
    complete = asyncio.get_running_loop().create_future()

    def receive(_subject: bytes, _reply: bytes, _headers: bytes, data: bytes) -> None:
        if not data:  # the status of a request that reached nobody
            return
        try:
            varz = _decode_varz(data)
        except msgspec.DecodeError as error:
            log.error("nats server describes itself in an unknown way", reason=str(error))
            return
        store = varz.data.jetstream.config if varz.data.jetstream else None
        server = varz.server
        if server.name in names:
            answers[server.name] = ServerAnswer(server.name, server.ver, bool(store and store.sync_always))
        if answers.keys() >= names and not complete.done():
            complete.set_result(None)

    inbox = b"_INBOX." + secrets.token_hex(11).encode()
    sid = system.subscribe(inbox, receive)
    try:
        system.publish(b"$SYS.REQ.SERVER.PING.VARZ", b"", inbox)
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await complete
    finally:
        system.unsubscribe(sid)
    return answers
