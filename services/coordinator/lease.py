"""The keep-alive of one lease, in a thread of its own, and the proof that the lease still holds.

Owns the thread and the time until which the lease is proven. Does not grant leases and decides nothing about a lost
one: `services.coordinator.registration` does.

The data path's event loop must not delay a keep-alive, so the thread shares nothing with it but two numbers: the
time of the loop's last heartbeat, and the time until which the lease is proven. The thread stops renewing while the
heartbeat is old, so that a hung data path loses its lease.

A lease is proven by two answers in a row: a keep-alive, and then a write (or a linearizable read) of the owner's
record at the same Raft term. The second shows that the server that renewed the lease led etcd when it did: a
deposed etcd leader that has just been resumed renews leases too, for nobody.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from orbit.chassis.etcd import BlockingEtcdClient
from orbit.chassis.etcd_nouns import Created, EtcdError, Get, LeaseGone, Put

_log = structlog.get_logger()

MARGIN_SHARE: Final = 0.1
"""Share of a lease's lifetime that is never relied on: clocks of two machines may run that differently."""

HEARTBEAT_LIMIT_SHARE: Final = 0.5
"""Share of a lease's lifetime after which a loop without a heartbeat no longer has its lease renewed."""

RETRIES_PER_INTERVAL: Final = 4
"""After a failed keep-alive the next one follows sooner, by this factor."""

_NEVER: Final = -math.inf


def boot_time() -> float:
    """Return seconds since boot, including time asleep: a suspended machine must find its lease expired."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def lease_ttl_s(election_timeout_ms: int) -> int:
    """Return the lifetime to ask for: etcd counts whole seconds, so it is rounded up."""
    return max(1, math.ceil(election_timeout_ms / 1000))


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease and the record under it that shows its owner."""

    lease_id: int
    ttl_s: int
    record_key: str
    record_created: int


class LeaseKeeper:
    """Keeps one lease at a time alive. `keep`, `drop`, `beat` and `valid` belong to the event loop."""

    def __init__(
        self,
        client: BlockingEtcdClient,
        *,
        interval_s: float,
        record: Callable[[], bytes],
        lost: Callable[[Lease, str], None],
        now: Callable[[], float] = boot_time,
    ) -> None:
        """`record` is called in the thread; `lost`, on the event loop that calls `start`."""
        self.failures = 0
        """Keep-alives that were not answered in time or refused."""
        self._client = client
        self._interval_s = interval_s
        self._record = record
        self._lost = lost
        self._now = now
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._lease: Lease | None = None
        self._proven_until = _NEVER
        self._beat_at = now()
        self._written: bytes | None = None
        self._late = False
        self._failing = 0
        self._ended: Lease | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread; the lease is no longer renewed. Waits for a call in flight: one round over the endpoints."""
        self.drop()
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def keep(self, lease: Lease, proven_at: float) -> None:
        """Keep this lease from now on; it was granted in answer to a request sent at `proven_at`."""
        with self._lock:
            self._lease = lease
            self._written = None
            self._beat_at = self._now()
            self._proven_until = self._proof_end(lease, proven_at)
        self._wake.set()

    def drop(self) -> Lease | None:
        """Stop relying on the lease, and renewing it; return it."""
        with self._lock:
            lease, self._lease = self._lease, None
            self._proven_until = _NEVER
        return lease

    def beat(self) -> None:
        """Show that the event loop turns, and tell a lease lost that can no longer be proven."""
        self._beat_at = self._now()
        lease = self._lease
        if lease is not None and not self.valid():
            self._tell_lost(lease, "it could not be proven in time")

    def valid(self) -> bool:
        """Return whether the lease surely holds now."""
        return self._now() < self._proven_until

    def _proof_end(self, lease: Lease, sent_at: float) -> float:
        return sent_at + lease.ttl_s * (1 - MARGIN_SHARE)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wait_or_turn()
        finally:
            self._client.close()  # By this thread: closing under a call in flight crashes the process.

    def _wait_or_turn(self) -> None:
        lease = self._lease
        if lease is None or lease is self._ended:
            self._wake.wait()
            self._wake.clear()
            return
        began_at = self._now()
        pause_s = self._interval_s if self._turn(lease) else self._interval_s / RETRIES_PER_INTERVAL
        if not self._stopping:
            self._wake.wait(max(0.0, began_at + pause_s - self._now()))
            self._wake.clear()

    def _turn(self, lease: Lease) -> bool:
        """Renew once; return whether the lease is proven anew."""
        sent_at = self._now()
        if not self._loop_is_alive(lease, sent_at):
            return False
        try:
            renewal = self._client.keep_alive(lease.lease_id)
            term = self._write_record(lease)
        except LeaseGone as error:
            self._report_lost(lease, str(error))
            return False
        except EtcdError as error:
            self._note_failure(lease, error)
            return False
        if term is None:
            self._report_lost(lease, f"its record {lease.record_key} was deleted")
            return False
        if term != renewal.raft_term:
            return False
        with self._lock:
            if self._lease is lease:
                self._proven_until = self._proof_end(lease, sent_at)
        if self._failing:
            _log.info("lease keep-alive works again", lease=f"{lease.lease_id:x}", failures=self._failing)
            self._failing = 0
        return True

    def _note_failure(self, lease: Lease, error: EtcdError) -> None:
        """Count it; an outage is worth one line, not one for each attempt."""
        if self._stopping:
            return
        self.failures += 1
        self._failing += 1
        if self._failing == 1:
            _log.warning("lease keep-alive failed", lease=f"{lease.lease_id:x}", error=str(error))

    def _write_record(self, lease: Lease) -> int | None:
        """Write the record if it has changed, else read it; return the Raft term, or None when it is not ours."""
        record = self._record()
        operation = Get(lease.record_key)
        ours = Created(lease.record_key, lease.record_created)
        if record == self._written:
            outcome = self._client.transact((ours,), (operation,))
        else:
            outcome = self._client.transact((ours,), (Put(lease.record_key, record, lease.lease_id),))
            self._written = record
        return outcome.raft_term if outcome.succeeded else None

    def _loop_is_alive(self, lease: Lease, now: float) -> bool:
        age_s = now - self._beat_at
        late = age_s > lease.ttl_s * HEARTBEAT_LIMIT_SHARE
        if late and not self._late:
            _log.error("event loop is hung, lease is not renewed", age_s=round(age_s, 3))
        self._late = late
        return not late

    def _report_lost(self, lease: Lease, reason: str) -> None:
        assert self._loop is not None
        with self._lock:
            if self._lease is lease:
                self._proven_until = _NEVER
        self._ended = lease
        self._loop.call_soon_threadsafe(self._tell_lost, lease, reason)

    def _tell_lost(self, lease: Lease, reason: str) -> None:
        if self._lease is lease:
            self.drop()
            self._lost(lease, reason)
