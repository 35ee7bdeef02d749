"""The functions, operators, aggregates and window functions that exist, as signatures.

Owns the table and its reading. What a function does is in `evaluate` (Python) and `scan.templates` (DuckDB); a
signature's `key`, such as `round(numeric,int4)` or `+(int4,int4)`, is the name that both use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.storage.sql.bind import signature_text
from services.storage.sql.bind.type_catalog import BY_NAME, BY_OID, is_array


@dataclass(frozen=True, slots=True)
class Signature:
    """One overload. `result` may be polymorphic here; a call's own type is concrete.

    `kind`: f function, o operator, p prefix operator, a aggregate, w window, s set-returning.
    `volatility`: i immutable, s stable, v volatile. `strict`: NULL in, NULL out.
    """

    name: str
    args: tuple[int, ...]
    result: int
    kind: str
    strict: bool = True
    volatility: str = "i"
    variadic: bool = False
    ordered_set: int = 0
    key: str = ""


def _oid(name: str) -> int:
    if name.endswith("[]"):
        return BY_NAME[name[:-2]].array
    return BY_NAME[name].oid


def _oid_name(oid: int) -> str:
    if oid in BY_OID:
        return BY_OID[oid].name
    assert is_array(oid)
    return next(item.name for item in BY_OID.values() if item.array == oid) + "[]"


def signature_key(name: str, args: tuple[int, ...]) -> str:
    return f"{name}({','.join(_oid_name(oid) for oid in args)})"


def _read(text: str, kind: str) -> Iterator[Signature]:
    """Read lines of `name args.. -> result flags`; a name list is separated by `,`.

    Flags: n not strict, s stable, v volatile, V variadic last argument, k<n> ordered set with n direct arguments.
    """
    for line in text.strip().splitlines():
        if not line or line.startswith("--"):
            continue
        head, _, tail = line.partition(" -> ")
        names, *args = head.split(" ")
        result, *flags = tail.split(" ")
        oids = tuple(_oid(arg) for arg in args)
        letters = "".join(flag for flag in flags if not flag.startswith("k"))
        direct = next((int(flag[1:]) for flag in flags if flag.startswith("k")), -1)
        for name in names.split(","):
            yield Signature(
                name,
                oids,
                _oid(result),
                kind,
                strict="n" not in letters,
                volatility="v" if "v" in letters else "s" if "s" in letters else "i",
                variadic="V" in letters,
                ordered_set=direct + 1,
                key=signature_key(name, oids),
            )


def _comparisons() -> Iterator[Signature]:
    for types in signature_text.COMPARED.strip().splitlines():
        left, right = types.split()
        oids = (_oid(left), _oid(right))
        for name in ("=", "<>", "<", "<=", ">", ">="):
            yield Signature(name, oids, BY_NAME["bool"].oid, "o", key=signature_key(name, oids))


def _index(signatures: Iterator[Signature]) -> dict[str, tuple[Signature, ...]]:
    table: dict[str, list[Signature]] = {}
    for signature in signatures:
        table.setdefault(signature.name, []).append(signature)
    return {name: tuple(overloads) for name, overloads in table.items()}


def _operators() -> Iterator[Signature]:
    yield from _comparisons()
    yield from _read(signature_text.OPERATORS, "o")


def _functions() -> Iterator[Signature]:
    yield from _read(signature_text.FUNCTIONS, "f")
    yield from _read(signature_text.CATALOG_FUNCTIONS, "f")
    yield from _read(signature_text.SET_RETURNING, "s")
    yield from _read(signature_text.AGGREGATES, "a")
    yield from _read(signature_text.WINDOW_FUNCTIONS, "w")


OPERATORS: Final = _index(_operators())
PREFIX_OPERATORS: Final = _index(_read(signature_text.PREFIX_OPERATORS, "p"))
FUNCTIONS: Final = _index(_functions())
