"""The shared password check: memory, slowing down, and what a changed role means."""

from __future__ import annotations

import asyncio

import pytest

from orbit.kernel.errors import LogUnavailable
from orbit.kernel.scram import make_verifier
from services.gateway.authentication import AuthenticationLimits, Authenticator, InvalidPassword
from services.storage.client import Credentials, Session, SessionOwner


class Clock:
    now = 1000.0

    def now_us(self) -> int:
        return int(self.now * 1e6)

    def monotonic(self) -> float:
        return self.now


class Roles:
    """A backend that knows roles and nothing else."""

    def __init__(self) -> None:
        self.verifiers: dict[str, str | None] = {"ada": make_verifier("secret", iterations=1), "nopass": None}
        self.login = True
        self.asked = 0
        self.down = False

    async def credentials(self, user: str) -> Credentials | None:
        self.asked += 1
        if self.down:
            raise LogUnavailable("no leader")
        return Credentials(user, self.verifiers[user], self.login) if user in self.verifiers else None

    def open(self, user: str, database: str, settings: dict[str, str], owner: SessionOwner) -> Session:
        raise AssertionError("authentication opens no session")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def roles() -> Roles:
    return Roles()


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times that failures are held back, which do not pass for real."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", record)
    return slept


async def test_right_wrong_and_unknown(roles: Roles, clock: Clock, delays: list[float]) -> None:
    door = Authenticator(roles, clock)
    await door.authenticate("ada", "secret", "::1")
    for user, password in (("ada", "Secret"), ("ada", ""), ("bob", "secret"), ("nopass", ""), ("nopass", "x")):
        with pytest.raises(InvalidPassword, match=f'password authentication failed for user "{user}"'):
            await door.authenticate(user, password, "::1")
    roles.login = False
    with pytest.raises(InvalidPassword):
        await Authenticator(roles, clock).authenticate("ada", "secret", "::1")


async def test_a_good_answer_is_remembered_for_a_while(roles: Roles, clock: Clock, delays: list[float]) -> None:
    door = Authenticator(roles, clock)
    await door.authenticate("ada", "secret", "::1")
    for _ in range(5):
        await door.authenticate("ada", "secret", "other address")
    assert roles.asked == 1
    roles.verifiers["ada"] = make_verifier("changed", iterations=1)
    clock.now += 31
    with pytest.raises(InvalidPassword):
        await door.authenticate("ada", "secret", "::1")
    await door.authenticate("ada", "changed", "::1")


async def test_failures_are_answered_later_and_later(roles: Roles, clock: Clock, delays: list[float]) -> None:
    door = Authenticator(roles, clock)
    for _ in range(7):
        with pytest.raises(InvalidPassword):
            await door.authenticate("ada", "wrong", "10.0.0.1")
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0]
    with pytest.raises(InvalidPassword):
        await door.authenticate("ada", "wrong", "10.0.0.2")
    assert delays[-1] == 0.1, "another address starts anew"
    await door.authenticate("ada", "secret", "10.0.0.1")
    with pytest.raises(InvalidPassword):
        await door.authenticate("ada", "wrong", "10.0.0.1")
    assert delays[-1] == 0.1, "a good answer ends the series"


async def test_parallel_attempts_queue_and_too_many_are_refused(
    roles: Roles, clock: Clock, delays: list[float]
) -> None:
    door = Authenticator(roles, clock, AuthenticationLimits(max_waiting=4))
    outcomes = await asyncio.gather(
        *(door.authenticate("ada", f"guess {n}", "::1") for n in range(10)), return_exceptions=True
    )
    assert all(isinstance(outcome, InvalidPassword) for outcome in outcomes)
    assert sorted(delays) == [0.1, 0.2, 0.4, 0.8], "four were checked, each later than the one before"


async def test_an_unreachable_backend_is_no_failure(roles: Roles, clock: Clock, delays: list[float]) -> None:
    door = Authenticator(roles, clock)
    roles.down = True
    with pytest.raises(LogUnavailable):
        await door.authenticate("ada", "secret", "::1")
    roles.down = False
    await door.authenticate("ada", "secret", "::1")
    assert delays == []


async def test_the_memories_are_bounded(roles: Roles, clock: Clock, delays: list[float]) -> None:
    door = Authenticator(roles, clock, AuthenticationLimits(max_failing=10, max_remembered=10))
    for n in range(50):
        with pytest.raises(InvalidPassword):
            await door.authenticate(f"user{n}", "x", "::1")
        roles.verifiers[f"user{n}"] = make_verifier("p", iterations=1)
        await door.authenticate(f"user{n}", "p", "::2")
    assert len(door._failures) <= 11 and len(door._remembered) <= 10
