"""What other services see of storage: the session interface, spoken directly or over gRPC.

Owns the contract between gateways and storage. The direct implementation is `services.storage.session`; the
remote one is `services.storage.remote`. A gateway cannot tell them apart.

One session serves one client connection and runs one request at a time. A request method returns its answer
at once when it can (always, for point plans in the same process), or None; then the answer reaches the
`SessionOwner` later, from the same event loop. Errors are raised, or handed to `SessionOwner.failed`.

Answers are PostgreSQL backend messages (DataRow.. CommandComplete, without ReadyForQuery), because the hot path
must encode once. `services.gateway.protocols.postgres.wire` decodes them for the other protocols.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import SqlType
from services.storage.log.interface import Entry as LogEntry
from services.storage.log.interface import RecordsTrimmed
from services.storage.moves import (
    ROW_ID_COLUMN,
    Claim,
    ClaimRefused,
    MoveEnded,
    Moves,
    RowRange,
    SegmentStatistics,
    SnapshotRef,
    Tier,
)

if TYPE_CHECKING:
    from orbit.chassis.nats import NatsConnection
    from orbit.chassis.tracing import Tracing
    from orbit.kernel.records import Effect
    from orbit.kernel.records import Transaction as RecordTransaction
    from services.storage.remote import RemoteBackend
    from services.storage.replication_rpc import TargetPosition

__all__ = [
    "FAILED",
    "IDLE",
    "IN_TRANSACTION",
    "ROW_ID_COLUMN",
    "Backend",
    "Claim",
    "ClaimRefused",
    "ColumnDescription",
    "CopyFormat",
    "Credentials",
    "LogEntry",
    "LogReader",
    "MoveEnded",
    "Moves",
    "RecordsTrimmed",
    "RemoteBackend",
    "ReplicationTarget",
    "RowRange",
    "SegmentStatistics",
    "Session",
    "SessionOwner",
    "SnapshotRef",
    "Statement",
    "Tier",
    "connect_moves",
    "connect_replication",
    "encode_transaction",
    "read_log",
    "traced_backend",
]

if TYPE_CHECKING:
    import grpc.aio

IDLE = 0x49
"""Transaction status `I`: no transaction block."""
IN_TRANSACTION = 0x54
"""Transaction status `T`."""
FAILED = 0x45
"""Transaction status `E`: failed block, only ROLLBACK is taken."""


class ColumnDescription(msgspec.Struct, frozen=True, array_like=True):
    """One field of a RowDescription. `table_oid` and `column_number` are 0 for an expression."""

    name: str
    type: SqlType
    table_oid: int = 0
    column_number: int = 0


class CopyFormat(msgspec.Struct, frozen=True, array_like=True):
    """COPY's options, after the server has bound the column list."""

    format: str
    columns: tuple[ColumnDescription, ...]
    delimiter: str
    null: str
    header: bool = False
    quote: str = '"'
    escape: str = '"'
    table: str = ""
    """The table's name, for the CONTEXT of errors."""


class Statement(Protocol):
    """A prepared statement: parsed, bound to the catalog, planned."""

    @property
    def parameter_oids(self) -> Sequence[int]: ...

    @property
    def columns(self) -> Sequence[ColumnDescription] | None:
        """The result's columns; None for a statement that returns no rows."""
        ...


class SessionOwner(Protocol):
    """The connection that a session serves. Called from the event loop, never re-entrantly from a request."""

    def replied(self, answer: bytes) -> None:
        """The pending execute, simple, sync or copy_done has finished."""
        ...

    def prepared(self, statement: Statement) -> None:
        """The pending prepare has finished."""
        ...

    def failed(self, error: OrbitError) -> None:
        """The pending request has failed. `Session.status` tells whether a transaction block failed with it."""
        ...

    def rows(self, messages: bytes) -> None:
        """A part of a large answer, ahead of `replied`. May call `Session.hold_rows`."""
        ...

    def copy_in(self, copy: CopyFormat) -> None:
        """The pending COPY .. FROM STDIN now wants data: copy_batch .. then copy_done or copy_fail."""
        ...

    def parameter_changed(self, name: str, value: str) -> None:
        """A setting that clients are told of has a new value (ParameterStatus)."""
        ...

    def notice(self, error: OrbitError) -> None:
        """A NoticeResponse; `severity` is NOTICE, WARNING .."""
        ...

    def terminated(self, error: OrbitError) -> None:
        """The session is gone (leader lost, administrator command): the connection must end with this FATAL error."""
        ...


