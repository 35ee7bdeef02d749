"""Processes and ports of this machine: is it still that very process, end it, is a port free.

Owns what /proc and sockets tell. A process is never ended by its pid alone, because pids are given out again: the
start time must match too. Linux only.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from orbit.cli.run_file import Process

_START_TICKS_FIELD = 22  # proc(5), /proc/pid/stat
_STATE_FIELD = 3


def start_ticks(pid: int) -> int | None:
    """Return when the kernel started the process, in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the name in parentheses, may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    if fields[_STATE_FIELD - 3] in ("Z", "X"):
        return None
    return int(fields[_START_TICKS_FIELD - 3])


def is_alive(process: Process) -> bool:
    """Return whether this very process still runs."""
    return start_ticks(process.pid) == process.start_ticks


def spawn(command: Sequence[str], environ: dict[str, str], log: Path) -> int:
    """Start a process that outlives this one, in a session of its own, its output appended to `log`. Return its pid."""
    return os.posix_spawnp(
        command[0],
        list(command),
        environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def exit_code(pid: int) -> int | None:
    """Return how a child of this process ended (negative: the signal that ended it), or None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def uptime_seconds(process: Process) -> float:
    """Return how long it has run."""
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, since_boot - process.start_ticks / os.sysconf("SC_CLK_TCK"))


def end(process: Process, timeout_seconds: float) -> bool:
    """Ask the process to stop and wait; kill it when it has not. Return False when it had to be killed."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        # The descriptor names one process for ever: once the start time matches, no other can be hit.
        if not is_alive(process):
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        if _ended(descriptor, timeout_seconds):
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _ended(descriptor, timeout_seconds)
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)


def _ended(descriptor: int, timeout_seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(timeout_seconds * 1000))


def port_problem(host: str, port: int) -> str | None:
    """Return why a server could not listen there, or None when it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a server that has just ended do not block its port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return os.strerror(error.errno).lower() if error.errno else str(error)
    return None
