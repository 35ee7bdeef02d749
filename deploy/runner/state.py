"""What the runner remembers in its state folder, and what it adds to the run file that other tools read.

    <state>/state.json     the processes that were started: `down` ends exactly these
    <state>/ports.json     the ports once assigned: etcd and others keep their own addresses in their data
    <state>/secrets.env    generated secrets
    <state>/password       the administrator's password alone, which the run file names
    <state>/volumes/..     one folder for each volume
    <state>/services/..    one folder for each instance: rewritten configuration files
    <state>/logs/..        one file for each instance

Owns these formats. Holds no secret outside secrets.env and password; only this user may read any of it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from deploy.runner.interpolate import read_env_file
from deploy.runner.plan import PortKey
from deploy.runner.probe import HttpProbe
from deploy.runner.process import Identity
from orbit.cli.run_file import Process, Run


class ProcessRecord(msgspec.Struct, frozen=True):
    """One process that runs, or ran to its end (`one_shot`)."""

    service: str
    """gateway, storage .. for our own; nats, etcd, minio .. for the others."""
    name: str
    """The instance: the Compose service's name, with a number when it is scaled."""
    node_id: str
    pid: int
    start_ticks: int
    ports: dict[str, int]
    """Loopback port of each container port."""
    log: str
    level: int
    stop_signal: str
    stop_grace_s: float
    one_shot: bool = False
    own: bool = False
    probes: list[HttpProbe] = []
    """How `status` asks for health; empty when only a command would tell."""

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_ticks)


class NotRun(msgspec.Struct, frozen=True):
    """A service of the file that has no process here."""

    service: str
    reason: str


class State(msgspec.Struct, frozen=True):
    """All that `down` and `status` need."""

    processes: list[ProcessRecord]
    not_run: list[NotRun] = []
    run_file: str = ""


class Ports(msgspec.Struct, frozen=True):
    """Assigned ports, by "instance port"."""

    offset: int | None
    ports: dict[str, int]


class ClusterProcess(Process, frozen=True, kw_only=True):
    """A process as the run file shows it; `name` is the instance's."""

    name: str


class ClusterRun(Run, frozen=True, kw_only=True):
    """The run file of a cluster: what every run file says, and what only a cluster has."""

    state_dir: str
    compose_files: list[str]
    not_run: list[NotRun]


class Folder:
    """The state folder of one cluster."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.logs = self.path / "logs"
        self.volumes = self.path / "volumes"
        self.services = self.path / "services"
        self.secrets = self.path / "secrets.env"
        self.password = self.path / "password"
        self._state = self.path / "state.json"
        self._ports = self.path / "ports.json"

    def create(self) -> None:
        """Make the folders; only this user may look inside. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.logs, self.volumes, self.services):
            folder.mkdir(mode=0o700, exist_ok=True)

    def load(self) -> State | None:
        """Return the remembered processes, or None when nothing was started or all was stopped."""
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=State)
        except FileNotFoundError:
            return None

    def save(self, state: State) -> None:
        write(self._state, msgspec.json.format(msgspec.json.encode(state), indent=1))

    def forget(self) -> None:
        self._state.unlink(missing_ok=True)

    def load_ports(self) -> Ports | None:
        try:
            return msgspec.json.decode(self._ports.read_bytes(), type=Ports)
        except FileNotFoundError:
            return None

    def save_ports(self, offset: int | None, ports: Mapping[PortKey, int]) -> None:
        known = {f"{instance} {port}": number for (instance, port), number in ports.items()}
        write(self._ports, msgspec.json.format(msgspec.json.encode(Ports(offset, known)), indent=1))

    def forget_ports(self) -> None:
        self._ports.unlink(missing_ok=True)

    def ensure_secrets(self, wanted: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
        """Return the generated secrets, after adding one for each wanted name that is given nowhere."""
        kept = read_env_file(self.secrets.read_text(), {}) if self.secrets.exists() else {}
        missing = [name for name in wanted if not given.get(name) and name not in kept]
        kept |= {name: secrets.token_hex(16) for name in missing}
        if missing:
            write(self.secrets, "".join(f"{name}={value}\n" for name, value in kept.items()).encode())
        return kept


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step; only this user may read it."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    draft.replace(path)
