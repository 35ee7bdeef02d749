"""Change events on a real NATS server: order, boundaries, restarts, rivals, a full stream."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orbit.chassis.nats import NatsConnection
from orbit.chassis.nats_server import NatsServer
from orbit.kernel.clock import SystemClock
from orbit.kernel.ids import DEFAULT_SHARD
from orbit.kernel.schema import Column, Put
from orbit.kernel.types import Oid, SqlType
from services.cdc.feed import Feed
from services.cdc.service import CdcService, Parts
from services.cdc.sinks.jetstream import End, EventStream, Message, Overtaken, StreamSettings
from services.cdc.sinks.stream import StreamSink
from services.storage.client import read_log
from services.storage.log.jetstream import JetStreamLog
from tests.fixtures.fix_nats import Connect, application
from tests.fixtures.fix_shard import Shard, eventually, make_table

REGION = "local"
TABLE = make_table(1, "t")
OTHER = make_table(2, "other")


@dataclass(slots=True)
class Published:
    """One message of the stream, read back."""

    subject: str
    headers: dict[str, str]
    event: dict[str, Any]

    @property
    def place(self) -> tuple[int, int]:
        return self.event["lsn"], self.event["position"]


class World:
    """A shard on the server, and cdc processes over it."""

    def __init__(self, server: NatsServer, connection: NatsConnection, shard: Shard, folder: Path) -> None:
        self.server = server
        self.connection = connection
        self.shard = shard
        self.folder = folder

    @asynccontextmanager
    async def cdc(
        self, *, bookmark_s: float | None = None, max_bytes: int = 0
    ) -> AsyncIterator[tuple[CdcService, StreamSink]]:
        connection = NatsConnection(application(self.server))
        sink = StreamSink(EventStream(connection, StreamSettings(REGION, max_bytes=max_bytes)))

        async def connect() -> Parts:
            await connection.connect()
            reader = read_log(connection, region=REGION, shard=DEFAULT_SHARD)
            path = None if bookmark_s is None else self.folder / "stream.bookmark"
            return Parts(reader, [Feed(sink, reader, SystemClock(), path, bookmark_s or 0.0)], connection.close)

        service = CdcService(connect)
        await service.start()
        try:
            yield service, sink
        finally:
            await service.stop()

    async def messages(self, count: int) -> list[Published]:
        """Return the stream's messages once there are `count` of them."""
        async with asyncio.timeout(20):
            while await self._last() < count:  # noqa: ASYNC110 - the server does not say
                await asyncio.sleep(0.02)
        return await self.now()

    async def now(self) -> list[Published]:
        """Return all messages of the stream."""
        found: list[Published] = []
        last = await self._last()
        for start in range(1, last + 1, 100):
            numbers = range(start, min(start + 100, last + 1))
            found += await asyncio.gather(*(self._message(number) for number in numbers))
        return found

    async def _last(self) -> int:
        answer = await self._ask(f"$JS.API.STREAM.INFO.ORBIT_CDC_{REGION}")
        last: int = answer.get("state", {}).get("last_seq", 0)
        return last

    async def _message(self, sequence: int) -> Published:
        answer = await self._ask(f"$JS.API.STREAM.MSG.GET.ORBIT_CDC_{REGION}", {"seq": sequence})
        message = answer["message"]
        lines = base64.b64decode(message["hdrs"]).decode().split("\r\n")[1:]
        head = dict(line.split(": ", 1) for line in lines if line)
        return Published(message["subject"], head, json.loads(base64.b64decode(message["data"])))

    async def _ask(self, subject: str, body: Any = None) -> Any:
        reply = await self.connection.request(subject, b"" if body is None else json.dumps(body).encode())
        return json.loads(reply.data)


@pytest.fixture
async def world(nats_server: NatsServer, nats_connect: Connect, tmp_path: Path) -> AsyncIterator[World]:
    connection = await nats_connect(application(nats_server))
    log = await JetStreamLog.open(connection, system=None, region=REGION, durability="relaxed")
    shard = Shard(log)
    await shard.start()
    yield World(nats_server, connection, shard, tmp_path)
    await shard.stop()
    await log.close()


def row(number: int, name: str = "a", price: str | None = "1.50") -> tuple[Any, ...]:
    return number, name, None if price is None else Decimal(price)


