"""Runs SQL for `orbit sql` through the REST gateway's POST /sql.

Owns the request and the reading of its answer:

    {"columns": [{"name": "n", "type": "integer"}], "rows": [[1]], "command": "SELECT 1"}

or, where the text held several statements, {"results": [that, ..]}. An error is
{"error": {"code": "42P01", "message": "..", "detail": null, "hint": null}}, its code an SQLSTATE.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit.cli import http
from orbit.cli.run_file import Run
from orbit.cli.text_table import text_table

TIMEOUT_SECONDS = 3600.0
"""The engine's own statement limits decide, not the client."""


class SqlFailed(Exception):
    """The engine refused the statement, or its answer could not be read; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Result:
    """One statement's outcome. A cell is any JSON value; None is SQL's null."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    command: str


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    raw: str
    results: tuple[Result, ...]


def run_sql(run: Run, text: str) -> SqlAnswer:
    """Return the answer of the engine. Raises SqlFailed and http.Unreachable."""
    answer = http.request(
        f"{run.endpoints.rest}/sql",
        body=json.dumps({"sql": text}).encode(),
        credentials=(run.user, _password(run)),
        headers={"Content-Type": "application/json", "Accept": "application/json"},
        timeout_seconds=TIMEOUT_SECONDS,
    )
    raw = answer.body.decode(errors="replace")
    try:
        decoded: Any = json.loads(raw)
    except ValueError:
        raise SqlFailed(f"the engine answered {answer.status} with no JSON: {raw[:500]}") from None
    if answer.status >= 400:
        raise SqlFailed(_error(answer.status, decoded))
    try:
        return SqlAnswer(raw, tuple(_result(item) for item in decoded.get("results", [decoded])))
    except (AttributeError, KeyError, TypeError) as error:
        raise SqlFailed(f"the engine's answer has another shape than POST /sql promises: {raw[:500]}") from error


def table(answer: SqlAnswer) -> str:
    """Return every result as psql would show it: numbers to the right, nulls empty, the command or row count below."""
    return "\n\n".join(_shown(result) for result in answer.results)


def _shown(result: Result) -> str:
    if not result.columns:
        return result.command
    cells = [[_cell(value) for value in row] for row in result.rows]
    numeric = frozenset(
        index
        for index in range(len(result.columns))
        if result.rows and all(_is_number(row[index]) or row[index] is None for row in result.rows)
    )
    count = len(cells)
    return f"{text_table(result.columns, cells, numeric)}\n({count} {'row' if count == 1 else 'rows'})"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _result(item: Any) -> Result:
    columns = tuple(column["name"] if isinstance(column, dict) else str(column) for column in item.get("columns") or ())
    rows = tuple(
        tuple(row[name] for name in columns) if isinstance(row, dict) else tuple(row) for row in item.get("rows") or ()
    )
    return Result(columns, rows, str(item.get("command") or ""))


def _error(status: int, decoded: Any) -> str:
    problem = decoded.get("error") if isinstance(decoded, dict) else None
    if not isinstance(problem, dict) or "message" not in problem:
        return f"the engine answered {status}: {json.dumps(decoded)[:500]}"
    lines = [f"{problem['message']} ({problem.get('code') or f'HTTP {status}'})"]
    lines += [f"  {name}: {problem[name]}" for name in ("detail", "hint") if problem.get(name)]
    return "\n".join(lines)


def _password(run: Run) -> str:
    if not run.password_file:
        raise SqlFailed("the administrator's password is not known here")
    try:
        return Path(run.password_file).read_text().rstrip("\n")
    except OSError as error:
        raise SqlFailed(f"the password cannot be read from {run.password_file}: {error.strerror}") from error
