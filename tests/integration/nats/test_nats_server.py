"""The child server: one per data directory, whoever dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orbit.chassis.nats import NatsConnection, NatsUnreachable
from orbit.chassis.nats_server import DataDirectoryLocked, NatsServer, NatsServerFailed, PortTaken
from tests.fixtures.fix_nats import Connect, application, system

pytestmark = pytest.mark.integration

PARENT = """
import asyncio, sys
from pathlib import Path
from orbit.chassis.nats_server import NatsServer

async def main():
    server = NatsServer(Path(sys.argv[1]))
    await server.start()
    sys.stdout.write(f"{server.pid}\\n")
    sys.stdout.flush()
    await server.wait()

asyncio.run(main())
"""


def start_parent(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a process that runs a server on the folder; return it and the server's pid."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert parent.stdout
    with parent.stdout:
        for line in parent.stdout:
            if line.strip().isdigit():
                return parent, int(line)
    raise AssertionError("the parent said nothing")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_it_syncs_each_write_and_keeps_to_loopback(nats_server: NatsServer, nats_connect: Connect) -> None:
    connection = await nats_connect(system(nats_server))
    reply = await connection.request("$SYS.REQ.SERVER.PING.VARZ")
    varz = json.loads(reply.data)["data"]
    assert varz["jetstream"]["config"]["sync_always"] is True
    assert varz["host"] == "127.0.0.1"
    assert varz["max_payload"] == 1 << 20


async def test_only_its_logins_get_in_and_the_file_with_them_is_private(nats_server: NatsServer) -> None:
    options = application(nats_server)
    wrong = NatsConnection(type(options)(options.servers, options.user, "guess"))
    with pytest.raises(NatsUnreachable, match="Authorization Violation"):
        await wrong.connect(timeout_s=0)
    assert (nats_server.data_dir / "server.conf").stat().st_mode & 0o077 == 0
    assert options.password not in repr(options) and options.password not in repr(nats_server.application)


async def test_a_second_server_on_the_directory_is_refused(nats_server: NatsServer) -> None:
    second = NatsServer(nats_server.data_dir, lock_wait_s=0.1)
    with pytest.raises(DataDirectoryLocked) as caught:
        await second.start()
    assert str(nats_server.data_dir) in str(caught.value)
    assert str(nats_server.pid) in str(caught.value)


async def test_a_taken_port_is_named(nats_server: NatsServer, tmp_path: Path) -> None:
    second = NatsServer(tmp_path / "second", port=nats_server.port)
    with pytest.raises(PortTaken, match=str(nats_server.port)):
        await second.start()
    assert second.pid is None
    free = NatsServer(tmp_path / "second")  # its lock was given back
    await free.start()
    await free.stop()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("not a folder")
    with pytest.raises(NatsServerFailed, match="not a directory"):
        await NatsServer(tmp_path).start()


async def test_its_death_is_told_and_it_can_start_again(nats_server: NatsServer, nats_connect: Connect) -> None:
    dead = asyncio.ensure_future(nats_server.wait())
    port = nats_server.port
    assert nats_server.pid
    os.kill(nats_server.pid, signal.SIGKILL)
    assert await asyncio.wait_for(dead, 10) == -signal.SIGKILL
    await nats_server.start()
    assert nats_server.port == port
    assert (await nats_connect(application(nats_server))).connected


async def test_stop_ends_it_gracefully_and_twice_does_no_harm(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    await server.start()
    pid = server.pid
    assert pid
    await server.stop()
    await server.stop()
    assert not alive(pid)
    assert "Server Exiting" in (tmp_path / "server.log").read_text()


async def test_a_killed_parent_takes_its_server_along(tmp_path: Path) -> None:
    parent, child = start_parent(tmp_path)
    parent.kill()
    parent.wait()
    server = NatsServer(tmp_path)
    await server.start()  # waits for the lock, which the dying child still holds
    assert not alive(child)
    await server.stop()


async def test_a_server_that_outlives_its_parent_keeps_the_directory(tmp_path: Path) -> None:
    """Were it not for the inherited lock, a frozen server and a new one would write to the same store."""
    parent, child = start_parent(tmp_path)
    os.kill(child, signal.SIGSTOP)  # it cannot follow its parent now
    parent.kill()
    parent.wait()
    try:
        with pytest.raises(DataDirectoryLocked, match=str(child)):
            await NatsServer(tmp_path, lock_wait_s=0.2).start()
    finally:
        os.kill(child, signal.SIGCONT)
    server = NatsServer(tmp_path)
    await server.start()
    assert not alive(child)
    await server.stop()
