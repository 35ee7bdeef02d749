"""Two regions from the Compose files: changes become events on JetStream, and the second region serves the rows."""

from __future__ import annotations

import json
from typing import Any

import nats
import psycopg
import pytest
from psycopg import errors

from deploy.runner import DEFAULT_FILE, Cluster
from tests.fixtures.fix_cluster import REGIONS_FILE, StartCluster
from tests.fixtures.waiting import NotYet, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def regions(start_cluster: StartCluster) -> Cluster:
    return start_cluster(files=(DEFAULT_FILE, REGIONS_FILE))


def connect(cluster: Cluster, gateway: str) -> Connection:
    host, _, port = cluster.address(gateway, 5432).partition(":")
    return psycopg.connect(
        host=host,
        port=int(port),
        user=cluster.variables["ORBIT_USER"],
        password=cluster.variables["ORBIT_PASSWORD"],
        dbname=cluster.variables["ORBIT_DATABASE"],
        autocommit=True,
        connect_timeout=20,
    )


def test_the_second_region_receives_and_serves_the_rows(regions: Cluster) -> None:
    with connect(regions, "gateway") as here:
        here.execute("CREATE TABLE orders (id int PRIMARY KEY, item text, price numeric(10,2))")
        here.execute("INSERT INTO orders SELECT i, 'item ' || i, i * 1.25 FROM generate_series(1, 500) i")
        here.execute("UPDATE orders SET item = 'changed' WHERE id = 7")
        here.execute("DELETE FROM orders WHERE id = 8")
        wanted = here.execute("SELECT * FROM orders ORDER BY id").fetchall()

        def arrived() -> Connection:
            there = connect(regions, "west-gateway")
            try:
                if there.execute("SELECT * FROM orders ORDER BY id").fetchall() == wanted:
                    return there
            except errors.UndefinedTable:
                pass
            there.close()
            raise NotYet("the replica has not caught up")

        with eventually(arrived, "the replica serves the rows", timeout_s=60) as there:
            with pytest.raises(errors.ReadOnlySqlTransaction):
                there.execute("INSERT INTO orders VALUES (1000, 'local', 1)")
            assert there.execute("SELECT item FROM orders WHERE id = 7").fetchone() == ("changed",)


def test_a_transaction_larger_than_a_log_record_arrives_whole(regions: Cluster) -> None:
    with connect(regions, "gateway") as here:
        here.execute("CREATE TABLE many (id int PRIMARY KEY, filler text)")
        here.execute("INSERT INTO many SELECT i, repeat('x', 100) || i FROM generate_series(1, 20000) i")
        here.execute("UPDATE many SET filler = filler || '!'")
        wanted = here.execute("SELECT count(*), sum(id), min(filler), max(length(filler)) FROM many").fetchall()

        def arrived() -> bool:
            with connect(regions, "west-gateway") as there:
                try:
                    query = "SELECT count(*), sum(id), min(filler), max(length(filler)) FROM many"
                    return there.execute(query).fetchall() == wanted
                except errors.UndefinedTable:
                    return False

        assert eventually(arrived, "the replica has the large transactions", timeout_s=60)


async def test_changes_are_events_in_commit_order(regions: Cluster) -> None:
    variables = regions.variables
    client = await nats.connect(
        f"nats://{regions.address('nats-1', 4222)}",
        user="orbit",
        password=variables["ORBIT_NATS_PASSWORD"],
        allow_reconnect=False,
    )
    try:
        region = variables.get("ORBIT_REGION") or "local"
        stream = client.jetstream()
        subscription = await stream.subscribe(f"orbit.cdc.{region}.public.orders", ordered_consumer=True)
        found: list[dict[str, Any]] = []
        while len(found) < 503:
            message = await subscription.next_msg(timeout=30)
            found.append(json.loads(message.data))
    finally:
        await client.close()
    assert [event["operation"] for event in found] == ["schema"] + ["insert"] * 500 + ["update", "delete"]
    update, delete = found[-2:]
    assert update["before"]["item"] == "item 7" and update["after"]["item"] == "changed"
    assert delete["before"]["id"] == 8 and delete["after"] is None
    positions = [event["lsn"] for event in found]
    assert positions == sorted(positions)
