"""The binder's errors, in PostgreSQL's words."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.types import SqlType
from services.storage.sql.bind.type_catalog import display_name

_AGGREGATE_PLACES: Final = {
    "JOIN/ON": "JOIN conditions",
    "GROUP BY": "GROUP BY",
}


def position_of(node: exp.Expr | None) -> int | None:
    """Return where the node starts in the text, counted from 1, or None when no token below it is known."""
    best: int | None = None
    pending = [node] if node is not None else []
    while pending:
        current = pending.pop()
        start = current.meta.get("start") if current._meta else None
        if start is not None and (best is None or start < best):
            best = start
        pending.extend(current.iter_expressions())
    return None if best is None else best + 1


def _type(sql_type: SqlType) -> str:
    """Return a type's name without its modifier, as messages show it."""
    return display_name(SqlType(sql_type.oid))


def undefined_table(name: str, position: int | None) -> OrbitError:
    return OrbitError(f'relation "{name}" does not exist', sqlstate="42P01", position=position)


def missing_from(name: str, position: int | None) -> OrbitError:
    return OrbitError(f'missing FROM-clause entry for table "{name}"', sqlstate="42P01", position=position)


def undefined_column(name: str, position: int | None) -> OrbitError:
    shown = name if "." in name else f'"{name}"'
    return OrbitError(f"column {shown} does not exist", sqlstate="42703", position=position)


def ambiguous_column(name: str, position: int | None) -> OrbitError:
    return OrbitError(f'column reference "{name}" is ambiguous', sqlstate="42702", position=position)


def undefined_function(name: str, types: list[SqlType], position: int | None) -> OrbitError:
    shown = ", ".join(map(_type, types))
    return OrbitError(
        f"function {name}({shown}) does not exist",
        sqlstate="42883",
        position=position,
        hint="No function matches the given name and argument types. You might need to add explicit type casts.",
    )


def ambiguous_function(name: str, types: list[SqlType], position: int | None) -> OrbitError:
    shown = ", ".join(map(_type, types))
    return OrbitError(
        f"function {name}({shown}) is not unique",
        sqlstate="42725",
        position=position,
        hint="Could not choose a best candidate function. You might need to add explicit type casts.",
    )


def undefined_operator(name: str, types: list[SqlType], position: int | None) -> OrbitError:
    shown = f" {name} ".join(map(_type, types))
    if len(types) == 1:
        shown = f"{name} {shown}"
    return OrbitError(
        f"operator does not exist: {shown}",
        sqlstate="42883",
        position=position,
        hint="No operator matches the given name and argument types. You might need to add explicit type casts."
        if len(types) > 1
        else "No operator matches the given name and argument type. You might need to add an explicit type cast.",
    )


def ambiguous_operator(name: str, types: list[SqlType], position: int | None) -> OrbitError:
    shown = f" {name} ".join(map(_type, types))
    return OrbitError(
        f"operator is not unique: {shown if len(types) > 1 else f'{name} {shown}'}",
        sqlstate="42725",
        position=position,
        hint="Could not choose a best candidate operator. You might need to add explicit type casts.",
    )


def cannot_cast(source: SqlType, target: SqlType, position: int | None) -> OrbitError:
    return OrbitError(f"cannot cast type {_type(source)} to {_type(target)}", sqlstate="42846", position=position)


def cannot_match(construct: str, left: SqlType, right: SqlType, position: int | None) -> OrbitError:
    return OrbitError(
        f"{construct} types {_type(left)} and {_type(right)} cannot be matched",
        sqlstate="42804",
        position=position,
    )


def must_be_boolean(construct: str, actual: SqlType, position: int | None) -> OrbitError:
    return OrbitError(
        f"argument of {construct} must be type boolean, not type {_type(actual)}",
        sqlstate="42804",
        position=position,
    )


def grouping_error(message: str, position: int | None) -> OrbitError:
    return OrbitError(message, sqlstate="42803", position=position)


def not_allowed(what: str, clause: str, sqlstate: str, position: int | None) -> OrbitError:
    """`aggregate functions are not allowed in WHERE` and its kin."""
    return OrbitError(
        f"{what} are not allowed in {_AGGREGATE_PLACES.get(clause, clause)}", sqlstate=sqlstate, position=position
    )


def unsupported(feature: str, node: exp.Expr | None = None) -> NotSupported:
    """Return the refusal of a feature, by its name."""
    return NotSupported(f"{feature} is not supported", position=position_of(node))
