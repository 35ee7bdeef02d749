"""Values from and to text for every type that the binder knows: those of `orbit.kernel.values`, and arrays.

An array is a tuple of elements (None for NULL), of one dimension. reg* types need the catalog and are not here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Any

from orbit.kernel.errors import InvalidValue
from orbit.kernel.types import Oid, SqlType
from orbit.kernel.values import NowMicros, format_text, parse_text
from services.storage.sql.bind.type_catalog import ELEMENT_OF, INT2VECTOR, NODE_TREE, OIDVECTOR, XID

_AS_TEXT = frozenset((NODE_TREE, 1033))


def text_parser(sql_type: SqlType, zone: tzinfo = UTC, now: NowMicros | None = None) -> Callable[[str], Any]:
    """Return the parser of a type's text form, its modifier applied."""
    oid = sql_type.oid
    if oid in (INT2VECTOR, OIDVECTOR):
        return lambda text: tuple(int(part) for part in text.split())
    if oid in ELEMENT_OF:
        element = text_parser(SqlType(ELEMENT_OF[oid], sql_type.modifier), zone, now)
        return lambda text: _parse_array(text, element)
    if oid == XID:
        return parse_text(Oid.OID)
    if oid in _AS_TEXT:
        return str
    return parse_text(oid, sql_type.modifier, zone, now)


def text_formatter(oid: int, zone: tzinfo = UTC) -> Callable[[Any], str]:
    """Return the printer of a type's text form, as str."""
    if oid in (INT2VECTOR, OIDVECTOR):
        return lambda value: " ".join(map(str, value))
    if oid in ELEMENT_OF:
        element = text_formatter(ELEMENT_OF[oid], zone)
        return lambda value: _format_array(value, element)
    if oid == XID:
        return str
    if oid in _AS_TEXT:
        return str
    encode = format_text(oid, zone)
    return lambda value: encode(value).decode()


def _quoted(text: str) -> str:
    if text and text.lower() != "null" and not any(char in '{}",\\' or char.isspace() for char in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _format_array(value: Any, element: Callable[[Any], str]) -> str:
    return "{" + ",".join("NULL" if item is None else _quoted(element(item)) for item in value) + "}"


def _malformed(text: str, detail: str) -> InvalidValue:
    return InvalidValue(f'malformed array literal: "{text}"', detail=detail)


def _parse_array(text: str, element: Callable[[str], Any]) -> tuple[Any, ...]:
    stripped = text.strip()
    if not stripped.startswith("{"):
        raise _malformed(text, 'Array value must start with "{" or dimension information.')
    items: list[Any] = []
    at = 1
    length = len(stripped)
    while True:
        while at < length and stripped[at].isspace():
            at += 1
        if at >= length:
            raise _malformed(text, "Unexpected end of input.")
        if stripped[at] == "}":
            if stripped[at - 1] == ",":
                raise _malformed(text, 'Unexpected "}" character.')
            at += 1
            break
        if stripped[at] == "{":
            raise InvalidValue("multidimensional arrays are not supported", sqlstate="0A000")
        item, at = _array_item(stripped, at, text)
        items.append(None if item is None else element(item))
        if at < length and stripped[at] == ",":
            at += 1
        elif at >= length or stripped[at] != "}":
            raise _malformed(text, "Unexpected end of input.")
    if stripped[at:].strip():
        raise _malformed(text, "Junk after closing right brace.")
    return tuple(items)


def _array_item(text: str, at: int, whole: str) -> tuple[str | None, int]:
    if text[at] == '"':
        parts: list[str] = []
        at += 1
        while at < len(text) and text[at] != '"':
            if text[at] == "\\":
                at += 1
            parts.append(text[at : at + 1])
            at += 1
        at += 1
        while at < len(text) and text[at].isspace():
            at += 1
        return "".join(parts), at
    raw: list[str] = []
    while at < len(text) and text[at] not in ",}":
        if text[at] in '{"':
            raise _malformed(whole, f'Unexpected "{text[at]}" character.')
        if text[at] == "\\":
            at += 1
        raw.append(text[at : at + 1])
        at += 1
    item = "".join(raw).strip()
    if not item:
        raise _malformed(whole, f'Unexpected "{text[at : at + 1]}" character.')
    return (None if item.upper() == "NULL" else item), at
