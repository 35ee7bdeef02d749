"""Replication between two regions: what arrives, exactly once, whatever is cut off on the way."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import msgspec
import pytest

from orbit.kernel import records
from orbit.kernel.origin import Origin
from orbit.kernel.records import Kind
from orbit.kernel.schema import Column, Put, Role, Schema, Sequence
from orbit.kernel.types import Oid, SqlType
from services.cdc.sinks.region import RegionSink
from services.storage.log.memory import Fate, MemoryLog
from services.storage.txn.transaction import Transaction
from tests.fixtures.fix_regions import BARE, KEYED, Regions, Target, row
from tests.fixtures.fix_shard import COLUMNS, Shard, eventually, make_table


async def test_everything_of_the_catalog_and_the_rows_arrive(regions: Regions) -> None:
    source = regions.source
    sequence = Sequence(id=30_000, schema="public", name="s", owner="orbit", type=SqlType(Oid.INT8))
    await source.run(
        source.define(
            Put(Role(id=1, name="orbit", verifier="v", superuser=True)),
            Put(Schema(id=2, name="public", owner="orbit")),
            Put(KEYED),
            Put(BARE),
            Put(sequence),
        )
    )
    async with regions.shipping() as feed:
        await source.run(source.insert("keyed", row(1), row(2)), source.insert("bare", row(1), row(1)))

        def reserve(transaction: Transaction) -> None:
            transaction.sequences[30_000] = 32

        await source.run(source.update("keyed", row(1), row(1, "b")), source.delete("bare", row(1)), reserve)
        last = await source.run(source.delete("keyed", row(2)), source.update("bare", row(1), row(7)))
        await regions.arrived(feed, last)
        assert feed.lag_ms(source.state.applied_sequence) == 0
        assert feed.health(source.state.applied_sequence)["status"] == "ok"
    regions.assert_equal()
    state = regions.target.shard.state
    assert state.sequences == {30_000: 32}
    assert state.origins == {"east": Origin("east", 1, last)}
    assert regions.target.shard.rows("keyed") == {row(1, "b"): 1}


async def test_rows_that_trade_their_keys_in_one_transaction(regions: Regions) -> None:
    source = regions.source
    await source.run(source.create(KEYED))
    await source.run(source.insert("keyed", row(1, "one"), row(2, "two"), row(3, "three")))

    def trade(transaction: Transaction) -> None:
        store = source.state.store(KEYED)
        found = {item[1][0]: item for item in source.engine.rows(transaction, store)}
        for old, new in ((1, 2), (2, 3), (3, 1)):
            source.engine.update(transaction, store, *found[old], (new, *found[old][1][1:]))

    await source.run(trade)
    last = await source.run(source.delete("keyed", row(1, "three")), source.insert("keyed", row(1, "new")))
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    regions.assert_equal()


async def test_a_table_without_a_key_keeps_equal_rows_apart_by_number(regions: Regions) -> None:
    source = regions.source
    columns = (*COLUMNS, Column(number=4, name="ratio", type=SqlType(Oid.FLOAT8)))
    await source.run(source.create(make_table(2, "bare", keyed=False, columns=columns)))
    nan = (*row(1), float("nan"))
    await source.run(source.insert("bare", *[(*row(1), 0.5)] * 5, nan, (*row(1, None), -0.0)))
    await source.run(source.delete("bare", (*row(1), 0.5)), source.insert("bare", (*row(1), 0.5)))
    last = await source.run(
        source.delete("bare", (*row(1), 0.5)),
        source.update("bare", nan, (*row(2), 1.0)),
        source.delete("bare", (*row(1, None), -0.0)),
    )
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    regions.assert_equal()


async def test_a_load_arrives_whole_and_so_does_what_its_transaction_changed(regions: Regions) -> None:
    """The transaction deletes a key, loads it again, and changes a loaded row."""
    source = regions.source
    await source.run(source.create(KEYED))
    await source.run(source.insert("keyed", row(5, "old"), row(6, "old"), row(7, "kept", "1.00")))
    loading = source.begin()
    source.delete("keyed", row(5, "old"))(loading)
    source.delete("keyed", row(6, "old"))(loading)
    await source.load(loading, "keyed", [row(number, "loaded") for number in (5, 6, *range(100, 5000))], pieces=4)
    store = source.state.store(KEYED)
    found = store.find_loaded(store.indexes[KEYED.indexes[0].id], 6, loading.id)
    assert found is not None
    source.engine.update(loading, store, found[0], found[1], row(6, "changed"))
    last = await source.commit(loading)
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    regions.assert_equal()
    assert regions.target.shard.rows("keyed")[row(6, "changed")] == 1
    assert sum(regions.target.shard.rows("keyed").values()) == 4903


async def test_schema_and_rows_of_one_transaction_and_around_it(regions: Regions) -> None:
    source = regions.source
    async with regions.shipping() as feed:
        await source.run(source.create(KEYED), source.insert("keyed", row(1)))
        await source.run(source.insert("keyed", row(2)))
        await source.run(source.truncate("keyed", 50_000), source.insert("keyed", row(3)))
        await source.run(source.insert("keyed", row(1, "again")))
        loading = source.begin()
        source.create(BARE)(loading)
        await source.load(loading, "bare", [row(number) for number in range(10)])
        await source.commit(loading)
        table = msgspec.structs.replace(source.table("keyed"), name="renamed")
        await source.run(source.define(Put(table)))
        last = await source.run(source.insert("renamed", row(9)))
        await regions.arrived(feed, last)
    regions.assert_equal()
    assert regions.target.shard.rows("renamed") == {row(3): 1, row(1, "again"): 1, row(9): 1}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_random_work_with_either_side_restarted_at_random_points(regions: Regions, seed: int) -> None:
    print("seed", seed)
    chance = random.Random(seed)
    source, target = regions.source, regions.target
    await source.run(source.create(KEYED), source.create(BARE))
    workload = asyncio.create_task(_work(source, chance, 150))
    while not workload.done():
        async with regions.shipping(batch_size=chance.choice((1, 7, 50)), bookmarks=chance.random() < 0.5):
            await asyncio.sleep(chance.uniform(0.005, 0.06))
            if chance.random() < 0.5:
                await target.stop()
                await asyncio.sleep(chance.uniform(0, 0.02))
                await target.start()
    last = await workload
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    regions.assert_equal()
    assert sum(source.rows("keyed").values()) > 20, "the workload left something to compare"
    # Every source transaction was applied exactly once: the positions in the target's log are strictly ascending.
    positions = await _origins(target.log)
    assert positions == sorted(set(positions)) and positions[-1] == last


async def _work(shard: Shard, chance: random.Random, transactions: int) -> int:
    last = 0
    for number in range(transactions):
        transaction = shard.begin()
        if chance.random() < 0.05:
            await shard.load(transaction, "bare", [row(chance.randrange(5)) for _ in range(30)])
        for _ in range(chance.randrange(1, 6)):
            name = chance.choice(("keyed", "bare"))
            store = shard.state.store(shard.table(name))
            alive = list(shard.engine.rows(transaction, store))
            action = chance.random()
            if action < 0.5 or not alive:
                taken = {item[1][0] for item in alive}
                key = chance.randrange(200)
                if name == "bare" or key not in taken:
                    shard.insert(name, row(key if name == "keyed" else key % 5, f"n{number}"))(transaction)
            else:
                row_id, before = chance.choice(alive)
                if row_id > 0 and store.loaded_row(row_id, transaction.id) is not None:
                    continue
                if action < 0.8:
                    after = (before[0], f"u{number}", Decimal(chance.randrange(1000)) / 100)
                    shard.engine.update(transaction, store, row_id, before, after)
                else:
                    shard.engine.delete(transaction, store, row_id, before)
        if transaction.wrote and list(transaction.effects()):
            last = await shard.commit(transaction)
        else:
            shard.engine.rollback(transaction)
        if chance.random() < 0.1:
            await asyncio.sleep(0.01)
    return last


async def _origins(log: MemoryLog) -> list[int]:
    found = []
    _, last = await log.bounds()
    async for entry in log.read(1):
        record = records.decode(entry.data)
        if record.kind == Kind.GROUP:
            found += [Origin.parse(transaction.origin).lsn for transaction in record.body]
        if entry.sequence == last:
            return found
    raise AssertionError("the log ended early")


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST, Fate.LATE])
async def test_a_commit_of_unknown_outcome_on_the_target_is_applied_once(regions: Regions, fate: Fate) -> None:
    source, target = regions.source, regions.target
    await source.run(source.create(KEYED))
    fates = iter([fate])
    target.log.fate = lambda _: next(fates, Fate.ANSWERED)
    await source.run(source.insert("keyed", row(1)))
    last = await source.run(source.insert("keyed", row(2)))
    async with regions.shipping(batch_size=1) as feed:
        await regions.arrived(feed, last)
    target.log.stream.land_late()
    regions.assert_equal()


async def test_two_cdc_processes_apply_everything_once(regions: Regions) -> None:
    source = regions.source
    await source.run(source.create(KEYED), source.create(BARE))
    async with regions.shipping(batch_size=3) as one, regions.shipping(batch_size=5) as two:
        last = await _work(source, random.Random(9), 100)
        await regions.arrived(one, last)
        await regions.arrived(two, last)
    regions.assert_equal()


async def test_a_target_that_is_down_is_waited_for_and_said(regions: Regions) -> None:
    source = regions.source
    await source.run(source.create(KEYED))
    await regions.target.stop()
    async with regions.shipping() as feed:
        last = await source.run(source.insert("keyed", row(1)))
        await eventually(lambda: "does not answer" in str(feed.health(0)["waiting_for"]))
        assert feed.health(source.state.applied_sequence)["status"] == "waiting"
        await regions.target.start()
        await regions.arrived(feed, last)
        assert feed.health(source.state.applied_sequence)["waiting_for"] is None
    regions.assert_equal()


async def test_a_node_that_does_not_lead_names_the_leader(regions: Regions) -> None:
    source = regions.source
    follower = Target(MemoryLog())
    await follower.start()
    follower.leads = False
    follower.leader_address = f"127.0.0.1:{regions.target.port}"
    last = await source.run(source.create(KEYED))
    async with regions.shipping(target=f"grpc://127.0.0.1:{follower.port}") as feed:
        await regions.arrived(feed, last)
        # The leader steps down and another node, at the address that was configured, takes over.
        regions.target.leads = False
        regions.target.shard.engine.committer, kept = None, regions.target.shard.engine.committer
        last = await source.run(source.insert("keyed", row(1)))
        await eventually(lambda: feed.sink.trouble)
        regions.target.leads, regions.target.shard.engine.committer = True, kept
        await regions.arrived(feed, last)
    regions.assert_equal()
    await follower.stop()


async def test_a_change_to_a_row_that_is_not_there_stops_the_feed(regions: Regions) -> None:
    source, target = regions.source, regions.target
    await source.run(source.create(KEYED))
    last = await source.run(source.insert("keyed", row(1), row(2)))
    feed = regions.feed()
    running = asyncio.create_task(feed.run())
    await regions.arrived(feed, last)
    await target.shard.run(target.shard.delete("keyed", row(1)))
    await source.run(source.update("keyed", row(1), row(1, "b")), source.insert("keyed", row(3)))
    await running
    assert feed.failure is not None and "is not in table public.keyed" in feed.failure
    assert feed.health(0)["status"] == "failed"
    assert target.shard.rows("keyed") == {row(2): 1}, "nothing of the batch is kept"
    assert not target.shard.engine.active
    assert isinstance(feed.sink, RegionSink)
    await feed.sink.close()


async def test_what_came_from_the_target_does_not_go_back(regions: Regions) -> None:
    source = regions.source
    await source.run(source.create(KEYED))

    def from_west(transaction: Transaction) -> None:
        transaction.origin = Origin("west", 1, 77).text

    await source.run(source.insert("keyed", row(1)), from_west)
    last = await source.run(source.insert("keyed", row(2)))
    async with regions.shipping() as feed:
        await regions.arrived(feed, last)
    assert regions.target.shard.rows("keyed") == {row(2): 1}
