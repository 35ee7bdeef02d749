"""The catalog's nouns: schemas, tables, columns, indexes, constraints, sequences, views, roles.

Owns their shape and the immutable `Catalog` that holds them; every change makes a new catalog. Knows no SQL.
A change is a list of `Put` and `Drop`, which is what the log carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from orbit.kernel.types import SqlType

FIRST_USER_OID = 16384
"""Objects below are built in, as in PostgreSQL."""

BOOTSTRAP_ROLE_OID = 10
PUBLIC_SCHEMA_OID = 2200
"""The first administrator and the schema public have the OIDs that they have in PostgreSQL."""

PUBLIC_SCHEMA = "public"
REDIS_SCHEMA = "redis"


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column. `number` (attnum, from 1) is never reused within its table.

    `default` is SQL text. `identity` is '' or 'a' (always) or 'd' (by default). `generated` is '' or 's' (stored).
    """

    number: int
    name: str
    type: SqlType
    nullable: bool = True
    default: str | None = None
    identity: str = ""
    generated: str = ""


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """An index over columns (by `number`), in key order."""

    id: int
    name: str
    columns: tuple[int, ...]
    unique: bool = False
    primary: bool = False
    nulls_distinct: bool = True
    predicate: str | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """CHECK (expression): `expression` is SQL text over the table's columns."""

    id: int
    name: str
    expression: str


class ForeignKey(msgspec.Struct, frozen=True, kw_only=True):
    """FOREIGN KEY: actions are PostgreSQL's letters a (no action), r, c, n, d."""

    id: int
    name: str
    columns: tuple[int, ...]
    parent_table: int
    parent_columns: tuple[int, ...]
    on_delete: str = "a"
    on_update: str = "a"
    deferrable: bool = False
    deferred: bool = False


class Table(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="table"):
    """A table. `storage_id` names its rows: TRUNCATE and rewrites give a new one, so old rows go at once."""

    id: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    storage_id: int
    owner: str
    indexes: tuple[Index, ...] = ()
    checks: tuple[Check, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()
    options: dict[str, str] = {}
    comment: str | None = None
    grants: dict[str, tuple[str, ...]] = {}

    @property
    def primary_key(self) -> Index | None:
        return next((index for index in self.indexes if index.primary), None)

    def position(self, number: int) -> int:
        """Return where in a row tuple the column with this number stands."""
        for at, column in enumerate(self.columns):
            if column.number == number:
                return at
        raise KeyError(number)

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


class Sequence(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="sequence"):
    """A sequence. Its value is state, not schema: the log's `SequenceReserved` effects move it."""

    id: int
    schema: str
    name: str
    owner: str
    type: SqlType
    start: int = 1
    increment: int = 1
    minimum: int = 1
    maximum: int = (1 << 63) - 1
    cycle: bool = False
    owned_by: tuple[int, int] | None = None
    grants: dict[str, tuple[str, ...]] = {}


class View(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="view"):
    id: int
    schema: str
    name: str
    owner: str
    columns: tuple[Column, ...]
    query: str
    grants: dict[str, tuple[str, ...]] = {}


class Schema(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="schema"):
    id: int
    name: str
    owner: str


class Role(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="role"):
    """A user or group. `verifier` is PostgreSQL's SCRAM-SHA-256 verifier text; the password is stored nowhere."""

    id: int
    name: str
    verifier: str | None = None
    login: bool = True
    superuser: bool = False
    member_of: tuple[str, ...] = ()


CatalogObject = Table | Sequence | View | Schema | Role


class Put(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Add an object, or replace the one with its id."""

    object: CatalogObject


class Drop(msgspec.Struct, frozen=True, array_like=True, tag=1):
    id: int


CatalogChange = Put | Drop


class Catalog:
    """An immutable set of catalog objects at one schema version.

    Look-ups are by id and by (kind, schema, name); roles and schemas have the schema name ''.
    """

    __slots__ = ("_by_name", "next_id", "objects", "version")

    def __init__(self, objects: Mapping[int, CatalogObject], version: int, next_id: int = FIRST_USER_OID) -> None:
        self.objects: Mapping[int, CatalogObject] = MappingProxyType(dict(objects))
        self.version = version
        self.next_id = next_id
        self._by_name = {_name_key(item): item for item in objects.values()}

    def apply(self, changes: Iterable[CatalogChange]) -> Catalog:
        """Return the catalog after these changes, one version later. Raises KeyError for a Drop of nothing."""
        objects = dict(self.objects)
        next_id = self.next_id
        for change in changes:
            if isinstance(change, Put):
                objects[change.object.id] = change.object
                next_id = max(next_id, _highest_id(change.object) + 1)
            else:
                del objects[change.id]
        return Catalog(objects, self.version + 1, next_id)

    def relation(self, schema: str, name: str) -> Table | View | Sequence | None:
        item = self._by_name.get(("relation", schema, name))
        return item if isinstance(item, (Table, View, Sequence)) else None

    def table(self, schema: str, name: str) -> Table | None:
        item = self.relation(schema, name)
        return item if isinstance(item, Table) else None

    def schema(self, name: str) -> Schema | None:
        item = self._by_name.get(("schema", "", name))
        return item if isinstance(item, Schema) else None

    def role(self, name: str) -> Role | None:
        item = self._by_name.get(("role", "", name))
        return item if isinstance(item, Role) else None

    def tables(self) -> list[Table]:
        return [item for item in self.objects.values() if isinstance(item, Table)]


def _name_key(item: CatalogObject) -> tuple[str, str, str]:
    if isinstance(item, Schema):
        return "schema", "", item.name
    if isinstance(item, Role):
        return "role", "", item.name
    return "relation", item.schema, item.name


def _highest_id(item: CatalogObject) -> int:
    if isinstance(item, Table):
        parts: tuple[Index | Check | ForeignKey, ...] = (*item.indexes, *item.checks, *item.foreign_keys)
        return max(item.id, item.storage_id, *(part.id for part in parts), 0)
    return item.id
