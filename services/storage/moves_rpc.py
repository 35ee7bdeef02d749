"""`Moves` over gRPC: the leader's servicer and the migrator's client.

Owns the wire form: messages of proto/orbit/api/v1/moves.proto, and batches as Arrow IPC in slices that fit a gRPC
message. Owns no connection: the caller gives the server (an `orbit.chassis.rpc.RpcServer`, which carries our errors)
and the channel.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import grpc.aio
import msgspec
import pyarrow as pa

from orbit.api.v1 import moves_pb2 as wire
from orbit.api.v1 import moves_pb2_grpc as wire_grpc
from orbit.chassis.rpc import error_from_rpc
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.schema import Table
from services.storage.moves import (
    Claim,
    ClaimRefused,
    MoveEnded,
    Moves,
    RowRange,
    SegmentStatistics,
    SnapshotRef,
    Tier,
)

STATISTICS_CHUNK: Final = 1000
SLICE_BYTES: Final = 1 << 20
"""Arrow bytes of one message; gRPC's own limit is 4 MB, and one row may be larger than a slice."""

CONNECTION_FAILURE: Final = "08006"
_KINDS: Final[dict[str, type[OrbitError]]] = {
    ClaimRefused.default_sqlstate: ClaimRefused,
    MoveEnded.default_sqlstate: MoveEnded,
    # Nobody is there: perhaps somebody else leads by now.
    CONNECTION_FAILURE: NotLeader,
}
_TIERS: Final = {
    Tier.HOT: wire.SEGMENT_TIER_HOT,
    Tier.WARM: wire.SEGMENT_TIER_WARM,
    Tier.COLD: wire.SEGMENT_TIER_COLD,
}
_TIERS_BACK: Final = {number: tier for tier, number in _TIERS.items()}
_encode_table = msgspec.msgpack.Encoder().encode
_decode_table = msgspec.msgpack.Decoder(Table).decode


