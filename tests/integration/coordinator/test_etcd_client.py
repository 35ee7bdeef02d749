"""The etcd adapter over real servers: transactions, leases, watches, failover, TLS, users and the errors it raises."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orbit.chassis.etcd import BlockingEtcdClient, EtcdClient
from orbit.chassis.etcd_nouns import (
    Changes,
    Created,
    Delete,
    Deleted,
    EtcdDenied,
    EtcdError,
    EtcdRejected,
    EtcdSettings,
    EtcdUnavailable,
    Get,
    Holds,
    Interrupted,
    LeaseGone,
    Listing,
    Modified,
    Put,
    WatchEvent,
)
from tests.fixtures.fix_etcd import EtcdCluster, free_ports, make_etcd

pytestmark = pytest.mark.integration
_prefixes = itertools.count(1)


@pytest.fixture
def prefix() -> str:
    return f"/client-{next(_prefixes)}/"


@pytest.fixture
async def client(etcd: EtcdCluster) -> AsyncIterator[EtcdClient]:
    made = EtcdClient(etcd.settings())
    yield made
    await made.close()


class Watched:
    """A watch that runs by itself."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._events: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(client, prefix))

    async def next(self) -> WatchEvent:
        """Return the next event that tells something."""
        async with asyncio.timeout(10):
            while True:
                event = await self._events.get()
                if not isinstance(event, Changes) or event.events:
                    return event

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _run(self, client: EtcdClient, prefix: str) -> None:
        async for event in client.watch_prefix(prefix):
            self._events.put_nowait(event)


async def test_a_transaction_writes_only_when_every_requirement_holds(client: EtcdClient, prefix: str) -> None:
    a, b = f"{prefix}a", f"{prefix}b"
    first = await client.transact((Created(a, 0),), (Put(a, b"1"), Put(b, b"1")))
    assert first.succeeded
    refused = await client.transact((Holds(a, b"1"), Modified(b, 1)), (Put(a, b"2"),), (Get(a), Get(b), Get(prefix)))
    assert not refused.succeeded
    assert [None if read is None else read.value for read in refused.reads] == [b"1", b"1", None]
    stored = await client.get(a)
    assert stored is not None
    assert (stored.create_revision, stored.mod_revision) == (first.revision, first.revision)
    assert (await client.transact((Modified(a, first.revision),), (Put(a, b"2"), Delete(b)))).succeeded
    assert [(item.key, item.value) for item in (await client.get_prefix(prefix)).items] == [(a, b"2")]


async def test_a_lease_takes_its_keys_with_it(client: EtcdClient, etcd: EtcdCluster, prefix: str) -> None:
    grant = await client.grant(5)
    await client.transact((), (Put(f"{prefix}a", b"1", grant.lease_id),))
    blocking = BlockingEtcdClient(etcd.settings())
    assert await asyncio.to_thread(blocking.keep_alive, grant.lease_id)
    await client.revoke(grant.lease_id)
    assert await client.get(f"{prefix}a") is None
    with pytest.raises(LeaseGone):
        await asyncio.to_thread(blocking.keep_alive, grant.lease_id)
    with pytest.raises(LeaseGone):
        await client.transact((), (Put(f"{prefix}a", b"1", grant.lease_id),))
    with pytest.raises(LeaseGone):
        await client.revoke(grant.lease_id)
    blocking.close()


async def test_a_watch_lists_and_then_tells_every_change_in_order(client: EtcdClient, prefix: str) -> None:
    a, b = f"{prefix}a", f"{prefix}b"
    await client.transact((), (Put(a, b"0"),))
    watched = Watched(client, prefix)
    listing = await watched.next()
    assert isinstance(listing, Listing)
    assert [item.key for item in listing.items] == [a]
    await client.transact((), (Put(a, b"1"),))
    await client.transact((), (Put(b, b"1"), Delete(a)))
    told: list[tuple[str, bytes | None]] = []
    while len(told) < 3:
        changes = await watched.next()
        assert isinstance(changes, Changes)
        told += [(event.key, None if isinstance(event, Deleted) else event.value) for event in changes.events]
    assert told == [(a, b"1"), (b, b"1"), (a, None)]
    await watched.stop()


