"""What every shard log does, on JetStream and on its twin in memory."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from orbit.chassis.nats_server import NatsServer
from services.storage.log.interface import AppendRefused, AppendUnknown, Entry, Log, RecordsTrimmed, SlotTaken
from services.storage.log.jetstream import JetStreamLog
from services.storage.log.memory import Fate, MemoryLog, MemoryStream
from tests.fixtures.fix_nats import Connect, application, system

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
APPEND_TIMEOUT_S = 1.5


class Ground(Protocol):
    """One log, and what a test does to it from outside."""

    async def open(self) -> Log: ...

    async def open_not_durable(self) -> Log: ...

    def stall(self) -> None:
        """From now on appends are not answered; what was sent may still land."""
        ...

    async def resume(self) -> None:
        """End `stall`; returns once what was sent before has landed or lost its place."""
        ...


class MemoryGround:
    def __init__(self, max_bytes: int | None) -> None:
        self.stream = MemoryStream(max_bytes=max_bytes)
        self.stalled = False

    async def open(self) -> Log:
        return MemoryLog(self.stream, fate=lambda _: Fate.LATE if self.stalled else Fate.ANSWERED)

    async def open_not_durable(self) -> Log:
        log = MemoryLog(self.stream)
        log.not_durable = "server does not fsync"
        return log

    def stall(self) -> None:
        self.stalled = True

    async def resume(self) -> None:
        self.stalled = False
        self.stream.land_late()


class JetStreamGround:
    def __init__(self, folder: Path, connect: Connect, max_bytes: int | None) -> None:
        self.server = NatsServer(folder / "nats")
        self.lax = NatsServer(folder / "lax", sync_always=False)
        self.connect = connect
        self.max_bytes = max_bytes
        self.region = "test-" + secrets.token_hex(4)
        self.logs: list[JetStreamLog] = []

    async def _open(self, server: NatsServer) -> JetStreamLog:
        log = await JetStreamLog.open(
            await self.connect(application(server)),
            system=await self.connect(system(server)),
            region=self.region,
            max_bytes=self.max_bytes,
            append_timeout_s=APPEND_TIMEOUT_S,
        )
        self.logs.append(log)
        return log

    async def open(self) -> Log:
        return await self._open(self.server)

    async def open_not_durable(self) -> Log:
        await self.lax.start()
        return await self._open(self.lax)

    def stall(self) -> None:
        assert self.server.pid
        os.kill(self.server.pid, signal.SIGSTOP)

    async def resume(self) -> None:
        assert self.server.pid
        os.kill(self.server.pid, signal.SIGCONT)
        for log in self.logs:
            await log.bounds()


@pytest.fixture(params=["memory", pytest.param("jetstream", marks=pytest.mark.integration)])
async def ground(request: pytest.FixtureRequest, tmp_path: Path, nats_connect: Connect) -> AsyncIterator[Ground]:
    max_bytes = getattr(request.function, "max_bytes", None)
    if request.param == "memory":
        yield MemoryGround(max_bytes)
        return
    jetstream = JetStreamGround(tmp_path, nats_connect, max_bytes)
    await jetstream.server.start()
    yield jetstream
    assert jetstream.server.pid
    os.kill(jetstream.server.pid, signal.SIGCONT)
    for log in jetstream.logs:
        await log.close()
    await jetstream.lax.stop()
    await jetstream.server.stop()


def limited_to(size_bytes: int) -> Callable[[Any], Any]:
    """Gives the test's log a size limit."""

    def mark(test: Any) -> Any:
        test.max_bytes = size_bytes
        return test

    return mark


@pytest.fixture
async def log(ground: Ground) -> AsyncIterator[Log]:
    log = await ground.open()
    yield log
    await log.close()


