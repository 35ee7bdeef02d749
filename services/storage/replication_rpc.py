"""Replication between regions over gRPC: the target leader's servicer, and the source's client.

Owns the wire form of batches. What they mean is `services.storage.replication`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import msgspec

from orbit.api.v1 import replication_pb2 as wire
from orbit.api.v1 import replication_pb2_grpc as wire_grpc
from orbit.chassis.rpc import error_from_rpc
from orbit.kernel import records
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.ids import DEFAULT_SHARD
from orbit.kernel.records import BulkInsert
from services.storage.replication import Batch, Part, Replicator

POSITION_TIMEOUT_S: Final = 30.0
"""The target answers when what it applies is settled."""

_decode_load = msgspec.msgpack.Decoder(records.Effect).decode
_decode_transactions = msgspec.msgpack.Decoder(list[records.Transaction]).decode
_encode_load = msgspec.msgpack.Encoder().encode


class ReplicationServicer(wire_grpc.ReplicationServicer):
    """Serves a node's replicator. `leads` and `leader_address` tell of the shard; an unknown leader is ''."""

    def __init__(self, replicator: Replicator, leads: Callable[[], bool], leader_address: Callable[[], str]) -> None:
        self._replicator = replicator
        self._leads = leads
        self._leader_address = leader_address

    def register(self, server: grpc.aio.Server) -> None:
        wire_grpc.add_ReplicationServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Position(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name is generated
        _check_shard(request.shard)
        region = self._replicator.region
        if not self._leads():
            return wire.PositionReply(region=region, leads=False, leader_address=self._leader_address())
        position = await self._replicator.position(request.source_region)
        return wire.PositionReply(region=region, leads=True, timeline=position.timeline, lsn=position.lsn)

    async def Apply(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:  # noqa: N802
        parts = aiter(request_iterator)
        first = await anext(parts, None)
        if first is None or not first.HasField("header"):
            raise OrbitError("a batch begins with its header", sqlstate="08P01")
        header = first.header
        _check_shard(header.shard)
        batch = Batch(header.source_region, header.timeline, header.follows, header.through)
        await self._replicator.apply(batch, _decode(parts))
        return wire.ApplyReply()


async def _decode(parts: AsyncIterator[Any]) -> AsyncIterator[Part]:
    async for part in parts:
        try:
            if part.HasField("load"):
                yield _decode_load(part.load)
            elif part.HasField("transactions"):
                yield _decode_transactions(part.transactions)
            else:
                raise OrbitError("a part of a batch is neither a load nor transactions", sqlstate="08P01")
        except msgspec.DecodeError as error:
            raise OrbitError(f"a part of a batch does not decode: {error}", sqlstate="08P01") from error


def _check_shard(shard: int) -> None:
    if shard != DEFAULT_SHARD:
        raise NotLeader(f"this node does not lead shard {shard}")


@dataclass(frozen=True, slots=True)
class TargetPosition:
    """A target node's answer. `leads` False: ask `leader_address` instead, or any node again when it is ''."""

    region: str
    leads: bool
    leader_address: str
    timeline: int
    lsn: int


class ReplicationClient:
    """The source's end of a channel to a node of the target region. Raises OrbitError; 08006 without an answer."""

    def __init__(self, channel: grpc.aio.Channel, shard: int, source_region: str) -> None:
        self._stub: Any = wire_grpc.ReplicationStub(channel)  # type: ignore[no-untyped-call]
        self._shard = shard
        self._source = source_region

    async def position(self) -> TargetPosition:
        request = wire.PositionRequest(shard=self._shard, source_region=self._source)
        try:
            reply = await self._stub.Position(request, timeout=POSITION_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        return TargetPosition(reply.region, reply.leads, reply.leader_address, reply.timeline, reply.lsn)

    async def apply(
        self,
        timeline: int,
        follows: int,
        through: int,
        loads: AsyncIterator[records.Effect] | None,
        transactions: Sequence[bytes],
    ) -> None:
        """Apply one batch. `transactions` are `encode_transaction`'s; `loads` are a large one's row changes."""
        header = wire.BatchHeader(
            shard=self._shard, source_region=self._source, timeline=timeline, follows=follows, through=through
        )

        async def parts() -> AsyncIterator[Any]:
            yield wire.ApplyPart(header=header)
            if loads is not None:
                async for load in loads:
                    yield wire.ApplyPart(load=_encode_load(load))
            yield wire.ApplyPart(transactions=_encode_load([msgspec.Raw(item) for item in transactions]))

        try:
            await self._stub.Apply(parts())
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error


def encode_transaction(transaction: records.Transaction) -> bytes:
    """Return a transaction without its loads, as `ReplicationClient.apply` takes it."""
    effects: list[records.Effect] = [
        effect for effect in transaction.effects if not isinstance(effect, (records.ChunksCommitted, BulkInsert))
    ]
    return _encode_load(records.Transaction(transaction.id, effects, transaction.origin))
