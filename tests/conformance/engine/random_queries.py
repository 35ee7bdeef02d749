"""Random but valid SQL queries, the same for the same seed. Changes are in `random_sql`.

Owns what a query looks like (its expressions are in `random_expressions`), not where it runs or how its answer is
judged. Rows are cut by LIMIT only in an order of all that is shown.
"""

# ruff: noqa: E501 - a line is a form of SQL and reads best whole

from __future__ import annotations

from dataclasses import dataclass

from tests.conformance.engine.random_expressions import (
    BOOL,
    BYTES,
    DATE,
    FLOAT,
    INT,
    INTERVAL,
    JSON,
    KINDS,
    NUM,
    SORTABLE,
    STAMP,
    TABLES,
    TEXT,
    Column,
    Expressions,
)

_CANONICAL = {
    INT: "({})::bigint",
    NUM: "round({}, 3)",
    FLOAT: "({})::float8 + 0.0",
    TEXT: "({})::text",
    INTERVAL: "extract(epoch from {})",
    JSON: "({})::text",
}
"""What makes equal values print alike, so that any of them may stand for a group."""


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    parameters: tuple[str, ...] = ()
    ordered: bool = False
    risky: bool = False
    """Whether one place of it may fail, which then must fail alike."""


def canonical(kind: str, sql: str) -> str:
    return _CANONICAL.get(kind, "{}").format(sql)


