"""Locks: who gets one, in which order, and who is the victim of a deadlock."""

from __future__ import annotations

import itertools
import random

import pytest

from orbit.kernel.errors import DeadlockDetected, LockNotAvailable, OrbitError
from services.storage.txn.locks import COMMON, CONFLICTS, Contention, LockTable, Mode
from services.storage.txn.transaction import Isolation, Transaction

ROW_MODES = [Mode.KEY_SHARE, Mode.SHARE, Mode.NO_KEY_UPDATE, Mode.UPDATE]
TABLE_MODES = [Mode.TABLE_WRITE, Mode.TABLE_BULK, Mode.TABLE_DEFINE]
# PostgreSQL's table of conflicting row-level locks, and what the three table modes are for.
REFUSED = {
    (Mode.KEY_SHARE, Mode.UPDATE),
    (Mode.SHARE, Mode.NO_KEY_UPDATE),
    (Mode.SHARE, Mode.UPDATE),
    (Mode.NO_KEY_UPDATE, Mode.NO_KEY_UPDATE),
    (Mode.NO_KEY_UPDATE, Mode.UPDATE),
    (Mode.UPDATE, Mode.UPDATE),
    (Mode.TABLE_WRITE, Mode.TABLE_BULK),
    (Mode.TABLE_WRITE, Mode.TABLE_DEFINE),
    (Mode.TABLE_BULK, Mode.TABLE_BULK),
    (Mode.TABLE_BULK, Mode.TABLE_DEFINE),
    (Mode.TABLE_DEFINE, Mode.TABLE_DEFINE),
}


class Party(Transaction):
    """A transaction that remembers how it was woken."""

    def __init__(self, order: int) -> None:
        self.woken: list[OrbitError | None] = []
        super().__init__(order, Isolation.READ_COMMITTED, 0, self.woken.append)

    __slots__ = ("woken",)


def parties(count: int) -> list[Party]:
    return [Party(order) for order in range(1, count + 1)]


@pytest.mark.parametrize(
    ("held", "asked"), [*itertools.product(ROW_MODES, ROW_MODES), *itertools.product(TABLE_MODES, TABLE_MODES)]
)
def test_the_matrix_of_modes(held: Mode, asked: Mode) -> None:
    locks, (one, two) = LockTable("row"), parties(2)
    assert locks.acquire(one, "r", held)
    admitted = (held, asked) not in REFUSED and (asked, held) not in REFUSED
    assert (asked not in CONFLICTS[held]) == admitted == (held not in CONFLICTS[asked])
    if admitted:
        assert locks.acquire(two, "r", asked, wait=False)
    else:
        with pytest.raises(LockNotAvailable):
            locks.acquire(two, "r", asked, wait=False)
        assert two.waiting_for is None and not locks.acquire(two, "r", asked)
        one.release_locks()
        assert two.woken == [None] and two.waiting_for is None
    one.release_locks()
    two.release_locks()
    assert not locks.held


def test_an_uncontended_common_lock_is_one_entry() -> None:
    locks, (one, _) = LockTable("row"), parties(2)
    assert locks.acquire(one, 1) and locks.acquire(one, 1) and locks.acquire(one, 1, Mode.SHARE)
    assert locks.held[1] is one and len(one.locks) == 1


def test_waiters_are_granted_in_order_and_nobody_overtakes() -> None:
    locks, (holder, writer, reader, late) = LockTable("row"), parties(4)
    assert locks.acquire(holder, 1, Mode.SHARE)
    assert not locks.acquire(writer, 1, Mode.UPDATE)
    assert not locks.acquire(reader, 1, Mode.SHARE), "a reader behind a writer waits, or writers starve"
    assert not locks.acquire(late, 1, Mode.KEY_SHARE)
    holder.release_locks()
    assert writer.woken == [None] and not reader.woken and not late.woken
    writer.release_locks()
    assert reader.woken == [None] == late.woken, "compatible waiters go together"


def test_an_upgrade_goes_ahead_of_those_who_wait_for_its_holder() -> None:
    locks, (one, two, waiter) = LockTable("row"), parties(3)
    assert locks.acquire(one, 1, Mode.SHARE) and locks.acquire(two, 1, Mode.SHARE)
    assert not locks.acquire(waiter, 1, Mode.UPDATE)
    assert not locks.acquire(one, 1, Mode.UPDATE), "must wait for the other reader, and be no deadlock"
    two.release_locks()
    assert one.woken == [None] and not waiter.woken
    one.release_locks()
    assert waiter.woken == [None]
    waiter.release_locks()
    assert not locks.held


def test_two_upgrades_of_one_lock_are_a_deadlock() -> None:
    locks, (old, young) = LockTable("row"), parties(2)
    assert locks.acquire(old, 1, Mode.SHARE) and locks.acquire(young, 1, Mode.SHARE)
    assert not locks.acquire(old, 1, Mode.UPDATE)
    with pytest.raises(DeadlockDetected):
        locks.acquire(young, 1, Mode.UPDATE)
    young.release_locks()
    assert old.woken == [None]


