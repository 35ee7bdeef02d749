"""CREATE SEQUENCE, DROP SEQUENCE, and the sequences behind serial and identity columns."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlglot import exp

from orbit.kernel.errors import NotSupported, OrbitError
from orbit.kernel.schema import Catalog, CatalogChange, Column, Drop, Put, Sequence, Table
from orbit.kernel.types import Oid, SqlType
from services.storage.sql.ddl.define import define
from services.storage.sql.ddl.names import creation_schema, target
from services.storage.sql.plan import ControlPlan
from services.storage.txn.transaction import Transaction

if TYPE_CHECKING:
    from services.storage.session import StorageSession

_MAXIMUM = {Oid.INT2: (1 << 15) - 1, Oid.INT4: (1 << 31) - 1, Oid.INT8: (1 << 63) - 1}


def column_sequence(schema: str, table: str, table_id: int, column: Column, owner: str, new_id: int) -> Sequence:
    """Return the sequence of a serial or identity column."""
    return Sequence(
        id=new_id,
        schema=schema,
        name=f"{table}_{column.name}_seq"[:63],
        owner=owner,
        type=SqlType(column.type.oid),
        maximum=_MAXIMUM[Oid(column.type.oid)],
        owned_by=(table_id, column.number),
    )


def default_of(sequence: Sequence) -> str:
    """Return the DEFAULT of the column that a sequence feeds."""
    name = f"{_shown(sequence.schema)}.{_shown(sequence.name)}".replace("'", "''")
    return f"nextval('{name}'::regclass)"


def _shown(name: str) -> str:
    """Return an identifier, quoted when it must be."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        return name
    return '"' + name.replace('"', '""') + '"'


def owned_sequences(catalog: Catalog, table: Table) -> list[Sequence]:
    return [
        item
        for item in catalog.objects.values()
        if isinstance(item, Sequence) and item.owned_by is not None and item.owned_by[0] == table.id
    ]


def create_sequence(tree: exp.Expr) -> ControlPlan:
    """Return the plan of CREATE SEQUENCE."""
    named, name = target(tree.this)
    options = {"start": None, "increment": 1, "minvalue": 1, "maxvalue": _MAXIMUM[Oid.INT8]}
    for prop in (tree.args.get("properties") or exp.Properties()).expressions:
        if not isinstance(prop, exp.SequenceProperties):
            raise NotSupported(f"CREATE SEQUENCE with {prop.sql(dialect='postgres')} is not supported")
        for key, value in prop.args.items():
            if key in options and value is not None:
                options[key] = _integer(value)
            elif value not in (None, False, []) and key not in ("cache", "options"):
                raise NotSupported(f"CREATE SEQUENCE .. {key.upper()} is not supported")
    if not isinstance(options["increment"], int) or options["increment"] < 1:
        raise NotSupported("descending sequences are not supported")

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        schema = creation_schema(session, catalog, named)
        if catalog.relation(schema, name) is not None:
            if tree.args.get("exists"):
                return []
            raise OrbitError(f'relation "{name}" already exists', sqlstate="42P07")
        minimum = options["minvalue"] or 1
        return [
            Put(
                Sequence(
                    id=catalog.next_id,
                    schema=schema,
                    name=name,
                    owner=session.user,
                    type=SqlType(Oid.INT8),
                    start=minimum if options["start"] is None else options["start"],
                    increment=options["increment"] or 1,
                    minimum=minimum,
                    maximum=options["maxvalue"] or _MAXIMUM[Oid.INT8],
                )
            )
        ]

    return define("CREATE SEQUENCE", action)


def drop_sequence(tree: exp.Expr) -> ControlPlan:
    """Return the plan of DROP SEQUENCE."""
    targets = [target(item) for item in tree.args.get("tables") or [tree.this]]

    def action(session: StorageSession, transaction: Transaction, catalog: Catalog) -> list[CatalogChange] | None:
        changes: list[CatalogChange] = []
        for named, name in targets:
            places = (named,) if named is not None else session.settings.search_path
            found = next((item for place in places if (item := catalog.relation(place, name)) is not None), None)
            if not isinstance(found, Sequence):
                if found is None and tree.args.get("exists"):
                    session.notice(f'sequence "{name}" does not exist, skipping', "00000")
                    continue
                raise OrbitError(f'sequence "{name}" does not exist', sqlstate="42P01")
            if found.owned_by is not None:
                raise OrbitError(
                    f"cannot drop sequence {name} because other objects depend on it",
                    sqlstate="2BP01",
                    hint="Use DROP ... CASCADE to drop the dependent objects too.",
                )
            changes.append(Drop(found.id))
        return changes

    return define("DROP SEQUENCE", action)


def _integer(value: exp.Expr) -> int:
    text = value.sql(dialect="postgres")
    try:
        return int(text)
    except ValueError as error:
        raise OrbitError(f"invalid sequence option {text}", sqlstate="22023") from error
