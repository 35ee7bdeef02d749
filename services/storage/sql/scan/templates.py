"""Functions that DuckDB computes exactly as PostgreSQL does, as SQL templates by signature key.

A template is text with `{0}`, `{1}` .. for arguments, or a function of the bound call and its argument texts that may
return None: then, as for every signature that is not here, the evaluator's Python runs inside DuckDB instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from orbit.kernel.types import Oid
from services.storage.sql.bind.tree import Const, Expression
from services.storage.sql.scan.errors import RAISED

Template = str | Callable[[Sequence[Expression], Sequence[str]], str | None]
TEMPLATES: Final[dict[str, Template]] = {}

_INTEGERS: Final = {"int2": "SMALLINT", "int4": "INTEGER", "int8": "BIGINT"}


def _float_check(template: str) -> str:
    """Raise 22003 when a float result is infinite and no argument is."""
    return (
        f"CASE WHEN isinf({template}) AND NOT isinf({{0}}) AND NOT isinf({{1}}) "
        f"THEN error('{RAISED}22003:value out of range: overflow') ELSE {template} END"
    )


def _define_numbers() -> None:
    order = list(_INTEGERS)
    for left in order:
        for right in order:
            wide = _INTEGERS[order[max(order.index(left), order.index(right))]]
            a = "{0}" if _INTEGERS[left] == wide else f"CAST({{0}} AS {wide})"
            b = "{1}" if _INTEGERS[right] == wide else f"CAST({{1}} AS {wide})"
            for sign, operator in (("+", "+"), ("-", "-"), ("*", "*"), ("/", "//")):
                TEMPLATES[f"{sign}({left},{right})"] = f"({a} {operator} {b})"
            for name in _COMPARISONS:
                TEMPLATES[f"{name}({left},{right})"] = f"({a} {name} {b})"
    for name, wide in _INTEGERS.items():
        for key in ("%", "mod"):
            TEMPLATES[f"{key}({name},{name})"] = "({0} % {1})"
        TEMPLATES[f"-({name})"] = "(- {0})"
        TEMPLATES[f"+({name})"] = "{0}"
        TEMPLATES[f"abs({name})"] = f"CAST(abs({{0}}) AS {wide})"
    for left in ("float4", "float8"):
        for right in ("float4", "float8"):
            both = left == right == "float4"
            a = "{0}" if both or left == "float8" else "CAST({0} AS DOUBLE)"
            b = "{1}" if both or right == "float8" else "CAST({1} AS DOUBLE)"
            for sign in "+-*":
                TEMPLATES[f"{sign}({left},{right})"] = _float_check(f"({a} {sign} {b})")
            TEMPLATES[f"/({left},{right})"] = (
                f"CASE WHEN {{1}} = 0 AND NOT isnan({{0}}) THEN error('{RAISED}22012:division by zero') "
                f"ELSE {_float_check(f'({a} / {b})')} END"
            )
            for name in _COMPARISONS:
                TEMPLATES[f"{name}({left},{right})"] = f"({a} {name} {b})"
        TEMPLATES[f"-({left})"] = "(- {0})"
        TEMPLATES[f"+({left})"] = "{0}"
        TEMPLATES[f"abs({left})"] = "abs({0})"
    for name in ("floor", "ceil", "ceiling"):
        TEMPLATES[f"{name}(float8)"] = f"{name}({{0}})"
    TEMPLATES["round(float8)"] = "round_even({0}, 0)"
    TEMPLATES["sqrt(float8)"] = (
        f"CASE WHEN {{0}} < 0 THEN error('{RAISED}2201F:cannot take square root of a negative number') "
        "ELSE sqrt({0}) END"
    )
    TEMPLATES["random()"] = "random()"
    TEMPLATES["pi()"] = "pi()"


_COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=")


def _padded_comparison(name: str) -> Template:
    def build(nodes: Sequence[Expression], texts: Sequence[str]) -> str | None:
        left, right = nodes
        size = left.type.modifier - 4
        if isinstance(right, Const) and right.value is not None and size > 0:
            bare = right.value.rstrip(" ")
            if len(bare) <= size:
                # A char(n) column is always padded to n: pad the constant instead of trimming every row.
                return f"({texts[0]} {name} '{bare.ljust(size).replace(chr(39), chr(39) * 2)}')"
        if size > 0 and right.type == left.type:
            return f"({texts[0]} {name} {texts[1]})"
        return f"(rtrim({texts[0]}, ' ') {name} rtrim({texts[1]}, ' '))"

    return build


def _define_comparisons() -> None:
    for name in _COMPARISONS:
        for pair in ("oid,oid", "text,text", "name,name", "name,text", "text,name", "char,char", "bytea,bytea",
                     "bool,bool", "date,date", "timestamp,timestamp", "timestamptz,timestamptz", "time,time",
                     "interval,interval", "uuid,uuid", "xid,xid"):  # fmt: skip
            TEMPLATES[f"{name}({pair})"] = f"({{0}} {name} {{1}})"
        TEMPLATES[f"{name}(bpchar,bpchar)"] = _padded_comparison(name)
        TEMPLATES[f"{name}(date,timestamp)"] = f"(CAST({{0}} AS TIMESTAMP) {name} {{1}})"
        TEMPLATES[f"{name}(timestamp,date)"] = f"({{0}} {name} CAST({{1}} AS TIMESTAMP))"


def _like(operator: str, negated: bool) -> Template:
    def build(nodes: Sequence[Expression], texts: Sequence[str]) -> str | None:
        pattern = nodes[1]
        if not isinstance(pattern, Const) or pattern.value is None:
            return None
        if operator == "ILIKE" and not pattern.value.isascii():
            return None
        value = texts[0]
        escape = r" ESCAPE '\'" if "\\" in pattern.value else ""
        if escape and re.search(r"(?<!\\)(\\\\)*\\$", pattern.value):
            return None
        return f"({value} {'NOT ' if negated else ''}{operator} {texts[1]}{escape})"

    return build


_SIMPLE_REGEX: Final = re.compile(r"[\w \-.^$*+?|()@,:;=<>!#%&'\"/~_]*").fullmatch


def _regex(negated: bool, fold: bool) -> Template:
    def build(nodes: Sequence[Expression], texts: Sequence[str]) -> str | None:
        pattern = nodes[1]
        if not isinstance(pattern, Const) or pattern.value is None or not pattern.value.isascii():
            return None
        text = pattern.value
        if not _SIMPLE_REGEX(text) or "(?" in text or re.search(r"[*+?]{2}|^[*+?]|[|(][*+?]", text):
            return None
        test = f"regexp_matches({texts[0]}, {texts[1]}, '{'si' if fold else 's'}')"
        return f"(NOT {test})" if negated else test

    return build


def _define_patterns() -> None:
    for types in ("text,text", "name,text", "bpchar,text"):
        TEMPLATES[f"~~({types})"] = _like("LIKE", False)
        TEMPLATES[f"!~~({types})"] = _like("LIKE", True)
        TEMPLATES[f"~~*({types})"] = _like("ILIKE", False)
        TEMPLATES[f"!~~*({types})"] = _like("ILIKE", True)
        TEMPLATES[f"~({types})"] = _regex(False, False)
        TEMPLATES[f"!~({types})"] = _regex(True, False)
        TEMPLATES[f"~*({types})"] = _regex(False, True)
        TEMPLATES[f"!~*({types})"] = _regex(True, True)


def _is_int(node: Expression, low: int) -> bool:
    return isinstance(node, Const) and isinstance(node.value, int) and node.value >= low


def _substring(nodes: Sequence[Expression], texts: Sequence[str]) -> str | None:
    if not all(_is_int(node, low) for node, low in zip(nodes[1:], (1, 0), strict=False)):
        return None
    return f"substring({', '.join(texts)})"


def _not_empty(node: Expression) -> bool:
    return isinstance(node, Const) and bool(node.value)


def _define_strings() -> None:
    TEMPLATES["||(text,text)"] = "({0} || {1})"
    for name in ("length", "char_length", "character_length"):
        TEMPLATES[f"{name}(text)"] = "CAST(length({0}) AS INTEGER)"
        TEMPLATES[f"{name}(bpchar)"] = "CAST(length(rtrim({0}, ' ')) AS INTEGER)"
    TEMPLATES["octet_length(text)"] = "CAST(strlen({0}) AS INTEGER)"
    for name in ("substring", "substr"):
        TEMPLATES[f"{name}(text,int4)"] = _substring
        TEMPLATES[f"{name}(text,int4,int4)"] = _substring
    for name in ("position", "strpos"):
        TEMPLATES[f"{name}(text,text)"] = "CAST(strpos({0}, {1}) AS INTEGER)"
    TEMPLATES["left(text,int4)"] = lambda nodes, texts: (
        f"left({texts[0]}, {texts[1]})" if _is_int(nodes[1], 0) else None
    )
    TEMPLATES["right(text,int4)"] = lambda nodes, texts: (
        f"right({texts[0]}, {texts[1]})" if _is_int(nodes[1], 0) else None
    )
    TEMPLATES["btrim(text)"] = "trim({0}, ' ')"
    TEMPLATES["ltrim(text)"] = "ltrim({0}, ' ')"
    TEMPLATES["rtrim(text)"] = "rtrim({0}, ' ')"
    TEMPLATES["replace(text,text,text)"] = lambda nodes, texts: (
        f"replace({', '.join(texts)})" if _not_empty(nodes[1]) else None
    )
    TEMPLATES["starts_with(text,text)"] = "starts_with({0}, {1})"
    TEMPLATES["split_part(text,text,int4)"] = lambda nodes, texts: (
        f"split_part({', '.join(texts)})" if _not_empty(nodes[1]) and _is_int(nodes[2], 1) else None
    )
    TEMPLATES["md5(text)"] = "md5({0})"
    TEMPLATES["boolout(bool)"] = "CASE {0} WHEN true THEN 't' WHEN false THEN 'f' END"


_PARTS: Final = frozenset(
    ["year", "month", "day", "hour", "minute", "quarter", "week", "dow", "isodow", "doy", "isoyear"]
)
_DATE_PARTS: Final = _PARTS - {"hour", "minute"}
_TRUNCATED: Final = frozenset(
    ["microseconds", "milliseconds", "second", "minute", "hour", "day", "week", "month", "quarter", "year"]
)


def _field(node: Expression) -> str | None:
    if not isinstance(node, Const) or not isinstance(node.value, str):
        return None
    word = node.value.strip().lower()
    if word.endswith("s") and word.removesuffix("s") in _TRUNCATED | _PARTS:
        return word.removesuffix("s")
    return word


def part(nodes: Sequence[Expression], texts: Sequence[str]) -> tuple[str, int] | None:
    """Return (integer SQL, decimal places) of a part of a date or timestamp; None where Python must do it.

    Infinite values and years before Christ count differently in DuckDB; both are left to Python.
    """
    field = _field(nodes[0])
    is_date = nodes[1].type.oid == Oid.DATE
    value = texts[1]
    if field == "epoch":
        return (f"(epoch_us(CAST({value} AS TIMESTAMP)) // 1000000)", 0) if is_date else (f"epoch_us({value})", 6)
    if field in ("second", "milliseconds", "microseconds") and not is_date:
        places = {"second": 6, "milliseconds": 3, "microseconds": 0}[field]
        return f"date_part('microseconds', {value})", places
    if field in (_DATE_PARTS if is_date else _PARTS):
        return f"date_part('{field}', {value})", 0
    return None


def _truncate(nodes: Sequence[Expression], texts: Sequence[str]) -> str | None:
    field = _field(nodes[0])
    return f"date_trunc('{field}', {texts[1]})" if field in _TRUNCATED else None


def _date_plus(sign: str, date: int) -> Template:
    """Days added to a date: by DuckDB for a constant number of days; a sum with many wraps without an error."""

    def template(nodes: Sequence[Expression], texts: Sequence[str]) -> str | None:
        days = nodes[1 - date]
        if not isinstance(days, Const) or days.value is None or abs(days.value) > _MANY_DAYS:
            return None
        return f"({texts[date]} {sign} {texts[1 - date]})"

    return template


_MANY_DAYS: Final = 1_000_000


def _define_dates() -> None:
    TEMPLATES["+(date,int4)"] = _date_plus("+", 0)
    TEMPLATES["+(int4,date)"] = _date_plus("+", 1)
    TEMPLATES["-(date,int4)"] = _date_plus("-", 0)
    TEMPLATES["-(date,date)"] = "CAST(({0} - {1}) AS INTEGER)"
    for kind in ("date", "timestamp"):
        value = "CAST({0} AS TIMESTAMP)" if kind == "date" else "{0}"
        other = value.replace("0", "1")
        TEMPLATES[f"+({kind},interval)"] = f"({value} + {{1}})"
        TEMPLATES[f"+(interval,{kind})"] = f"({other} + {{0}})"
        TEMPLATES[f"-({kind},interval)"] = f"({value} - {{1}})"
    TEMPLATES["-(timestamp,timestamp)"] = "({0} - {1})"
    TEMPLATES["-(timestamptz,timestamptz)"] = "({0} - {1})"
    TEMPLATES["+(interval,interval)"] = "({0} + {1})"
    TEMPLATES["-(interval,interval)"] = "({0} - {1})"
    TEMPLATES["date_trunc(text,timestamp)"] = _truncate


_define_numbers()
_define_comparisons()
_define_patterns()
_define_strings()
_define_dates()
