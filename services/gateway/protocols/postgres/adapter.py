"""PostgreSQL messages to calls of a session, and its answers back.

Owns the messages of an open session: simple and extended queries, prepared statements and portals, errors that skip
to Sync, COPY's side of the conversation. Implements `SessionOwner`. Framing, start-up and the end are `connection`'s,
COPY's data is `copy_in`'s.

The hot path is Bind, Execute, Sync with a session that answers at once: three calls, no task, no future, and one
write for everything that arrived together.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, cast

from orbit.kernel.errors import OrbitError, TransactionAborted
from services.gateway.protocols.postgres import wire
from services.gateway.protocols.postgres.connection import LARGE_ANSWER_BYTES, Connection, Handlers
from services.gateway.protocols.postgres.copy_in import CopyIn
from services.gateway.protocols.postgres.state import Event, Phase
from services.gateway.protocols.postgres.statements import USUAL_FORMATS, Deallocate, Portal, Prepared, deallocation
from services.gateway.protocols.postgres.wire import READY, SYNC, ProtocolViolation
from services.storage.client import FAILED, IDLE, CopyFormat, Statement

if TYPE_CHECKING:
    from services.gateway.protocols.postgres.listener import PostgresListener


class Pending(Enum):
    """The request that the session has not answered yet."""

    NOTHING = auto()
    PREPARE = auto()
    EXECUTE = auto()
    EXECUTE_AND_SYNC = auto()
    SYNC = auto()
    SIMPLE = auto()


_EXTENDED: Final = frozenset(b"PBDEC")


class PostgresConnection(Connection):
    """One client's connection with an open session."""

    def __init__(self, listener: PostgresListener) -> None:
        super().__init__(listener)
        self._statements: dict[bytes, Prepared] = {}
        self._portals: dict[bytes, Portal] = {}
        self._pending = Pending.NOTHING
        self._name = b""
        """Of the statement that is being prepared."""
        self._portal: Portal | None = None
        """The portal that is being executed in parts, and how many rows are wanted now."""
        self._maximum = 0
        self._copy: CopyIn | None = None
        self._copy_rest = 0
        """Bytes of a CopyData message that have not arrived."""
        self._own_error: OrbitError | None = None
        """Why the gateway itself stopped the request: told in place of the session's word for it."""
        self._rows_held = False

    # Connection.

    def session_opened(self) -> Handlers:
        return _READY

    def session_closed(self) -> None:
        self._statements.clear()
        self._portals.clear()
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def refused(self, kind: int, error: OrbitError) -> None:
        if self._phase is Phase.COPY_IN:
            self._stop_copy(error)
            return
        self._pending = Pending.NOTHING
        self._out.append(wire.error_response(error))
        if kind in _EXTENDED:
            self._session.fail()
            self._skip()
        else:
            self._out.append(READY[self._session.status])

    def part_of_message(self, kind: int, data: bytes) -> bool:
        if self._phase is not Phase.COPY_IN or kind != _COPY_DATA:
            return False
        (length,) = wire.uint32_at(self._buffer, self._at + 1)
        self._copy_rest = length - 4 - len(data)
        self._intercept = self._rest_of_copy_data
        self._feed(data)
        return True

    def _rest_of_copy_data(self, data: bytes) -> bytes:
        """Pass on input that continues a CopyData message; return what is behind it."""
        taken = min(len(data), self._copy_rest)
        self._copy_rest -= taken
        self._feed(data[:taken])
        if not self._copy_rest:
            self._intercept = None
        return data[taken:]

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._pending is not Pending.NOTHING:
            self._rows_held = True
            self._session.hold_rows(True)

    def resume_writing(self) -> None:
        if self._rows_held:
            self._rows_held = False
            self._session.hold_rows(False)
        super().resume_writing()

    def cancel(self) -> None:
        """A CancelRequest with this connection's key has come."""
        if self._pending is not Pending.NOTHING:
            self._session.cancel()

    # SessionOwner.

    def replied(self, answer: bytes) -> None:
        if self._phase is Phase.CLOSED:
            return  # it was on its way when the connection ended
        if self._copy is not None:
            self._copy.taken(answer)
            return
        self._finish(answer)
        self._resume()

    def prepared(self, statement: Statement) -> None:
        if self._phase is Phase.CLOSED:
            return
        self._pending, self._waiting = Pending.NOTHING, False
        self._statements[self._name] = Prepared(self._name, statement)
        self._out.append(wire.PARSE_COMPLETE)
        self._resume()

    def failed(self, error: OrbitError) -> None:
        if self._phase is Phase.CLOSED:
            return
        if self._copy is not None:
            self._copy.close()
            self._copy = None
            self._leave_copy()
        error = self._own_error or error
        self._own_error = None
        pending, self._pending, self._waiting = self._pending, Pending.NOTHING, False
        self._out.append(wire.error_response(error))
        if pending in (Pending.EXECUTE, Pending.PREPARE):
            if pending is Pending.PREPARE:
                self._session.fail()
            self._skip()
        else:
            self._synced()
        self._resume()

    def rows(self, messages: bytes) -> None:
        if self._phase is Phase.CLOSED:
            return
        portal = self._portal
        if portal is None:
            self._send(messages)
            return
        portal.hold(messages)
        if portal.held_bytes > self._limits.max_held_bytes and self._own_error is None:
            self._own_error = OrbitError(
                f"rows of a portal that is fetched in parts exceed {self._limits.max_held_bytes} bytes",
                sqlstate="54000",
                hint="Fetch without a row limit, or select fewer rows.",
            )
            self._session.cancel()

    def copy_in(self, copy: CopyFormat) -> None:
        if self._phase is Phase.CLOSED:
            return
        if self._pending is Pending.EXECUTE_AND_SYNC:
            self._pending = Pending.EXECUTE  # a Sync ahead of the data means nothing; the one behind it will
        self._move(Event.COPY_WANTED)
        self._handlers = _COPY
        self._waiting = False
        try:
            self._copy = CopyIn(self, self._session, copy, self._listener.parsers, self._limits)
        except OrbitError as error:
            self._leave_copy()
            self._waiting = True
            self.copy_failed(error)
            return
        self._out.append(wire.copy_in_response(len(copy.columns)))
        self._flush()
        self._resume()

    def parameter_changed(self, name: str, value: str) -> None:
        if self._phase is not Phase.CLOSED:
            self._greeting.settings[name] = value
            self._send(wire.parameter_status(name, value))

    def notice(self, error: OrbitError) -> None:
        if self._phase is not Phase.CLOSED:
            self._send(wire.notice_response(error))

    def terminated(self, error: OrbitError) -> None:
        self.fatal(error)

    # For CopyIn.

    @property
    def time_zone(self) -> str:
        """The session's TimeZone setting."""
        settings = self._greeting.settings
        return next((value for name, value in settings.items() if name.lower() == "timezone"), "UTC")

    def copy_ready(self, wanted: bool) -> None:
        """COPY can take more input, or has enough for now."""
        if self._copy is not None:
            self._read(wanted and not self._draining)

    def copy_ended(self, answer: bytes | None) -> None:
        """All data is with storage, and this is the answer; None when it comes through `replied`."""
        self._copy = None
        self._leave_copy()
        if answer is None:
            self._waiting = True
        else:
            self._finish(answer)
        self._resume()

    def copy_failed(self, error: OrbitError) -> None:
        """The data is bad, or storage refused it."""
        self._own_error = error
        self._session.copy_fail(error.message)

    def copy_refused(self, error: OrbitError) -> None:
        """Storage refused the data, and has ended the COPY."""
        self.failed(error)

    # Answers.

    def _wait(self, pending: Pending) -> None:
        self._pending, self._waiting = pending, True

    def _finish(self, answer: bytes) -> None:
        """The pending request has its answer."""
        pending, self._pending, self._waiting = self._pending, Pending.NOTHING, False
        if pending is Pending.EXECUTE:
            self._executed(answer)
        elif pending is Pending.EXECUTE_AND_SYNC:
            self._executed(answer)
            self._synced()
        else:
            self._out.append(answer)
            self._synced()

    def _executed(self, answer: bytes) -> None:
        portal = self._portal
        if portal is None:
            self._out.append(answer)
        else:
            self._portal = None
            portal.hold(answer)
            self._out.append(portal.fetch(self._maximum))

    def _synced(self) -> None:
        status = self._session.status
        if status == IDLE and self._portals:
            self._portals.clear()
        self._out.append(READY[status])

    def _skip(self) -> None:
        self._portal = None
        self._move(Event.PIPELINE_FAILED)
        self._handlers = _SKIPPING

    # Messages.

    def _on_query(self, at: int, end: int) -> None:
        sql = wire.parse_query(self._buffer, at, end)
        self._statements.pop(b"", None)
        self._portals.pop(b"", None)
        if not sql or sql.isspace():
            self._out.append(wire.EMPTY_QUERY)
        elif (command := deallocation(sql)) is not None:
            self._out.append(self._deallocate(command))
        else:
            self._pending = Pending.SIMPLE
            answer = self._session.simple(sql)
            if answer is None:
                self._waiting = True
                return
            self._pending = Pending.NOTHING
            self._out.append(answer)
            if len(answer) > LARGE_ANSWER_BYTES:
                self._flush()
        self._synced()

    def _on_parse(self, at: int, end: int) -> None:
        name, sql, oids = wire.parse_parse(self._buffer, at, end)
        if name:
            if name in self._statements:
                shown = name.decode(errors="replace")
                raise OrbitError(f'prepared statement "{shown}" already exists', sqlstate="42P05")
            if len(self._statements) >= self._limits.max_statements:
                raise OrbitError("too many prepared statements in this session", sqlstate="53400")
        statement: Statement | Deallocate | None = None
        if sql and not sql.isspace() and (statement := deallocation(sql)) is None:
            statement = self._session.prepare(sql, oids)
            if statement is None:
                self._name = name
                self._wait(Pending.PREPARE)
                return
        self._statements[name] = Prepared(name, statement)
        self._out.append(wire.PARSE_COMPLETE)

    def _statement(self, name: bytes) -> Prepared:
        prepared = self._statements.get(name)
        if prepared is None:
            shown = f'prepared statement "{name.decode(errors="replace")}"' if name else "unnamed prepared statement"
            raise OrbitError(f"{shown} does not exist", sqlstate="26000")
        return prepared

    def _find_portal(self, name: bytes) -> Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise OrbitError(f'portal "{name.decode(errors="replace")}" does not exist', sqlstate="34000")
        return portal

    def _on_bind(self, at: int, end: int) -> None:
        name, statement, formats, parameters, results = wire.parse_bind(self._buffer, at, end)
        prepared = self._statements.get(statement) or self._statement(statement)
        if len(parameters) != prepared.parameter_count or results not in USUAL_FORMATS or formats not in USUAL_FORMATS:
            prepared.check(parameters, formats, results)
        if name:
            if name in self._portals:
                raise OrbitError(f'portal "{name.decode(errors="replace")}" already exists', sqlstate="42P03")
            if len(self._portals) >= self._limits.max_portals:
                raise OrbitError("too many open portals in this session", sqlstate="53400")
        self._portals[name] = Portal(prepared, parameters, formats, results)
        self._out.append(wire.BIND_COMPLETE)

    def _on_describe(self, at: int, end: int) -> None:
        is_portal, name = wire.parse_target(self._buffer, at, end)
        if is_portal:
            portal = self._portals.get(name) or self._find_portal(name)
            self._out.append(portal.prepared.describe_rows(portal.results))
        else:
            prepared = self._statement(name)
            self._out += [wire.parameter_description(prepared.parameter_oids), prepared.describe_rows(())]

    def _on_execute(self, at: int, end: int) -> None:
        name, maximum = wire.parse_execute(self._buffer, at, end)
        portal = self._portals.get(name) or self._find_portal(name)
        if not portal.runs:
            self._out.append(self._execute_here(portal, maximum))
            return
        portal.runs = False
        statement = cast("Statement", portal.prepared.statement)
        if maximum:
            self._portal, self._maximum = portal, maximum
        sync = self._buffer[end : end + 5] == SYNC
        self._pending = Pending.EXECUTE_AND_SYNC if sync else Pending.EXECUTE
        answer = self._session.execute(statement, portal.parameters, portal.formats, portal.results, sync)
        if sync:
            self._at = end + 5
        if answer is None:
            self._waiting = True
            return
        self._pending = Pending.NOTHING
        if maximum:
            self._executed(answer)
        else:
            self._out.append(answer)
            if len(answer) > LARGE_ANSWER_BYTES:
                self._flush()
        if sync:
            self._synced()

    def _execute_here(self, portal: Portal, maximum: int) -> bytes:
        """What needs no session: more rows of a portal, an empty query, DEALLOCATE."""
        statement = portal.prepared.statement
        if statement is None:
            return wire.EMPTY_QUERY
        if isinstance(statement, Deallocate):
            return self._deallocate(statement)
        return portal.fetch(maximum) if portal.suspended else portal.again()

    def _deallocate(self, command: Deallocate) -> bytes:
        if self._session.status == FAILED:
            raise TransactionAborted("current transaction is aborted, commands ignored until end of transaction block")
        if command.discard and self._session.status != IDLE:
            raise OrbitError("DISCARD ALL cannot run inside a transaction block", sqlstate="25001")
        if command.name is None:
            self._statements.clear()
        else:
            self._statement(command.name.encode())
            del self._statements[command.name.encode()]
        return wire.command_complete(command.tag)

    def _on_close(self, at: int, end: int) -> None:
        is_portal, name = wire.parse_target(self._buffer, at, end)
        if is_portal:
            self._portals.pop(name, None)
        else:
            self._statements.pop(name, None)
        self._out.append(wire.CLOSE_COMPLETE)

    def _on_sync(self, at: int, end: int) -> None:
        if at != end:
            raise ProtocolViolation("invalid message format", severity="FATAL")
        if self._phase is Phase.SKIPPING:
            self._move(Event.SYNCED)
            self._handlers = _READY
            self._synced()
            return
        self._pending = Pending.SYNC
        answer = self._session.sync()
        if answer is None:
            self._waiting = True
            return
        self._pending = Pending.NOTHING
        self._out.append(answer)
        self._synced()

    def _on_flush(self, at: int, end: int) -> None:
        """Whatever is answered goes out at the end of the turn anyway."""

    def _on_terminate(self, at: int, end: int) -> None:
        if self._out:
            self._flush()
        self._close()

    def _skipped(self, at: int, end: int) -> None:
        """A message between an error and Sync, or a rest of a COPY that has failed."""

    # COPY FROM STDIN.

    def _on_copy_data(self, at: int, end: int) -> None:
        self._feed(self._buffer[at:end])

    def _feed(self, data: bytes) -> None:
        if self._copy is not None:
            self._copy.feed(data)

    def _on_copy_done(self, at: int, end: int) -> None:
        assert self._copy is not None
        self._waiting = True
        self._copy.end()

    def _on_copy_fail(self, at: int, end: int) -> None:
        assert self._copy is not None
        reason = wire.parse_query(self._buffer, at, end)
        self._waiting = True
        self._copy.stop(OrbitError(f"COPY from stdin failed: {reason}", sqlstate="57014"))

    def _on_stranger(self, at: int, end: int) -> None:
        kind = self._buffer[at - 5]
        raise ProtocolViolation(f"unexpected message type 0x{kind:02X} during COPY from stdin")

    def _stop_copy(self, error: OrbitError) -> None:
        assert self._copy is not None
        self._waiting = True
        self._copy.stop(error)

    def _leave_copy(self) -> None:
        self._move(Event.COPY_ENDED)
        self._handlers = _READY


