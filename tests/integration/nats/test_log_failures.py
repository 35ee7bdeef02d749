"""The shard log while servers die, lose their setting or are not what they should be."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

import pytest

from orbit.chassis import nats_server as nats_server_module
from orbit.chassis.nats import open_client
from orbit.chassis.nats_server import NatsServer
from orbit.kernel.errors import LogCorrupt, LogUnavailable
from services.storage.log import jetstream as jetstream_log
from services.storage.log.interface import AppendRefused, AppendUnknown, Log, SlotTaken
from services.storage.log.jetstream import JetStreamLog
from tests.fixtures.fix_nats import Connect, NatsCluster, application, system

pytestmark = pytest.mark.integration


async def open_log(server: NatsServer, connect: Connect, **options: Any) -> JetStreamLog:
    application_connection = await connect(application(server))
    return await JetStreamLog.open(
        application_connection, system=await connect(system(server)), region="test", **options
    )


async def append(log: Log, data: bytes, expected: int) -> int:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def done(outcome: int | BaseException) -> None:
        if isinstance(outcome, int):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    log.append(data, expected, done)
    return await future


async def write_until(log: Log, count: int, progress: Callable[[int], None]) -> dict[int, bytes]:
    """Append until the log holds `count` records, settling each unknown fate by winning its position.

    Returns the acknowledged records.
    """
    acknowledged: dict[int, bytes] = {}
    at = (await log.bounds())[1]
    attempt = 0
    while at < count:
        attempt += 1
        data = b"attempt %d" % attempt
        try:
            at = await append(log, data, at)
            acknowledged[at] = data
            progress(at)
        except SlotTaken as taken:  # the record whose answer was lost
            at = taken.last_sequence
        except (AppendUnknown, AppendRefused):
            await asyncio.sleep(0.01)
    return acknowledged


async def collect(log: Log, count: int) -> list[tuple[int, bytes]]:
    records: list[tuple[int, bytes]] = []
    async with aclosing(cast(Any, log.read(1))) as reading:
        async for entry in reading:
            records.append((entry.sequence, entry.data))
            if len(records) == count:
                break
    return records


async def test_kills_lose_nothing_acknowledged_and_readers_miss_nothing(
    nats_server: NatsServer, nats_connect: Connect
) -> None:
    count, kill_at = 600, {100, 250, 400}
    log = await open_log(nats_server, nats_connect, append_timeout_s=2.0)
    other = await open_log(nats_server, nats_connect)
    following = asyncio.ensure_future(collect(other, count))
    restarts: list[asyncio.Task[None]] = []

    async def restart() -> None:
        assert nats_server.pid
        os.kill(nats_server.pid, signal.SIGKILL)
        await nats_server.wait()
        await nats_server.start()

    def progress(at: int) -> None:
        if at in kill_at:
            kill_at.discard(at)
            restarts.append(asyncio.ensure_future(restart()))

    async with asyncio.timeout(60):
        acknowledged = await write_until(log, count, progress)
        await asyncio.gather(*restarts)
        followed = await following
    assert len(restarts) >= 2
    assert [sequence for sequence, _ in followed] == list(range(1, count + 1))
    assert acknowledged.items() <= dict(followed).items()
    datas = [data for _, data in followed]
    assert len(set(datas)) == len(datas), "a record was sent twice"
    await log.close()
    await other.close()


async def test_a_restart_without_fsync_stops_appends(nats_server: NatsServer, nats_connect: Connect) -> None:
    log = await open_log(nats_server, nats_connect)
    assert log.durable() is None
    await append(log, b"x", 0)
    await nats_server.stop()
    async with asyncio.timeout(20):
        while log.durable() is None:  # noqa: ASYNC110 - the log has no event for this
            await asyncio.sleep(0.01)
    with pytest.raises(AppendRefused, match="not checked yet"):
        await append(log, b"y", 1)
    nats_server._sync_always = False
    await nats_server.start()
    async with asyncio.timeout(20):
        while "fsync" not in (log.durable() or ""):  # noqa: ASYNC110 - the log has no event for this
            await asyncio.sleep(0.01)
    with pytest.raises(AppendRefused, match="sync_interval: always"):
        await append(log, b"y", 1)
    await log.close()


async def test_relaxed_durability_appends_and_says_so(nats_server: NatsServer, nats_connect: Connect) -> None:
    log = await JetStreamLog.open(
        await nats_connect(application(nats_server)), system=None, region="test", durability="relaxed"
    )
    assert "relaxed" in (log.durable() or "")
    assert await append(log, b"x", 0) == 1
    await log.close()


async def test_a_record_larger_than_the_server_takes_is_refused(nats_server: NatsServer, nats_connect: Connect) -> None:
    log = await open_log(nats_server, nats_connect)
    with pytest.raises(AppendRefused, match="max_payload"):
        await append(log, bytes(1 << 20), 0)
    assert await append(log, b"still connected", 0) == 1
    await log.close()


async def test_a_disk_near_its_end_refuses_before_the_server_meets_it(
    nats_server: NatsServer, nats_connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_log, "FULL_CHECK_INTERVAL_S", 0.01)
    log = await open_log(nats_server, nats_connect, full=nats_server.full)
    assert await append(log, b"x", 0) == 1
    monkeypatch.setattr(nats_server_module, "DISK_RESERVE_BYTES", 1 << 60)
    await asyncio.sleep(0.05)
    with pytest.raises(AppendRefused, match="MB are kept free") as caught:
        await append(log, b"x", 1)
    assert caught.value.full
    monkeypatch.undo()
    await asyncio.sleep(0.05)
    assert await append(log, b"x", 1) == 2
    await log.close()


async def test_the_stream_is_named_for_region_and_shard_and_cannot_lose_records(
    nats_server: NatsServer, nats_connect: Connect
) -> None:
    log = await open_log(nats_server, nats_connect, shard=3, max_bytes=1 << 30)
    client = await open_client(application(nats_server))
    info = await client.jetstream().stream_info("ORBIT_LOG_test_3")
    config = info.config
    assert log.name == "ORBIT_LOG_test_3"
    assert config.subjects == ["orbit.log.test.3"]
    assert (config.storage, config.discard, config.retention) == ("file", "new", "limits")
    assert config.deny_delete and not config.deny_purge and not config.max_age
    assert config.max_bytes == 1 << 30
    await log.close()
    await client.close()


async def test_a_stream_that_could_drop_records_is_not_taken_as_a_log(
    nats_server: NatsServer, nats_connect: Connect
) -> None:
    client = await open_client(application(nats_server))
    await client.jetstream().add_stream(name="ORBIT_LOG_test_0", subjects=["orbit.log.test.0"], max_age=60)
    with pytest.raises(LogUnavailable) as caught:
        await open_log(nats_server, nats_connect)
    for setting in ("max_age", "discard", "deny_delete"):
        assert setting in caught.value.message
    await client.close()


async def test_the_size_limit_follows_the_configuration(nats_server: NatsServer, nats_connect: Connect) -> None:
    log = await open_log(nats_server, nats_connect, max_bytes=1 << 20)
    await append(log, b"x", 0)
    await log.close()
    log = await open_log(nats_server, nats_connect, max_bytes=1 << 21)
    client = await open_client(application(nats_server))
    info = await client.jetstream().stream_info(log.name)
    assert info.config.max_bytes == 1 << 21 and info.config.deny_delete
    assert await log.bounds() == (1, 1)
    await log.close()
    await client.close()


async def test_a_reader_of_a_deleted_stream_raises_an_alarm(nats_server: NatsServer, nats_connect: Connect) -> None:
    log = await open_log(nats_server, nats_connect)
    await append(log, b"x", 0)
    reading = asyncio.ensure_future(collect(log, 2))
    client = await open_client(application(nats_server))
    await asyncio.sleep(0.05)
    await client.jetstream().delete_stream(log.name)
    with pytest.raises(LogCorrupt, match="gone"):
        await asyncio.wait_for(reading, 20)
    await log.close()
    await client.close()


async def test_a_missing_record_is_an_alarm_and_not_a_silent_gap(
    nats_server: NatsServer, nats_connect: Connect
) -> None:
    log = await open_log(nats_server, nats_connect)
    for at in range(5):
        await append(log, b"%d" % at, at)
    client = await open_client(application(nats_server))
    jetstream = client.jetstream()
    config = (await jetstream.stream_info(log.name)).config
    await jetstream.delete_stream(log.name)
    config.deny_delete = False
    await jetstream.add_stream(config)
    for at in range(5):
        await append(log, b"%d" % at, at)
    await jetstream.delete_msg(log.name, 3)
    with pytest.raises(LogCorrupt, match="no record 3"):
        await asyncio.wait_for(collect(log, 5), 20)
    await log.close()
    await client.close()


async def open_on_cluster(cluster: NatsCluster, connect: Connect) -> JetStreamLog:
    return await JetStreamLog.open(
        await connect(cluster.options("orbit")),
        system=await connect(cluster.options("system")),
        region="test",
        replicas=3,
        append_timeout_s=2.0,
    )


async def test_one_replica_without_fsync_is_enough_to_refuse(
    nats_cluster: Callable[..., NatsCluster], nats_connect: Connect
) -> None:
    log = await open_on_cluster(nats_cluster(lax=frozenset({"n2"})), nats_connect)
    with pytest.raises(AppendRefused, match="n2 does not fsync"):
        await append(log, b"x", 0)
    await log.close()


async def test_a_killed_stream_leader_stops_appends_for_seconds_and_loses_nothing(
    nats_cluster: Callable[..., NatsCluster], nats_connect: Connect
) -> None:
    cluster = nats_cluster()
    log = await open_on_cluster(cluster, nats_connect)
    reader = await open_on_cluster(cluster, nats_connect)
    count = 300
    following = asyncio.ensure_future(collect(reader, count))
    client = await open_client(cluster.options("orbit"))
    info = await client.jetstream().stream_info(log.name)
    await client.close()
    assert info.cluster and info.cluster.leader
    leader = info.cluster.leader

    def progress(at: int) -> None:
        if at == count // 3:
            cluster.kill(leader)

    async with asyncio.timeout(60):
        acknowledged = await write_until(log, count, progress)
        followed = await following
    assert leader not in cluster.processes
    assert [sequence for sequence, _ in followed] == list(range(1, count + 1))
    assert acknowledged.items() <= dict(followed).items()
    assert log.durable() is None  # two of three answer, and the third was seen to fsync
    await log.close()
    await reader.close()
