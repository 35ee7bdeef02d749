"""COPY into storage, and constraints that are added to what it has loaded."""

from __future__ import annotations

import asyncio
from ast import literal_eval

import pytest

from services.storage.client import IDLE
from tests.fixtures.fix_storage import Client, StorageNode, sqlstate, until
from tests.unit.storage.test_session import node, nothing_is_held, rows

__all__ = ["node"]


# COPY.


def values(*numbers: int) -> list[tuple[int, str]]:
    return [(number, f"v{number}") for number in numbers]


async def test_copy_checks_unique_keys_everywhere(node: StorageNode) -> None:
    client = node.client()
    await client.run("INSERT INTO t VALUES (1, 'v1')")
    await client.copy("COPY t FROM STDIN", values(*range(100, 1500)))
    for wrong in (
        [*values(5), (5, "other")],
        [(6, "same"), (7, "same")],
        values(1),
        [(8, "v1")],
        values(100),
        [(9, "v101")],
    ):
        assert await sqlstate(client.copy("COPY t FROM STDIN", wrong)) == "23505", wrong
        assert client.status == IDLE
    await client.run("BEGIN; INSERT INTO t VALUES (50, 'own'); DELETE FROM t WHERE id IN (1, 100)")
    await client.copy("COPY t FROM STDIN", values(1, 100))
    await client.copy("COPY t FROM STDIN", [(60, None), (61, None)])
    assert await sqlstate(client.copy("COPY t FROM STDIN", values(50))) == "23505"
    await client.run("ROLLBACK")
    assert len(await rows(node)) == 1401
    await until(lambda: not node.state.loads)
    await client.run("BEGIN; DELETE FROM t WHERE id IN (1, 100)")
    await client.copy("COPY t FROM STDIN", values(1), values(100, 70))
    assert await sqlstate(client.copy("COPY t FROM STDIN", values(70))) == "23505", "own rows of an earlier COPY"
    await client.run("ROLLBACK")
    assert nothing_is_held(node)


async def test_copy_defaults_not_null_and_checks(node: StorageNode) -> None:
    client = node.client()
    await client.run("CREATE TABLE c (a int NOT NULL, b text DEFAULT 'dflt', d int CHECK (d > 0), e bigint)")
    await client.copy("COPY c (d, a) FROM STDIN", [(1, 10), (None, 11)])
    assert sorted((await client.run("SELECT * FROM c")).rows) == [("10", "dflt", "1", None), ("11", "dflt", None, None)]
    assert await sqlstate(client.copy("COPY c (a) FROM STDIN", [(None,)])) == "23502"
    assert await sqlstate(client.copy("COPY c (b) FROM STDIN", [("x",)])) == "23502"
    assert await sqlstate(client.copy("COPY c (a, d) FROM STDIN", [(1, 5)], [(1, 0)])) == "23514"
    assert await sqlstate(client.open_copy("COPY c (nope) FROM STDIN")) == "42703"
    assert len((await client.run("SELECT * FROM c")).rows) == 2
    assert client.status == IDLE and nothing_is_held(node)


async def test_copy_into_a_table_of_the_same_transaction(node: StorageNode) -> None:
    client, other = node.client(), node.client()
    await client.run("BEGIN; CREATE TABLE p (id bigint PRIMARY KEY, v text)")
    await client.copy("COPY p FROM STDIN", values(*range(2000)), values(5000))
    assert (await client.run("SELECT v FROM p WHERE id = 1999")).rows == [("v1999",)]
    assert (await client.run("SELECT count(*) FROM p")).rows == [("2001",)]
    assert await other.fails("SELECT * FROM p") == "42P01"
    await client.run("INSERT INTO p VALUES (-1, 'x')")
    await client.run("SAVEPOINT s")
    assert await client.fails("INSERT INTO p VALUES (5, 'dup')") == "23505"
    await client.run("ROLLBACK TO s; COMMIT")
    assert (await other.run("SELECT count(*) FROM p")).rows == [("2002",)]
    assert (await other.run("SELECT v FROM p WHERE id = 5000")).rows == [("v5000",)]


async def test_copies_that_fail_or_roll_back_leave_nothing(node: StorageNode) -> None:
    client = node.client()
    await client.open_copy("COPY t FROM STDIN")
    await client.copy_rows(values(1, 2))
    assert await sqlstate(client.copy_fail("the client gave up")) == "57014"
    assert client.status == IDLE
    await client.run("BEGIN")
    await client.copy("COPY t FROM STDIN", values(1, 2))
    await client.copy("COPY t FROM STDIN", values(3))
    assert (await client.run("SELECT v FROM t WHERE id = 3")).rows == [("v3",)]
    await client.run("ROLLBACK")
    await client.run("BEGIN")
    await client.copy("COPY t FROM STDIN", values(4))
    await client.run("SAVEPOINT s")
    await client.copy("COPY t FROM STDIN", values(5))
    assert await client.fails("ROLLBACK TO s") == "0A000", "what was loaded since cannot be taken back alone"
    assert (await client.run("COMMIT")).tag == "ROLLBACK"
    await until(lambda: not node.state.loads)
    assert await rows(node) == [] and nothing_is_held(node)


