"""Subqueries as expressions in generated SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orbit.kernel.errors import NotSupported
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.tree import Cast, ColumnRef, Expression, FunctionCall, Relabel, SubqueryExpr
from services.storage.sql.bind.type_catalog import BOOL, is_binary_coercible
from services.storage.sql.scan import numerics, queries
from services.storage.sql.scan.pieces import Piece

if TYPE_CHECKING:
    from services.storage.sql.scan.generator import Generator

_FRESH = 1_000_000
"""Relation numbers from here on are the generator's own; binding starts at 1."""


def emit_subquery(generator: Generator, node: SubqueryExpr) -> Piece:
    if node.kind == "exists":
        text, _ = queries.emit_query(generator, node.query)
        return Piece(f"EXISTS ({text})", BOOL)
    if node.kind == "scalar":
        text, pieces = queries.emit_query(generator, node.query)
        return Piece(f"({text})", node.type, pieces[0].decimal)
    if node.kind == "array":
        text, _ = queries.emit_query(generator, node.query, plain=True)
        return Piece(f"ARRAY({text})", node.type)
    return _quantified(generator, node)


def _quantified(generator: Generator, node: SubqueryExpr) -> Piece:
    """`test operator ANY | ALL (query)`, over the query as a relation of its own."""
    text, pieces = queries.emit_query(generator, node.query)
    number = _FRESH + len(generator.columns)
    references: list[Expression] = []
    for at, (piece, have, wanted) in enumerate(zip(pieces, node.query.types, node.casts, strict=True)):
        generator.columns[number, at] = Piece(f"s{number}.c{at}", have, piece.decimal)
        reference: Expression = ColumnRef(have, number, at, "")
        if have.oid != wanted.oid:
            wanted = SqlType(wanted.oid)
            relabels = is_binary_coercible(have.oid, wanted.oid) and have.oid != Oid.BPCHAR
            reference = Relabel(wanted, reference) if relabels else Cast(wanted, reference, False)
        references.append(reference)
    source = f"({text}) s{number}"
    if len(node.tests) == 1:
        return _single(generator, node, references[0], source)
    if node.kind == "all":
        raise NotSupported("comparison of a row with ALL of a subquery is not supported")
    tests = [
        generator.sql(FunctionCall(BOOL, signature, (test, reference)))
        for signature, test, reference in zip(node.signatures, node.tests, references, strict=True)
    ]
    joiner = " AND " if node.signatures[0].name == "=" else " OR "
    condition = "(" + joiner.join(tests) + ")"
    return Piece(
        f"CASE WHEN EXISTS (SELECT 1 FROM {source} WHERE {condition}) THEN true "
        f"WHEN EXISTS (SELECT 1 FROM {source} WHERE ({condition}) IS NULL) THEN NULL ELSE false END",
        BOOL,
    )


_COMPARISONS = frozenset(("=", "<>", "<", "<=", ">", ">="))


def _single(generator: Generator, node: SubqueryExpr, reference: Expression, source: str) -> Piece:
    signature = node.signatures[0]
    if signature.name not in _COMPARISONS or signature.args[0] != signature.args[1]:
        return _by_exists(generator, node, reference, source)
    if signature.args[0] == Oid.NUMERIC:
        left, right = generator.emit(node.tests[0]), generator.emit(reference)
        if numerics.comparable(left, right):
            a, b = left.sql, right.sql
        else:
            number = generator.running.number
            a = numerics.key(Piece(numerics.text_form(left), left.type), number)
            b = numerics.key(Piece(numerics.text_form(right), right.type), number)
    elif signature.args[0] == Oid.BPCHAR:
        a, b = (f"rtrim({generator.sql(item)}, ' ')" for item in (node.tests[0], reference))
    else:
        a, b = generator.sql(node.tests[0]), generator.sql(reference)
    inner = f"(SELECT {b} FROM {source})"
    if signature.name == "=" and node.kind == "any":
        return Piece(f"({a} IN {inner})", BOOL)
    if signature.name == "<>" and node.kind == "all":
        return Piece(f"({a} NOT IN {inner})", BOOL)
    return Piece(f"({a} {signature.name} {node.kind.upper()} {inner})", BOOL)


def _by_exists(generator: Generator, node: SubqueryExpr, reference: Expression, source: str) -> Piece:
    test = generator.sql(FunctionCall(BOOL, node.signatures[0], (node.tests[0], reference)))
    decides, other = ("true", "false") if node.kind == "any" else ("false", "true")
    found = test if node.kind == "any" else f"(NOT {test})"
    return Piece(
        f"CASE WHEN EXISTS (SELECT 1 FROM {source} WHERE {found}) THEN {decides} "
        f"WHEN EXISTS (SELECT 1 FROM {source} WHERE ({test}) IS NULL) THEN NULL ELSE {other} END",
        BOOL,
    )
