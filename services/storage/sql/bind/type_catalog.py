"""PostgreSQL's types as the binder knows them: names, categories, arrays, and which cast applies in which context.

Owns the identity of types beyond those that columns store (`orbit.kernel.types`): arrays, reg* types, pseudo-types.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from orbit.kernel.types import Oid, SqlType
from orbit.kernel.types import type_name as stored_type_name

VOID: Final = 2278
RECORD: Final = 2249
REGPROC: Final = 24
REGPROCEDURE: Final = 2202
REGCLASS: Final = 2205
REGTYPE: Final = 2206
REGROLE: Final = 4096
REGNAMESPACE: Final = 4089
INT2VECTOR: Final = 22
OIDVECTOR: Final = 30
XID: Final = 28
NODE_TREE: Final = 194
ACLITEM: Final = 1033

ANY: Final = 2276
ANYELEMENT: Final = 2283
ANYARRAY: Final = 2277
ANYNONARRAY: Final = 2776
ANYCOMPATIBLE: Final = 5077
POLYMORPHIC: Final = frozenset((ANY, ANYELEMENT, ANYARRAY, ANYNONARRAY, ANYCOMPATIBLE))

REG_TYPES: Final = frozenset((REGPROC, REGPROCEDURE, REGCLASS, REGTYPE, REGROLE, REGNAMESPACE))
"""Types whose value is an OID (int) and whose text is a name of the catalog."""


class PgType(NamedTuple):
    """A row of pg_type as far as resolution needs it. `array` is the OID of its array type, 0 for none."""

    oid: int
    name: str
    category: str
    preferred: bool
    array: int
    size: int


_TYPES: Final = (
    PgType(16, "bool", "B", True, 1000, 1),
    PgType(17, "bytea", "U", False, 1001, -1),
    PgType(18, "char", "Z", False, 1002, 1),
    PgType(19, "name", "S", False, 1003, 64),
    PgType(20, "int8", "N", False, 1016, 8),
    PgType(21, "int2", "N", False, 1005, 2),
    PgType(22, "int2vector", "A", False, 1006, -1),
    PgType(23, "int4", "N", False, 1007, 4),
    PgType(24, "regproc", "N", False, 1008, 4),
    PgType(25, "text", "S", True, 1009, -1),
    PgType(26, "oid", "N", True, 1028, 4),
    PgType(28, "xid", "U", False, 1011, 4),
    PgType(30, "oidvector", "A", False, 1013, -1),
    PgType(114, "json", "U", False, 199, -1),
    PgType(194, "pg_node_tree", "Z", False, 0, -1),
    PgType(700, "float4", "N", False, 1021, 4),
    PgType(701, "float8", "N", True, 1022, 8),
    PgType(705, "unknown", "X", False, 0, -2),
    PgType(1033, "aclitem", "U", False, 1034, 12),
    PgType(1042, "bpchar", "S", False, 1014, -1),
    PgType(1043, "varchar", "S", False, 1015, -1),
    PgType(1082, "date", "D", False, 1182, 4),
    PgType(1083, "time", "D", False, 1183, 8),
    PgType(1114, "timestamp", "D", False, 1115, 8),
    PgType(1184, "timestamptz", "D", True, 1185, 8),
    PgType(1186, "interval", "T", True, 1187, 16),
    PgType(1700, "numeric", "N", False, 1231, -1),
    PgType(2202, "regprocedure", "N", False, 2207, 4),
    PgType(2205, "regclass", "N", False, 2210, 4),
    PgType(2206, "regtype", "N", False, 2211, 4),
    PgType(2249, "record", "P", False, 2287, -1),
    PgType(2276, "any", "P", False, 0, 4),
    PgType(2277, "anyarray", "P", False, 0, -1),
    PgType(2278, "void", "P", False, 0, 4),
    PgType(2283, "anyelement", "P", False, 0, 4),
    PgType(2776, "anynonarray", "P", False, 0, 4),
    PgType(2950, "uuid", "U", False, 2951, 16),
    PgType(3802, "jsonb", "U", False, 3807, -1),
    PgType(4089, "regnamespace", "N", False, 4090, 4),
    PgType(4096, "regrole", "N", False, 4097, 4),
    PgType(5077, "anycompatible", "P", False, 0, 4),
)

BY_OID: Final = {item.oid: item for item in _TYPES}
BY_NAME: Final = {item.name: item for item in _TYPES}
ELEMENT_OF: Final = {item.array: item.oid for item in _TYPES if item.array} | {INT2VECTOR: Oid.INT2, OIDVECTOR: Oid.OID}
ALL_TYPES: Final = (
    *_TYPES,
    *(PgType(item.array, f"_{item.name}", "A", False, 0, -1) for item in _TYPES if item.array),
)

ALIASES: Final = {
    "boolean": 16,
    "bigint": 20,
    "smallint": 21,
    "int": 23,
    "integer": 23,
    "real": 700,
    "float": 701,
    "double precision": 701,
    "double": 701,
    "character": 1042,
    "character varying": 1043,
    "decimal": 1700,
    "dec": 1700,
    "time without time zone": 1083,
    "timestamp without time zone": 1114,
    "timestamp with time zone": 1184,
}

_DISPLAY: Final = {
    REGPROC: "regproc",
    REGPROCEDURE: "regprocedure",
    REGCLASS: "regclass",
    REGTYPE: "regtype",
    REGROLE: "regrole",
    REGNAMESPACE: "regnamespace",
}

BOOL: Final = SqlType(Oid.BOOL)
INT2: Final = SqlType(Oid.INT2)
INT4: Final = SqlType(Oid.INT4)
INT8: Final = SqlType(Oid.INT8)
TEXT: Final = SqlType(Oid.TEXT)
UNKNOWN: Final = SqlType(Oid.UNKNOWN)
NUMERIC: Final = SqlType(Oid.NUMERIC)
FLOAT8: Final = SqlType(Oid.FLOAT8)


def is_array(oid: int) -> bool:
    return oid in ELEMENT_OF


def category(oid: int) -> str:
    if is_array(oid):
        return "A"
    return BY_OID[oid].category


def is_preferred(oid: int) -> bool:
    item = BY_OID.get(oid)
    return item is not None and item.preferred


def array_of(oid: int) -> int | None:
    item = BY_OID.get(oid)
    return item.array if item is not None and item.array else None


def internal_name(oid: int) -> str:
    """Return `typname`: int4, _text .."""
    item = BY_OID.get(oid)
    return item.name if item is not None else f"_{BY_OID[ELEMENT_OF[oid]].name}"


def display_name(sql_type: SqlType) -> str:
    """Return what `format_type` prints, arrays and pseudo-types included."""
    oid, modifier = sql_type.oid, sql_type.modifier
    if oid in ELEMENT_OF and oid not in (INT2VECTOR, OIDVECTOR):
        return display_name(SqlType(ELEMENT_OF[oid], modifier)) + "[]"
    if oid in BY_OID and (oid in _DISPLAY or BY_OID[oid].category == "P" or oid in (22, 28, 30, 194, 1033)):
        name = BY_OID[oid].name
        return f'"{name}"' if name in ("any", "char") else name
    if modifier >= 0 and oid in (Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ):
        head, _, tail = stored_type_name(SqlType(oid)).partition(" ")
        return f"{head}({modifier}) {tail}"
    if oid == Oid.BPCHAR and modifier < 0:
        return "bpchar" if modifier == -1 else "character"
    return stored_type_name(sql_type)


# Casts: from type -> {to type: context}; i implicit, a assignment, e explicit only.

_CASTS_TEXT: Final = """
int2: int4 i, int8 i, numeric i, float4 i, float8 i, oid i, regproc i, regprocedure i, regclass i, regtype i, regrole i
int2: regnamespace i
int4: int2 a, int8 i, numeric i, float4 i, float8 i, oid i, bool e, char e, regproc i, regprocedure i, regclass i
int4: regtype i, regrole i, regnamespace i
int8: int2 a, int4 a, numeric i, float4 i, float8 i, oid i, regproc i, regprocedure i, regclass i, regtype i, regrole i
int8: regnamespace i
numeric: int2 a, int4 a, int8 a, float4 i, float8 i
float4: int2 a, int4 a, int8 a, numeric a, float8 i
float8: int2 a, int4 a, int8 a, numeric a, float4 a
bool: int4 e, text a, varchar a, bpchar a
oid: int4 a, int8 a, regproc i, regprocedure i, regclass i, regtype i, regrole i, regnamespace i
regproc: oid i, int4 a, int8 a, regprocedure i
regprocedure: oid i, int4 a, int8 a, regproc i
regclass: oid i, int4 a, int8 a
regtype: oid i, int4 a, int8 a
regrole: oid i, int4 a, int8 a
regnamespace: oid i, int4 a, int8 a
text: varchar i, bpchar i, name i, char a, regclass i
varchar: text i, bpchar i, name i, char a, regclass i
bpchar: text i, varchar i, name i, char a
name: text i, varchar a, bpchar a
char: text i, varchar a, bpchar a, int4 e
date: timestamp i, timestamptz i
timestamp: timestamptz i, date a, time a
timestamptz: timestamp a, date a, time a
time: interval i
interval: time a
json: jsonb a
jsonb: json a, bool e, int2 e, int4 e, int8 e, numeric e, float4 e, float8 e
pg_node_tree: text i
"""

_BINARY_TEXT: Final = """
text: varchar
varchar: text
bpchar: text varchar
oid: regproc regprocedure regclass regtype regrole regnamespace
int4: oid regproc regprocedure regclass regtype regrole regnamespace
regproc: oid int4 regprocedure
regprocedure: oid int4 regproc
regclass: oid int4
regtype: oid int4
regrole: oid int4
regnamespace: oid int4
pg_node_tree: text
"""


def _load_casts() -> dict[tuple[int, int], str]:
    casts: dict[tuple[int, int], str] = {}
    for line in _CASTS_TEXT.strip().splitlines():
        source, _, targets = line.partition(": ")
        for target in targets.split(", "):
            name, context = target.split()
            casts[BY_NAME[source].oid, BY_NAME[name].oid] = context
    return casts


CASTS: Final = _load_casts()
_BINARY: Final = {
    (BY_NAME[line.partition(":")[0]].oid, BY_NAME[target].oid)
    for line in _BINARY_TEXT.strip().splitlines()
    for target in line.partition(": ")[2].split()
}
_RANK: Final = {"i": 0, "a": 1, "e": 2}
_STRINGS: Final = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.BPCHAR, Oid.NAME))


def is_binary_coercible(source: int, target: int) -> bool:
    """Return whether a value passes for the other type as it is (resolution treats them as equal)."""
    if source == target or target == ANY or (target == ANYARRAY and is_array(source)):
        return True
    return (source, target) in _BINARY


def can_coerce(source: int, target: int, context: str) -> bool:
    """Return whether a cast exists in a context: `i` implicit, `a` assignment, `e` explicit."""
    if source in (target, Oid.UNKNOWN) or target in POLYMORPHIC:
        return target != ANYARRAY or is_array(source) or source == Oid.UNKNOWN
    declared = CASTS.get((source, target))
    if declared is not None:
        return _RANK[declared] <= _RANK[context]
    if is_array(source) and is_array(target):
        return can_coerce(ELEMENT_OF[source], ELEMENT_OF[target], context)
    # Every type converts to and from text through its input and output functions.
    if target in _STRINGS and category(source) != "P":
        return context in ("a", "e")
    if source in _STRINGS and category(target) != "P":
        return context == "e"
    return False
