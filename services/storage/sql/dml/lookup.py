"""Finding rows by a unique key: which WHERE clauses name one, and what is left of them.

Owns the recognition of `key = value AND ..`. A value may be anything without columns of the relation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orbit.kernel.schema import Table
from orbit.kernel.types import Oid
from services.storage.sql.bind.tree import (
    AggregateCall,
    BoolExpr,
    ColumnRef,
    Expression,
    FunctionCall,
    Relabel,
    SubqueryExpr,
    WindowCall,
    walk,
)

_INTEGERS = frozenset((Oid.INT2, Oid.INT4, Oid.INT8, Oid.OID))
_TEXTS = frozenset((Oid.TEXT, Oid.VARCHAR, Oid.NAME))
_EXACT = frozenset((Oid.BOOL, Oid.BYTEA, Oid.DATE, Oid.TIME, Oid.TIMESTAMP, Oid.TIMESTAMPTZ, Oid.UUID, Oid.NUMERIC))


@dataclass(frozen=True, slots=True)
class KeyLookup:
    """`values` are in the index's column order; `rest` is what the key does not say, None for nothing."""

    index_id: int
    values: tuple[Expression, ...]
    rest: tuple[Expression, ...]


def conjuncts(where: Expression | None) -> Iterator[Expression]:
    """Yield the parts of an AND chain."""
    if isinstance(where, BoolExpr) and where.operator.upper() == "AND":
        for part in where.args:
            yield from conjuncts(part)
    elif where is not None:
        yield where


def key_lookup(where: Expression | None, relation: int, table: Table) -> KeyLookup | None:
    """Return how a unique index finds the rows of a WHERE clause, or None when none does."""
    parts = list(conjuncts(where))
    named: dict[int, tuple[Expression, Expression]] = {}
    for part in parts:
        pair = _equality(part, relation, table)
        if pair is not None and pair[0] not in named:
            named[pair[0]] = (pair[1], part)
    if not named:
        return None
    for index in sorted(table.indexes, key=lambda item: not item.primary):
        positions = [table.position(number) for number in index.columns]
        if index.unique and index.predicate is None and all(position in named for position in positions):
            used = [named[position][1] for position in positions]
            rest = tuple(part for part in parts if part not in used)
            return KeyLookup(index.id, tuple(named[position][0] for position in positions), rest)
    return None


def _equality(part: Expression, relation: int, table: Table) -> tuple[int, Expression] | None:
    """Return (column position, value) of `column = value`, when equal values have equal index keys."""
    if not isinstance(part, FunctionCall) or part.signature.name != "=" or len(part.args) != 2:
        return None
    for one, other in (part.args, part.args[::-1]):
        column = one.arg if isinstance(one, Relabel) else one
        if not isinstance(column, ColumnRef) or column.relation != relation or not is_constant(other):
            continue
        stored, compared = table.columns[column.column].type.oid, other.type.oid
        same = any(stored in family and compared in family for family in (_INTEGERS, _TEXTS))
        if same or (stored == compared and stored in _EXACT):
            return column.column, other
    return None


def is_constant(expression: Expression) -> bool:
    """Return whether an expression needs no row and no query: it is evaluated once, before the look-up."""
    return not any(isinstance(node, (ColumnRef, SubqueryExpr, AggregateCall, WindowCall)) for node in walk(expression))
