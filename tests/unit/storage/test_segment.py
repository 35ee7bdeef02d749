"""Row values through Arrow columns and back, for every type, with NULLs, slices and offsets."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from orbit.kernel.ids import INFINITY_LSN
from orbit.kernel.schema import Column
from orbit.kernel.types import Oid, SqlType
from services.storage.tiers.segment import Segment, column_array, column_reader, columns_of

NUMERIC_10_2 = SqlType(Oid.NUMERIC, (10 << 16 | 2) + 4)
CASES: list[tuple[SqlType, list[Any]]] = [
    (SqlType(Oid.BOOL), [True, False, None, True]),
    (SqlType(Oid.INT2), [-32768, 32767, None, 0]),
    (SqlType(Oid.INT4), [-(1 << 31), (1 << 31) - 1, None, 0]),
    (SqlType(Oid.INT8), [-(1 << 63), (1 << 63) - 1, None, -1]),
    (SqlType(Oid.FLOAT4), [1.5, -0.0, None, math.inf]),
    (SqlType(Oid.FLOAT8), [0.1, -math.inf, None, 5e-324]),
    (SqlType(Oid.TEXT), ["", "a\x01ß😀", None, "long" * 1000]),
    (SqlType(Oid.VARCHAR, 9), ["x", "", None, "abcde"]),
    (SqlType(Oid.BPCHAR, 7), ["x  ", "   ", None, "abc"]),
    (SqlType(Oid.BYTEA), [b"", b"\x00\xff", None, b"x" * 5000]),
    (SqlType(Oid.UUID), ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", None, "00000000-0000-0000-0000-000000000000", None]),
    (SqlType(Oid.JSONB), ['{"a": 1}', "null", None, "[]"]),
    (SqlType(Oid.DATE), [-719162, 2932896, None, 0]),
    (SqlType(Oid.TIME), [0, 86_399_999_999, None, 1]),
    (SqlType(Oid.TIMESTAMP), [-62135596800000000, 253402300799999999, None, 0]),
    (SqlType(Oid.TIMESTAMPTZ), [1, -1, None, 1_700_000_000_000_000]),
    (SqlType(Oid.INTERVAL), [(1, 2, 3), (-1, -2, -3), None, (0, 0, 999_999)]),
    (NUMERIC_10_2, [Decimal("1.50"), Decimal("-99999999.99"), None, Decimal("0.00")]),
    (
        SqlType(Oid.NUMERIC),
        [Decimal("1E+3"), Decimal("-0.000000000000000000000000000000000000000000001"), None, Decimal("NaN")],
    ),
]
IDS = [f"{case[0].oid.name if isinstance(case[0].oid, Oid) else case[0].oid}-{at}" for at, case in enumerate(CASES)]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Decimal) and one.is_nan():
        return isinstance(other, Decimal) and other.is_nan()
    return type(one) is type(other) and one == other


@pytest.mark.parametrize(("kind", "values"), CASES, ids=IDS)
def test_every_type_comes_back_as_it_went_in(kind: SqlType, values: list[Any]) -> None:
    array = column_array(values, Column(number=1, name="c", type=kind))
    read = column_reader(array, kind.oid)
    assert all(same(read(at), value) for at, value in enumerate(values)), [read(at) for at in range(len(values))]


@pytest.mark.parametrize(("kind", "values"), CASES, ids=IDS)
def test_slices_with_an_offset_read_their_own_rows(kind: SqlType, values: list[Any]) -> None:
    many = values * 5
    array = column_array(many, Column(number=1, name="c", type=kind))
    for start, length in ((1, 7), (3, 9), (9, 11), (19, 1), (4, 0)):
        part = array.slice(start, length)
        read = column_reader(part, kind.oid) if length else None
        for at in range(length):
            assert read is not None and same(read(at), many[start + at]), (start, at)


@pytest.mark.parametrize(("kind", "values"), CASES, ids=IDS)
def test_columns_without_nulls_and_columns_of_nulls(kind: SqlType, values: list[Any]) -> None:
    column = Column(number=1, name="c", type=kind)
    full = [value for value in values if value is not None]
    read = column_reader(column_array(full, column), kind.oid)
    assert all(same(read(at), value) for at, value in enumerate(full))
    read = column_reader(column_array([None] * 3, column), kind.oid)
    assert [read(at) for at in range(3)] == [None] * 3


@pytest.mark.parametrize(("kind", "values"), CASES, ids=IDS)
def test_arrow_ipc_and_other_layouts_read_the_same(kind: SqlType, values: list[Any]) -> None:
    """What the warm tier and COPY hand over: decompressed buffers, and for text also large strings."""
    array = column_array(values, Column(number=1, name="c", type=kind))
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([array], ["c"])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    back = pa.ipc.open_stream(sink.getvalue()).read_next_batch().column(0)
    layouts = [back]
    if pa.types.is_string(array.type):
        layouts += [array.cast(pa.large_string()), array.cast(pa.string_view())]
    for layout in layouts:
        if kind.oid == Oid.NUMERIC and layout is not back:
            continue
        read = column_reader(layout, kind.oid)
        assert all(same(read(at), value) for at, value in enumerate(values)), layout.type


def test_a_segment_shows_each_snapshot_its_versions() -> None:
    schema = (Column(number=1, name="k", type=SqlType(Oid.INT8)), Column(number=2, name="v", type=SqlType(Oid.TEXT)))
    rows = [(1, "a"), (2, None), (3, "c")]
    segment = Segment(0, schema, columns_of(rows, schema), np.array([10, 11, 12]), np.array([5, 6, 7]))
    assert [segment.row(at) for at in range(3)] == rows and segment.tier == "hot"
    assert segment.visible_mask(7) is None
    mask = segment.visible_mask(6)
    assert mask is not None and mask.tolist() == [True, True, False]
    segment.end(0, 9)
    mask = segment.visible_mask(9)
    assert mask is not None and mask.tolist() == [False, True, True]
    assert segment.visible_at(0, 8) and not segment.visible_at(0, 9)
    mask = segment.visible_mask(8)
    assert mask is not None and mask.tolist() == [True, True, True]
    assert segment.dead == 1
    assert segment.ends[1] == INFINITY_LSN


def test_a_published_load_is_visible_from_its_commit_on() -> None:
    schema = (Column(number=1, name="k", type=SqlType(Oid.INT8)),)
    columns = columns_of([(1,), (2,)], schema)
    segment = Segment(0, schema, columns, np.array([10, 11]), np.full(2, INFINITY_LSN, np.int64))
    segment.owner = b"load"
    assert not segment.visible_at(0, 1 << 60)
    segment.publish(20, 99)
    assert segment.begins.tolist() == [20, 20] and segment.newest_change_us == 99
    assert segment.visible_at(1, 20) and not segment.visible_at(1, 19)
