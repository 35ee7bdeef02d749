"""Runs SQL for `orbit sql` through the REST gateway's POST /sql.

Owns the request (one statement) and the reading of its answer:

    {"columns": [{"name": "n", "type": "integer"}], "rows": [[1]], "tag": "SELECT 1", "row_count": 1}

An error is {"error": {"code": "42P01", "message": "..", "detail": null, "hint": null}}, its code an SQLSTATE.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit.cli import http
from orbit.cli.run_file import Run
from orbit.cli.text_table import text_table

NUMERIC_TYPES = {"smallint", "integer", "bigint", "oid", "real", "double precision", "numeric"}

TIMEOUT_SECONDS = 3600.0
"""The engine's own statement limits decide, not the client."""


class SqlFailed(Exception):
    """The engine refused the statement, or its answer could not be read; the message is for a person."""


@dataclass(frozen=True, slots=True)
class SqlAnswer:
    """One statement's outcome. Numbers are kept as the text that came; None is SQL's null."""

    raw: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    tag: str


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
        # Numbers stay text: nothing is rounded on the way to the screen.
        decoded: Any = json.loads(raw, parse_int=str, parse_float=str)
    except ValueError:
        raise SqlFailed(f"the engine answered {answer.status} with no JSON: {raw[:500]}") from None
    if answer.status >= 400:
        raise SqlFailed(_error(answer.status, decoded))
    try:
        columns, types = (tuple(column[key] for column in decoded["columns"]) for key in ("name", "type"))
        return SqlAnswer(raw, columns, types, tuple(tuple(row) for row in decoded["rows"]), decoded["tag"])
    except (KeyError, TypeError) as error:
        raise SqlFailed(f"the engine's answer has another shape than POST /sql promises: {raw[:500]}") from error


def table(answer: SqlAnswer) -> str:
    """Return the result as psql shows it: numbers to the right, nulls empty, the row count or command tag below."""
    if not answer.columns:
        return answer.tag
    cells = [[_cell(value) for value in row] for row in answer.rows]
    numeric = frozenset(index for index, name in enumerate(answer.types) if name.partition("(")[0] in NUMERIC_TYPES)
    count = len(cells)
    return f"{text_table(answer.columns, cells, numeric)}\n({count} {'row' if count == 1 else 'rows'})"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


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
