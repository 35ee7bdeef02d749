"""What a shard knows of the time of its records: rows must age on a shard that nobody writes to."""

from __future__ import annotations

from services.storage.state import State
from tests.fixtures.fix_storage import StorageNode


async def test_everything_is_old_once_an_idle_shard_is(storage: StorageNode) -> None:
    client = storage.client()
    await client.run("CREATE TABLE t (id int PRIMARY KEY)")
    await client.run("INSERT INTO t VALUES (1)")
    state: State = storage.state
    assert state.lsn_at(state.applied_time_us) == state.applied_lsn
    assert state.lsn_at(state.applied_time_us + 3_600_000_000) == state.applied_lsn
    assert state.lsn_at(state.times[0][1] - 1) == 0
