"""Moves over gRPC: the same move through a real server and channel, and the same errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
import pytest

from orbit.chassis.rpc import RpcServer, open_channel
from orbit.kernel.errors import LogUnavailable, NotLeader, OrbitError
from orbit.kernel.ids import ROW_ID_COLUMN
from services.coordinator.client import EmbeddedCoordination, Leader, Member
from services.migrator.leader import LeaderMoves
from services.storage.client import Claim, ClaimRefused, MoveEnded
from services.storage.moves_rpc import SLICE_BYTES, MovesClient, MovesServicer
from tests.fixtures.fix_moves import HandClock, MovesTwin, all_types_row, all_types_table, extreme_rows, make_table
from tests.integration.migrator.conftest import World
from tests.integration.migrator.test_moves import simple_row

pytestmark = pytest.mark.integration


@dataclass(slots=True)
class Wire:
    """A served twin, and a client of it."""

    moves: MovesTwin | None
    client: MovesClient
    server: RpcServer


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    server = RpcServer(host="127.0.0.1", port=0)
    async with AsyncExitStack() as exits:
        served = Wire(MovesTwin(HandClock()), cast(MovesClient, None), server)
        MovesServicer(lambda shard: served.moves if shard == 0 else None).register(server.server)
        await server.start()
        exits.push_async_callback(server.stop, 0)
        channel = await exits.enter_async_context(open_channel(server.address))
        served.client = MovesClient(channel, 0, timeout_s=5)
        yield served


async def test_a_whole_move_through_the_wire(local_world: World, wire: Wire) -> None:
    world, table = local_world, all_types_table()
    wire.moves = world.moves
    world.moves.create(table)
    world.moves.insert(table, [*[all_types_row(n) for n in range(250)], *extreme_rows(900)], segment=1)
    expected = world.moves.contents(table.storage_id, world.reader)
    world.age()
    turn = await world.migrator(moves=wire.client).turn()
    assert (turn.committed, turn.rows) == (1, 253)
    assert world.moves.contents(table.storage_id, world.reader) == expected
    assert await wire.client.statistics() == await world.moves.statistics()


async def test_claims_come_back_as_they_were_given(wire: Wire) -> None:
    assert wire.moves is not None
    table = all_types_table()
    wire.moves.create(table)
    wire.moves.insert(table, [all_types_row(1)], segment=1)
    claim = await wire.client.begin(b"m" * 16, table.id, table.storage_id, [(0, 5), (9, 1 << 62)], 1 << 62)
    assert claim == wire.moves.open[b"m" * 16]
    assert claim.table == table
    await wire.client.commit(claim.move_id, claim.as_of, 77, "file:///m.json")
    again = await wire.client.begin(b"n" * 16, table.id, table.storage_id, [(0, 5)], 9)
    assert again.cold is not None and again.cold.snapshot_id == 77
    assert await wire.client.open_moves() == [again]
    await wire.client.abort(again.move_id, "enough")
    assert await wire.client.open_moves() == []


async def test_errors_keep_their_type_and_text(wire: Wire) -> None:
    assert wire.moves is not None
    table = make_table()
    wire.moves.create(table)
    wire.moves.insert(table, [simple_row(1)], segment=1)
    await wire.client.begin(b"m" * 16, table.id, table.storage_id, [(0, 1 << 62)], 1 << 62)
    with pytest.raises(ClaimRefused, match="another move of table 16400 is open") as refused:
        await wire.client.begin(b"n" * 16, table.id, table.storage_id, [(0, 1 << 62)], 1 << 62)
    assert refused.value.sqlstate == "55006"
    with pytest.raises(MoveEnded):
        await wire.client.commit(b"other" + bytes(11), 1, 1, "")
    with pytest.raises(MoveEnded):
        await anext(wire.client.read(b"other" + bytes(11)))


async def test_no_leader_no_log_and_no_server_mean_wait(wire: Wire) -> None:
    class Full(MovesTwin):
        async def begin(self, *arguments: object) -> Claim:
            raise LogUnavailable("log is full", sqlstate="53100")

    wire.moves = Full(HandClock())
    with pytest.raises(LogUnavailable, match="log is full") as full:
        await wire.client.begin(b"m" * 16, 1, 1, [(0, 1)], 1)
    assert full.value.sqlstate == "53100"
    wire.moves = None
    with pytest.raises(NotLeader, match="does not lead shard 0"):
        await wire.client.statistics()
    await wire.server.stop(0)
    with pytest.raises(NotLeader, match="does not answer"):
        await wire.client.open_moves()


async def test_a_defect_of_the_server_is_no_reason_to_wait(wire: Wire) -> None:
    class Broken(MovesTwin):
        async def open_moves(self) -> list[Claim]:
            raise ZeroDivisionError

    wire.moves = Broken(HandClock())
    with pytest.raises(OrbitError) as error:
        await wire.client.open_moves()
    assert type(error.value) is OrbitError


async def test_large_batches_travel_in_slices(wire: Wire) -> None:
    wide = pa.RecordBatch.from_pydict(
        {
            ROW_ID_COLUMN: pa.array(range(1000), pa.int64()),
            "name": ["x" * 20_000] * 1000,
        }
    )

    class Large(MovesTwin):
        async def read(self, move_id: bytes) -> AsyncIterator[pa.RecordBatch]:
            yield wide
            yield wide.slice(0, 0)

    wire.moves = Large(HandClock())
    parts = [part async for part in wire.client.read(b"m" * 16)]
    assert pa.Table.from_batches(parts).equals(pa.Table.from_batches([wide]))
    assert max(part.nbytes for part in parts) <= SLICE_BYTES


async def test_a_migrator_of_its_own_follows_the_leader(wire: Wire) -> None:
    assert wire.moves is not None
    table = make_table()
    wire.moves.create(table)
    wire.moves.insert(table, [simple_row(1)], segment=1)
    coordination = EmbeddedCoordination()
    await coordination.start()
    leader = LeaderMoves(coordination, 0, open_channel)
    await leader.start()
    with pytest.raises(NotLeader, match="nobody leads shard 0"):
        await leader.statistics()
    changes: asyncio.Queue[Leader | None] = asyncio.Queue()
    unwatch = coordination.watch_leader(0, changes.put_nowait)
    await coordination.join(Member("n1", wire.server.address, "", 0, 0))
    await coordination.campaign(0)
    await coordination.announce(Leader(0, "n1", wire.server.address, 1))
    while await changes.get() is None:
        pass
    assert len(await leader.statistics()) == 1
    claim = await leader.begin(b"m" * 16, table.id, table.storage_id, [(0, 1 << 62)], 1 << 62)
    assert [batch.num_rows async for batch in leader.read(claim.move_id)] == [1]
    await leader.abort(claim.move_id, "enough")
    assert await leader.open_moves() == []
    await coordination.resign(0)
    assert await changes.get() is None
    with pytest.raises(NotLeader):
        await leader.statistics()
    unwatch()
    await leader.stop()
    await coordination.stop()
