"""Random but valid SQL expressions over three small tables, the same for the same seed. Statements are in `random_sql`.

Owns what an expression looks like, not where it runs. Everything that PostgreSQL leaves open is avoided: rows are cut only
in a total order, values that are equal and yet print differently (`1.0` and `1.00`, `1 mon` and `30 days`) are brought to
one form before they are grouped, and what may fail stands alone in a select list, where no plan can skip it.

The shape of a statement and its literals come from two generators, so that one shape returns with other literals.
"""

# ruff: noqa: E501 - a line is a form of SQL and reads best whole

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

INT, NUM, FLOAT, TEXT, BOOL = "int", "num", "float", "text", "bool"
DATE, STAMP, STAMPTZ, INTERVAL, BYTES, JSON = "date", "stamp", "stamptz", "interval", "bytes", "json"
KINDS = (INT, NUM, FLOAT, TEXT, BOOL, DATE, STAMP, STAMPTZ, INTERVAL, BYTES, JSON)
SORTABLE = (INT, NUM, FLOAT, TEXT, BOOL, DATE, STAMP, STAMPTZ)

Column = tuple[str, str]
"""The SQL of a value and its kind."""

_VALUES: tuple[tuple[str, str, str], ...] = (
    ("i2", "smallint", INT),
    ("i4", "integer", INT),
    ("i8", "bigint", INT),
    ("n", "numeric(12,3)", NUM),
    ("f", "numeric", NUM),
    ("d", "double precision", FLOAT),
    ("t", "text", TEXT),
    ("v", "varchar(12)", TEXT),
    ("c", "char(5)", TEXT),
    ("b", "boolean", BOOL),
    ("da", "date", DATE),
    ("ts", "timestamp", STAMP),
    ("tz", "timestamptz", STAMPTZ),
    ("iv", "interval", INTERVAL),
    ("ra", "bytea", BYTES),
    ("j", "jsonb", JSON),
)


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    key: tuple[tuple[str, str, str], ...]
    values: tuple[tuple[str, str, str], ...] = _VALUES

    @property
    def columns(self) -> tuple[tuple[str, str, str], ...]:
        return self.key + self.values

    def create(self) -> str:
        parts = [f"{name} {kind}" for name, kind, _ in self.columns]
        if self.key:
            parts.append(f"PRIMARY KEY ({', '.join(name for name, _, _ in self.key)})")
        return f"CREATE TABLE {self.name} ({', '.join(parts)})"

    def scope(self, alias: str) -> list[Column]:
        return [(f"{alias}.{name}", kind) for name, _, kind in self.columns]


TABLES = (
    Table("r1", (("k", "integer", INT),)),
    Table("r2", (("k", "bigint", INT), ("k2", "text", TEXT)), _VALUES[:10]),
    Table("r3", (("k", "smallint", INT), ("k2", "date", DATE), ("k3", "varchar(4)", TEXT)), _VALUES[4:14]),
)
_WORDS = (
    "",
    "a",
    "ab",
    "abc",
    "Abc",
    "x ",
    " x",
    "é",
    "Ünï",
    "日本",
    "a_b",
    "10%",
    "it",
    "zz  ",
    "-5",
    "7",
    "b\tc",
    "ß",
    "q'r",
)
_JSON = (
    "{}",
    '{"a": 1}',
    '{"a": 1.50, "b": "x"}',
    "[1, 2, null]",
    "null",
    '"s"',
    '{"a": {"b": [true]}, "b": "é"}',
    "3",
)


