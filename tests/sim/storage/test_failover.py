"""Two nodes over one log in memory: leadership moves, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from orbit.kernel import records
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.records import Kind
from services.storage.digest import state_digest
from services.storage.log.memory import Fate, MemoryLog, MemoryStream
from services.storage.node import Role
from services.storage.txn import committer as committer_module
from tests.fixtures.fix_storage import Cluster, StorageNode, sqlstate, until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "SETTLE_RETRY_S", 0.005)
    monkeypatch.setattr("services.storage.node.CATCH_UP_RETRY_S", 0.005)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[StorageNode, StorageNode]]:
    cluster, stream = Cluster(), MemoryStream()
    one = StorageNode(cluster, MemoryLog(stream), "n1", tick_s=0.02)
    two = StorageNode(cluster, MemoryLog(stream), "n2", tick_s=0.02)
    await one.start()
    await two.start()
    await one.lead()
    await one.client().run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    yield one, two
    for node in (one, two):
        node.log.fate, node.log.reachable = None, True
    await one.stop()
    await two.stop()


async def same_state(*nodes: StorageNode) -> None:
    for node in nodes:
        node.seat.lose()
    await asyncio.sleep(0.03)
    for node in nodes:
        await node.caught_up()
    assert len({state_digest(node.state) for node in nodes}) == 1


async def test_a_follower_takes_over_and_the_old_leader_steps_down(pair: tuple[StorageNode, StorageNode]) -> None:
    one, two = pair
    idle, block, waiting = one.client(), one.client(), one.client()
    await idle.run("INSERT INTO t VALUES (1, 'a')")
    await block.run("BEGIN; UPDATE t SET v = 'lost' WHERE id = 1")
    pending = waiting.start("UPDATE t SET v = 'lost too' WHERE id = 1")
    await two.lead()
    await until(lambda: one.node.role is Role.FOLLOWER)
    assert await sqlstate(pending) == "57P03"
    for client in (idle, block, waiting):
        await until(lambda client=client: client.ended is not None)  # type: ignore[misc]
        assert isinstance(client.ended, NotLeader)
    with pytest.raises(NotLeader):
        one.client()
    assert (await two.client().run("SELECT v FROM t WHERE id = 1")).rows == [("a",)]
    assert two.state.epoch == 2 and two.seat.cluster.leader is not None and two.seat.cluster.leader.epoch == 2
    await two.client().run("INSERT INTO t VALUES (2, 'b')")
    await same_state(one, two)
    assert not one.engine.active


async def test_an_idle_leader_ticks_and_a_busy_one_need_not(pair: tuple[StorageNode, StorageNode]) -> None:
    one, two = pair
    before = one.log.stream.last
    await until(lambda: one.log.stream.last >= before + 3)
    kinds = [records.decode(entry.data).kind for entry in one.log.stream.entries][before:]
    assert set(kinds) == {Kind.TICK}
    await until(lambda: two.seat.reported >= before + 3)


async def test_a_lease_that_is_lost_stops_reads_at_once(pair: tuple[StorageNode, StorageNode]) -> None:
    one, _ = pair
    client = one.client()
    one.seat.holds_lease = False
    assert await client.fails("SELECT v FROM t WHERE id = 1") == "57P03"
    assert await client.fails("INSERT INTO t VALUES (1, 'a')") == "57P03"
    one.seat.holds_lease = True
    await client.run("INSERT INTO t VALUES (1, 'a')")


async def test_a_zombie_that_has_not_heard_cannot_commit(pair: tuple[StorageNode, StorageNode]) -> None:
    """The old leader still believes in itself; the log does not."""
    one, two = pair
    client = one.client()
    two.seat.nominated.set()
    await until(lambda: two.node.role is Role.LEADER)
    assert one.node.role is Role.LEADER, "nobody has told it"
    code = await client.fails("INSERT INTO t VALUES (1, 'zombie')")
    assert code in ("40001", "57P03")
    await until(lambda: one.node.role is Role.FOLLOWER and one.state.epoch == 2)
    assert (await two.client().run("SELECT * FROM t")).rows == []


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST, Fate.LATE])
async def test_deposed_with_an_append_in_flight(pair: tuple[StorageNode, StorageNode], fate: Fate) -> None:
    """Its answer tells what the log says, although another leads by then."""
    one, two = pair
    client = one.client()
    one.log.fate = lambda data: fate if records.decode(data).kind == Kind.GROUP else Fate.ANSWERED
    pending = client.start("INSERT INTO t VALUES (1, 'in flight')")
    await asyncio.sleep(0)
    one.log.reachable = False
    two.seat.cluster.nominate("n2")
    await until(lambda: two.node.role is Role.LEADER)
    there = (await two.client().run("SELECT v FROM t WHERE id = 1")).rows
    one.log.reachable, one.log.fate = True, None
    one.log.stream.land_late()
    if there:
        assert (await pending).tag == "INSERT 0 1"
    else:
        assert await sqlstate(pending) in ("40001", "57P03")
    await until(lambda: one.node.role is Role.FOLLOWER)
    await same_state(one, two)
    assert bool(there) == any(record.body and record.body[0].id for record in groups(one)[2:])


def groups(node: StorageNode) -> list[records.Record]:
    decoded = [records.decode(entry.data) for entry in node.log.stream.entries]
    return [record for record in decoded if record.kind == Kind.GROUP]


async def test_a_nomination_that_is_lost_while_sealing_seals_nothing_more(
    pair: tuple[StorageNode, StorageNode],
) -> None:
    one, two = pair
    two.log.fate = lambda _: Fate.REFUSED
    two.seat.cluster.nominate("n2")
    await until(lambda: one.node.role is Role.FOLLOWER)
    await asyncio.sleep(0.03)
    assert two.node.role is Role.FOLLOWER and one.state.epoch == 1
    two.seat.cluster.nominate("n1")
    await until(lambda: one.node.role is Role.LEADER)
    two.log.fate = None
    await asyncio.sleep(0.03)
    assert one.state.epoch == 2 and two.node.role is Role.FOLLOWER
    await one.client().run("INSERT INTO t VALUES (1, 'a')")
    await same_state(one, two)


async def test_a_nomination_that_is_lost_while_catching_up_lets_go(pair: tuple[StorageNode, StorageNode]) -> None:
    """A candidate that cannot read the log does not hold on to what it was told before."""
    one, two = pair
    two.log.reachable = False
    two.seat.cluster.nominate("n2")
    await asyncio.sleep(0.02)
    one.seat.cluster.nominate("n1")
    await until(lambda: one.node.role is Role.LEADER)
    await one.client().run("INSERT INTO t VALUES (1, 'a')")
    two.log.reachable = True
    await two.caught_up()
    await two.lead()
    assert (await two.client().run("SELECT v FROM t")).rows == [("a",)]


async def test_a_load_of_the_old_leader_is_void_for_the_new_one(pair: tuple[StorageNode, StorageNode]) -> None:
    one, two = pair
    client = one.client()
    await client.run("BEGIN")
    await client.copy("COPY t FROM STDIN", [(n, "chunk") for n in range(2000)])
    assert one.state.loads
    await two.lead()
    assert not two.state.loads and (await two.client().run("SELECT count(*) FROM t")).rows == [("0",)]
    await two.client().run("INSERT INTO t VALUES (5, 'free')")
    await same_state(one, two)


@pytest.mark.parametrize("seed", range(4))
async def test_histories_under_failovers_and_every_fate(seed: int, pair: tuple[StorageNode, StorageNode]) -> None:
    """Whatever an append's fate: acknowledged rows are there, refused ones are not, unknown ones are whole or not."""
    rng = random.Random(seed)
    nodes = pair
    acknowledged: set[int] = set()
    refused: set[int] = set()
    number = [0]
    running = [True]

    def fate(data: bytes) -> Fate:
        if records.decode(data).kind not in (Kind.GROUP, Kind.CHUNK, Kind.NOOP) or rng.random() < 0.8:
            return Fate.ANSWERED
        return rng.choice([Fate.LOST, Fate.ANSWER_LOST, Fate.LATE, Fate.REFUSED])

    for node in nodes:
        node.log.fate = fate

    async def writer() -> None:
        while running[0]:
            leader = next((node for node in nodes if node.node.role is Role.LEADER), None)
            await asyncio.sleep(0)
            if leader is None:
                continue
            number[0] += 2
            mine = number[0]
            try:
                client = leader.client()
                await client.run(
                    f"BEGIN; INSERT INTO t VALUES ({mine}, 'x'); INSERT INTO t VALUES ({mine + 1}, 'x'); COMMIT"
                )
            except OrbitError as error:
                if error.sqlstate != "08007":
                    refused.add(mine)
            else:
                acknowledged.add(mine)

    async def trouble() -> None:
        for _ in range(12):
            await asyncio.sleep(rng.random() * 0.03)
            nodes[0].log.stream.land_late()
            nodes[0].seat.cluster.nominate(rng.choice(["n1", "n2"]))
        running[0] = False

    async with asyncio.timeout(60):
        await asyncio.gather(trouble(), *(writer() for _ in range(4)))
    for node in nodes:
        node.log.fate = None
    nodes[0].log.stream.land_late()
    await nodes[0].lead()
    found = {int(row[0] or 0) for row in (await nodes[0].client().run("SELECT id FROM t")).rows}
    assert acknowledged and acknowledged <= found, f"seed {seed}: lost {acknowledged - found}"
    assert not refused & found, f"seed {seed}: a false abort of {refused & found}"
    assert all((n + 1 in found) == (n in found) for n in range(2, number[0] + 2, 2)), f"seed {seed}: half a transaction"
    await same_state(*nodes)
