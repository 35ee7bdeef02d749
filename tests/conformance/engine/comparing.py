"""A session on the engine and one on PostgreSQL that are given the same statements, and what they answered differently.

Owns how an answer is asked for and judged: the status, the types, the rows (in their order or as a multiset; floats to
1e-12) or the SQLSTATE.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.conformance.engine.random_expressions import TABLES
from tests.conformance.engine.random_queries import Statement
from tests.conformance.engine.random_sql import filling, statement

_FLOATS = (700, 701)
_REFUSED = "0A000"
_ABORTED = "25P02"
Rows = list[tuple[str | None, ...]]


@dataclass(frozen=True, slots=True)
class Outcome:
    status: str
    types: tuple[int, ...] = ()
    rows: tuple[tuple[str | None, ...], ...] = ()
    message: str = ""

    @property
    def failed(self) -> bool:
        return (len(self.status) == 5 and self.status != "BEGIN") or self.status == "none"

    def shown(self) -> str:
        return f"{self.status} {self.message} {self.rows[:6]} ({len(self.rows)} rows)"


def ask(connection: psycopg.Connection[Any], sql: str, parameters: tuple[str, ...] = ()) -> Outcome:
    encoded = sql.encode()
    if parameters:
        result = connection.pgconn.exec_params(encoded, [one.encode() for one in parameters])
    else:
        result = connection.pgconn.exec_(encoded)
    if error := result.error_field(psycopg.pq.DiagnosticField.SQLSTATE):
        message = result.error_field(psycopg.pq.DiagnosticField.MESSAGE_PRIMARY) or b""
        return Outcome(error.decode(), message=message.decode())
    if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
        return Outcome("none", message=connection.pgconn.error_message.decode())
    types = tuple(result.ftype(at) for at in range(result.nfields))
    rows = []
    for row in range(result.ntuples):
        values = (result.get_value(row, at) for at in range(result.nfields))
        rows.append(tuple(None if value is None else value.decode() for value in values))
    return Outcome((result.command_status or b"").decode(), types, tuple(rows))


def _alike(left: str | None, right: str | None) -> bool:
    if left == right:
        return True
    if left is None or right is None:
        return False
    a, b = float(left), float(right)
    return a == b or (a != a and b != b) or abs(a - b) <= 1e-12 * max(abs(a), abs(b), 1.0)


def _sorting(row: tuple[str | None, ...], floats: list[int]) -> tuple[Any, ...]:
    exact = tuple((value is None, value or "") for at, value in enumerate(row) if at not in floats)
    return exact, tuple(
        (value is None, value == "NaN", float(value or 0) if value != "NaN" else 0)
        for at, value in enumerate(row)
        if at in floats
    )


def _same_rows(ours: Outcome, theirs: Outcome, ordered: bool) -> bool:
    floats = [at for at, kind in enumerate(theirs.types) if kind in _FLOATS]
    if not floats:
        return ours.rows == theirs.rows if ordered else Counter(ours.rows) == Counter(theirs.rows)
    if len(ours.rows) != len(theirs.rows):
        return False
    mine, wanted = list(ours.rows), list(theirs.rows)
    if not ordered:
        mine.sort(key=lambda row: _sorting(row, floats))
        wanted.sort(key=lambda row: _sorting(row, floats))
    return all(
        all(_alike(a, b) if at in floats else a == b for at, (a, b) in enumerate(zip(left, right, strict=True)))
        for left, right in zip(mine, wanted, strict=True)
    )


def same(ours: Outcome, theirs: Outcome, asked: Statement) -> bool:
    if ours.failed and theirs.failed:
        # In an aborted block the engine may find another fault first.
        return ours.status == theirs.status or theirs.status == _ABORTED
    return ours.status == theirs.status and ours.types == theirs.types and _same_rows(ours, theirs, asked.ordered)


@dataclass
class Comparison:
    """Both sessions; `differences` holds what a person should look at."""

    ours: psycopg.Connection[Any]
    theirs: psycopg.Connection[Any]
    asked: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)
    stale: bool = False
    """Whether a change was answered differently, so that the tables may differ too."""

    def set_up(self, seed: int, rows: int) -> None:
        self.theirs.execute("SET timezone = 'UTC'")
        self.ours.execute("SET timezone = 'UTC'")
        for connection in (self.ours, self.theirs):
            for table in TABLES:
                connection.execute(f"DROP TABLE IF EXISTS {table.name}")
                connection.execute(table.create())
        for at, table in enumerate(TABLES):
            sql = filling(table, rows, seed * 10 + at)
            for connection in (self.ours, self.theirs):
                connection.execute(sql)

    def run(self, asked: Statement, label: str, *, changing: bool = False) -> None:
        self.asked += 1
        ours = ask(self.ours, asked.sql, asked.parameters)
        blocked = self.theirs.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        if ours.status == _REFUSED:
            self.refused[ours.message] += 1
            if blocked:
                ask(self.theirs, "refused by the other side")
            return
        theirs = ask(self.theirs, asked.sql, asked.parameters)
        if theirs.failed:
            self.failed[theirs.status] += 1
        if same(ours, theirs, asked):
            return
        if theirs.status == _REFUSED:
            # PostgreSQL has its own limits: a FULL JOIN on a condition that it cannot hash.
            self.refused["PostgreSQL: " + theirs.message] += 1
            if blocked:
                ask(self.ours, "refused by the other side")
            return
        if changing or ours.failed != theirs.failed:
            self.stale = True
        shown = f"{asked.sql}\n  {asked.parameters or ''}\n" if asked.parameters else f"{asked.sql}\n"
        only = [[row for row in a.rows if row not in b.rows][:4] for a, b in ((ours, theirs), (theirs, ours))]
        self.differences.append(
            f"{label}: {shown}  engine     {ours.shown()}\n  PostgreSQL {theirs.shown()}\n"
            f"  only in engine     {only[0]}\n  only in PostgreSQL {only[1]}\n  types {ours.types} {theirs.types}"
        )

    def session(self, seed: int, length: int, rows: int = 40) -> None:
        """Run one seed's statements over fresh tables."""
        self.set_up(seed, rows)
        choice = random.Random(seed)
        self.stale = False
        depth = -1
        for at in range(length):
            shape = choice.randrange(1 << 30)
            share = choice.random()
            label = f"seed {seed} statement {at}"
            if share < 0.10:
                control, depth = self._control(choice, depth)
                self.run(Statement(control), label, changing=True)
            elif share < 0.40:
                self.run(statement(shape, shape, change=True), label, changing=True)
            else:
                prepared = choice.random() < 0.3
                for turn in range(choice.choice((1, 1, 2))):
                    self.run(statement(shape, shape + turn, change=False, prepared=prepared), label)
            if self.theirs.info.transaction_status == psycopg.pq.TransactionStatus.INERROR and choice.random() < 0.7:
                control = "ROLLBACK" if depth < 1 or choice.random() < 0.3 else f"ROLLBACK TO s{depth}"
                depth = -1 if control == "ROLLBACK" else depth
                self.run(Statement(control), label, changing=True)
            if at % 25 == 24:
                self._tables(label)
            if self.stale:
                break
        if depth >= 0:
            self.run(Statement("COMMIT"), f"seed {seed} end", changing=True)
        if not self.stale:
            self._tables(f"seed {seed} end")
        for connection in (self.ours, self.theirs):
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                ask(connection, "ROLLBACK")

    def _control(self, choice: random.Random, depth: int) -> tuple[str, int]:
        """Return a transaction statement and how many savepoints are open after it (-1: no block)."""
        if depth < 0:
            return choice.choice(("BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ")), 0
        share = choice.random()
        if share < 0.3:
            return f"SAVEPOINT s{depth + 1}", depth + 1
        if share < 0.5 and depth > 0:
            return f"ROLLBACK TO s{depth}", depth
        if share < 0.6 and depth > 0:
            return f"RELEASE s{depth}", depth - 1
        return choice.choice(("COMMIT", "COMMIT", "ROLLBACK")), -1

    def _tables(self, label: str) -> None:
        for table in TABLES:
            before = len(self.differences)
            self.run(Statement(f"SELECT * FROM {table.name}"), f"{label}, the table", changing=True)
            if len(self.differences) > before:
                return
