"""The objects that defining statements name, and who may define them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Catalog, Table
from services.storage.sql.bind.names import identifier

if TYPE_CHECKING:
    from services.storage.session import StorageSession


def target(tree: exp.Expr) -> tuple[str | None, str]:
    assert isinstance(tree, exp.Table)
    if tree.args.get("catalog") is not None:
        raise NotSupported("names with a database are not supported")
    schema = tree.args.get("db")
    return None if schema is None else identifier(schema), identifier(tree.this)


def creation_schema(session: StorageSession, catalog: Catalog, named: str | None) -> str:
    """Return the schema that a new object goes to."""
    if named is not None:
        if catalog.schema(named) is None:
            raise OrbitError(f'schema "{named}" does not exist', sqlstate="3F000")
        if named in ("pg_catalog", "information_schema"):
            raise OrbitError(f'permission denied to create in schema "{named}"', sqlstate="42501")
        return named
    for name in session.settings.search_path:
        if catalog.schema(name) is not None:
            return name
    raise OrbitError("no schema has been selected to create in", sqlstate="3F000")


def find_table(session: StorageSession, catalog: Catalog, named: str | None, name: str) -> Table | None:
    """Return a table by its name along the search path."""
    for schema in (named,) if named is not None else session.settings.search_path:
        table = catalog.table(schema, name)
        if table is not None:
            return table
    return None


def need_table(session: StorageSession, catalog: Catalog, named: str | None, name: str) -> Table:
    table = find_table(session, catalog, named, name)
    if table is None:
        shown = f"{named}.{name}" if named else name
        raise OrbitError(f'relation "{shown}" does not exist', sqlstate="42P01")
    return table


def need_owner(session: StorageSession, catalog: Catalog, table: Table) -> None:
    role = catalog.role(session.user)
    if role is None or not (role.superuser or table.owner in (role.name, *role.member_of)):
        raise OrbitError(f"must be owner of table {table.name}", sqlstate="42501")


def need_superuser(session: StorageSession, catalog: Catalog, action: str) -> None:
    role = catalog.role(session.user)
    if role is None or not role.superuser:
        raise OrbitError(f"permission denied to {action}", sqlstate="42501")
