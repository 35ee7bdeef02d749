"""Where each table's rows are, for `orbit tiers`.

Owns the reading of GET /tiers on the operations port:

    {"tables": [{"table": "public.flights",
                 "tiers": {"hot": {"rows": 1, "bytes": 100, "files": 0}, "warm": {..}, "cold": {..}}}]}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from orbit.cli import http
from orbit.cli.run_file import Run
from orbit.cli.text_table import text_table

TIERS = ("hot", "warm", "cold")
_UNITS = ("B", "kB", "MB", "GB", "TB")


class NotUnderstood(Exception):
    """The answer is not what GET /tiers promises; the message shows it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One table in one tier."""

    table: str
    tier: str
    rows: int
    size_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class TierReport:
    raw: str
    lines: tuple[Line, ...]


def read(run: Run) -> TierReport:
    """Return what the engine says now. Raises NotUnderstood and http.Unreachable."""
    answer = http.request(f"{run.endpoints.operations}/tiers", timeout_seconds=30.0)
    raw = answer.body.decode(errors="replace")
    if answer.status != 200:
        raise NotUnderstood(f"{run.endpoints.operations}/tiers answered {answer.status}: {raw[:500]}")
    try:
        decoded: Any = json.loads(raw)
        lines = tuple(
            Line(entry["table"], tier, int(one["rows"]), int(one["bytes"]), int(one["files"]))
            for entry in decoded["tables"]
            for tier in TIERS
            if (one := entry["tiers"].get(tier)) is not None
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotUnderstood(f"{run.endpoints.operations}/tiers has another shape than promised: {raw[:500]}") from error
    return TierReport(raw, lines)


def table(report: TierReport) -> str:
    if not report.lines:
        return "there are no tables"
    rows = [
        [line.table, line.tier, f"{line.rows:,}", human(line.size_bytes), f"{line.files:,}"] for line in report.lines
    ]
    for tier in TIERS:
        some = [line for line in report.lines if line.tier == tier]
        total = (
            sum(line.rows for line in some),
            sum(line.size_bytes for line in some),
            sum(line.files for line in some),
        )
        rows.append(["total", tier, f"{total[0]:,}", human(total[1]), f"{total[2]:,}"])
    return text_table(["table", "tier", "rows", "size", "files"], rows, frozenset((2, 3, 4)))


def human(size_bytes: int) -> str:
    """Return the size in the largest unit of 1000 that leaves at least one."""
    size = float(size_bytes)
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("the last unit returns")
