"""A backend that follows a script: enough SQL to drive every path of the PostgreSQL door, and a record of what it saw.

Owns no meaning: each statement is matched by its words. `deferred` answers every request from a later turn of the
event loop, as a remote storage does; otherwise at once, as storage in the same process does.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from orbit.kernel.errors import OrbitError, QueryCanceled, TransactionAborted
from orbit.kernel.scram import make_verifier
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values.data_rows import encode_data_rows
from services.gateway.protocols.postgres import wire
from services.storage.client import (
    FAILED,
    IDLE,
    IN_TRANSACTION,
    ColumnDescription,
    CopyFormat,
    Credentials,
    SessionOwner,
    Statement,
)

USER, PASSWORD, DATABASE = "alice", "correct horse", "orbit"
INT8, TEXT = SqlType(Oid.INT8), SqlType(Oid.TEXT)


def column(name: str, sql_type: SqlType = INT8) -> ColumnDescription:
    return ColumnDescription(name, sql_type)


COPY_COLUMNS = (
    column("a", SqlType(Oid.INT4)),
    column("b", TEXT),
    column("c", SqlType(Oid.NUMERIC, (10 << 16 | 2) + 4)),
    column("d", SqlType(Oid.TIMESTAMP)),
)


@dataclass(frozen=True)
class ScriptedStatement:
    sql: str
    parameter_oids: Sequence[int]
    columns: Sequence[ColumnDescription] | None


@dataclass
class ScriptedBackend:
    """`sessions` are all that were ever opened. `copied` are the rows of every finished COPY."""

    deferred: bool = False
    sessions: list[ScriptedSession] = field(default_factory=list)
    copied: list[dict[str, Any]] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    users: dict[str, Credentials] = field(default_factory=dict)
    unavailable: OrbitError | None = None

    def __post_init__(self) -> None:
        verifier = make_verifier(PASSWORD)
        self.users[USER] = Credentials(USER, verifier, True)
        self.users["guest"] = Credentials("guest", verifier, False)
        self.users["nopassword"] = Credentials("nopassword", None, True)

    async def credentials(self, user: str) -> Credentials | None:
        if self.unavailable is not None:
            raise self.unavailable
        return self.users.get(user)

    def open(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> ScriptedSession:
        if settings.get("search_path") == "refuse":
            raise OrbitError('invalid value for parameter "search_path"', sqlstate="22023")
        session = ScriptedSession(self, user, settings, owner)
        self.sessions.append(session)
        self.opened.set()
        return session


class ScriptedSession:
    def __init__(self, backend: ScriptedBackend, user: str, settings: dict[str, str], owner: SessionOwner) -> None:
        self.backend = backend
        self.user = user
        self.settings = settings
        self.owner = owner
        self.status = IDLE
        self.ran: list[str] = []
        self.closed = asyncio.Event()
        self.cancels = 0
        self.syncs = 0
        self.fails = 0
        self.held: list[bool] = []
        self.holding = asyncio.Event()
        self.waiting = asyncio.Event()
        """Set while a statement hangs until it is cancelled."""
        self.streamed_parts = 0
        self._loop = asyncio.get_running_loop()
        self._streaming: asyncio.Task[None] | None = None
        self._flow = asyncio.Event()
        self._flow.set()
        self._copy: list[Any] | None = None
        self._copy_answer = b""

    # The contract.

    def trace(self, traceparent: str) -> None:
        raise AssertionError("tracing is off")

    def prepare(self, sql: str, parameter_oids: Sequence[int]) -> Statement | None:
        if "syntax error" in sql:
            raise OrbitError('syntax error at or near "syntax"', sqlstate="42601", position=8)
        numbers = [int(n) for n in re.findall(r"\$(\d+)", sql)]
        oids = [*parameter_oids, *[Oid.TEXT] * max(numbers, default=0)][: max(numbers, default=0)]
        statement = ScriptedStatement(sql, oids, self._columns(sql))
        if self.backend.deferred:
            self._loop.call_soon(self.owner.prepared, statement)
            return None
        return statement

    def execute(
        self,
        statement: Any,
        parameters: Sequence[bytes | None],
        parameter_formats: Sequence[int],
        result_formats: Sequence[int],
        sync: bool,
    ) -> bytes | None:
        return self._answer(lambda: self._run(statement.sql, parameters, result_formats))

    def sync(self) -> bytes | None:
        self.syncs += 1
        return self._answer(lambda: b"")

    def simple(self, sql: str) -> bytes | None:
        def run() -> bytes | None:
            parts = [part.strip() for part in sql.split(";") if part.strip()]
            out = []
            for part in parts:
                columns = self._columns(part)
                if columns is not None:
                    out.append(wire.row_description(columns, [0] * len(columns)))
                answer = self._run(part, (), ())
                if answer is None:
                    return None
                out.append(answer)
            return b"".join(out)

        return self._answer(run)

    def copy_batch(self, encoded: bytes) -> bytes | None:
        assert self._copy is not None

        def take() -> bytes:
            table = pa.ipc.open_stream(encoded).read_all()
            if "refuse" in table.column(1).to_pylist():
                raise OrbitError("storage refuses this row", sqlstate="23505")
            assert self._copy is not None
            self._copy += table.to_pylist()
            return b""

        return self._answer(take)

    def copy_done(self) -> bytes | None:
        rows, self._copy = self._copy or [], None
        self.backend.copied += rows
        return self._answer(lambda: wire.command_complete(f"COPY {len(rows)}"))

    def copy_fail(self, reason: str) -> None:
        self._copy = None
        self._statement_failed()
        error = QueryCanceled(f"COPY from stdin failed: {reason}")
        self._loop.call_soon(self.owner.failed, error)

    def fail(self) -> None:
        self.fails += 1
        self._statement_failed()

    def hold_rows(self, held: bool) -> None:
        self.held.append(held)
        if held:
            self.holding.set()
            self._flow.clear()
        else:
            self._flow.set()

    def cancel(self) -> None:
        self.cancels += 1
        if self.waiting.is_set() or self._streaming is not None or self._copy is not None:
            self.waiting.clear()
            if self._streaming is not None:
                self._streaming.cancel()
                self._streaming = None
            self._copy = None
            self._statement_failed()
            self._loop.call_soon(self.owner.failed, QueryCanceled("canceling statement due to user request"))

    def close(self) -> None:
        self.closed.set()
        if self._streaming is not None:
            self._streaming.cancel()

    # The script.

    def _answer(self, run: Callable[[], bytes | None]) -> bytes | None:
        if not self.backend.deferred:
            try:
                return run()
            except OrbitError:
                self._statement_failed()
                raise

        def later() -> None:
            if self.closed.is_set():
                return
            try:
                answer = run()
            except OrbitError as error:
                self._statement_failed()
                self.owner.failed(error)
                return
            if answer is not None:
                self.owner.replied(answer)

        self._loop.call_soon(later)
        return None

    def _statement_failed(self) -> None:
        if self.status != IDLE:
            self.status = FAILED

    def _columns(self, sql: str) -> Sequence[ColumnDescription] | None:
        words = sql.lower().split()
        if words[:1] != ["select"]:
            return None
        return (column("n"), column("word", TEXT)) if words[1:2] in (["rows"], ["stream"]) else (column("value", TEXT),)

    def _run(self, sql: str, parameters: Sequence[bytes | None], formats: Sequence[int]) -> bytes | None:
        self.ran.append(sql)
        words = sql.lower().split()
        if self.status == FAILED and words[0] not in ("commit", "rollback"):
            raise TransactionAborted("current transaction is aborted, commands ignored until end of transaction block")
        action = getattr(self, "_do_" + (words[1] if words[0] == "select" and len(words) > 1 else words[0]), None)
        if action is None:
            return wire.command_complete(words[0].upper())
        done: bytes | None = action(words, parameters, formats)
        return done

    def _do_begin(self, words: list[str], *_: Any) -> bytes:
        self.status = IN_TRANSACTION
        return wire.command_complete("BEGIN")

    def _do_commit(self, words: list[str], *_: Any) -> bytes:
        failed, self.status = self.status == FAILED, IDLE
        return wire.command_complete("ROLLBACK" if failed else "COMMIT")

    def _do_rollback(self, words: list[str], *_: Any) -> bytes:
        self.status = IDLE
        return wire.command_complete("ROLLBACK")

    def _do_error(self, words: list[str], *_: Any) -> bytes:
        raise OrbitError(
            "duplicate key value violates unique constraint",
            sqlstate="23505",
            detail="Key (id)=(1) already exists.",
            hint="a hint",
            schema="public",
            table="t",
            column="id",
            constraint="t_pkey",
            context="somewhere",
            position=3,
        )

    def _do_defect(self, words: list[str], *_: Any) -> bytes:
        raise ZeroDivisionError("a defect of the storage")

    def _do_wait(self, words: list[str], *_: Any) -> None:
        self.waiting.set()

    def _do_rows(self, words: list[str], parameters: Any, formats: Sequence[int]) -> bytes:
        count = int(words[2])
        return self._rows(0, count, formats) + wire.command_complete(f"SELECT {count}")

    def _rows(self, first: int, count: int, formats: Sequence[int]) -> bytes:
        numbers = range(first, first + count)
        batch = pa.record_batch([pa.array(numbers, pa.int64()), pa.array([f"w{n}" for n in numbers])], ["n", "word"])
        return encode_data_rows(batch, [INT8, TEXT], formats)

    def _do_stream(self, words: list[str], parameters: Any, formats: Sequence[int]) -> None:
        """select stream <parts>: parts of 1000 rows, held while the client does not drain."""

        async def stream() -> None:
            parts = int(words[2])
            for part in range(parts):
                await self._flow.wait()
                self.streamed_parts += 1
                self.owner.rows(self._rows(part * 1000, 1000, formats))
                await asyncio.sleep(0)
            self._streaming = None
            self.owner.replied(wire.command_complete(f"SELECT {parts * 1000}"))

        self._streaming = self._loop.create_task(stream())

    def _do_copy(self, words: list[str], *_: Any) -> bytes | None:
        self._copy = []
        csv = "csv" in words
        copy = CopyFormat(
            "binary" if "binary" in words else "csv" if csv else "text",
            COPY_COLUMNS,
            "," if csv else "\t",
            "" if csv else "\\N",
            header="header" in words,
            table="t",
        )
        self._loop.call_soon(self.owner.copy_in, copy)
        return None

    def _do_set(self, words: list[str], *_: Any) -> bytes:
        self._loop.call_soon(self.owner.parameter_changed, "TimeZone", words[-1].strip("'"))
        return wire.command_complete("SET")

    def _do_warn(self, words: list[str], *_: Any) -> bytes:
        self._loop.call_soon(
            self.owner.notice, OrbitError("there is no transaction in progress", sqlstate="25P01", severity="WARNING")
        )
        return wire.command_complete("WARN")

    def _do_value(self, words: list[str], parameters: Sequence[bytes | None], formats: Any) -> bytes:
        """select value $1: the first parameter as it came."""
        value = parameters[0] if parameters else b"1"
        body = b"\xff\xff\xff\xff" if value is None else len(value).to_bytes(4, "big") + value
        return wire.message(b"D", b"\0\1" + body) + wire.command_complete("SELECT 1")