def start_append(log: Log, data: bytes, expected: int, traceparent: str = "") -> asyncio.Future[int]:
    """Append, and return what becomes of it; a second answer is a test failure."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def done(outcome: int | BaseException) -> None:
        assert not future.done(), "an append was answered twice"
        if isinstance(outcome, int):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    log.append(data, expected, done, traceparent)
    assert not future.done(), "answered from within append"
    return future


async def append(log: Log, data: bytes, expected: int) -> int:
    return await start_append(log, data, expected)


async def fill(log: Log, count: int, start: int = 0) -> None:
    for at in range(start, start + count):
        assert await append(log, b"record %d" % (at + 1), at) == at + 1


async def take(log: Log, from_sequence: int, count: int) -> list[Entry]:
    entries: list[Entry] = []
    async with asyncio.timeout(20), aclosing(cast(Any, log.read(from_sequence))) as reading:
        async for entry in reading:
            entries.append(entry)
            if len(entries) == count:
                break
    return entries


async def test_a_new_log_is_empty(log: Log) -> None:
    assert await log.bounds() == (1, 0)
    assert log.durable() is None


async def test_appends_are_read_back_in_order(log: Log) -> None:
    await fill(log, 20)
    assert await log.bounds() == (1, 20)
    assert await take(log, 1, 20) == [Entry(n, b"record %d" % n) for n in range(1, 21)]


async def test_reading_starts_anywhere(log: Log) -> None:
    await fill(log, 10)
    assert [entry.sequence for entry in await take(log, 7, 4)] == [7, 8, 9, 10]


async def test_any_bytes_survive(log: Log) -> None:
    records = [b"", b"\r\n", b"NATS/1.0 503\r\n\r\n", bytes(range(256)) * 16, secrets.token_bytes(1_000_000)]
    for at, data in enumerate(records):
        await append(log, data, at)
    assert [entry.data for entry in await take(log, 1, len(records))] == records


async def test_a_taken_position_is_refused_and_told(log: Log) -> None:
    await fill(log, 3)
    for expected in (0, 2, 4):
        with pytest.raises(SlotTaken) as caught:
            await append(log, b"late", expected)
        assert caught.value.last_sequence == 3
    assert await log.bounds() == (1, 3)


async def test_two_writers_share_the_positions_between_them(ground: Ground) -> None:
    first, second = await ground.open(), await ground.open()
    for at in range(10):
        outcomes = await asyncio.gather(
            start_append(first, b"first", at), start_append(second, b"second", at), return_exceptions=True
        )
        assert sorted(map(type, outcomes), key=str) == sorted([int, SlotTaken], key=str)
    assert await first.bounds() == (1, 10)


async def test_consecutive_appends_may_be_under_way_together(log: Log) -> None:
    futures = [start_append(log, b"%d" % n, n) for n in range(50)]
    assert await asyncio.gather(*futures) == list(range(1, 51))


async def test_a_reader_waits_at_the_end(ground: Ground, log: Log) -> None:
    await fill(log, 2)
    other = await ground.open()
    reading = cast(Any, other.read(1))
    async with asyncio.timeout(20), aclosing(reading):
        assert [(await anext(reading)).sequence for _ in range(2)] == [1, 2]
        waiting = asyncio.ensure_future(anext(reading))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
        await append(log, b"at last", 2)
        assert await waiting == Entry(3, b"at last")


async def test_a_reader_may_start_past_the_end(log: Log) -> None:
    reading = asyncio.ensure_future(take(log, 3, 1))
    await fill(log, 3)
    assert await reading == [Entry(3, b"record 3")]


async def test_many_records_arrive_once_and_in_order(log: Log) -> None:
    count = 3000
    for start in range(0, count, 500):
        await asyncio.gather(*[start_append(log, b"%d" % n, n) for n in range(start, start + 500)])
    first, second = await asyncio.gather(take(log, 1, count), take(log, count // 2, count // 2))
    assert [entry.sequence for entry in first] == list(range(1, count + 1))
    assert [entry.data for entry in second] == [b"%d" % (n - 1) for n in range(count // 2, count)]


async def test_a_trace_context_travels_with_its_record(log: Log) -> None:
    await start_append(log, b"traced", 0, TRACE)
    await append(log, b"plain", 1)
    assert await take(log, 1, 2) == [Entry(1, b"traced", TRACE), Entry(2, b"plain")]


async def test_trim_forgets_the_beginning_only(log: Log) -> None:
    await fill(log, 10)
    await log.trim(4)
    assert await log.bounds() == (5, 10)
    assert [entry.sequence for entry in await take(log, 5, 6)] == [5, 6, 7, 8, 9, 10]
    await log.trim(2)  # already gone
    assert await log.bounds() == (5, 10)
    await fill(log, 1, start=10)


async def test_a_log_trimmed_to_its_end_goes_on_counting(log: Log) -> None:
    await fill(log, 3)
    await log.trim(3)
    assert await log.bounds() == (4, 3)
    await fill(log, 2, start=3)
    assert await log.bounds() == (4, 5)
    assert [entry.sequence for entry in await take(log, 4, 2)] == [4, 5]


async def test_trim_past_the_end_is_refused(log: Log) -> None:
    await fill(log, 2)
    with pytest.raises(ValueError, match="ends at 2"):
        await log.trim(3)
    assert await log.bounds() == (1, 2)


async def test_reading_what_was_trimmed_says_where_the_log_begins(log: Log) -> None:
    await fill(log, 6)
    await log.trim(4)
    with pytest.raises(RecordsTrimmed) as caught:
        await take(log, 3, 1)
    assert caught.value.first_sequence == 5


@limited_to(2500)
async def test_a_full_log_refuses_and_takes_again_after_a_trim(log: Log) -> None:
    await append(log, bytes(1000), 0)
    await append(log, bytes(1000), 1)
    with pytest.raises(AppendRefused) as caught:
        await append(log, bytes(1000), 2)
    assert caught.value.full
    assert await log.bounds() == (1, 2)
    await log.trim(1)
    assert await append(log, bytes(1000), 2) == 3


async def test_a_log_that_is_not_durable_refuses(ground: Ground) -> None:
    log = await ground.open_not_durable()
    reason = log.durable()
    assert reason is not None and "fsync" in reason
    with pytest.raises(AppendRefused, match="fsync") as caught:
        await append(log, b"x", 0)
    assert not caught.value.full
    assert await log.bounds() == (1, 0)


async def test_silence_is_an_unknown_outcome_and_a_noop_settles_it(ground: Ground, log: Log) -> None:
    """The record of the unanswered append may land after its writer was told; whoever wins the position decides."""
    await fill(log, 1)
    ground.stall()
    unanswered = start_append(log, b"unanswered", 1)
    with pytest.raises(AppendUnknown):
        await asyncio.wait_for(unanswered, 10)
    await ground.resume()
    with pytest.raises(SlotTaken):  # it had been sent, so it was first
        await append(log, b"noop", 1)
    assert await log.bounds() == (1, 2)
    [settled] = await take(log, 2, 1)
    assert settled.data == b"unanswered"
    await fill(log, 1, start=2)


async def test_closing_leaves_no_append_without_an_answer(ground: Ground) -> None:
    log = await ground.open()
    ground.stall()
    pending = [start_append(log, b"%d" % n, n) for n in range(3)]
    await log.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*pending, return_exceptions=True), 10)
    assert [type(outcome) for outcome in outcomes] == [AppendUnknown] * 3
    await ground.resume()
