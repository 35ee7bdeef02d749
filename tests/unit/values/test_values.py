"""What hot paths lean on, without a PostgreSQL at hand; the full comparison is the integration suite's."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from orbit.kernel.errors import InvalidValue, NotSupported
from orbit.kernel.types import Oid
from orbit.kernel.values import (
    coerce_to,
    decode_text,
    format_binary,
    format_text,
    parse_binary,
    parse_parameter,
    parse_text,
    time_zone,
)
from orbit.kernel.values.calendar import TIMESTAMP_INFINITY, civil_from_days, days_from_civil
from orbit.kernel.values.json_text import canonical_jsonb

NOON = 1_614_945_600_000_000
"""2021-03-05 12:00:00 UTC."""


@pytest.mark.parametrize(
    ("oid", "text", "value", "printed"),
    [
        (Oid.BOOL, "yes", True, b"t"),
        (Oid.INT4, " -7 ", -7, b"-7"),
        (Oid.FLOAT8, "1e20", 1e20, b"1e+20"),
        (Oid.FLOAT8, "0.00001", 1e-05, b"1e-05"),
        (Oid.FLOAT4, "1e6", 1e6, b"1e+06"),
        (Oid.NUMERIC, "1.50", Decimal("1.50"), b"1.50"),
        (Oid.NUMERIC, "1e3", Decimal(1000), b"1000"),
        (Oid.BYTEA, "\\xDEad", b"\xde\xad", b"\\xdead"),
        (Oid.DATE, "0044-03-15 BC", -735_160, b"0044-03-15 BC"),
        (Oid.TIME, "04:05:06.70", 14_706_700_000, b"04:05:06.7"),
        (Oid.TIMESTAMP, "infinity", TIMESTAMP_INFINITY, b"infinity"),
        (Oid.TIMESTAMPTZ, "2021-03-05 13:00:00+01", NOON, b"2021-03-05 12:00:00+00"),
        (Oid.INTERVAL, "1 year -2 days 3:04", (12, -2, 11_040_000_000), b"1 year -2 days +03:04:00"),
        (Oid.JSONB, '{"bb":1.0,"a":null}', '{"a": null, "bb": 1.0}', b'{"a": null, "bb": 1.0}'),
        (
            Oid.UUID,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
    ],
)
def test_round_trips(oid: int, text: str, value: Any, printed: bytes) -> None:
    assert parse_text(oid)(text) == value
    assert format_text(oid)(value) == printed
    assert parse_binary(oid)(format_binary(oid)(value)) == value


@pytest.mark.parametrize(
    ("oid", "modifier", "text", "sqlstate"),
    [
        (Oid.INT4, -1, "x", "22P02"),
        (Oid.INT4, -1, "2147483648", "22003"),
        (Oid.DATE, -1, "x", "22007"),
        (Oid.DATE, -1, "2001-02-30", "22008"),
        (Oid.VARCHAR, 6, "abc", "22001"),
        (Oid.NUMERIC, (3 << 16 | 1) + 4, "100", "22003"),
        (Oid.JSON, -1, "{", "22P02"),
        (Oid.TIMESTAMP, -1, "now", "0A000"),
    ],
)
def test_errors(oid: int, modifier: int, text: str, sqlstate: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_text(oid, modifier)(text)
    assert caught.value.sqlstate == sqlstate


def test_words_for_moments_read_the_transaction_time() -> None:
    zone = ZoneInfo("Asia/Kolkata")

    def clock() -> int:
        return NOON + 8 * 3_600_000_000  # 20:00 UTC is the next day in Kolkata

    assert format_text(Oid.DATE)(parse_text(Oid.DATE, -1, zone, clock)("today")) == b"2021-03-06"
    assert format_text(Oid.TIMESTAMP)(parse_text(Oid.TIMESTAMP, -1, zone, clock)("tomorrow")) == b"2021-03-07 00:00:00"
    assert parse_text(Oid.TIMESTAMPTZ, -1, zone, clock)("now") == clock()


def test_time_zones() -> None:
    shown = format_text(Oid.TIMESTAMPTZ, time_zone("america/new_york"))(NOON)
    assert shown == b"2021-03-05 07:00:00-05"
    assert format_text(Oid.TIMESTAMPTZ, time_zone("-3.5"))(NOON) == b"2021-03-05 08:30:00-03:30"
    assert format_text(Oid.TIMESTAMPTZ, time_zone("EST+5"))(NOON) == b"2021-03-05 07:00:00-05"
    with pytest.raises(InvalidValue, match="TimeZone"):
        time_zone("Nowhere/City")


def test_wire_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidValue, match="0xff") as caught:
        decode_text(b"a\xff")
    assert caught.value.sqlstate == "22021"
    with pytest.raises(InvalidValue, match="0xe2 0x28 0xa1"):
        decode_text(b"\xe2\x28\xa1")
    with pytest.raises(InvalidValue, match="0x00"):
        decode_text(b"a\0b")
    with pytest.raises(InvalidValue):
        parse_parameter(Oid.INT4, 0)(b"\xff")


@pytest.mark.parametrize("oid", [Oid.INT4, Oid.BOOL, Oid.UUID, Oid.NUMERIC, Oid.INTERVAL, Oid.JSONB, Oid.TIMESTAMP])
@pytest.mark.parametrize("data", [b"", b"\0\0\0", b"\xff" * 17])
def test_binary_of_the_wrong_form(oid: int, data: bytes) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_binary(oid)(data)
    assert caught.value.sqlstate == "22P03"


def test_unknown_types_and_formats() -> None:
    with pytest.raises(NotSupported):
        parse_text(1007)
    with pytest.raises(NotSupported):
        format_binary(1007)
    with pytest.raises(NotSupported, match="format code: 2"):
        parse_parameter(Oid.INT4, 2)


def test_coercion_to_a_modifier() -> None:
    cut = coerce_to(Oid.VARCHAR, 4 + 2)
    assert cut is not None and cut("ab ") == "ab"
    pad = coerce_to(Oid.BPCHAR, 4 + 3)
    assert pad is not None and pad("a") == "a  "
    round_ = coerce_to(Oid.NUMERIC, (5 << 16 | 2) + 4)
    assert round_ is not None and round_(Decimal("1.005")) == Decimal("1.01")
    assert coerce_to(Oid.NUMERIC, -1) is None
    assert coerce_to(Oid.INT4, 5) is None


def test_calendar_is_its_own_inverse() -> None:
    for days in range(-3_000_000, 3_000_000, 997):
        assert days_from_civil(*civil_from_days(days)) == days


def test_jsonb_of_plain_data() -> None:
    data = {"bb": [1, 2.5, Decimal("1.50"), True, None], "a": "x\n"}
    assert canonical_jsonb(data) == '{"a": "x\\n", "bb": [1, 2.5, 1.50, true, null]}'
    assert parse_text(Oid.JSONB)(canonical_jsonb(data)) == canonical_jsonb(data)


def test_deep_json_is_refused_not_crashed() -> None:
    for oid in (Oid.JSON, Oid.JSONB):
        with pytest.raises(Exception, match="stack depth limit exceeded"):
            parse_text(oid)("[" * 100_000 + "]" * 100_000)
