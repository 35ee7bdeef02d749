"""What `orbit status` tells: each process of run.json, alive or not, healthy or not.

Owns the reading of /health on the operations port of each process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from orbit.cli import http, process
from orbit.cli.run_file import Process, Run
from orbit.cli.text_table import text_table


@dataclass(frozen=True, slots=True)
class Report:
    """One process as it is now. `note` holds what its /health says besides being healthy, or why it did not answer."""

    process: Process
    alive: bool
    healthy: bool
    note: str


def reports(run: Run) -> list[Report]:
    return [_report(one) for one in run.processes]


def table(run: Run, some: list[Report]) -> str:
    """Return the processes as a table with the endpoints under it."""
    rows = [
        [
            report.process.service,
            report.process.node_id,
            str(report.process.pid),
            "dead" if not report.alive else "healthy" if report.healthy else "unhealthy",
            _duration(process.uptime_seconds(report.process)) if report.alive else "",
            " ".join(f"{name}:{port}" for name, port in report.process.ports.items()),
            report.note,
        ]
        for report in some
    ]
    heads = ["service", "node", "pid", "state", "up for", "ports", "notes"]
    endpoints = run.endpoints
    return (
        text_table(heads, rows)
        + f"\n\npostgres {endpoints.postgres}   redis {endpoints.redis}   rest {endpoints.rest}"
        + f"   operations {endpoints.operations}"
    )


def _report(one: Process) -> Report:
    if not process.is_alive(one):
        return Report(one, False, False, f"ended; see {one.log}")
    port = one.ports.get("metrics")
    if port is None:
        return Report(one, True, True, "")
    try:
        answer = http.request(f"http://127.0.0.1:{port}/health", timeout_seconds=3.0)
    except http.Unreachable as error:
        return Report(one, True, False, str(error))
    return Report(one, True, answer.status == 200, _note(answer.body))


def _note(body: bytes) -> str:
    try:
        state: Any = json.loads(body)
    except ValueError:
        return body.decode(errors="replace").strip()[:200]
    if not isinstance(state, dict):
        return ""
    return " ".join(
        f"{key}={value}" for key, value in state.items() if key != "healthy" and isinstance(value, str | int | float)
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"
