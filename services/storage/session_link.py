"""One gRPC stream from a gateway to the storage leader, shared by all its sessions.

Owns the stream's pacing: messages gather for two turns of the event loop, and one frame is on its way at a time. What
the messages mean is the sessions' business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog

from orbit.api.v1 import sessions_pb2 as wire
from orbit.api.v1 import sessions_pb2_grpc as wire_grpc
from services.storage.session_frames import Message, decode_frame, encode_frame

if TYPE_CHECKING:
    from services.storage.remote_session import RemoteSession

_log = structlog.get_logger(__name__)


class SessionLink:
    """One stream to one leader: gathers messages, sends one frame at a time."""

    def __init__(self, address: str, channel: grpc.aio.Channel, lost: Callable[[SessionLink], None]) -> None:
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
