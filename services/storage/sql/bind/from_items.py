"""FROM: tables, views, subqueries, functions, VALUES and joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sqlglot import exp

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Table, View
from orbit.kernel.types import SqlType
from services.storage.sql.bind import calls, errors, expressions, query
from services.storage.sql.bind.binder import Binder
from services.storage.sql.bind.coerce import unify
from services.storage.sql.bind.errors import position_of
from services.storage.sql.bind.names import identifier
from services.storage.sql.bind.scope import Scope, ScopeColumn, ScopeItem, hide, relation_columns
from services.storage.sql.bind.signatures import FUNCTIONS
from services.storage.sql.bind.tree import (
    BoolExpr,
    Coalesce,
    Const,
    CteRelation,
    Expression,
    FromItem,
    FunctionRelation,
    Join,
    Query,
    Relation,
    Select,
    SubqueryRelation,
    TableRelation,
    Target,
)
from services.storage.sql.bind.type_catalog import BOOL, INT8
from services.storage.sql.parse.parser import parse

MAX_VIEW_DEPTH: Final = 32
_SIDES: Final = {"LEFT": "left", "RIGHT": "right", "FULL": "full"}


def bind_from(binder: Binder, scope: Scope, node: exp.Select) -> FromItem | None:
    """Bind the FROM clause into the scope, and return its tree."""
    from_ = node.args.get("from_")
    if from_ is None:
        return None
    # A comma binds looser than JOIN: each comma starts a group that ON conditions cannot look out of.
    groups: list[tuple[exp.Expr, list[exp.Expr]]] = [(from_.this, [])]
    for join in node.args.get("joins") or ():
        plain = not any(join.args.get(key) for key in ("kind", "side", "method", "on", "using"))
        if plain:
            groups.append((join.this, []))
        else:
            groups[-1][1].append(join)
    tree: FromItem | None = None
    for first, joins in groups:
        item, names = _bind_group(binder, scope, scope.items, first, joins)
        _refuse_duplicates(scope.items, names)
        scope.items.extend(names)
        tree = item if tree is None else Join("cross", tree, item, None)
    return tree


def _refuse_duplicates(items: Sequence[ScopeItem], new: Sequence[ScopeItem]) -> None:
    known = {(item.schema, item.alias) for item in items if item.alias is not None}
    for item in new:
        if item.alias is None:
            continue
        if any(
            alias == item.alias and (schema == item.schema or None in (schema, item.schema)) for schema, alias in known
        ):
            raise OrbitError(f'table name "{item.alias}" specified more than once', sqlstate="42712")
        known.add((item.schema, item.alias))


def _bind_group(
    binder: Binder, scope: Scope, before: list[ScopeItem], first: exp.Expr, joins: list[exp.Expr]
) -> tuple[FromItem, list[ScopeItem]]:
    tree, names = _bind_item(binder, scope, before, first)
    for join in joins:
        right, right_names = _bind_item(binder, scope, [*before, *names], join.this)
        _refuse_duplicates(names, right_names)
        tree, names = _bind_join(binder, scope, before, (tree, names), (right, right_names), join)
    return tree, names


_Side = tuple[FromItem, list[ScopeItem]]


def _bind_join(
    binder: Binder, scope: Scope, before: list[ScopeItem], left: _Side, right: _Side, node: exp.Expr
) -> _Side:
    binder.refuse_unhandled(node, "this", "kind", "side", "method", "on", "using")
    kind_word = str(node.args.get("kind") or "")
    method = str(node.args.get("method") or "")
    if kind_word not in ("", "INNER", "CROSS", "OUTER") or method not in ("", "NATURAL"):
        raise errors.unsupported(f"{method or kind_word} JOIN", node)
    kind = "cross" if kind_word == "CROSS" else _SIDES.get(str(node.args.get("side") or ""), "inner")
    names: list[str] | None = None
    if method == "NATURAL":
        left_names = [column.name for item in left[1] for column in item.columns if not column.merged]
        right_names = {column.name for item in right[1] for column in item.columns if not column.merged}
        names = [name for name in left_names if name in right_names]
        if not names:
            return Join(
                "cross" if kind == "inner" else kind, left[0], right[0], None if kind == "inner" else Const(BOOL, True)
            ), [*left[1], *right[1]]
    elif node.args.get("using"):
        names = [identifier(item if isinstance(item, exp.Identifier) else item.this) for item in node.args["using"]]
    if names is not None:
        return _join_using(binder, kind, left, right, names, node)
    on = node.args.get("on")
    both = [*left[1], *right[1]]
    if on is None:
        if kind != "cross":
            raise OrbitError("syntax error at end of input", sqlstate="42601")
        return Join("cross", left[0], right[0], None), both
    level = Scope(parent=scope.parent, items=both, ctes=scope.ctes, clause="JOIN/ON")
    condition = expressions.bind_boolean(binder, level, on, "JOIN/ON")
    return Join(kind, left[0], right[0], condition), both


def _unmerged(items: list[ScopeItem], name: str, side: str) -> ScopeColumn:
    found = [column for item in items for column in item.columns if column.name == name and not column.merged]
    if not found:
        raise OrbitError(f'column "{name}" specified in USING clause does not exist in {side} table', sqlstate="42703")
    if len(found) > 1:
        raise OrbitError(f'common column name "{name}" appears more than once in {side} table', sqlstate="42702")
    return found[0]


def _join_using(binder: Binder, kind: str, left: _Side, right: _Side, names: list[str], node: exp.Expr) -> _Side:
    conditions: list[Expression] = []
    merged: list[ScopeColumn] = []
    for name in names:
        a, b = _unmerged(left[1], name, "left"), _unmerged(right[1], name, "right")
        conditions.append(binder.operator("=", (a.expression, b.expression), position_of(node)))
        target, (first, second) = unify(binder.parameters, [a.expression, b.expression], "JOIN/USING", [None, None])
        if kind == "full":
            merged.append(ScopeColumn(name, Coalesce(target, (first, second))))
        elif kind == "right":
            merged.append(replace(b, expression=second) if second is b.expression else ScopeColumn(name, second))
        else:
            merged.append(replace(a, expression=first) if first is a.expression else ScopeColumn(name, first))
    condition = conditions[0] if len(conditions) == 1 else BoolExpr(BOOL, "and", tuple(conditions))
    hidden = frozenset(names)
    items = [ScopeItem(None, None, None, tuple(merged)), *hide(left[1], hidden), *hide(right[1], hidden)]
    return Join("inner" if kind == "cross" else kind, left[0], right[0], condition), items


def _bind_item(binder: Binder, scope: Scope, before: list[ScopeItem], node: exp.Expr) -> _Side:
    joins = node.args.get("joins") or []
    if isinstance(node, exp.Lateral):
        item = _lateral(binder, scope, before, node)
    elif isinstance(node, exp.Table):
        item = _table(binder, scope, before, node)
    elif isinstance(node, exp.Subquery):
        if isinstance(node.this, exp.Table):
            return _parenthesized_join(binder, scope, before, node)
        item = _subquery(binder, scope, node, None)
    elif isinstance(node, exp.Values):
        item = _subquery(binder, scope, node, None)
    elif isinstance(node, exp.Unnest):
        item = _unnest(binder, scope, before, node)
    elif isinstance(node, exp.Paren):
        return _bind_item(binder, scope, before, node.this)
    else:
        raise errors.unsupported(f"{node.key.upper()} in FROM", node)
    if joins:
        tree, names = _bind_joins_of(binder, scope, before, item, joins)
        return tree, names
    return item


def _bind_joins_of(binder: Binder, scope: Scope, before: list[ScopeItem], item: _Side, joins: list[exp.Expr]) -> _Side:
    tree, names = item
    for join in joins:
        right, right_names = _bind_item(binder, scope, [*before, *names], join.this)
        tree, names = _bind_join(binder, scope, before, (tree, names), (right, right_names), join)
    return tree, names


def _parenthesized_join(binder: Binder, scope: Scope, before: list[ScopeItem], node: exp.Subquery) -> _Side:
    tree, names = _bind_item(binder, scope, before, node.this)
    alias, columns = _alias(node)
    if alias is None:
        return tree, names
    if columns:
        raise errors.unsupported("column aliases on a join", node)
    visible = tuple(column for item in names for column in item.columns if not column.merged)
    return tree, [ScopeItem(alias, None, None, visible)]


def _alias(node: exp.Expr) -> tuple[str | None, list[str]]:
    alias = node.args.get("alias")
    if alias is None or alias.this is None:
        return None, [identifier(item) for item in alias.args.get("columns") or ()] if alias is not None else []
    columns = alias.args.get("columns") or []
    if any(isinstance(item, exp.ColumnDef) for item in columns):
        raise errors.unsupported("column definition list", node)
    return identifier(alias.this), [identifier(item) for item in columns]


def _renamed(names: tuple[str, ...], columns: list[str], alias: str) -> tuple[str, ...]:
    if len(columns) > len(names):
        raise OrbitError(
            f'table "{alias}" has {len(names)} columns available but {len(columns)} columns specified', sqlstate="42P10"
        )
    return (*columns, *names[len(columns) :])


def _item(relation: Relation, schema: str | None = None) -> _Side:
    return relation, [ScopeItem(relation.alias, schema, relation, relation_columns(relation))]


def _table(binder: Binder, scope: Scope, before: list[ScopeItem], node: exp.Table) -> _Side:
    binder.refuse_unhandled(node, "this", "db", "alias", "joins", "ordinality", "only")
    if isinstance(node.this, exp.Anonymous):
        return _function(binder, scope, before, node.this, node, bool(node.args.get("ordinality")))
    if not isinstance(node.this, exp.Identifier):
        raise errors.unsupported("this form of table reference", node)
    name = identifier(node.this)
    schema = identifier(node.args["db"]) if node.args.get("db") is not None else None
    alias, columns = _alias(node)
    if schema is None:
        cte = scope.find_cte(name)
        if cte is not None:
            names = _renamed(cte.names, columns, alias or name)
            return _item(CteRelation(binder.number(), alias or name, names, cte.types, cte.number))
    found = binder.context.relation(schema, name)
    if found is None:
        raise errors.undefined_table(f"{schema}.{name}" if schema else name, position_of(node))
    relation, system = found
    if isinstance(relation, Table):
        names = _renamed(tuple(column.name for column in relation.columns), columns, alias or name)
        types = tuple(column.type for column in relation.columns)
        bound = TableRelation(binder.number(), alias or name, names, types, relation, system)
        binder.tables.append(bound)
        return _item(bound, None if alias is not None else relation.schema)
    if isinstance(relation, View):
        return _view(binder, relation, alias or name, columns, None if alias is not None else relation.schema)
    raise errors.unsupported("SELECT from a sequence", node)


def _view(binder: Binder, view: View, alias: str, columns: list[str], schema: str | None) -> _Side:
    if binder.view_depth >= MAX_VIEW_DEPTH:
        raise OrbitError("infinite recursion detected in rules", sqlstate="42P17")
    tree = parse(view.query)[0].tree
    assert tree is not None
    binder.view_depth += 1
    inner = query.bind_query(binder, None, tree)
    binder.view_depth -= 1
    names = tuple(column.name for column in view.columns) or inner.names
    return _item(
        SubqueryRelation(binder.number(), alias, _renamed(names, columns, alias), inner.types, inner, False), schema
    )


def _subquery(binder: Binder, scope: Scope, node: exp.Expr, lateral: list[ScopeItem] | None) -> _Side:
    alias, columns = _alias(node)
    parent = scope.parent if lateral is None else Scope(parent=scope.parent, items=list(lateral))
    # Names of CTEs are visible inside, the relations beside it are not.
    level = Scope(parent=parent, ctes=scope.ctes)
    inner = query.bind_query(binder, level, node)
    if alias is None:
        what = "VALUES" if isinstance(node, exp.Values) else "subquery"
        raise OrbitError(
            f"{what} in FROM must have an alias",
            sqlstate="42601",
            hint="For example, FROM (VALUES ...) [AS] foo."
            if what == "VALUES"
            else "For example, FROM (SELECT ...) [AS] foo.",
            position=position_of(node),
        )
    names = _renamed(inner.names, columns, alias)
    return _item(SubqueryRelation(binder.number(), alias, names, inner.types, inner, lateral is not None))


def _lateral(binder: Binder, scope: Scope, before: list[ScopeItem], node: exp.Lateral) -> _Side:
    inner = node.this
    if isinstance(inner, exp.Anonymous | exp.Dot):
        return _function(binder, scope, before, inner, node, bool(node.args.get("ordinality")))
    if isinstance(inner, exp.Unnest):
        return _unnest(binder, scope, before, inner, node)
    if not isinstance(inner, exp.Subquery):
        raise errors.unsupported("LATERAL of this form", node)
    wrapped = inner.copy()
    if node.args.get("alias") is not None:
        wrapped.set("alias", node.args["alias"].copy())
    return _subquery(binder, scope, wrapped, before)


def _function(
    binder: Binder,
    scope: Scope,
    before: list[ScopeItem],
    call: exp.Expr,
    node: exp.Expr,
    ordinality: bool,
) -> _Side:
    if isinstance(call, exp.Dot):
        call = call.expression
    name = calls.call_name(call)
    level = Scope(parent=scope.parent, items=list(before), ctes=scope.ctes, clause="functions in FROM")
    alias, columns = _alias(node)
    position = position_of(call)
    kinds = {item.kind for item in FUNCTIONS.get(name, ())}
    if "s" not in kinds:
        value = expressions.bind(binder, level, call)
        single = _single_row(binder, name, value)
        if ordinality:
            raise errors.unsupported("WITH ORDINALITY on this function", node)
        names = _renamed((alias or name,), columns, alias or name)
        return _item(SubqueryRelation(binder.number(), alias or name, names, single.types, single, True))
    args = [expressions.bind(binder, level, item) for item in call.expressions]
    return set_function(binder, name, args, alias, columns, ordinality, position)


def _single_row(binder: Binder, name: str, value: Expression) -> Query:
    target = Target(name, binder.settled(value))
    return Select((target,), (), (), None, None, False, None, None, (), None, None, False, False, (), ())


def set_function(
    binder: Binder,
    name: str,
    args: list[Expression],
    alias: str | None,
    columns: list[str],
    ordinality: bool,
    position: int | None,
) -> _Side:
    """Make a relation of a set-returning function with bound arguments."""
    candidate = binder.resolve(name, args, position, "s")
    converted, result = binder.arguments(candidate, args, [position] * len(args))
    binder.note_volatility(candidate.signature)
    names: tuple[str, ...] = (alias or name,)
    types: tuple[SqlType, ...] = (SqlType(result),)
    if ordinality:
        names, types = (*names, "ordinality"), (*types, INT8)
    names = _renamed(names, columns, alias or name)
    return _item(
        FunctionRelation(
            binder.number(), alias or name, names, types, candidate.signature, tuple(converted), ordinality
        )
    )


def _unnest(
    binder: Binder, scope: Scope, before: list[ScopeItem], node: exp.Expr, outer: exp.Expr | None = None
) -> _Side:
    if len(node.expressions) != 1:
        raise errors.unsupported("unnest of several arrays", node)
    level = Scope(parent=scope.parent, items=list(before), ctes=scope.ctes, clause="functions in FROM")
    alias, columns = _alias(outer if outer is not None and outer.args.get("alias") is not None else node)
    value = expressions.bind(binder, level, node.expressions[0])
    ordinality = bool(node.args.get("offset")) or bool(outer is not None and outer.args.get("ordinality"))
    return set_function(binder, "unnest", [value], alias, columns, ordinality, position_of(node))
