"""One process's record in etcd under a kept-alive lease: registered, kept, and registered again after a loss.

Owns the life of the lease: grant, loss, a new one, and giving it back. The keep-alive itself is
`services.coordinator.lease`; what the lease is used for is `services.coordinator.elections`.

After a loss the callbacks run first, on the event loop; only then is a new lease asked for. So no moment exists at
which leadership of the old lease is still believed while `valid` speaks of the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from orbit.chassis.etcd import BlockingEtcdClient, EtcdClient
from orbit.chassis.etcd_nouns import EtcdError, EtcdSettings, LeaseGone, Modified, Put
from services.coordinator.client import NodeIdTaken
from services.coordinator.lease import Lease, LeaseKeeper, boot_time, lease_ttl_s

_log = structlog.get_logger()

BEATS_PER_INTERVAL: Final = 4
"""Heartbeats of the event loop in each keep-alive interval."""

VACANCY_POLL_S: Final = 0.2
"""How often a restarted process looks whether its predecessor's record has gone."""

VACANCY_GRACE_S: Final = 1.0
"""A record that outlives two lifetimes of its lease by this much belongs to a live process."""

RETRY_FIRST_S: Final = 0.1
RETRY_LIMIT_S: Final = 1.0


class Registration:
    """A record that exists in etcd for as long as this process shows life."""

    def __init__(
        self,
        client: EtcdClient,
        settings: EtcdSettings,
        *,
        key: str,
        record: Callable[[], bytes],
        election_timeout_ms: int,
        heartbeat_interval_ms: int,
        lost: Callable[[str], None],
        now: Callable[[], float] = boot_time,
    ) -> None:
        """`record` may be called from any thread. `lost` is called on the event loop with the reason."""
        self._client = client
        self._key = key
        self._record = record
        self._ttl_s = lease_ttl_s(election_timeout_ms)
        self._election_timeout_ms = election_timeout_ms
        self._interval_s = heartbeat_interval_ms / 1000
        self._lost = lost
        self._now = now
        self._held: asyncio.Future[Lease] | None = None
        self._own_leases: set[int] = set()
        self._beat: asyncio.TimerHandle | None = None
        self._again: asyncio.Task[None] | None = None
        self._keeper = LeaseKeeper(
            BlockingEtcdClient(_for_keep_alive(settings, self._interval_s, self._ttl_s)),
            interval_s=self._interval_s,
            record=record,
            lost=self._on_lost,
            now=now,
        )

    @property
    def heartbeat_failures(self) -> int:
        return self._keeper.failures

    async def start(self) -> None:
        """Register. Raises NodeIdTaken when another live process has the key, EtcdError when etcd does not answer."""
        if self._ttl_s * 1000 != self._election_timeout_ms:
            _log.info("lease lifetime rounded up", asked_ms=self._election_timeout_ms, used_s=self._ttl_s)
        self._held = asyncio.get_running_loop().create_future()
        self._keeper.start()
        await self._register()
        self._on_beat()

    async def stop(self) -> None:
        """Give the lease back, and with it every key under it. Also after a `start` that failed."""
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait((self._again,))
        if self._beat is not None:
            self._beat.cancel()
        await self._keeper.stop()
        if self._held is not None and not self._held.done():
            self._held.set_exception(RuntimeError(f"{self._key}: coordination has stopped"))
            self._held.exception()  # Waiters get it; without any, asyncio would complain.
        await self._revoke_own_leases(keep=0)

    @property
    def valid(self) -> Callable[[], bool]:
        """Returns whether the lease surely holds now: cheap, and true to the moment it is called."""
        return self._keeper.valid

    def current(self) -> Lease | None:
        """Return the lease, if there is one that has not been told lost."""
        held = self._held
        return held.result() if held is not None and held.done() and held.exception() is None else None

    async def lease(self) -> Lease:
        """Return the lease, waiting for a new one after a loss."""
        if self._held is None:
            raise RuntimeError(f"{self._key} is not registered: join first")
        return await asyncio.shield(self._held)

    def abandon(self, reason: str) -> None:
        """Give the lease up as if it had been lost, and register again."""
        if (lease := self._keeper.drop()) is not None:
            self._on_lost(lease, reason)

    def _on_beat(self) -> None:
        self._keeper.beat()
        delay_s = self._interval_s / BEATS_PER_INTERVAL
        self._beat = asyncio.get_running_loop().call_later(delay_s, self._on_beat)

    def _on_lost(self, lease: Lease, reason: str) -> None:
        _log.warning("lease lost", key=self._key, lease=f"{lease.lease_id:x}", reason=reason)
        loop = asyncio.get_running_loop()
        self._held = loop.create_future()
        if self._again is not None:
            self._again.cancel()  # It may still be ending older leases: the next registration does that too.
        self._lost(reason)
        self._again = loop.create_task(self._register_again(), name="register-again")

    async def _register_again(self) -> None:
        pause_s = RETRY_FIRST_S
        told = False
        while True:
            try:
                await self._register()
                _log.info("registered again", key=self._key)
                return
            except NodeIdTaken as error:
                _log.error("cannot register again", key=self._key, error=str(error))
            except EtcdError as error:
                if not told:
                    _log.warning("cannot register yet", key=self._key, error=str(error))
                    told = True
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_LIMIT_S)

    async def _register(self) -> None:
        """Take a lease and put the record under it; then end this process's older leases."""
        assert self._held is not None
        while True:
            modified = await self._vacant()
            sent_at = self._now()
            grant = await self._client.grant(self._ttl_s)
            self._own_leases.add(grant.lease_id)
            put = Put(self._key, self._record(), grant.lease_id)
            outcome = await self._client.transact((Modified(self._key, modified),), (put,))
            if outcome.succeeded:
                break
        stored = await self._client.get(self._key)
        if stored is None or stored.lease != grant.lease_id:
            raise LeaseGone(f"etcd: record {self._key} has gone again")
        lease = Lease(grant.lease_id, grant.ttl_s, self._key, stored.create_revision)
        self._keeper.keep(lease, sent_at)
        self._held.set_result(lease)
        await self._revoke_own_leases(keep=grant.lease_id)

    async def _vacant(self) -> int:
        """Return the revision at which the key may be overwritten, once no other process holds it."""
        deadline: float | None = None
        while True:
            stored = await self._client.get(self._key)
            if stored is None:
                return 0
            if stored.lease in self._own_leases:
                return stored.mod_revision
            if deadline is None:
                # A process of this name that has just died keeps its key until its lease ends.
                deadline = self._now() + 2 * self._ttl_s + VACANCY_GRACE_S
                _log.info("waiting for the lease of an earlier process to end", key=self._key)
            if self._now() > deadline:
                raise NodeIdTaken(f"{self._key} is kept alive by another process: node ids must differ")
            await asyncio.sleep(VACANCY_POLL_S)

    async def _revoke_own_leases(self, keep: int) -> None:
        """End this process's older leases, so that nobody waits for what was nominated under them."""
        for lease_id in sorted(self._own_leases - {keep}):
            try:
                await self._client.revoke(lease_id)
            except LeaseGone:
                pass
            except EtcdError as error:
                # It ends by itself; a later registration tries again.
                _log.warning("cannot revoke a lease", lease=f"{lease_id:x}", error=str(error))
                continue
            self._own_leases.discard(lease_id)


def _for_keep_alive(settings: EtcdSettings, interval_s: float, ttl_s: int) -> EtcdSettings:
    """Return settings whose attempts are short enough to try several endpoints within a lease."""
    return replace(settings, timeout_s=min(settings.timeout_s, max(0.1, min(interval_s, ttl_s / 4))))
