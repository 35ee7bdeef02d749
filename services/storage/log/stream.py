"""The stream of one shard's log: its name, its configuration, and the few JetStream requests about it.

Owns creation and verification. Appending is `jetstream`'s, reading `reader`'s.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import structlog

from orbit.chassis.nats import NatsConnection, NatsError, NoResponders
from orbit.kernel.errors import LogUnavailable

log = structlog.get_logger(__name__)

STREAM_NOT_FOUND: Final = 10059
STREAM_NAME_IN_USE: Final = 10058
TEMPORARILY_UNAVAILABLE: Final = 503

RETRY_PAUSE_S: Final = 0.1
API_TIMEOUT_S: Final = 5.0
UNLIMITED: Final = -1
SILENT_REPLICA_NS: Final = 3_000_000_000

_REGION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


class ApiError(msgspec.Struct, frozen=True):
    """JetStream's own error object: `code` is an HTTP status, `err_code` the exact reason."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class ApiFailed(Exception):
    """JetStream answered a request with an error."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(f"{error.description} ({error.err_code})")
        self.error = error


class StreamConfig(msgspec.Struct, frozen=True):
    """What we set and verify of a stream's configuration, under JetStream's own names; sizes in bytes, times in ns."""

    name: str
    subjects: list[str] = []
    retention: str = "limits"
    storage: str = "file"
    num_replicas: int = 1
    discard: str = "new"
    max_msgs: int = UNLIMITED
    max_bytes: int = UNLIMITED
    max_age: int = 0
    max_msgs_per_subject: int = UNLIMITED
    sealed: bool = False
    no_ack: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    allow_rollup_hdrs: bool = False
    persist_mode: str = ""


class Replica(msgspec.Struct, frozen=True):
    """One follower of the stream, as its leader sees it; `active` is nanoseconds since it last answered."""

    name: str = ""
    offline: bool = False
    current: bool = True
    active: int = 0

    @property
    def down(self) -> bool:
        """`offline` alone comes minutes after a crash; a leader hears of every follower each second."""
        return self.offline or (not self.current and self.active > SILENT_REPLICA_NS)


class Cluster(msgspec.Struct, frozen=True):
    """Where the stream's copies are, apart from its leader's."""

    leader: str = ""
    replicas: list[Replica] = []


class StreamState(msgspec.Struct, frozen=True):
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    config: StreamConfig
    state: StreamState = StreamState()
    cluster: Cluster = Cluster()

    def bounds(self) -> tuple[int, int]:
        """Return (first, last) sequence as the log contract defines them."""
        last = self.state.last_seq
        return (self.state.first_seq, last) if self.state.messages else (last + 1, last)

    def servers(self) -> dict[str, bool]:
        """Return whether each server that holds the stream is down, by name."""
        found = {one.name: one.down for one in self.cluster.replicas}
        if self.cluster.leader:
            found[self.cluster.leader] = False
        return found


@dataclass(frozen=True, slots=True)
class LogStream:
    """The name and subject of one shard's log, and how its stream is to be set up."""

    region: str
    shard: int
    replicas: int = 1
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not _REGION.fullmatch(self.region):
            raise ValueError(f"region {self.region!r} is not letters, digits and dashes")
        if self.shard < 0 or self.replicas < 1 or (self.max_bytes is not None and self.max_bytes < 1):
            raise ValueError(f"impossible log stream: {self}")

    @property
    def name(self) -> str:
        return f"ORBIT_LOG_{self.region}_{self.shard}"

    @property
    def subject(self) -> str:
        return f"orbit.log.{self.region}.{self.shard}"

    def config(self) -> StreamConfig:
        """Purge stays allowed, because trim needs it: account permissions keep it to the storage role."""
        return StreamConfig(
            name=self.name,
            subjects=[self.subject],
            num_replicas=self.replicas,
            max_bytes=self.max_bytes or UNLIMITED,
            deny_delete=True,
        )


class _Envelope(msgspec.Struct):
    error: ApiError | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
T = TypeVar("T")


