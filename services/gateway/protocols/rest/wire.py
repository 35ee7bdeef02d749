"""Values between JSON (or CSV) and PostgreSQL's text form.

Owns both directions and the limits on a JSON text's form. No IO, no SQL.

| type                              | JSON                                                        |
|-----------------------------------|-------------------------------------------------------------|
| smallint, integer, bigint, oid    | number, all digits (read 64-bit integers with care)         |
| real, double precision            | number; "NaN", "Infinity" and "-Infinity" as strings        |
| boolean                           | true, false                                                 |
| json, jsonb                       | the JSON value itself                                       |
| numeric, dates, times, intervals  | string in PostgreSQL's text form: nothing is rounded        |
| bytea                             | string of the form \\x0123                                   |
| everything else                   | string                                                      |
| NULL                              | null                                                        |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec

from orbit.kernel.errors import InvalidValue, NotSupported, SyntaxProblem
from orbit.kernel.types import Oid, SqlType, is_known, type_name
from services.gateway.answers import Row
from services.storage.client import ColumnDescription

_decode: Final = msgspec.json.Decoder(float_hook=Decimal).decode
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode
_STRUCTURE: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[{]|[\]}]', re.DOTALL)
_JSON_TYPES: Final = frozenset({Oid.JSON, Oid.JSONB})

ValueEncoder = Callable[[bytes], bytes]


def parse_json(text: bytes, max_depth: int) -> Any:
    """Return the value of a JSON text; numbers with a fraction are exact Decimals. Raises SyntaxProblem."""
    depth = 0
    for token in _STRUCTURE.finditer(text):
        kind = text[token.start()]
        if kind in b"[{":
            depth += 1
            if depth > max_depth:
                raise SyntaxProblem(f"json is nested deeper than {max_depth} levels", sqlstate="54001")
        elif kind in b"]}":
            depth -= 1
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SyntaxProblem(f"body is not valid json: {error}", sqlstate="22032") from error


def to_parameter(value: Any, oid: int) -> bytes | None:
    """Return a JSON value as the text of a parameter of this type. Raises InvalidValue, NotSupported."""
    if oid in _JSON_TYPES:
        return None if value is None else _encode(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, (int, float, Decimal)):
        return str(value).encode()
    if isinstance(value, str):
        if "\0" in value:
            raise InvalidValue("text holds a zero character", sqlstate="22021")
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidValue("text holds half of a surrogate pair", sqlstate="22021") from error
    if oid in (0, Oid.UNKNOWN, Oid.TEXT, Oid.VARCHAR):
        raise InvalidValue("an object or array is no value of this column", hint="Only json columns hold them.")
    raise NotSupported("array and composite parameters")


def _boolean(text: bytes) -> bytes:
    return b"true" if text == b"t" else b"false"


def _number(text: bytes) -> bytes:
    return text


def _float(text: bytes) -> bytes:
    return b'"%b"' % text if text in (b"NaN", b"Infinity", b"-Infinity") else text


def _string(text: bytes) -> bytes:
    return _encode(text.decode())


_ENCODERS: Final[dict[int, ValueEncoder]] = {
    Oid.BOOL: _boolean,
    Oid.INT2: _number,
    Oid.INT4: _number,
    Oid.INT8: _number,
    Oid.OID: _number,
    Oid.FLOAT4: _float,
    Oid.FLOAT8: _float,
    Oid.JSON: _number,
    Oid.JSONB: _number,
}


def encoders(columns: Sequence[ColumnDescription]) -> list[ValueEncoder]:
    """Return for each column what turns its text into JSON."""
    return [_ENCODERS.get(column.type.oid, _string) for column in columns]


def arrays(columns: Sequence[ColumnDescription]) -> Callable[[Row], bytes]:
    """Return what writes a row as a JSON array."""
    encode = encoders(columns)

    def write(row: Row) -> bytes:
        return b"[%b]" % b",".join(
            [b"null" if value is None else to_json(value) for value, to_json in zip(row, encode, strict=True)]
        )

    return write


def objects(columns: Sequence[ColumnDescription]) -> Callable[[Row], bytes]:
    """Return what writes a row as a JSON object."""
    parts = [(_encode(column.name) + b":", to_json) for column, to_json in zip(columns, encoders(columns), strict=True)]

    def write(row: Row) -> bytes:
        return b"{%b}" % b",".join(
            [
                name + (b"null" if value is None else to_json(value))
                for value, (name, to_json) in zip(row, parts, strict=True)
            ]
        )

    return write


def columns_json(columns: Sequence[ColumnDescription]) -> bytes:
    """Return the JSON of an answer's columns: names and types."""
    return _encode([{"name": column.name, "type": name_of(column.type)} for column in columns])


def name_of(kind: SqlType) -> str:
    """Return a type's name; of the system catalog's own types, which no table holds, only the number."""
    return type_name(kind) if is_known(kind.oid) else f"oid {kind.oid}"


def string_json(text: str) -> bytes:
    """Return a JSON string."""
    return _encode(text)


_CSV_SPECIAL: Final = re.compile(rb'[",\r\n]')


def csv_line(values: Iterable[bytes | None]) -> bytes:
    """Return one line of CSV (RFC 4180): NULL is empty, an empty string is quoted."""
    fields = []
    for value in values:
        if value is None:
            fields.append(b"")
        elif value == b"" or _CSV_SPECIAL.search(value):
            fields.append(b'"%b"' % value.replace(b'"', b'""'))
        else:
            fields.append(value)
    return b",".join(fields) + b"\r\n"