class Queries(Expressions):
    """Writes one query; an instance serves one."""

    # Sources of rows

    def source(self, depth: int) -> tuple[str, list[Column]]:
        share = self.shape.random()
        if depth > 0 and share < 0.15:
            alias = self.alias()
            sql, kinds = self.rows(depth - 1, self.shape.randint(1, 4))
            names = [f"c{at}" for at in range(len(kinds))]
            scope = [(f"{alias}.{name}", kind) for name, kind in zip(names, kinds, strict=True)]
            return f"({sql}) AS {alias} ({', '.join(names)})", scope
        table, alias = self.shape.choice(TABLES), self.alias()
        return f"{table.name} AS {alias}", table.scope(alias)

    def sources(self, depth: int) -> tuple[str, list[Column]]:
        sql, scope = self.source(depth)
        while self.chance(0.35) and len(scope) < 45:
            other, more = self.source(depth)
            join = self.shape.choice(("JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"))
            kind = self.shape.choice((INT, INT, INT, TEXT, DATE))
            condition = f"{self.column(kind, scope)} = {self.column(kind, more)}"
            if join != "FULL JOIN" and self.chance(0.4):
                condition += f" AND {self.value(BOOL, scope + more, 1)}"
            sql, scope = f"{sql} {join} {other} ON {condition}", scope + more
        return sql, scope

    def where(self, scope: list[Column], depth: int) -> str:
        if self.chance(0.3):
            return ""
        return f" WHERE {self.condition(scope, depth)}"

    def condition(self, scope: list[Column], depth: int) -> str:
        if depth > 0 and self.chance(0.25):
            return self.subquery_test(scope)
        keyed = [name for name, kind in scope if kind == INT and name.endswith(".k")]
        if keyed and self.chance(0.2):
            key = f"{self.shape.choice(keyed)} {self.shape.choice(('=', '<', '>', '<='))} {self.number(0, 300)}"
            return key if self.chance(0.5) else f"{key} AND {self.value(BOOL, scope, 2)}"
        return self.value(BOOL, scope, 2)

    def subquery_test(self, scope: list[Column]) -> str:
        table, alias = self.shape.choice(TABLES), self.alias()
        inner = table.scope(alias)
        kind = self.shape.choice((INT, TEXT, DATE))
        test = (
            f"{self.column(kind, inner)} = {self.column(kind, scope)}"
            if self.chance(0.6)
            else self.value(BOOL, inner, 1)
        )
        body = f"FROM {table.name} AS {alias} WHERE {test}"
        return self.one(
            lambda: f"{self.shape.choice(('', 'NOT '))}EXISTS (SELECT 1 {body})",
            lambda: (
                f"{self.value(kind, scope, 1)} {self.shape.choice(('', 'NOT '))}IN (SELECT {self.value(kind, inner, 1)} {body})"
            ),
            lambda: f"{self.value(INT, scope, 1)} {self.shape.choice(('<', '='))} (SELECT count(*) {body})",
            lambda: (
                f"{self.value(kind, scope, 1)} {self.shape.choice(('>', '='))} {self.shape.choice(('ANY', 'ALL'))} "
                f"(SELECT {self.value(kind, inner, 1)} {body})"
            ),
        )

    # Queries

    def rows(self, depth: int, width: int) -> tuple[str, list[str]]:
        """Return a query without an order and the kinds of its columns, every value in its canonical form."""
        kinds = [self.shape.choice(SORTABLE) for _ in range(width)]
        if self.chance(0.2):
            sql = self.selected(kinds, 0)
            operation = self.shape.choice(("UNION", "UNION ALL", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"))
            return f"{sql} {operation} {self.selected(kinds, 0)}", kinds
        return self.selected(kinds, depth), kinds

    def selected(self, kinds: list[str], depth: int) -> str:
        grouped = self.chance(0.3)
        source, scope = self.sources(depth)
        where = self.where(scope, depth)
        if not grouped:
            distinct = "DISTINCT " if self.chance(0.15) else ""
            items = [canonical(kind, self.value(kind, scope, 2)) for kind in kinds]
            return f"SELECT {distinct}{', '.join(items)} FROM {source}{where}"
        items, groups = [], []
        for kind in kinds:
            if self.chance(0.4):
                groups.append(canonical(kind, self.value(kind, scope, 1)))
                items.append(groups[-1])
            else:
                items.append(canonical(kind, self.aggregate(kind, scope)))
        by = f" GROUP BY {', '.join(groups)}" if groups else ""
        having = f" HAVING {self.aggregate(BOOL, scope)}" if self.chance(0.2) else ""
        return f"SELECT {', '.join(items)} FROM {source}{where}{by}{having}"

    def aggregate(self, kind: str, scope: list[Column]) -> str:
        def sub(one: str = kind) -> str:
            return self.value(one, scope, 1)

        def within() -> str:
            return f" FILTER (WHERE {self.value(BOOL, scope, 1)})" if self.chance(0.2) else ""

        distinct = "DISTINCT " if self.chance(0.25) else ""
        if kind == INT:
            one = self.shape.choice(SORTABLE)
            return self.one(
                lambda: f"count(*){within()}",
                lambda: f"count({distinct}{canonical(one, self.value(one, scope, 1))}){within()}",
                lambda: f"max({sub()}){within()}",
                lambda: f"min({sub()}){within()}",
                lambda: f"sum({distinct}{self.leaf(INT, scope)} % 1000){within()}",
                lambda: f"length(string_agg({sub(TEXT)}, ','))",
            )
        if kind == NUM:
            return self.one(
                lambda: f"sum({distinct}{canonical(NUM, sub())}){within()}",
                lambda: f"avg({canonical(NUM, sub())}){within()}",
                lambda: f"avg({sub(INT)}){within()}",
                lambda: f"sum({self.leaf(INT, scope)}::bigint){within()}",
                lambda: f"{self.shape.choice(('min', 'max'))}({canonical(NUM, sub())}){within()}",
                lambda: (
                    f"{self.shape.choice(('variance', 'stddev', 'var_pop', 'stddev_pop'))}({self.leaf(INT, scope)}){within()}"
                ),
                lambda: f"sum({sub(INT)}::numeric) * avg({sub(INT)})",
            )
        if kind == FLOAT:
            return self.one(
                lambda: f"{self.shape.choice(('min', 'max'))}({sub()}){within()}",
                lambda: f"{self.shape.choice(('sum', 'avg'))}({self.leaf(FLOAT, scope)}){within()}",
            )
        if kind == TEXT:
            return self.one(
                lambda: f"{self.shape.choice(('min', 'max'))}({sub()}){within()}",
                lambda: self.joined(sub()) + within(),
                lambda: f"min({sub()} || 'x')",
            )
        if kind == BOOL:
            return self.one(
                lambda: f"{self.shape.choice(('bool_and', 'bool_or', 'every'))}({sub()}){within()}",
                lambda: f"(count(*) {self.shape.choice('<>')} {self.number(0, 5)})",
                lambda: f"(max({sub(INT)}) > {self.aggregate(INT, scope)})",
            )
        return f"{self.shape.choice(('min', 'max'))}({sub()}){within()}"

    def joined(self, item: str) -> str:
        item = f"({item})::text"
        return f"string_agg({self.shape.choice(('', 'DISTINCT '))}{item}, '|' ORDER BY {item}{self.shape.choice(('', ' DESC'))})"

    def query(self) -> Statement:
        """Return a whole query."""
        share = self.shape.random()
        if share < 0.12:
            return self.risky_query()
        if share < 0.25:
            return self.windows()
        if share < 0.45:
            return self.shown()
        if share < 0.60:
            return Statement(self.special(), tuple(self.parameters))
        sql, kinds = self.rows(2, self.shape.randint(1, 5))
        if self.chance(0.2):
            body, more = self.rows(1, 2)
            name = self.alias()
            sql = f"WITH {name} (c0, c1) AS ({body}) SELECT c0, c1, count(*) FROM {name} GROUP BY c0, c1"
            kinds = [*more, INT]
            if self.chance(0.4):
                sql = f"WITH {name} (c0, c1) AS ({body}) SELECT a.c0, b.c1 FROM {name} a JOIN {name} b ON a.c0 = b.c0"
                kinds = more
        ordered = self.chance(0.5)
        if ordered:
            marks = ("", "", " DESC", " NULLS FIRST", " DESC NULLS LAST")
            sql += f" ORDER BY {', '.join(str(at + 1) + self.shape.choice(marks) for at in range(len(kinds)))}"
            if self.chance(0.5):
                sql += f" LIMIT {self.number(0, 20)}"
            if self.chance(0.3):
                sql += f" OFFSET {self.number(0, 10)}"
        return Statement(sql, tuple(self.parameters), ordered)

    def shown(self) -> Statement:
        """Return a query whose values are shown as they are: every digit counts."""
        source, scope = self.sources(1)
        where = self.where(scope, 1)
        items = [self.value(self.shape.choice(KINDS), scope, 3) for _ in range(self.shape.randint(1, 6))]
        if self.chance(0.15):
            alias = self.alias()
            table = self.shape.choice(TABLES)
            inner = table.scope(alias)
            kind = self.shape.choice(SORTABLE)
            items.append(
                f"(SELECT {self.aggregate(kind, inner)} FROM {table.name} AS {alias} "
                f"WHERE {self.column(INT, inner)} = {self.column(INT, scope)})"
            )
        if self.chance(0.1):
            items = ["*"]
        return Statement(f"SELECT {', '.join(items)} FROM {source}{where}", tuple(self.parameters))

    def special(self) -> str:
        """Return a query of one of the rarer forms."""
        table, alias = self.shape.choice(TABLES), self.alias()
        scope = table.scope(alias)
        source = f"FROM {table.name} AS {alias}{self.where(scope, 1)}"
        key = ", ".join(f"{alias}.{name}" for name, _, _ in table.key)
        kinds = [self.shape.choice((INT, TEXT, BOOL, DATE)) for _ in range(2)]
        first, second = (canonical(kind, self.column(kind, scope)) for kind in kinds)
        kind = self.shape.choice(SORTABLE)
        whole = self.column(INT, scope)
        return self.one(
            lambda: (
                f"SELECT DISTINCT ON ({first}) {first}, {key}, {self.value(kind, scope)} {source} ORDER BY {first}, {key}"
            ),
            lambda: (
                f"SELECT {first}, {second}, grouping({first}, {second}), {self.aggregate(kind, scope)} {source} "
                f"GROUP BY {self.shape.choice(('ROLLUP', 'CUBE'))} ({first}, {second})"
            ),
            lambda: (
                f"SELECT g, {self.value(kind, scope)} FROM generate_series({self.number(-3, 3)}, {self.number(0, 6)}) AS g "
                f"LEFT JOIN {table.name} AS {alias} ON {alias}.k % 7 = g"
            ),
            lambda: (
                f"SELECT {key}, l.* FROM {table.name} AS {alias} CROSS JOIN LATERAL (SELECT {self.aggregate(kind, [*TABLES[0].scope('y')])} "
                f"FROM r1 AS y WHERE y.i4 = {whole}) AS l"
            ),
            lambda: f"SELECT {key} {source} ORDER BY {first} FETCH FIRST {self.number(1, 9)} ROWS WITH TIES",
            lambda: (
                f"SELECT {key}, {whole} = ANY (ARRAY[{self.literal(INT)}, {self.literal(INT)}, NULL]), "
                f"{self.column(TEXT, scope)} = ANY (ARRAY[{self.literal(TEXT)}, {self.literal(TEXT)}]) {source}"
            ),
            lambda: (
                f"SELECT {first}, array_agg({whole} ORDER BY {whole}, {key}), array_agg({self.column(TEXT, scope)} ORDER BY {key}) "
                f"{source} GROUP BY {first}"
            ),
            lambda: (
                f"SELECT percentile_cont(0.{self.number(1, 9)}) WITHIN GROUP (ORDER BY {self.column(FLOAT, scope)}), "
                f"percentile_disc(0.{self.number(1, 9)}) WITHIN GROUP (ORDER BY {whole}), mode() WITHIN GROUP (ORDER BY {first}) "
                f"{source}"
            ),
            lambda: (
                f"SELECT {key}, sum({whole}) OVER w, count(*) OVER w, first_value({first}) OVER w {source} "
                f"WINDOW w AS (ORDER BY {alias}.k RANGE BETWEEN {self.number(0, 20)} PRECEDING AND {self.number(0, 20)} FOLLOWING)"
                if len(table.key) == 1
                else f"SELECT {key}, rank() OVER (ORDER BY {first}) {source}"
            ),
            lambda: f"SELECT {first}, avg({self.column(INTERVAL, scope)}), count({second}) {source} GROUP BY {first}",
            lambda: (
                f"SELECT {key}, ({self.column(FLOAT, scope)})::real, ({self.column(NUM, scope)} / 3)::real {source}"
            ),
            lambda: f"SELECT {first}, sum({self.column(INTERVAL, scope)}) {source} GROUP BY {first}",
            lambda: f"SELECT {key}, {self.printed(scope)} {source}",
            lambda: (
                f"SELECT {key}, (SELECT max({self.leaf(kind, [*TABLES[1].scope('z'), *scope])}) FROM r2 AS z WHERE z.k < {whole}) {source}"
            ),
            lambda: (
                f"SELECT v.*, {key} FROM (VALUES ({self.literal(INT)}, {self.literal(TEXT)}), ({self.literal(INT)}, NULL)) AS v (a, b) "
                f"LEFT JOIN {table.name} AS {alias} ON v.a = {whole} OR v.b = {self.column(TEXT, scope)}"
            ),
            lambda: (
                f"SELECT {whole} IN (SELECT {self.column(INT, TABLES[2].scope('y'))} FROM r3 AS y), "
                f"{whole} NOT IN (SELECT y.k FROM r3 AS y WHERE y.k < {self.number(0, 99)}) {source}"
            ),
            lambda: (
                f"SELECT count(DISTINCT {first}), count(DISTINCT {second}) FILTER (WHERE {self.value(BOOL, scope, 1)}), sum(DISTINCT {whole}) {source}"
            ),
        )

    def printed(self, scope: list[Column]) -> str:
        """Return values whose text, or whose parts, are made from their inner form."""
        return self.one(
            lambda: (
                f"{self.column(NUM, scope)}::text, {self.column(FLOAT, scope)}::text, {self.column(BYTES, scope)}::text, "
                f"to_char({self.column(NUM, scope)}, 'FM999,990.00'), to_char({self.column(STAMP, scope)}, 'DD Mon YYYY HH24:MI:SS.US')"
            ),
            lambda: (
                f"extract(epoch from {self.column('stamptz', scope)}), extract(hour from {self.column('stamptz', scope)}), "
                f"extract(epoch from {self.column(INTERVAL, scope)}), date_part('dow', {self.column(STAMP, scope)})"
            ),
        )

    def risky_query(self) -> Statement:
        table, alias = self.shape.choice(TABLES), self.alias()
        scope = table.scope(alias)
        item, _ = self.risk(scope)
        where = (
            f" WHERE {alias}.k {self.shape.choice(('<', '=', '>'))} {self.number(0, 60)}" if self.chance(0.8) else ""
        )
        return Statement(
            f"SELECT {alias}.k, {item} FROM {table.name} AS {alias}{where}", tuple(self.parameters), risky=True
        )

    def windows(self) -> Statement:
        table, alias = self.shape.choice(TABLES), self.alias()
        scope = table.scope(alias)
        key = [f"{alias}.{name}" for name, _, _ in table.key]
        items = [self.window(scope, key) for _ in range(self.shape.randint(1, 3))]
        where = self.where(scope, 1)
        sql = f"SELECT {', '.join(key)}, {', '.join(items)} FROM {table.name} AS {alias}{where}"
        return Statement(sql, tuple(self.parameters))

    def window(self, scope: list[Column], key: list[str]) -> str:
        kind = self.shape.choice((INT, NUM, TEXT, DATE))
        partition = (
            f"PARTITION BY {self.column(self.shape.choice((BOOL, INT, TEXT)), scope)} " if self.chance(0.6) else ""
        )
        lead = f"{self.value(self.shape.choice(SORTABLE), scope, 1)}{self.shape.choice(('', ' DESC', ' NULLS FIRST'))}"
        total = f"{partition}ORDER BY {lead}, {', '.join(key)}"
        frame = self.shape.choice(
            (
                "",
                "",
                " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
                " ROWS UNBOUNDED PRECEDING",
                " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            )
        )
        value = canonical(kind, self.value(kind, scope, 1))
        return self.one(
            lambda: f"row_number() OVER ({total})",
            lambda: (
                f"{self.shape.choice(('rank', 'dense_rank', 'percent_rank', 'cume_dist'))}() OVER ({partition}ORDER BY {lead})"
            ),
            lambda: f"ntile({self.number(1, 5)}) OVER ({total})",
            lambda: f"{self.shape.choice(('lag', 'lead'))}({value}, {self.number(0, 3)}) OVER ({total})",
            lambda: f"{self.shape.choice(('lag', 'lead'))}({value}) OVER ({total})",
            lambda: f"{self.shape.choice(('first_value', 'last_value'))}({value}) OVER ({total}{frame})",
            lambda: f"nth_value({value}, {self.number(1, 3)}) OVER ({total}{frame})",
            lambda: f"sum({self.value(self.shape.choice((INT, NUM)), scope, 0)}) OVER ({total}{frame})",
            lambda: f"avg({self.value(self.shape.choice((INT, NUM)), scope, 0)}) OVER ({total}{frame})",
            lambda: f"sum({self.column(INT, scope)}) OVER ({partition}ORDER BY {self.column(INT, scope)})",
            lambda: f"count({self.column(kind, scope)}) OVER ({partition.strip()})",
            lambda: f"{self.shape.choice(('min', 'max'))}({value}) OVER ({total}{frame})",
        )
