"""Row requests as SQL: names quoted, values as parameters, nothing of a request ever spliced in as text.

Owns the grammar of filters, `select` and `order`, of table names and keys in paths, and of column types.

    ?age=gte.18&name=like.A%25&city=in.(Oslo,"Paris, Texas")&parent=is.null&select=id,name&order=age.desc,id
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from services.gateway.protocols.rest.errors import BadRequest

OPERATORS: Final[dict[str, str]] = {
    "eq": "=",
    "neq": "<>",
    "lt": "<",
    "lte": "<=",
    "gt": ">",
    "gte": ">=",
    "like": "LIKE",
}
IS_VALUES: Final[dict[str, str]] = {
    "null": "IS NULL",
    "not_null": "IS NOT NULL",
    "true": "IS TRUE",
    "false": "IS FALSE",
}
RESERVED: Final = frozenset({"select", "order", "limit", "offset"})
MAX_NAME_BYTES: Final = 63
_TYPE: Final = re.compile(r"([a-z]+(?: [a-z]+)*)(?:\((\d{1,8})(?:,\s*(\d{1,8}))?\))?( with(?:out)? time zone)?")
TYPES: Final = frozenset(
    {
        *("boolean", "bool", "smallint", "int2", "integer", "int", "int4", "bigint", "int8"),
        *("real", "float4", "double precision", "float8", "numeric", "decimal"),
        *("text", "varchar", "character varying", "char", "character", "bytea", "json", "jsonb", "uuid"),
        *("date", "time", "timestamp", "timestamptz", "interval"),
        *("time without time zone", "timestamp without time zone", "timestamp with time zone"),
    }
)


@dataclass(frozen=True, slots=True)
class TableName:
    """A table as a request names it."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        return f"{quote(self.schema)}.{quote(self.name)}"


def quote(name: str) -> str:
    """Return a quoted identifier. Raises BadRequest for what no identifier can be."""
    if not name or "\0" in name:
        raise BadRequest("a name is empty or holds a zero character", sqlstate="42602")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise BadRequest(f"a name is longer than {MAX_NAME_BYTES} bytes", sqlstate="42622")
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """Return a JSON scalar as an SQL literal, for the one place that takes no parameter: a column's default."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        raise BadRequest("a default is a string, a number, true, false or null")
    text = str(value)
    if "\0" in text:
        raise BadRequest("a default holds a zero character")
    if "\\" in text:
        return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
    return "'" + text.replace("'", "''") + "'"


def table_name(text: str) -> TableName:
    """Return the table of a path: `name`, `schema.name`, or with parts in double quotes."""
    parts = _split(text, ".")
    if len(parts) == 1:
        return TableName("public", parts[0])
    if len(parts) == 2:
        return TableName(parts[0], parts[1])
    raise BadRequest(f"{text!r} is no table name", hint='Write name, schema.name or "schema"."name".', sqlstate="42602")


def key_values(text: str, count: int) -> list[str]:
    """Return the values of a key in a path: one, or as many as the key has columns, with commas between."""
    if count == 1:
        return [text]
    values = _split(text, ",")
    if len(values) != count:
        raise BadRequest(f"the key has {count} columns, the path names {len(values)} values")
    return values


def _split(text: str, separator: str) -> list[str]:
    """Split at a separator; parts may be in double quotes, with a quote inside doubled."""
    parts: list[str] = []
    at = 0
    while True:
        if text[at : at + 1] == '"':
            part, at = _quoted(text, at)
        else:
            end = text.find(separator, at)
            end = len(text) if end < 0 else end
            part, at = text[at:end], end
        parts.append(part)
        if at == len(text):
            return parts
        if text[at] != separator:
            raise BadRequest(f"unexpected text behind a quote in {text!r}")
        at += 1


def _quoted(text: str, at: int) -> tuple[str, int]:
    part: list[str] = []
    at += 1
    while True:
        end = text.find('"', at)
        if end < 0:
            raise BadRequest(f"a quote is not closed in {text!r}")
        part.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            return "".join(part), end + 1
        part.append('"')
        at = end + 2


class Parameters:
    """Collects a statement's parameters and hands out their places."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def add(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def where(filters: Iterable[tuple[str, str]], parameters: Parameters) -> str:
    """Return the WHERE clause of `column=operator.value` pairs; '' without any. Raises BadRequest."""
    conditions = [_condition(column, text, parameters) for column, text in filters if column not in RESERVED]
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _condition(column: str, text: str, parameters: Parameters) -> str:
    name, dot, value = text.partition(".")
    left = quote(column)
    if dot and name in OPERATORS:
        return f"{left} {OPERATORS[name]} {parameters.add(value)}"
    if dot and name == "is":
        if value not in IS_VALUES:
            raise BadRequest(f"is.{value} is not known", hint=f"Use one of {', '.join(IS_VALUES)}.")
        return f"{left} {IS_VALUES[value]}"
    if dot and name == "in":
        if not (value.startswith("(") and value.endswith(")")):
            raise BadRequest("in takes a list in brackets: in.(a,b)")
        members = _split(value[1:-1], ",")
        return f"{left} IN ({', '.join(parameters.add(member) for member in members)})"
    known = ", ".join((*OPERATORS, "in", "is"))
    raise BadRequest(f"{text!r} is no filter of column {column!r}", hint=f"Write operator.value; operators: {known}.")


