"""One trace follows a statement of a client through the gateway, the storage service and the log."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.fix_engine import Engine, StartEngine
from tests.fixtures.fix_otlp import OtlpReceiver

pytestmark = pytest.mark.e2e


def write(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute("CREATE TABLE traced (id integer PRIMARY KEY)")
        connection.execute("INSERT INTO traced VALUES (1)")


async def test_a_write_is_one_trace(start_engine: StartEngine, otlp_receiver: OtlpReceiver) -> None:
    settings = {"TRACING_ENABLED": "true", "TRACING_ENDPOINT": otlp_receiver.endpoint}
    engine = await asyncio.to_thread(start_engine, settings)
    await asyncio.to_thread(write, engine)
    append = await otlp_receiver.span("log append")
    assert append.parent_span_id, "an append belongs to the statement that committed"
    async with asyncio.timeout(20):
        while True:
            trace = {span.span_id: span for span in otlp_receiver.spans if span.trace_id == append.trace_id}
            names = []
            at = append
            while at.parent_span_id in trace:
                at = trace[at.parent_span_id]
                names.append(at.name)
            if "gateway request" in names:
                break
            await asyncio.sleep(0.1)
    assert at.name == "gateway request"
    assert not at.parent_span_id
