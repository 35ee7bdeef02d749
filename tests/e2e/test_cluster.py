"""The whole deployment of the Compose file, and what its users notice when parts of it are killed: pauses, no loss.

The tests are one story on one cluster and run in their order. Rows sink to S3 within seconds here, so that every
failure below meets moves in progress.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import errors

from deploy.runner import Cluster
from tests.fixtures.fix_cluster import StartCluster
from tests.fixtures.fix_load import Load
from tests.fixtures.waiting import NotYet, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

NODES = ("node-1", "node-2", "node-3")
SETTINGS = {
    "RAFT_ELECTION_TIMEOUT_MS": "3000",
    "RAFT_HEARTBEAT_INTERVAL_MS": "500",
    "HOT_TIER_RETENTION_HOURS": "0.0005",
    "WARM_TIER_RETENTION_DAYS": "0.00005",
    "TIER_MIGRATION_INTERVAL_MS": "500",
}
COLD_ROWS = 2_000

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def deployment(start_cluster: StartCluster) -> Cluster:
    return start_cluster(scale={"gateway": 2}, settings=SETTINGS)


def connect(cluster: Cluster, service: str = "haproxy") -> Connection:
    host, _, port = cluster.address(service, 5432).partition(":")
    return psycopg.connect(
        host=host,
        port=int(port),
        user=cluster.variables["ORBIT_USER"],
        password=cluster.variables["ORBIT_PASSWORD"],
        dbname=cluster.variables["ORBIT_DATABASE"],
        autocommit=True,
        connect_timeout=20,
    )


@pytest.fixture(scope="module")
def load(deployment: Cluster) -> Iterator[Load]:
    load = Load(lambda: connect(deployment), seed=random.randrange(1 << 32))
    load.prepare()
    yield load
    print(f"\n{load.summary()}")


def ask(cluster: Cluster, service: str, path: str) -> dict[str, Any]:
    answer = httpx.get(f"http://{cluster.address(service, 9090)}{path}", timeout=10, trust_env=False)
    found: dict[str, Any] = answer.json()
    return found


def leader(cluster: Cluster) -> str:
    """Return the node that says itself that it leads. Raises NotYet while none does."""
    found = [
        node for node in NODES if cluster.alive(node) and ask(cluster, node, "/cluster/status")["role"] == "leader"
    ]
    assert len(found) <= 1, f"two leaders: {found}"
    if not found:
        raise NotYet("nobody leads")
    return found[0]


def caught_up(cluster: Cluster) -> bool:
    members = ask(cluster, leader(cluster), "/cluster/replication")["members"]
    return len(members) == len(NODES) and all(one["lag_records"] == 0 for one in members)


def healthy_again(cluster: Cluster) -> None:
    eventually(lambda: caught_up(cluster), "one leader and two followers without lag", 60)


def test_every_door_serves_through_the_balancer(deployment: Cluster) -> None:
    with connect(deployment) as connection:
        connection.execute("CREATE TABLE places (id integer PRIMARY KEY, name text)")
        connection.execute("INSERT INTO places VALUES (1, 'here'), (2, 'there')")
    for gateway in ("gateway-1", "gateway-2", "haproxy"):
        with connect(deployment, gateway) as connection:
            assert connection.execute("SELECT name FROM places WHERE id = 2").fetchall() == [("there",)]
    credentials = (deployment.variables["ORBIT_USER"], deployment.variables["ORBIT_PASSWORD"])
    url = f"http://{deployment.address('haproxy', 8080)}"
    answer = httpx.post(f"{url}/sql", json={"sql": "SELECT count(*) FROM places"}, auth=credentials, trust_env=False)
    assert answer.json()["rows"] == [[2]]


def test_the_cluster_describes_itself(deployment: Cluster) -> None:
    eventually(lambda: caught_up(deployment), "followers without lag")
    leading = leader(deployment)
    status = ask(deployment, leading, "/cluster/status")
    assert status["healthy"] is True
    assert status["term"] >= 1
    assert len(status["peers"]) == 2
    replication = ask(deployment, leading, "/cluster/replication")
    assert {one["node"]: one["role"] for one in replication["members"]} == {
        node: "leader" if node == leading else "follower" for node in NODES
    }
    for coordinator in ("coordinator-1", "coordinator-2"):
        assert ask(deployment, coordinator, "/cluster/status")["leader"] == leading


def tier_rows(cluster: Cluster, table: str) -> dict[str, int]:
    for one in ask(cluster, leader(cluster), "/tiers")["tables"]:
        if one["table"] == f"public.{table}":
            return {tier: found["rows"] for tier, found in one["tiers"].items()}
    return {}


def test_rows_sink_to_s3_and_nobody_notices(deployment: Cluster) -> None:
    query = "SELECT id, name, price, at FROM sinking ORDER BY id"
    with connect(deployment) as connection:
        connection.execute(
            "CREATE TABLE sinking (id integer PRIMARY KEY, name text, price numeric(10, 2), at timestamptz)"
        )
        connection.execute(
            "INSERT INTO sinking SELECT n, 'row ' || n, n * 1.25, timestamptz '2024-01-01 00:00:00Z' + n * interval "
            f"'1 minute' FROM generate_series(1, {COLD_ROWS}) AS n"
        )
        before = connection.execute(query).fetchall()
        assert len(before) == COLD_ROWS
        seen: set[str] = set()

        def all_cold() -> bool:
            tiers = tier_rows(deployment, "sinking")
            seen.update(tier for tier, rows in tiers.items() if rows)
            assert connection.execute(query).fetchall() == before, f"another answer while the rows are in {tiers}"
            return tiers.get("cold") == COLD_ROWS

        eventually(all_cold, "every row in the cold tier", 90)
        print(f"\ntiers seen on the way: {sorted(seen)}")
        assert connection.execute(query).fetchall() == before
        connection.execute("UPDATE sinking SET name = 'changed' WHERE id = 7")
        connection.execute("DELETE FROM sinking WHERE id = 8")
        after = [(row[0], "changed" if row[0] == 7 else row[1], *row[2:]) for row in before if row[0] != 8]
        assert connection.execute(query).fetchall() == after


def test_another_program_reads_the_iceberg_table_alone(deployment: Cluster) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    variables = deployment.variables
    database = Path(deployment.description.state_dir) / "volumes" / "catalog-data" / "catalog.db"
    catalog = SqlCatalog(
        "orbit",
        uri=f"sqlite:///{database}",
        **{
            "s3.endpoint": f"http://{deployment.address('minio', 9000)}",
            "s3.access-key-id": variables["AWS_ACCESS_KEY_ID"],
            "s3.secret-access-key": variables["AWS_SECRET_ACCESS_KEY"],
            "s3.region": "us-east-1",
            "s3.force-virtual-addressing": "false",
        },
    )
    found = [
        name for space in catalog.list_namespaces() for name in catalog.list_tables(space) if "sinking" in name[-1]
    ]
    assert len(found) == 1, found
    rows = catalog.load_table(found[0]).scan(selected_fields=("id", "name")).to_arrow().to_pylist()
    assert {row["id"] for row in rows} >= set(range(1, COLD_ROWS + 1)) - {7, 8}
    assert all(row["name"] in (f"row {row['id']}", "changed") for row in rows)


def test_the_leader_is_killed_under_load_and_its_clients_go_on(deployment: Cluster, load: Load) -> None:
    with connect(deployment) as idle, connect(deployment) as writing, connect(deployment) as committing:
        idle.execute("SET application_name = 'idle one'")
        for at, connection in enumerate((writing, committing)):
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO places VALUES ({100 + at}, 'never')")
        load.start()
        load.wait_done(200)
        old = leader(deployment)
        deployment.kill(old)
        with pytest.raises((errors.SerializationFailure, errors.TransactionResolutionUnknown)):
            writing.execute("INSERT INTO places VALUES (102, 'never')")
        with pytest.raises((errors.SerializationFailure, errors.TransactionResolutionUnknown)):
            committing.execute("COMMIT")
        load.wait_done(200)
        assert leader(deployment) != old
        load.stop()
        print(f"\n{load.summary()}")
        assert "closed" not in load.interrupted, f"connections broke: {load.interrupted}"
        load.check()
        writing.execute("ROLLBACK")
        for connection in (writing, committing):
            assert connection.execute("SELECT id FROM places WHERE id >= 100").fetchall() == []
        assert idle.execute("SHOW application_name").fetchone() == ("idle one",)
        assert idle.execute("SELECT count(*) FROM places").fetchone() == (2,)
        assert idle.execute("SELECT count(*) FROM sinking").fetchone() == (COLD_ROWS - 1,)


def test_the_old_leader_comes_back_as_a_follower_and_catches_up(deployment: Cluster, load: Load) -> None:
    [dead] = [node for node in NODES if not deployment.alive(node)]
    deployment.restart(dead)
    healthy_again(deployment)
    assert leader(deployment) != dead
    assert ask(deployment, dead, "/cluster/status")["role"] == "follower"


def test_a_follower_is_killed_and_nobody_notices(deployment: Cluster, load: Load) -> None:
    follower = next(node for node in NODES if node != leader(deployment))
    load.start()
    load.wait_done(50)
    deployment.kill(follower)
    load.wait_done(100)
    load.stop()
    deployment.restart(follower)
    healthy_again(deployment)
    load.check()


def test_a_gateway_is_killed_and_new_connections_go_to_the_other(deployment: Cluster, load: Load) -> None:
    load.reconnects = True
    load.start()
    load.wait_done(50)
    deployment.kill("gateway-1")
    load.wait_done(100)
    load.stop()
    load.reconnects = False
    for _ in range(5):
        with connect(deployment) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    deployment.restart("gateway-1")
    with connect(deployment, "gateway-1") as connection:
        assert connection.execute("SELECT count(*) FROM places").fetchone() == (2,)
    load.check()


def test_the_active_coordinator_is_killed_and_the_other_takes_over(deployment: Cluster, load: Load) -> None:
    active = ask(deployment, leader(deployment), "/cluster/status")["coordinator"]
    [standby] = {"coordinator-1", "coordinator-2"} - {active}
    load.start()
    deployment.kill(active)
    load.wait_done(50)
    load.stop()
    eventually(
        lambda: ask(deployment, standby, "/cluster/status")["coordinator"] == standby, f"{standby} is active", 30
    )
    deployment.restart(active)
    load.check()


@pytest.mark.parametrize("service", ["etcd", "nats"])
def test_one_server_of_three_is_killed_and_the_service_goes_on(deployment: Cluster, load: Load, service: str) -> None:
    load.start()
    load.wait_done(50)
    for number in (1, 2, 3):
        deployment.kill(f"{service}-{number}")
        load.wait_done(50)
        deployment.restart(f"{service}-{number}")
        load.wait_done(50)
    load.stop()
    print(f"\n{load.summary()}")
    load.check()
    healthy_again(deployment)


def test_no_part_met_what_a_person_must_see(deployment: Cluster) -> None:
    found = [
        f"{name}: {line}"
        for name, record in deployment.processes.items()
        if record.own
        for line in deployment.log(name).splitlines()
        if '"level":"error"' in line or '"level":"critical"' in line or not line.startswith("{")
    ]
    assert not found, "\n".join(found)
