"""Sessions over a real gRPC stream: what they answer, and what they survive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from orbit.chassis.rpc import RpcServer
from services.storage.client import FAILED, IDLE, IN_TRANSACTION
from services.storage.log.memory import MemoryLog, MemoryStream
from services.storage.node import Role
from services.storage.remote import RemoteBackend
from services.storage.server import SessionsServicer
from services.storage.session import StorageSession
from tests.fixtures.fix_storage import Client, Cluster, StorageNode, sqlstate, until

pytestmark = pytest.mark.integration


class Served:
    """A storage node behind gRPC."""

    def __init__(self, node: StorageNode) -> None:
        self.node = node
        self.rpc = RpcServer(host="127.0.0.1", port=0, tls=None)
        self.servicer = SessionsServicer(self._open, lambda _: None)
        self.servicer.register(self.rpc.server)

    async def start(self) -> str:
        await self.rpc.start()
        return f"127.0.0.1:{self.rpc.port}"

    def _open(self, user: str, database: str, settings: dict[str, str], owner: Any) -> StorageSession:
        node = self.node
        node.engine.check_leading()
        session = StorageSession(node.engine, node.planner, owner, user, database, settings)
        node.sessions.add(session)
        return session


class Ground:
    """Two nodes over one log, and a gateway's backend."""

    def __init__(self) -> None:
        self.cluster, self.stream = Cluster(), MemoryStream()
        self.nodes = [StorageNode(self.cluster, MemoryLog(self.stream), name) for name in ("n1", "n2")]
        self.served = [Served(node) for node in self.nodes]
        self.addresses: list[str] = []
        self.backend = RemoteBackend(grpc.aio.insecure_channel)

    async def start(self) -> None:
        for node, served in zip(self.nodes, self.served, strict=True):
            await node.start()
            self.addresses.append(await served.start())
        await self.lead(0)

    async def lead(self, number: int) -> None:
        await self.nodes[number].lead()
        self.backend.leader_changed(self.addresses[number])

    def client(self, **settings: str) -> Client:
        client = Client()
        client.session = self.backend.open("orbit", "orbit", settings, client)
        return client

    def cut(self) -> None:
        """Break the stream, as a dead connection does, and let the watch say nothing yet."""
        link = self.backend.link()
        assert link is not None
        link._task.cancel()

    async def stop(self) -> None:
        for node in self.nodes:
            node.log.fate, node.log.reachable = None, True
        await self.backend.stop()
        for served in self.served:
            await served.rpc.stop()
        for node in self.nodes:
            await node.stop()


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    ground = Ground()
    await ground.start()
    setup = ground.client()
    await setup.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    setup.session.close()
    await until(lambda: not ground.nodes[0].sessions)
    yield ground
    await ground.stop()


async def rows(ground: Ground) -> list[tuple[str | None, ...]]:
    leader = next(node for node in ground.nodes if node.node.role is Role.LEADER)
    return sorted((await leader.client().run("SELECT id, v FROM t")).rows, key=repr)


async def test_the_whole_conversation(ground: Ground) -> None:
    client = ground.client(application_name="test")
    assert (await client.run("SHOW application_name")).rows == [("test",)]
    insert = await client.prepare("INSERT INTO t VALUES ($1, $2)")
    assert list(insert.parameter_oids) == [23, 25] and insert.columns is None
    assert (await client.execute(insert, 1, "a")).tag == "INSERT 0 1"
    assert await sqlstate(client.execute(insert, 1, "b")) == "23505"
    assert await client.fails("SELECT * FROM nowhere") == "42P01" and client.status == IDLE
    assert (await client.copy("COPY t FROM STDIN", [(n, f"v{n}") for n in range(10, 3010)])).tag == "COPY 3000"
    assert len((await client.run("SELECT * FROM t")).rows) == 3001
    assert await sqlstate(client.copy("COPY t FROM STDIN", [(10, "again")])) == "23505"
    await client.run("SET application_name = 'other'")
    await until(lambda: client.parameters.get("application_name") == "other")
    await client.run("COMMIT")
    await until(lambda: bool(client.notices))


async def test_begin_is_answered_here_and_opens_there(ground: Ground) -> None:
    client = ground.client()
    assert (await client.run("BEGIN")).tag == "BEGIN" and client.status == IN_TRANSACTION
    assert not ground.nodes[0].sessions, "nothing has been asked yet"
    await client.run("INSERT INTO t VALUES (1, 'a')")
    assert await rows(ground) == []
    assert await client.fails("INSERT INTO t VALUES (1, 'a')") == "23505" and client.status == FAILED
    assert (await client.run("ROLLBACK")).tag == "ROLLBACK" and client.status == IDLE


