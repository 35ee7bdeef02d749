"""The bulk encoders against their plain twins: value by value, row by row."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from orbit.kernel.types import Oid, SqlType, arrow_type
from orbit.kernel.values import calendar as cal
from orbit.kernel.values import format_binary, format_text
from orbit.kernel.values.columns import python_values, text_column
from orbit.kernel.values.copy_text import CopyStyle, copy_header, copy_out_response, encode_copy_rows
from orbit.kernel.values.data_rows import ROWS_AT_ONCE, encode_data_rows

_DAY = 86_400_000_000

Make = Callable[[random.Random], Any]


def _single(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _any_float8(r: random.Random) -> float:
    special = [0.0, -0.0, 1e15, 1e14, 1e-4, 9e-5, r.uniform(-9, 9), float("inf"), float(r.randint(0, 1 << 60))]
    return r.choice(special)


def _any_float4(r: random.Random) -> float:
    return _single(r.choice([0.0, 1e6, 999999.0, 1e-4, r.uniform(-2e6, 2e6)]))


def _any_date(r: random.Random) -> int:
    special = [0, cal.DATE_INFINITY, cal.DATE_MINUS_INFINITY]
    return r.choice([*special, r.randint(-3_000_000, 4_000_000), r.randint(0, 30_000)])


def _any_timestamp(r: random.Random) -> int:
    special = [0, cal.TIMESTAMP_INFINITY, cal.TIMESTAMP_MINUS_INFINITY, r.randint(-(1 << 57), 1 << 62)]
    return r.choice([*special, r.randint(-(1 << 50), 1 << 51), r.randrange(1 << 31) * 1_000_000])


def _any_decimal(scale: int) -> Make:
    def make(r: random.Random) -> Decimal:
        return Decimal(r.choice([0, 1, -5, r.randint(-(10**12), 10**12)])).scaleb(-scale)

    return make


MAKERS: list[tuple[SqlType, Make]] = [
    (SqlType(Oid.BOOL), lambda r: r.random() < 0.5),
    (SqlType(Oid.INT2), lambda r: r.randint(-32768, 32767)),
    (SqlType(Oid.INT4), lambda r: r.randint(-(1 << 31), (1 << 31) - 1)),
    (SqlType(Oid.INT8), lambda r: r.randint(-(1 << 63), (1 << 63) - 1)),
    (SqlType(Oid.OID), lambda r: r.randint(0, (1 << 32) - 1)),
    (SqlType(Oid.FLOAT8), lambda r: struct.unpack("<d", r.randbytes(8))[0]),
    (SqlType(Oid.FLOAT8), _any_float8),
    (SqlType(Oid.FLOAT4), lambda r: struct.unpack("<f", r.randbytes(4))[0]),
    (SqlType(Oid.FLOAT4), _any_float4),
    (SqlType(Oid.NUMERIC), lambda r: Decimal(r.randint(-(10**30), 10**30)).scaleb(-r.randint(0, 20))),
    (SqlType(Oid.NUMERIC, (15 << 16 | 2) + 4), _any_decimal(2)),
    (SqlType(Oid.NUMERIC, (30 << 16 | 12) + 4), _any_decimal(12)),
    (SqlType(Oid.TEXT), lambda r: "".join(r.choice("aé日\\\n\t,\"' ;\r😀\v\b|") for _ in range(r.randrange(6)))),
    (SqlType(Oid.BYTEA), lambda r: r.randbytes(r.randrange(8))),
    (SqlType(Oid.DATE), _any_date),
    (SqlType(Oid.TIME), lambda r: r.choice([0, _DAY, r.randrange(_DAY), r.randrange(86400) * 1_000_000])),
    (SqlType(Oid.TIMESTAMP), _any_timestamp),
    (SqlType(Oid.TIMESTAMPTZ), _any_timestamp),
    (SqlType(Oid.INTERVAL), lambda r: (r.randint(-40, 40), r.randint(-40, 40), r.randint(-(1 << 40), 1 << 40))),
    (SqlType(Oid.UUID), lambda r: f"{r.getrandbits(32):08x}-0000-4000-8000-{r.getrandbits(48):012x}"),
    (SqlType(Oid.JSONB), lambda r: r.choice(['{"a": [1, 2]}', "null", '"x\\n"'])),
]
IDS = [f"{at}-{Oid(t.oid).name.lower()}" for at, (t, _) in enumerate(MAKERS)]


def storage_array(sql_type: SqlType, values: Sequence[Any]) -> Any:
    """Return the values as the engine's segments hold them."""
    if sql_type.oid == Oid.INTERVAL:
        values = [None if v is None else pa.MonthDayNano([v[0], v[1], v[2] * 1000]) for v in values]
    if sql_type.oid == Oid.NUMERIC and sql_type.modifier < 0:
        values = [None if v is None else f"{v:f}" for v in values]
    if sql_type.oid in (Oid.DATE, Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        wide = pa.int32() if sql_type.oid == Oid.DATE else pa.int64()
        return pa.array(values, wide).view(arrow_type(sql_type))
    return pa.array(values, arrow_type(sql_type))


def sample(sql_type: SqlType, make: Make, rows: int = 400) -> list[Any]:
    chance = random.Random(sql_type.oid)
    return [None if chance.random() < 0.1 else make(chance) for _ in range(rows)]


@pytest.mark.parametrize(("sql_type", "make"), MAKERS, ids=IDS)
@pytest.mark.parametrize("zone", [UTC, ZoneInfo("America/New_York"), ZoneInfo("Asia/Kolkata")], ids=str)
def test_text_column(sql_type: SqlType, make: Make, zone: Any) -> None:
    if zone is not UTC and sql_type.oid != Oid.TIMESTAMPTZ:
        zone = UTC
    values = sample(sql_type, make)
    array = storage_array(sql_type, values)
    print_ = format_text(sql_type.oid, zone)
    expected = [None if v is None else print_(v).decode() for v in values]
    shown = text_column(array, sql_type.oid, zone).to_pylist()
    assert [pair for pair in zip(values, shown, expected, strict=True) if pair[1] != pair[2]] == []
    assert text_column(array.slice(7, 90), sql_type.oid, zone).to_pylist() == expected[7:97]
    assert text_column(array.slice(0, 0), sql_type.oid, zone).to_pylist() == []


@pytest.mark.parametrize(("sql_type", "make"), MAKERS, ids=IDS)
def test_python_values(sql_type: SqlType, make: Make) -> None:
    values = sample(sql_type, make)
    back = python_values(storage_array(sql_type, values), sql_type.oid)
    assert [v == w or (v != v and w != w) for v, w in zip(values, back, strict=True)] == [True] * len(values)


def test_columns_in_other_forms_than_storage() -> None:
    assert text_column(pa.array(["a", "b", "a", None]).dictionary_encode(), Oid.TEXT).to_pylist() == [
        "a",
        "b",
        "a",
        None,
    ]
    assert text_column(pa.array([1, 2], pa.int32()), Oid.INT8).to_pylist() == ["1", "2"]
    assert text_column(pa.nulls(2), Oid.DATE).to_pylist() == [None, None]
    assert text_column(pa.array([Decimal("1.50")], pa.decimal64(10, 2)), Oid.NUMERIC).to_pylist() == ["1.50"]
    assert text_column(pa.array([7], pa.int64()), Oid.NUMERIC).to_pylist() == ["7"]
    assert text_column(pa.chunked_array([["x"], ["y"]]), Oid.TEXT).to_pylist() == ["x", "y"]
    seconds = pa.array([1], pa.timestamp("s"))
    assert text_column(seconds, Oid.TIMESTAMP).to_pylist() == ["1970-01-01 00:00:01"]


def plain_data_rows(rows: Sequence[Sequence[Any]], types: Sequence[SqlType], formats: Sequence[int]) -> bytes:
    """The twin: one value after the other."""
    writers = [format_binary(t.oid) if f else format_text(t.oid) for t, f in zip(types, formats, strict=True)]
    out = b""
    for row in rows:
        body = struct.pack(">h", len(row))
        for write, value in zip(writers, row, strict=True):
            body += b"\xff\xff\xff\xff" if value is None else struct.pack(">i", len(write(value))) + write(value)
        out += b"D" + struct.pack(">i", len(body) + 4) + body
    return out


@pytest.mark.parametrize("wire_format", [0, 1])
def test_data_rows(wire_format: int) -> None:
    types = [t for t, _ in MAKERS]
    columns = [sample(t, make) for t, make in MAKERS]
    batch = pa.record_batch(
        [storage_array(t, values) for t, values in zip(types, columns, strict=True)],
        names=[str(at) for at in range(len(types))],
    )
    expected = plain_data_rows(list(zip(*columns, strict=True)), types, [wire_format] * len(types))
    assert encode_data_rows(batch, types, [wire_format]) == expected
    part = plain_data_rows(list(zip(*columns, strict=True))[5:20], types, [wire_format] * len(types))
    assert encode_data_rows(batch.slice(5, 15), types, [wire_format]) == part


def test_data_rows_of_many_batches_and_mixed_formats() -> None:
    rows = ROWS_AT_ONCE * 2 + 3
    numbers, words = list(range(rows)), [f"w{at % 100}" for at in range(rows)]
    batch = pa.record_batch([pa.array(numbers), pa.array(words), pa.array(numbers)], names=["a", "b", "c"])
    types = [SqlType(Oid.INT8), SqlType(Oid.TEXT), SqlType(Oid.INT8)]
    expected = plain_data_rows(list(zip(numbers, words, numbers, strict=True)), types, [0, 0, 1])
    assert encode_data_rows(batch, types, [0, 0, 1]) == expected


def test_data_rows_without_rows_or_columns() -> None:
    empty = pa.record_batch([pa.array([], pa.int64())], names=["a"])
    assert encode_data_rows(empty, [SqlType(Oid.INT8)]) == b""
    no_columns = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))
    assert encode_data_rows(no_columns, []) == b"D\0\0\0\6\0\0" * 2


