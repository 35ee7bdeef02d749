"""`Moves` of whoever leads the shard now, for a migrator in a process of its own.

Owns one channel at a time and follows leadership; knows nothing of moves. A call while nobody leads is NotLeader,
which the service waits out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import grpc.aio
import pyarrow as pa
import structlog

from orbit.kernel.errors import NotLeader
from services.coordinator.client import Coordination, Leader
from services.storage.client import Claim, Moves, RowRange, SegmentStatistics, connect_moves

log = structlog.get_logger()

OpenChannel = Callable[[str], grpc.aio.Channel]
"""Opens a channel to host:port."""


class LeaderMoves:
    """Implements `Moves` over the leader's gRPC server."""

    def __init__(self, coordination: Coordination, shard: int, open_channel: OpenChannel) -> None:
        self._coordination = coordination
        self._shard = shard
        self._open_channel = open_channel
        self._channel: grpc.aio.Channel | None = None
        self._client: Moves | None = None
        self._unwatch: Callable[[], None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._unwatch = self._coordination.watch_leader(self._shard, self._follow)

    async def stop(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
        self._follow(None)
        await asyncio.gather(*self._closing)

    async def statistics(self) -> list[SegmentStatistics]:
        return await self._leader().statistics()

    async def begin(
        self, move_id: bytes, table_id: int, storage_id: int, ranges: Sequence[RowRange], changed_through: int
    ) -> Claim:
        return await self._leader().begin(move_id, table_id, storage_id, ranges, changed_through)

    def read(self, move_id: bytes) -> AsyncIterator[pa.RecordBatch]:
        return self._leader().read(move_id)

    async def commit(self, move_id: bytes, as_of: int, snapshot_id: int, metadata_location: str) -> None:
        await self._leader().commit(move_id, as_of, snapshot_id, metadata_location)

    async def abort(self, move_id: bytes, reason: str) -> None:
        await self._leader().abort(move_id, reason)

    async def open_moves(self) -> list[Claim]:
        return await self._leader().open_moves()

    def _leader(self) -> Moves:
        if self._client is None:
            raise NotLeader(f"nobody leads shard {self._shard} at the moment")
        return self._client

    def _follow(self, leader: Leader | None) -> None:
        if self._channel is not None:
            task = asyncio.get_running_loop().create_task(self._channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._channel = self._client = None
        if leader is not None:
            log.info("migrator follows leader", shard=self._shard, node=leader.node_id, address=leader.address)
            self._channel = self._open_channel(leader.address)
            self._client = connect_moves(self._channel, self._shard)