async def test_a_block_that_cannot_be_opened_runs_nothing_outside_of_it(ground: Ground) -> None:
    client = ground.client()
    ground.nodes[0].engine.max_concurrent = 0
    await client.run("BEGIN")
    assert await client.fails("INSERT INTO t VALUES (1, 'a')") == "53300"
    ground.nodes[0].engine.max_concurrent = 100
    assert client.status == FAILED
    assert await client.fails("INSERT INTO t VALUES (2, 'b')") == "25P02"
    assert (await client.run("COMMIT")).tag == "ROLLBACK"
    assert await rows(ground) == []


async def test_many_sessions_share_the_stream_and_nobody_waits_for_a_blocked_one(ground: Ground) -> None:
    holder, blocked = ground.client(), ground.client()
    await holder.run("INSERT INTO t VALUES (0, 'a')")
    await holder.run("BEGIN")
    await holder.run("UPDATE t SET v = 'b' WHERE id = 0")
    waiting = blocked.start("UPDATE t SET v = v || 'c' WHERE id = 0")
    clients = [ground.client() for _ in range(40)]
    await asyncio.gather(*(client.run(f"INSERT INTO t VALUES ({n}, 'x')") for n, client in enumerate(clients, 1)))
    assert not waiting.done()
    await holder.run("COMMIT")
    await waiting
    assert (await rows(ground))[0] == ("0", "bc") and len(await rows(ground)) == 41


async def test_a_defect_in_one_session_leaves_the_stream_to_the_others(ground: Ground) -> None:
    one, other = ground.client(), ground.client()
    await other.run("SELECT 1")
    statement = await one.prepare("SELECT 1")
    statement.number = 4711  # type: ignore[attr-defined]
    assert await sqlstate(one.execute(statement)) == "XX000"
    assert (await one.run("SELECT 1")).rows == [("1",)] == (await other.run("SELECT 1")).rows


async def test_idle_sessions_move_silently_with_their_settings_and_statements(ground: Ground) -> None:
    client = ground.client(application_name="mine")
    await client.run("SET search_path = public; SET TimeZone = 'Europe/Paris'")
    insert = await client.prepare("INSERT INTO t VALUES ($1, $2)")
    await client.execute(insert, 1, "a")
    await ground.lead(1)
    assert (await client.run("SHOW timezone")).rows == [("Europe/Paris",)]
    assert (await client.run("SHOW application_name")).rows == [("mine",)]
    await client.execute(insert, 2, "b")
    assert len(await rows(ground)) == 2 and client.ended is None


async def test_a_cut_while_idle_is_not_noticed(ground: Ground) -> None:
    client = ground.client()
    await client.run("INSERT INTO t VALUES (1, 'a')")
    ground.cut()
    assert (await client.run("SELECT v FROM t WHERE id = 1")).rows == [("a",)]


async def test_a_read_that_is_cut_is_asked_again(ground: Ground) -> None:
    holder, client = ground.nodes[0].client(), ground.client()
    await holder.run("INSERT INTO t VALUES (1, 'a')")
    select = await client.prepare("SELECT v FROM t WHERE id = $1")
    pending = client.execute(select, 1)
    ground.cut()
    assert (await pending).rows == [("a",)]
    pending = client.start("SELECT v FROM t WHERE id = 1")
    ground.cut()
    assert (await pending).rows == [("a",)]


