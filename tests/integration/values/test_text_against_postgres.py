"""Every text form that the engine takes or prints, held against a live PostgreSQL 15.

Each literal goes through PostgreSQL's input and output functions and through ours; value text, SQLSTATE, message,
detail and hint must be the same.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType, type_name
from orbit.kernel.values import format_binary, format_text, parse_binary, parse_text, time_zone

pytestmark = pytest.mark.integration

Outcome = tuple[str | None, ...]
"""(printed, SQLSTATE, message, detail, hint): the first, or the others."""

_FUNCTION = """
create function attempt(expression text, literal text, out printed text, out state text, out message text,
                        out detail text, out hint text) language plpgsql as $$
begin
    execute 'select format(''%s'', ' || expression || ')' into printed using literal;
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
                            hint = pg_exception_hint;
end $$"""


@pytest.fixture(scope="module")
def reference(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("drop function if exists attempt")
        connection.execute(_FUNCTION)
        yield connection


def ask(reference: psycopg.Connection[Any], sql_type: SqlType, literals: list[str]) -> list[Outcome]:
    """Return what PostgreSQL says to each literal."""
    if sql_type.oid == Oid.VARCHAR:
        expression = f"varcharin($1::cstring, 0, {sql_type.modifier})"  # a cast would cut silently
    elif sql_type.oid == Oid.BPCHAR:
        expression = f"bpcharin($1::cstring, 0, {sql_type.modifier})"
    elif sql_type.modifier >= 0 and sql_type.oid in _CASTS:
        expression = f"$1::{_CASTS[Oid(sql_type.oid)].format(sql_type.modifier & 0xFFFF)}"
    else:
        expression = f"$1::{type_name(sql_type)}"
    rows = reference.execute(
        "select a.* from unnest(%s::text[]) with ordinality as l(literal, n), lateral attempt(%s, literal) as a "
        "order by n",
        (literals, expression),
    ).fetchall()
    return [tuple(value or None for value in row) if row[1] else (row[0], None, None, None, None) for row in rows]


def answer(parse: Callable[[str], Any], print_: Callable[[Any], bytes], literal: str) -> Outcome:
    """Return what we say."""
    try:
        return print_(parse(literal)).decode(), None, None, None, None
    except OrbitError as error:
        return None, error.sqlstate, error.message, error.detail, error.hint


def compare(reference: psycopg.Connection[Any], sql_type: SqlType, literals: list[str], zone: str = "UTC") -> None:
    reference.execute("select set_config('TimeZone', %s, false)", (zone,))
    parse = parse_text(sql_type.oid, sql_type.modifier, time_zone(zone))
    print_ = format_text(sql_type.oid, time_zone(zone))
    expected = ask(reference, sql_type, literals)
    different = [
        (literal, theirs, ours)
        for literal, theirs in zip(literals, expected, strict=True)
        if (ours := answer(parse, print_, literal)) != theirs
    ]
    assert not different, f"{len(different)} of {len(literals)} differ\n" + "\n".join(
        f"  {literal!r}\n    PostgreSQL {theirs}\n    ours       {ours}" for literal, theirs, ours in different[:20]
    )


LITERALS: dict[int, list[str]] = {
    Oid[name]: literals for name, literals in json.loads(Path(__file__).with_name("literals.json").read_text()).items()
}


@pytest.mark.parametrize("oid", LITERALS, ids=lambda oid: Oid(oid).name.lower())
def test_literals(reference: psycopg.Connection[Any], oid: int) -> None:
    compare(reference, SqlType(oid), LITERALS[oid])


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe", "America/St_Johns"]
)
def test_timestamptz_in_zones(reference: psycopg.Connection[Any], zone: str) -> None:
    chance = random.Random(7)
    moments = [f"{_date(chance, 1800, 2600)} {_clock(chance)}" for _ in range(800)]
    changes = [  # days on which some zone changes its clocks, and others
        f"2021-{month}-{day} {hour:02d}:{minute}:00"
        for month in (3, 4, 10, 11)
        for day in (3, 4, 7, 14, 28)
        for hour in range(4)
        for minute in (0, 15, 30, 59)
    ]
    compare(reference, SqlType(Oid.TIMESTAMPTZ), LITERALS[Oid.TIMESTAMPTZ] + moments + changes, zone)


_ROUNDED = ["1", "999.99", "999.994", "999.995", "-999.995", "1000", "0.005", "-0.005", "NaN", "inf", "-0.001", "1.005"]
_TIMESTAMPS = ["2001-02-03 04:05:06.7895", "1999-12-31 23:59:59.9995", "1999-12-31 23:59:59.0005", "infinity", "epoch"]
MODIFIED = [
    (SqlType(Oid.VARCHAR, 4 + 3), ["abc", "abcd", "abc  ", "ab   ", "", "日本語", "日本語語"]),
    (SqlType(Oid.BPCHAR, 4 + 3), ["abc", "abcd", "abc  ", "a", "", "日本", "日本語語"]),
    (SqlType(Oid.NUMERIC, (5 << 16 | 2) + 4), _ROUNDED),
    (SqlType(Oid.NUMERIC, (3 << 16 | 3) + 4), ["0.9994", "0.9995", "1", "0"]),
    (SqlType(Oid.NUMERIC, (38 << 16 | 10) + 4), ["1234567890123456789012345678.12345678905", "1e27", "1e28"]),
    (SqlType(Oid.TIMESTAMP, 3), _TIMESTAMPS),
    (SqlType(Oid.TIMESTAMPTZ, 0), _TIMESTAMPS),
    (SqlType(Oid.TIME, 2), ["04:05:06.785", "23:59:59.999", "04:05:06"]),
    (SqlType(Oid.INTERVAL, 0x7FFF << 16 | 1), ["1.25 s", "-1.25 s", "1 day 00:00:00.05"]),
]
_CASTS = {
    Oid.TIMESTAMP: "timestamp({})",
    Oid.TIMESTAMPTZ: "timestamptz({})",
    Oid.TIME: "time({})",
    Oid.INTERVAL: "interval({})",
}


@pytest.mark.parametrize(("sql_type", "literals"), MODIFIED, ids=[type_name(sql_type) for sql_type, _ in MODIFIED])
def test_modifiers(reference: psycopg.Connection[Any], sql_type: SqlType, literals: list[str]) -> None:
    compare(reference, sql_type, literals)


def _json_value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(7 if depth < 4 else 5)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind == 1:
        return chance.randint(-(10**20), 10**20)
    if kind == 2:
        return chance.uniform(-1000, 1000)
    if kind < 5:
        return "".join(chance.choice('ab"\\\n\t/é😀\x01 ') for _ in range(chance.randrange(6)))
    if kind == 5:
        return [_json_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {
        "".join(chance.choice("abcé") for _ in range(chance.randrange(4))): _json_value(chance, depth + 1)
        for _ in range(chance.randrange(5))
    }


def _decimal_text(chance: random.Random) -> str:
    text = f"{chance.choice('+- ').strip()}{chance.randint(0, 10 ** chance.randint(0, 25))}"
    if chance.random() < 0.7:
        text += f".{chance.randint(0, 10 ** chance.randint(0, 12))}"
    return text + (f"e{chance.randint(-30, 30)}" if chance.random() < 0.3 else "")


def _date(chance: random.Random, first: int = 1, last: int = 9999) -> str:
    return f"{chance.randint(first, last):04d}-{chance.randint(1, 12):02d}-{chance.randint(1, 28):02d}"


def _clock(chance: random.Random) -> str:
    return f"{chance.randint(0, 23)}:{chance.randint(0, 59):02d}:{chance.randint(0, 59):02d}"


def _era(chance: random.Random) -> str:
    return chance.choice(["", "", " BC"])


def _any_day(chance: random.Random) -> str:
    return f"{chance.randint(1, 9999):04d}-{chance.randint(1, 13):02d}-{chance.randint(1, 31):02d}{_era(chance)}"


def _timestamp(chance: random.Random) -> str:
    return f"{_date(chance, 1, 20_000)} {_clock(chance)}.{chance.randint(0, 99_999_999)}{_era(chance)}"


def _plain_interval(chance: random.Random) -> str:
    clock = f"{chance.choice('+-')}{chance.randint(0, 99)}:{chance.randint(0, 59)}:{chance.randint(0, 59)}"
    return f"{chance.randint(-40, 40)} mons {chance.randint(-40, 40)} days {clock}.{chance.randint(0, 999_999)}"


def _fractional_interval(chance: random.Random) -> str:
    units = [unit for unit in ("years", "mons", "weeks", "days", "hours", "min", "s") if chance.random() < 0.4]
    return " ".join(f"{round(chance.uniform(-99, 99), chance.randint(0, 4))} {unit}" for unit in units) or "0"


def _mutated(text: str, chance: random.Random) -> str:
    at = chance.randrange(len(text) + 1)
    return text[:at] + chance.choice(['"', ",", "]", "}", "x", "1", " ", ":", "\\"]) + text[at + chance.randrange(2) :]


RANDOM: list[tuple[SqlType, Callable[[random.Random], str]]] = [
    (SqlType(Oid.INT8), lambda chance: str(chance.getrandbits(chance.randint(1, 66)) - (1 << 63) // 7)),
    (SqlType(Oid.FLOAT8), lambda chance: repr(struct.unpack("<d", chance.randbytes(8))[0])),
    (SqlType(Oid.FLOAT8), lambda chance: f"{chance.randint(1, 10**17)}e{chance.randint(0, 25)}"),
    (SqlType(Oid.FLOAT8), lambda chance: repr(round(chance.uniform(-1e6, 1e6), chance.randint(0, 6)))),
    (SqlType(Oid.FLOAT8), lambda chance: repr(float(chance.getrandbits(chance.randint(40, 64))))),
    (SqlType(Oid.FLOAT4), lambda chance: repr(struct.unpack("<f", chance.randbytes(4))[0])),
    (SqlType(Oid.FLOAT4), lambda chance: repr(chance.uniform(-2000, 2000))),
    (SqlType(Oid.FLOAT4), lambda chance: str(chance.getrandbits(chance.randint(18, 40)))),
    (SqlType(Oid.NUMERIC), _decimal_text),
    (SqlType(Oid.NUMERIC, (12 << 16 | 4) + 4), _decimal_text),
    (SqlType(Oid.BYTEA), lambda chance: "\\x" + chance.randbytes(chance.randrange(9)).hex()),
    (SqlType(Oid.DATE), _any_day),
    (SqlType(Oid.TIMESTAMP), _timestamp),
    (SqlType(Oid.INTERVAL), _plain_interval),
    (SqlType(Oid.INTERVAL), _fractional_interval),
    (SqlType(Oid.JSONB), lambda chance: json.dumps(_json_value(chance), ensure_ascii=chance.random() < 0.5)),
    (SqlType(Oid.JSON), lambda chance: _mutated(json.dumps(_json_value(chance)), chance)),
]


@pytest.mark.parametrize(
    ("sql_type", "make"), RANDOM, ids=[f"{n}-{Oid(t.oid).name.lower()}" for n, (t, _) in enumerate(RANDOM)]
)
def test_random_literals(
    reference: psycopg.Connection[Any], sql_type: SqlType, make: Callable[[random.Random], str]
) -> None:
    chance = random.Random(20_241)
    compare(reference, sql_type, [make(chance) for _ in range(1500)])


@pytest.mark.parametrize("oid", LITERALS, ids=lambda oid: Oid(oid).name.lower())
def test_binary_form(reference: psycopg.Connection[Any], oid: int) -> None:
    """PostgreSQL's binary output of each valid literal reads back as our value, and is what we would send."""
    reference.execute("set timezone to utc")
    parse, read, write = parse_text(oid), parse_binary(oid), format_binary(oid)
    name = type_name(SqlType(oid))
    checked = 0
    for literal in LITERALS[oid]:
        try:
            value = parse(literal)
        except OrbitError:
            continue
        row = reference.execute(f"select %s::text::{name}", (literal,), binary=True)
        result = row.pgresult
        assert result is not None
        wire = result.get_value(0, 0)
        assert wire is not None
        assert write(value) == wire, literal
        back = read(wire)
        assert back == value or back != back, literal
        checked += 1
    assert checked > 1
