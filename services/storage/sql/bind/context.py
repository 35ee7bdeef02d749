"""What a statement is bound against, and what binding finds out about its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orbit.kernel.errors import OrbitError
from orbit.kernel.schema import Catalog, Table, View
from orbit.kernel.schema import Sequence as SchemaSequence
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.bind.type_catalog import display_name

SystemTables = Callable[[str, str], Table | None]
"""Gives a table of the system catalog by schema and name."""


def no_system_tables(schema: str, name: str) -> Table | None:
    return None


@dataclass(frozen=True, slots=True)
class BindContext:
    """The catalog and the session settings that names depend on. pg_catalog is always searched first."""

    catalog: Catalog
    search_path: tuple[str, ...] = ("public",)
    system_tables: SystemTables = no_system_tables

    def relation(self, schema: str | None, name: str) -> tuple[Table | View | SchemaSequence, bool] | None:
        """Return the relation of a name and whether it is one of the system catalog's; None for none."""
        if schema is not None:
            table = self.system_tables(schema, name)
            if table is not None:
                return table, True
            found = self.catalog.relation(schema, name)
            return None if found is None else (found, False)
        path = self.search_path if "pg_catalog" in self.search_path else ("pg_catalog", *self.search_path)
        for place in path:
            table = self.system_tables(place, name)
            if table is not None:
                return table, True
            found = self.catalog.relation(place, name)
            if found is not None:
                return found, False
        return None


class ParameterTypes:
    """The types of `$1` .. as binding settles them: given by the client, or by the first use that tells."""

    __slots__ = ("types",)

    def __init__(self, declared: Sequence[int]) -> None:
        self.types: list[SqlType] = [SqlType(oid or Oid.UNKNOWN) for oid in declared]

    def type_of(self, index: int) -> SqlType:
        while len(self.types) <= index:
            self.types.append(SqlType(Oid.UNKNOWN))
        return self.types[index]

    def settle(self, index: int, wanted: SqlType) -> SqlType:
        """Give an open parameter its type, and return the type that it now has."""
        known = self.type_of(index)
        if known.oid == Oid.UNKNOWN:
            self.types[index] = SqlType(wanted.oid)
        elif known.oid != wanted.oid:
            raise OrbitError(
                f"inconsistent types deduced for parameter ${index + 1}",
                sqlstate="42P08",
                detail=f"{display_name(known)} versus {display_name(SqlType(wanted.oid))}",
            )
        return self.types[index]

    def final(self) -> tuple[SqlType, ...]:
        """Return the types; what nothing settled is text."""
        return tuple(SqlType(Oid.TEXT) if item.oid == Oid.UNKNOWN else item for item in self.types)