async def test_a_watch_resumes_behind_the_last_change(etcd_alone: EtcdCluster) -> None:
    client = EtcdClient(etcd_alone.settings())
    await client.transact((), (Put("/w/a", b"0"),))
    watched = Watched(client, "/w/")
    assert isinstance(await watched.next(), Listing)
    etcd_alone.kill()
    assert isinstance(await watched.next(), Interrupted)
    await asyncio.to_thread(etcd_alone.start)
    other = EtcdClient(etcd_alone.settings())
    await other.transact((), (Put("/w/a", b"1"),))
    while isinstance(event := await watched.next(), Interrupted):
        pass
    assert isinstance(event, Changes)
    assert [change.key for change in event.events] == ["/w/a"]
    await watched.stop()
    await client.close()
    await other.close()


async def test_a_watch_lists_anew_where_history_was_compacted(etcd_alone: EtcdCluster) -> None:
    """While the watch's connection is silent, keys change, one goes, and the history is compacted."""
    client, other = EtcdClient(etcd_alone.settings()), EtcdClient(etcd_alone.settings())
    await client.transact((), (Put("/w/a", b"0"), Put("/w/b", b"0")))
    watched = Watched(client, "/w/")
    assert isinstance(await watched.next(), Listing)
    etcd_alone.kill()
    assert isinstance(await watched.next(), Interrupted)
    # The watch must not connect before the history is gone: its server comes back on another port first.
    server = etcd_alone.servers[0]
    (hidden,) = free_ports(1)
    arguments, port = server.arguments, server.client_port
    server.client_port, server.arguments = hidden, [each.replace(f":{port}", f":{hidden}") for each in arguments]
    await asyncio.to_thread(etcd_alone.start)
    behind = EtcdClient(etcd_alone.settings())
    await behind.transact((), (Put("/w/a", b"1"), Delete("/w/b")))
    etcd_alone.compact((await behind.transact((), (Put("/w/c", b"1"),))).revision)
    await behind.close()
    etcd_alone.kill()
    server.client_port, server.arguments = port, arguments
    await asyncio.to_thread(etcd_alone.start)
    while isinstance(event := await watched.next(), Interrupted):
        pass
    assert isinstance(event, Listing)
    assert {item.key: item.value for item in event.items} == {"/w/a": b"1", "/w/c": b"1"}
    await watched.stop()
    await client.close()
    await other.close()


async def test_failover_tries_each_endpoint_and_names_all_that_failed(etcd: EtcdCluster, prefix: str) -> None:
    dead = [f"127.0.0.1:{port}" for port in free_ports(2)]
    client = EtcdClient(EtcdSettings((*dead, etcd.servers[0].endpoint), timeout_s=1.0))
    await client.transact((), (Put(f"{prefix}a", b"1"),))
    await client.close()
    lost = EtcdClient(EtcdSettings(tuple(dead), timeout_s=1.0))
    with pytest.raises(EtcdUnavailable) as raised:
        await lost.connect()
    assert all(endpoint in str(raised.value) for endpoint in dead)
    assert isinstance(raised.value, OSError)
    await lost.close()


async def test_a_host_name_is_resolved(etcd: EtcdCluster) -> None:
    client = EtcdClient(EtcdSettings((f"localhost:{etcd.servers[0].client_port}",)))
    await client.connect()
    await client.close()


async def test_an_oversized_value_is_rejected_not_retried(client: EtcdClient, etcd: EtcdCluster, prefix: str) -> None:
    with pytest.raises(EtcdRejected, match=etcd.servers[0].endpoint):
        await client.transact((), (Put(f"{prefix}a", bytes(4_000_000)),))


