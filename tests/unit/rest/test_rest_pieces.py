"""REST's pure parts: JSON with limits, CSV, quoting, keys, tokens, statuses."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import exp, parse_one

from orbit.kernel.clock import SystemClock
from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid, SqlType
from services.gateway.protocols.rest import query, wire
from services.gateway.protocols.rest.errors import BadRequest, status_of
from services.gateway.protocols.rest.tokens import InvalidToken, TokenSigner
from services.storage.client import ColumnDescription


@given(st.text(min_size=1, max_size=20).filter(lambda text: "\0" not in text and len(text.encode()) <= 63))
def test_a_quoted_name_is_one_name(name: str) -> None:
    tree = parse_one(f"SELECT {query.quote(name)}", read="postgres")
    (column,) = tree.find_all(exp.Column)
    assert column.name == name


@given(st.text(max_size=30).filter(lambda text: "\0" not in text))
def test_a_literal_is_one_value(text: str) -> None:
    written = query.literal(text)
    body = written.removeprefix("E")
    assert body[0] == body[-1] == "'"
    inside = (
        body[1:-1].replace("''", "").replace("\\\\", "") if written.startswith("E") else body[1:-1].replace("''", "")
    )
    assert "'" not in inside
    assert "\\" not in inside


@given(st.lists(st.text('ab,"', max_size=4), min_size=2, max_size=4))
def test_key_values_survive_quoting(values: list[str]) -> None:
    text = ",".join('"' + value.replace('"', '""') + '"' for value in values)
    assert query.key_values(text, len(values)) == values


@given(st.text(max_size=20))
def test_names_in_paths_are_names_or_refused(text: str) -> None:
    try:
        table = query.table_name(text)
        sql = table.sql
    except BadRequest:
        return
    assert sql == f"{query.quote(table.schema)}.{query.quote(table.name)}"


def test_values_never_become_sql() -> None:
    evil = "1'); DROP TABLE t; --"
    sql, values = query.select_rows(
        query.TableName("public", "t"), [("a", f"eq.{evil}"), ("b", f"in.({evil},x)")], 5, 0
    )
    assert sql == 'SELECT * FROM "public"."t" WHERE "a" = $1 AND "b" IN ($2, $3) LIMIT 5'
    assert values == [evil, evil, "x"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_json_is_read_as_the_standard_library_reads_it(value: object) -> None:
    assert wire.parse_json(json.dumps(value).encode(), 64) == value


def test_numbers_keep_their_digits() -> None:
    assert wire.parse_json(b"[0.10, 1e400, 123456789012345678901234567890]", 2) == [
        Decimal("0.10"),
        Decimal("1e400"),
        123456789012345678901234567890,
    ]
    assert wire.to_parameter(Decimal("0.10"), Oid.NUMERIC) == b"0.10"


@pytest.mark.parametrize("text", [b'["[[[["]', b'{"a\\"[": 1}', b'["\\\\", []]'])
def test_brackets_in_strings_are_no_depth(text: bytes) -> None:
    wire.parse_json(text, 2)


def test_depth_is_limited() -> None:
    wire.parse_json(b"[" * 5 + b"]" * 5, 5)
    with pytest.raises(OrbitError) as raised:
        wire.parse_json(b"[" * 6 + b"]" * 6, 5)
    assert raised.value.sqlstate == "54001"


@given(
    st.lists(
        st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=2)
    )
)
def test_csv_is_read_back(rows: list[list[str | None]]) -> None:
    text = b"".join(wire.csv_line([None if v is None else v.encode() for v in row]) for row in rows).decode()
    read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert read == [["" if v is None else v for v in row] for row in rows]


@given(st.text(), st.integers(), st.none() | st.floats(allow_nan=False, allow_infinity=False))
def test_rows_are_json(text: str, number: int, real: float | None) -> None:
    text = text.encode("utf-8", "replace").decode()
    columns = [
        ColumnDescription('te"xt', SqlType(Oid.TEXT)),
        ColumnDescription("n", SqlType(Oid.INT8)),
        ColumnDescription("f", SqlType(Oid.FLOAT8)),
    ]
    row = (text.encode(), b"%d" % number, None if real is None else repr(real).encode())
    assert json.loads(wire.objects(columns)(row)) == {'te"xt': text, "n": number, "f": real}
    assert json.loads(wire.arrays(columns)(row)) == [text, number, real]


@pytest.mark.parametrize(
    ("sqlstate", "status"),
    [
        ("28P01", 401), ("28000", 401), ("42501", 403), ("42P01", 404), ("23505", 409), ("40001", 409), ("40P01", 409),
        ("22012", 400), ("23502", 400), ("42601", 400), ("53300", 503), ("57P03", 503), ("0A000", 501), ("XX000", 500),
        ("57014", 504), ("08007", 503), ("99999", 500),
    ],
)  # fmt: skip
def test_statuses(sqlstate: str, status: int) -> None:
    assert status_of(sqlstate) == status


@given(st.binary(max_size=60))
def test_random_tokens_are_refused(data: bytes) -> None:
    signer = TokenSigner(b"s" * 32, SystemClock(), 60)
    with pytest.raises(InvalidToken):
        signer.check(data.decode("latin-1"))


def test_a_token_says_who_and_until_when() -> None:
    signer = TokenSigner(b"s" * 32, SystemClock(), 60)
    claims = signer.check(signer.make("ada", "verifier"))
    assert claims.sub == "ada" and claims.exp - claims.iat == 60
    with pytest.raises(ValueError, match="32 bytes"):
        TokenSigner(b"short", SystemClock(), 60)
