"""Random but valid SQL statements, the same for the same seed: queries (from `random_queries`) and changes.

Owns what a statement looks like, not where it runs or how its answer is judged. A change never depends on the order in
which rows are met, and keys move only one row at a time.
"""

# ruff: noqa: E501 - a line is a form of SQL and reads best whole

from __future__ import annotations

import random
import re
from dataclasses import replace

from tests.conformance.engine.random_expressions import (
    BOOL,
    BYTES,
    DATE,
    FLOAT,
    INTERVAL,
    JSON,
    KINDS,
    STAMP,
    STAMPTZ,
    TABLES,
    TEXT,
    Column,
    Table,
)
from tests.conformance.engine.random_queries import Queries, Statement


class Statements(Queries):
    """Writes one statement; an instance serves one."""

    def row_value(self, kind: str, type_name: str) -> str:
        if self.literals.random() < 0.12:
            return "NULL"
        if type_name == "char(5)" or type_name.startswith("varchar"):
            text = self.literals.choice(("", "a", "ab", "abc", "é", "x ", "日本", "AB"))[: 4 if "4" in type_name else 5]
            return f"'{text}'"
        if self.literals.random() < 0.05:
            extreme = {
                "smallint": "32767",
                "integer": "-2147483648",
                "bigint": "999999999999999",
                "numeric": "'NaN'",
                "double precision": "'-Infinity'",
                "text": "'🎈 long, long text'",
                "numeric(12,3)": "999999999.999",
            }
            if type_name in extreme:
                return extreme[type_name]
        if type_name == "numeric" and self.literals.random() < 0.3:
            return f"{self.literals.randint(-(10**9), 10**9)}.{self.literals.randint(0, 10**12):012}"
        return "'" + self.raw(kind)[0].replace("'", "''") + "'"

    def key_values(self, table: Table) -> list[str]:
        found = [f"{self.literals.randint(1, 300)}"]
        if len(table.key) > 1:
            name = table.key[1][2]
            found.append(
                f"'2024-01-0{self.literals.randint(1, 3)}'"
                if name == DATE
                else self.literals.choice(("'a'", "'é '", "''"))
            )
        if len(table.key) > 2:
            found.append(self.literals.choice(("'a'", "'ü'")))
        return found

    def new_rows(self, table: Table, count: int) -> str:
        rows: list[str] = []
        seen: set[tuple[str, ...]] = set()
        while len(rows) < count:
            key = self.key_values(table)
            if tuple(key) in seen:
                continue
            seen.add(tuple(key))
            rows.append(f"({', '.join([*key, *(self.row_value(kind, name) for _, name, kind in table.values)])})")
        return ", ".join(rows)

    def assignable(self, kind: str, type_name: str, scope: list[Column]) -> str:
        """Return a value that fits the column."""
        value = self.value(kind, scope, 2)
        if type_name in ("smallint", "integer"):
            return f"(({value}) % 30000)"
        if type_name == "numeric(12,3)":
            return f"nullif(({value}) % 99999999, 'NaN')"
        if type_name == "bigint":
            return f"(({value}) % 1000000000000)"
        if type_name == "double precision":
            return f"round(({value}) / 4) * 0.25" if self.chance(0.5) else self.leaf(FLOAT, scope)
        if type_name in ("char(5)", "varchar(12)"):
            return f"left({value}, 4)"
        if kind == TEXT:
            return f"left({value}, 30)"
        if type_name == "numeric":
            return f"round({value}, 9)"
        if kind in (DATE, STAMP, STAMPTZ, INTERVAL, BYTES, JSON):
            return self.leaf(kind, scope)
        return value

    def assignments(self, table: Table, scope: list[Column]) -> str:
        chosen = self.shape.sample(table.values, self.shape.randint(1, 3))
        return ", ".join(f"{name} = {self.assignable(kind, type_name, scope)}" for name, type_name, kind in chosen)

    def returning(self, table: Table, alias: str) -> str:
        if self.chance(0.4):
            return ""
        if self.chance(0.4):
            return f" RETURNING {alias}.*"
        scope = table.scope(alias)
        return f" RETURNING {', '.join(self.value(self.shape.choice(KINDS), scope, 1) for _ in range(2))}"

    def change(self) -> Statement:
        self.prepared = False
        table = self.shape.choice(TABLES)
        sql = self.one(
            lambda: self.insert(table),
            lambda: self.insert(table),
            lambda: self.insert(table),
            lambda: self.insert_query(table),
            lambda: self.update(table),
            lambda: self.update(table),
            lambda: self.update_by_key(table),
            lambda: self.update_from(table) if self.chance(0.1) else self.update(table),
            lambda: self.delete(table),
            lambda: self.risky_update(table),
        )
        return Statement(sql, risky=self.risky)

    def insert(self, table: Table) -> str:
        rows = self.new_rows(table, self.shape.choice((1, 1, 2, 5, 20)))
        sql = f"INSERT INTO {table.name} AS o VALUES {rows}"
        target = ", ".join(name for name, _, _ in table.key)
        share = self.shape.random()
        if share < 0.25:
            sql += " ON CONFLICT DO NOTHING"
        elif share < 0.35:
            sql += f" ON CONFLICT ({target}) DO NOTHING"
        elif share < 0.85:
            scope = [*table.scope("o"), *table.scope("excluded")]
            sql += f" ON CONFLICT ({target}) DO UPDATE SET {self.assignments(table, scope)}"
            if self.chance(0.4):
                sql += f" WHERE {self.value(BOOL, scope, 2)}"
        return sql + self.returning(table, "o")

    def insert_query(self, table: Table) -> str:
        scope = table.scope("s")
        first = f"(s.k + {self.number(1, 40)}) % 400"
        key = [first, *(f"s.{name}" for name, _, _ in table.key[1:])]
        values = [
            self.assignable(kind, type_name, scope) if self.chance(0.3) else f"s.{name}"
            for name, type_name, kind in table.values
        ]
        where = f" WHERE s.k BETWEEN {self.number(0, 150)} AND {self.number(150, 170)} AND {self.value(BOOL, scope, 1)}"
        sql = f"INSERT INTO {table.name} AS o SELECT {', '.join([*key, *values])} FROM {table.name} AS s{where} AND s.k < 360"
        return sql + " ON CONFLICT DO NOTHING" + self.returning(table, "o")

    def update(self, table: Table) -> str:
        scope = table.scope("o")
        return f"UPDATE {table.name} AS o SET {self.assignments(table, scope)} WHERE {self.condition(scope, 1)}{self.returning(table, 'o')}"

    def by_key(self, table: Table) -> str:
        names = [name for name, _, _ in table.key]
        return " AND ".join(f"o.{name} = {value}" for name, value in zip(names, self.key_values(table), strict=True))

    def update_by_key(self, table: Table) -> str:
        scope = table.scope("o")
        if self.chance(0.2):
            return f"UPDATE {table.name} AS o SET k = {self.number(1, 300)} WHERE {self.by_key(table)}{self.returning(table, 'o')}"
        return f"UPDATE {table.name} AS o SET {self.assignments(table, scope)} WHERE {self.by_key(table)}{self.returning(table, 'o')}"

    def update_from(self, table: Table) -> str:
        scope = [*table.scope("o"), *TABLES[0].scope("s")]
        return (
            f"UPDATE {table.name} AS o SET {self.assignments(table, scope)} FROM r1 AS s WHERE s.k = o.k "
            f"AND {self.value(BOOL, scope, 1)}{self.returning(table, 'o')}"
        )

    def delete(self, table: Table) -> str:
        scope = table.scope("o")
        if self.chance(0.3):
            return f"DELETE FROM {table.name} AS o WHERE {self.by_key(table)}{self.returning(table, 'o')}"
        low = self.literals.randint(0, 300)
        within = f"o.k BETWEEN {low} AND {low + self.literals.randint(0, 30)}"
        if self.chance(0.03):
            return f"DELETE FROM {table.name} AS o USING r1 AS s WHERE s.k = o.k AND {within} AND {self.value(BOOL, [*scope, *TABLES[0].scope('s')], 1)}"
        return (
            f"DELETE FROM {table.name} AS o WHERE {within} AND {self.condition(scope, 1)}{self.returning(table, 'o')}"
        )

    def risky_update(self, table: Table) -> str:
        scope = table.scope("o")
        item, kind = self.risk(scope)
        fits = [(name, type_name) for name, type_name, one in table.values if one == kind]
        if not fits:
            return f"DELETE FROM {table.name} AS o WHERE o.k = {self.number(1, 300)}"
        name, _ = self.shape.choice(fits)
        return (
            f"UPDATE {table.name} AS o SET {name} = {item} WHERE o.k < {self.number(1, 60)}{self.returning(table, 'o')}"
        )


def statement(shape: int, literals: int, *, change: bool, prepared: bool = False) -> Statement:
    """Return the statement of two seeds."""
    made = Statements(random.Random(shape), random.Random(literals), prepared)
    return numbered(made.change() if change else made.query())


def numbered(made: Statement) -> Statement:
    """Leave out the parameters that no part of the statement kept."""
    used = sorted({int(found) for found in re.findall(r"\$(\d+)::", made.sql)})
    sql = re.sub(r"\$(\d+)::", lambda found: f"${used.index(int(found[1])) + 1}::", made.sql)
    return replace(made, sql=sql, parameters=tuple(made.parameters[at - 1] for at in used))


def filling(table: Table, count: int, seed: int) -> str:
    """Return an INSERT of a table's first rows."""
    made = Statements(random.Random(seed), random.Random(seed))
    return f"INSERT INTO {table.name} VALUES {made.new_rows(table, count)}"
