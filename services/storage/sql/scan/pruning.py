"""Which rows of a table a query can need, as simple bounds that segments' min and max can be tested against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orbit.kernel.types import Oid
from services.storage.sql.bind.tree import (
    BoolExpr,
    BoundQuery,
    ColumnRef,
    Const,
    Expression,
    FromItem,
    FunctionCall,
    Join,
    Relabel,
    Select,
    walk,
)
from services.storage.sql.scan.source import ColumnBound

_FLIPPED: Final = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def bounds_of(query: BoundQuery, relation: int, folded: Callable[[Expression], Expression]) -> list[ColumnBound]:
    """Return conditions of WHERE that every row of this relation must meet.

    Only of the SELECT that has the relation in FROM, and only where no outer join keeps rows that fail them.
    """
    for node in walk(query.query):
        if isinstance(node, Select) and _is_plain(node.source, relation):
            found: list[ColumnBound] = []
            if node.where is not None:
                _collect(node.where, relation, folded, found)
            return found
    return []


def _is_plain(source: FromItem | None, relation: int) -> bool:
    if isinstance(source, Join):
        left, right = _is_plain(source.left, relation), _is_plain(source.right, relation)
        if source.kind in ("inner", "cross"):
            return left or right
        return (left and source.kind == "left") or (right and source.kind == "right")
    return source is not None and source.number == relation


def _collect(
    node: Expression, relation: int, folded: Callable[[Expression], Expression], found: list[ColumnBound]
) -> None:
    if isinstance(node, BoolExpr) and node.operator == "and":
        for item in node.args:
            _collect(item, relation, folded, found)
        return
    if not isinstance(node, FunctionCall) or node.signature.name not in _FLIPPED or len(node.args) != 2:
        return
    left, right = (item.arg if isinstance(item, Relabel) else item for item in node.args)
    name = node.signature.name
    if not isinstance(left, ColumnRef):
        left, right, name = right, left, _FLIPPED[name]
    if not isinstance(left, ColumnRef) or left.relation != relation or left.type.oid != right.type.oid:
        return
    if left.type.oid == Oid.BPCHAR:
        # Its padding makes equal values differ.
        return
    value = folded(right)
    if isinstance(value, Const) and value.value is not None:
        found.append(ColumnBound(left.column, name, value.value))
