"""Syntax errors as PostgreSQL words them, with the position that its clients underline."""

from __future__ import annotations

from orbit.kernel.errors import NotSupported, OrbitError, SyntaxProblem


def syntax_error(sql: str, start: int, end: int) -> SyntaxProblem:
    """Return the error for the token `sql[start:end + 1]`, or for the end of the text."""
    near = sql[start : end + 1]
    if not near:
        return SyntaxProblem("syntax error at end of input", position=len(sql) + 1)
    return SyntaxProblem(f'syntax error at or near "{near}"', position=start + 1)


def unsupported(feature: str, position: int | None = None) -> NotSupported:
    """Return the refusal of a feature, by its name."""
    return NotSupported(f"{feature} is not supported", position=position)


def too_complex(message: str) -> OrbitError:
    """Return the refusal of a statement that is nested too deep."""
    return OrbitError(message, sqlstate="54001", hint="Break the statement into smaller ones.")