async def call(
    connection: NatsConnection, request: str, body: object, answer: type[T], timeout_s: float = API_TIMEOUT_S
) -> T:
    """Return JetStream's answer to `$JS.API.<request>`. Raises ApiFailed, or NatsError without an answer."""
    payload = msgspec.json.encode(body) if body is not None else b""
    reply = await connection.request(f"$JS.API.{request}", payload, timeout_s=timeout_s)
    error = _decode_envelope(reply.data).error
    if error is not None:
        raise ApiFailed(error)
    return msgspec.json.decode(reply.data, type=answer)


async def stream_info(connection: NatsConnection, name: str, timeout_s: float = API_TIMEOUT_S) -> StreamInfo:
    """Return what JetStream says of the stream. Not linearizable: an old leader answers too."""
    return await call(connection, f"STREAM.INFO.{name}", None, StreamInfo, timeout_s)


async def purge_through(connection: NatsConnection, name: str, sequence: int) -> None:
    """Remove records up to and including `sequence`, which must be in the stream."""
    await call(connection, f"STREAM.PURGE.{name}", {"seq": sequence + 1}, dict[str, Any])


def is_transient(error: Exception) -> bool:
    """Return whether the same request may succeed in a moment: no connection, an election, a restart."""
    if isinstance(error, ApiFailed):
        return error.error.code == TEMPORARILY_UNAVAILABLE
    return isinstance(error, NatsError)


async def ensure_stream(connection: NatsConnection, stream: LogStream, timeout_s: float) -> StreamInfo:
    """Return the stream, created if absent, as configured. Raises LogUnavailable naming what is wrong with it.

    More replicas than it has, or another size limit, are given to it. Fewer replicas are refused: one node with a
    wrong setting must not take copies away from the others.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            return await _find_or_create(connection, stream)
        except (ApiFailed, NatsError) as error:
            again = is_transient(error) or _is(error, STREAM_NAME_IN_USE)
            if not again or asyncio.get_running_loop().time() > deadline:
                text = "JetStream does not answer" if isinstance(error, NoResponders) else str(error)
                raise LogUnavailable(f"log stream {stream.name}: {text}") from error
        await asyncio.sleep(RETRY_PAUSE_S)


async def _find_or_create(connection: NatsConnection, stream: LogStream) -> StreamInfo:
    wanted = stream.config()
    try:
        info = await stream_info(connection, stream.name)
    except ApiFailed as error:
        if not _is(error, STREAM_NOT_FOUND):
            raise
        body = {name: value for name, value in msgspec.to_builtins(wanted).items() if value != ""}
        info = await call(connection, f"STREAM.CREATE.{stream.name}", body, StreamInfo)
        log.info("log stream created", stream=stream.name, replicas=stream.replicas, max_bytes=stream.max_bytes)
    if differences := config_differences(info.config, wanted):
        raise LogUnavailable(
            f"log stream {stream.name} is not set up as a log: {'; '.join(differences)}", sqlstate="58030"
        )
    if (info.config.num_replicas, info.config.max_bytes) != (wanted.num_replicas, wanted.max_bytes):
        info = await _resize(connection, stream)
    return info


async def _resize(connection: NatsConnection, stream: LogStream) -> StreamInfo:
    """Change the two settings that may change, and leave what we do not know of as it is."""
    answer = await call(connection, f"STREAM.INFO.{stream.name}", None, dict[str, Any])
    config: dict[str, Any] = answer["config"]
    config |= {"num_replicas": stream.replicas, "max_bytes": stream.max_bytes or UNLIMITED}
    log.info("log stream resized", stream=stream.name, replicas=stream.replicas, max_bytes=stream.max_bytes)
    return await call(connection, f"STREAM.UPDATE.{stream.name}", config, StreamInfo)


def config_differences(found: StreamConfig, wanted: StreamConfig) -> list[str]:
    """Return one text for each setting that makes the stream unfit to be the log."""
    differences = []
    for name in StreamConfig.__struct_fields__:
        have, want = getattr(found, name), getattr(wanted, name)
        fits = have == want
        if name == "max_bytes":
            fits = True
        elif name == "num_replicas":
            fits = have <= want
        elif name == "persist_mode":
            fits = have in ("", "default")
        if not fits:
            differences.append(f"{name} is {have!r}, should be {want!r}")
    return differences


def _is(error: Exception, err_code: int) -> bool:
    return isinstance(error, ApiFailed) and error.error.err_code == err_code