class MovesServicer(wire_grpc.MovesServicer):
    """Serves a node's `Moves`. `moves` returns the leader's implementation of a shard, or None where it is not led."""

    def __init__(self, moves: Callable[[int], Moves | None]) -> None:
        self._moves = moves

    def register(self, server: grpc.aio.Server) -> None:
        wire_grpc.add_MovesServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    async def Statistics(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        segments = await self._of(request.shard).statistics()
        for at in range(0, len(segments), STATISTICS_CHUNK):
            chunk = segments[at : at + STATISTICS_CHUNK]
            yield wire.StatisticsChunk(segments=[_segment_to_wire(segment) for segment in chunk])

    async def Begin(self, request: Any, context: Any) -> Any:  # noqa: N802
        ranges = [(span.first, span.last) for span in request.ranges]
        claim = await self._of(request.shard).begin(
            request.move_id, request.table_id, request.storage_id, ranges, request.changed_through
        )
        return _claim_to_wire(claim)

    async def Read(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        async for batch in self._of(request.shard).read(request.move_id):
            for part in _slices(batch):
                yield wire.MoveBatch(arrow=_to_ipc(part))

    async def Commit(self, request: Any, context: Any) -> Any:  # noqa: N802
        ref = request.snapshot
        await self._of(request.shard).commit(request.move_id, request.as_of, ref.snapshot_id, ref.metadata_location)
        return wire.CommitMoveReply()

    async def Abort(self, request: Any, context: Any) -> Any:  # noqa: N802
        await self._of(request.shard).abort(request.move_id, request.reason)
        return wire.AbortMoveReply()

    async def OpenMoves(self, request: Any, context: Any) -> Any:  # noqa: N802
        claims = await self._of(request.shard).open_moves()
        return wire.OpenMovesReply(moves=[_claim_to_wire(claim) for claim in claims])

    def _of(self, shard: int) -> Moves:
        moves = self._moves(shard)
        if moves is None:
            raise NotLeader(f"this node does not lead shard {shard}")
        return moves


class MovesClient:
    """`Moves` of the node at the other end of a channel. A lost connection is NotLeader: ask for the leader again."""

    def __init__(self, channel: grpc.aio.Channel, shard: int, *, timeout_s: float = 30.0) -> None:
        self._stub: Any = wire_grpc.MovesStub(channel)  # type: ignore[no-untyped-call]
        self._shard = shard
        self._timeout_s = timeout_s

    async def statistics(self) -> list[SegmentStatistics]:
        with _errors():
            answer = self._stub.Statistics(wire.StatisticsRequest(shard=self._shard), timeout=self._timeout_s)
            return [_segment_from_wire(segment) async for chunk in answer for segment in chunk.segments]

    async def begin(
        self, move_id: bytes, table_id: int, storage_id: int, ranges: Sequence[RowRange], changed_through: int
    ) -> Claim:
        request = wire.BeginMoveRequest(
            shard=self._shard,
            move_id=move_id,
            table_id=table_id,
            storage_id=storage_id,
            ranges=[wire.RowRange(first=first, last=last) for first, last in ranges],
            changed_through=changed_through,
        )
        with _errors():
            return _claim_from_wire(await self._stub.Begin(request, timeout=self._timeout_s))

    async def read(self, move_id: bytes) -> AsyncIterator[pa.RecordBatch]:
        with _errors():
            call = self._stub.Read(wire.ReadMoveRequest(shard=self._shard, move_id=move_id))
            try:
                async for message in call:
                    yield _from_ipc(message.arrow)
            finally:
                call.cancel()

    async def commit(self, move_id: bytes, as_of: int, snapshot_id: int, metadata_location: str) -> None:
        ref = wire.SnapshotRef(metadata_location=metadata_location, snapshot_id=snapshot_id)
        request = wire.CommitMoveRequest(shard=self._shard, move_id=move_id, as_of=as_of, snapshot=ref)
        with _errors():
            await self._stub.Commit(request, timeout=self._timeout_s)

    async def abort(self, move_id: bytes, reason: str) -> None:
        request = wire.AbortMoveRequest(shard=self._shard, move_id=move_id, reason=reason)
        with _errors():
            await self._stub.Abort(request, timeout=self._timeout_s)

    async def open_moves(self) -> list[Claim]:
        with _errors():
            answer = await self._stub.OpenMoves(wire.OpenMovesRequest(shard=self._shard), timeout=self._timeout_s)
            return [_claim_from_wire(claim) for claim in answer.moves]


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as failure:
        error = error_from_rpc(failure)
        kind = _KINDS.get(error.sqlstate)
        if kind is None:
            raise error from failure
        raise kind(error.message, detail=error.detail, hint=error.hint) from failure


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.nbytes <= SLICE_BYTES or batch.num_rows <= 1:
        yield batch
        return
    rows = max(1, batch.num_rows * SLICE_BYTES // batch.nbytes)
    for at in range(0, batch.num_rows, rows):
        yield batch.slice(at, rows)


def _to_ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _from_ipc(data: bytes) -> pa.RecordBatch:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


def _segment_to_wire(segment: SegmentStatistics) -> Any:
    return wire.SegmentStatistics(
        table_id=segment.table_id,
        storage_id=segment.storage_id,
        schema_version=segment.schema_version,
        segment_id=segment.segment_id,
        first_row_id=segment.first_row_id,
        last_row_id=segment.last_row_id,
        newest_lsn=segment.newest_lsn,
        newest_change_us=segment.newest_change_us,
        rows_alive=segment.rows_alive,
        size_bytes=segment.size_bytes,
        tier=_TIERS[segment.tier],
    )


def _segment_from_wire(segment: Any) -> SegmentStatistics:
    return SegmentStatistics(
        segment.table_id,
        segment.storage_id,
        segment.schema_version,
        segment.segment_id,
        segment.first_row_id,
        segment.last_row_id,
        segment.newest_lsn,
        segment.newest_change_us,
        segment.rows_alive,
        segment.size_bytes,
        _TIERS_BACK[segment.tier],
    )


def _claim_to_wire(claim: Claim) -> Any:
    cold = claim.cold
    return wire.MoveClaim(
        move_id=claim.move_id,
        shard=claim.shard,
        timeline=claim.timeline,
        table=_encode_table(claim.table),
        ranges=[wire.RowRange(first=first, last=last) for first, last in claim.ranges],
        changed_through=claim.changed_through,
        as_of=claim.as_of,
        begun_us=claim.begun_us,
        cold=None
        if cold is None
        else wire.SnapshotRef(metadata_location=cold.metadata_location, snapshot_id=cold.snapshot_id),
    )


def _claim_from_wire(claim: Any) -> Claim:
    cold = SnapshotRef(claim.cold.metadata_location, claim.cold.snapshot_id) if claim.HasField("cold") else None
    return Claim(
        move_id=claim.move_id,
        shard=claim.shard,
        timeline=claim.timeline,
        table=_decode_table(claim.table),
        ranges=tuple((span.first, span.last) for span in claim.ranges),
        changed_through=claim.changed_through,
        as_of=claim.as_of,
        begun_us=claim.begun_us,
        cold=cold,
    )
