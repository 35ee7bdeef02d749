"""The life of a process: order, signals, deaths, deadlines. Signals are sent to processes of their own."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from orbit.chassis.lifecycle import Process, Steps


class Part:
    def __init__(self, name: str, journal: list[str], *, fail: str = "", hang: bool = False) -> None:
        self.name, self.journal, self.fail, self.hang = name, journal, fail, hang
        self.died = asyncio.Event()

    async def start(self) -> None:
        self.journal.append(f"start {self.name}")
        if self.fail == "start":
            raise OSError("port 5432 is taken")

    async def stop(self) -> None:
        self.journal.append(f"stop {self.name}")
        if self.fail == "stop":
            raise RuntimeError("cannot stop")
        if self.hang:
            await asyncio.Event().wait()

    async def watch(self) -> None:
        await self.died.wait()
        raise ConnectionError("lost its disk")


Make = Callable[..., Process]


@pytest.fixture
def journal() -> list[str]:
    return []


def process(*parts: Part, stop_timeout_s: float = 5.0) -> Process:
    made = Process("test", stop_timeout_s=stop_timeout_s)
    for part in parts:
        made.add(part.name, part, watch=part.watch)
    return made


async def test_parts_stop_in_the_reverse_order_of_their_start(journal: list[str]) -> None:
    made = process(*(Part(name, journal) for name in "abc"))
    assert await made.run(on_started=lambda: made.stop("asked to")) == 0
    assert journal == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_part_that_does_not_start_takes_back_what_did(journal: list[str]) -> None:
    made = process(Part("a", journal), Part("b", journal, fail="start"), Part("c", journal))
    assert await made.run() == 1
    assert journal == ["start a", "start b", "stop b", "stop a"]


async def test_a_part_that_dies_stops_the_process(journal: list[str]) -> None:
    first, second = Part("a", journal), Part("b", journal)
    made = process(first, second)
    assert await asyncio.wait_for(made.run(on_started=first.died.set), 10) == 1
    assert journal[-2:] == ["stop b", "stop a"]


async def test_a_part_that_fails_to_stop_does_not_keep_the_others(journal: list[str]) -> None:
    made = process(Part("a", journal), Part("b", journal, fail="stop"))
    assert await made.run(on_started=lambda: made.stop("asked to")) == 1
    assert journal[-2:] == ["stop b", "stop a"]


async def test_the_deadline_of_a_stop_holds(journal: list[str]) -> None:
    made = process(Part("a", journal, hang=True), stop_timeout_s=0.05)
    assert await asyncio.wait_for(made.run(on_started=lambda: made.stop("asked to")), 10) == 1


async def test_two_functions_make_a_part(journal: list[str]) -> None:
    async def connect(timeout_s: float = 5.0) -> str:
        journal.append(f"connect {timeout_s}")
        return "connected"

    async def close() -> None:
        journal.append("close")

    made = Process("test")
    made.add("connection", Steps(connect, close))
    assert await made.run(on_started=lambda: made.stop("asked to")) == 0
    assert journal == ["connect 5.0", "close"]


PROGRAM = """
import asyncio, gc
from orbit.chassis.lifecycle import Process, Steps, run

class Slow:
    async def start(self): print("starting", flush=True); await asyncio.sleep({start_s})
    async def stop(self): print("stopping", flush=True); await asyncio.sleep({stop_s})

async def main():
    process = Process("test")
    process.add("slow", Slow())
    return await process.run(on_started=lambda: print("started", gc.get_freeze_count() > 0, flush=True))

run(main)
"""


def play(start_s: float, stop_s: float, *moves: tuple[str, signal.Signals]) -> tuple[int, list[str]]:
    """Run the program and send each signal once its line was printed. Returns (exit status, lines)."""
    program = PROGRAM.format(start_s=start_s, stop_s=stop_s)
    lines = []
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout
        waiting = list(moves)
        for line in child.stdout:
            lines.append(line.strip())
            if waiting and lines[-1].startswith(waiting[0][0]):
                child.send_signal(waiting.pop(0)[1])
        return child.wait(20), lines


def test_sigterm_stops_gracefully() -> None:
    status, lines = play(0, 0, ("started", signal.SIGTERM))
    assert status == 0
    assert "started True" in lines and "stopping" in lines
    assert any("signal SIGTERM" in line for line in lines)


def test_a_signal_ends_even_a_start_that_hangs() -> None:
    status, lines = play(60, 0, ("starting", signal.SIGTERM))
    assert status == 0
    assert lines.count("stopping") == 1


def test_a_second_interrupt_leaves_at_once() -> None:
    status, _ = play(0, 60, ("started", signal.SIGINT), ("stopping", signal.SIGINT))
    assert status == 130
