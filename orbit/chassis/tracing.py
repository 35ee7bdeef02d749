"""Traces: spans that follow a statement through gateway, storage and log.

Owns the OpenTelemetry SDK, the exporter and the carrying of context. Context is the W3C `traceparent` text, passed
on explicitly: the hot paths are callbacks, so there is no "current" span. It travels as gRPC metadata and as a header
of log records under that same name.

Off costs one attribute check: callers ask `tracing.enabled` before they do anything. A statement that was not
sampled has an empty traceparent, and children of an empty traceparent cost nothing either.

Endpoint: spans go as OTLP over HTTP. A URL whose path ends in /v1/traces is used as it is. Any other, such as
Jaeger's older http://jaeger:14268/api/traces, names the host only: we send to http://jaeger:4318/v1/traces, the OTLP
port that Jaeger has had since 1.35.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit

import structlog

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as SdkSpan
    from opentelemetry.trace import Tracer

log = structlog.get_logger(__name__)

TRACEPARENT: Final = "traceparent"
OTLP_PORT: Final = 4318
OTLP_PATH: Final = "/v1/traces"
FLUSH_TIMEOUT_S: Final = 3.0
EXPORT_TIMEOUT_S: Final = 5.0
MAX_QUEUED_SPANS: Final = 8192
"""Past it spans are dropped: tracing never slows the engine down."""

Attribute = str | int | float | bool

_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Span(Protocol):
    """One timed piece of work."""

    traceparent: str
    """What children and other processes name as their parent; empty when nothing is recorded."""

    def set(self, name: str, value: Attribute) -> None: ...

    def end(self, error: BaseException | None = None) -> None:
        """Finish the span, as failed when there is an error. Call exactly once."""
        ...


class Tracing(Protocol):
    """What a service gets: `DISABLED`, or an `OtlpTracing`."""

    enabled: bool

    def root(self, name: str, attributes: Mapping[str, Attribute] | None = None, parent: str = "") -> Span:
        """Start a trace, sampled by the configured ratio; or join the caller's, if it brought a traceparent."""
        ...

    def child(self, name: str, parent: str, attributes: Mapping[str, Attribute] | None = None) -> Span:
        """Start a span under `parent`; nothing when that is empty or was not sampled."""
        ...

    async def stop(self) -> None:
        """Send what is left, for at most FLUSH_TIMEOUT_S."""
        ...


class NoSpan:
    """A span that is not recorded."""

    __slots__ = ("traceparent",)

    def __init__(self) -> None:
        self.traceparent = ""

    def set(self, name: str, value: Attribute) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


NO_SPAN: Final = NoSpan()


class NoTracing:
    """Tracing switched off."""

    enabled = False

    def root(self, name: str, attributes: Mapping[str, Attribute] | None = None, parent: str = "") -> Span:
        return NO_SPAN

    def child(self, name: str, parent: str, attributes: Mapping[str, Attribute] | None = None) -> Span:
        return NO_SPAN

    async def stop(self) -> None:
        pass


DISABLED: Final = NoTracing()


def otlp_endpoint(url: str) -> str:
    """Return where OTLP goes for the configured URL (see the module's text). Raises ValueError for no URL at all."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http address: {url!r}")
    if parts.path.rstrip("/").endswith(OTLP_PATH):
        return url
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{OTLP_PORT}{OTLP_PATH}"


def trace_metadata(traceparent: str) -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata that carries the context."""
    return ((TRACEPARENT, traceparent),) if traceparent else ()


def traceparent_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the context that gRPC metadata carries; empty when there is none or it is not one."""
    for name, value in metadata or ():
        if name == TRACEPARENT and isinstance(value, str) and _TRACEPARENT.fullmatch(value):
            return value
    return ""


class OtlpTracing:
    """Spans by the OpenTelemetry SDK, in batches, over HTTP."""

    enabled = True

    def __init__(self, *, service: str, node: str, endpoint: str, sample_ratio: float) -> None:
        """`sample_ratio` of the traces that begin here are recorded; those that others began, as they decided."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        target = otlp_endpoint(endpoint)
        if target != endpoint:
            log.info("traces go to the otlp port of the tracing endpoint's host", configured=endpoint, endpoint=target)
        resource = Resource({"service.name": f"orbit-{service}", "service.instance.id": node})
        self._provider: TracerProvider = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=target, timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUED_SPANS))
        self._tracer: Tracer = self._provider.get_tracer("orbit")
        self._sample_ratio = sample_ratio

    def root(self, name: str, attributes: Mapping[str, Attribute] | None = None, parent: str = "") -> Span:
        if parent:
            return self.child(name, parent, attributes)
        if random.random() >= self._sample_ratio:
            return NO_SPAN
        return _RecordedSpan(self._tracer.start_span(name, attributes=attributes))

    def child(self, name: str, parent: str, attributes: Mapping[str, Attribute] | None = None) -> Span:
        found = _TRACEPARENT.fullmatch(parent)
        if found is None or not int(found[3], 16) & 1:
            return NO_SPAN
        from opentelemetry import trace

        above = trace.SpanContext(
            int(found[1], 16), int(found[2], 16), is_remote=True, trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED)
        )
        if not above.is_valid:
            return NO_SPAN
        context = trace.set_span_in_context(trace.NonRecordingSpan(above))
        return _RecordedSpan(self._tracer.start_span(name, context=context, attributes=attributes))

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()  # exports what is queued
            with suppress(RuntimeError):  # the loop may have closed long ago
                loop.call_soon_threadsafe(stopped.set)

        # A thread of its own, because the loop would wait for the end of one from its pool.
        threading.Thread(target=flush, name="trace flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await stopped.wait()
        except TimeoutError:
            log.warning("traces were not all sent before the end", timeout_s=FLUSH_TIMEOUT_S)


class _RecordedSpan:
    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        context = span.get_span_context()
        self._span = span
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-01"

    def set(self, name: str, value: Attribute) -> None:
        self._span.set_attribute(name, value)

    def end(self, error: BaseException | None = None) -> None:
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", type(error).__name__)
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()


def make_tracing(*, enabled: bool, service: str, node: str, endpoint: str, sample_ratio: float = 1.0) -> Tracing:
    """Return tracing as configured; the SDK is imported only when it is on."""
    if not enabled:
        return DISABLED
    return OtlpTracing(service=service, node=node, endpoint=endpoint, sample_ratio=sample_ratio)
