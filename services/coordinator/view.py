"""The watched view of the cluster: an immutable picture of etcd's keys that follows every change.

Owns `World` (pure) and `ClusterView`, which keeps one up to date from a prefix watch. Writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from orbit.chassis.etcd import EtcdClient
from orbit.chassis.etcd_nouns import Changes, Deleted, EtcdError, EtcdUnavailable, Interrupted, KeyValue, Listing
from services.coordinator.client import Leader, Member
from services.coordinator.store import (
    Candidate,
    ClusterConfig,
    Instance,
    Keys,
    NodeRecord,
    ShardRecord,
    Versioned,
    decode,
)

_log = structlog.get_logger()

RETRY_S: Final = 1.0
"""Pause after etcd has refused the watch, for example while a password is being changed."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything under a region's prefix at one revision."""

    keys: Keys
    revision: int = 0
    entries: Mapping[str, Versioned[Any]] = field(default_factory=dict)

    def listed(self, listing: Listing) -> World:
        """Return the world that a listing describes."""
        return World(self.keys, listing.revision, dict(self._decoded(listing.items)))

    def changed(self, changes: Changes) -> World:
        """Return the world after the changes."""
        entries = dict(self.entries)
        for event in changes.events:
            entries.pop(event.key, None)
            if not isinstance(event, Deleted):
                entries.update(self._decoded((event,)))
        return World(self.keys, changes.revision, entries)

    def members(self) -> dict[str, Member]:
        """Return the live storage nodes by node id, sorted."""
        return {member.node_id: member for member in self._values(f"{self.keys.prefix}members/", Member)}

    def instances(self) -> dict[str, Instance]:
        """Return the live coordinators by instance id, sorted."""
        found = self._values(f"{self.keys.prefix}coordinators/", Instance)
        return {instance.instance_id: instance for instance in found}

    def nodes(self) -> dict[str, Versioned[NodeRecord]]:
        """Return the remembered nodes by node id, sorted."""
        prefix = f"{self.keys.prefix}nodes/"
        return {key.removeprefix(prefix): self.entries[key] for key in sorted(self.entries) if key.startswith(prefix)}

    def leader(self, shard: int) -> Leader | None:
        found: Versioned[Leader] | None = self.entries.get(self.keys.leader(shard))
        return None if found is None else found.value

    def shard(self, shard: int) -> Versioned[ShardRecord] | None:
        return self.entries.get(self.keys.shard(shard))

    def handover(self, shard: int) -> str | None:
        """Return the node that should take the shard over."""
        found: Versioned[Candidate] | None = self.entries.get(self.keys.handover(shard))
        return None if found is None else found.value.node_id

    def active(self) -> str | None:
        """Return the instance id of the active coordinator."""
        found: Versioned[Candidate] | None = self.entries.get(self.keys.active)
        return None if found is None else found.value.node_id

    def config(self) -> Versioned[ClusterConfig] | None:
        return self.entries.get(self.keys.config)

    def _values(self, prefix: str, kind: type[Any]) -> list[Any]:
        return [
            self.entries[key].value
            for key in sorted(self.entries)
            if key.startswith(prefix) and isinstance(self.entries[key].value, kind)
        ]

    def _decoded(self, items: tuple[KeyValue, ...]) -> list[tuple[str, Versioned[Any]]]:
        decoded = []
        for item in items:
            try:
                value = decode(self.keys, item)
            except msgspec.DecodeError as error:
                # Nobody can act on it; a person must look who wrote it. Elections still see the key as taken.
                _log.error("unreadable value in etcd", key=item.key, error=str(error))
                continue
            if value is not None:
                decoded.append((item.key, value))
        return decoded


Subscriber = Callable[[World, World], None]
"""Called with the world before and after a change."""


class ClusterView:
    """Follows one region. `world` is always complete, and old while `connected` is False."""

    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self.world = World(keys)
        self.connected = False
        self._client = client
        self._subscribers: list[Subscriber] = []
        self._listed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float) -> None:
        """Return once the view is complete. Raises EtcdUnavailable, EtcdDenied with the endpoint's name."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                await self._client.connect()
                break
            except EtcdUnavailable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(0.1)
        self._task = asyncio.create_task(self._follow(), name="cluster-view")
        try:
            async with asyncio.timeout_at(max(deadline, asyncio.get_running_loop().time() + 1.0)):
                await self._listed.wait()
        except TimeoutError:
            raise EtcdUnavailable(f"etcd did not list {self.world.keys.prefix} within {timeout_s:g} s") from None

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call back after each change, from the event loop. Returns the unsubscriber."""
        self._subscribers.append(subscriber)
        return lambda: self._subscribers.remove(subscriber) if subscriber in self._subscribers else None

    async def until(self, condition: Callable[[World], bool]) -> World:
        """Return the first world, from now on, that meets the condition."""
        if condition(self.world):
            return self.world
        met: asyncio.Future[World] = asyncio.get_running_loop().create_future()

        def check(_: World, world: World) -> None:
            if not met.done() and condition(world):
                met.set_result(world)

        unsubscribe = self.subscribe(check)
        try:
            return await met
        finally:
            unsubscribe()

    async def _follow(self) -> None:
        prefix = self.world.keys.prefix
        while True:
            try:
                async for event in self._client.watch_prefix(prefix):
                    match event:
                        case Interrupted():
                            self.connected = False
                        case Listing():
                            self.connected = True
                            self._move_to(self.world.listed(event))
                            self._listed.set()
                        case Changes():
                            self.connected = True
                            if event.events:
                                self._move_to(self.world.changed(event))
            except EtcdError as error:
                self.connected = False
                _log.error("etcd refuses the cluster view", prefix=prefix, error=str(error))
                await asyncio.sleep(RETRY_S)

    def _move_to(self, world: World) -> None:
        before, self.world = self.world, world
        for subscriber in tuple(self._subscribers):
            if subscriber in self._subscribers:  # One called earlier may have unsubscribed it.
                subscriber(before, world)
