"""One session: blocks, scripts, pipelines, waiting, COPY, definitions; what each error leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from orbit.kernel import records
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.records import Kind
from services.storage.client import FAILED, IDLE, IN_TRANSACTION
from services.storage.log.memory import Fate
from tests.fixtures.fix_storage import StorageNode, sqlstate, until


@pytest.fixture
async def node(storage: StorageNode) -> StorageNode:
    await storage.client().run("CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)")
    return storage


async def rows(node: StorageNode) -> list[tuple[str | None, ...]]:
    return sorted((await node.client().run("SELECT id, v FROM t")).rows, key=repr)


def nothing_is_held(node: StorageNode) -> bool:
    stores = node.state.stores.values()
    tables = [table for store in stores for table in (store.row_locks, store.table_lock)]
    tables += [index.locks for store in stores for index in store.indexes.values()]
    return not node.engine.active and not node.engine.catalog_lock.held and not any(table.held for table in tables)


# Blocks and scripts.


async def test_a_failed_block_takes_nothing_but_its_end(node: StorageNode) -> None:
    client = node.client()
    await client.run("BEGIN")
    await client.run("INSERT INTO t VALUES (1, 'a')")
    assert client.status == IN_TRANSACTION
    assert await client.fails("INSERT INTO t VALUES (1, 'b')") == "23505"
    assert client.status == FAILED
    assert await client.fails("SELECT 1") == "25P02"
    assert await client.fails("SAVEPOINT s") == "25P02"
    assert (await client.run("COMMIT")).tag == "ROLLBACK" and client.status == IDLE
    assert await rows(node) == [] and nothing_is_held(node)


@pytest.mark.parametrize("what", ["SELECT * FROM nowhere", "SELEC 1", "SELECT 1/0", "SET nonsense = 1"])
async def test_every_kind_of_error_fails_the_block(node: StorageNode, what: str) -> None:
    client = node.client()
    await client.run("BEGIN")
    await client.fails(what)
    assert client.status == FAILED
    await client.run("ROLLBACK")
    await client.run("BEGIN")
    try:
        await client.execute(await client.prepare(what))
    except OrbitError as error:
        assert error.sqlstate[:2] in ("42", "22")  # noqa: PT017
    assert client.status == FAILED, "a refused Parse fails the block too"
    await client.run("ROLLBACK")
    assert nothing_is_held(node)


async def test_savepoints_nest_and_bring_back_rows_keys_and_settings(node: StorageNode) -> None:
    client = node.client()
    await client.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await client.run("BEGIN; SAVEPOINT one; UPDATE t SET v = 'x' WHERE id = 1; SET application_name = 'inside'")
    await client.run("SAVEPOINT two; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 'b')")
    assert await client.fails("INSERT INTO t VALUES (4, 'b')") == "23505"
    await client.run("ROLLBACK TO two")
    assert sorted((await client.run("SELECT id, v FROM t")).rows) == [("1", "x"), ("2", "b")]
    assert await client.fails("INSERT INTO t VALUES (4, 'b')") == "23505", "the row that lost its key has it again"
    await client.run("ROLLBACK TO one")
    assert (await client.run("SHOW application_name")).rows == [("",)]
    assert await client.fails("ROLLBACK TO two") == "3B001"
    await client.run("ROLLBACK TO one; RELEASE one; INSERT INTO t VALUES (5, 'x')")
    await client.run("COMMIT")
    assert await rows(node) == [("1", "a"), ("2", "b"), ("5", "x")]


async def test_definitions_roll_back_with_savepoints_and_blocks(node: StorageNode) -> None:
    client = node.client()
    await client.run("BEGIN; SAVEPOINT s; CREATE TABLE u (a int, b text); INSERT INTO u VALUES (1, 'x')")
    await client.run("ROLLBACK TO s; CREATE TABLE w (n bigint PRIMARY KEY); INSERT INTO w VALUES (7)")
    assert (await client.run("SELECT n FROM w WHERE n = 7")).rows == [("7",)]
    assert await client.fails("SELECT * FROM u") == "42P01"
    await client.run("ROLLBACK")
    assert await client.fails("SELECT * FROM w") == "42P01"
    await client.run("BEGIN; DROP TABLE t")
    assert await client.fails("SELECT * FROM t") == "42P01"
    await client.run("ROLLBACK; INSERT INTO t VALUES (1, 'still')")
    await client.run("BEGIN; TRUNCATE t; INSERT INTO t VALUES (2, 'new')")
    assert (await client.run("SELECT id FROM t")).rows == [("2",)]
    await client.run("ROLLBACK")
    assert await rows(node) == [("1", "still")]


async def test_a_script_is_one_transaction(node: StorageNode) -> None:
    client = node.client()
    assert (
        await client.fails("INSERT INTO t VALUES (1, 'a'); SET application_name = 'x'; INSERT INTO t VALUES (1, 'b')")
        == "23505"
    )
    assert await rows(node) == [] and client.status == IDLE
    assert (await client.run("SHOW application_name")).rows == [("",)]
    answer = await client.run("INSERT INTO t VALUES (1, 'a'); SELECT v FROM t WHERE id = 1; SET application_name = 'y'")
    assert answer.tags == ["INSERT 0 1", "SELECT 1", "SET"] and answer.rows == [("a",)]
    assert await client.fails("SELECT 1/0") == "22012"
    assert (await client.run("SHOW application_name")).rows == [("y",)], (
        "a later error does not undo what was committed"
    )


async def test_commit_inside_a_script_keeps_what_was_before(node: StorageNode) -> None:
    client = node.client()
    script = (
        "BEGIN; INSERT INTO t VALUES (1, 'a'); COMMIT; INSERT INTO t VALUES (2, 'b'); INSERT INTO t VALUES (1, 'c')"
    )
    assert await client.fails(script) == "23505"
    assert await rows(node) == [("1", "a")]
    assert (await client.run("INSERT INTO t VALUES (3, 'c'); COMMIT; INSERT INTO t VALUES (4, 'd')")).tags[
        1
    ] == "COMMIT"
    assert len(await rows(node)) == 3


async def test_an_implicit_pipeline_commits_at_sync_and_only_then(node: StorageNode) -> None:
    client = node.client()
    insert = await client.prepare("INSERT INTO t VALUES ($1, $2)")
    await client.execute(insert, 1, "a", sync=False)
    await client.execute(insert, 2, "b", sync=False)
    assert await rows(node) == []
    await client.sync()
    assert len(await rows(node)) == 2
    await client.execute(insert, 3, "c", sync=False)
    assert await sqlstate(client.execute(insert, 1, "d", sync=False)) == "23505"
    await client.sync()
    assert len(await rows(node)) == 2 and nothing_is_held(node)


async def test_a_pipeline_that_runs_out_of_time_ends_instead_of_committing_half(node: StorageNode) -> None:
    client = node.client()
    insert = await client.prepare("INSERT INTO t VALUES ($1, $2)")
    await client.execute(insert, 1, "a", sync=False)
    client.session.transaction_expired()
    await until(lambda: client.ended is not None)
    assert client.ended is not None and client.ended.sqlstate == "25P04"
    assert await rows(node) == [] and nothing_is_held(node)


async def test_a_block_that_runs_out_of_time_fails_and_lets_go(node: StorageNode) -> None:
    client, other = node.client(), node.client()
    await client.run("BEGIN; SAVEPOINT s; INSERT INTO t VALUES (1, 'a')")
    client.session.transaction_expired()
    assert client.status == FAILED and nothing_is_held(node)
    assert await client.fails("ROLLBACK TO s") == "3B001"
    await other.run("INSERT INTO t VALUES (1, 'mine')")
    await client.run("ROLLBACK")


# Waiting.


async def test_a_waiting_update_sees_what_the_other_has_committed(node: StorageNode) -> None:
    one, two = node.client(), node.client()
    await one.run("INSERT INTO t VALUES (1, 'a')")
    await one.run("BEGIN; UPDATE t SET v = v || 'b' WHERE id = 1")
    waiting = two.start("UPDATE t SET v = v || 'c' WHERE id = 1 RETURNING v")
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await one.run("COMMIT")
    assert (await waiting).rows == [("abc",)]
    await one.run("BEGIN; DELETE FROM t WHERE id = 1")
    waiting = two.start("UPDATE t SET v = 'never' WHERE id = 1")
    await asyncio.sleep(0)
    await one.run("COMMIT")
    assert (await waiting).tag == "UPDATE 0"


async def test_an_insert_waits_for_the_same_key_and_then_decides(node: StorageNode) -> None:
    one, two = node.client(), node.client()
    await one.run("BEGIN; INSERT INTO t VALUES (1, 'a')")
    loses = two.start("INSERT INTO t VALUES (1, 'b')")
    await asyncio.sleep(0)
    await one.run("COMMIT")
    assert await sqlstate(loses) == "23505"
    await one.run("BEGIN; DELETE FROM t WHERE id = 1")
    wins = two.start("INSERT INTO t VALUES (1, 'b')")
    await asyncio.sleep(0)
    await one.run("COMMIT")
    assert (await wins).tag == "INSERT 0 1"
    assert await rows(node) == [("1", "b")] and nothing_is_held(node)


async def test_statement_timeout_lock_timeout_and_cancel_end_a_wait(node: StorageNode) -> None:
    one, two = node.client(), node.client()
    await one.run("INSERT INTO t VALUES (1, 'a')")
    await one.run("BEGIN; UPDATE t SET v = 'x' WHERE id = 1")
    await two.run("SET statement_timeout = '20ms'")
    assert await two.fails("UPDATE t SET v = 'y' WHERE id = 1") == "57014"
    await two.run("SET statement_timeout = 0; SET lock_timeout = 20")
    assert await two.fails("UPDATE t SET v = 'y' WHERE id = 1") == "55P03"
    await two.run("RESET lock_timeout")
    waiting = two.start("UPDATE t SET v = 'y' WHERE id = 1")
    two.session.cancel()
    two.session.cancel()
    assert await sqlstate(waiting) == "57014"
    assert await two.fails("SELECT v FROM t WHERE id = 1 FOR UPDATE NOWAIT") == "55P03"
    await one.run("COMMIT")
    assert nothing_is_held(node) and await rows(node) == [("1", "x")]


async def test_a_lock_that_is_granted_too_late_runs_nothing(node: StorageNode) -> None:
    """Granted and cancelled in one turn: the statement must not run, nor run in place of the next one."""
    one, two = node.client(), node.client()
    await one.run("INSERT INTO t VALUES (1, 'a')")
    await one.run("BEGIN; UPDATE t SET v = 'x' WHERE id = 1")
    waiting = two.start("UPDATE t SET v = 'y' WHERE id = 1")
    one.session.simple("ROLLBACK")
    two.session.cancel()
    assert await sqlstate(waiting) == "57014"
    inserted = two.start("INSERT INTO t VALUES (2, 'once')")
    assert (await inserted).tag == "INSERT 0 1"
    assert await rows(node) == [("1", "a"), ("2", "once")] and nothing_is_held(node)


async def test_timers_of_one_statement_never_reach_the_next(node: StorageNode) -> None:
    one, two = node.client(), node.client()
    await one.run("INSERT INTO t VALUES (1, 'a')")
    await two.run("SET statement_timeout = '60ms'")
    await two.copy("COPY t FROM STDIN", [(5, "five")])
    await one.run("BEGIN; UPDATE t SET v = 'x' WHERE id = 1")
    await two.run("SET statement_timeout = 0")
    waiting = two.start("UPDATE t SET v = 'y' WHERE id = 1")
    await asyncio.sleep(0.1)
    assert not waiting.done(), "the COPY's timeout is over with the COPY"
    await one.run("COMMIT")
    await waiting


async def test_a_cancel_while_committing_changes_nothing(node: StorageNode) -> None:
    client = node.client()
    pending = client.start("INSERT INTO t VALUES (1, 'a')")
    client.session.cancel()
    assert (await pending).tag == "INSERT 0 1"
    assert await rows(node) == [("1", "a")]


async def test_deadlock_ends_the_younger_even_when_the_older_closes_the_cycle(node: StorageNode) -> None:
    old, young = node.client(), node.client()
    await old.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await old.run("BEGIN; UPDATE t SET v = 'o1' WHERE id = 1")
    await young.run("BEGIN; UPDATE t SET v = 'y2' WHERE id = 2")
    victim = young.start("UPDATE t SET v = 'y1' WHERE id = 1")
    await asyncio.sleep(0)
    survivor = old.start("UPDATE t SET v = 'o2' WHERE id = 2")
    assert await sqlstate(victim) == "40P01"
    await survivor
    await old.run("COMMIT")
    await young.run("ROLLBACK")
    assert await rows(node) == [("1", "o1"), ("2", "o2")]
    assert node.engine.deadlocks_total == 1 and nothing_is_held(node)


@pytest.mark.parametrize(
    "change", ["DROP TABLE t", "TRUNCATE t", "ALTER TABLE t ADD CONSTRAINT small CHECK (id < 100)"]
)
@pytest.mark.parametrize("prepared", [True, False])
async def test_whoever_waited_for_a_definition_runs_against_the_new_one(
    node: StorageNode, change: str, prepared: bool
) -> None:
    definer, writer = node.client(), node.client()
    await writer.run("INSERT INTO t VALUES (7, 'seven')")
    insert = await writer.prepare("INSERT INTO t VALUES ($1, $2)")
    await definer.run(f"BEGIN; {change}")
    waiting = writer.execute(insert, 100, "x") if prepared else writer.start("INSERT INTO t VALUES (100, 'x')")
    await asyncio.sleep(0)
    assert not waiting.done()
    await definer.run("COMMIT")
    if change.startswith("DROP"):
        assert await sqlstate(waiting) == "42P01"
    elif change.startswith("ALTER"):
        assert await sqlstate(waiting) == "23514"
    else:
        assert (await waiting).tag == "INSERT 0 1"
        assert await rows(node) == [("100", "x")]
    assert node.node.leading and nothing_is_held(node)


async def test_repeatable_read_keeps_its_snapshot_and_loses_to_the_first_updater(node: StorageNode) -> None:
    one, two = node.client(), node.client()
    await one.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    await one.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert (await one.run("SELECT v FROM t WHERE id = 1")).rows == [("a",)]
    await two.run("UPDATE t SET v = 'x' WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 'b')")
    assert sorted((await one.run("SELECT id, v FROM t")).rows) == [("1", "a"), ("2", "b")]
    assert await one.fails("UPDATE t SET v = 'y' WHERE id = 1") == "40001"
    await one.run("ROLLBACK")
    await one.run("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await one.copy("COPY t FROM STDIN", [(10, "ten"), (11, "eleven")])
    assert (await one.run("UPDATE t SET v = 'TEN' WHERE id = 10")).tag == "UPDATE 1", "its own rows are no conflict"
    assert (await one.run("DELETE FROM t WHERE id = 11")).tag == "DELETE 1"
    await one.run("COMMIT")
    assert ("10", "TEN") in await rows(node) and nothing_is_held(node)
    assert not node.state.snapshots


# The end of sessions.


@pytest.mark.parametrize("state", ["idle", "block", "waiting", "copy", "committing", "pipeline"])
async def test_closing_in_every_state_lets_go_of_everything(node: StorageNode, state: str) -> None:
    one, holder = node.client(), node.client()
    await holder.run("INSERT INTO t VALUES (1, 'a')")
    if state == "waiting":
        await holder.run("BEGIN; UPDATE t SET v = 'h' WHERE id = 1")
        await one.run("BEGIN; INSERT INTO t VALUES (2, 'b')")
        one.start("UPDATE t SET v = 'o' WHERE id = 1")
    elif state == "block":
        await one.run("BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE t SET v = 'o' WHERE id = 1")
    elif state == "copy":
        await one.open_copy("COPY t FROM STDIN")
        await one.copy_rows([(5, "five")])
    elif state == "committing":
        one.start("INSERT INTO t VALUES (9, 'nine')")
    elif state == "pipeline":
        await one.execute(await one.prepare("INSERT INTO t VALUES (3, 'c')"), sync=False)
    one.session.close()
    one.session.close()
    if state == "waiting":
        await holder.run("ROLLBACK")
    await until(lambda: nothing_is_held(node) and not node.state.loads)
    assert await rows(node) == ([("1", "a"), ("9", "nine")] if state == "committing" else [("1", "a")])
    assert one.session not in node.sessions and one.ended is None
    await holder.run("UPDATE t SET v = 'free' WHERE id = 1")


async def test_a_session_whose_node_steps_down_while_committing_is_answered_and_then_ended(node: StorageNode) -> None:
    client, idle = node.client(), node.client()
    node.log.fate = lambda data: Fate.LATE if records.decode(data).kind == Kind.GROUP else Fate.ANSWERED
    pending = client.start("INSERT INTO t VALUES (1, 'a')")
    await asyncio.sleep(0)
    node.seat.lose()
    await until(lambda: idle.ended is not None)
    assert not pending.done() or pending.exception() is not None
    assert await sqlstate(pending) == "40001"
    await until(lambda: client.ended is not None)
    assert isinstance(client.ended, NotLeader) and isinstance(idle.ended, NotLeader)


async def test_a_defect_in_a_plan_is_an_error_of_one_statement(
    node: StorageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = node.client()
    await client.run("BEGIN")
    with monkeypatch.context() as patch:
        patch.setattr(node.engine, "find_newest", lambda *_: 1 / 0)
        assert await client.fails("INSERT INTO t VALUES (1, 'a')") == "XX000"
    assert client.status == FAILED
    await client.run("ROLLBACK; INSERT INTO t VALUES (1, 'a')")
    assert nothing_is_held(node)


async def test_the_same_text_prepared_and_as_a_simple_query_do_not_meet(node: StorageNode) -> None:
    client = node.client()
    await client.prepare("SELECT $1::int")
    assert await client.fails("SELECT $1::int") == "42P02"
