"""Text functions. Characters are code points; positions count from 1."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import uuid
from typing import Any, Final

from orbit.kernel.errors import OrbitError
from orbit.kernel.types import Oid
from orbit.kernel.values import decode_text, parse_text
from services.storage.sql.evaluate.registry import INLINE, function, keys

MAX_TEXT_BYTES: Final = (1 << 30) - 1

INLINE["||(text,text)"] = "({0} + {1})"
INLINE["||(bytea,bytea)"] = "({0} + {1})"
INLINE[keys("length", "text")[0]] = "len({0})"
function(*keys("char_length character_length", "text"))(len)
function(*keys("length char_length character_length", "bpchar"))(lambda v: len(v.rstrip(" ")))
function("length(bytea)", "octet_length(bytea)")(len)
function("octet_length(text)")(lambda v: len(v.encode()))
function("octet_length(bpchar)")(lambda v: len(v.encode()))
function("bit_length(text)")(lambda v: 8 * len(v.encode()))
# One character for one, as PostgreSQL's towupper: no 'ß' to 'SS'.
function("upper(text)")(lambda v: v.upper() if v.isascii() else "".join(_single(c, c.upper()) for c in v))
function("lower(text)")(lambda v: v.lower() if v.isascii() else "".join(_single(c, c.lower()) for c in v))
function("reverse(text)")(lambda v: v[::-1])
function("starts_with(text,text)")(lambda v, prefix: v.startswith(prefix))
function("ascii(text)")(lambda v: ord(v[0]) if v else 0)
function("boolout(bool)")(lambda v: "t" if v else "f")


def _single(char: str, changed: str) -> str:
    return changed if len(changed) == 1 else char


@function("initcap(text)")
def _initcap(value: str) -> str:
    parts: list[str] = []
    inside = False
    for char in value:
        parts.append(_single(char, char.lower() if inside else char.upper()))
        inside = char.isalnum()
    return "".join(parts)


def _substring_bounds(start: int, length: int | None, size: int) -> tuple[int, int]:
    if length is None:
        return max(start - 1, 0), size
    if length < 0:
        raise OrbitError("negative substring length not allowed", sqlstate="22011")
    return max(start - 1, 0), max(start - 1 + length, 0)


@function(*keys("substring substr", "text,int4", "text,int4,int4", "bytea,int4", "bytea,int4,int4"))
def _substring(value: Any, start: int, length: int | None = None) -> Any:
    first, last = _substring_bounds(start, length, len(value))
    return value[first:last]


@function("position(text,text)", "strpos(text,text)")
def _position(value: str, part: str) -> int:
    return value.find(part) + 1


function("left(text,int4)")(lambda v, n: v[:n] if n >= 0 else v[: max(len(v) + n, 0)])
function("right(text,int4)")(lambda v, n: v[max(len(v) - n, 0) :] if n >= 0 else v[-n:])


def _check_size(size: int) -> None:
    if size > MAX_TEXT_BYTES:
        raise OrbitError("requested length too large", sqlstate="54000")


def _padding(value: str, size: int, fill: str) -> str:
    missing = size - len(value)
    if missing <= 0 or not fill:
        return ""
    _check_size(size)
    return (fill * (missing // len(fill) + 1))[:missing]


@function("lpad(text,int4)", "lpad(text,int4,text)")
def _lpad(value: str, size: int, fill: str = " ") -> str:
    return _padding(value, size, fill) + value[: max(size, 0)]


@function("rpad(text,int4)", "rpad(text,int4,text)")
def _rpad(value: str, size: int, fill: str = " ") -> str:
    return value[: max(size, 0)] + _padding(value, size, fill)


for _name, _method in (("btrim", str.strip), ("ltrim", str.lstrip), ("rtrim", str.rstrip)):
    function(f"{_name}(text)")(lambda v, strip=_method: strip(v, " "))
    function(f"{_name}(text,text)")(lambda v, chars, strip=_method: strip(v, chars) if chars else v)

function("replace(text,text,text)")(lambda v, old, new: v.replace(old, new) if old else v)


@function("translate(text,text,text)")
def _translate(value: str, old: str, new: str) -> str:
    table: dict[int, str | None] = {}
    for at, char in enumerate(old):
        table.setdefault(ord(char), new[at] if at < len(new) else None)
    return value.translate(table)


@function("repeat(text,int4)")
def _repeat(value: str, count: int) -> str:
    if count > 0:
        _check_size(len(value.encode()) * count)
    return value * count


@function("split_part(text,text,int4)")
def _split_part(value: str, separator: str, field: int) -> str:
    if field == 0:
        raise OrbitError("field position must not be zero", sqlstate="22023")
    parts = value.split(separator) if separator else [value]
    at = field - 1 if field > 0 else len(parts) + field
    return parts[at] if 0 <= at < len(parts) else ""


@function("chr(int4)")
def _chr(code: int) -> str:
    if code == 0:
        raise OrbitError("null character not permitted", sqlstate="54000")
    if code < 0:
        raise OrbitError("character number must be positive", sqlstate="22023")
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise OrbitError(f"requested character too large for encoding: {code}", sqlstate="54000")
    return chr(code)


function("md5(text)")(lambda v: hashlib.md5(v.encode()).hexdigest())  # noqa: S324 - the SQL function of that name
function("md5(bytea)")(lambda v: hashlib.md5(v).hexdigest())  # noqa: S324 - the SQL function of that name
function("sha256(bytea)")(lambda v: hashlib.sha256(v).digest())
function("to_hex(int4)")(lambda v: f"{v & 0xFFFFFFFF:x}")
function("to_hex(int8)")(lambda v: f"{v & 0xFFFFFFFFFFFFFFFF:x}")


@function("overlay(text,text,int4)", "overlay(text,text,int4,int4)")
def _overlay(value: str, part: str, start: int, length: int | None = None) -> str:
    if start <= 0:
        raise OrbitError("negative substring length not allowed", sqlstate="22011")
    size = len(part) if length is None else length
    return value[: start - 1] + part + value[max(start - 1 + size, 0) :]


_PLAIN_IDENTIFIER: Final = re.compile(r"[a-z_][a-z0-9_$]*").fullmatch
_RESERVED: Final = frozenset(
    [
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "current_catalog",
        "current_date",
        "current_role",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "initially",
        "intersect",
        "into",
        "lateral",
        "leading",
        "limit",
        "localtime",
        "localtimestamp",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "placing",
        "primary",
        "references",
        "returning",
        "select",
        "session_user",
        "some",
        "symmetric",
        "table",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "when",
        "where",
        "window",
        "with",
        "between",
        "bigint",
        "bit",
        "boolean",
        "char",
        "character",
        "coalesce",
        "dec",
        "decimal",
        "exists",
        "extract",
        "float",
        "greatest",
        "grouping",
        "inout",
        "int",
        "integer",
        "interval",
        "least",
        "national",
        "nchar",
        "none",
        "nullif",
        "numeric",
        "out",
        "overlay",
        "position",
        "precision",
        "real",
        "row",
        "setof",
        "smallint",
        "substring",
        "time",
        "timestamp",
        "treat",
        "trim",
        "values",
        "varchar",
        "authorization",
        "binary",
        "cross",
        "full",
        "ilike",
        "inner",
        "is",
        "isnull",
        "join",
        "left",
        "like",
        "natural",
        "notnull",
        "outer",
        "right",
        "similar",
        "verbose",
    ]
)


@function("quote_ident(text)")
def quote_ident(value: str) -> str:
    """Return an identifier as it must be written in SQL."""
    if _PLAIN_IDENTIFIER(value) and value not in _RESERVED:
        return value
    return '"' + value.replace('"', '""') + '"'


@function("quote_literal(text)")
def quote_literal(value: str) -> str:
    quoted = "'" + value.replace("'", "''").replace("\\", "\\\\") + "'"
    return "E" + quoted if "\\" in value else quoted


function("quote_nullable(text)")(lambda v: "NULL" if v is None else quote_literal(v))
function("concat(any)")(lambda *parts: "".join(part for part in parts if part is not None))


@function("concat_ws(text,any)")
def _concat_ws(separator: str | None, *parts: str | None) -> str | None:
    return None if separator is None else separator.join(part for part in parts if part is not None)


@function("format(text)", "format(text,any)")
def _format(template: str | None, *values: str | None) -> str | None:
    if template is None:
        return None
    following = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal following
        if match[0] == "%%":
            return "%"
        if match["kind"] is None:
            raise OrbitError(f'unrecognized format() type specifier "{match[0][-1]}"', sqlstate="22023")
        at = int(match["at"]) - 1 if match["at"] else following
        following = at + 1
        if at >= len(values):
            raise OrbitError("too few arguments for format()", sqlstate="22023")
        value = values[at]
        if match["kind"] == "s":
            text = value or ""
        elif match["kind"] == "I":
            if value is None:
                raise OrbitError("null values cannot be formatted as an SQL identifier", sqlstate="22004")
            text = quote_ident(value)
        else:
            text = "NULL" if value is None else quote_literal(value)
        width = int(match["width"] or 0)
        return text.ljust(width) if match["minus"] else text.rjust(width)

    return re.sub(r"%(?:%|(?:(?P<at>\d+)\$)?(?P<minus>-)?(?P<width>\d+)?(?:(?P<kind>[sIL])|.?))", replace, template)


# bytea


@function("encode(bytea,text)")
def _encode(value: bytes, form: str) -> str:
    if form == "hex":
        return value.hex()
    if form == "base64":
        text = base64.b64encode(value).decode()
        return "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    if form == "escape":
        return "".join("\\\\" if b == 92 else chr(b) if 0 < b < 128 else f"\\{b:03o}" for b in value)
    raise OrbitError(f'unrecognized encoding: "{form}"', sqlstate="22023")


@function("decode(text,text)")
def _decode(value: str, form: str) -> bytes:
    if form == "hex":
        try:
            return bytes.fromhex(value)
        except ValueError:
            raise OrbitError("invalid hexadecimal data", sqlstate="22023") from None
    if form == "base64":
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except ValueError:
            raise OrbitError("invalid base64 end sequence", sqlstate="22023") from None
    if form == "escape":
        decoded: bytes = parse_text(Oid.BYTEA)(value)
        return decoded
    raise OrbitError(f'unrecognized encoding: "{form}"', sqlstate="22023")


def _utf8(name: str) -> None:
    if name.lower().replace("-", "").replace("_", "") not in ("utf8", "unicode"):
        raise OrbitError(f'conversion to encoding "{name}" is not supported', sqlstate="0A000")


@function("convert_to(text,text)")
def _convert_to(value: str, encoding: str) -> bytes:
    _utf8(encoding)
    return value.encode()


@function("convert_from(bytea,text)")
def _convert_from(value: bytes, encoding: str) -> str:
    _utf8(encoding)
    return decode_text(value)


@function("gen_random_uuid()", context=True)
def _random_uuid(context: Any) -> str:
    return str(uuid.UUID(bytes=context.random_bytes(16), version=4))


@function("pg_size_pretty(int8)", "pg_size_pretty(numeric)")
def _size_pretty(value: Any) -> str:
    size = int(value)
    for unit, limit in (("bytes", 10 << 10), ("kB", 20 << 10), ("MB", 20 << 10), ("GB", 20 << 10), ("TB", 20 << 10)):
        if abs(size) < limit or unit == "TB":
            return f"{_half(size) if unit != 'bytes' else size} {unit}"
        size = size >> (9 if unit == "bytes" else 10)
    return f"{_half(size)} PB"


def _half(size: int) -> int:
    return math.trunc((size + (1 if size >= 0 else -1)) / 2)
