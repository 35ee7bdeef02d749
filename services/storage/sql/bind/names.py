"""Identifiers: folding to lower case, and PostgreSQL's length limit."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

MAX_IDENTIFIER_BYTES: Final = 63


def identifier(node: exp.Expr | None) -> str:
    """Return an identifier's name: folded to lower case unless quoted, cut to 63 bytes."""
    assert node is not None
    name = str(node.this) if isinstance(node, exp.Identifier) and node.args.get("quoted") else node.name.lower()
    if len(name) <= MAX_IDENTIFIER_BYTES // 4:
        return name
    return name.encode()[:MAX_IDENTIFIER_BYTES].decode(errors="ignore")
