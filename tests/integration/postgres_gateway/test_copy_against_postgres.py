"""COPY's formats held against a live PostgreSQL 15: the same input gives the same rows, or the same error in full.

The parser is asked directly, in one block and cut into blocks at every size, by its fast way and by the exact one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC
from typing import Any

import psycopg
import pyarrow as pa
import pytest

from orbit.kernel.types import Oid, SqlType, type_name
from orbit.kernel.values.columns import text_column
from orbit.kernel.values.copy_text import CopyStyle, encode_copy_rows
from services.gateway.protocols.postgres import copy_parse
from services.gateway.protocols.postgres.copy_parse import Parsed, parse_block
from services.gateway.protocols.postgres.copy_rows import CopyDataError, CopySpec, cut, newline_of
from services.storage.client import ColumnDescription, CopyFormat

pytestmark = pytest.mark.integration

TYPES = {
    "i": SqlType(Oid.INT4),
    "t": SqlType(Oid.TEXT),
    "n": SqlType(Oid.NUMERIC, (7 << 16 | 2) + 4),
    "u": SqlType(Oid.NUMERIC),
    "f": SqlType(Oid.FLOAT8),
    "b": SqlType(Oid.BOOL),
    "d": SqlType(Oid.DATE),
    "s": SqlType(Oid.TIMESTAMP),
    "z": SqlType(Oid.TIMESTAMPTZ),
    "v": SqlType(Oid.VARCHAR, 4 + 3),
    "c": SqlType(Oid.BPCHAR, 4 + 3),
    "j": SqlType(Oid.JSONB),
    "x": SqlType(Oid.BYTEA),
    "y": SqlType(Oid.UUID),
}
Rows = list[tuple[str | None, ...]]


def spec_of(columns: str, *, csv: bool, **options: Any) -> CopySpec:
    described = tuple(ColumnDescription(f"{kind}{at}", TYPES[kind]) for at, kind in enumerate(columns))
    words = {"format": "csv" if csv else "text", "delimiter": "," if csv else "\t", "null": "" if csv else "\\N"}
    return CopySpec(CopyFormat(**{**words, **options}, columns=described, table="t"), UTC)


@pytest.fixture(scope="module")
def reference(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        yield connection


def theirs(reference: psycopg.Connection[Any], data: bytes, spec: CopySpec) -> Rows | tuple[str | None, ...]:
    columns = ", ".join(f"{column.name} {type_name(column.type)}" for column in spec.copy.columns)
    reference.execute("drop table if exists t")
    reference.execute(f"create table t ({columns})")
    copy = spec.copy
    options = f"format {copy.format}, delimiter '{copy.delimiter}', null '{copy.null}', header {copy.header}"
    if spec.csv:
        quote, escape = copy.quote.replace("'", "''"), copy.escape.replace("'", "''")
        options += f", quote '{quote}', escape '{escape}'"
    try:
        with reference.cursor().copy(f"copy t from stdin ({options})") as sink:
            sink.write(data)
    except psycopg.Error as error:
        diagnosis = error.diag
        return diagnosis.sqlstate, diagnosis.message_primary, diagnosis.message_hint, diagnosis.context
    rows = reference.execute(f"select {', '.join(_shown(name) for name in spec.names)} from t order by ctid").fetchall()
    return [tuple(row) for row in rows]


def _shown(name: str) -> str:
    """A column as its output function prints it (a cast to text would cut the blanks of char(n))."""
    return f"case when {name} is not null then format('%s', {name}) end"


def decoded(parsed: Parsed, spec: CopySpec) -> Rows:
    rows: Rows = []
    for piece in parsed.pieces:
        table = pa.ipc.open_stream(piece).read_all()
        texts = [
            text_column(column, sql_type.oid).to_pylist()
            for column, sql_type in zip(table.columns, spec.types, strict=True)
        ]
        rows += list(zip(*texts, strict=True))
    return rows


def ours(data: bytes, spec: CopySpec, block_bytes: int | None = None) -> Rows | tuple[str | None, ...]:
    """Parse as the pipeline does: cut into blocks of at least this size, in order."""
    rows: Rows = []
    lines, header, newline = 0, spec.copy.header, newline_of(data, spec)
    try:
        while data:
            end = len(data)
            if block_bytes is not None and block_bytes < len(data):
                size = block_bytes
                while not (end := cut(data[:size], spec)) and size < len(data):
                    size *= 2
                end = end or len(data)
            parsed = parse_block(data[:end], spec, newline, header)
            rows += decoded(parsed, spec)
            lines, header, data = lines + parsed.lines, False, b"" if parsed.ended else data[end:]
    except CopyDataError as error:
        error.located("t", lines)
        return error.sqlstate, error.message, error.hint, error.context
    return rows


TEXT_INPUTS: list[tuple[str, bytes]] = [
    ("it", b"1\ta\n2\tb\n"),
    ("it", b"1\ta\n2\tb"),
    ("it", b"1\t\\N\n\\N\t\n"),
    ("it", b"1\ta\\tb\\\\c\\nd\\101\\x41\\q\\b\\f\\r\\v\n"),
    ("it", b"1\ta\\\nb\n2\tc\\\\\n"),
    ("it", b"1\ta\\\tb\n"),
    ("it", b"1\ta\\Nb\n"),
    ("it", b"1\ta\n\\.\n2\tb\n"),
    ("it", b"1\n"),
    ("it", b"1\ta\tb\n"),
    ("it", b"\n"),
    ("it", b"1\ta\n\n2\tb\n"),
    ("it", b"x\ta\n"),
    ("it", b"1\ta\n99999999999\tb\n"),
    ("it", b"0x10\ta\n"),
    ("it", b" 7 \ta\n+5\tb\n-0\tc\n007\td\n"),
    ("it", b"1\ta\r\n2\tb\r\n"),
    ("it", b"1\ta\rb\n2\tc\n"),
    ("it", b"1\tgr\xc3\xbc\xc3\x9fe\n"),
    ("it", b"1\t\xff\n"),
    ("it", b"1\ta\x00b\n"),
    ("it", b"1\t" + b"long " * 60 + b"\textra\n"),
    ("t", b"\n\na\n"),
    ("n", b"1\n1.5\n1.239\n1.235\n-1.235\n12345.67\n1e2\n.5\n5.\n+1\n 2 \n"),
    ("n", b"123456.7\n"),
    ("n", b"12345.678\n99999.995\n"),
    ("u", b"1\n1.50\n-0\n-0.00\n007\n1e5\n.5\n5.\n+1\nNaN\n123456789012345678901234567890.5\n-0.5\nInfinity\n"),
    ("u", b"1_0\n"),
    ("f", b"1\n1.5\nnan\n1e300\n.5\n-0\n1e-5\n123456789012345678\n"),
    ("f", b"inf\n-Infinity\n"),
    ("f", b"1e400\n"),
    ("f", b"1e-400\n"),
    ("f", b"0x1\n"),
    ("b", b"t\nf\ntrue\nfalse\nyes\nno\n1\n0\non\noff\n"),
    ("b", b"TrUe\nn\n"),
    ("b", b"maybe\n"),
    ("d", b"2001-02-03\n 2001-02-03 \nJan 8 1999\n1/2/2001\ninfinity\n0044-03-15 BC\n"),
    ("d", b"2001-02-30\n"),
    ("d", b"0000-01-01\n"),
    ("s", b"2001-02-03 04:05:06\n2001-02-03 04:05:06.5\n2001-02-03T04:05:06.123456\n"),
    ("s", b"2001-02-03 04:05:06\n2001-02-03\ninfinity\n2001-02-03 24:00:00\n2001-02-03 04:05:06.1234567\n"),
    ("s", b"2001-02-30 04:05:06\n"),
    ("s", b"0000-02-03 04:05:06\n"),
    ("z", b"2001-02-03 04:05:06\n2001-02-03 04:05:06+05:30\n2001-02-03 04:05:06Z\n"),
    ("vc", b"abc\tabc\na\ta\n\xc3\xbcbc\t\xc3\xbc\nab \ta  \nabc  \tabc  \n"),
    ("v", b"abcd\n"),
    ("c", b"abcd\n"),
    ("j", b'{"b":1,"a":[1.0]}\n1\n'),
    ("j", b"{bad\n"),
    ("x", b"\\\\x00ff\nabc\n"),
    ("y", b"A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\na0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\n"),
    ("y", b"nope\n"),
    ("itn", b"1\ta\t1.5\n\\N\t\\N\t\\N\n"),
]

CSV_INPUTS: list[tuple[str, bytes]] = [
    ("it", b"1,a\n2,b\n"),
    ("it", b"1,\n,b\n"),
    ("it", b'1,""\n2,"b"\n'),
    ("it", b'1,"a,b"\n2,"a ""q"" b"\n3,"line\nbreak"\n4,x\n'),
    ("it", b'1,a"b"c\n'),
    ("it", b'1,a"b,c"d\n2,"x"y"z"\n'),
    ("it", b'1,"abc"def\n'),
    ("it", b'"1",a\n'),
    ("it", b'"",a\n'),
    ("it", b'0,z\n1,"open\n2,b\n'),
    ("it", b'0,z\n1,a"\n'),
    ("it", b"1\n"),
    ("it", b"1,2,3\n"),
    ("it", b"1,a\n\n2,b\n"),
    ("it", b"\n"),
    ("it", b"1,a\r\n2,b\r\n"),
    ("it", b'1,"a\r\nb"\n'),
    ("it", b"1,a\rb\n"),
    ("it", b"1,a\\tb\\N\n"),
    ("it", b"1,a\n\\.\n2,b\n"),
    ("it", b"1, a \n2,b"),
    ("it", b"x,a\n"),
    ("it", b'1,a\n2,"two\nlines"\nx,b\n'),
    ("it", b'1,"\xff"\n'),
    ("t", b"a\n\nb\n"),
    ("t", b'""\n"x"\n'),
    ("nfs", b"1.5,2.5,2001-02-03 04:05:06\n,,\n"),
    ("vc", b"abc,a\n,\n"),
    ("j", b'"{""a"": 1}"\n'),
]


def check(reference: psycopg.Connection[Any], data: bytes, spec: CopySpec) -> None:
    expected = theirs(reference, data, spec)
    for block_bytes in (None, 1, 7, 20):
        assert ours(data, spec, block_bytes) == expected, (data, block_bytes)


@pytest.mark.parametrize(("columns", "data"), TEXT_INPUTS, ids=range(len(TEXT_INPUTS)))
def test_text(reference: psycopg.Connection[Any], columns: str, data: bytes) -> None:
    check(reference, data, spec_of(columns, csv=False))


@pytest.mark.parametrize(("columns", "data"), CSV_INPUTS, ids=range(len(CSV_INPUTS)))
def test_csv(reference: psycopg.Connection[Any], columns: str, data: bytes) -> None:
    check(reference, data, spec_of(columns, csv=True))


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({"header": True}, b"i0,t1\n1,a\n"),
        ({"header": True}, b'"i\n0",t1\n1,a\n'),
        ({"header": True}, b"i0,t1\n"),
        ({"header": True}, b"i0,t1\nx,a\n"),
        ({"delimiter": ";"}, b"1;a,b\n"),
        ({"delimiter": "|", "null": "NULL"}, b'1|NULL\n2|"NULL"\n3|\n'),
        ({"quote": "'", "escape": "'"}, b"1,'a,''b'\n"),
        ({"escape": "\\"}, b'1,"a\\"b\\\\c\\d"\n2,"x"\n'),
        ({"escape": "\\"}, b'1,"a\\"\n b"\n2,"x"\n'),
        ({"escape": "\\"}, b'0,z\n1,"a\\"\n'),
    ],
)
def test_csv_options(reference: psycopg.Connection[Any], options: dict[str, Any], data: bytes) -> None:
    check(reference, data, spec_of("it", csv=True, **options))


@pytest.mark.parametrize("options", [{"header": True}, {"delimiter": "|"}, {"null": "NULL"}])
def test_text_options(reference: psycopg.Connection[Any], options: dict[str, Any]) -> None:
    data = b"i0\tt1\n1\tx\nNULL\tNULL\n".replace(b"\t", options.get("delimiter", "\t").encode())
    if not options.get("header"):
        data = data.split(b"\n", 1)[1]
    check(reference, data, spec_of("it", csv=False, **options))


@pytest.mark.parametrize("csv", [False, True], ids=["text", "csv"])
def test_random_bytes(reference: psycopg.Connection[Any], csv: bool) -> None:
    chance = random.Random(4711)
    spec = spec_of("tt", csv=csv)
    alphabet = 'ab"",,\n\n \\' if csv else "ab\t\t\n\n\\\\N.1"
    for _ in range(400):
        data = "".join(chance.choice(alphabet) for _ in range(chance.randrange(1, 25))).encode()
        expected = theirs(reference, data, spec)
        for block_bytes in (None, 3):
            got = ours(data, spec, block_bytes)
            if isinstance(expected, tuple) and isinstance(got, tuple):
                assert got[:2] == expected[:2], (data, block_bytes)  # lines are counted, but not to this pain
            else:
                assert got == expected, (data, block_bytes)


@pytest.mark.parametrize("csv", [False, True], ids=["text", "csv"])
def test_plain_data_takes_the_fast_way_and_comes_back_from_copy_out(
    monkeypatch: pytest.MonkeyPatch, reference: psycopg.Connection[Any], csv: bool
) -> None:
    """What we write by COPY TO, PostgreSQL writes too; and reading it back needs no exact way."""
    chance = random.Random(5)
    words = ["plain", "", "two words", None, "x,y", "t\tb" if csv else "tb"]
    rows: Rows = [
        (str(chance.randint(-(10**9), 10**9)), chance.choice(words), f"{chance.uniform(0, 999):.2f}", "t", "2001-02-03")
        for _ in range(3000)
    ]
    spec = spec_of("itnbd", csv=csv)
    reference.execute("drop table if exists t")
    reference.execute("create table t (i0 int, t1 text, n2 numeric(7,2), b3 bool, d4 date)")
    with reference.cursor().copy("copy t from stdin") as sink:
        for row in rows:
            sink.write_row(row)
    with reference.cursor().copy(f"copy t to stdout (format {spec.copy.format})") as source:
        data = b"".join(bytes(block) for block in source)
    monkeypatch.setattr(copy_parse, "read_rows", None)
    parsed = parse_block(data, spec, "\n", False)
    assert decoded(parsed, spec) == rows and parsed.lines == len(rows)
    style = CopyStyle(csv=csv, delimiter=spec.copy.delimiter, null=spec.copy.null)
    batches = [pa.ipc.open_stream(piece).read_next_batch() for piece in parsed.pieces]
    messages = b"".join(encode_copy_rows(batch, spec.types, style) for batch in batches)
    lines = data.splitlines(keepends=True)
    assert messages == b"".join(b"d" + (len(line) + 4).to_bytes(4, "big") + line for line in lines)