async def test_users_and_passwords(etcd_alone: EtcdCluster) -> None:
    endpoint = etcd_alone.servers[0].endpoint
    for path, body in (
        ("auth/user/add", '{"name": "root", "password": "tulip-9"}'),
        ("auth/role/add", '{"name": "root"}'),
        ("auth/user/grant", '{"user": "root", "role": "root"}'),
        ("auth/enable", "{}"),
    ):
        etcd_alone.ask(f"/v3/{path}", body)
    settings = replace(etcd_alone.settings(), user="root", password="tulip-9")
    assert "tulip-9" not in repr(settings)
    client = EtcdClient(settings)
    await client.transact((), (Put("/a", b"1"),))
    watched = Watched(client, "/")
    assert isinstance(await watched.next(), Listing)
    client._connections._token = "expired.1"  # A token that the server no longer knows is replaced.
    assert (await client.get("/a")) is not None
    await watched.stop()
    await client.close()
    blocking = BlockingEtcdClient(settings)
    assert blocking.transact((), (Get("/a"),)).reads[0] is not None
    blocking.close()
    for wrong in (replace(settings, password="rose-1"), etcd_alone.settings()):
        refused = EtcdClient(wrong)
        with pytest.raises(EtcdDenied, match=endpoint) as raised:
            await refused.connect()
        assert "rose-1" not in str(raised.value)
        await refused.close()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate authority, and a certificate for 127.0.0.1 that serves as server and as client."""
    (tmp_path / "san").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    serial = ["-CAcreateserial", "-days", "2", "-extfile", "san"]
    for command in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test ca", "-days", "2"],
        ["req", *key, "-keyout", "etcd.key", "-out", "etcd.csr", "-subj", "/CN=etcd"],
        ["x509", "-req", "-in", "etcd.csr", "-out", "etcd.crt", "-CA", "ca.crt", "-CAkey", "ca.key", *serial],
    ):
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.fixture
def etcd_tls(tmp_path: Path, certificates: Path) -> Iterator[EtcdCluster]:
    cluster = make_etcd(tmp_path, 1)
    server = cluster.servers[0]
    server.arguments = [
        argument.replace("http://", "https://") if "client-urls" in argument else argument
        for argument in server.arguments
    ]
    server.arguments += [f"--cert-file={certificates / 'etcd.crt'}", f"--key-file={certificates / 'etcd.key'}"]
    server.arguments += [f"--trusted-ca-file={certificates / 'ca.crt'}", "--client-cert-auth"]
    server.start()
    yield cluster
    cluster.kill()


async def test_tls_with_client_certificates(etcd_tls: EtcdCluster, certificates: Path) -> None:
    settings = replace(
        etcd_tls.settings(),
        tls=True,
        ca_certificate=(certificates / "ca.crt").read_bytes(),
        certificate=(certificates / "etcd.crt").read_bytes(),
        private_key=(certificates / "etcd.key").read_bytes(),
    )
    assert b"PRIVATE" not in repr(settings).encode()
    client = EtcdClient(settings)
    async with asyncio.timeout(10):
        while True:
            try:
                await client.transact((), (Put("/a", b"1"),))
                break
            except EtcdUnavailable:
                await asyncio.sleep(0.05)  # It is still starting.
    await client.close()
    for wrong in (replace(settings, certificate=None, private_key=None), etcd_tls.settings()):
        refused = EtcdClient(wrong)
        with pytest.raises(EtcdError, match=etcd_tls.servers[0].endpoint):
            await refused.connect()
        await refused.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoints": ()},
        {"user": "root"},
        {"ca_certificate": b"a"},
        {"certificate": b"c", "private_key": b"k"},
        {"tls": True, "ca_certificate": b"a", "certificate": b"c"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="etcd"):
        replace(EtcdSettings(("127.0.0.1:2379",)), **wrong)  # type: ignore[arg-type]


async def test_stopping_under_keep_alives_in_flight_harms_nobody(etcd: EtcdCluster) -> None:
    """Closing a channel under another thread's call crashes the process, once in a thousand times or so."""
    endpoints = etcd.settings().endpoints[0]
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.coordinator.restless", endpoints, "400",
        cwd=Path(__file__).parents[3], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(running.communicate(), 60)
    assert running.returncode == 0, said.decode()[-2000:]
