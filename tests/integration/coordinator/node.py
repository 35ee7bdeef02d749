"""A storage node reduced to its tie to the cluster, as a process that tests may kill and pause.

    python -m tests.integration.coordinator.node ENDPOINTS REGION NODE_ID

Joins, campaigns, announces; after a loss it campaigns again. Prints one JSON object for each event. For as long as
it believes that it leads it checks its lease in a tight loop, as a leader does for each read, and prints the first
check after a gap in time longer than the lease: what a paused leader believes before it does anything else.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import structlog

from orbit.chassis.etcd_nouns import EtcdSettings
from services.coordinator.client import EtcdCoordination, Leader, Member, NominationLost

SHARD = 0


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **fields}), flush=True)


async def main(endpoints: str, region: str, node_id: str) -> None:
    coordination = EtcdCoordination(
        EtcdSettings(tuple(endpoints.split(",")), timeout_s=1.0),
        region=region,
        election_timeout_ms=1000,
        heartbeat_interval_ms=100,
    )
    lost = asyncio.Event()

    def on_lost() -> None:
        say("lost", valid=coordination.lease_valid())
        lost.set()

    coordination.on_lease_lost(on_lost)
    await coordination.start()
    await coordination.join(Member(node_id, "127.0.0.1:1", "127.0.0.1:2", 0, time.time_ns() // 1000))
    epoch = 0
    while True:
        await coordination.campaign(SHARD)
        lost.clear()
        epoch += 1
        try:
            await coordination.announce(Leader(SHARD, node_id, "127.0.0.1:1", epoch))
        except NominationLost:
            continue
        say("leads")
        checked_at = time.monotonic()
        while not lost.is_set():
            now = time.monotonic()
            if now - checked_at > 1.0:
                say("woke", valid=coordination.lease_valid())
            checked_at = now
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(main(*sys.argv[1:]))