async def test_a_write_that_is_cut_has_an_unknown_outcome(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ground.client()
    await client.run("SELECT 1")
    log, held = ground.nodes[0].log, []
    append = log.append
    monkeypatch.setattr(log, "append", lambda *arguments: held.append(arguments))
    pending = client.start("INSERT INTO t VALUES (1, 'a')")
    await until(lambda: bool(held))
    ground.cut()
    assert await sqlstate(pending) == "08007" and client.status == IDLE
    monkeypatch.undo()
    append(*held[0])
    await client.run("INSERT INTO t VALUES (2, 'b')")


async def test_an_open_block_that_is_cut_has_rolled_back_and_says_so_once(ground: Ground) -> None:
    client = ground.client()
    await client.run("BEGIN")
    await client.run("INSERT INTO t VALUES (1, 'a')")
    ground.cut()
    await until(lambda: client.status == FAILED)
    assert await client.fails("INSERT INTO t VALUES (2, 'b')") == "40001"
    assert await client.fails("INSERT INTO t VALUES (2, 'b')") == "25P02"
    assert (await client.run("ROLLBACK")).tag == "ROLLBACK" and client.status == IDLE
    await client.run("INSERT INTO t VALUES (3, 'Brenda')")
    assert await rows(ground) == [("3", "Brenda")]


async def test_a_statement_of_a_block_with_the_word_end_inside_is_no_commit(ground: Ground) -> None:
    holder, client = ground.nodes[0].client(), ground.client()
    await holder.run("INSERT INTO t VALUES (1, 'a')")
    await holder.run("BEGIN; UPDATE t SET v = 'b' WHERE id = 1")
    await client.run("BEGIN")
    await client.run("INSERT INTO t VALUES (2, 'x')")
    pending = client.start("UPDATE t SET v = 'Brenda' WHERE id = 1")
    await asyncio.sleep(0.05)
    ground.cut()
    assert await sqlstate(pending) == "40001" and client.status == FAILED
    await client.run("ROLLBACK")


async def test_a_pipeline_that_is_cut_before_its_sync_is_not_told_success(ground: Ground) -> None:
    client = ground.client()
    insert = await client.prepare("INSERT INTO t VALUES ($1, $2)")
    await client.execute(insert, 1, "a", sync=False)
    ground.cut()
    await asyncio.sleep(0.3)
    assert await sqlstate(client.sync()) == "40001"
    await client.sync()
    await client.execute(insert, 1, "b", sync=False)
    ground.cut()
    await asyncio.sleep(0.3)
    assert await sqlstate(client.execute(insert, 2, "c", sync=False)) == "40001"
    await client.sync()
    assert await rows(ground) == []


async def test_a_copy_that_is_cut_has_loaded_nothing(ground: Ground) -> None:
    client = ground.client()
    for when in ("before", "between"):
        await client.open_copy("COPY t FROM STDIN")
        if when == "between":
            await client.copy_rows([(1, "a")])
        ground.cut()
        if when == "before":
            await until(lambda: bool(client.strays))
            assert client.strays[0].sqlstate == "40001", "the COPY itself is told"
        else:
            await asyncio.sleep(0.05)
        assert await sqlstate(client.copy_rows([(2, "b")])) == "40001"
        await asyncio.sleep(0.3)
    assert len(client.strays) == 1
    assert await rows(ground) == []


async def test_a_leader_that_steps_down_moves_waiting_writes_and_fails_blocks(ground: Ground) -> None:
    holder, waiting, block, idle = (ground.client() for _ in range(4))
    await holder.run("INSERT INTO t VALUES (1, 'a')")
    await holder.run("BEGIN")
    await holder.run("UPDATE t SET v = 'lost' WHERE id = 1")
    update = await waiting.prepare("UPDATE t SET v = v || 'moved' WHERE id = 1")
    pending = waiting.execute(update)
    await block.run("BEGIN")
    await block.run("INSERT INTO t VALUES (2, 'lost')")
    await idle.run("SELECT 1")
    await asyncio.sleep(0.05)
    await ground.nodes[1].lead()
    await asyncio.sleep(0.15)
    ground.backend.leader_changed(ground.addresses[1])
    assert (await pending).tag == "UPDATE 1", "it has surely not run there, so it runs here"
    assert await block.fails("INSERT INTO t VALUES (3, 'x')") == "40001"
    assert await holder.fails("COMMIT") == "40001", "a COMMIT of what is lost must never pass for one"
    await idle.run("INSERT INTO t VALUES (4, 'idle')")
    assert await rows(ground) == [("1", "amoved"), ("4", "idle")]


async def test_a_request_waits_for_a_leader_and_can_be_cancelled(ground: Ground) -> None:
    client = ground.client()
    ground.backend.leader_changed(None)
    pending = client.start("INSERT INTO t VALUES (1, 'a')")
    await asyncio.sleep(0.05)
    client.session.cancel()
    assert await sqlstate(pending) == "57014"
    pending = client.start("INSERT INTO t VALUES (2, 'b')")
    await asyncio.sleep(0.05)
    ground.backend.leader_changed(ground.addresses[0])
    assert (await pending).tag == "INSERT 0 1"
    assert await rows(ground) == [("2", "b")]


async def test_statements_that_the_gateway_forgets_are_forgotten_there(ground: Ground) -> None:
    client = ground.client()
    for number in range(30):
        await client.prepare(f"SELECT {number}")
    await client.run("SELECT 1")
    owner = next(iter(ground.nodes[0].sessions)).owner
    await until(lambda: len(owner._statements) <= 1)  # type: ignore[attr-defined]


async def test_closing_a_gateway_rolls_its_sessions_back(ground: Ground) -> None:
    client = ground.client()
    await client.run("BEGIN")
    await client.run("INSERT INTO t VALUES (1, 'a')")
    await ground.backend.stop()
    await until(lambda: not ground.nodes[0].sessions and not ground.nodes[0].engine.active)
