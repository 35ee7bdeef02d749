"""Arrays: tuples of elements, of one dimension, counted from 1."""

from __future__ import annotations

from typing import Any

from services.storage.sql.evaluate.registry import function, keys

Array = tuple[Any, ...]


@function("[](anyarray,int4)")
def _subscript(array: Array, at: int) -> Any:
    return array[at - 1] if 1 <= at <= len(array) else None


@function(*keys("array_length array_upper", "anyarray,int4"))
def _length(array: Array, dimension: int) -> int | None:
    return len(array) if array and dimension == 1 else None


function("array_lower(anyarray,int4)")(lambda array, dimension: 1 if array and dimension == 1 else None)
function("cardinality(anyarray)")(len)


@function("array_position(anyarray,anyelement)")
def _position(array: Array | None, value: Any) -> int | None:
    if array is None:
        return None
    return next((at for at, item in enumerate(array, 1) if item == value), None)


@function("||(anyarray,anyarray)", "array_cat(anyarray,anyarray)")
def _concat(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b


@function("||(anyarray,anyelement)", "array_append(anyarray,anyelement)")
def _append(array: Array | None, value: Any) -> Array:
    return (*(array or ()), value)


@function("||(anyelement,anyarray)", "array_prepend(anyelement,anyarray)")
def _prepend(value: Any, array: Array | None) -> Array:
    return (value, *(array or ()))


@function("array_remove(anyarray,anyelement)")
def _remove(array: Array | None, value: Any) -> Array | None:
    return None if array is None else tuple(item for item in array if item != value)


for _name, _test in (
    ("=", lambda a, b: a == b),
    ("<>", lambda a, b: a != b),
    ("<", lambda a, b: _key(a) < _key(b)),
    ("<=", lambda a, b: _key(a) <= _key(b)),
    (">", lambda a, b: _key(a) > _key(b)),
    (">=", lambda a, b: _key(a) >= _key(b)),
):
    function(f"{_name}(anyarray,anyarray)")(_test)


def _key(array: Array) -> list[tuple[bool, Any]]:
    return [(item is None, item) for item in array]


@function("array_to_string(text[],text)", "array_to_string(text[],text,text)")
def _to_string(array: Array | None, separator: str | None, null: str | None = None) -> str | None:
    if array is None or separator is None:
        return None
    return separator.join(null if item is None else item for item in array if item is not None or null is not None)  # type: ignore[misc]


function("pg_typeof(any,oid)")(lambda value, oid: oid)


def subscripts(array: Array, dimension: int) -> list[int]:
    """Return the rows of generate_subscripts."""
    if dimension != 1:
        return []
    return list(range(1, len(array) + 1))