@dataclass
class Expressions:
    """Writes statements; `risky` tells whether the last one may fail for what its data holds."""

    shape: random.Random
    literals: random.Random
    prepared: bool = False
    parameters: list[str] = field(default_factory=list)
    risky: bool = False
    aliases: int = 0

    def one(self, *choices: Callable[[], str]) -> str:
        return self.shape.choice(choices)()

    def chance(self, share: float) -> bool:
        return self.shape.random() < share

    def alias(self) -> str:
        self.aliases += 1
        return f"x{self.aliases}"

    # Literals

    def raw(self, kind: str) -> tuple[str, str]:
        """Return the text of a value and its type's name."""
        pick = self.literals
        if kind == INT:
            return str(pick.choice((0, 1, 2, 3, 5, 7, -1, -2, 10, 42, 100, pick.randint(-300, 300)))), "integer"
        if kind == NUM:
            digits = pick.choice((0, 1, 2, 3))
            return f"{pick.choice((0, 1, -1, 2.5, 100, pick.uniform(-99, 99))):.{digits}f}", "numeric"
        if kind == FLOAT:
            return str(pick.choice((0.0, 1.5, -2.25, 0.1, 1e6, pick.randint(-400, 400) / 4))), "double precision"
        if kind == TEXT:
            return pick.choice(_WORDS), "text"
        if kind == BOOL:
            return pick.choice(("true", "false")), "boolean"
        day = f"20{pick.randint(19, 24)}-{pick.randint(1, 12):02}-{pick.choice((1, 2, 28, 15)):02}"
        time = pick.choice(("00:00:00", "12:34:56.789", "23:59:59.999999", f"{pick.randint(0, 23):02}:30:00"))
        if kind == DATE:
            return pick.choice((day, day, "2020-02-29", "1969-12-31")), "date"
        if kind == STAMP:
            return f"{day} {time}", "timestamp"
        if kind == STAMPTZ:
            return f"{day} {time}{pick.choice(('+00', '-05', '+05:30'))}", "timestamptz"
        if kind == INTERVAL:
            unit = pick.choice(("day", "hour", "month", "minute", "year", "second"))
            return pick.choice(
                (f"{pick.randint(-40, 40)} {unit}", "1 mon 2 days 03:04:05.5", "-1 day +02:00:00")
            ), "interval"
        if kind == BYTES:
            return pick.choice(("\\x", "\\x00ff", "\\x61", "\\xdeadbeef", "\\x6100")), "bytea"
        return pick.choice(_JSON), "jsonb"

    def literal(self, kind: str) -> str:
        text, name = self.raw(kind)
        bare = self.chance(0.7)
        if self.prepared:
            self.parameters.append(text)
            return f"${len(self.parameters)}::{name}"
        if kind in (INT, NUM) and bare:
            return text if not text.startswith("-") else f"({text})"
        if kind == TEXT and bare:
            return "'" + text.replace("'", "''") + "'"
        return f"{name} '" + text.replace("'", "''") + "'"

    def number(self, low: int, high: int) -> str:
        return str(self.literals.randint(low, high))

    # Expressions

    def column(self, kind: str, scope: Sequence[Column]) -> str:
        found = [name for name, one in scope if one == kind]
        return self.shape.choice(found) if found else self.literal(kind)

    def leaf(self, kind: str, scope: Sequence[Column]) -> str:
        share = self.shape.random()
        if share < 0.04:
            null = {
                INT: "bigint",
                NUM: "numeric",
                FLOAT: "float8",
                STAMP: "timestamp",
                STAMPTZ: "timestamptz",
                JSON: "jsonb",
            }
            return f"NULL::{null.get(kind, kind if kind != BYTES else 'bytea')}"
        return self.column(kind, scope) if share < 0.75 else self.literal(kind)

    def value(self, kind: str, scope: Sequence[Column], depth: int = 2) -> str:
        """Return an expression that cannot fail."""
        if depth <= 0 or self.chance(0.2):
            return self.leaf(kind, scope)
        share = self.shape.random()
        if share < 0.08:
            return f"coalesce({self.value(kind, scope, depth - 1)}, {self.value(kind, scope, depth - 1)})"
        if share < 0.16:
            other = f" ELSE {self.value(kind, scope, depth - 1)}" if self.chance(0.7) else ""
            return (
                f"CASE WHEN {self.value(BOOL, scope, depth - 1)} THEN {self.value(kind, scope, depth - 1)}{other} END"
            )
        if share < 0.20 and kind in SORTABLE:
            return f"nullif({self.value(kind, scope, depth - 1)}, {self.value(kind, scope, depth - 1)})"
        if share < 0.24 and kind in SORTABLE:
            values = ", ".join(self.value(kind, scope, depth - 1) for _ in range(self.shape.randint(1, 3)))
            return f"{self.shape.choice(('greatest', 'least'))}({values})"
        if share < 0.27:
            operand = self.value(INT, scope, depth - 1)
            return f"CASE {operand} WHEN {self.literal(INT)} THEN {self.value(kind, scope, 0)} ELSE {self.value(kind, scope, 0)} END"
        made: Callable[[Sequence[Column], int], str] = getattr(self, f"_{kind}")
        return made(scope, depth - 1)

    def _int(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = INT) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()}::bigint {self.shape.choice('+-')} {sub()})",
            lambda: f"({sub()} % 1000 * ({sub()} % 997)::bigint)",
            lambda: f"({sub()}::bigint / nullif({sub()}, 0))",
            lambda: f"({sub()}::bigint % nullif({sub()}, 0))",
            lambda: f"abs({sub()}::bigint)",
            lambda: f"{self.shape.choice(('length', 'char_length', 'octet_length', 'ascii'))}({sub(TEXT)})",
            lambda: f"position({self.literal(TEXT)} in {sub(TEXT)})",
            lambda: (
                f"extract({self.shape.choice(('year', 'month', 'day', 'dow', 'doy', 'week', 'quarter'))} from {sub(DATE)})::integer"
            ),
            lambda: f"({sub(DATE)} - {sub(DATE)})",
            lambda: f"sign({sub()})::integer",
            lambda: f"({sub()} & {sub()})",
            lambda: f"({sub()} | {self.literal(INT)})",
            lambda: f"length({sub(BYTES)})",
            lambda: f"(- {sub()}::bigint)",
            lambda: f"({sub(BOOL)})::integer",
        )

    def _num(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = NUM) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()} {self.shape.choice('+-*')} {sub()})",
            lambda: f"({sub()} / nullif({sub()}, 0))",
            lambda: f"({sub()} % nullif({sub()}, 0))",
            lambda: f"round({sub()}, {self.number(-2, 4)})",
            lambda: f"trunc({sub()}, {self.number(0, 3)})",
            lambda: f"{self.shape.choice(('abs', 'ceil', 'floor', 'round', 'sign', 'trunc'))}({sub()})",
            lambda: f"({sub(INT)})::numeric",
            lambda: f"({sub(INT)} * {sub()})",
            lambda: f"({sub(INT)} / nullif({self.column(NUM, scope)}, 0))",
            lambda: f"extract({self.shape.choice(('epoch', 'hour', 'second', 'year'))} from {sub(STAMP)})",
            lambda: f"(- {sub()})",
            lambda: f"trim_scale({sub()})",
            lambda: f"sqrt(abs({self.leaf(INT, scope)}::numeric))",
        )

    def _float(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = FLOAT) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()} {self.shape.choice('+-')} {sub()})",
            lambda: f"({sub()} * {self.literal(INT)})",
            lambda: f"({sub()} / nullif({sub()}, 0))" if depth == 0 else f"({sub()} / 3)",
            lambda: f"{self.shape.choice(('abs', 'ceil', 'floor', 'round', 'trunc', 'sign'))}({sub()})",
            lambda: f"({sub(INT)})::float8",
            lambda: f"({self.leaf(NUM, scope)})::float8",
            lambda: f"sqrt(abs({sub()}))",
            lambda: f"({sub()} + {self.leaf(NUM, scope)})",
            lambda: f"({sub()} - {self.leaf(INT, scope)})",
        )

    def _text(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = TEXT) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()} || {sub()})",
            lambda: f"({sub()} || {self.value(INT, scope, depth)})",
            lambda: (
                f"{self.shape.choice(('upper', 'lower', 'trim', 'ltrim', 'rtrim', 'reverse', 'initcap', 'md5'))}({sub()})"
            ),
            lambda: f"substr({sub()}, {self.number(-1, 4)}, {self.number(0, 4)})",
            lambda: f"substring({sub()} from {self.number(1, 3)})",
            lambda: f"{self.shape.choice(('left', 'right'))}({sub()}, {self.number(-2, 4)})",
            lambda: f"replace({sub()}, {self.literal(TEXT)}, {self.literal(TEXT)})",
            lambda: f"{self.shape.choice(('lpad', 'rpad'))}({sub()}, {self.number(0, 7)}, {self.literal(TEXT)})",
            lambda: f"split_part({sub()}, {self.literal(TEXT)}, {self.number(1, 2)})",
            lambda: f"({sub(self.shape.choice((INT, NUM, BOOL, DATE, STAMP, STAMPTZ, INTERVAL, BYTES, JSON)))})::text",
            lambda: f"({sub()})::varchar({self.number(1, 6)})",
            lambda: f"({sub()})::char({self.number(1, 6)})",
            lambda: f"concat({sub()}, {sub(INT)}, {sub(DATE)})",
            lambda: f"concat_ws('-', {sub()}, {sub(NUM)})",
            lambda: f"to_char({sub(DATE)}, 'YYYY-MM Day DDD')",
            lambda: f"({self.column(JSON, scope)} ->> {self.shape.choice(_KEYS)})",
            lambda: f"encode({sub(BYTES)}, 'hex')",
            lambda: f"translate({sub()}, 'abé', 'xy')",
            lambda: f"repeat({self.leaf(TEXT, scope)}, {self.number(0, 3)})",
        )

    def _bool(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str) -> str:
            return self.value(kind, scope, depth)

        kind = self.shape.choice(SORTABLE)
        return self.one(
            lambda: f"({sub(kind)} {self.shape.choice(('=', '<>', '<', '<=', '>', '>='))} {sub(kind)})",
            lambda: (
                f"({self.column(kind, scope)} {self.shape.choice(('=', '<>', '<', '<=', '>', '>='))} {self.literal(kind)})"
            ),
            lambda: f"({self.column(kind, scope)} {self.shape.choice(('=', '<', '>='))} {self.column(kind, scope)})",
            lambda: (
                f"({sub(self.shape.choice((INT, NUM)))} {self.shape.choice(('=', '<', '>'))} {sub(self.shape.choice((INT, NUM, FLOAT)))})"
            ),
            lambda: f"({sub(INTERVAL)} {self.shape.choice(('=', '<', '>'))} {sub(INTERVAL)})",
            lambda: f"({sub(BYTES)} {self.shape.choice(('=', '<', '>'))} {sub(BYTES)})",
            lambda: (
                f"({self.shape.choice((sub(STAMP), sub(DATE)))} {self.shape.choice(('=', '<', '>'))} {self.shape.choice((sub(STAMPTZ), sub(DATE)))})"
            ),
            lambda: f"({sub(self.shape.choice(KINDS))} IS {self.shape.choice(('', 'NOT '))}NULL)",
            lambda: f"({sub(kind)} IS {self.shape.choice(('', 'NOT '))}DISTINCT FROM {sub(kind)})",
            lambda: f"({sub(BOOL)} {self.shape.choice(('AND', 'OR'))} {sub(BOOL)})",
            lambda: f"(NOT {sub(BOOL)})",
            lambda: (
                f"({sub(BOOL)} IS {self.shape.choice(('', 'NOT '))}{self.shape.choice(('TRUE', 'FALSE', 'UNKNOWN'))})"
            ),
            lambda: (
                f"({sub(TEXT)} {self.shape.choice(('', 'NOT '))}{self.shape.choice(('LIKE', 'ILIKE'))} {self.shape.choice(_PATTERNS)})"
            ),
            lambda: f"({sub(TEXT)} {self.shape.choice(('~', '!~', '~*'))} {self.shape.choice(_REGEXES)})",
            lambda: (
                f"({sub(kind)} {self.shape.choice(('', 'NOT '))}IN ({', '.join(self.leaf(kind, scope if self.chance(0.3) else ()) for _ in range(3))}))"
            ),
            lambda: (
                f"({sub(kind)} {self.shape.choice(('', 'NOT '))}BETWEEN {self.leaf(kind, scope)} AND {self.leaf(kind, scope)})"
            ),
            lambda: f"(({sub(INT)}, {sub(kind)}) {self.shape.choice(('=', '<', '>='))} ({sub(INT)}, {sub(kind)}))",
            lambda: f"starts_with({sub(TEXT)}, {self.literal(TEXT)})",
        )

    def _date(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = DATE) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()} {self.shape.choice('+-')} {self.literal(INT)})",
            lambda: f"({sub(STAMP)})::date",
            lambda: f"({sub(STAMPTZ)})::date",
            lambda: f"date_trunc('{self.shape.choice(('month', 'year', 'week', 'quarter'))}', {sub()})::date",
        )

    def _stamp(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = STAMP) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()} {self.shape.choice('+-')} {self.leaf(INTERVAL, scope)})",
            lambda: f"({sub(DATE)} {self.shape.choice('+-')} {self.leaf(INTERVAL, scope)})",
            lambda: f"({sub(DATE)})::timestamp",
            lambda: f"({sub(STAMPTZ)} AT TIME ZONE 'America/New_York')",
            lambda: f"date_trunc('{self.shape.choice(('hour', 'day', 'month', 'second', 'week'))}', {sub()})",
        )

    def _stamptz(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = STAMPTZ) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({sub()} {self.shape.choice('+-')} {self.leaf(INTERVAL, scope)})",
            lambda: f"({sub(STAMP)})::timestamptz",
            lambda: f"({sub(STAMP)} AT TIME ZONE 'Europe/Paris')",
            lambda: f"date_trunc('day', {sub()})",
        )

    def _interval(self, scope: Sequence[Column], depth: int) -> str:
        def sub(kind: str = INTERVAL) -> str:
            return self.value(kind, scope, depth)

        return self.one(
            lambda: f"({self.leaf(INTERVAL, scope)} {self.shape.choice('+-')} {self.leaf(INTERVAL, scope)})",
            lambda: f"({self.leaf(INTERVAL, scope)} * {self.number(-3, 9)})",
            lambda: f"({sub(STAMP)} - {sub(STAMP)})",
            lambda: f"age({sub(STAMP)}, {sub(STAMP)})",
            lambda: f"justify_hours({self.leaf(INTERVAL, scope)})",
            lambda: f"(- {sub()})",
            lambda: f"({self.leaf(INTERVAL, scope)} / {self.number(2, 7)})",
        )

    def _bytes(self, scope: Sequence[Column], depth: int) -> str:
        return self.one(
            lambda: f"({self.value(BYTES, scope, depth)} || {self.value(BYTES, scope, depth)})",
            lambda: f"convert_to({self.value(TEXT, scope, depth)}, 'UTF8')",
            lambda: f"substr({self.value(BYTES, scope, depth)}, {self.number(1, 3)})",
        )

    def _json(self, scope: Sequence[Column], depth: int) -> str:
        return self.one(
            lambda: f"({self.column(JSON, scope)} -> {self.shape.choice(_KEYS)})",
            lambda: self.leaf(JSON, scope),
        )

    def risk(self, scope: Sequence[Column]) -> tuple[str, str]:
        """Return one expression that fails for some values, and its kind."""
        self.risky = True
        integer, number, text = (self.column(kind, scope) for kind in (INT, NUM, TEXT))
        return self.shape.choice(
            (
                (f"{integer} / {self.column(INT, scope)}", INT),
                (f"{integer} % {self.column(INT, scope)}", INT),
                (f"{integer} * {integer}", INT),
                (f"{integer} + {self.shape.choice(('32767::smallint', '2147483647', '9223372036854775807'))}", INT),
                (f"{integer}::smallint", INT),
                (f"{number}::integer", INT),
                (f"{number}::numeric(5,2)", NUM),
                (f"{number} / {self.column(NUM, scope)}", NUM),
                (f"{self.column(FLOAT, scope)} / {self.column(FLOAT, scope)}", FLOAT),
                (f"{self.column(FLOAT, scope)}::integer", INT),
                (f"{text}::integer", INT),
                (f"{text}::numeric", NUM),
                (f"{text}::date", DATE),
                (f"{text}::boolean", BOOL),
                (f"sqrt({number})", NUM),
                (f"ln({self.column(FLOAT, scope)})", FLOAT),
                (f"power({self.column(FLOAT, scope)}, {self.literal(NUM)}::float8)", FLOAT),
                (f"({self.column(DATE, scope)} + {integer})", DATE),
                (f"chr({integer})", TEXT),
            )
        )


_KEYS = ("'a'", "'b'", "'z'")
_PATTERNS = ("'a%'", "'%b%'", "'_b%'", "'%'", "''", "'%é%'", "'a\\_b'", "'10\\%'", "'%x '", "'__'", "'Ü%'")
_REGEXES = ("'^a'", "'b$'", "'[0-9]+'", "'(a|x)'", "'^$'", "'é'", "'\\d'", "'^.{2}$'")
