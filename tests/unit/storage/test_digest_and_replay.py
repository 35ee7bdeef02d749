"""The leader's own state and a replay of its log are one state; what does not follow the log is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from orbit.kernel import records
from orbit.kernel.errors import LogCorrupt, OrbitError
from orbit.kernel.ids import pack
from orbit.kernel.records import Kind, Record
from orbit.kernel.schema import Catalog
from services.storage.client import IDLE
from services.storage.digest import state_digest
from services.storage.log.interface import Entry
from services.storage.log.memory import MemoryLog, MemoryStream
from services.storage.node import Role
from services.storage.state import State
from tests.fixtures.fix_storage import Client, Cluster, StorageNode, until

TABLES = ("a", "b", "c")
EXPECTED = ("23505", "25P02", "42P01", "0A000", "25P01", "3B001")


async def traffic(node: StorageNode, seed: int, statements: int) -> None:
    """Random statements of two sessions: definitions, blocks, loads, errors."""
    rng = random.Random(seed)
    clients = [node.client(), node.client()]
    for name in TABLES:
        await clients[0].run(
            f"CREATE TABLE IF NOT EXISTS {name} (id bigint PRIMARY KEY, v text, n numeric, i interval, u int UNIQUE)"
        )
    for _ in range(statements):
        # The other one may hold locks of its block.
        client = next((one for one in clients if one.status != IDLE), rng.choice(clients))
        try:
            await statement(rng, client, rng.choice(TABLES))
        except OrbitError as error:
            if error.sqlstate not in EXPECTED:
                raise
    for client in clients:
        if client.status != IDLE:
            await client.run("COMMIT")


async def statement(rng: random.Random, client: Client, name: str) -> None:
    key, kind = rng.randrange(40), rng.random()
    if kind < 0.3:
        values = ", ".join(
            f"({rng.randrange(200)}, 'v{rng.randrange(9)}', {rng.randrange(99)}.50, '1 day 1s', {rng.randrange(5000)})"
            for _ in range(rng.choice([1, 1, 5]))
        )
        await client.run(f"INSERT INTO {name} VALUES {values}")
    elif kind < 0.5:
        await client.run(f"UPDATE {name} SET v = 'x{key}', n = NULL WHERE id = {key}")
    elif kind < 0.55:
        await client.run(f"UPDATE {name} SET id = {rng.randrange(200)} WHERE id = {key}")
    elif kind < 0.65:
        await client.run(f"DELETE FROM {name} WHERE id = {key}")
    elif kind < 0.75:
        await client.run(rng.choice(["BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ROLLBACK TO s"]))
    elif kind < 0.9:
        rows = [(rng.randrange(10_000, 1 << 40), f"c{n}", None, None, None) for n in range(rng.choice([1, 3000]))]
        await client.copy(f"COPY {name} FROM STDIN", rows)
    elif kind < 0.93:
        await client.run(f"TRUNCATE {name}")
    elif kind < 0.96:
        await client.run(
            f"DROP TABLE {name}; CREATE TABLE {name} (id bigint PRIMARY KEY, v text, n numeric, i interval, u int)"
        )
    else:
        await client.run(f"UPDATE {name} SET v = 'all'")


def replayed(stream: MemoryStream) -> State:
    state = State(Catalog({}, 0))
    for entry in stream.entries:
        state.replay(entry.sequence, entry.data)
    return state


@pytest.mark.parametrize("seed", range(6))
async def test_leader_and_replay_agree(storage: StorageNode, seed: int) -> None:
    await traffic(storage, seed, 120)
    assert state_digest(storage.state) == state_digest(replayed(storage.log.stream)), f"seed {seed}"


async def test_the_digest_sees_a_difference_and_not_the_layout(storage: StorageNode) -> None:
    client = storage.client()
    await client.run("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    table = storage.state.catalog.table("public", "t")
    assert table is not None
    store, other = storage.state.store(table), replayed(storage.log.stream)
    before = state_digest(storage.state)
    assert store.seal(10, None, lambda lsn: 0) is not None
    assert state_digest(storage.state) == before == state_digest(other)
    row_id = next(iter(other.store(table).heads))
    other.store(table).heads[row_id].row = (1, "A")
    assert state_digest(other) != before


async def test_chunks_digest_the_same_before_and_after_decoding() -> None:
    from decimal import Decimal

    effects: list[records.Effect] = [
        records.Insert(7, [(1, "x", Decimal("1.50"), b"\x00", (1, 2, 3), 1.5, None)]),
        records.Update(7, 5, (1, Decimal("0.10")), (2, None)),
        records.Delete(7, 5, (True, -1)),
    ]
    body = records.ChunkBody(b"t" * 16, 0, list(effects))
    record = Record(records.FORMAT, Kind.CHUNK, 1, 1, 0, 0, bytes(16), body)
    decoded = records.decode(records.encode(record)).body.effects
    assert [records.digested(one) for one in effects] == [records.digested(one) for one in decoded]


Mangle = Callable[[list[Entry]], list[Entry]]


def reencoded(entry: Entry, change: Callable[[Record], Any]) -> Entry:
    record = records.decode(entry.data)
    change(record)
    return Entry(entry.sequence, records.encode(record))


def _foreign_format(entries: list[Entry]) -> list[Entry]:
    entries[3] = reencoded(entries[3], lambda record: setattr(record, "format", 99))
    return entries


def _unknown_kind(entries: list[Entry]) -> list[Entry]:
    entries[3] = reencoded(entries[3], lambda record: setattr(record, "kind", 77))
    return entries


def _other_timeline(entries: list[Entry]) -> list[Entry]:
    entries[3] = reencoded(entries[3], lambda record: setattr(record, "timeline", 2))
    return entries


def _broken_chain(entries: list[Entry]) -> list[Entry]:
    entries[3] = reencoded(entries[3], lambda record: setattr(record, "previous_hash", b"x" * 16))
    return entries


def _flipped_bit(entries: list[Entry]) -> list[Entry]:
    data = bytearray(entries[3].data)
    data[len(data) // 2] ^= 1
    entries[3] = Entry(entries[3].sequence, bytes(data))
    return entries


def _truncated(entries: list[Entry]) -> list[Entry]:
    entries[3] = Entry(entries[3].sequence, entries[3].data[:6])
    return entries


def _gap(entries: list[Entry]) -> list[Entry]:
    return [*entries[:3], *(Entry(entry.sequence - 1, entry.data) for entry in entries[4:])]


def _effect_on_unknown_rows(entries: list[Entry]) -> list[Entry]:
    last = records.decode(entries[-1].data)
    body = [records.Transaction(b"z" * 16, [records.Update(4711, 1, (1,), (2,))])]
    record = Record(
        records.FORMAT, Kind.GROUP, 1, last.epoch, 9, last.time_us + 9, records.record_hash(entries[-1].data), body
    )
    return [*entries, Entry(entries[-1].sequence + 1, records.encode(record))]


MANGLED = [
    _foreign_format,
    _unknown_kind,
    _other_timeline,
    _broken_chain,
    _flipped_bit,
    _truncated,
    _gap,
    _effect_on_unknown_rows,
]


@pytest.mark.parametrize("mangle", MANGLED, ids=[mangle.__name__ for mangle in MANGLED])
async def test_a_node_that_cannot_trust_its_log_fails_and_does_not_serve(storage: StorageNode, mangle: Mangle) -> None:
    client = storage.client()
    await client.run("CREATE TABLE t (id int PRIMARY KEY)")
    for number in range(5):
        await client.run(f"INSERT INTO t VALUES ({number})")
    stream = MemoryStream()
    stream.entries.extend(mangle(list(storage.log.stream.entries)))
    other = StorageNode(Cluster(), MemoryLog(stream), "n2")
    await other.start()
    other.seat.cluster.nominate("n2")
    await until(lambda: other.node.role is Role.FAILED)
    await until(lambda: other.seat.resigned > 0)
    assert other.node.failure
    with pytest.raises(OrbitError, match="does not lead"):
        other.client()
    await other.stop()


async def test_records_of_a_stale_epoch_keep_their_place_and_do_nothing(storage: StorageNode) -> None:
    client = storage.client()
    await client.run("CREATE TABLE t (id int PRIMARY KEY)")
    state = replayed(storage.log.stream)
    table = state.catalog.table("public", "t")
    assert table is not None
    digest, before = state.last_hash, state.applied_sequence
    state.epoch += 1
    effects: list[records.Effect] = [records.Insert(table.storage_id, [(1,)])]
    group = [records.Transaction(b"s" * 16, effects)]
    record = Record(records.FORMAT, Kind.GROUP, 1, state.epoch - 1, 9, state.applied_time_us + 1, digest, group)
    data = records.encode(record)
    state.replay(before + 1, data)
    assert state.applied_sequence == before + 1 and state.applied_lsn == pack(before + 1, 0)
    assert state.store(table).row_count() == 0 and b"s" * 16 not in state.committed
    assert state.last_hash == records.record_hash(data)


async def test_a_record_that_could_be_applied_only_in_part_is_never_applied_again(storage: StorageNode) -> None:
    client = storage.client()
    await client.run("CREATE TABLE t (id int PRIMARY KEY)")
    state = replayed(storage.log.stream)
    entry = _effect_on_unknown_rows(list(storage.log.stream.entries))[-1]
    with pytest.raises(LogCorrupt, match="cannot be applied"):
        state.replay(entry.sequence, entry.data)
    with pytest.raises(LogCorrupt, match="cannot be applied"):
        state.replay(entry.sequence, entry.data)
