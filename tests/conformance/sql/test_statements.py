"""Every statement of `statements/` answered by PostgreSQL 15 and by us: columns, types, values, order, SQLSTATE.

A file holds statements separated by lines that end in `;`. Rows are compared in order when the statement has an
outer ORDER BY, as a multiset otherwise. Floating-point results may differ by the order of additions, 1e-12 relative.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.conformance.sql.engine import Engine
from tests.conformance.sql.reference import Answer, ask

HERE = Path(__file__).parent
_FLOATS = (700, 701)


def statements_of(path: Path) -> list[str]:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("--"))
    return [part.strip() for part in re.split(r";\s*(?:\n|$)", text) if part.strip()]


CASES = [(path.stem, sql) for path in sorted((HERE / "statements").glob("*.sql")) for sql in statements_of(path)]


def _close(left: str | None, right: str | None) -> bool:
    if left == right:
        return True
    if left is None or right is None:
        return False
    a, b = float(left), float(right)
    return abs(a - b) <= 1e-12 * max(abs(a), abs(b))


def _same_rows(expected: Answer, actual: Answer, ordered: bool) -> bool:
    left, right = list(expected.rows), list(actual.rows)
    if not ordered:
        left.sort(key=repr)
        right.sort(key=repr)
    if len(left) != len(right):
        return False
    floats = [kind in _FLOATS for _, kind, _ in expected.columns]
    return all(
        _close(a, b) if is_float else a == b
        for row, other in zip(left, right, strict=True)
        for a, b, is_float in zip(row, other, floats, strict=True)
    )


def _has_outer_order(sql: str) -> bool:
    depth = 0
    for word in re.findall(r"\(|\)|order\s+by|'(?:[^']|'')*'", sql, re.IGNORECASE):
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
        elif depth == 0 and word.lower().startswith("order"):
            return True
    return False


@pytest.mark.integration
@pytest.mark.parametrize(("topic", "sql"), CASES, ids=[f"{topic}-{at}" for at, (topic, _) in enumerate(CASES)])
def test_same_answer(topic: str, sql: str, reference: psycopg.Connection[Any], engine: Engine) -> None:
    expected, actual = ask(reference, sql), engine.ask(sql)
    if expected.sqlstate is not None or actual.sqlstate is not None:
        assert (actual.sqlstate, actual.message) == (expected.sqlstate, expected.message), sql
        return
    assert actual.columns == expected.columns, sql
    assert _same_rows(expected, actual, _has_outer_order(sql)), (sql, expected.rows[:5], actual.rows[:5])