async def test_insert_update_delete_appear_in_order_with_before_and_after(world: World) -> None:
    shard = world.shard
    await shard.run(shard.create(TABLE))
    await shard.run(shard.create(OTHER))
    first = await shard.run(shard.insert("t", row(1)), shard.insert("other", row(1)))
    async with world.cdc() as (service, sink):
        await world.messages(4)
        await shard.run(shard.update("t", row(1), row(1, "b")))
        last = await shard.run(shard.delete("t", row(1, "b")))
        found = await world.messages(6)
        await eventually(lambda: service.health()["status"] == "ok" and service.stream_lag_ms() == 0)
        assert sink.published == 6
    image = {"id": 1, "name": "a", "price": "1.50"}
    assert [(one.event["operation"], one.event["table"]) for one in found] == [
        ("schema", "t"),
        ("schema", "other"),
        ("insert", "t"),
        ("insert", "other"),
        ("update", "t"),
        ("delete", "t"),
    ]
    assert [(one.event["before"], one.event["after"]) for one in found[2:]] == [
        (None, image),
        (None, image),
        (image, {**image, "name": "b"}),
        ({**image, "name": "b"}, None),
    ]
    # Both rows of one transaction share its LSN and say how many events it has.
    assert [(one.event["lsn"], one.event["position"], one.event["total"]) for one in found[2:4]] == [
        (first, 0, 2),
        (first, 1, 2),
    ]
    assert found[2].event["transaction"] == found[3].event["transaction"] != found[4].event["transaction"]
    assert found[2].subject == "orbit.cdc.local.public.t" and found[3].subject == "orbit.cdc.local.public.other"
    assert found[5].headers["Nats-Msg-Id"] == f"1-{last}-0" and found[5].headers["Orbit-Lsn"] == str(last)


async def test_stopping_anywhere_and_starting_again_loses_and_doubles_nothing(world: World) -> None:
    """Several thousand events, and a process that is cut off every few milliseconds, in the middle of transactions."""
    shard = world.shard
    await shard.run(shard.create(TABLE))
    for start in range(0, 3000, 750):
        await shard.run(shard.insert("t", *[row(number) for number in range(start, start + 750)]))
    for pause in (0.02, 0.05, 0.03, 0.08, 0.04):
        async with world.cdc():
            await asyncio.sleep(pause)
        await shard.run(shard.insert("t", row(10_000 + int(pause * 1000))))
    async with world.cdc(bookmark_s=0.0):
        found = await world.messages(3006)
        await shard.run(shard.insert("t", row(20_000)))
        found = await world.messages(3007)
        await eventually((world.folder / "stream.bookmark").exists)
    assert len(found) == 3007
    places = [one.place for one in found]
    assert places == sorted(set(places))
    inserted = [one.event["after"]["id"] for one in found if one.event["operation"] == "insert"]
    assert inserted == [*range(3000), 10_020, 10_050, 10_030, 10_080, 10_040, 20_000]
    # And once more, from the bookmark: the catalog is known without the log's beginning.
    async with world.cdc(bookmark_s=0.0) as (_, sink):
        await shard.run(shard.insert("t", row(20_001)))
        assert (await world.messages(3008))[-1].event["after"]["id"] == 20_001
        assert sink.published == 1


async def test_two_processes_together_publish_each_event_once(world: World) -> None:
    shard = world.shard
    await shard.run(shard.create(TABLE))
    async with world.cdc() as (_, one), world.cdc() as (_, two):
        for start in range(0, 400, 20):
            await shard.run(shard.insert("t", *[row(number) for number in range(start, start + 20)]))
            await asyncio.sleep(0.01)
        found = await world.messages(401)
        assert one.published + two.published == 401
    assert [message.event["after"]["id"] for message in found[1:]] == list(range(400))


async def test_a_batch_behind_another_end_is_refused_whole(world: World) -> None:
    """Also when its message ids are new: the expected sequence alone must do."""
    stream = EventStream(world.connection, StreamSettings(REGION))
    await stream.ensure()

    def batch(*names: int) -> list[Message]:
        heads = [f"Nats-Msg-Id: 1-{name}-0\r\nOrbit-Timeline: 1\r\nOrbit-Lsn: {name}\r\n" for name in names]
        rest = "Orbit-Position: 0\r\nOrbit-Total: 1\r\n"
        return [
            Message(b"orbit.cdc.local.s.t", (head + rest).encode(), b"{}", 1, name, 0, 1, 1)
            for name, head in zip(names, heads, strict=True)
        ]

    await stream.publish(batch(1, 2, 3), 0)
    for names, expected in (((4, 5), 2), ((4, 5), 4), ((4,), 2), ((4,), 0)):
        with pytest.raises(Overtaken):
            await stream.publish(batch(*names), expected)
    assert await stream.end() == End(3, 1, (3, 0), True)
    await stream.publish(batch(4), 3)
    assert await stream.end() == End(4, 1, (4, 0), True)


async def test_when_the_publishing_process_ends_the_other_goes_on(world: World) -> None:
    shard = world.shard
    await shard.run(shard.create(TABLE))
    async with world.cdc() as (_, second):
        async with world.cdc():
            await shard.run(shard.insert("t", row(1)))
            await world.messages(2)
        before = second.published
        await shard.run(shard.insert("t", row(2)))
        found = await world.messages(3)
        assert second.published == before + 1
    assert [message.event["after"]["id"] for message in found[1:]] == [1, 2]


