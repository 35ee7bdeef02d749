"""Carries out the planner's actions, each by compare-and-set, and only while this coordinator is the active one.

Owns the writes of the coordinator service. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from orbit.chassis.etcd import EtcdClient
from orbit.chassis.etcd_nouns import Created, Delete, Modified, Operation, Put
from services.coordinator.election import Reign
from services.coordinator.planner import Action
from services.coordinator.store import Candidate, encode
from services.coordinator.view import ClusterView

_log = structlog.get_logger()

CATCH_UP_S: Final = 1.0
"""How long a turn waits to see its own writes before the next turn plans again."""


class SwitchOverRefused(Exception):
    """The node cannot take the shard over, or did not in time; the message says why."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn did: a sentence for each change, and how many found the world changed under them."""

    done: tuple[str, ...]
    conflicts: int


class Reconciler:
    """Writes for one region."""

    def __init__(self, client: EtcdClient, view: ClusterView) -> None:
        self._client = client
        self._view = view

    async def carry_out(self, actions: Sequence[Action], reign: Reign) -> Turn:
        """Try every action, and wait to see what was written. Raises EtcdError; the next turn plans what is left."""
        done: list[str] = []
        conflicts, revision = 0, 0
        ours = Created(self._view.world.keys.active, reign.revision)
        for action in actions:
            update: Operation = Delete(action.key) if action.value is None else Put(action.key, encode(action.value))
            outcome = await self._client.transact((ours, Modified(action.key, action.expected_revision)), (update,))
            if outcome.succeeded:
                done.append(action.sentence)
                revision = outcome.revision
            else:
                conflicts += 1
        if done:
            await self._seen(revision)
        return Turn(tuple(done), conflicts)

    async def switch_over(self, shard: int, node_id: str, timeout_s: float) -> None:
        """Ask the leader to hand the shard over, and wait for it. Raises SwitchOverRefused, EtcdError."""
        world = self._view.world
        record = world.shard(shard)
        if node_id not in world.members():
            raise SwitchOverRefused(f"node {node_id} is not alive")
        if record is None or node_id not in record.value.placement:
            raise SwitchOverRefused(f"node {node_id} holds no replica of shard {shard}")
        wanted = replace(record.value, preferred=node_id)
        outcome = await self._client.transact(
            (Modified(world.keys.shard(shard), record.mod_revision),),
            (
                Put(world.keys.shard(shard), encode(wanted)),
                Put(world.keys.handover(shard), encode(Candidate(node_id))),
            ),
        )
        if not outcome.succeeded:
            raise SwitchOverRefused(f"the plan for shard {shard} has just changed: look and try again")
        _log.info("switch-over requested", shard=shard, to=node_id)
        try:
            async with asyncio.timeout(timeout_s):
                await self._view.until(
                    lambda world: (led := world.leader(shard)) is not None and led.node_id == node_id
                )
        except TimeoutError:
            raise SwitchOverRefused(f"node {node_id} did not take shard {shard} within {timeout_s:g} s") from None

    async def _seen(self, revision: int) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_S):
                await self._view.until(lambda world: world.revision >= revision)
        except TimeoutError:
            _log.info("the view is behind the coordinator's own writes", revision=revision)
