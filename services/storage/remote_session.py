"""A session on whatever node leads: what it is told, and what it survives.

Owns the rules of a lost leader. An idle session moves to the next leader by itself; a request that surely changed
nothing is sent again; a block or pipeline that was open fails with 40001, once, before anything else is answered; a
request whose commit may or may not have happened fails with 08007.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from orbit.kernel.errors import (
    NotLeader,
    OrbitError,
    OutcomeUnknown,
    QueryCanceled,
    SerializationFailure,
    TransactionAborted,
)
from orbit.kernel.limits import LEADER_WAIT_S
from services.storage.client import FAILED, IDLE, IN_TRANSACTION, ColumnDescription, CopyFormat, SessionOwner
from services.storage.session_frames import Event, Message, Op, unpack_error
from services.storage.session_link import SessionLink

if TYPE_CHECKING:
    from services.storage.remote import RemoteBackend

_BEGIN_ANSWER = b"C\x00\x00\x00\nBEGIN\x00"
_ROLLBACK_ANSWER = b"C\x00\x00\x00\rROLLBACK\x00"
_END = re.compile(r"\s*(commit|end|rollback|abort)(\s+(work|transaction))?\s*;?\s*", re.IGNORECASE)
"""ROLLBACK TO is not among them: it ends no block."""
_COMMITS = re.compile(r"\b(commit|end)\b", re.IGNORECASE)
ASK_AGAIN_S = 0.1
"""Pause before a request is sent again that a node has refused because it does not lead."""
_BEGIN_WORDS = frozenset({"begin", "begin;", "start transaction", "start transaction;", "begin transaction"})
_decode_columns = msgspec.msgpack.Decoder(list[ColumnDescription]).decode
_decode_copy = msgspec.msgpack.Decoder(CopyFormat).decode


class RemoteStatement:
    """A prepared statement. `number` is its name at the node that `link` leads to; prepared again elsewhere."""

    __slots__ = ("begins", "columns", "commits", "link", "number", "parameter_oids", "reads", "session", "sql")

    def __init__(self, sql: str, parameter_oids: Sequence[int], columns: Sequence[ColumnDescription] | None) -> None:
        self.sql = sql
        self.parameter_oids = parameter_oids
        self.columns = columns
        self.number = -1
        self.link: SessionLink | None = None
        self.begins = sql.strip().lower() in _BEGIN_WORDS
        self.reads = _reads(sql)
        self.commits = _commits(sql)
        self.session = 0

    def __del__(self) -> None:
        """The gateway has let go of it: so may the node."""
        link = self.link
        if link is not None and link.alive and self.session in link.sessions:
            link.send((self.session, Op.FORGET, self.number))


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
        self._link: SessionLink | None = None
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
        self._resend: Callable[[], None] | None = None
        """How the pending request is sent again to another leader, when not simply as it was."""
        self._waits = False
        self._pipeline = False
        """An implicit transaction is open: statements have been answered that their Sync has not committed yet."""
        self._pipeline_lost = False
        """It went with its leader, and the client has not been told."""
        self._traceparent = ""
        self._traced = False
        """The leader was told a span, and must hear of the next, or of none."""
        self._copying = False

    # The contract.

    def trace(self, traceparent: str) -> None:
        self._traceparent = traceparent

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
        self._check_pipeline()
        begins, self._begins = self._begins, False
        arguments = (list(parameters), list(parameter_formats), list(result_formats), sync)

        def send() -> None:
            message = (self._number, Op.EXECUTE, begins, statement.number, *arguments)
            idle, alone = self.status == IDLE and not begins, sync and not self._pipeline
            self._request(
                message, retry=statement.reads and alone and idle, may_commit=(idle and sync) or statement.commits
            )
            self._resend = start
            self._pipeline = idle and not sync

        def start() -> None:
            if statement.link is not self._current_link():
                # Another node leads now: it has to know the statement first.
                self._statement, self._after_prepare = statement, send
                oids = list(statement.parameter_oids)
                self._request((self._number, Op.PREPARE, False, statement.sql, oids), retry=not self._pipeline)
            else:
                send()

        start()
        return None

    def sync(self) -> bytes | None:
        self._check_pipeline()
        if self._block_lost or (self.status == IDLE and self._link is None):
            return b""
        open_pipeline, self._pipeline = self._pipeline, False
        self._request((self._number, Op.SYNC), retry=not open_pipeline, may_commit=open_pipeline)
        return None

    def _check_pipeline(self) -> None:
        """Raise once when the implicit transaction of a pipeline went with its leader."""
        lost, self._pipeline_lost = self._pipeline_lost, False
        if lost:
            raise _rolled_back()

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
        self._need_copy()
        self._request((self._number, Op.COPY_BATCH, encoded), retry=False)
        return None

    def _need_copy(self) -> None:
        if not self._copying:
            raise _rolled_back()

    def copy_done(self) -> bytes | None:
        self._need_copy()
        self._copying = False
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
        if self._waits and self._pending is not None:
            self._stop_waiting()
            self._pending, self._after_prepare = None, None
            error = QueryCanceled("canceling statement due to user request")
            asyncio.get_running_loop().call_soon(self._owner.failed, error)
            return
        self._signal((self._number, Op.CANCEL))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._stop_waiting()
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
            # From here on nothing commits before copy_done, and nothing can be sent again.
            self._copying, self._retry, self._may_commit = True, False, False
            self._resend = None
            self._owner.copy_in(_decode_copy(message[3]))
            return
        if event == Event.FAILED:
            error = unpack_error(message[3])
            self._copying = self._pipeline = False
            if isinstance(error, NotLeader) and self._repeatable():
                self._wait()
                return
        self._pending = None
        self._stop_waiting()
        if event == Event.REPLIED:
            self._owner.replied(message[3])
        elif event == Event.FAILED:
            self._after_prepare = None
            self._owner.failed(error)
        elif event == Event.PREPARED:
            self._prepared(message)

    def leader_found(self, link: SessionLink) -> None:
        """A leader is there again: send what waits."""
        if self._closed or not self._waits or self._pending is None:
            return
        self._waits = False
        if self._resend is not None:
            self._after_prepare = None
            self._resend()
        else:
            self._attach(link)
            link.send(self._pending)

    def link_lost(self, link: SessionLink) -> None:
        """The stream that this session used is gone."""
        if self._link is not link:
            return
        self._link = None
        if self._closed:
            return
        if self._pending is None:
            self._lose_block()
        elif self._waits and self.status == IDLE and not self._pipeline:
            return
        elif self._retry and not self._rows_sent and (self.status == IDLE or self._only_prepares()):
            # A prepare can be asked for again, the block around it cannot be had again.
            self._lose_block()
            self._wait()
        else:
            self._fail_lost()

    def _only_prepares(self) -> bool:
        return self._pending is not None and self._pending[1] == Op.PREPARE and self._after_prepare is None

    def _repeatable(self) -> bool:
        """Return whether a request that surely has not been executed can be sent again as it is."""
        if self._pending is None or self._rows_sent or self._copying or self._pipeline or self.status != IDLE:
            return False
        op = self._pending[1]
        if op == Op.SIMPLE:
            # The first half of a script may have committed.
            return ";" not in self._pending[3].rstrip().rstrip(";")
        return op in (Op.PREPARE, Op.EXECUTE)

    def _lose_block(self) -> None:
        self._copying = False
        if self._pipeline:
            self._pipeline, self._pipeline_lost = False, True
        if self.status != IDLE and not self._begins:
            self._block_lost, self.status = True, FAILED
            self._loss_told = False

    def _fail_lost(self) -> None:
        """The pending request will never be answered: say what is known of it."""
        if self._waits:
            # It has never left this process.
            self._stop_waiting()
            self._may_commit = False
        self._pending, self._after_prepare = None, None
        if self._may_commit:
            self.status = IDLE
            self._owner.failed(
                OutcomeUnknown("the storage leader was lost, the transaction may or may not have committed")
            )
        else:
            self._lose_block()
            self._loss_told, self._pipeline_lost = True, False
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
        statement.link, statement.session = self._link, self._number
        then, self._after_prepare = self._after_prepare, None
        if then is None:
            self._owner.prepared(statement)
        else:
            then()

    def _terminated(self, error: OrbitError) -> None:
        """The node has closed the session. A node that does not lead any more is as good as a lost stream."""
        if isinstance(error, NotLeader):
            link = self._link
            if link is None or self._closed:
                return
            link.sessions.pop(self._number, None)
            if self._waits or not self._repeatable():
                # It answers what it has committed before it says that it does not lead; a script may be half done.
                self._may_commit = self._may_commit and self._pending is not None and self._pending[1] == Op.SIMPLE
                self.link_lost(link)
                return
            self._link = None
            self._wait()
            return
        self._owner.terminated(error)

    def _begin(self) -> bytes:
        self._begins = True
        self.status = IN_TRANSACTION
        return _BEGIN_ANSWER

    def _request(self, message: Message, *, retry: bool, may_commit: bool = False) -> None:
        self._pending, self._retry, self._may_commit, self._rows_sent = message, retry, may_commit, False
        self._resend = None
        link = self._current_link()
        if link is None:
            # Nothing was sent, so nothing is unknown: it waits for the next leader.
            self._retry = True
            self._wait()
            return
        self._attach(link)
        if self._traceparent or self._traced:
            self._traced = self._traceparent != ""
            link.send((self._number, Op.TRACE, self._traceparent))
        link.send(message)

    def _current_link(self) -> SessionLink | None:
        return self._link if self._link is not None and self._link.alive else self._backend.link()

    def _attach(self, link: SessionLink) -> None:
        if self._link is not link:
            self._link = link
            link.sessions[self._number] = self
            link.send((self._number, Op.OPEN, self._user, self._database, self._settings))

    def _signal(self, message: Message) -> None:
        if self._link is not None and self._link.alive:
            self._link.send(message)

    def _wait(self) -> None:
        """Keep the request until somebody leads, for a limited time; ask again meanwhile."""
        loop = asyncio.get_running_loop()
        self._waits = True
        self._backend.wait_for_leader(self)
        if self._timer is None:
            self._timer = loop.call_later(LEADER_WAIT_S, self._gave_up)
        loop.call_later(ASK_AGAIN_S, self._ask_again)

    def _ask_again(self) -> None:
        link = self._backend.link()
        if self._waits and link is not None:
            self.leader_found(link)

    def _gave_up(self) -> None:
        self._timer = None
        if self._pending is not None and self._waits and not self._closed:
            self._waits = False
            self._pending, self._after_prepare = None, None
            self._owner.failed(NotLeader("no storage node leads the shard at the moment"))

    def _stop_waiting(self) -> None:
        self._waits = False
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
    return _COMMITS.search(sql) is not None
