"""The replica region's side alone: what it refuses, what it keeps, and who may write there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from orbit.chassis.rpc import open_channel
from orbit.kernel import records
from orbit.kernel.errors import LogUnavailable, NotLeader, OrbitError, ReadOnly
from orbit.kernel.ids import DEFAULT_SHARD
from orbit.kernel.origin import Origin
from services.storage.checkpoint import Checkpointer
from services.storage.client import connect_replication
from services.storage.replication import Batch, Replicator
from services.storage.session import StorageSession
from services.storage.state import State
from services.storage.tiers.warm import WarmStore
from services.storage.txn.transaction import Isolation
from tests.fixtures.fix_regions import KEYED, Regions, row
from tests.fixtures.fix_shard import eventually, to_arrow


async def test_a_batch_out_of_order_is_refused(regions: Regions) -> None:
    channel = open_channel(f"127.0.0.1:{regions.target.port}")
    client = connect_replication(channel, DEFAULT_SHARD, "east")
    await client.apply(1, 0, 100, None, [])
    for follows, through in ((0, 100), (0, 200), (99, 200), (101, 200), (100, 100)):
        with pytest.raises(OrbitError, match="does not follow") as caught:
            await client.apply(1, follows, through, None, [])
        assert caught.value.sqlstate == "55000"
    with pytest.raises(OrbitError, match="does not follow"):
        await client.apply(2, 100, 200, None, [])
    stranger = connect_replication(channel, DEFAULT_SHARD, "south")
    with pytest.raises(OrbitError, match="replicates east, not south"):
        await stranger.position()
    await channel.close()


async def test_a_region_with_data_of_its_own_and_a_primary_refuse(regions: Regions) -> None:
    await regions.target.shard.run(regions.target.shard.create(KEYED))
    replicator = regions.target.replicator
    with pytest.raises(OrbitError, match="has data that does not come from east"):
        await replicator.position("east")
    with pytest.raises(OrbitError, match="is no replica"):
        await Replicator(regions.target.shard.engine, "west", accepts=False).position("east")


async def test_a_canceled_call_neither_loses_nor_doubles_its_commit(regions: Regions) -> None:
    """The caller goes while its commit is under way: the position waits for the outcome."""
    target = regions.target
    landed: list[Callable[[], object]] = []
    schedule, target.log._schedule = target.log._schedule, landed.append
    applying = asyncio.create_task(target.replicator.apply(Batch("east", 1, 0, 100), _parts([])))
    await eventually(lambda: landed)
    target.log._schedule = schedule
    applying.cancel()
    asking = asyncio.create_task(target.replicator.position("east"))
    await asyncio.sleep(0.01)
    answered_early = asking.done()
    landed.pop()()
    assert (await asking).lsn == 100 and not answered_early
    with pytest.raises(asyncio.CancelledError):
        await applying


async def _parts(*parts: Any) -> AsyncIterator[Any]:
    for part in parts:
        yield part


async def test_a_batch_that_breaks_off_leaves_nothing(regions: Regions) -> None:
    source, target = regions.source, regions.target
    await source.run(source.create(KEYED))
    async with regions.shipping() as feed:
        await regions.arrived(feed, source.state.applied_lsn)
    known = (await target.replicator.position("east")).lsn
    load = records.BulkInsert(KEYED.storage_id, 1, to_arrow([row(1)], KEYED))
    with pytest.raises(OrbitError, match="without its transactions"):
        await target.replicator.apply(Batch("east", 1, known, known + 1), _parts(load))
    target.log.not_durable = "refused"
    with pytest.raises(LogUnavailable, match="refused"):
        await target.replicator.apply(Batch("east", 1, known, known + 1), _parts(load, []))
    target.log.not_durable = None
    assert (await target.replicator.position("east")).lsn == known
    await target.shard.run(target.shard.insert("keyed", row(2)))
    assert target.shard.rows("keyed") == {row(2): 1}
    # Its load is void, also when the log did not take the word for it at once: an open load would stop checkpoints.
    await eventually(lambda: not target.shard.state.loads)
    await target.shard.stop()
    with pytest.raises(NotLeader):
        await target.replicator.position("east")


async def test_the_position_survives_in_a_checkpoint(regions: Regions, tmp_path: Path) -> None:
    source = regions.source
    last = await source.run(source.create(KEYED))
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    warm = WarmStore(
        tmp_path / "rocks",
        block_cache_bytes=1 << 20,
        write_buffer_bytes=1 << 20,
        max_open_files=100,
        column_cache_bytes=1 << 20,
    )
    checkpointer = Checkpointer(regions.target.shard.state, warm, None)
    capture = checkpointer.capture()
    assert capture is not None
    checkpointer.write(capture)
    restored = State(regions.target.shard.state.catalog)
    assert Checkpointer(restored, warm, None).load()
    assert restored.origins == {"east": Origin("east", 1, last)}
    warm.close()


class _Plans:
    """What a session asks of the planner before it runs anything."""

    default_isolation = Isolation.READ_COMMITTED


async def test_a_local_session_reads_and_cannot_write(regions: Regions) -> None:
    source, target = regions.source, regions.target.shard
    await source.run(source.create(KEYED))
    last = await source.run(source.insert("keyed", row(1)))
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    session = StorageSession(target.engine, _Plans(), None, "orbit", "orbit", {})  # type: ignore[arg-type]
    session.region_read_only = True
    transaction = session.transaction_for_write()
    store = target.state.store(KEYED)
    assert [item[1] for item in target.engine.rows(transaction, store)] == [row(1)]
    with pytest.raises(OrbitError) as caught:
        target.engine.enter(transaction, store)
    assert caught.value.sqlstate == "25006"
    with pytest.raises(ReadOnly):
        session.set_modes(None, False)
    target.engine.rollback(transaction)