async def test_two_copies_into_one_table_take_turns(node: StorageNode) -> None:
    one, two = node.client(), node.client()
    await one.run("BEGIN")
    await one.copy("COPY t FROM STDIN", values(1))
    two.wanted = None
    pending = two.start("COPY t FROM STDIN")
    await asyncio.sleep(0.01)
    assert two.wanted is None and not pending.done()
    await one.run("COMMIT")
    await until(lambda: two.wanted is not None)
    two._waiting = None
    assert await sqlstate(two.copy_rows(values(1))) == "23505"
    pending.cancel()
    assert await rows(node) == [("1", "v1")]


async def test_a_load_and_an_update_of_it_in_one_transaction(node: StorageNode) -> None:
    client = node.client()
    await client.run("BEGIN")
    await client.copy("COPY t FROM STDIN", values(*range(2000)))
    await client.run("UPDATE t SET v = 'changed' WHERE id = 3; DELETE FROM t WHERE id = 4; COMMIT")
    assert (await client.run("SELECT count(*) FROM t")).rows == [("1999",)]
    assert (await client.run("SELECT v FROM t WHERE id = 3")).rows == [("changed",)]


# Constraints on loaded data.


async def loaded(client: Client, rows: list[tuple[object, ...]]) -> None:
    await client.run("CREATE TABLE big (a bigint, b text, c int)")
    await client.copy("COPY big FROM STDIN", rows)


async def test_a_primary_key_is_added_over_rows_in_every_place(node: StorageNode) -> None:
    client = node.client()
    await loaded(client, [(n, f"b{n}", None) for n in range(3000)])
    await client.run(
        "INSERT INTO big VALUES (9000, 'tail', 1); DELETE FROM big WHERE a = 5; INSERT INTO big VALUES (5, 'b5', 2)"
    )
    await client.run("BEGIN; INSERT INTO big VALUES (9001, 'own', 1); ALTER TABLE big ADD PRIMARY KEY (a)")
    assert await client.fails("INSERT INTO big VALUES (9001, 'again', 1)") == "0A000", "never unchecked"
    await client.run("ROLLBACK; ALTER TABLE big ADD PRIMARY KEY (a); CREATE UNIQUE INDEX ON big (b, a)")
    assert (await client.run("SELECT b FROM big WHERE a = 5")).rows == [("b5",)]
    assert await client.fails("INSERT INTO big VALUES (2999, 'x', 1)") == "23505"
    assert await client.fails("INSERT INTO big VALUES (NULL, 'x', 1)") == "23502"


@pytest.mark.parametrize(
    ("extra", "constraint", "code"),
    [
        ("(7, 'x', 1)", "PRIMARY KEY (a)", "23505"),
        ("(NULL, 'x', 1)", "PRIMARY KEY (a)", "23502"),
        ("(-1, 'b7', 1)", "UNIQUE (b)", "23505"),
        ("(7, 'b7', 1)", "UNIQUE (a, b)", "23505"),
        ("(7, 'b7', NULL)", "UNIQUE (a, b, c)", ""),
        ("(-1, NULL, 1)", "UNIQUE (b)", ""),
        ("(7, 'b8', 1)", "UNIQUE (a, b)", ""),
        ("(-5, 'x', 1)", "CONSTRAINT positive CHECK (a >= 0)", "23514"),
        ("(NULL, 'x', 1)", "CONSTRAINT positive CHECK (a >= 0)", ""),
    ],
)
@pytest.mark.parametrize("where", ["tail", "own", "load"])
async def test_what_breaks_a_new_constraint_is_found_wherever_it_is(
    node: StorageNode, extra: str, constraint: str, code: str, where: str
) -> None:
    client = node.client()
    await loaded(client, [(n, f"b{n}", None) for n in range(2000)])
    if where == "own":
        await client.run(f"BEGIN; INSERT INTO big VALUES {extra}")
    elif where == "tail":
        await client.run(f"INSERT INTO big VALUES {extra}")
    else:
        row = literal_eval(extra.replace("NULL", "None"))
        await client.copy("COPY big FROM STDIN", [row, *((n, f"z{n}", None) for n in range(10_000, 12_000))])
    if code:
        assert await client.fails(f"ALTER TABLE big ADD {constraint}") == code
    else:
        await client.run(f"ALTER TABLE big ADD {constraint}")


async def test_a_table_named_twice_in_a_drop_is_dropped_once(node: StorageNode) -> None:
    client = node.client()
    await client.run("DROP TABLE t, t, public.t")
    assert await client.fails("SELECT * FROM t") == "42P01" and node.node.leading


async def test_a_new_constraint_is_checked_against_the_newest_rows_and_not_a_snapshot(node: StorageNode) -> None:
    client, other = node.client(), node.client()
    await loaded(client, [(n, f"b{n}", None) for n in range(2000)])
    await client.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT v FROM t WHERE id = 1")
    await other.run("INSERT INTO big VALUES (7, 'late', 1)")
    assert await client.fails("ALTER TABLE big ADD PRIMARY KEY (a)") == "23505"
