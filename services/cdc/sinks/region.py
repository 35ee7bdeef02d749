"""Committed transactions to another region's storage leader, in order, in batches.

Owns batching, finding the leader there, and going on after a doubt: the target alone knows how far it is, so after
any failure it is asked, and what it has is dropped here. A target that is down is waited for; the log keeps everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import grpc.aio
import structlog

from orbit.kernel import records
from orbit.kernel.errors import NotLeader, OrbitError
from orbit.kernel.ids import DEFAULT_SHARD
from orbit.kernel.origin import Origin
from services.cdc.backlog import Backlog
from services.cdc.sinks.interface import Diverged, StartAgain
from services.cdc.source import Commit, Load
from services.cdc.turns import Turns
from services.storage.client import LogReader, ReplicationTarget, connect_replication, encode_transaction

log = structlog.get_logger(__name__)

BATCH_BYTES: Final = 450_000
"""A batch is one record in the target's log, and that takes 900 kB; a larger transaction goes alone."""
BACKLOG_BYTES: Final = 8 << 20
RETRY_FIRST_S: Final = 0.1
RETRY_LAST_S: Final = 2.0
DIVERGED: Final = "XX001"
DEFAULT_PORTS: Final = {"grpc": 7000, "grpcs": 7000, "http": 80, "https": 443}
SECURE: Final = frozenset({"grpcs", "https"})

OpenChannel = Callable[[str, bool], grpc.aio.Channel]
"""Opens a channel to host:port; with TLS when the second argument says so."""


def parse_target(text: str) -> tuple[str, bool]:
    """Return (host:port, whether TLS) of `host:port` or a grpc, grpcs, http or https URL. Raises ValueError."""
    parts = urlsplit(text if "://" in text else f"grpc://{text}")
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"replication target {text!r} is not host:port or a grpc, grpcs, http or https URL of a host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or DEFAULT_PORTS[parts.scheme]}", parts.scheme in SECURE


@dataclass(frozen=True, slots=True)
class Shipment:
    """One source transaction, encoded. One that changes the catalog or loads rows is a batch of its own."""

    timeline: int
    lsn: int
    time_us: int
    data: bytes
    load: Load | None
    inline_loads: tuple[records.BulkInsert, ...]
    alone: bool


