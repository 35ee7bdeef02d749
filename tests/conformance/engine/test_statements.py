"""Statements run one after the other on the engine and on a live PostgreSQL 15: results, tags and SQLSTATEs must agree.

Each file of `statements/` is one session; a statement ends with a line that ends with `;`. What the engine does not
have yet must answer 0A000 by name, and is listed with a line `-- refused` before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.fixtures.fix_engine import Engine

FILES = sorted((Path(__file__).parent / "statements").glob("*.sql"))
Outcome = tuple[str, list[tuple[bytes | None, ...]]]


def statements(file: Path) -> Iterator[tuple[bool, str]]:
    """Yield (refused, statement)."""
    lines: list[str] = []
    refused = False
    for line in file.read_text().splitlines():
        if line.startswith("-- refused"):
            refused = True
        elif line.strip() and not line.startswith("--"):
            lines.append(line)
            if line.rstrip().endswith(";"):
                yield refused, "\n".join(lines)
                lines, refused = [], False
    assert not lines, f"{file.name} ends inside a statement"


def outcome(connection: psycopg.Connection[tuple[object, ...]], sql: str) -> Outcome:
    try:
        # The simple protocol, whose results are text: a difference in a digit shows.
        result = connection.pgconn.exec_(sql.encode())
        if error := result.error_field(psycopg.pq.DiagnosticField.SQLSTATE):
            return error.decode(), []
        rows = [
            tuple(result.get_value(row, column) for column in range(result.nfields)) for row in range(result.ntuples)
        ]
        return (result.command_status or b"").decode(), rows
    except psycopg.Error as error:
        return error.sqlstate or "", []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_statements_agree_with_postgresql(file: Path, engine: Engine, postgres_dsn: str) -> None:
    different: list[str] = []
    with engine.connect() as ours, psycopg.connect(postgres_dsn, autocommit=True) as theirs:
        theirs.execute("SET client_min_messages = error; SET timezone = 'UTC'")
        for refused, sql in statements(file):
            mine = outcome(ours, sql)
            if refused:
                if mine[0] != "0A000":
                    different.append(f"{sql}\n  is listed as refused and answered {mine}")
                continue
            wanted = outcome(theirs, sql)
            if mine != wanted:
                different.append(f"{sql}\n  engine     {mine}\n  PostgreSQL {wanted}")
    assert not different, f"{len(different)} statements differ:\n" + "\n".join(different)


def test_every_file_holds_statements() -> None:
    assert FILES
    assert all(list(statements(file)) for file in FILES)


def test_a_large_answer_follows_only_its_own_row_description(engine: Engine) -> None:
    """What a simple query has answered is not sent again in front of a later, streamed answer."""
    with engine.connect() as connection:
        connection.pgconn.exec_(b"CREATE TABLE streamed (a int); INSERT INTO streamed SELECT generate_series(1, 60)")
        rows = connection.execute(
            "SELECT a, %s::int FROM streamed, generate_series(1, 100) g", (1,), prepare=True
        ).fetchall()
        assert len(rows) == 6000
        connection.pgconn.exec_(b"DROP TABLE streamed")
