"""Processes of this machine: start one apart from the caller, know it again, end it and nothing else.

Owns no policy. A process is known by its id together with the time it started, so that a reused id is never touched.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.02
KILLED_WITHIN_S = 10.0


class StillRunning(Exception):
    """A process did not end, not even after SIGKILL."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for good. `start_ticks` is its start time as the kernel counts it."""

    pid: int
    start_ticks: int

    def alive(self) -> bool:
        """Return whether this very process runs; one that ended and was not reaped yet does not."""
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.start_ticks and stat[0] not in ("Z", "X")

    def paused(self) -> bool:
        """Return whether it was stopped by a signal, all of its threads included."""
        stat = _stat(self.pid)
        return stat is not None and stat[1] == self.start_ticks and stat[0] == "T"

    def send(self, number: signal.Signals, *, group: bool) -> bool:
        """Send a signal to the process (and all that it started, with `group`). Returns whether it was there."""
        if not self.alive():
            return False
        try:
            if group:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


def _stat(pid: int) -> tuple[str, int] | None:
    """Return (state, start time) of a process, or None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may itself hold some; the state is field 3, the start time field 22.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def start(
    argv: Sequence[str], environment: Mapping[str, str], directory: Path, log: Path
) -> tuple[Identity, subprocess.Popen[bytes]]:
    """Start a process in a session of its own, its output appended to `log`. Raises OSError."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            argv,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stat = _stat(process.pid)
    assert stat is not None, "a child that was not reaped keeps its entry"
    return Identity(process.pid, stat[1]), process


def stop(victims: Iterable[tuple[Identity, signal.Signals, float]]) -> None:
    """End processes together: each gets its signal, and after its grace (seconds) SIGKILL. Raises StillRunning."""
    began = time.monotonic()
    waiting = [(identity, began + grace) for identity, number, grace in victims if identity.send(number, group=False)]
    for identity, _deadline in waiting:
        identity.send(signal.SIGCONT, group=True)  # a paused one could not end
    killed_until: dict[Identity, float] = {}
    while waiting := [(identity, deadline) for identity, deadline in waiting if identity.alive()]:
        now = time.monotonic()
        for identity, deadline in waiting:
            if now >= deadline and identity not in killed_until:
                identity.send(signal.SIGKILL, group=True)
                killed_until[identity] = now + KILLED_WITHIN_S
            elif now >= killed_until.get(identity, now + 1):
                raise StillRunning(f"process {identity.pid} does not end")
        time.sleep(POLL_S)


def tail(log: Path, lines: int, since: int = 0) -> str:
    """Return the last lines of a log, of what was written after the byte `since`."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(since, end - 64 * 1024))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
