"""The connection: what comes back after a break, what does not, and what callers are told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from orbit.chassis.nats import (
    NatsConnection,
    NatsDisconnected,
    NatsOptions,
    NatsTimeout,
    NatsUnreachable,
    NoResponders,
    open_client,
)
from orbit.chassis.nats_server import NatsServer, find_binary
from orbit.chassis.tls import client_context
from tests.fixtures.fix_certificates import Certificates
from tests.fixtures.fix_nats import Connect, application, free_ports

pytestmark = pytest.mark.integration


async def until_state(connection: NatsConnection, wanted: bool) -> None:
    """Wait for a change of the connection to `wanted`."""
    reached = asyncio.Event()
    unwatch = connection.on_state(lambda connected: reached.set() if connected is wanted else None)
    try:
        async with asyncio.timeout(20):
            await reached.wait()
    finally:
        unwatch()


async def test_messages_arrive_with_their_headers(nats_server: NatsServer, nats_connect: Connect) -> None:
    sender, receiver = await nats_connect(application(nats_server)), await nats_connect(application(nats_server))
    got: asyncio.Queue[tuple[bytes, bytes, bytes, bytes]] = asyncio.Queue()
    receiver.subscribe(b"a.*", lambda *message: got.put_nowait(message))
    await receiver.flush()
    headers = b"NATS/1.0\r\nA: 1\r\n\r\n"
    for message in [(b"a.b", b"", b"", b""), (b"a.c", b"r.x", headers, b"x" * 900_000), (b"a.d", b"", b"", b"\r\n")]:
        subject, reply, head, data = message
        sender.publish(subject, data, reply, head)
        assert await asyncio.wait_for(got.get(), 10) == message


async def test_a_request_is_answered_or_fails_with_the_reason(nats_server: NatsServer, nats_connect: Connect) -> None:
    client, service = await nats_connect(application(nats_server)), await nats_connect(application(nats_server))
    service.subscribe(b"echo", lambda _subject, reply, _headers, data: service.publish(reply, data))
    service.subscribe(b"silent", lambda *_: None)
    await service.flush()
    assert (await client.request("echo", b"hello")).data == b"hello"
    with pytest.raises(NoResponders):
        await client.request("nobody")
    with pytest.raises(NatsTimeout, match="silent"):
        await client.request("silent", timeout_s=0.05)


async def test_subscriptions_come_back_after_a_restart(nats_server: NatsServer, nats_connect: Connect) -> None:
    connection = await nats_connect(application(nats_server))
    got: asyncio.Queue[bytes] = asyncio.Queue()
    connection.subscribe(b"kept", lambda _s, _r, _h, data: got.put_nowait(data))
    ended = connection.subscribe(b"ended", lambda _s, _r, _h, data: got.put_nowait(data))
    connection.unsubscribe(ended)

    lost = asyncio.ensure_future(until_state(connection, False))
    await asyncio.sleep(0)
    assert nats_server.pid
    os.kill(nats_server.pid, signal.SIGKILL)
    await nats_server.wait()
    await lost
    with pytest.raises(NatsDisconnected):
        connection.publish(b"kept", b"never sent")
    with pytest.raises(NatsDisconnected):
        await connection.request("anything")

    back = asyncio.ensure_future(until_state(connection, True))
    await nats_server.start()
    await back
    connection.publish(b"ended", b"to nobody")
    connection.publish(b"kept", b"sent after")
    assert await asyncio.wait_for(got.get(), 10) == b"sent after"


async def test_requests_under_way_fail_when_the_connection_breaks(
    nats_server: NatsServer, nats_connect: Connect
) -> None:
    connection = await nats_connect(application(nats_server))
    connection.subscribe(b"silent", lambda *_: None)
    request = asyncio.ensure_future(connection.request("silent", timeout_s=60))
    await asyncio.sleep(0)
    await nats_server.stop()
    with pytest.raises(NatsDisconnected):
        await asyncio.wait_for(request, 10)


async def test_a_server_that_answers_no_ping_is_given_up(nats_server: NatsServer, nats_connect: Connect) -> None:
    options = application(nats_server)
    quick = NatsOptions(options.servers, options.user, options.password, ping_interval_s=0.05)
    connection = await nats_connect(quick)
    lost = asyncio.ensure_future(until_state(connection, False))
    await asyncio.sleep(0)
    assert nats_server.pid
    os.kill(nats_server.pid, signal.SIGSTOP)
    try:
        await lost
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)


async def test_the_next_server_of_the_list_is_taken(nats_server: NatsServer, nats_connect: Connect) -> None:
    options = application(nats_server)
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    several = NatsOptions((dead, *options.servers, dead), options.user, options.password)
    assert (await nats_connect(several)).connected


async def test_no_server_at_all_names_those_that_were_tried() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(NatsUnreachable, match=address):
        await NatsConnection(NatsOptions((address,))).connect(timeout_s=0)
    with pytest.raises(NatsUnreachable, match=address):
        await open_client(NatsOptions((address,), connect_timeout_s=0.3))


async def test_something_else_on_the_port_is_not_taken_for_nats() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        with suppress(OSError):
            await reader.read()
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    with pytest.raises(NatsUnreachable, match="unknown operation"):
        await NatsConnection(NatsOptions((f"127.0.0.1:{port}",))).connect(timeout_s=0)
    other.close()
    await other.wait_closed()


async def test_the_full_client_has_our_login(nats_server: NatsServer) -> None:
    client = await open_client(application(nats_server))
    jetstream = client.jetstream()
    await jetstream.add_stream(name="S", subjects=["s"])
    assert (await jetstream.publish("s", b"x")).seq == 1
    await client.close()


@pytest.fixture
def tls_port(tmp_path: Path, certificates: Certificates) -> Iterator[int]:
    """A server that talks TLS alone, and only to those who show a certificate of its authority."""
    [port] = free_ports(1)
    files = certificates.server
    (tmp_path / "tls.conf").write_text(f"""
