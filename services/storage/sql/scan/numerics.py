"""Numeric expressions in generated SQL: DECIMAL arithmetic where DuckDB is exact, text and Python where it is not.

Scales follow PostgreSQL: sums take the larger, products add up, and what depends on the value (quotients) is text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.tree import Const, FunctionCall
from services.storage.sql.bind.type_catalog import NUMERIC
from services.storage.sql.scan.pieces import MAX_PRECISION, Piece, as_decimal

COMPARISONS: Final = frozenset(("=", "<>", "<", "<=", ">", ">="))
_INTEGER_DIGITS: Final = {Oid.INT2: 5, Oid.INT4: 10, Oid.INT8: 19}


def text_form(piece: Piece) -> str:
    """Return a numeric piece as canonical text."""
    if piece.decimal is None:
        return piece.sql
    precision, scale = piece.decimal
    # DuckDB prints .5 for DECIMAL(1,1): there must be a digit before the point.
    wider = f"CAST({piece.sql} AS DECIMAL({precision + 1},{scale}))" if precision == scale else piece.sql
    text = f"CAST({wider} AS VARCHAR)"
    if piece.scale is None:
        return text
    # Rows differ in scale: cut the zeros that the common scale has added.
    drop = f"({scale} - {piece.scale})"
    point = f"CASE WHEN {piece.scale} = 0 AND {scale} > 0 THEN 1 ELSE 0 END"
    return f"left({text}, length({text}) - {drop} - {point})"


def _scale_sql(piece: Piece) -> str:
    assert piece.decimal is not None
    return piece.scale if piece.scale is not None else str(piece.decimal[1])


def _dynamic(left: Piece, right: Piece) -> bool:
    return left.scale is not None or right.scale is not None


def arithmetic(call: FunctionCall, pieces: Sequence[Piece]) -> Piece | None:
    """Return + - * - abs round .. in decimals, or None where the text form must do it."""
    if any(piece.decimal is None for piece in pieces if piece.type.oid == Oid.NUMERIC):
        return None
    name = call.signature.name
    if len(pieces) == 2 and call.signature.kind == "o":
        return _binary(name, pieces[0], pieces[1])
    if len(pieces) == 1:
        return _unary(name, pieces[0])
    if name in ("round", "trunc") and isinstance(call.args[1], Const):
        return _round(name, pieces[0], call.args[1].value)
    return None


def _binary(name: str, left: Piece, right: Piece) -> Piece | None:
    assert left.decimal is not None and right.decimal is not None
    (p1, s1), (p2, s2) = left.decimal, right.decimal
    if name in ("+", "-"):
        scale = max(s1, s2)
        precision = max(p1 - s1, p2 - s2) + scale + 1
        if scale > MAX_PRECISION:
            return None
        dynamic = f"greatest({_scale_sql(left)}, {_scale_sql(right)})" if _dynamic(left, right) else None
        if precision > MAX_PRECISION:
            # DuckDB checks the overflow of 38 digits; the query then runs again in text form.
            a, b = as_decimal(left, MAX_PRECISION, scale), as_decimal(right, MAX_PRECISION, scale)
            return Piece(f"({a} {name} {b})", NUMERIC, (MAX_PRECISION, scale), dynamic)
        return Piece(f"({left.sql} {name} {right.sql})", NUMERIC, (precision, scale), dynamic)
    if name == "*":
        if s1 + s2 > MAX_PRECISION:
            return None
        dynamic = f"({_scale_sql(left)} + {_scale_sql(right)})" if _dynamic(left, right) else None
        return Piece(f"({left.sql} * {right.sql})", NUMERIC, (min(p1 + p2, MAX_PRECISION), s1 + s2), dynamic)
    return None


def _unary(name: str, piece: Piece) -> Piece | None:
    assert piece.decimal is not None
    precision, scale = piece.decimal
    if name == "-":
        return Piece(f"(- {piece.sql})", NUMERIC, piece.decimal, piece.scale)
    if name == "+":
        return piece
    if name in ("abs", "@"):
        return Piece(f"abs({piece.sql})", NUMERIC, piece.decimal, piece.scale)
    if name in ("floor", "ceil", "ceiling", "round", "trunc"):
        if scale == 0:
            return Piece(piece.sql, NUMERIC, piece.decimal)
        if precision < MAX_PRECISION and name != "trunc":
            text = f"round({piece.sql}, 0)" if name == "round" else f"{name}({piece.sql})"
            return Piece(f"CAST({text} AS DECIMAL({precision + 1 - scale},0))", NUMERIC, (precision + 1 - scale, 0))
    return None


def _round(name: str, piece: Piece, digits: int | None) -> Piece | None:
    assert piece.decimal is not None
    precision, scale = piece.decimal
    if name != "round" or digits is None or digits < 0:
        return None
    wanted = precision - scale + digits + (1 if digits < scale else 0)
    if wanted > MAX_PRECISION:
        if digits >= scale:
            return None
        wanted = MAX_PRECISION
    return Piece(f"CAST({piece.sql} AS DECIMAL({wanted},{digits}))", NUMERIC, (wanted, digits))


def comparable(left: Piece, right: Piece) -> bool:
    """Return whether DuckDB compares the two decimals without losing a digit."""
    if left.decimal is None or right.decimal is None:
        return False
    (p1, s1), (p2, s2) = left.decimal, right.decimal
    return max(p1 - s1, p2 - s2) + max(s1, s2) <= MAX_PRECISION


def key(piece: Piece, number: int) -> str:
    """Return what stands for a numeric in comparisons, groups and orders."""
    if piece.decimal is not None:
        return piece.sql
    return f"orbit_numeric_key({number}, {piece.sql})"


def from_integer(piece: Piece, source: SqlType) -> Piece | None:
    digits = _INTEGER_DIGITS.get(Oid(source.oid)) if source.oid in _INTEGER_DIGITS else None
    if digits is None:
        return None
    return Piece(f"CAST({piece.sql} AS DECIMAL({digits},0))", NUMERIC, (digits, 0))


def common_form(pieces: Sequence[Piece], nulls: Sequence[bool]) -> tuple[int, int] | None:
    """Return the decimal type that holds all arms of a CASE or COALESCE, or None when they must be text."""
    real = [piece for piece, is_null in zip(pieces, nulls, strict=True) if not is_null]
    if any(piece.decimal is None for piece in real):
        return None
    forms = [piece.decimal for piece in real if piece.decimal is not None]
    if not forms:
        return 1, 0
    scale = max(form[1] for form in forms)
    precision = max(form[0] - form[1] for form in forms) + scale
    return (precision, scale) if precision <= MAX_PRECISION else None


def same_scale(pieces: Sequence[Piece], nulls: Sequence[bool]) -> bool:
    """Return whether all arms that are not NULL have one static scale."""
    real = [piece for piece, is_null in zip(pieces, nulls, strict=True) if not is_null]
    return (
        all(piece.scale is None for piece in real) and len({piece.decimal[1] for piece in real if piece.decimal}) <= 1
    )


def arm_scale(piece: Piece, is_null: bool) -> str:
    return "0" if is_null else _scale_sql(piece)
