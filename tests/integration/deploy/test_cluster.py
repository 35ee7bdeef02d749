"""The real Compose file's third parties as processes: quorums form, files reach them, and they can be hurt."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import nats
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from nats.aio.client import Client
from nats.js.api import StreamConfig

from deploy.runner import DEFAULT_FILE, Cluster, RunnerError
from tests.fixtures.fix_cluster import REGIONS_FILE, StartCluster

pytestmark = pytest.mark.integration

THIRD_PARTIES = [
    "nats-1", "nats-2", "nats-3", "etcd-1", "etcd-2", "etcd-3", "minio", "minio-bucket", "haproxy", "prometheus",
]  # fmt: skip


@pytest.fixture(scope="module")
def third_parties(start_cluster: StartCluster) -> Cluster:
    return start_cluster(only=[*THIRD_PARTIES, "grafana"], settings={"S3_BUCKET": "lake"})


async def connect(cluster: Cluster, user: str, password: str, servers: tuple[str, ...]) -> Client:
    async def on_error(error: Exception) -> None:
        """A server that is killed closes connections: the test asserts what matters."""

    return await nats.connect(
        [f"nats://{cluster.address(name, 4222)}" for name in servers],
        user=user,
        password=cluster.variables[password],
        error_cb=on_error,
        allow_reconnect=False,
    )


def get_json(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as response:
        return json.load(response)


async def test_three_nats_replicate_and_survive_one(third_parties: Cluster) -> None:
    storage = await connect(third_parties, "storage", "ORBIT_NATS_STORAGE_PASSWORD", ("nats-1",))
    stream = StreamConfig(name="ORBIT_LOG_test_0", subjects=["orbit.log.test.0"], num_replicas=3)
    async with asyncio.timeout(20):
        info = await storage.jetstream(timeout=15).add_stream(stream)
    assert info.cluster is not None
    leader = info.cluster.leader or ""
    members = {leader, *(peer.name or "" for peer in info.cluster.replicas or [])}
    assert members == {"nats-1", "nats-2", "nats-3"}
    await storage.jetstream().publish("orbit.log.test.0", b"one")
    followers = sorted(members - {leader})
    await storage.close()

    victim, other = followers
    await asyncio.to_thread(third_parties.kill, victim)
    assert not third_parties.alive(victim)
    storage = await connect(third_parties, "storage", "ORBIT_NATS_STORAGE_PASSWORD", (other,))
    acknowledged = await storage.jetstream(timeout=10).publish("orbit.log.test.0", b"two")
    assert acknowledged.seq == 2
    await asyncio.to_thread(third_parties.restart, victim)
    assert third_parties.alive(victim)
    await storage.close()
    again = await connect(third_parties, "storage", "ORBIT_NATS_STORAGE_PASSWORD", (victim,))
    message = await again.jetstream(timeout=10).get_msg("ORBIT_LOG_test_0", 2)
    assert message.data == b"two"
    await again.close()


async def test_only_storage_may_append_and_trim(third_parties: Cluster) -> None:
    everyone = await connect(third_parties, "orbit", "ORBIT_NATS_PASSWORD", ("nats-1",))
    await everyone.jetstream(timeout=10).add_stream(name="ORBIT_CDC_test", subjects=["orbit.cdc.test"])
    with pytest.raises(TimeoutError):
        await everyone.jetstream(timeout=0.5).purge_stream("ORBIT_CDC_test")
    with pytest.raises(TimeoutError):
        await everyone.jetstream(timeout=0.5).publish("orbit.log.test.0", b"forged", timeout=0.5)
    await everyone.close()
    storage = await connect(third_parties, "storage", "ORBIT_NATS_STORAGE_PASSWORD", ("nats-1",))
    assert await storage.jetstream(timeout=10).purge_stream("ORBIT_CDC_test")
    await storage.close()


async def test_every_nats_server_syncs_each_append(third_parties: Cluster) -> None:
    system = await connect(third_parties, "system", "ORBIT_NATS_SYSTEM_PASSWORD", ("nats-2",))
    inbox = system.new_inbox()
    answers = await system.subscribe(inbox)
    await system.publish("$SYS.REQ.SERVER.PING.VARZ", b"", reply=inbox)
    found = {}
    for _ in range(3):
        server = json.loads((await answers.next_msg(timeout=5)).data)
        found[server["server"]["name"]] = server["data"]["jetstream"]["config"]["sync_always"]
    assert found == {"nats-1": True, "nats-2": True, "nats-3": True}
    await system.close()


@pytest.mark.parametrize("password", ["", "wrong"])
async def test_nats_refuses_strangers(third_parties: Cluster, password: str) -> None:
    # Spoken by hand: nats-py leaves the socket of a refused connection open.
    host, _, port = third_parties.address("nats-1", 4222).partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(5):
            assert (await reader.readline()).startswith(b"INFO ")
            login = json.dumps({"user": "orbit", "pass": password, "verbose": False, "pedantic": False})
            writer.write(f"CONNECT {login}\r\nPING\r\n".encode())
            assert await reader.readline() == b"-ERR 'Authorization Violation'\r\n"
            assert await reader.read() == b"", "the server ends the connection"
    finally:
        writer.close()
        await writer.wait_closed()


def test_three_etcd_form_a_quorum_and_survive_their_leader(third_parties: Cluster) -> None:
    names = ("etcd-1", "etcd-2", "etcd-3")
    url = {name: f"http://{third_parties.address(name, 2379)}" for name in names}
    members = get_json(f"{url['etcd-1']}/v3/cluster/member/list", b"{}")["members"]
    assert {member["name"] for member in members} == set(names)
    get_json(f"{url['etcd-1']}/v3/kv/put", b'{"key": "YQ==", "value": "Yg=="}')
    status = {name: get_json(f"{url[name]}/v3/maintenance/status", b"{}") for name in names}
    leader = next(name for name in names if status[name]["header"]["member_id"] == status[name]["leader"])
    third_parties.kill(leader)
    survivor = next(name for name in names if name != leader)
    third_parties.wait_healthy(survivor)
    assert get_json(f"{url[survivor]}/v3/kv/range", b'{"key": "YQ=="}')["kvs"][0]["value"] == "Yg=="
    third_parties.restart(leader)


def test_paused_process_comes_back(third_parties: Cluster) -> None:
    third_parties.kill("etcd-2", signal.SIGSTOP)
    assert third_parties.processes["etcd-2"].identity.paused()
    third_parties.kill("etcd-2", signal.SIGCONT)
    third_parties.wait_healthy("etcd-2")


def s3(cluster: Cluster, access_key: str, secret_key: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=f"http://{cluster.address('minio', 9000)}",
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


def test_object_store_has_the_bucket_and_keeps_it_over_a_kill(third_parties: Cluster) -> None:
    keys = third_parties.variables["AWS_ACCESS_KEY_ID"], third_parties.variables["AWS_SECRET_ACCESS_KEY"]
    client = s3(third_parties, *keys)
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["lake"]
    client.put_object(Bucket="lake", Key="a/b", Body=b"content")
    client.close()
    third_parties.kill("minio")
    third_parties.restart("minio")
    client = s3(third_parties, *keys)
    with client.get_object(Bucket="lake", Key="a/b")["Body"] as body:
        assert body.read() == b"content"
    client.close()
    stranger = s3(third_parties, keys[0], "wrong")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        stranger.list_buckets()
    stranger.close()


def test_prometheus_watches_what_the_file_names(third_parties: Cluster) -> None:
    api = f"http://{third_parties.address('prometheus', 9090)}/api/v1"
    rules = [rule["name"] for group in get_json(f"{api}/rules")["data"]["groups"] for rule in group["rules"]]
    assert "OrbitReplicationLagHigh" in rules
    targets = get_json(f"{api}/targets")["data"]["activeTargets"]
    engine = {
        (target["labels"]["service"], target["discoveredLabels"]["__address__"])
        for target in targets
        if target["labels"]["job"] == "orbit-engine"
    }
    assert ("gateway", third_parties.address("gateway", 9090)) in engine
    assert ("storage", third_parties.address("node-3", 9090)) in engine
    assert {service for service, _ in engine} == {"storage", "gateway", "coordinator", "cdc", "migrator"}


def test_what_cannot_run_is_reported_and_the_run_file_tells_the_rest(third_parties: Cluster) -> None:
    run = third_parties.description
    assert [one.service for one in run.not_run] == ["grafana"]
    run_file = json.loads((Path(run.state_dir) / "run.json").read_text())
    assert run_file["topology"] == "cluster"
    assert run_file["endpoints"]["postgres"] == third_parties.address("haproxy", 5432)
    assert {process["name"] for process in run_file["processes"]} == set(THIRD_PARTIES) - {"minio-bucket"}
    password = Path(run_file["password_file"])
    assert password.read_text().strip() == third_parties.variables["ORBIT_PASSWORD"]
    assert password.stat().st_mode & 0o077 == 0
    for process in run_file["processes"]:
        assert Path(process["log"]).exists()
        assert os.path.exists(f"/proc/{process['pid']}")
    secrets = {value for name, value in third_parties.variables.items() if "PASSWORD" in name and value}
    recorded = (Path(run.state_dir) / "run.json").read_text() + (Path(run.state_dir) / "state.json").read_text()
    assert not [secret for secret in secrets if secret in recorded]


def test_unknown_instance_is_refused(third_parties: Cluster) -> None:
    with pytest.raises(RunnerError, match="there is no instance node-9"):
        third_parties.kill("node-9")


async def test_second_region_joins_as_a_leaf_with_its_own_domain(start_cluster: StartCluster) -> None:
    both = start_cluster(
        files=[DEFAULT_FILE, REGIONS_FILE],
        only=["nats-1", "nats-2", "nats-3", "west-nats", "west-etcd", "west-minio", "west-minio-bucket"],
    )
    leafs = f"http://{both.address('west-nats', 8222)}/leafz"
    async with asyncio.timeout(15):
        while not (await asyncio.to_thread(get_json, leafs))["leafs"]:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.1)
    west = await connect(both, "storage", "ORBIT_NATS_STORAGE_PASSWORD", ("west-nats",))
    account = await west.jetstream(timeout=10).account_info()
    assert account.domain == "west"
    async with asyncio.timeout(15):
        east = await west.jetstream(domain="local", timeout=10).account_info()
    assert east.domain == "local"
    await west.close()
