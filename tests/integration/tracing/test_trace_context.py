"""One trace through gateway, storage and log, as a collector sees it."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from orbit.chassis.nats_server import NatsServer
from orbit.chassis.rpc import RpcServer, open_channel
from orbit.chassis.tracing import FLUSH_TIMEOUT_S, OtlpTracing, trace_metadata, traceparent_of
from services.storage.log.jetstream import JetStreamLog
from tests.fixtures.fix_nats import Connect, application, system
from tests.fixtures.fix_otlp import OtlpReceiver

pytestmark = pytest.mark.integration


async def test_one_trace_spans_grpc_and_the_log(
    otlp_receiver: OtlpReceiver, nats_server: NatsServer, nats_connect: Connect
) -> None:
    gateway, storage = (
        OtlpTracing(service=name, node="n1", endpoint=otlp_receiver.endpoint, sample_ratio=1.0)
        for name in ("gateway", "storage")
    )
    log = await JetStreamLog.open(
        await nats_connect(application(nats_server)), system=await nats_connect(system(nats_server)), region="test"
    )

    async def execute(_request: bytes, context: Any) -> bytes:
        span = storage.child("execute", traceparent_of(context.invocation_metadata()), {"rows": 1})
        append = storage.child("append", span.traceparent)
        log.append(b"record", 0, lambda _outcome: append.end(), append.traceparent)
        span.end()
        return b""

    server = RpcServer(host="127.0.0.1", port=0)
    handler = grpc.unary_unary_rpc_method_handler(execute)
    server.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"execute": handler}),))
    await server.start()
    channel = open_channel(server.address)
    statement = gateway.root("statement")
    await channel.unary_unary("/test/execute")(b"", metadata=trace_metadata(statement.traceparent))
    statement.end()

    async with aclosing(cast(Any, log.read(1))) as reading:
        entry = await anext(reading)
    await gateway.stop()
    await storage.stop()
    spans = [await otlp_receiver.span(name) for name in ("statement", "execute", "append")]
    assert len({span.trace_id for span in spans}) == 1
    assert [span.parent_span_id for span in spans] == [b"", spans[0].span_id, spans[1].span_id]
    assert entry.traceparent == f"00-{spans[0].trace_id.hex()}-{spans[2].span_id.hex()}-01"

    await log.close()
    await channel.close()
    await server.stop()


async def test_an_error_is_on_its_span(otlp_receiver: OtlpReceiver) -> None:
    tracing = OtlpTracing(service="test", node="n1", endpoint=otlp_receiver.endpoint, sample_ratio=1.0)
    tracing.root("fails").end(ValueError("disk full"))
    await tracing.stop()
    span = await otlp_receiver.span("fails")
    assert span.status.code == 2 and span.status.message == "disk full"
    assert {pair.key: pair.value.string_value for pair in span.attributes}["error.type"] == "ValueError"


async def test_a_collector_that_is_away_does_not_delay_the_end() -> None:
    tracing = OtlpTracing(service="test", node="n1", endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=1.0)
    tracing.root("lost").end()
    began = time.monotonic()
    await tracing.stop()
    assert time.monotonic() - began < FLUSH_TIMEOUT_S + 1
