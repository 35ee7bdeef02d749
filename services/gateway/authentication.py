"""Checks a user and a password against the role's SCRAM verifier, for doors that receive passwords.

Owns the answer, a short memory of good answers, and the slowing down of bad ones. Redis AUTH and REST basic
authentication use it; PostgreSQL clients run SCRAM itself and never send a password.

A good answer is remembered for `remember_s` under a hash that is keyed with a secret of this process, so that a
request need not pay PBKDF2 each time; a changed password or a dropped role takes effect after at most that time.
A bad answer is given late, later with each one for the same user from the same address, and while it is held
back, further attempts of the pair queue behind it.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from orbit.kernel.clock import Clock
from orbit.kernel.errors import OrbitError
from orbit.kernel.scram import ITERATIONS, SALT_BYTES, Verifier, verify_password
from services.storage.client import Backend, Credentials

NO_SUCH_ROLE: Final = str(Verifier(ITERATIONS, bytes(SALT_BYTES), bytes(32), bytes(32)))
"""Checked for a role that is not there, so that the time of the answer does not tell. No password matches."""


class InvalidPassword(OrbitError):
    """Wrong password, or no such role: the client is not told which."""

    default_sqlstate = "28P01"


@dataclass(frozen=True, slots=True)
class AuthenticationLimits:
    """Times in seconds."""

    remember_s: float = 30.0
    max_remembered: int = 10_000
    first_delay_s: float = 0.1
    max_delay_s: float = 3.0
    forget_failures_s: float = 300.0
    max_failing: int = 10_000
    max_waiting: int = 16
    """Attempts of one user from one address that may queue; the next is refused at once."""
    max_checks: int = 2
    """Passwords that are checked at the same time: each costs milliseconds of a core."""

    def __post_init__(self) -> None:
        assert self.first_delay_s <= self.max_delay_s < self.forget_failures_s


@dataclass(slots=True)
class _Failures:
    """Failed attempts of one user from one address."""

    count: int = 0
    last: float = 0.0
    waiting: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authenticator:
    """One for each gateway process."""

    def __init__(self, backend: Backend, clock: Clock, limits: AuthenticationLimits | None = None) -> None:
        self._backend = backend
        self._clock = clock
        self._limits = limits or AuthenticationLimits()
        self._secret = os.urandom(32)
        self._remembered: OrderedDict[bytes, float] = OrderedDict()
        """Keyed hash of user and password -> monotonic time at which the memory ends."""
        self._roles: OrderedDict[str, tuple[float, Credentials | None]] = OrderedDict()
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()
        self._checks = asyncio.Semaphore(self._limits.max_checks)

    async def authenticate(self, user: str, password: str, address: str) -> None:
        """Return when the password is the user's. Raises InvalidPassword, or what the backend raises.

        `address` is the client's, without its port.
        """
        key = self._key(user, password)
        until = self._remembered.get(key)
        if until is not None:
            if self._clock.monotonic() < until:
                return
            del self._remembered[key]
        failures = self._failures.get((user, address))
        if failures is None:
            failures = self._failures[user, address] = _Failures()
            self._forget()
        if failures.waiting >= self._limits.max_waiting:
            raise InvalidPassword("too many attempts at once")
        failures.waiting += 1
        try:
            async with failures.lock:
                await self._check(user, password, failures)
        finally:
            failures.waiting -= 1
            if not failures.waiting and not failures.count:
                self._failures.pop((user, address), None)
        self._remembered[key] = self._clock.monotonic() + self._limits.remember_s
        if len(self._remembered) > self._limits.max_remembered:
            self._remembered.popitem(last=False)
        failures.count = 0
        if not failures.waiting:
            self._failures.pop((user, address), None)

    async def credentials(self, user: str) -> Credentials | None:
        """Return the role's credentials, at most `remember_s` old."""
        now = self._clock.monotonic()
        known = self._roles.get(user)
        if known is not None and now < known[0]:
            return known[1]
        found = await self._backend.credentials(user)
        self._roles[user] = (now + self._limits.remember_s, found)
        if len(self._roles) > self._limits.max_remembered:
            self._roles.popitem(last=False)
        return found

    async def _check(self, user: str, password: str, failures: _Failures) -> None:
        found = await self._backend.credentials(user)
        usable = found is not None and found.login and found.verifier is not None
        verifier = found.verifier if found is not None and usable and found.verifier is not None else NO_SUCH_ROLE
        async with self._checks:
            matches = await asyncio.to_thread(verify_password, password, verifier)
        if matches and usable:
            return
        failures.count += 1
        failures.last = self._clock.monotonic()
        exponent = min(failures.count - 1, 16)
        await asyncio.sleep(min(self._limits.first_delay_s * (1 << exponent), self._limits.max_delay_s))
        raise InvalidPassword(f'password authentication failed for user "{user}"')

    def _key(self, user: str, password: str) -> bytes:
        name = user.encode("utf-8", "surrogatepass")
        text = len(name).to_bytes(4, "big") + name + password.encode("utf-8", "surrogatepass")
        return blake2b(text, key=self._secret, digest_size=32).digest()

    def _forget(self) -> None:
        """Keep the memory of failures bounded: the old ones go, then the oldest that nobody waits on."""
        horizon = self._clock.monotonic() - self._limits.forget_failures_s
        for pair in list(self._failures)[:2]:
            failures = self._failures[pair]
            old = failures.last < horizon or len(self._failures) > self._limits.max_failing
            if old and failures.count and not failures.waiting:
                del self._failures[pair]
