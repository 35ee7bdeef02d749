"""Logs: how every process writes them.

Owns the set-up of structlog and of the standard library's logging, which third parties use: one line an event on
standard error, JSON or (at a terminal) readable, with the service and node that wrote it, and without secrets.
Metrics are in `orbit.chassis.metrics`, traces in `orbit.chassis.tracing`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

Format = Literal["auto", "json", "console"]

MASK: Final = "***"
SECRET_WORDS: Final = ("password", "secret", "token", "credential", "authorization", "access_key")
QUIET_LIBRARIES: Final = ("asyncio", "botocore", "uvicorn.access", "urllib3", "pyiceberg", "fsspec", "aiobotocore")


class LineLogger:
    """Writes finished lines. A line is one write, so that processes may share a file."""

    def __init__(self, stream: TextIO) -> None:
        self._write = stream.write
        self._flush = stream.flush

    def msg(self, message: str) -> None:
        self._write(message + "\n")
        self._flush()

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = err = msg


def configure_logging(
    *,
    service: str,
    node: str = "",
    level: str = "info",
    log_format: Format = "auto",
    stream: TextIO | None = None,
) -> None:
    """Set up logging for this process. Call once, first thing; `auto` is console at a terminal and JSON elsewhere."""
    output = stream or sys.stderr
    console = log_format == "console" or (log_format == "auto" and output.isatty())
    number = logging.getLevelNamesMapping()[level.upper()]
    origin = {"service": service} | ({"node": node} if node else {})

    def add_origin(_logger: Any, _method: str, event: EventDict) -> EventDict:
        for name, value in origin.items():
            event.setdefault(name, value)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_origin,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        mask_secrets,
    ]
    if console:
        last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=output.isatty())]
    else:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_names: LineLogger(output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    # A library's warning is a log record like any other. The one about SOCKS is requests' to silence, which it does
    # for the whole process: another thread that imports at that moment may undo it.
    logging.captureWarnings(True)
    warnings.filterwarnings("ignore", message="SOCKS support in urllib3")
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def mask_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask the values of fields that are named like a secret. The last line of defence, not the first."""
    for name in event:
        if any(word in name.lower() for word in SECRET_WORDS):
            event[name] = MASK
    return event


def _to_json(event: Any, **_options: Any) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()
