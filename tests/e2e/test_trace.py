"""One trace follows a statement through gateway, storage and the append to the log, read by an OTLP receiver."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.fixtures.fix_cluster import StartCluster
from tests.fixtures.fix_engine import StartEngine
from tests.fixtures.fix_otlp import OtlpReceiver

pytestmark = pytest.mark.e2e

ON = {"TRACING_ENABLED": "true"}


async def chain(receiver: OtlpReceiver) -> list[Span]:
    """Wait for an append's span; return it with the spans above it, from the root down."""
    below = await receiver.span("log append")
    spans = [below]
    for name in ("storage request", "gateway request"):
        async with asyncio.timeout(20):
            while True:
                found = [span for span in receiver.spans if span.span_id == spans[0].parent_span_id]
                if found:
                    break
                await asyncio.sleep(0.05)
        assert found[0].name == name
        spans.insert(0, found[0])
    return spans


async def test_one_trace_spans_gateway_storage_and_append(
    start_engine: StartEngine, otlp_receiver: OtlpReceiver
) -> None:
    engine = await asyncio.to_thread(start_engine, ON | {"TRACING_ENDPOINT": otlp_receiver.endpoint})
    with engine.connect() as connection:
        connection.execute("CREATE TABLE traced (id integer PRIMARY KEY)")
        connection.execute("INSERT INTO traced VALUES (1)")
    spans = await chain(otlp_receiver)
    assert len({span.trace_id for span in spans}) == 1
    root, storage, append = spans
    assert not root.parent_span_id
    assert root.start_time_unix_nano <= storage.start_time_unix_nano <= append.start_time_unix_nano
    assert append.end_time_unix_nano <= root.end_time_unix_nano
    await asyncio.to_thread(engine.stop)  # before its receiver goes


async def test_the_trace_crosses_processes(start_cluster: StartCluster, otlp_receiver: OtlpReceiver) -> None:
    settings = ON | {"TRACING_ENDPOINT": otlp_receiver.endpoint}
    only = ["nats-1", "nats-2", "nats-3", "etcd-1", "etcd-2", "etcd-3", "minio", "minio-bucket"]
    only += ["node-1", "node-2", "node-3", "gateway"]
    cluster = await asyncio.to_thread(lambda: start_cluster(settings=settings, only=only))
    host, _, port = cluster.address("gateway", 5432).partition(":")

    def write() -> None:
        with psycopg.connect(
            host=host,
            port=int(port),
            user=cluster.variables["ORBIT_USER"],
            password=cluster.variables["ORBIT_PASSWORD"],
            dbname=cluster.variables["ORBIT_DATABASE"],
            autocommit=True,
        ) as connection:
            connection.execute("CREATE TABLE traced (id integer PRIMARY KEY)")

    await asyncio.to_thread(write)
    spans = await chain(otlp_receiver)
    assert len({span.trace_id for span in spans}) == 1
