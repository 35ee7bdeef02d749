"""The texts of regclass, regtype and their kin: names of catalog objects for OIDs, and back."""

from __future__ import annotations

import re
from typing import Any, Final

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Role, Schema, Sequence, Table, View
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.type_catalog import (
    ALIASES,
    ALL_TYPES,
    BY_NAME,
    REGCLASS,
    REGNAMESPACE,
    REGPROC,
    REGPROCEDURE,
    REGROLE,
    REGTYPE,
    display_name,
)
from services.storage.sql.evaluate.strings import quote_ident
from services.storage.sql.system_catalog.names import NAMESPACES, SYSTEM_RELATIONS, system_relation_name

_PART: Final = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^".\s]+))\s*(\.|$)')


def split_name(text: str) -> list[str]:
    """Return the parts of a possibly quoted, dotted name. Raises 42602."""
    parts: list[str] = []
    at = 0
    while True:
        match = _PART.match(text, at)
        if match is None:
            raise OrbitError("invalid name syntax", sqlstate="42602")
        parts.append(match[1].replace('""', '"') if match[1] is not None else match[2].lower())
        at = match.end()
        if match[3] != ".":
            return parts


def _relation_oid(context: Any, text: str) -> int:
    parts = split_name(text)
    if len(parts) > 2:
        raise OrbitError(f"improper relation name (too many dotted names): {text}", sqlstate="42601")
    schemas = [parts[0]] if len(parts) == 2 else ["pg_catalog", *context.search_path]
    for schema in schemas:
        oid = SYSTEM_RELATIONS.get((schema, parts[-1]))
        if oid is not None:
            return oid
        found = context.catalog.relation(schema, parts[-1])
        if found is not None:
            return int(found.id)
        for table in context.catalog.tables():
            for index in table.indexes:
                if table.schema == schema and index.name == parts[-1]:
                    return int(index.id)
    raise OrbitError(f'relation "{".".join(parts)}" does not exist', sqlstate="42P01")


def _relation_name(context: Any, oid: int) -> str:
    system = system_relation_name(oid)
    if system is not None:
        return system[1] if system[0] == "pg_catalog" else f"{system[0]}.{system[1]}"
    item = context.catalog.objects.get(oid)
    schema = name = None
    if isinstance(item, Table | View | Sequence):
        schema, name = item.schema, item.name
    else:
        for table in context.catalog.tables():
            for index in table.indexes:
                if index.id == oid:
                    schema, name = table.schema, index.name
    if schema is None or name is None:
        return str(oid)
    return quote_ident(name) if schema in context.search_path else f"{quote_ident(schema)}.{quote_ident(name)}"


def _type_oid(text: str) -> int:
    name = text.strip().lower()
    array = name.endswith("[]")
    name = re.sub(r"\(.*\)", "", name.removesuffix("[]")).strip()
    name = name.removeprefix("pg_catalog.").strip('"')
    item = BY_NAME.get(name)
    oid = item.oid if item is not None else ALIASES.get(name)
    if oid is None:
        oid = next((one.oid for one in ALL_TYPES if one.name == name), None)
    if oid is None:
        raise OrbitError(f'type "{text}" does not exist', sqlstate="42704")
    return next(one.array for one in BY_NAME.values() if one.oid == oid) if array else oid


def oid_of(context: Any, kind: int, text: str) -> int:
    """Return the OID that a name means for a reg* type; a number means itself, `-` means 0."""
    stripped = text.strip()
    if stripped.isdigit():
        return int(stripped)
    if stripped == "-":
        return 0
    if kind == REGCLASS:
        return _relation_oid(context, stripped)
    if kind == REGTYPE:
        return _type_oid(stripped)
    if kind == REGNAMESPACE:
        return _namespace_oid(context, split_name(stripped)[-1])
    if kind == REGROLE:
        role = context.catalog.role(split_name(stripped)[-1])
        if role is None:
            raise OrbitError(f'role "{stripped}" does not exist', sqlstate="42704")
        return int(role.id)
    raise NotSupported("cast to regproc is not supported")


def _namespace_oid(context: Any, name: str) -> int:
    if name in NAMESPACES:
        return NAMESPACES[name]
    schema = context.catalog.schema(name)
    if schema is None:
        raise OrbitError(f'schema "{name}" does not exist', sqlstate="3F000")
    return int(schema.id)


def name_of(context: Any, kind: int, oid: int) -> str:
    """Return the text of a reg* value: the object's name, or the number when there is none."""
    if oid == 0:
        return "-"
    if kind == REGCLASS:
        return _relation_name(context, oid)
    if kind == REGTYPE:
        return type_text(oid, -1)
    if kind == REGNAMESPACE:
        for name, number in NAMESPACES.items():
            if number == oid:
                return name
        item = context.catalog.objects.get(oid)
        return quote_ident(item.name) if isinstance(item, Schema) else str(oid)
    if kind == REGROLE:
        item = context.catalog.objects.get(oid)
        return quote_ident(item.name) if isinstance(item, Role) else str(oid)
    if kind in (REGPROC, REGPROCEDURE):
        return str(oid)
    raise AssertionError(kind)


_KNOWN: Final = {item.oid for item in ALL_TYPES}


def type_text(oid: int, modifier: int) -> str:
    """Return format_type: `???` for a type that does not exist."""
    if oid not in _KNOWN:
        return "???"
    if oid == Oid.BPCHAR and modifier < 0:
        return "character"
    return display_name(SqlType(oid, modifier))
