"""The names of result columns, as PostgreSQL chooses them."""

from __future__ import annotations

from sqlglot import exp

from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.type_catalog import ELEMENT_OF, internal_name
from services.storage.sql.bind.type_names import type_of

UNNAMED = "?column?"


def column_name(node: exp.Expr) -> str:
    """Return the name of an output column that has no alias."""
    return _name(node)[0]


def _name(node: exp.Expr) -> tuple[str, int]:
    """Return the name and its strength: 0 none, 1 from a type or a construct, 2 from a name."""
    if isinstance(node, exp.Paren | exp.Collate | exp.Filter | exp.WithinGroup):
        return _name(node.this)
    if isinstance(node, exp.Window):
        return _name(node.this)
    if isinstance(node, exp.Column):
        return identifier(node.this), 2
    if isinstance(node, exp.Bracket):
        return _name(node.this)
    if isinstance(node, exp.Dot):
        return _name(node.expression)
    if isinstance(node, exp.Anonymous):
        return str(node.this).lower(), 2
    if isinstance(node, exp.Cast):
        inner, strength = _name(node.this)
        return (inner, strength) if strength == 2 else (_type_label(node), 1)
    if isinstance(node, exp.Interval):
        return "interval", 1
    if isinstance(node, exp.Case):
        default = node.args.get("default")
        inner, strength = _name(default) if default is not None else (UNNAMED, 0)
        return (inner, strength) if strength == 2 else ("case", 1)
    if isinstance(node, exp.Subquery | exp.Select):
        return _subquery_name(node)
    for node_type, fixed in _FIXED.items():
        if isinstance(node, node_type):
            return fixed, 2
    if isinstance(node, exp.Trim):
        return {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or ""), "btrim"), 2
    return UNNAMED, 0


def _type_label(node: exp.Expr) -> str:
    oid = type_of(node.args["to"]).oid
    return internal_name(ELEMENT_OF.get(oid, oid))


def _subquery_name(node: exp.Expr) -> tuple[str, int]:
    inner = node.this if isinstance(node, exp.Subquery) else node
    if isinstance(inner, exp.Select) and inner.expressions:
        first = inner.expressions[0]
        if isinstance(first, exp.Alias):
            return identifier(first.args["alias"]), 2
        return _name(first)
    return UNNAMED, 0


_FIXED: dict[type[exp.Expr], str] = {
    exp.Exists: "exists",
    exp.Array: "array",
    exp.Extract: "extract",
    exp.Substring: "substring",
    exp.StrPosition: "position",
    exp.Overlay: "overlay",
    exp.AtTimeZone: "timezone",
    exp.CurrentDate: "current_date",
    exp.CurrentTimestamp: "current_timestamp",
    exp.Localtimestamp: "localtimestamp",
    exp.Localtime: "localtime",
    exp.CurrentUser: "current_user",
    exp.SessionUser: "session_user",
    exp.CurrentRole: "current_role",
    exp.CurrentSchema: "current_schema",
    exp.CurrentCatalog: "current_catalog",
}
