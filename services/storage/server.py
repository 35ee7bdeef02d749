"""The storage node's session server: sessions of gateways over one gRPC stream each.

Owns the server side of the stream and its pacing; sessions themselves are `services.storage.session`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
import structlog

from orbit.api.v1 import sessions_pb2 as wire
from orbit.api.v1 import sessions_pb2_grpc as wire_grpc
from orbit.kernel.errors import OrbitError
from services.storage.client import IDLE, CopyFormat, Credentials, Statement
from services.storage.session import StorageSession
from services.storage.session_frames import Event, Message, Op, decode_frame, encode_frame, pack_error

_log = structlog.get_logger(__name__)

OpenSession = Callable[[str, str, dict[str, str], Any], StorageSession]
FindCredentials = Callable[[str], Credentials | None]


class SessionsServicer(wire_grpc.SessionsServicer):
    """Serves gateways. `open_session` and `credentials` raise NotLeader on a node that does not lead."""

    def __init__(self, open_session: OpenSession, credentials: FindCredentials) -> None:
        self._open_session = open_session
        self._credentials = credentials

    def register(self, server: grpc.aio.Server) -> None:
        wire_grpc.add_SessionsServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Exchange(  # noqa: N802 - the name is generated
        self, request_iterator: AsyncIterator[wire.Frame], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        stream = _Stream(self._open_session)
        writer = asyncio.create_task(stream.write(context), name="session-stream-writer")
        try:
            async for frame in request_iterator:
                stream.take(frame.payload)
        finally:
            # First of all: what waits here may be cancelled, and locks would be held for ever.
            stream.close()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def Credentials(  # noqa: N802 - the name is generated
        self, request: wire.CredentialsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> wire.CredentialsReply:
        try:
            found = self._credentials(request.user)
        except OrbitError as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, error.message)
        if found is None:
            return wire.CredentialsReply(found=False)
        return wire.CredentialsReply(
            found=True, verifier=found.verifier or "", has_verifier=found.verifier is not None, login=found.login
        )


class _Stream:
    """One gateway's stream: its sessions, and what waits to be sent."""

    def __init__(self, open_session: OpenSession) -> None:
        self._open_session = open_session
        self._sessions: dict[int, _Owner] = {}
        self._out: list[Message] = []
        self._ready = asyncio.Event()
        self._owes_acknowledgement = False
        self._may_send = True

    def send(self, message: Message) -> None:
        self._out.append(message)
        if self._may_send:
            self._ready.set()

    def take(self, payload: bytes) -> None:
        """Take a frame in: run its messages in order; their answers gather for the next frame back."""
        acknowledges, messages = decode_frame(payload)
        if acknowledges:
            self._may_send = True
        if messages:
            self._owes_acknowledgement = True
        for message in messages:
            self._handle(message)
        if self._owes_acknowledgement or (self._may_send and self._out):
            self._ready.set()

    async def write(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Send frames: one with messages on its way at a time; acknowledgements at once."""
        while True:
            await self._ready.wait()
            # One more turn of the loop gathers the answers that are just becoming ready.
            await asyncio.sleep(0)
            self._ready.clear()
            messages: list[Message] = []
            if self._may_send and self._out:
                messages, self._out = self._out, []
                self._may_send = False
            acknowledges, self._owes_acknowledgement = self._owes_acknowledgement, False
            if messages or acknowledges:
                await context.write(wire.Frame(payload=encode_frame((acknowledges, messages))))

    def close(self) -> None:
        for owner in list(self._sessions.values()):
            owner.session.close()
        self._sessions.clear()

    def _handle(self, message: list[Any]) -> None:
        number, op = message[0], message[1]
        if op == Op.OPEN:
            self._open(number, *message[2:])
            return
        owner = self._sessions.get(number)
        if owner is None:
            return
        try:
            owner.handle(op, message)
        except OrbitError as error:
            owner.failed(error)
        except Exception:
            # One session's defect must not end the stream of all.
            _log.exception("a session's request failed inside the engine", op=op)
            owner.failed(OrbitError("internal error", sqlstate="XX000"))
        if op == Op.CLOSE:
            del self._sessions[number]

    def _open(self, number: int, user: str, database: str, settings: dict[str, str]) -> None:
        owner = _Owner(self, number)
        try:
            owner.session = self._open_session(user, database, settings, owner)
        except OrbitError as error:
            self.send((number, Event.TERMINATED, IDLE, pack_error(error)))
            return
        self._sessions[number] = owner

    def forget(self, number: int) -> None:
        self._sessions.pop(number, None)


class _Owner:
    """Stands for the client connection at the other end of the stream."""

    session: StorageSession

    def __init__(self, stream: _Stream, number: int) -> None:
        self._stream = stream
        self._number = number
        self._statements: dict[int, Any] = {}
        self._next_statement = 0

    def handle(self, op: int, message: list[Any]) -> None:
        session = self.session
        answer: bytes | None
        if op == Op.EXECUTE:
            _, _, begins, statement, parameters, parameter_formats, result_formats, sync = message
            self._begin(begins)
            answer = session.execute(self._statements[statement], parameters, parameter_formats, result_formats, sync)
        elif op == Op.SIMPLE:
            self._begin(message[2])
            answer = session.simple(message[3])
        elif op == Op.PREPARE:
            self._begin(message[2])
            self.prepared(session.prepare(message[3], message[4]))
            return
        elif op == Op.SYNC:
            answer = session.sync()
        elif op == Op.COPY_BATCH:
            answer = session.copy_batch(message[2])
        elif op == Op.COPY_DONE:
            answer = session.copy_done()
        else:
            self._signal(op, message)
            return
        if answer is not None:
            self.replied(answer)

    def _signal(self, op: int, message: list[Any]) -> None:
        """Take what has no answer of its own."""
        session = self.session
        if op == Op.COPY_FAIL:
            session.copy_fail(message[2])
        elif op == Op.FAIL:
            session.fail()
        elif op == Op.HOLD_ROWS:
            session.hold_rows(message[2])
        elif op == Op.CANCEL:
            session.cancel()
        elif op == Op.CLOSE:
            session.close()
        elif op == Op.TRACE:
            session.trace(message[2])
        elif op == Op.FORGET:
            self._statements.pop(message[2], None)

    def _begin(self, begins: bool) -> None:
        """The gateway has answered BEGIN by itself; the block opens with the statement that follows."""
        if begins:
            try:
                self.session.begin_block(None, None)
            except OrbitError:
                # The client believes in its block: nothing of it may run outside one.
                self.session.fail_block()
                raise

    # SessionOwner

    def replied(self, answer: bytes) -> None:
        self._settings()
        self._stream.send((self._number, Event.REPLIED, self.session.status, answer))

    def prepared(self, statement: Statement) -> None:
        number = self._next_statement
        self._next_statement += 1
        self._statements[number] = statement
        columns = None if statement.columns is None else msgspec.msgpack.encode(list(statement.columns))
        self._stream.send(
            (self._number, Event.PREPARED, self.session.status, number, list(statement.parameter_oids), columns)
        )

    def failed(self, error: OrbitError) -> None:
        self._settings()
        self._stream.send((self._number, Event.FAILED, self.session.status, pack_error(error)))

    def rows(self, messages: bytes) -> None:
        self._stream.send((self._number, Event.ROWS, self.session.status, messages))

    def copy_in(self, copy: CopyFormat) -> None:
        self._stream.send((self._number, Event.COPY_IN, self.session.status, msgspec.msgpack.encode(copy)))

    def parameter_changed(self, name: str, value: str) -> None:
        self._stream.send((self._number, Event.PARAMETER, self.session.status, name, value))

    def notice(self, error: OrbitError) -> None:
        self._stream.send((self._number, Event.NOTICE, self.session.status, pack_error(error)))

    def terminated(self, error: OrbitError) -> None:
        self._stream.send((self._number, Event.TERMINATED, IDLE, pack_error(error)))
        self._stream.forget(self._number)

    def _settings(self) -> None:
        """Tell the gateway of new settings, so that it can open the session again on another node."""
        changed = self.session.settings.take_changes()
        if changed is not None:
            self._stream.send((self._number, Event.SETTINGS, self.session.status, changed))