listen: "127.0.0.1:{port}"
tls {{
  cert_file: "{files.cert_path}"
  key_file: "{files.key_path}"
  ca_file: "{files.ca_path}"
  verify: true
}}
""")
    process = subprocess.Popen([str(find_binary()), "-c", str(tmp_path / "tls.conf")], stderr=subprocess.DEVNULL)
    yield port
    process.kill()
    process.wait()


async def test_tls_with_certificates_on_both_sides(
    tls_port: int, certificates: Certificates, nats_connect: Connect
) -> None:
    options = NatsOptions((f"127.0.0.1:{tls_port}",), tls=client_context(certificates.client))
    connection = await nats_connect(options)
    got: asyncio.Queue[bytes] = asyncio.Queue()
    connection.subscribe(b"a", lambda _s, _r, _h, data: got.put_nowait(data))
    connection.publish(b"a", b"x" * 500_000)
    assert await asyncio.wait_for(got.get(), 10) == b"x" * 500_000
    client = await open_client(options)
    await client.close()


async def test_tls_is_never_given_up(tls_port: int, certificates: Certificates, nats_connect: Connect) -> None:
    address = f"127.0.0.1:{tls_port}"
    await nats_connect(NatsOptions((address,), tls=client_context(certificates.client)))  # it is up
    with pytest.raises(NatsUnreachable, match="wants TLS"):
        await NatsConnection(NatsOptions((address,))).connect(timeout_s=0)
    stranger = replace(certificates.stranger, ca_path=certificates.server.ca_path)
    for context in (client_context(stranger), client_context()):
        with pytest.raises(NatsUnreachable):
            await NatsConnection(NatsOptions((address,), tls=context)).connect(timeout_s=0)


async def test_a_server_without_tls_is_refused_where_tls_is_configured(
    nats_server: NatsServer, certificates: Certificates
) -> None:
    options = NatsOptions((nats_server.url,), tls=client_context(certificates.client))
    with pytest.raises(NatsUnreachable, match="offers none"):
        await NatsConnection(options).connect(timeout_s=0)
