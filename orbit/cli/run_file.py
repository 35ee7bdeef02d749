"""`.orbit/run.json`: what was started, where it answers and where its password is kept.

Owns the file's shape, for everything that starts the engine (`orbit up`, `make cluster`) and everything that needs to
find it (`orbit status`, `orbit sql`, tests, scripts). Owns no process: `process` does.

    {"topology": "single", "started_at": "2025-01-18T10:00:00+00:00",
     "processes": [{"service": "engine", "node_id": "node-1", "pid": 4711, "start_ticks": 123456,
                    "ports": {"postgres": 5432, "redis": 6379, "rest": 8080, "metrics": 9090},
                    "log": "/.../.orbit/log/engine.log"}],
     "endpoints": {"postgres": "127.0.0.1:5432", "redis": "127.0.0.1:6379",
                   "rest": "http://127.0.0.1:8080", "operations": "http://127.0.0.1:9090"},
     "user": "orbit", "database": "orbit", "password_file": "/.../.orbit/password"}
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

STATE_DIR_VARIABLE = "ORBIT_STATE_DIR"


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process that was started."""

    service: str
    node_id: str
    pid: int
    start_ticks: int
    """When the kernel started it, in clock ticks since boot: with the pid, it names this very process."""
    ports: dict[str, int]
    log: str


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """Where a client reaches the whole: host:port for the two wire protocols, URLs for the two HTTP ones."""

    postgres: str
    redis: str
    rest: str
    operations: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One start of the engine or the cluster."""

    topology: Literal["single", "cluster"]
    started_at: str
    processes: list[Process]
    endpoints: Endpoints
    user: str
    database: str
    password_file: str
    """Empty when the data directory was made elsewhere and its password is not known here."""


class RunFileBroken(Exception):
    """The file is there but cannot be read; the message names it."""


class StateFolder:
    """The folder `.orbit`: run.json, the password, logs, and the lock that lets one command at a time change them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.password_file = path / "password"
        self.log_folder = path / "log"
        self.lock_file = path / "lock"

    @classmethod
    def of(cls, environ: dict[str, str]) -> StateFolder:
        """Return the folder that ORBIT_STATE_DIR names, or `.orbit` in the checkout."""
        return cls(Path(environ.get(STATE_DIR_VARIABLE) or ROOT / ".orbit").absolute())

    def read(self) -> Run | None:
        """Return what runs by the file, or None without one. Raises RunFileBroken."""
        try:
            return msgspec.json.decode(self.run_file.read_bytes(), type=Run)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise RunFileBroken(f"{self.run_file} cannot be read: {error}") from error

    def write(self, run: Run) -> None:
        """Replace the file in one step, so that no reader ever sees half of it."""
        beside = self.run_file.with_suffix(".json.new")
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
        beside.replace(self.run_file)

    def remove(self) -> None:
        self.run_file.unlink(missing_ok=True)

    def read_password(self) -> str | None:
        try:
            return self.password_file.read_text().rstrip("\n")
        except FileNotFoundError:
            return None

    def write_password(self, password: str) -> None:
        """Keep the password in a file that only its owner can read, from its first byte on."""
        self.password_file.unlink(missing_ok=True)
        descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(password + "\n")
