"""The gateway's way to storage over the network: the stream to whatever node leads.

Owns which node that is, and the sessions that wait for one. What a session survives is
`services.storage.remote_session`; the stream itself is `services.storage.session_link`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import grpc
import grpc.aio

from orbit.api.v1 import sessions_pb2 as wire
from orbit.kernel.errors import NotLeader
from orbit.kernel.limits import LEADER_WAIT_S
from services.storage.client import Credentials, SessionOwner
from services.storage.remote_session import RemoteSession
from services.storage.session_link import SessionLink


class RemoteBackend:
    """`Backend` over the network. `leader_changed` is called by whoever watches leadership."""

    def __init__(self, open_channel: Callable[[str], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._link: SessionLink | None = None
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
        self._link = SessionLink(address, self._open_channel(address), self._stream_lost)
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

    def link(self) -> SessionLink | None:
        return self._link if self._link is not None and self._link.alive else None

    def wait_for_leader(self, session: RemoteSession) -> None:
        self._waiting.append(session)

    def forget(self, session: RemoteSession) -> None:
        self._sessions.discard(session)

    def _stream_lost(self, link: SessionLink) -> None:
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

    def _abandon(self, link: SessionLink) -> None:
        sessions, link.sessions = link.sessions, {}
        for session in sessions.values():
            session.link_lost(link)
        task = asyncio.get_running_loop().create_task(link.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


__all__ = ["RemoteBackend", "RemoteSession"]
