"""etcd as the engine uses it: compare-and-set, leases, and a prefix watch that never skips a change.

The only home of `etcd3aio`, of which it uses the generated messages and stubs. Owns connections, failover between
endpoints, authentication and the translation of errors. Knows no keys and makes no decisions: elections live in
`services.coordinator`.

Two clients over the same messages:

- `EtcdClient` runs on an event loop and does everything but keep-alives.
- `BlockingEtcdClient` belongs to one thread that must not depend on an event loop. It does not use `grpc.aio`: all
  event loops of a process share one completion queue there, so a second loop would take the data path's events.

Failover is written once, as a generator that yields attempts (`_Connections.call`); the two clients drive it.
Every call makes one round over the endpoints, starting at the last one that worked, and raises `EtcdUnavailable`
when none answered. A transaction that was sent and not answered may have happened: callers of `transact` must
recognise their own writes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog
from etcd3aio import _protobuf as pb
from etcd3aio import prefix_range_end

from orbit.chassis.etcd_nouns import (
    Changes,
    Created,
    Delete,
    Deleted,
    EtcdDenied,
    EtcdError,
    EtcdRejected,
    EtcdSettings,
    EtcdUnavailable,
    Get,
    Grant,
    Holds,
    Interrupted,
    KeyValue,
    LeaseGone,
    Listing,
    Modified,
    Operation,
    Outcome,
    Put,
    Renewal,
    Requirement,
    WatchEvent,
)

_log = structlog.get_logger()

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_LIMIT_S: Final = 1.0
WATCH_PROBE_S: Final = 1.0
"""A watch that hears nothing for so long asks for a sign of life; after as long again it tries another endpoint."""

_CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # The environment is not ours to read.
    ("grpc.use_local_subchannel_pool", 1),  # A client's connections are its own.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own limit of 120 s would outlast any outage.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
)
_REQUIRE_LEADER: Final = ("hasleader", "true")
"""Asks etcd to end a stream when the server has lost its quorum, instead of leaving it silent."""


class EtcdClient:
    """etcd for an event loop. Create it on the loop that uses it."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._connections = _Connections(settings, grpc.aio)

    async def connect(self) -> None:
        """Prove that etcd answers, with a quorum behind it. Raises EtcdUnavailable or EtcdDenied."""
        await self.get("/")

    async def close(self) -> None:
        for channel in self._connections.channels():
            await channel.close()

    async def get(self, key: str) -> KeyValue | None:
        """Return the key's value, linearizably."""
        reply = await self._run("Range", pb.RangeRequest(key=key.encode()))
        return _key_value(reply.kvs[0]) if reply.kvs else None

    async def get_prefix(self, prefix: str) -> Listing:
        """Return every key that starts with the prefix, linearizably."""
        reply = await self._run("Range", pb.RangeRequest(key=prefix.encode(), range_end=prefix_range_end(prefix)))
        return Listing(reply.header.revision, tuple(map(_key_value, reply.kvs)))

    async def transact(
        self, requirements: Sequence[Requirement], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> Outcome:
        """Run `then` if all the requirements hold, else `otherwise`, atomically. Raises LeaseGone, EtcdError."""
        return _outcome(await self._run("Txn", _transaction(requirements, then, otherwise)))

    async def grant(self, ttl_s: int) -> Grant:
        reply = await self._run("LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s))
        return Grant(reply.ID, reply.TTL)

    async def revoke(self, lease_id: int) -> None:
        """End the lease and delete its keys. Raises LeaseGone when it has ended already."""
        await self._run("LeaseRevoke", pb.LeaseRevokeRequest(ID=lease_id))

    async def watch_prefix(self, prefix: str) -> AsyncGenerator[WatchEvent, None]:
        """Yield a Listing, then every later change in order, for ever.

        Resumes behind the last change after a lost connection. Where the changes in between have been compacted
        away, yields a fresh Listing. Raises EtcdDenied and EtcdRejected; unreachable endpoints are tried for ever.
        """
        next_revision = 0
        backoff_s, interrupted = BACKOFF_FIRST_S, False
        while True:
            try:
                if next_revision == 0:
                    listing = await self.get_prefix(prefix)
                    next_revision = listing.revision + 1
                    yield listing
                async with contextlib.aclosing(self._changes(prefix, next_revision)) as stream:
                    async for changes in stream:
                        backoff_s, interrupted = BACKOFF_FIRST_S, False
                        if changes.events:
                            next_revision = changes.revision + 1
                        yield changes
            except _Compacted:
                _log.info("etcd watch restarts from a listing", prefix=prefix, revision=next_revision)
                next_revision = 0
            except EtcdUnavailable as error:
                if not interrupted:
                    _log.info("etcd watch interrupted", prefix=prefix, reason=str(error))
                interrupted = True
                yield Interrupted(str(error))
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_LIMIT_S)

    async def _changes(self, prefix: str, from_revision: int) -> AsyncGenerator[Changes, None]:
        """Yield the changes that one stream tells; the first, empty one says that the stream stands."""
        await _drive(self._connections.login())
        endpoint = self._connections.current()
        call = endpoint.call("Watch")(metadata=(*self._connections.metadata, _REQUIRE_LEADER))
        probe = _Probe(call)
        try:
            create = pb.WatchCreateRequest(
                key=prefix.encode(), range_end=prefix_range_end(prefix), start_revision=from_revision
            )
            await call.write(pb.WatchRequest(create_request=create))
            probe.start()
            while (reply := await call.read()) is not grpc.aio.EOF:
                probe.heard = True
                if reply.compact_revision:
                    raise _Compacted
                if reply.canceled:
                    raise _watch_refusal(endpoint.name, reply.cancel_reason)
                # Only events move the resume point: an answer to a progress request may overtake them.
                if reply.events:
                    yield Changes(reply.events[-1].kv.mod_revision, tuple(map(_event, reply.events)))
                elif reply.created:
                    yield Changes(from_revision - 1, ())
            raise EtcdUnavailable(f"etcd {endpoint.name}: watch ended")
        except grpc.RpcError as error:
            self._connections.rotate(endpoint)
            self._connections.forget_token_if_refused(error)
            raise EtcdUnavailable(f"etcd {endpoint.name}: watch: {_reason(error)}") from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not probe.silent or (task is not None and task.cancelling()):
                raise  # Somebody wants the watch to end; the probe has not cancelled the call, or not alone.
            self._connections.rotate(endpoint)
            raise EtcdUnavailable(f"etcd {endpoint.name}: watch: no answer within {2 * WATCH_PROBE_S:g} s") from None
        finally:
            await probe.stop()
            call.cancel()

    async def _run(self, method: str, request: Any) -> Any:
        return await _drive(self._connections.call(method, request))


class BlockingEtcdClient:
    """etcd for one thread of its own: keep-alives and the write that goes with them."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._connections = _Connections(settings, grpc)

    def close(self) -> None:
        """Disconnect. Only for the thread that makes the calls: gRPC crashes when a channel is closed under a call."""
        for channel in self._connections.channels():
            channel.close()

    def keep_alive(self, lease_id: int) -> Renewal:
        """Renew the lease. Raises LeaseGone, EtcdError."""
        reply = self._run("LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=lease_id))
        if reply.TTL <= 0:
            raise LeaseGone(f"etcd: lease {lease_id:x} has ended")
        return Renewal(reply.TTL, reply.header.raft_term)

    def transact(
        self, requirements: Sequence[Requirement], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> Outcome:
        """As `EtcdClient.transact`."""
        return _outcome(self._run("Txn", _transaction(requirements, then, otherwise)))

    def _run(self, method: str, request: Any) -> Any:
        return _drive_blocking(self._connections.call(method, request))


class _Compacted(Exception):
    """The revision to resume from is gone."""


class _Ended(grpc.RpcError):  # type: ignore[misc]
    """A keep-alive stream that ended without an answer."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "stream ended without an answer"


_STUBS: Final[dict[str, Any]] = {
    "Range": pb.KVStub,
    "Txn": pb.KVStub,
    "LeaseGrant": pb.LeaseStub,
    "LeaseRevoke": pb.LeaseStub,
    "LeaseKeepAlive": pb.LeaseStub,
    "Watch": pb.WatchStub,
    "Authenticate": pb.AuthStub,
}


class _Endpoint:
    """One etcd server: a channel and its stubs, made at first use."""

    def __init__(self, name: str, connect: Callable[[str], Any]) -> None:
        self.name = name
        self._connect = connect
        self.channel: Any = None
        self._stubs: dict[Any, Any] = {}

    def call(self, method: str) -> Any:
        if self.channel is None:
            self.channel = self._connect(f"dns:///{self.name}")
        stub_class = _STUBS[method]
        if stub_class not in self._stubs:
            self._stubs[stub_class] = stub_class(self.channel)
        return getattr(self._stubs[stub_class], method)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One try of one request at one endpoint; `start` returns gRPC's call."""

    start: Callable[[], Any]


_Steps = Generator[_Attempt, Any, Any]


async def _drive(steps: _Steps) -> Any:
    try:
        attempt = next(steps)
        while True:
            try:
                reply = await attempt.start()
            except grpc.RpcError as error:
                attempt = steps.throw(error)
            else:
                attempt = steps.send(reply)
    except StopIteration as done:
        return done.value


def _drive_blocking(steps: _Steps) -> Any:
    try:
        attempt = next(steps)
        while True:
            try:
                started = attempt.start()
                reply = _first(started) if hasattr(started, "cancel") else started
            except grpc.RpcError as error:
                attempt = steps.throw(error)
            else:
                attempt = steps.send(reply)
    except StopIteration as done:
        return done.value


class _Connections:
    """The endpoints, which of them worked last, and the authentication token."""

    def __init__(self, settings: EtcdSettings, flavour: Any) -> None:
        self._settings = settings
        self._flavour = flavour
        self._endpoints = [_Endpoint(name, self._open) for name in settings.endpoints]
        self._current = 0
        self._token: str | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token else ()

    def channels(self) -> list[Any]:
        return [endpoint.channel for endpoint in self._endpoints if endpoint.channel is not None]

    def current(self) -> _Endpoint:
        return self._endpoints[self._current]

    def rotate(self, failed: _Endpoint) -> None:
        """Start at the next endpoint from now on, unless somebody has moved on already."""
        if self._endpoints[self._current] is failed:
            self._current = (self._current + 1) % len(self._endpoints)

    def call(self, method: str, request: Any) -> _Steps:
        """Yield attempts until one is answered; return its answer. The driver throws gRPC's errors in."""
        failures: list[str] = []
        token_renewed = False
        while len(failures) < len(self._endpoints):
            endpoint = self.current()
            try:
                yield from self.login()
                return (yield self._attempt(endpoint, method, request))
            except grpc.RpcError as error:
                if not token_renewed and self.forget_token_if_refused(error):
                    token_renewed = True
                    continue
                problem = _problem(endpoint.name, error)
                if not isinstance(problem, EtcdUnavailable):
                    raise problem from error
                failures.append(str(problem))
                self.rotate(endpoint)
        raise EtcdUnavailable("; ".join(failures))

    def login(self) -> _Steps:
        """Get a token, where a user is configured and there is none."""
        if self._settings.user is None or self._token is not None:
            return
        request = pb.AuthenticateRequest(name=self._settings.user, password=self._settings.password)
        reply = yield self._attempt(self.current(), "Authenticate", request)
        self._token = reply.token

    def forget_token_if_refused(self, error: grpc.RpcError) -> bool:
        """Return whether a new token may help: tokens expire, and end with each change of users or permissions."""
        refused = error.code() is grpc.StatusCode.UNAUTHENTICATED or "auth store is old" in (error.details() or "")
        if not refused or self._token is None:
            return False
        self._token = None
        return True

    def _attempt(self, endpoint: _Endpoint, method: str, request: Any) -> _Attempt:
        metadata: tuple[tuple[str, str], ...] = () if method == "Authenticate" else self.metadata
        call = endpoint.call(method)
        if method == "LeaseKeepAlive":
            request, metadata = iter((request,)), (*metadata, _REQUIRE_LEADER)
        return _Attempt(lambda: call(request, metadata=metadata, timeout=self._settings.timeout_s))

    def _open(self, target: str) -> Any:
        settings = self._settings
        if not settings.tls:
            return self._flavour.insecure_channel(target, options=_CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(settings.ca_certificate, settings.private_key, settings.certificate)
        return self._flavour.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)


class _Probe:
    """Asks a watch stream for a sign of life at regular times and cancels it when there is none."""

    def __init__(self, call: Any) -> None:
        self.heard = False
        self.silent = False
        self._call = call
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="etcd-watch-probe")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        request = pb.WatchRequest(progress_request={})
        while True:
            self.heard = False
            await asyncio.sleep(WATCH_PROBE_S)
            if not self.heard:
                try:
                    await self._call.write(request)
                except (grpc.RpcError, asyncio.InvalidStateError):
                    return  # The stream has ended; its reader finds out by itself.
                await asyncio.sleep(WATCH_PROBE_S)
                if not self.heard:
                    self.silent = True
                    self._call.cancel()
                    return