class Session(Protocol):
    """One client's conversation with the storage leader."""

    status: int
    """IDLE, IN_TRANSACTION or FAILED, after the last answer."""

    def prepare(self, sql: str, parameter_oids: Sequence[int]) -> Statement | None: ...

    def execute(
        self,
        statement: Statement,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
        sync: bool,
    ) -> bytes | None:
        """Run a bound statement. Formats are empty (all text), one for all, or one each; 0 text, 1 binary.

        `sync` says that the client's Sync follows at once, so that an implicit transaction commits here.
        Without it the implicit transaction stays open until `sync()`.
        """
        ...

    def sync(self) -> bytes | None:
        """Commit the implicit transaction of an extended-protocol pipeline. Answers b''."""
        ...

    def simple(self, sql: str) -> bytes | None:
        """Run a simple query: one or more statements, RowDescriptions included."""
        ...

    def copy_batch(self, encoded: bytes) -> bytes | None:
        """Give COPY one zstd-compressed Arrow IPC stream (one batch, storage types). Answers b'' when more may come."""
        ...

    def copy_done(self) -> bytes | None: ...

    def copy_fail(self, reason: str) -> None:
        """Abort the COPY; the failure reaches `SessionOwner.failed` (57014)."""
        ...

    def fail(self) -> None:
        """A message of a pipeline was refused before it reached the session (an unknown portal, a malformed Bind).

        Fails the transaction block, or rolls the implicit transaction back. Never while a request is pending.
        """
        ...

    def hold_rows(self, held: bool) -> None:
        """The client does not drain its answers: no further `SessionOwner.rows` until called with False."""
        ...

    def cancel(self) -> None:
        """Cancel the running statement (57014). From any time, any number of times."""
        ...

    def trace(self, traceparent: str) -> None:
        """The requests from now on belong to this span; empty: to none. Called only while tracing is on."""
        ...

    def close(self) -> None:
        """End the session; an open transaction rolls back."""
        ...


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a gateway needs to authenticate a role: its SCRAM-SHA-256 verifier, never a password."""

    user: str
    verifier: str | None
    login: bool


class Backend(Protocol):
    """The way from a gateway to the shard's leader."""

    async def credentials(self, user: str) -> Credentials | None:
        """Return the role's credentials, or None when there is no such role. Raises NotLeader, LogUnavailable."""
        ...

    def open(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> Session:
        """Open a session for an authenticated user. `settings` are start-up options such as application_name."""
        ...


class LogReader(Protocol):
    """A shard's log as those see it who only read it; as `services.storage.log.interface.Log` has it."""

    def read(self, from_sequence: int) -> AsyncIterator[LogEntry]:
        """Yield every record from `from_sequence` on, in order, for ever. Raises RecordsTrimmed, LogCorrupt."""
        ...

    async def bounds(self) -> tuple[int, int]:
        """Return (first, last) sequence. Raises LogUnavailable, also while storage has not made the log yet."""
        ...


def read_log(connection: NatsConnection, *, region: str, shard: int) -> LogReader:
    """Return the reader of a shard's log. It makes no stream and asks nothing before it is used."""
    from services.storage.log.jetstream import APPEND_TIMEOUT_S, JetStreamLog
    from services.storage.log.stream import LogStream

    return JetStreamLog(connection, LogStream(region, shard), None, APPEND_TIMEOUT_S)


class ReplicationTarget(Protocol):
    """A node of a region that this one replicates to. Raises OrbitError: NotLeader, 55000 out of order, 08006 away."""

    async def position(self) -> TargetPosition:
        """Return how far the region is, or who leads it."""
        ...

    async def apply(
        self,
        timeline: int,
        follows: int,
        through: int,
        loads: AsyncIterator[Effect] | None,
        transactions: Sequence[bytes],
    ) -> None:
        """Apply, as one transaction there, what was committed after LSN `follows` up to and including `through`."""
        ...


def connect_replication(channel: grpc.aio.Channel, shard: int, source_region: str) -> ReplicationTarget:
    """Return the replication target at the other end of a channel."""
    from services.storage.replication_rpc import ReplicationClient

    return ReplicationClient(channel, shard, source_region)


def encode_transaction(transaction: RecordTransaction) -> bytes:
    """Return a transaction, without its loads, as `ReplicationTarget.apply` takes it."""
    from services.storage.replication_rpc import encode_transaction as encode

    return encode(transaction)


def connect_moves(channel: grpc.aio.Channel, shard: int) -> Moves:
    """Return `Moves` of the node at the other end of a channel. A lost connection is NotLeader there."""
    from services.storage.moves_rpc import MovesClient

    return MovesClient(channel, shard)


def traced_backend(backend: Backend, tracing: Tracing) -> Backend:
    """Return the backend with a span around each request of its sessions."""
    from services.storage.traced import TracedBackend

    return TracedBackend(backend, tracing)


def __getattr__(name: str) -> Any:
    """Load an implementation when its name is first asked for: most users of this contract need none of them."""
    match name:
        case "RemoteBackend":
            from services.storage.remote import RemoteBackend

            return RemoteBackend
        case _:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