class RegionSink:
    """Implements `Sink` for one target region; `target` is as `parse_target` takes it."""

    def __init__(
        self,
        target: str,
        source_region: str,
        open_channel: OpenChannel,
        log_reader: LogReader,
        *,
        batch_size: int,
        flush_interval_ms: int,
    ) -> None:
        self.name = f"region {target}"
        self.trouble: str | None = None
        self.shipped = 0
        """Transactions that the target has acknowledged to this process."""
        self._address, self._secure = parse_target(target)
        self._source_region = source_region
        self._open_channel = open_channel
        self._log = log_reader
        self._batch_size = batch_size
        self._linger_s = flush_interval_ms / 1000
        self._backlog: Backlog[Shipment] = Backlog(BACKLOG_BYTES)
        self._region = ""
        self._timeline = 0
        self._arrived = 0
        self._leader = ""
        self._connected_to = ""
        self._channel: grpc.aio.Channel | None = None
        self._target: ReplicationTarget | None = None

    @property
    def arrived(self) -> int:
        return self._arrived

    async def begin(self, bookmark_lsn: int) -> int:
        self._backlog = Backlog(BACKLOG_BYTES)
        await self._ask()
        log.info(
            "replicating to region", target=self._address, region=self._region, lsn=self._arrived, leader=self._leader
        )
        return self._arrived

    async def accept(self, commit: Commit, log: LogReader, turns: Turns) -> None:
        if commit.lsn <= self._arrived:
            return
        if self._timeline not in (0, commit.timeline):
            raise Diverged(
                f"region {self._region} has applied timeline {self._timeline}, the log is timeline {commit.timeline}"
            )
        transaction = commit.transaction
        if transaction.origin and Origin.parse(transaction.origin).region == self._region:
            return  # It came from there.
        inline = tuple(effect for effect in transaction.effects if isinstance(effect, records.BulkInsert))
        alone = commit.before is not commit.after or commit.load is not None or bool(inline)
        data = encode_transaction(transaction)
        shipment = Shipment(commit.timeline, commit.lsn, commit.time_us, data, commit.load, inline, alone)
        held = 0 if commit.load is None else commit.load.size_bytes
        await self._backlog.put(shipment, len(data) + held + sum(len(effect.arrow) for effect in inline))

    async def deliver(self) -> None:
        pause = RETRY_FIRST_S
        while True:
            batch = await self._next_batch()
            try:
                await self._send(batch)
            except OrbitError as error:
                if error.sqlstate == DIVERGED:
                    raise Diverged(f"region {self._region}: {error.message}") from error
                self._wait_for(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_LAST_S)
                await self._settle()
            else:
                pause = RETRY_FIRST_S
                self._arrived, self._timeline = batch[-1].lsn, batch[-1].timeline
                self.shipped += len(batch)
                self._backlog.done(len(batch))
                self._go_on()

    async def drained(self) -> None:
        await self._backlog.drained()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = self._target = None

    @property
    def oldest_us(self) -> int | None:
        oldest = self._backlog.oldest
        return None if oldest is None else oldest.time_us

    async def _next_batch(self) -> list[Shipment]:
        oldest = self._backlog.oldest
        linger_s = 0.0 if oldest is not None and oldest.alone else self._linger_s
        batch = await self._backlog.peek(self._batch_size, BATCH_BYTES, linger_s)
        for at, shipment in enumerate(batch):
            if shipment.alone:
                return batch[: max(at, 1)]
        return batch

    async def _send(self, batch: list[Shipment]) -> None:
        if self._target is None:
            raise NotLeader("no node of the target region is known to lead")
        first = batch[0]
        loads: AsyncIterator[records.Effect] | None = None
        if first.load is not None:
            loads = first.load.effects(self._log)
        elif first.inline_loads:
            loads = _each(first.inline_loads)
        data = [shipment.data for shipment in batch]
        await self._target.apply(first.timeline, self._arrived, batch[-1].lsn, loads, data)

    async def _settle(self) -> None:
        """After a failure: ask how far the target is until it tells, and drop what it has."""
        before, pause = self._arrived, RETRY_FIRST_S
        while True:
            try:
                await self._ask()
                break
            except OrbitError as error:
                self._wait_for(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, RETRY_LAST_S)
        if self._arrived < before:
            raise StartAgain(f"region {self._region} has lost what it had applied")
        self._backlog.discard_while(lambda shipment: shipment.lsn <= self._arrived)

    async def _ask(self) -> None:
        """Find the target's leader and its position. Raises OrbitError."""
        try:
            target = await self._connect(self._leader or self._address)
            position = await target.position()
            if not position.leads and position.leader_address not in ("", self._connected_to):
                target = await self._connect(position.leader_address)
                position = await target.position()
        except OrbitError:
            self._leader, self._target = "", None
            raise
        if not position.leads:
            self._leader, self._target = "", None
            raise NotLeader(f"no node leads region {position.region} at the moment")
        self._leader, self._target, self._region = self._connected_to, target, position.region
        self._timeline, self._arrived = position.timeline, position.lsn
        if self._region == self._source_region:
            raise OrbitError(f"replication target {self._address} is this region itself", sqlstate="55000")

    async def _connect(self, address: str) -> ReplicationTarget:
        if self._channel is None or self._connected_to != address:
            await self.close()
            self._channel, self._connected_to = self._open_channel(address, self._secure), address
        return connect_replication(self._channel, DEFAULT_SHARD, self._source_region)

    def _wait_for(self, error: OrbitError) -> None:
        if self.trouble != error.message:
            log.warning("replication waits", target=self._address, reason=error.message, sqlstate=error.sqlstate)
        self.trouble = error.message

    def _go_on(self) -> None:
        if self.trouble is not None:
            log.info("replication goes on", target=self._address, waited_for=self.trouble)
            self.trouble = None


async def _each(loads: tuple[records.BulkInsert, ...]) -> AsyncIterator[records.Effect]:
    for load in loads:
        yield load
