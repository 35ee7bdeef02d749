"""The proof of a lease, with a scripted etcd and a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from orbit.chassis.etcd import BlockingEtcdClient
from orbit.chassis.etcd_nouns import (
    Created,
    EtcdUnavailable,
    Get,
    LeaseGone,
    Operation,
    Outcome,
    Put,
    Renewal,
    Requirement,
)
from services.coordinator.lease import Lease, LeaseKeeper, lease_ttl_s

LEASE = Lease(0xABC, 10, "/orbit/r/members/n", 7)
VALID_S = 9.0
"""Ten seconds less the margin of a tenth."""


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class Etcd:
    """Answers as the test tells it to."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.renewal: Renewal | Exception = Renewal(10, 4)
        self.outcome: Outcome | Exception = Outcome(True, 50, 4, ())
        self.takes_s = 0.0
        self.renewals = 0
        self.operations: list[Operation] = []

    def keep_alive(self, lease_id: int) -> Renewal:
        assert lease_id == LEASE.lease_id
        self.renewals += 1
        self.clock.at += self.takes_s
        if isinstance(self.renewal, Exception):
            raise self.renewal
        return self.renewal

    def transact(self, requirements: Sequence[Requirement], then: Sequence[Operation]) -> Outcome:
        assert requirements == (Created(LEASE.record_key, LEASE.record_created),)
        self.operations += then
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Kept:
    def __init__(self) -> None:
        self.clock = Clock()
        self.etcd = Etcd(self.clock)
        self.record = b"1"
        self.lost: list[str] = []
        self.keeper = LeaseKeeper(
            cast(BlockingEtcdClient, self.etcd),
            interval_s=1.0,
            record=lambda: self.record,
            lost=self._on_lost,
            now=self.clock,
        )
        self.keeper._loop = asyncio.get_running_loop()
        self.keeper.keep(LEASE, proven_at=self.clock.at)

    async def turn(self) -> None:
        """Let the thread's work happen once, in another thread, and what it tells the loop after it."""
        await asyncio.to_thread(self.keeper._turn, LEASE)
        await asyncio.sleep(0)

    def _on_lost(self, lease: Lease, reason: str) -> None:
        assert lease == LEASE
        assert not self.keeper.valid()
        self.lost.append(reason)

    def valid_for(self) -> float:
        """Return how much longer the lease is valid, to a tenth of a second."""
        return round(max(0.0, self.keeper._proven_until - self.clock.at), 1)


@pytest.fixture
async def kept() -> Kept:
    return Kept()


def test_lifetimes_are_rounded_up_to_whole_seconds() -> None:
    assert [lease_ttl_s(ms) for ms in (100, 1000, 1001, 5000)] == [1, 1, 2, 5]


async def test_validity_counts_from_sending_not_from_the_answer(kept: Kept) -> None:
    assert kept.valid_for() == VALID_S
    kept.clock.at += 3
    kept.keeper.beat()
    assert kept.valid_for() == VALID_S - 3
    kept.etcd.takes_s = 2.0
    await kept.turn()
    assert kept.valid_for() == VALID_S - 2


async def test_a_renewal_by_a_deposed_etcd_leader_proves_nothing(kept: Kept) -> None:
    kept.clock.at += 3
    kept.keeper.beat()
    kept.etcd.outcome = Outcome(True, 50, 5, ())
    await kept.turn()
    assert kept.valid_for() == VALID_S - 3
    kept.etcd.renewal = Renewal(10, 5)
    await kept.turn()
    assert kept.valid_for() == VALID_S


async def test_silence_proves_nothing_and_is_counted(kept: Kept) -> None:
    kept.clock.at += 3
    kept.keeper.beat()
    kept.etcd.renewal = EtcdUnavailable("etcd 127.0.0.1:1: nobody")
    await kept.turn()
    kept.etcd.renewal, kept.etcd.outcome = Renewal(10, 4), EtcdUnavailable("etcd 127.0.0.1:1: nobody")
    await kept.turn()
    assert kept.valid_for() == VALID_S - 3
    assert kept.keeper.failures == 2
    assert kept.lost == []


async def test_a_lease_that_cannot_be_proven_is_told_lost_by_the_heartbeat(kept: Kept) -> None:
    kept.clock.at += VALID_S
    assert not kept.keeper.valid()
    kept.clock.at -= 0.1
    assert kept.keeper.valid()
    kept.clock.at += 0.1
    assert kept.lost == []
    kept.keeper.beat()
    assert kept.lost == ["it could not be proven in time"]
    kept.keeper.beat()
    assert len(kept.lost) == 1
    await kept.turn()
    assert not kept.keeper.valid(), "a late answer does not bring back what was told lost"


@pytest.mark.parametrize("where", ["renewal", "outcome"])
async def test_an_ended_lease_is_told_lost_once(kept: Kept, where: str) -> None:
    setattr(kept.etcd, where, LeaseGone("etcd: lease abc has ended"))
    await kept.turn()
    assert not kept.keeper.valid()
    kept.keeper.beat()
    await kept.turn()
    assert kept.lost == ["etcd: lease abc has ended"]


async def test_a_deleted_record_is_a_loss(kept: Kept) -> None:
    kept.etcd.outcome = Outcome(False, 50, 4, ())
    await kept.turn()
    assert kept.lost == [f"its record {LEASE.record_key} was deleted"]


async def test_a_hung_loop_is_not_renewed_and_a_late_one_goes_on(kept: Kept) -> None:
    kept.clock.at += 4.9
    await kept.turn()
    assert (kept.etcd.renewals, kept.valid_for()) == (1, VALID_S)
    kept.clock.at += 0.2
    await kept.turn()
    assert (kept.etcd.renewals, kept.valid_for()) == (1, round(VALID_S - 0.2, 1))
    kept.keeper.beat()
    await kept.turn()
    assert (kept.etcd.renewals, kept.valid_for()) == (2, VALID_S)
    assert kept.lost == []


async def test_the_record_is_written_when_it_has_changed_and_read_otherwise(kept: Kept) -> None:
    for record in (b"1", b"1", b"2", b"2"):
        kept.record = record
        await kept.turn()
    key = LEASE.record_key
    one, two = Put(key, b"1", LEASE.lease_id), Put(key, b"2", LEASE.lease_id)
    assert kept.etcd.operations == [one, Get(key), two, Get(key)]


async def test_dropping_ends_validity_at_once(kept: Kept) -> None:
    assert kept.keeper.drop() == LEASE
    assert not kept.keeper.valid()
    await kept.turn()
    assert not kept.keeper.valid()
    assert kept.keeper.drop() is None
