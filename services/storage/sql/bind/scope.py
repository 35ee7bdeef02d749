"""What names mean at a point of a query: the relations of FROM, the merged columns of joins, the outer queries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from orbit.kernel.types import SqlType
from services.storage.sql.bind import errors
from services.storage.sql.bind.tree import ColumnRef, Cte, Expression, Relation, TableRelation, WindowCall


@dataclass(frozen=True, slots=True)
class ScopeColumn:
    """A column that a name may mean. `table_oid` and `number` name the stored column that it is, or are 0."""

    name: str
    expression: Expression
    table_oid: int = 0
    number: int = 0
    merged: bool = False
    """Hidden from unqualified names and from `*`, because USING or NATURAL has merged it."""


@dataclass(frozen=True, slots=True)
class ScopeItem:
    """One entry of FROM. An `alias` of None is the merged columns of a join."""

    alias: str | None
    schema: str | None
    relation: Relation | None
    columns: tuple[ScopeColumn, ...]
    lateral_only: bool = False


@dataclass(slots=True)
class Scope:
    """The names visible to one query level. `clause` names where binding is, for messages."""

    parent: Scope | None = None
    items: list[ScopeItem] = field(default_factory=list)
    ctes: dict[str, Cte] = field(default_factory=dict)
    clause: str = "SELECT"
    aggregates: bool = False
    """Whether an aggregate may stand here."""
    windows: bool = False
    inside_aggregate: bool = False
    inside_window: bool = False
    named_windows: dict[str, WindowCall] = field(default_factory=dict)

    def find_cte(self, name: str) -> Cte | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope.parent
        return None

    def column(self, name: str, position: int | None) -> ScopeColumn | None:
        """Return what an unqualified name means here or in an outer query. Raises 42702."""
        scope: Scope | None = self
        while scope is not None:
            found = [
                column for item in scope.items for column in item.columns if column.name == name and not column.merged
            ]
            if len(found) > 1:
                raise errors.ambiguous_column(name, position)
            if found:
                return found[0]
            scope = scope.parent
        return None

    def item(self, schema: str | None, alias: str) -> ScopeItem | None:
        """Return the FROM entry with this name, here or in an outer query."""
        scope: Scope | None = self
        while scope is not None:
            for item in scope.items:
                if item.alias == alias and (schema is None or item.schema == schema):
                    return item
            scope = scope.parent
        return None

    def qualified(self, schema: str | None, alias: str, name: str, position: int | None) -> ScopeColumn:
        """Return what `alias.name` means. Raises 42P01, 42703, 42702."""
        item = self.item(schema, alias)
        if item is None:
            raise errors.missing_from(alias, position)
        found = [column for column in item.columns if column.name == name]
        if not found:
            raise errors.undefined_column(f"{alias}.{name}", position)
        if len(found) > 1:
            raise errors.ambiguous_column(name, position)
        return found[0]

    def visible(self) -> Iterator[ScopeColumn]:
        """Yield what `*` stands for."""
        for item in self.items:
            for column in item.columns:
                if not column.merged:
                    yield column


def relation_columns(relation: Relation) -> tuple[ScopeColumn, ...]:
    """Return a relation's columns as names mean them."""
    columns: list[ScopeColumn] = []
    for at, (name, sql_type) in enumerate(zip(relation.names, relation.types, strict=True)):
        reference = ColumnRef(sql_type, relation.number, at, name)
        if isinstance(relation, TableRelation):
            number = relation.table.columns[at].number
            columns.append(ScopeColumn(name, reference, relation.table.id, number))
        else:
            columns.append(ScopeColumn(name, reference))
    return tuple(columns)


def hide(items: list[ScopeItem], names: frozenset[str]) -> list[ScopeItem]:
    """Return the items with these columns marked as merged by a join."""
    return [
        replace(
            item,
            columns=tuple(replace(column, merged=True) if column.name in names else column for column in item.columns),
        )
        for item in items
    ]


def types_of(columns: tuple[ScopeColumn, ...]) -> tuple[SqlType, ...]:
    return tuple(column.expression.type for column in columns)