_COPY_DATA: Final = ord("d")
_READY: Final[Handlers] = {
    ord("B"): PostgresConnection._on_bind,
    ord("E"): PostgresConnection._on_execute,
    ord("S"): PostgresConnection._on_sync,
    ord("D"): PostgresConnection._on_describe,
    ord("P"): PostgresConnection._on_parse,
    ord("Q"): PostgresConnection._on_query,
    ord("C"): PostgresConnection._on_close,
    ord("H"): PostgresConnection._on_flush,
    ord("X"): PostgresConnection._on_terminate,
    **dict.fromkeys(b"dcf", PostgresConnection._skipped),
}
_SKIPPING: Final[Handlers] = {
    **dict.fromkeys(b"PBDECHQdcf", PostgresConnection._skipped),
    ord("S"): PostgresConnection._on_sync,
    ord("X"): PostgresConnection._on_terminate,
}
_COPY: Final[Handlers] = {
    **dict.fromkeys(b"PBDECQ", PostgresConnection._on_stranger),
    **dict.fromkeys(b"HS", PostgresConnection._skipped),
    _COPY_DATA: PostgresConnection._on_copy_data,
    ord("c"): PostgresConnection._on_copy_done,
    ord("f"): PostgresConnection._on_copy_fail,
    ord("X"): PostgresConnection._on_terminate,
}
