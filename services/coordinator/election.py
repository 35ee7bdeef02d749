"""One nomination: won by compare-and-set, held under a lease, noticed when lost, given back.

Owns the algorithm for a single nomination key. It only nominates: what a nominee may do is decided by the log, which
issues epochs. The key's create revision names one reign; every later write of the nominee requires it.

A transaction that was not answered may still happen, at any later time. So a candidate recognises its own lease in
the key and adopts what it has won unknowingly, and a nomination of its own that it does not use is taken back as
soon as the view shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from orbit.chassis.etcd import EtcdClient
from orbit.chassis.etcd_nouns import Created, Delete, EtcdError, EtcdUnavailable, Get, LeaseGone, Operation, Put
from services.coordinator.client import NominationLost
from services.coordinator.lease import Lease
from services.coordinator.registration import Registration
from services.coordinator.store import Candidate, encode
from services.coordinator.view import ClusterView, World

_log = structlog.get_logger()

RETRY_S: Final = 0.1
"""Pause after etcd did not answer, or answered what the view does not show yet."""


@dataclass(frozen=True, slots=True)
class Reign:
    """A nomination that was won: under which lease, and the create revision of its key."""

    lease: Lease
    revision: int


class Election:
    """This process's part in the contest for one key."""

    def __init__(
        self, client: EtcdClient, view: ClusterView, registration: Registration, key: str, candidate: str
    ) -> None:
        self.key = key
        self.reign: Reign | None = None
        self._client = client
        self._view = view
        self._registration = registration
        self._value = encode(Candidate(candidate))
        self._campaigning = False
        self._taking_back: asyncio.Task[None] | None = None
        self._given_back = 0

    async def win(self, delay_s: Callable[[World], float]) -> None:
        """Return once nominated. Waits for the key to be vacant, and then `delay_s` more. Cancel to give up."""
        if self._campaigning or self.reign is not None:
            raise RuntimeError(f"{self.key}: already campaigning or nominated")
        self._campaigning = True
        try:
            while self.reign is None:
                lease = await self._registration.lease()
                await self._await_turn(self._vacant_for(lease), delay_s)
                await self._try(lease)
        finally:
            self._campaigning = False
            self._take_back_unused(self._view.world)

    async def publish(self, operations: Sequence[Operation]) -> None:
        """Write as the nominee. Raises NominationLost when the nomination or the lease is gone, or cannot be proven."""
        reign = self.reign
        while reign is not None and self.reign is reign and self._registration.valid():
            try:
                outcome = await self._client.transact((Created(self.key, reign.revision),), operations)
            except LeaseGone:
                break
            except EtcdUnavailable as error:
                _log.warning("nominee cannot write to etcd yet", key=self.key, error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if outcome.succeeded and self.reign is reign and self._registration.valid():
                return
            break
        raise NominationLost(f"not nominated at {self.key}")

    async def resign(self, also: Sequence[Operation] = ()) -> None:
        """Give the nomination back, with the operations that go with it. Does nothing without a nomination."""
        reign, self.reign = self.reign, None
        if reign is None:
            return
        self._given_back = reign.revision
        try:
            await self._client.transact((Created(self.key, reign.revision),), (Delete(self.key), *also))
        except EtcdError as error:
            # The nomination must not outlive its nominee's will to lead: let it go with the lease.
            _log.warning("cannot resign, giving the lease up", key=self.key, error=str(error))
            if self._registration.current() is reign.lease:
                self._registration.abandon("a resignation could not be written")

    async def stop(self) -> None:
        """Forget the nomination; it goes with the lease."""
        self.reign = None
        if self._taking_back is not None:
            self._taking_back.cancel()
            await asyncio.wait((self._taking_back,))

    def seen(self, world: World) -> bool:
        """Look at a new world; return True if it shows that a nomination we held is no longer ours."""
        if self._is_lost(world):
            self.reign = None
            return True
        self._take_back_unused(world)
        return False

    async def _await_turn(self, vacant: Callable[[World], bool], delay_s: Callable[[World], float]) -> None:
        """Return once the key has been vacant for the delay, which is judged anew with each change of the world."""
        loop = asyncio.get_running_loop()
        while True:
            world = await self._view.until(vacant)
            vacant_at = loop.time()
            while vacant(world):
                deadline = vacant_at + delay_s(world)
                if loop.time() >= deadline:
                    return
                try:
                    async with asyncio.timeout_at(deadline):
                        world = await self._view.until(lambda now, then=world: now is not then)  # type: ignore[misc]
                except TimeoutError:
                    return

    def _is_lost(self, world: World) -> bool:
        if self.reign is None or world.revision < self.reign.revision:
            return False
        found = world.entries.get(self.key)
        return found is None or found.create_revision != self.reign.revision

    def _vacant_for(self, lease: Lease) -> Callable[[World], bool]:
        def vacant(world: World) -> bool:
            found = world.entries.get(self.key)
            return found is None or self._adoptable(found.lease, found.create_revision, lease)

        return vacant

    def _adoptable(self, lease_id: int, create_revision: int, lease: Lease) -> bool:
        return lease_id == lease.lease_id and create_revision != self._given_back

    async def _try(self, lease: Lease) -> None:
        try:
            put = Put(self.key, self._value, lease.lease_id)
            outcome = await self._client.transact((Created(self.key, 0),), (put,), (Get(self.key),))
        except LeaseGone:
            await asyncio.sleep(RETRY_S)  # The keeper finds out too, and registers again.
            return
        except EtcdError as error:
            _log.info("cannot campaign yet", key=self.key, error=str(error))
            await asyncio.sleep(RETRY_S)
            return
        revision = outcome.revision
        if not outcome.succeeded:
            found = outcome.reads[0]
            if found is None or not self._adoptable(found.lease, found.create_revision, lease):
                await asyncio.sleep(RETRY_S)
                return
            revision = found.create_revision
        if self._registration.current() is lease and self._registration.valid():
            self.reign = Reign(lease, revision)
            if self._is_lost(self._view.world):
                self.reign = None

    def _take_back_unused(self, world: World) -> None:
        found, lease = world.entries.get(self.key), self._registration.current()
        if found is None or lease is None or found.lease != lease.lease_id:
            return
        if self._campaigning or self.reign is not None or self._taking_back is not None:
            return
        self._taking_back = asyncio.create_task(
            self._take_back(lease, found.create_revision), name="election-take-back"
        )

    async def _take_back(self, lease: Lease, create_revision: int) -> None:
        self._given_back = create_revision
        try:
            await self._client.transact((Created(self.key, create_revision),), (Delete(self.key),))
        except EtcdError as error:
            _log.warning("cannot take a nomination back, giving the lease up", key=self.key, error=str(error))
            if self._registration.current() is lease:
                self._registration.abandon("an unused nomination could not be taken back")
        finally:
            self._taking_back = None
