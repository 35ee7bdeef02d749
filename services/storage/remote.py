"""The gateway's end of the session stream: sessions on whatever node leads.

Owns the connection to the leader, its pacing, and what a session survives. When the leader goes, an idle session moves
to the next one by itself; a statement outside a transaction block that surely changed nothing is sent again; a block
that was open fails with 40001; a statement whose commit may or may not have happened fails with 08007.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import msgspec
import structlog

from orbit.api.v1 import sessions_pb2 as wire
from orbit.api.v1 import sessions_pb2_grpc as wire_grpc
from orbit.kernel.errors import NotLeader, OrbitError, OutcomeUnknown, SerializationFailure, TransactionAborted
from orbit.kernel.limits import LEADER_WAIT_S
from services.storage.client import (
    FAILED,
    IDLE,
    IN_TRANSACTION,
    ColumnDescription,
    CopyFormat,
    Credentials,
    SessionOwner,
)
from services.storage.session_frames import Event, Message, Op, decode_frame, encode_frame, unpack_error

_log = structlog.get_logger(__name__)

_BEGIN_ANSWER = b"C\x00\x00\x00\nBEGIN\x00"
_ROLLBACK_ANSWER = b"C\x00\x00\x00\rROLLBACK\x00"
_END = re.compile(r"\s*(commit|end|rollback|abort)(\s+(work|transaction))?\s*;?\s*", re.IGNORECASE)
"""ROLLBACK TO is not among them: it ends no block."""
_BEGIN_WORDS = frozenset({"begin", "begin;", "start transaction", "start transaction;", "begin transaction"})
_decode_columns = msgspec.msgpack.Decoder(list[ColumnDescription]).decode
_decode_copy = msgspec.msgpack.Decoder(CopyFormat).decode


class RemoteStatement:
    """A prepared statement. `number` is its name at the node that `link` leads to; prepared again elsewhere."""

    __slots__ = ("begins", "columns", "commits", "link", "number", "parameter_oids", "reads", "sql")

    def __init__(self, sql: str, parameter_oids: Sequence[int], columns: Sequence[ColumnDescription] | None) -> None:
        self.sql = sql
        self.parameter_oids = parameter_oids
        self.columns = columns
        self.number = -1
        self.link: _Link | None = None
        self.begins = sql.strip().lower() in _BEGIN_WORDS
        self.reads = _reads(sql)
        self.commits = _commits(sql)


class _Link:
    """One stream to one leader: gathers messages, sends one frame at a time."""

    def __init__(self, address: str, channel: grpc.aio.Channel, lost: Callable[[_Link], None]) -> None:
        self.address = address
        self.stub: Any = wire_grpc.SessionsStub(channel)  # type: ignore[no-untyped-call]
        self.alive = True
        self.sessions: dict[int, RemoteSession] = {}
        self._channel = channel
        self._lost = lost
        self._out: list[Message] = []
        self._ready = asyncio.Event()
        self._may_send = True
        self._owes_acknowledgement = False
        self._task = asyncio.create_task(self._run(), name="session-stream")

    def send(self, message: Message) -> None:
        self._out.append(message)
        if self._may_send:
            self._ready.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _run(self) -> None:
        call = self.stub.Exchange()
        writer = asyncio.create_task(self._write(call), name="session-stream-writer")
        try:
            while True:
                frame = await call.read()
                if frame is grpc.aio.EOF:
                    break
                self._take(frame.payload)
        except grpc.RpcError as error:
            _log.warning("session stream broke", leader=self.address, reason=str(error.code()))
        finally:
            self.alive = False
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            call.cancel()
            self._lost(self)

    async def _write(self, call: Any) -> None:
        while True:
            await self._ready.wait()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            self._ready.clear()
            messages: list[Message] = []
            if self._may_send and self._out:
                messages, self._out = self._out, []
                self._may_send = False
            acknowledges, self._owes_acknowledgement = self._owes_acknowledgement, False
            if messages or acknowledges:
                await call.write(wire.Frame(payload=encode_frame((acknowledges, messages))))

    def _take(self, payload: bytes) -> None:
        acknowledges, messages = decode_frame(payload)
        if acknowledges:
            self._may_send = True
        if messages:
            self._owes_acknowledgement = True
        for message in messages:
            session = self.sessions.get(message[0])
            if session is not None:
                session.arrived(message)
        if self._owes_acknowledgement or (self._may_send and self._out):
            self._ready.set()


class RemoteBackend:
    """`Backend` over the network. `leader_changed` is called by whoever watches leadership."""

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._link: _Link | None = None
        self._next_session = 0
        self._waiting: deque[RemoteSession] = deque()
        self._sessions: set[RemoteSession] = set()
        self._found = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def leader_changed(self, address: str | None) -> None:
        """Follow the leadership: None while nobody leads."""
        old = self._link
        if old is not None and old.address == address and old.alive:
            return
        self._link = None
        if old is not None:
            self._abandon(old)
        if address is None:
            self._found.clear()
            return
        self._link = _Link(address, self._open_channel(address), self._stream_lost)
        self._found.set()
        waiting, self._waiting = self._waiting, deque()
        for session in waiting:
            session.leader_found(self._link)

    @property
    def connected(self) -> bool:
        return self._link is not None and self._link.alive

    async def credentials(self, user: str) -> Credentials | None:
        deadline = asyncio.get_running_loop().time() + LEADER_WAIT_S
        while True:
            left = deadline - asyncio.get_running_loop().time()
            try:
                await asyncio.wait_for(self._found.wait(), max(left, 0.01))
                link = self._link
                if link is None:
                    continue
                reply = await link.stub.Credentials(wire.CredentialsRequest(user=user), timeout=max(left, 0.1))
                break
            except TimeoutError:
                raise NotLeader("no storage node leads the shard at the moment") from None
            except grpc.RpcError as error:
                if left <= 0:
                    raise NotLeader("the storage leader does not answer") from error
                await asyncio.sleep(0.1)
        if not reply.found:
            return None
        return Credentials(user, reply.verifier if reply.has_verifier else None, reply.login)

    def open(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> RemoteSession:
        self._next_session += 1
        session = RemoteSession(self, self._next_session, user, database, settings, owner)
        self._sessions.add(session)
        return session

    async def stop(self) -> None:
        if self._link is not None:
            await self._link.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def link(self) -> _Link | None:
        return self._link if self._link is not None and self._link.alive else None

    def wait_for_leader(self, session: RemoteSession) -> None:
        self._waiting.append(session)

    def forget(self, session: RemoteSession) -> None:
        self._sessions.discard(session)

    def _stream_lost(self, link: _Link) -> None:
        if self._link is link:
            # The watch may name the same node again once it is back: then the stream is opened anew.
            self._link = None
            self._found.clear()
            address = link.address
            asyncio.get_running_loop().call_later(0.2, self._try_again, address)
        self._abandon(link)

    def _try_again(self, address: str) -> None:
        if self._link is None:
            self.leader_changed(address)

    def _abandon(self, link: _Link) -> None:
        sessions, link.sessions = link.sessions, {}
        for session in sessions.values():
            session.link_lost(link)
        task = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class RemoteSession:
    """`Session` on the leader. At most one request at a time, like every session."""

    def __init__(
        self,
        backend: RemoteBackend,
        number: int,
        user: str,
        database: str,
        settings: dict[str, str],
        owner: SessionOwner,
    ) -> None:
        self.status = IDLE
        self._backend = backend
        self._number = number
        self._user = user
        self._database = database
        self._settings = settings
        self._owner = owner
        self._link: _Link | None = None
        self._begins = False
        self._pending: Message | None = None
        self._retry = False
        self._may_commit = False
        self._block_lost = False
        """The open block went with its leader: until the client ends it, every statement fails."""
        self._loss_told = False
        """Its client has had the error that says so; without it, a COMMIT answered ROLLBACK would pass for one."""
        self._statement: RemoteStatement | None = None
        self._after_prepare: Callable[[], None] | None = None
        self._rows_sent = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    # The contract.

    def prepare(self, sql: str, parameter_oids: Sequence[int]) -> RemoteStatement | None:
        self._statement = RemoteStatement(sql, list(parameter_oids), None)
        self._request((self._number, Op.PREPARE, False, sql, list(parameter_oids)), retry=True)
        return None

    def execute(
        self,
        statement: Any,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
        sync: bool,
    ) -> bytes | None:
        if statement.begins and self.status == IDLE and not parameters:
            return self._begin()
        if self._block_lost:
            return self._in_lost_block(statement.sql)
        begins, self._begins = self._begins, False
        arguments = (list(parameters), list(parameter_formats), list(result_formats), sync)

        def send() -> None:
            message = (self._number, Op.EXECUTE, begins, statement.number, *arguments)
            idle = self.status == IDLE
            self._request(message, retry=statement.reads and sync and idle, may_commit=idle or statement.commits)

        if statement.link is not self._current_link():
            # Another node leads now: it has to know the statement first.
            self._statement, self._after_prepare = statement, send
            oids = list(statement.parameter_oids)
            self._request((self._number, Op.PREPARE, False, statement.sql, oids), retry=True)
        else:
            send()
        return None

    def sync(self) -> bytes | None:
        if self._block_lost or (self.status == IDLE and self._link is None):
            return b""
        self._request((self._number, Op.SYNC), retry=False, may_commit=self.status == IDLE)
        return None

    def simple(self, sql: str) -> bytes | None:
        if self.status == IDLE and sql.strip().lower() in _BEGIN_WORDS:
            return self._begin()
        if self._block_lost:
            return self._in_lost_block(sql)
        begins, self._begins = self._begins, False
        idle = self.status == IDLE
        reads = idle and _reads(sql) and ";" not in sql.rstrip().rstrip(";")
        self._request((self._number, Op.SIMPLE, begins, sql), retry=reads, may_commit=idle or _commits(sql))
        return None

    def copy_batch(self, encoded: bytes) -> bytes | None:
        self._request((self._number, Op.COPY_BATCH, encoded), retry=False)
        return None

    def copy_done(self) -> bytes | None:
        self._request((self._number, Op.COPY_DONE), retry=False, may_commit=self.status == IDLE)
        return None

    def copy_fail(self, reason: str) -> None:
        self._signal((self._number, Op.COPY_FAIL, reason))

    def fail(self) -> None:
        if self._begins:
            # The block exists only here yet, and now it has failed.
            self._begins, self._block_lost, self._loss_told = False, True, True
        if self.status == IN_TRANSACTION:
            self.status = FAILED
        self._signal((self._number, Op.FAIL))

    def hold_rows(self, held: bool) -> None:
        self._signal((self._number, Op.HOLD_ROWS, held))

    def cancel(self) -> None:
        self._signal((self._number, Op.CANCEL))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stop_timer()
            self._signal((self._number, Op.CLOSE))
            if self._link is not None:
                self._link.sessions.pop(self._number, None)
            self._backend.forget(self)

    # From the link.

    def arrived(self, message: list[Any]) -> None:
        """Take one event of this session."""
        if self._closed:
            return
        event = message[1]
        if event == Event.ROWS:
            self._rows_sent = True
            self._owner.rows(message[3])
            return
        if event == Event.PARAMETER:
            self._owner.parameter_changed(message[3], message[4])
            return
        if event == Event.NOTICE:
            self._owner.notice(unpack_error(message[3]))
            return
        if event == Event.SETTINGS:
            self._settings = dict(message[3])
            return
        if event == Event.TERMINATED:
            self._terminated(unpack_error(message[3]))
            return
        # The new leader's session knows nothing of a block that was lost.
        self.status = FAILED if self._block_lost else message[2]
        if event == Event.COPY_IN:
            self._owner.copy_in(_decode_copy(message[3]))
            return
        self._pending = None
        if event == Event.REPLIED:
            self._owner.replied(message[3])
        elif event == Event.FAILED:
            self._after_prepare = None
            self._owner.failed(unpack_error(message[3]))
        elif event == Event.PREPARED:
            self._prepared(message)

    def leader_found(self, link: _Link) -> None:
        """A leader is there again: send what waits."""
        self._stop_timer()
        if not self._closed and self._pending is not None:
            self._attach(link)
            link.send(self._pending)

    def link_lost(self, link: _Link) -> None:
        """The stream that this session used is gone."""
        if self._link is not link:
            return
        self._link = None
        if self._closed:
            return
        if self._pending is None:
            self._lose_block()
        elif self._retry and not self._rows_sent and (self.status == IDLE or self._only_prepares()):
            # A prepare can be asked for again, the block around it cannot be had again.
            self._lose_block()
            self._wait()
        else:
            self._fail_lost()

    def _only_prepares(self) -> bool:
        return self._pending is not None and self._pending[1] == Op.PREPARE and self._after_prepare is None

    def _lose_block(self) -> None:
        if self.status != IDLE and not self._begins:
            self._block_lost, self.status = True, FAILED
            self._loss_told = False

    def _fail_lost(self) -> None:
        """The pending request will never be answered: say what is known of it."""
        self._pending, self._after_prepare = None, None
        if self._may_commit:
            self.status = IDLE
            self._owner.failed(
                OutcomeUnknown("the storage leader was lost, the transaction may or may not have committed")
            )
        else:
            self._lose_block()
            self._loss_told = True
            self._owner.failed(_rolled_back())

    def _in_lost_block(self, sql: str) -> bytes:
        """Answer a statement in a block that is gone: first what has happened, then as in any failed block."""
        end = _END.fullmatch(sql)
        told, self._loss_told = self._loss_told, True
        if end is not None:
            self._block_lost, self.status = False, IDLE
            if told or end[1].lower() in ("rollback", "abort"):
                return _ROLLBACK_ANSWER
        if not told:
            raise _rolled_back()
        raise TransactionAborted("current transaction is aborted, commands ignored until end of transaction block")

    def _prepared(self, message: list[Any]) -> None:
        statement = self._statement
        assert statement is not None, "an answer to prepare follows a prepare"
        statement.number, statement.parameter_oids = message[3], message[4]
        statement.columns = None if message[5] is None else _decode_columns(message[5])
        statement.link = self._link
        then, self._after_prepare = self._after_prepare, None
        if then is None:
            self._owner.prepared(statement)
        else:
            then()

    def _terminated(self, error: OrbitError) -> None:
        """The node has closed the session. A node that does not lead any more is as good as a lost stream."""
        if isinstance(error, NotLeader):
            link = self._link
            if link is not None:
                link.sessions.pop(self._number, None)
                self.link_lost(link)
            return
        self._owner.terminated(error)

    def _begin(self) -> bytes:
        self._begins = True
        self.status = IN_TRANSACTION
        return _BEGIN_ANSWER

    def _request(self, message: Message, *, retry: bool, may_commit: bool = False) -> None:
        self._pending, self._retry, self._may_commit, self._rows_sent = message, retry, may_commit, False
        link = self._current_link()
        if link is None:
            # Nothing was sent, so nothing is unknown: it waits for the next leader.
            self._retry = True
            self._wait()
            return
        self._attach(link)
        link.send(message)

    def _current_link(self) -> _Link | None:
        return self._link if self._link is not None and self._link.alive else self._backend.link()

    def _attach(self, link: _Link) -> None:
        if self._link is not link:
            self._link = link
            link.sessions[self._number] = self
            link.send((self._number, Op.OPEN, self._user, self._database, self._settings))

    def _signal(self, message: Message) -> None:
        if self._link is not None and self._link.alive:
            self._link.send(message)

    def _wait(self) -> None:
        """Nobody leads: keep the request until somebody does, for a limited time."""
        self._backend.wait_for_leader(self)
        self._timer = asyncio.get_running_loop().call_later(LEADER_WAIT_S, self._gave_up)

    def _gave_up(self) -> None:
        self._timer = None
        if self._pending is not None and self._link is None and not self._closed:
            self._pending, self._after_prepare = None, None
            self._owner.failed(NotLeader("no storage node leads the shard at the moment"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _rolled_back() -> SerializationFailure:
    return SerializationFailure("the storage leader was lost, the transaction has rolled back: try again")


def _reads(sql: str) -> bool:
    """Return whether a statement surely changes nothing, so that it may be sent twice."""
    words = sql.lower()
    return words.lstrip()[:6] in ("select", "values") and "nextval" not in words and " for " not in words


def _commits(sql: str) -> bool:
    """Return whether a text may hold a COMMIT. Rather too often than too seldom."""
    words = sql.lower()
    return "commit" in words or "end" in words