async def test_a_load_becomes_inserts_at_its_commit(world: World) -> None:
    shard = world.shard
    async with world.cdc():
        await shard.run(shard.create(TABLE))
        loading = shard.begin()
        await shard.load(loading, "t", [row(number) for number in range(700)], pieces=3)
        await shard.run(shard.insert("t", row(9000)))
        rolled_back = shard.begin()
        await shard.load(rolled_back, "t", [row(8000)], pieces=1)
        shard.engine.rollback(rolled_back)
        loaded = await shard.commit(loading)
        found = await world.messages(702)
    assert found[1].event["after"]["id"] == 9000
    assert [one.event["after"]["id"] for one in found[2:]] == list(range(700))
    assert {one.event["lsn"] for one in found[2:]} == {loaded}
    assert len(await world.now()) == 702


async def test_schema_changes_come_in_line(world: World) -> None:
    shard = world.shard
    wider = msgspec.structs.replace(
        TABLE, columns=(*TABLE.columns, Column(number=4, name="note", type=SqlType(Oid.TEXT))), storage_id=77_777
    )
    async with world.cdc():
        await shard.run(shard.create(TABLE))
        await shard.run(shard.insert("t", row(1)))
        await shard.run(shard.define(Put(wider)), shard.insert("t", (*row(2), "n")))
        await shard.run(shard.drop(wider))
        found = await world.messages(6)
    assert [one.event["operation"] for one in found] == ["schema", "insert", "truncate", "schema", "insert", "schema"]
    assert found[1].event["after"] == {"id": 1, "name": "a", "price": "1.50"}
    assert found[4].event["after"] == {"id": 2, "name": "a", "price": "1.50", "note": "n"}
    assert found[4].event["schema_version"] == found[1].event["schema_version"] + 1


async def test_a_full_stream_makes_cdc_wait_and_nothing_is_lost(world: World) -> None:
    shard = world.shard
    await shard.run(shard.create(TABLE))
    await shard.run(*[shard.insert("t", row(number, "x" * 1000)) for number in range(600)])
    async with world.cdc(max_bytes=200_000) as (service, _):
        await eventually(lambda: "is full" in str(service.health()["feeds"]["stream"]["waiting_for"]))
        assert service.health()["status"] == "waiting" and not service.process_health().healthy
        assert service.stream_lag_ms() > 0
        before = await world.now()
    async with world.cdc(max_bytes=5_000_000) as (service, _):
        found = await world.messages(601)
        await eventually(lambda: service.health()["status"] == "ok")
    assert [one.place for one in found[: len(before)]] == [one.place for one in before]
    assert [one.event["after"]["id"] for one in found[1:]] == list(range(600))


async def test_an_event_too_large_for_a_message_is_told_without_its_images(world: World) -> None:
    shard = world.shard
    async with world.cdc():
        await shard.run(shard.create(TABLE))
        large = row(1, "\x01" * 300_000)
        await shard.run(shard.insert("t", large))
        await shard.run(shard.insert("t", row(2)))
        found = await world.messages(3)
    assert found[1].event["images_omitted"] and found[1].event["after"] is None
    assert found[2].event["after"]["id"] == 2 and not found[2].event["images_omitted"]


async def test_cdc_waits_for_a_log_that_is_not_there_yet(
    nats_server: NatsServer, nats_connect: Connect, tmp_path: Path
) -> None:
    connection = await nats_connect(application(nats_server))
    world = World(nats_server, connection, None, tmp_path)  # type: ignore[arg-type]
    async with world.cdc() as (service, _):
        await eventually(lambda: "stream not found" in str(service.health()["waiting_for"]))
        log = await JetStreamLog.open(connection, system=None, region=REGION, durability="relaxed")
        shard = Shard(log)
        await shard.start()
        await shard.run(shard.create(TABLE))
        assert len(await world.messages(1)) == 1
        await eventually(lambda: service.health()["status"] == "ok")
        await shard.stop()
        await log.close()


async def test_a_restarted_nats_server_is_waited_for(world: World) -> None:
    shard = world.shard
    await shard.run(shard.create(TABLE))
    async with world.cdc() as (service, _):
        await world.messages(1)
        await world.server.stop()
        await eventually(lambda: service.health()["status"] == "waiting")
        await world.server.start()
        await eventually(lambda: world.connection.connected)
        await eventually(lambda: service.health()["status"] == "ok")
        await shard.run(shard.insert("t", row(5)))
        found = await world.messages(2)
        assert [one.event["operation"] for one in found] == ["schema", "insert"]