def selection(text: str | None) -> str:
    """Return the select list of `select`."""
    return ", ".join(map(quote, _split(text, ","))) if text else "*"


def ordering(text: str | None) -> str:
    """Return the ORDER BY clause of `order`: column, column.asc, column.desc, each with .nullsfirst or .nullslast."""
    if not text:
        return ""
    terms = []
    for term in text.split(","):
        pieces = term.split(".")
        ending = ""
        if len(pieces) > 1 and pieces[-1] in ("nullsfirst", "nullslast"):
            ending = " NULLS FIRST" if pieces.pop() == "nullsfirst" else " NULLS LAST"
        direction = ""
        if len(pieces) > 1 and pieces[-1] in ("asc", "desc"):
            direction = f" {pieces.pop().upper()}"
        terms.append(quote(".".join(pieces)) + direction + ending)
    return " ORDER BY " + ", ".join(terms)


def select_rows(table: TableName, filters: Sequence[tuple[str, str]], limit: int, offset: int) -> tuple[str, list[Any]]:
    """Return the statement of GET rows and its parameters. `filters` are all pairs of the request's query."""
    named = dict(filters)
    parameters = Parameters()
    sql = f"SELECT {selection(named.get('select'))} FROM {table.sql}{where(filters, parameters)}"
    sql += ordering(named.get("order")) + f" LIMIT {int(limit)}"
    return (sql + f" OFFSET {int(offset)}" if offset else sql), parameters.values


def key_condition(key: Sequence[str], first: int) -> str:
    """Return the condition on a key's columns, whose values are the parameters from `first` on."""
    return " AND ".join(f"{quote(column)} = ${first + at}" for at, column in enumerate(key))


def insert(table: TableName, columns: Sequence[str]) -> str:
    if not columns:
        return f"INSERT INTO {table.sql} DEFAULT VALUES RETURNING *"
    places = ", ".join(f"${at}" for at in range(1, len(columns) + 1))
    return f"INSERT INTO {table.sql} ({', '.join(map(quote, columns))}) VALUES ({places}) RETURNING *"


def replace(table: TableName, columns: Sequence[str], given: Sequence[str], key: Sequence[str]) -> str:
    """Return PUT's statement: the whole row is replaced, what is not given takes its default."""
    rest = [column for column in columns if column not in key] or list(key)
    sets = ", ".join(f"{quote(column)} = EXCLUDED.{quote(column)}" for column in rest)
    upsert = f" ON CONFLICT ({', '.join(map(quote, key))}) DO UPDATE SET {sets} RETURNING *"
    return insert(table, given).removesuffix(" RETURNING *") + upsert


def update(table: TableName, columns: Sequence[str], key: Sequence[str]) -> str:
    sets = ", ".join(f"{quote(column)} = ${at}" for at, column in enumerate(columns, 1))
    return f"UPDATE {table.sql} SET {sets} WHERE {key_condition(key, len(columns) + 1)} RETURNING *"


def column_type(text: str) -> str:
    """Return a column type as SQL. Raises OrbitError when it is not one of the engine's types."""
    spelled = " ".join(text.lower().split())
    match = _TYPE.fullmatch(spelled)
    if match is None or match[1] + (match[4] or "") not in TYPES:
        raise OrbitError(f"type {text!r} does not exist", sqlstate="42704")
    return spelled


def create_table(table: TableName, columns: Sequence[tuple[str, str, bool, bool, Any]], key: Sequence[str]) -> str:
    """Return CREATE TABLE for columns (name, type, nullable, has default, default) and a primary key."""
    parts = []
    for name, kind, nullable, has_default, default in columns:
        part = f"{quote(name)} {column_type(kind)}"
        if has_default:
            part += f" DEFAULT {literal(default)}"
        parts.append(part if nullable else part + " NOT NULL")
    if key:
        parts.append(f"PRIMARY KEY ({', '.join(map(quote, key))})")
    return f"CREATE TABLE {table.sql} ({', '.join(parts)})"