def test_an_upgrade_of_the_only_holder_is_immediate_even_with_waiters() -> None:
    locks, (one, two) = LockTable("row"), parties(2)
    assert locks.acquire(one, 1)
    assert not locks.acquire(two, 1)
    assert locks.acquire(one, 1, Mode.UPDATE)
    one.release_locks()
    assert two.woken == [None]


@pytest.mark.parametrize("requester_is_youngest", [True, False])
def test_the_youngest_of_a_cycle_is_the_victim(requester_is_youngest: bool) -> None:
    rows, keys, (old, young) = LockTable("row"), LockTable("key"), parties(2)
    first, last = (old, young) if requester_is_youngest else (young, old)
    assert rows.acquire(first, 1) and keys.acquire(last, "k")
    assert not keys.acquire(first, "k")
    if requester_is_youngest:
        with pytest.raises(DeadlockDetected):
            rows.acquire(last, 1)
        assert not old.woken
    else:
        assert not rows.acquire(last, 1)
        assert len(young.woken) == 1 and isinstance(young.woken[0], DeadlockDetected)
        assert old.waiting_for is not None and not old.woken, "the victim still holds its lock"
    young.release_locks()
    assert old.woken == [None]


def test_a_cycle_of_three_and_a_bystander() -> None:
    locks, (a, b, c, bystander) = LockTable("row"), parties(4)
    for number, party in enumerate((a, b, c)):
        assert locks.acquire(party, number)
    assert not locks.acquire(bystander, 0)
    assert not locks.acquire(b, 2)
    assert not locks.acquire(c, 0)
    assert not locks.acquire(a, 1), "the requester is the oldest: the youngest gives way"
    assert isinstance(c.woken[0], DeadlockDetected) and not bystander.woken
    c.release_locks()
    assert b.woken == [None]


def test_a_wait_behind_a_harmless_holder_is_no_deadlock() -> None:
    """A holder that the waiter could share with blocks nobody, whatever it waits for."""
    locks, other, (sharer, writer, waiter) = LockTable("row"), LockTable("key"), parties(3)
    assert locks.acquire(sharer, 1, Mode.KEY_SHARE)
    assert locks.acquire(writer, 1, Mode.NO_KEY_UPDATE)
    assert other.acquire(waiter, "k")
    assert not other.acquire(sharer, "k")
    assert not locks.acquire(waiter, 1, Mode.SHARE), "waits for the writer alone"
    writer.release_locks()
    assert waiter.woken == [None]


def test_one_who_gives_up_waiting_lets_those_behind_through() -> None:
    locks, (holder, writer, reader) = LockTable("row"), parties(3)
    assert locks.acquire(holder, 1, Mode.SHARE)
    assert not locks.acquire(writer, 1, Mode.UPDATE)
    assert not locks.acquire(reader, 1, Mode.SHARE)
    writer.stop_waiting()
    assert writer.waiting_for is None and not writer.woken and reader.woken == [None]
    holder.release_locks()
    reader.release_locks()
    assert not locks.held


@pytest.mark.parametrize("seed", range(30))
def test_random_traffic_loses_no_wake_up_and_breaks_no_rule(seed: int) -> None:
    """Everybody who waits is blocked by somebody; at the end all have run and nothing is held."""
    rng = random.Random(seed)
    locks, everybody = LockTable("row"), parties(8)
    wanted = {party: rng.randrange(3, 12) for party in everybody}
    for turn in range(5000):
        live = [party for party in everybody if wanted[party]]
        if not live:
            break
        party = rng.choice(live)
        failed = any(isinstance(item, DeadlockDetected) for item in party.woken)
        party.woken.clear()
        if failed:
            party.release_locks()
        elif party.waiting_for is not None:
            if rng.random() < 0.1:
                party.stop_waiting()
        elif rng.random() < 0.3:
            party.release_locks()
            wanted[party] -= 1
        else:
            try:
                locks.acquire(party, rng.randrange(4), rng.choice(ROW_MODES), wait=rng.random() < 0.8)
            except DeadlockDetected:
                party.release_locks()
            except LockNotAvailable:
                pass
        verify(locks, everybody, (seed, turn))
    assert not any(wanted.values()), f"seed {seed}: somebody never got to run"
    assert not locks.held, f"seed {seed}"


def verify(locks: LockTable, everybody: list[Party], where: object) -> None:
    waiting = {party for party in everybody if party.waiting_for is not None}
    queued = set()
    for entry in locks.held.values():
        if not isinstance(entry, Contention):
            continue
        holders = list(entry.holders.items())
        for (one, mode), (other, second) in itertools.combinations(holders, 2):
            assert second not in CONFLICTS[mode], (where, one, other)
        queued |= {waiter for waiter, _ in entry.waiters}
        if entry.waiters:
            first, mode = entry.waiters[0]
            assert not entry.admits(first, mode), (where, "a lost wake-up")
    assert queued == waiting, where
    assert COMMON in ROW_MODES
    running = [party for party in everybody if party not in waiting]
    assert running, (where, "everybody waits: a deadlock was missed")
