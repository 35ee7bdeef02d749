"""Starts and stops lease keepers whose thread is always in the middle of a call.

python -m tests.integration.coordinator.restless ENDPOINT TIMES
"""

from __future__ import annotations

import asyncio
import sys

import structlog

from orbit.chassis.etcd import BlockingEtcdClient, EtcdClient
from orbit.chassis.etcd_nouns import EtcdSettings, Put
from services.coordinator.lease import Lease, LeaseKeeper, boot_time

KEY = "/restless/record"


async def main(endpoint: str, times: int) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    settings = EtcdSettings((endpoint,))
    client = EtcdClient(settings)
    grant = await client.grant(60)
    created = (await client.transact((), (Put(KEY, b"", grant.lease_id),))).revision
    lease = Lease(grant.lease_id, grant.ttl_s, KEY, created)
    for number in range(times):
        keeper = LeaseKeeper(
            BlockingEtcdClient(settings), interval_s=0.0, record=lambda: b"", lost=lambda _lease, _reason: None
        )
        keeper.start()
        keeper.keep(lease, boot_time())
        await asyncio.sleep(number % 10 / 1000)
        await keeper.stop()
        assert not keeper.valid()
    await client.revoke(grant.lease_id)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
