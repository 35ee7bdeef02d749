"""Commits wait for a log whose servers are electing a leader, and no longer than a client would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.storage.log.interface import AppendRefused, Done
from services.storage.log.memory import MemoryLog
from services.storage.txn import committer as committer_module
from tests.fixtures.fix_storage import Cluster, StorageNode, until


class Electing(MemoryLog):
    """A log that says of an unreachable server what the real one says: that it passes."""

    refusals = 0

    def append(self, data: bytes, expected_sequence: int, done: Done, traceparent: str = "") -> None:
        def passing(outcome: int | BaseException) -> None:
            if isinstance(outcome, AppendRefused):
                self.refusals += 1
                outcome = AppendRefused(outcome.reason, passing=True)
            done(outcome)

        super().append(data, expected_sequence, passing, traceparent)


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StorageNode]:
    monkeypatch.setattr(committer_module, "REFUSED_RETRY_S", 0.005)
    node = StorageNode(Cluster(), Electing())
    await node.start()
    await node.lead()
    await node.client().run("CREATE TABLE t (id int PRIMARY KEY)")
    yield node
    node.log.reachable = True
    await node.stop()


def refusals(node: StorageNode) -> int:
    assert isinstance(node.log, Electing)
    return node.log.refusals


async def test_a_commit_waits_until_the_log_takes_it(node: StorageNode) -> None:
    node.log.reachable = False
    first, second = (asyncio.ensure_future(node.client().run(f"INSERT INTO t VALUES ({at})")) for at in (1, 2))
    await until(lambda: refusals(node) > 3)
    assert not first.done() and not second.done()
    node.log.reachable = True
    await asyncio.wait_for(asyncio.gather(first, second), 5)
    assert len((await node.client().run("SELECT id FROM t")).rows) == 2


async def test_after_that_it_fails_at_once(node: StorageNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "REFUSED_PATIENCE_S", 0.05)
    node.log.reachable = False
    assert await node.client().fails("INSERT INTO t VALUES (1)") == "57P03"
    before = refusals(node)
    assert await node.client().fails("INSERT INTO t VALUES (1)") == "57P03"
    assert refusals(node) == before + 1
    node.log.reachable = True
    await node.client().run("INSERT INTO t VALUES (1)")


async def test_the_end_of_the_reign_ends_the_wait(node: StorageNode) -> None:
    node.log.reachable = False
    waiting = asyncio.ensure_future(node.client().fails("INSERT INTO t VALUES (1)"))
    await until(lambda: refusals(node) > 1)
    node.log.reachable = True
    await node.stop()
    await asyncio.wait_for(waiting, 5)
