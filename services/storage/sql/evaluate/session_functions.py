"""Functions about the session and the server: settings, sequences, names, versions."""

from __future__ import annotations

import json
import sys
from typing import Any

from orbit.kernel.errors import NotSupported, OrbitError
from services.storage.sql.evaluate.context import SERVER_VERSION, EvaluationContext
from services.storage.sql.evaluate.registry import function, keys
from services.storage.sql.text_values import text_formatter

function("version()")(lambda: f"PostgreSQL {SERVER_VERSION} (Orbit Engine) on {sys.platform}, 64-bit")
function("current_database()", "current_catalog()", context=True)(lambda c: c.database)
function(*keys("current_user user current_role", ""), context=True)(lambda c: c.user)
function("session_user()", context=True)(lambda c: c.session_user or c.user)
function("pg_backend_pid()", context=True)(lambda c: c.backend_pid)
function("inet_server_port()", context=True)(lambda c: int(c.setting("port") or 0) or None)
function("pg_is_in_recovery()")(lambda: False)
function("pg_postmaster_start_time()", context=True)(lambda c: c.started_us)
function("timeofday()", context=True)(lambda c: text_formatter(1184, c.zone)(c.clock_us()))
function("pg_client_encoding()")(lambda: "UTF8")


def _schemas(context: EvaluationContext) -> list[str]:
    return [
        name
        for name in context.search_path
        if name == "pg_catalog" or context.catalog.schema(name) is not None or name == "public"
    ]


@function("current_schema()", context=True)
def _current_schema(context: EvaluationContext) -> str | None:
    return next(iter(_schemas(context)), None)


@function("current_schemas(bool)", context=True)
def _current_schemas(context: EvaluationContext, implicit: bool) -> tuple[str, ...]:
    names = _schemas(context)
    return tuple(["pg_catalog", *names] if implicit and "pg_catalog" not in names else names)


@function("current_setting(text)", "current_setting(text,bool)", context=True)
def _current_setting(context: EvaluationContext, name: str, missing_ok: bool = False) -> str | None:
    value = context.setting(name)
    if value is None and not missing_ok:
        raise OrbitError(f'unrecognized configuration parameter "{name}"', sqlstate="42704")
    return value


@function("set_config(text,text,bool)", context=True)
def _set_config(context: EvaluationContext, name: str | None, value: str | None, local: bool | None) -> str:
    if name is None:
        raise OrbitError("SET requires parameter name", sqlstate="22004")
    return context.set_setting(name, value or "", bool(local))


function("nextval(regclass)", context=True)(lambda c, sequence: c.sequences.nextval(sequence))
function("currval(regclass)", context=True)(lambda c, sequence: c.sequences.currval(sequence))
function("lastval()", context=True)(lambda c: c.sequences.lastval())
function("setval(regclass,int8)", context=True)(lambda c, sequence, value: c.sequences.setval(sequence, value, True))
function("setval(regclass,int8,bool)", context=True)(
    lambda c, sequence, value, called: c.sequences.setval(sequence, value, called)
)


def _refuse(name: str) -> Any:
    def run(*args: Any) -> Any:
        raise NotSupported(f"function {name} is not supported")

    return run


for _key, _name in (
    ("pg_sleep(float8)", "pg_sleep"), ("txid_current()", "txid_current"), ("to_number(text,text)", "to_number"),
    ("hashtext(text)", "hashtext"), ("pg_column_size(any)", "pg_column_size"), ("array_in(text)", "array_in"),
):  # fmt: skip
    function(_key)(_refuse(_name))

function("num_nulls(any)")(lambda *values: sum(value is None for value in values))
function("num_nonnulls(any)")(lambda *values: sum(value is not None for value in values))


# JSON


def _item(text: str, key: str | int, scalar: bool) -> str | None:
    document = json.loads(text, parse_float=_Raw, parse_int=_Raw)
    if isinstance(document, dict) and isinstance(key, str):
        if key not in document:
            return None
        found = document[key]
    elif isinstance(document, list) and isinstance(key, int):
        if not -len(document) <= key < len(document):
            return None
        found = document[key]
    else:
        return None
    if scalar and found is None:
        return None
    if scalar and isinstance(found, str):
        return str(found)
    return _dump(found)


class _Raw(str):
    """A number as its text."""

    __slots__ = ()


def _dump(value: Any) -> str:
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)}: {_dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _json_item(text: str, key: str | int) -> str | None:
    raise NotSupported("operator -> of json is not supported, use jsonb")


for _type in ("json", "jsonb"):
    for _key in ("text", "int4"):
        function(f"->>({_type},{_key})")(lambda v, key: _item(v, key, True))
function("->(jsonb,text)", "->(jsonb,int4)")(lambda v, key: _item(v, key, False))
function("->(json,text)", "->(json,int4)")(_json_item)


@function("json_typeof(json)", "jsonb_typeof(jsonb)")
def _json_type(text: str) -> str:
    document = json.loads(text)
    if document is None:
        return "null"
    for kind, name in ((bool, "boolean"), (str, "string"), (dict, "object"), (list, "array")):
        if isinstance(document, kind):
            return name
    return "number"


@function("json_array_length(json)", "jsonb_array_length(jsonb)")
def _json_array_length(text: str) -> int:
    document = json.loads(text)
    if not isinstance(document, list):
        what = "an object" if isinstance(document, dict) else "a scalar"
        raise OrbitError(
            f"cannot get array length of {what}" if what == "a scalar" else "cannot get array length of a non-array",
            sqlstate="22023",
        )
    return len(document)


@function("jsonb_extract_path_text(jsonb,text)", "json_extract_path_text(json,text)")
def _extract_path(text: str, *path: str) -> str | None:
    current: str | None = text
    for at, key in enumerate(path):
        if current is None:
            return None
        last = at == len(path) - 1
        step: str | int = int(key) if key.lstrip("-").isdigit() and current.lstrip().startswith("[") else key
        current = _item(current, step, last)
    return current
