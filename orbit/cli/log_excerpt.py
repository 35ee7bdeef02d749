"""The lines of an engine's log that say why it did not start.

Owns the choice of lines. Log lines are JSON objects (structlog) or plain text (tracebacks, other programs).
"""

from __future__ import annotations

import json
from pathlib import Path

TAIL_BYTES = 64 << 10
MAX_LINES = 12

_SERIOUS = ("error", "critical", "exception")
_OMITTED = ("level", "event", "timestamp", "logger")


def reason(log: Path, start: int) -> str:
    """Return the telling lines written after offset `start`, or the last lines when none is."""
    with log.open("rb") as stream:
        end = stream.seek(0, 2)
        stream.seek(max(start, end - TAIL_BYTES))
        lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    if not lines:
        return "  (it wrote nothing to its log)"
    telling = [shown for line in lines if (shown := _telling(line))]
    return "\n".join(f"  {line}" for line in (telling or lines)[-MAX_LINES:])


def _telling(line: str) -> str | None:
    """Return a serious record in words, a line of plain text (a traceback's, another program's) as it is, else None."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict):
        return line
    if record.get("level") not in _SERIOUS:
        return None
    rest = " ".join(f"{key}={value}" for key, value in record.items() if key not in _OMITTED)
    return f"{record.get('event', '')} {rest}".strip()
