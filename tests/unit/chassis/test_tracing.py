"""Tracing without a receiver: endpoints, context, and what is not recorded."""

from __future__ import annotations

import subprocess
import sys

import pytest

from orbit.chassis.tracing import DISABLED, OtlpTracing, make_tracing, otlp_endpoint, trace_metadata, traceparent_of

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = TRACE[:-1] + "0"


def tracing(sample_ratio: float = 1.0) -> OtlpTracing:
    return OtlpTracing(service="test", node="n", endpoint="http://127.0.0.1:9/v1/traces", sample_ratio=sample_ratio)


@pytest.mark.parametrize(
    ("configured", "used"),
    [
        ("http://jaeger:14268/api/traces", "http://jaeger:4318/v1/traces"),
        ("http://otel:4318/v1/traces", "http://otel:4318/v1/traces"),
        ("https://collect.example.com/tenant/v1/traces", "https://collect.example.com/tenant/v1/traces"),
        ("http://otel:4318", "http://otel:4318/v1/traces"),
        ("http://[::1]:14268/api/traces", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_endpoint_is_taken_or_mapped_to_otlp(configured: str, used: str) -> None:
    assert otlp_endpoint(configured) == used


@pytest.mark.parametrize("text", ["jaeger:14268", "grpc://jaeger:4317", ""])
def test_what_is_no_http_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an http address"):
        otlp_endpoint(text)


def test_context_travels_as_metadata() -> None:
    assert traceparent_of(trace_metadata(TRACE)) == TRACE
    assert trace_metadata("") == ()
    assert traceparent_of(None) == traceparent_of([("user-agent", "x"), ("traceparent", "garbage")]) == ""


async def test_a_root_names_itself_and_a_child_its_trace() -> None:
    on = tracing()
    root = on.root("statement")
    child = on.child("append", root.traceparent)
    assert root.traceparent[3:35] == child.traceparent[3:35]
    assert root.traceparent[36:52] != child.traceparent[36:52]
    assert on.root("statement", parent=TRACE).traceparent[3:35] == TRACE[3:35]


async def test_what_nobody_sampled_is_not_recorded_further_on() -> None:
    on = tracing()
    for parent in ("", UNSAMPLED, "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"):
        span = on.child("append", parent)
        assert span.traceparent == ""
        span.set("rows", 1)
        span.end(ValueError("x"))
    assert tracing(sample_ratio=0.0).root("statement").traceparent == ""
    assert tracing(sample_ratio=0.0).root("statement", parent=TRACE).traceparent != ""


def test_off_imports_no_sdk() -> None:
    assert make_tracing(enabled=False, service="s", node="n", endpoint="http://x/v1/traces") is DISABLED
    program = """
import sys
from orbit.chassis.tracing import make_tracing
off = make_tracing(enabled=False, service="s", node="n", endpoint="http://x")
assert not off.enabled and off.root("a").traceparent == off.child("a", "b").traceparent == ""
assert not any(name.startswith("opentelemetry") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
