"""SQL text of indexes, constraints and views, as pg_get_indexdef and its kin print it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orbit.kernel.schema import Catalog, Check, ForeignKey, Index, Table
from services.storage.sql.evaluate.strings import quote_ident


@dataclass(frozen=True, slots=True)
class Constraint:
    """A row of pg_constraint: its letter is p, u, c or f."""

    oid: int
    name: str
    kind: str
    table: Table
    index: Index | None = None
    check: Check | None = None
    foreign_key: ForeignKey | None = None


def constraints(table: Table) -> Iterator[Constraint]:
    for index in table.indexes:
        if index.unique and index.predicate is None:
            yield Constraint(index.id, index.name, "p" if index.primary else "u", table, index=index)
    for check in table.checks:
        yield Constraint(check.id, check.name, "c", table, check=check)
    for key in table.foreign_keys:
        yield Constraint(key.id, key.name, "f", table, foreign_key=key)


def _columns(table: Table, numbers: tuple[int, ...]) -> str:
    return ", ".join(quote_ident(table.columns[table.position(number)].name) for number in numbers)


def index_text(table: Table, index: Index) -> str:
    unique = "UNIQUE " if index.unique else ""
    text = (
        f"CREATE {unique}INDEX {quote_ident(index.name)} ON {quote_ident(table.schema)}.{quote_ident(table.name)} "
        f"USING btree ({_columns(table, index.columns)})"
    )
    if index.unique and not index.nulls_distinct:
        text += " NULLS NOT DISTINCT"
    return text if index.predicate is None else f"{text} WHERE ({index.predicate})"


def index_column(table: Table, index: Index, position: int) -> str:
    """Return the name of the index's n-th column, counted from 1; empty past the end."""
    if not 1 <= position <= len(index.columns):
        return ""
    return quote_ident(table.columns[table.position(index.columns[position - 1])].name)


_ACTIONS = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def constraint_text(catalog: Catalog, item: Constraint, search_path: tuple[str, ...]) -> str:
    if item.index is not None:
        word = "PRIMARY KEY" if item.kind == "p" else "UNIQUE"
        nulls = "" if item.index.nulls_distinct else " NULLS NOT DISTINCT"
        return f"{word}{nulls} ({_columns(item.table, item.index.columns)})"
    if item.check is not None:
        return f"CHECK ({item.check.expression})"
    assert item.foreign_key is not None
    key = item.foreign_key
    parent = catalog.objects[key.parent_table]
    assert isinstance(parent, Table)
    name = quote_ident(parent.name)
    if parent.schema not in search_path:
        name = f"{quote_ident(parent.schema)}.{name}"
    text = (
        f"FOREIGN KEY ({_columns(item.table, key.columns)}) REFERENCES {name}({_columns(parent, key.parent_columns)})"
    )
    if key.on_update in _ACTIONS:
        text += f" ON UPDATE {_ACTIONS[key.on_update]}"
    if key.on_delete in _ACTIONS:
        text += f" ON DELETE {_ACTIONS[key.on_delete]}"
    if key.deferrable:
        text += " DEFERRABLE INITIALLY DEFERRED" if key.deferred else " DEFERRABLE"
    return text


def find_index(catalog: Catalog, oid: int) -> tuple[Table, Index] | None:
    for table in catalog.tables():
        for index in table.indexes:
            if index.id == oid:
                return table, index
    return None


def find_constraint(catalog: Catalog, oid: int) -> Constraint | None:
    for table in catalog.tables():
        for item in constraints(table):
            if item.oid == oid:
                return item
    return None