def _payloads(messages: bytes) -> list[bytes]:
    at, found = 0, []
    while at < len(messages):
        assert messages[at : at + 1] == b"d"
        (length,) = struct.unpack_from(">i", messages, at + 1)
        found.append(messages[at + 5 : at + 1 + length])
        at += 1 + length
    return found


def test_copy_rows() -> None:
    batch = pa.record_batch(
        [pa.array([1, None, 3]), pa.array(["a\tb\\c\n", "", None]), pa.array(['say "x"', "plain", "a,b"])],
        names=["a", "b", "c"],
    )
    types = [SqlType(Oid.INT8), SqlType(Oid.TEXT), SqlType(Oid.TEXT)]
    text = CopyStyle()
    assert _payloads(encode_copy_rows(batch, types, text)) == [
        b'1\ta\\tb\\\\c\\n\tsay "x"\n',
        b"\\N\t\tplain\n",
        b"3\t\\N\ta,b\n",
    ]
    csv = CopyStyle(csv=True, delimiter=",", null="")
    assert _payloads(encode_copy_rows(batch, types, csv)) == [
        b'1,"a\tb\\c\n","say ""x"""\n',
        b',"",plain\n',
        b'3,,"a,b"\n',
    ]
    assert _payloads(copy_header(["a", "b,c"], csv)) == [b'a,"b,c"\n']
    assert copy_out_response(2) == b"H\0\0\0\x0b\0\0\2\0\0\0\0"