def _first(stream: Any) -> Any:
    """Return the only answer of a blocking keep-alive stream."""
    try:
        for reply in stream:
            return reply
        raise _Ended
    finally:
        stream.cancel()


def _reason(error: grpc.RpcError) -> str:
    return f"{error.code().name.lower().replace('_', ' ')}: {error.details() or 'no details'}"


_NO_ANSWER: Final = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    )
)
_DENIED: Final = frozenset((grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED))


def _problem(endpoint: str, error: grpc.RpcError) -> EtcdError:
    """Return what a gRPC error means. Source: etcd's `api/v3rpc/rpctypes/error.go`."""
    code, details = error.code(), error.details() or ""
    message = f"etcd {endpoint}: {_reason(error)}"
    if "requested lease not found" in details:
        return LeaseGone(message)
    if code in _DENIED or "authentication" in details or "user name is empty" in details:
        return EtcdDenied(message)
    return EtcdUnavailable(message) if code in _NO_ANSWER else EtcdRejected(message)


def _watch_refusal(endpoint: str, reason: str) -> EtcdError:
    message = f"etcd {endpoint}: watch refused: {reason}"
    return EtcdDenied(message) if "permission" in reason or "auth" in reason else EtcdUnavailable(message)


def _key_value(kv: Any) -> KeyValue:
    return KeyValue(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


_DELETED: Final = 1
"""mvccpb.Event.DELETE"""


def _event(event: Any) -> KeyValue | Deleted:
    if event.type == _DELETED:
        return Deleted(event.kv.key.decode(), event.kv.mod_revision)
    return _key_value(event.kv)


def _transaction(requirements: Sequence[Requirement], then: Sequence[Operation], otherwise: Sequence[Operation]) -> Any:
    return pb.TxnRequest(
        compare=[_compare(requirement) for requirement in requirements],
        success=[_operation(operation) for operation in then],
        failure=[_operation(operation) for operation in otherwise],
    )


def _compare(requirement: Requirement) -> Any:
    key, equal = requirement.key.encode(), pb.Compare.EQUAL
    match requirement:
        case Created(_, revision):
            return pb.Compare(result=equal, target=pb.Compare.CREATE, key=key, create_revision=revision)
        case Modified(_, revision):
            return pb.Compare(result=equal, target=pb.Compare.MOD, key=key, mod_revision=revision)
        case Holds(_, value):
            return pb.Compare(result=equal, target=pb.Compare.VALUE, key=key, value=value)


def _operation(operation: Operation) -> Any:
    key = operation.key.encode()
    match operation:
        case Put(_, value, lease):
            return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
        case Delete():
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
        case Get():
            return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def _outcome(reply: Any) -> Outcome:
    ranges = (part.response_range for part in reply.responses if part.HasField("response_range"))
    reads = tuple(_key_value(answer.kvs[0]) if answer.kvs else None for answer in ranges)
    return Outcome(reply.succeeded, reply.header.revision, reply.header.raft_term, reads)
