"""The leader's way into the log: groups, refusals, unknown outcomes, large transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from orbit.kernel import records
from orbit.kernel.limits import LARGE_TRANSACTION_ROWS, LOG_MAX_PAYLOAD_BYTES
from orbit.kernel.records import Kind, Record
from services.storage.client import IDLE
from services.storage.digest import state_digest
from services.storage.log.memory import Fate, MemoryLog
from services.storage.node import Role
from services.storage.txn import committer as committer_module
from tests.fixtures.fix_storage import Cluster, StorageNode, sqlstate, until
from tests.unit.storage.test_digest_and_replay import replayed


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "SETTLE_RETRY_S", 0.005)


@pytest.fixture
async def node() -> AsyncIterator[StorageNode]:
    node = StorageNode(Cluster(), MemoryLog())
    await node.start()
    await node.lead()
    await node.client().run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    yield node
    node.log.fate = None
    node.log.reachable = True
    await node.stop()
    for entry in node.log.stream.entries:
        assert len(entry.data) < LOG_MAX_PAYLOAD_BYTES
    if node.state.applied_sequence == node.log.stream.last:
        assert state_digest(node.state) == state_digest(replayed(node.log.stream))


def decoded(node: StorageNode) -> list[Record]:
    return [records.decode(entry.data) for entry in node.log.stream.entries]


def once(fate: Fate, kind: Kind = Kind.GROUP) -> Callable[[bytes], Fate]:
    """Give the next record of a kind this fate, and no other."""
    left = [fate]

    def decide(data: bytes) -> Fate:
        return left.pop() if left and records.decode(data).kind == kind else Fate.ANSWERED

    return decide


async def ids(node: StorageNode) -> list[int]:
    return sorted(int(row[0] or 0) for row in (await node.client().run("SELECT id FROM t")).rows)


async def test_what_is_ready_together_travels_together(node: StorageNode) -> None:
    clients = [node.client() for _ in range(50)]
    before = node.log.stream.last
    await asyncio.gather(*(client.run(f"INSERT INTO t VALUES ({n})") for n, client in enumerate(clients)))
    assert node.log.stream.last - before <= 2
    assert await ids(node) == list(range(50))
    assert len(set(node.state.committed.values())) == len(node.state.committed), "each its own LSN"


@pytest.mark.parametrize(("how", "code"), [("full", "53100"), ("unreachable", "57P03"), ("not durable", "57P03")])
async def test_a_refused_append_fails_its_transactions_and_only_them(node: StorageNode, how: str, code: str) -> None:
    one, two, free = node.client(), node.client(), node.client()
    if how == "full":
        node.log.stream.max_bytes = node.log.stream.size_bytes
    elif how == "unreachable":
        node.log.reachable = False
    else:
        node.log.not_durable = "server does not fsync"
    assert (
        await asyncio.gather(*(sqlstate(c.start(f"INSERT INTO t VALUES ({n})")) for n, c in enumerate((one, two))))
        == [code] * 2
    )
    assert await ids(node) == [] and node.node.leading
    node.log.stream.max_bytes, node.log.reachable, node.log.not_durable = None, True, None
    assert (await free.run("INSERT INTO t VALUES (0), (1)")).tag == "INSERT 0 2", "no lock is left behind"


async def test_another_record_in_the_slot_ends_the_reign(node: StorageNode) -> None:
    client, waiting = node.client(), node.client()
    state = node.state
    foreign = Record(
        records.FORMAT, Kind.EPOCH, 1, state.epoch + 1, 0, state.applied_time_us + 5, state.last_hash,
        records.EpochBody(state.epoch + 1, "n9"),
    )  # fmt: skip
    assert isinstance(node.log.stream.try_append(records.encode(foreign), state.applied_sequence, ""), int)
    first = client.start("INSERT INTO t VALUES (1)")
    await asyncio.sleep(0)
    second = waiting.start("INSERT INTO t VALUES (2)")
    assert await sqlstate(first) in ("40001", "57P03")
    assert await sqlstate(second) in ("40001", "57P03")
    await until(lambda: node.node.role is Role.FOLLOWER)
    await node.caught_up()
    assert state.epoch == foreign.epoch and all(
        record.kind != Kind.GROUP or len(record.body) == 1 for record in decoded(node)
    )
    await until(lambda: client.ended is not None and waiting.ended is not None)


@pytest.mark.parametrize("fate", [Fate.LOST, Fate.ANSWER_LOST])
async def test_an_unknown_outcome_is_settled_by_whoever_holds_the_slot(node: StorageNode, fate: Fate) -> None:
    client, behind = node.client(), node.client()
    node.log.fate = once(fate)
    first = client.start("INSERT INTO t VALUES (1)")
    await asyncio.sleep(0)
    second = behind.start("INSERT INTO t VALUES (2)")
    if fate is Fate.LOST:
        assert await sqlstate(first) == "40001", "the NOOP won: it surely never happened"
        assert decoded(node)[-2].kind == Kind.NOOP or decoded(node)[-1].kind == Kind.NOOP
    else:
        assert (await first).tag == "INSERT 0 1", "its own record won"
        assert all(record.kind != Kind.NOOP for record in decoded(node))
    assert (await second).tag == "INSERT 0 1"
    assert await ids(node) == ([2] if fate is Fate.LOST else [1, 2]) and node.node.leading


async def test_a_late_record_loses_its_slot_to_the_noop(node: StorageNode) -> None:
    client = node.client()
    node.log.fate = once(Fate.LATE)
    assert await client.fails("INSERT INTO t VALUES (1)") == "40001"
    node.log.stream.land_late()
    assert await ids(node) == []
    await client.run("INSERT INTO t VALUES (1)")
    assert await ids(node) == [1]


async def test_a_noop_of_unknown_fate_is_known_again_when_it_is_read(node: StorageNode) -> None:
    """The group is lost, the NOOP lands and its answer is lost too: still leading, and the group surely failed."""
    client = node.client()
    fates = {Kind.GROUP: [Fate.LOST], Kind.NOOP: [Fate.ANSWER_LOST]}
    node.log.fate = lambda data: (fates.get(Kind(records.decode(data).kind)) or [Fate.ANSWERED]).pop()
    assert await client.fails("INSERT INTO t VALUES (1)") == "40001"
    assert node.node.leading and [record.kind for record in decoded(node)].count(Kind.NOOP) == 1
    node.log.fate = None
    await client.run("INSERT INTO t VALUES (2)")
    assert await ids(node) == [2]


async def test_a_partition_while_settling_delays_the_answer_and_decides_right(node: StorageNode) -> None:
    client = node.client()
    loop, tell = asyncio.get_running_loop(), once(Fate.ANSWER_LOST)

    def part() -> None:
        node.log.reachable = False

    def fate(data: bytes) -> Fate:
        chosen = tell(data)
        if chosen is Fate.ANSWER_LOST:
            loop.call_soon(loop.call_soon, part)
        return chosen

    node.log.fate = fate
    pending = client.start("INSERT INTO t VALUES (1)")
    await asyncio.sleep(0.03)
    assert not pending.done() and decoded(node)[-1].kind == Kind.GROUP
    node.log.reachable = True
    assert (await pending).tag == "INSERT 0 1"
    assert await ids(node) == [1]


async def test_a_group_that_is_too_large_for_a_record_is_split(node: StorageNode) -> None:
    clients = [node.client() for _ in range(8)]
    before = node.log.stream.last
    await asyncio.gather(
        *(client.run(f"INSERT INTO t VALUES ({n}, '{'x' * 400_000}')") for n, client in enumerate(clients))
    )
    assert node.log.stream.last - before >= 4 and await ids(node) == list(range(8))
    assert all(record.kind != Kind.CHUNK for record in decoded(node))


async def test_a_transaction_larger_than_a_record_streams_chunks_between_other_commits(node: StorageNode) -> None:
    client, other = node.client(), node.client()
    await client.run("BEGIN")
    for number in range(10):
        await client.run(f"INSERT INTO t VALUES ({number}, '{number}{'x' * 300_000}')")
    commit = client.start("COMMIT")
    small = other.start("INSERT INTO t VALUES (100)")
    await small
    assert not commit.done(), "small ones do not wait for the large one"
    assert (await commit).tag == "COMMIT"
    kinds = [record.kind for record in decoded(node)]
    assert kinds.count(Kind.CHUNK) >= 5
    assert await ids(node) == [*range(10), 100] and not node.state.loads


async def test_updates_and_deletes_of_many_rows_stream_too(node: StorageNode) -> None:
    count = LARGE_TRANSACTION_ROWS + 500
    client = node.client()
    await client.run("CREATE TABLE other (id int PRIMARY KEY, v text)")
    for table in ("t", "other"):
        await client.copy(f"COPY {table} FROM STDIN", [(number, "a" * 100) for number in range(count)])
    await client.run("BEGIN")
    await client.run("UPDATE t SET v = v || 'b' WHERE id >= 10")
    await client.run("DELETE FROM other WHERE id < 4600; INSERT INTO other VALUES (-1, 'new')")
    await client.run("CREATE TABLE third (id int); INSERT INTO third VALUES (1), (2)")
    await client.run("COMMIT")
    assert (await client.run("SELECT count(*) FROM t WHERE v LIKE '%b'")).rows == [(str(count - 10),)]
    assert (await client.run("SELECT id, v FROM other")).rows == [("-1", "new")]
    assert (await client.run("SELECT count(*) FROM third")).rows == [("2",)]
    assert [record.kind for record in decoded(node)].count(Kind.CHUNK) > 2


async def test_a_row_that_no_record_can_hold_is_refused_by_name_and_the_engine_lives(node: StorageNode) -> None:
    client = node.client()
    assert await client.fails(f"INSERT INTO t VALUES (1, '{'x' * 1_100_000}')") == "54000"
    assert await client.fails(f"INSERT INTO t VALUES (0, 's'), (1, '{'x' * 1_100_000}')") == "54000"
    await client.run("INSERT INTO t VALUES (2, 'small')")
    await until(lambda: not node.state.loads)
    assert await ids(node) == [2] and client.status == IDLE


async def test_a_chunk_that_is_refused_fails_the_whole_and_leaves_nothing_open(node: StorageNode) -> None:
    client = node.client()
    await client.run("BEGIN")
    for number in range(8):
        await client.run(f"INSERT INTO t VALUES ({number}, '{'x' * 300_000}')")
    seen = []

    def third_is_refused(data: bytes) -> Fate:
        kind = records.decode(data).kind
        seen.append(kind)
        return Fate.REFUSED if seen.count(Kind.CHUNK) == 3 and kind == Kind.CHUNK else Fate.ANSWERED

    node.log.fate = third_is_refused
    assert await client.fails("COMMIT") == "57P03"
    node.log.fate = None
    await until(lambda: not node.state.loads)
    await client.run("INSERT INTO t VALUES (3, 'free')")
    assert await ids(node) == [3]


async def test_chunks_of_unknown_fate_are_settled_like_every_record(node: StorageNode) -> None:
    client = node.client()
    await client.run("BEGIN")
    for number in range(8):
        await client.run(f"INSERT INTO t VALUES ({number}, '{'x' * 300_000}')")
    node.log.fate = once(Fate.ANSWER_LOST, Kind.CHUNK)
    await client.run("COMMIT")
    assert await ids(node) == list(range(8))


async def test_rows_of_a_table_that_the_transaction_drops_or_truncates_are_not_logged(node: StorageNode) -> None:
    client = node.client()
    await client.run("BEGIN; INSERT INTO t VALUES (1); DROP TABLE t; COMMIT")
    await client.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await client.run("BEGIN; INSERT INTO t VALUES (1); TRUNCATE t; INSERT INTO t VALUES (2); COMMIT")
    await client.run("BEGIN; CREATE TABLE gone (id int); INSERT INTO gone VALUES (1); DROP TABLE gone; COMMIT")
    for last in ("DROP TABLE loaded", "TRUNCATE loaded"):
        await client.run("BEGIN; CREATE TABLE loaded (id int)")
        await client.copy("COPY loaded FROM STDIN", [(1,), (2,)])
        await client.run(f"{last}; COMMIT")
    await client.run("BEGIN")
    await client.copy("COPY t FROM STDIN", [(5, "a"), (6, "b")])
    await client.run("TRUNCATE t; COMMIT")
    assert await ids(node) == [] and node.node.leading


async def test_a_state_that_cannot_apply_its_own_record_stops_serving(
    node: StorageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, bystander = node.client(), node.client()

    def broken(*_: object) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr("services.storage.tiers.table.TableStore.insert", broken)
    assert await client.fails("INSERT INTO t VALUES (1)") == "08007", "it is in the log: nobody may say that it is not"
    await until(lambda: node.node.role is Role.FAILED)
    assert node.node.failure and "cannot be applied" in node.node.failure
    await until(lambda: bystander.ended is not None)
    assert node.seat.resigned
